"""How large a matrix is: spectral radius and norm, and Perron's root from above. All three in any units of the state.

Row 5 of the layer table, the first file of `bounds`. Next: `scaling`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["even", "groups", "norm_of", "perron_root", "radius_of", "spectral_norm", "spectral_radius", "square"]


def spectral_radius(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest modulus of an eigenvalue: the growth rate of the powers of `w`, and of no other product.

    $$ \rho(W) = \max_i |\lambda_i(W)| = \lim_{k \to \infty} \|W^k\|^{1/k} $$

    Args:
        w: The recurrent weights.

    Returns:
        A factor per step, at most the spectral norm; differentiable where the eigenvalue is simple.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_radius(jnp.array([[0.0, 2.0], [0.1, 0.0]])).round(12)
        Array(0.4472136, dtype=float64)

    References:
        Horn, Johnson (2013), Matrix Analysis, corollary 5.6.14; theorem 6.3.12 for the derivative.
    """
    return radius_of(square("w", w))


def spectral_norm(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest singular value of `w`: the most one step can stretch a perturbation.

    $$ \|W\|_2 = \max_{\|v\|_2 = 1} \|W v\|_2 $$

    Args:
        w: The recurrent weights.

    Returns:
        A factor per step, at least the spectral radius; where it is not simple, the derivative is one subgradient.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_norm(jnp.diag(jnp.array([0.5, -2.0])))
        Array(2., dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 6.
    """
    return norm_of(square("w", w))


def square(name, w):
    """The weights, checked."""
    if (w := _check.floats(name, w, "n", "n")).size == 0:
        raise ValueError(f"{name} must hold at least one unit; got shape (0, 0)")
    return w


@jit
def norm_of(w):
    """‖W‖₂."""
    return jnp.linalg.svd(w, compute_uv=False)[0]


def even(w):
    """log2 D (whole) and DWD⁻¹ = m·2^top, least Σ (ln|·|)² over its entries but 0: the units of W cease to matter."""
    links = (w != 0).astype(w.dtype) + (w != 0).T
    sizes = jnp.where(w != 0, jnp.log2(jnp.abs(w)), 0)
    x = jnp.linalg.pinv(jnp.diag(links.sum(1)) - links, hermitian=True) @ (sizes.sum(0) - sizes.sum(1))
    x = jnp.round(x).astype(jnp.int32)
    top = jnp.max(jnp.where(w != 0, jnp.round(sizes).astype(jnp.int32) + x[:, None] - x, -(2**20)))
    return x, jnp.ldexp(w, x[:, None] - x - top), top


@jax.custom_jvp
@jit
def radius_of(w):
    """ρ(W)."""
    _, m, top = even(w)
    return jnp.ldexp(jnp.max(jnp.abs(jnp.linalg.eigvals(m))), top)


@radius_of.defjvp
@jit
def _(primals, tangents):
    # dλ = yᴴ dW x / yᴴx, y and x the null vectors of W - λ: other eigenvalues, perhaps defective, have no part in it.
    powers, m, top = even(*primals)
    values = jnp.linalg.eigvals(m)
    value = values[jnp.argmax(jnp.abs(values))]
    left, _, right = jnp.linalg.svd(m - value * jnp.eye(len(m)))
    y, x = left[:, -1].conj(), right[-1].conj()
    change = y @ (tangents[0] * jnp.ldexp(jnp.ones_like(m), powers[:, None] - powers)) @ x * jnp.sign(value).conj()
    return jnp.ldexp(jnp.abs(value), top), jnp.real(change / jnp.where(y @ x == 0, jnp.finfo(m.dtype).eps, y @ x))


def groups(w):
    """Which units act on each other both ways, and a level that rises along every connection between such groups."""
    n = len(w)
    reached = (w != 0) | jnp.eye(n, dtype=bool)  # [i, j]: j acts on i within 1, then 2, 4, 8 ... steps
    for _ in range((n - 1).bit_length()):
        reached = (reached.astype(w.dtype) @ reached.astype(w.dtype)) > 0
    ancestors = reached.sum(1)
    return reached & reached.T, jnp.cumsum(jnp.zeros(n + 1, int).at[ancestors].set(1))[ancestors] - 1


@jax.custom_jvp
@jit
def perron_root(core, same):
    """ρ(M) from above, M = |core| ≥ 0: max_i (Mx)_i / x_i for positive x, which no rounding of x makes too small.

    Noda (1971): inverse iteration shifted by that bound keeps x positive and converges quadratically, in each group of
    units that act on each other. Collatz (1942), Wielandt (1950): the bound.
    """
    _, m, top = even(jnp.abs(core))
    shift, one = 1 + 2 * len(m) * jnp.finfo(m.dtype).eps, jnp.eye(len(m), dtype=m.dtype)

    def improve(state):
        x, least, _ = state
        y = jnp.abs(jnp.linalg.solve(least * shift * one - m, x))
        y = y / jnp.max(jnp.where(same, y, 0), axis=1)
        bound = jnp.where(jnp.isfinite(y).all() & (y > 0).all(), (m @ y / y).max(), jnp.inf)
        return jnp.where(bound < least, y, x), jnp.minimum(bound, least), bound < least

    x = jnp.ones(len(m), m.dtype)
    start = x, (m @ x).max(), jnp.array(True)
    return jnp.ldexp(lax.while_loop(lambda state: state[2], improve, start)[1], top)


@perron_root.defjvp
def _(primals, tangents):
    return perron_root(*primals), jax.jvp(radius_of, (jnp.abs(primals[0]),), (jnp.sign(primals[0]) * tangents[0],))[1]
