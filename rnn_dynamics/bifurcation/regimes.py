"""What a family of maps does over a plane of two parameters: its stable fixed points, its periods, its exponents.

Row 8 of the layer table: above `simulate`, `jacobians` and `sweeps`.
"""

from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check, jacobians, simulate, sweeps
from rnn_dynamics.fixed_points.results import default_tol

__all__ = ["Regimes", "regimes"]


class Regimes(equinox.Module):
    """What the orbits from s starts settle to at each of P by Q parameters."""

    num_stable: Int[Array, "*grid"]
    """How many different fixed points they settle on, not counting one that an orbit started on but would leave."""
    period: Int[Array, "*grid s"]
    """As `simulate.settle`: 0 for chaos, quasi-periodicity or an orbit still under way, -1 for one that diverged."""
    exponent: Float[Array, "*grid s"]
    """The largest Lyapunov exponent, in nats per step; NaN for an orbit that diverged.

    On a fixed point or a cycle it is that of the multipliers; elsewhere the growth of a generic tangent vector.
    """

    def __repr__(self) -> str:
        if not _check.known(self.period):
            return f"Regimes(of shape {self.period.shape})"
        grid = "x".join(map(str, self.num_stable.shape))
        stable, period = np.asarray(self.num_stable), np.asarray(self.period)
        periods = ", ".join(map(str, np.unique(period)))
        return f"Regimes({grid}: {stable.min()} to {stable.max()} stable fixed points; periods {periods})"


def regimes(
    family: Callable,
    ps: Float[Array, " P"],
    qs: Float[Array, " Q"],
    starts: Float[Array, "s n"],
    u: PyTree = None,
    *,
    num_transient: int = 1000,
    num_steps: int = 1000,
    max_period: int = 16,
    tol: float | None = None,
) -> Regimes:
    """The attractors that orbits from given starts reach, over two parameters: one compiled sweep of the plane.

    Only attractors are seen, and only those whose basin holds a start: `fixed_points.enumerate` proves what there is.

    Args:
        family: `(p, q) -> map`, for instance `lambda w, b: DoyaNeuron(w, b)`.
        ps: Values of the first parameter.
        qs: Values of the second.
        starts: Initial states, the same everywhere.
        u: The input, held constant.
        num_transient: Steps before the exponent is measured.
        num_steps: Steps over which it is averaged where there is no period, at least 1; that is looked for after them.
        max_period: The largest period looked for.
        tol: As in `simulate.settle`. Two fixed points are one if nearer than its root, √tol (1 + ‖x‖).

    Returns:
        The regimes, with leading axes P and Q.

    Raises:
        ValueError: ps, qs or starts are not finite float arrays of the shapes above, counts that are too small, a
            tolerance that is not positive, a family that returns no map, a map that changes the shape of the state.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> found = regimes(DoyaNeuron, jnp.array([3.0, 5.0]), jnp.array([-2.5]), jnp.array([[0.0], [1.0]]))
        >>> found
        Regimes(2x1: 1 to 2 stable fixed points; periods 1)

    References:
        Doya (1993), Bifurcations of recurrent neural networks in gradient descent learning.
    """
    ps, qs = _check.floats("ps", ps, "P"), _check.floats("qs", qs, "Q")
    starts = _check.floats("starts", starts, "s", "n")
    if 0 in (*ps.shape, *qs.shape, *starts.shape):
        raise ValueError(f"ps, qs and starts must not be empty; got shapes {ps.shape}, {qs.shape}, {starts.shape}")
    num_transient = _check.count("num_transient", num_transient)
    num_steps = _check.count("num_steps", num_steps, least=1)
    max_period = _check.count("max_period", max_period, least=1)
    if tol is not None:
        _check.positive("tol", tol)
    at_one = equinox.Partial(_at_one, family, starts, u, num_transient, num_steps, max_period, tol)
    found = sweeps.sweep(at_one, (jnp.repeat(ps, len(qs)), jnp.tile(qs, len(ps))))
    return jax.tree.map(lambda leaf: leaf.reshape(len(ps), len(qs), *leaf.shape[1:]), found)


def _at_one(family, starts, u, num_transient, num_steps, max_period, tol, point):
    name = "family(p, q)"
    _check.next_state(_check.member(family, *point, name=name), starts[0], u, name=name)
    step = family(*point)

    def follow(x):
        x = simulate.final_state(lambda x, _: step(x, u), x, num_steps=num_transient)

        def advance(carry, _):
            x, tangent, growth = carry
            x, tangent = jacobians.push(step, x, u, tangent)
            tangent, size = _scaled(tangent)
            return (x, tangent, growth + jnp.log(size)), None

        # A generic direction: one of symmetry, such as (1, ..., 1), may never meet the others, or be lost at once.
        start = _scaled(jnp.cos(1 + jnp.arange(len(x), dtype=x.dtype))[:, None])[0]
        (x, _, growth), _ = jax.lax.scan(advance, (x, start, jnp.zeros((), x.dtype)), length=num_steps)
        settled = simulate.settle(step, x, u, num_steps=0, max_period=max_period, tol=tol)
        of_cycle = jacobians.growth_on_cycle(step, settled.orbit, settled.period, u)
        exponent = jnp.where(settled.period > 0, of_cycle, growth / num_steps)
        return x, settled.period, jnp.where(settled.period < 0, jnp.nan, exponent)

    x, period, exponent = jax.vmap(follow)(starts)
    width = default_tol(tol, x.dtype) ** 0.5
    near = jnp.abs(x[:, None] - x).max(axis=2) <= width * (1 + jnp.abs(x).max(axis=1))
    at_rest = (period == 1) & (exponent < 0)
    seen_before = jnp.tril(near & at_rest, -1).any(axis=1)
    return Regimes((at_rest & ~seen_before).sum(), period, exponent)


def _scaled(a):
    """a over its largest entry, and that; zero stays zero."""
    size = jnp.abs(a).max()
    return a / jnp.where(size == 0, 1, size), size
