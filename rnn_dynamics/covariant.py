"""The directions that belong to the Lyapunov exponents: covariant Lyapunov vectors, and the angles between them.

Row 5 of the layer table: above `jacobians`; beside `lyapunov`, which gives the exponents alone at a fraction of the
memory.
"""

from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnn_dynamics import _check, jacobians
from rnn_dynamics._compile import jit

__all__ = ["CovariantVectors", "vectors"]


class CovariantVectors(equinox.Module):
    """Covariant Lyapunov vectors along S states of an orbit, those of the largest exponent first."""

    xs: Float[Array, "S n"]
    """The states."""
    vectors: Float[Array, "S n k"]
    """At each state k unit vectors, one a column. Step by step the Jacobian maps each onto a multiple of the next."""
    growth: Float[Array, "R k"]
    """ln of that multiple for each of the S - 1 steps; its mean is the finite-time exponent, in nats per step."""
    finite: Bool[Array, ""]
    """Whether the orbit, transients included, and all of these stayed in the floats."""

    @property
    def status(self) -> str | np.ndarray:
        """ "converged", or "diverged" if the orbit left the floats: do not use the vectors. After `vmap` an array."""
        return _check.word("status", self.finite, np.asarray, "converged", "diverged", instead="finite")

    def angles(self) -> Float[Array, "S k k"]:
        """The angle between each two of them, in radians between 0 and π/2; near 0 where they almost touch.

        Hyperbolic dynamics keeps stable and unstable directions apart by a least angle.
        """

        def to(other):
            # Kahan (2006), How futile are mindless assessments of roundoff: the arc cosine loses angles below √ε.
            side = jnp.where(jnp.einsum("sni,sn->si", self.vectors, other) < 0, -1, 1)[:, None]
            apart, together = (self.vectors + sign * side * other[..., None] for sign in (-1, 1))
            return 2 * jnp.arctan2(jnp.linalg.norm(apart, axis=1), jnp.linalg.norm(together, axis=1))

        return jax.lax.map(to, jnp.moveaxis(self.vectors, 2, 0)).swapaxes(0, 1)

    def __repr__(self) -> str:
        if self.vectors.ndim > 3 or not _check.known(self.finite):
            return f"CovariantVectors(vectors of shape {self.vectors.shape})"
        directions = f"{self.vectors.shape[-1]} of {self.xs.shape[-1]} directions"
        return f"CovariantVectors({directions} at {len(self.xs)} states, {self.status})"


def vectors(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree = None,
    *,
    num_steps: int | None = None,
    num_exponents: int | None = None,
    num_transient: int,
) -> CovariantVectors:
    r"""Covariant Lyapunov vectors along one orbit of a map, autonomous or driven.

    $$ J_t v_i(t) = e^{\gamma_i(t)} v_i(t+1), \qquad \langle \gamma_i \rangle = \lambda_i $$

    Forward in time QR keeps J_t Q_t = Q_{t+1} R_t; backward in time C_t ∝ R_t^{-1} C_{t+1}, upper triangular, settles
    on what expands backward, and v = Q C. At a fixed point the vectors are the eigenvectors of the Jacobian.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        num_steps: All steps, both transients included; as in `simulate.trajectory`.
        num_exponents: k, how many directions; all n by default.
        num_transient: Steps at the beginning, in which Q settles, and again at the end, in which C does; neither are
            returned. The directions approach their place like e^{-(λ_i - λ_{i+1}) t}: equal exponents never do, and
            only the space they span is meaningful.

    Returns:
        The vectors at the `num_steps - 2 num_transient + 1` states between the transients. Memory: num_steps matrices
        of shape (n, k) and (k, k).

    Raises:
        ValueError: num_exponents outside 1 ... n, transients that leave no step, states of less than float32; otherwise
            as `simulate.trajectory`.

    Example:
        >>> shear = jnp.array([[2.0, 1.0], [0.0, 0.5]])  # eigenvectors (1, 0) and (1, -1.5)
        >>> found = vectors(lambda x, u: shear @ x, jnp.zeros(2), num_steps=90, num_transient=40)
        >>> (found.vectors[0, 1] / found.vectors[0, 0]).round(6)
        Array([ 0. , -1.5], dtype=float64)

    References:
        Ginelli, Poggi, Turchi, Chaté, Livi, Politi (2007), Characterizing dynamics with covariant Lyapunov vectors.
    """
    x0 = _check.state("x0", x0)
    total, n = _check.inputs(inputs, num_steps), len(x0)
    k = n if num_exponents is None else _check.count("num_exponents", num_exponents, least=1)
    if k > n:
        raise ValueError(f"num_exponents must be at most the {n} units of the state; got {k}")
    num_transient = _check.count("num_transient", num_transient)
    if 2 * num_transient >= total:
        raise ValueError(f"num_transient must leave a step of the {total} when taken twice; got {num_transient}")
    return _vectors(step, x0, inputs, total, k, num_transient)


@jit
def _vectors(step, x0, inputs, total, k, num_transient):
    x0 = _check.first_state(step, x0, inputs)
    _check.at_least_single(x0)
    n, eps, tiny = len(x0), jnp.finfo(x0.dtype).eps, jnp.finfo(x0.dtype).tiny

    def forward(carry, u):
        x, q = carry
        new_x, pushed = jacobians.push(step, x, u, q)
        size = jnp.maximum(jnp.abs(pushed).max(axis=0) / 4, tiny)  # neither it nor its inverse is 0 or infinite
        new_q, r = jnp.linalg.qr(pushed / size)
        # A direction that the Jacobian loses is one that it shrinks by all the digits there are: R stays invertible.
        diagonal = jnp.diagonal(r)
        least = eps * jnp.maximum(jnp.abs(r).max(axis=0), 1)
        bounded = jnp.where(jnp.abs(diagonal) < least, jnp.where(diagonal < 0, -least, least), diagonal)
        return (new_x, new_q), (x, q, r + jnp.diag(bounded - diagonal), size)

    def backward(c, now):
        r, size = now  # R = r diag(size)
        solved = jax.lax.linalg.triangular_solve(r, c, left_side=True)
        # Of the sizes only ratios of at most 1 are formed: 1/size may be beyond the floats when squared.
        least = jnp.where(solved != 0, size[:, None], jnp.inf).min(axis=0)
        solved = solved * jnp.minimum(least / size[:, None], 1)
        length = jnp.linalg.norm(solved, axis=0)
        c = solved / length
        return c, (c, jnp.log(least) - jnp.log(length))

    start = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0][:, :k]
    (x, q), (xs, qs, *rs) = jax.lax.scan(forward, (x0, jnp.asarray(start, x0.dtype)), inputs, length=total)
    xs, qs = jnp.concatenate([xs, x[None]]), jnp.concatenate([qs, q[None]])
    end = total - num_transient
    c = jnp.eye(k, dtype=x0.dtype) + jnp.triu(jnp.ones((k, k), x0.dtype), 1)
    c, _ = jax.lax.scan(backward, c / jnp.linalg.norm(c, axis=0), [r[end:] for r in rs], reverse=True)
    _, (cs, growth) = jax.lax.scan(backward, c, [r[num_transient:end] for r in rs], reverse=True)
    cs = jnp.concatenate([cs, c[None]])
    kept = slice(num_transient, end + 1)
    finite = jnp.isfinite(xs).all() & jnp.isfinite(cs).all() & jnp.isfinite(qs).all()
    return CovariantVectors(xs[kept], qs[kept] @ cs, growth, finite)
