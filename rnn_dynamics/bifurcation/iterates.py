"""Maps and families seen another way: several steps at a time, in other units of the state, or along their branches.

Row 8 of the layer table: above `jacobians`. Next: `diagrams`, which asks them at many points at once.
"""

from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import jacobians
from rnn_dynamics._compile import jit
from rnn_dynamics.continuation import arclength

__all__ = ["InUnits", "Iterate", "corrected", "feet_on", "orbits", "padded", "reach"]


class Iterate(equinox.Module):
    """The map that takes `period` steps of another one, with its Jacobian.

    Example:
        >>> Iterate(lambda x, u: 2 * x, 3)(jnp.ones(1))
        Array([8.], dtype=float64)
    """

    step: Callable
    period: int | Int[Array, ""]
    """As an array it is an argument of a compiled function, which then serves every period."""

    def __call__(self, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, " n"]:
        """The state after `period` steps."""
        return jax.lax.fori_loop(0, self.period, lambda _, x: self.step(x, u), x)

    def jacobian(self, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, "n n"]:
        """The product of the Jacobians along them."""

        def advance(_, carry):
            x, product = carry
            return self.step(x, u), jacobians.jacobian(self.step, x, u) @ product

        return jax.lax.fori_loop(0, self.period, advance, (x, jnp.eye(len(x), dtype=x.dtype)))[1]


class InUnits(equinox.Module):
    """A family in other units of the state; of the maps of a period, if one is given."""

    family: Callable
    unit: Float[Array, ""]
    period: Int[Array, ""] | None

    def __call__(self, p: Float[Array, ""]) -> Callable:
        """The map or field at p."""
        step = _At(self.family, self.unit, p)
        return step if self.period is None else Iterate(step, self.period)


class _At(equinox.Module):
    """The map at one parameter, which is an argument where the map that the family returns may be a closure."""

    family: Callable
    unit: Float[Array, ""]
    p: Float[Array, ""]

    def __call__(self, x, u=None):
        return self.family(self.p)(self.unit * x, u) / self.unit

    def jacobian(self, x, u=None):
        return jacobians.jacobian(self.family(self.p), self.unit * x, u)


@jit
def orbits(families, ps, xs, u, period):
    """The first `period` states from each x at its p."""

    def orbit(p, x):
        step = families(p)
        return jax.lax.scan(lambda x, _: (step(x, u), x), x, length=period)[1]

    return jax.vmap(orbit)(ps, xs)


def padded(values, dtype):
    """On the device, and to a power of two: few shapes to compile."""
    filling = (1 << (len(values) - 1).bit_length()) - len(values)
    return jax.device_put(np.pad(np.asarray(values, dtype), [(0, filling), *[(0, 0)] * (np.ndim(values) - 1)], "edge"))


def feet_on(rows, points):
    """Of each point on each segment of a polyline: how far along, the distance, and the foot on the segment's line."""
    along = np.diff(rows, axis=0)
    part = ((points[:, None] - rows[:-1]) * along).sum(2) / np.maximum((along**2).sum(1), 1e-300)
    gap = np.linalg.norm(rows[:-1] + np.clip(part, 0, 1)[..., None] * along - points[:, None], axis=2)
    return part, gap, rows[:-1] + part[..., None] * along


@jit
def corrected(families, starts, across, scale, u, time):
    """From each place Newton's method on the plane at right angles to `across`; where that fails, the start.

    A place is a state, then its parameter, in units of `scale`.
    """

    def defect(y):
        x, p = scale[:-1] * y[:-1], scale[-1] * y[-1]
        value = families(p)(x, u)
        return value - x if time == "discrete" else value

    def one(start, across):
        met, converged, _ = arclength.correct(defect, start, across, jnp.ones_like(start))
        return jnp.where(converged, met, start)

    return jax.vmap(one)(starts, across)


@jit
def reach(families, ps, xs, u, time):
    """From each point, along a generic direction, where the slope first changes by a tenth; infinite if nowhere."""
    sizes = 2.0 ** jnp.arange(-100, 100, dtype=xs.dtype)

    def one(p, x):
        step, eps = families(p), jnp.finfo(x.dtype).eps
        direction, value = jnp.cos(1.0 + jnp.arange(len(x), dtype=x.dtype)), step(x, u)
        slopes = (jax.vmap(lambda size: step(x + size * direction, u))(sizes) - value) / sizes[:, None]
        steepest = jnp.abs(slopes).max(axis=1).clip(1 if time == "discrete" else 0)  # x -> x has slope 1
        strays = jnp.abs(jnp.diff(slopes, axis=0)).max(axis=1) > 0.1 * steepest[1:]
        strays &= sizes[:-1] > 1e4 * eps * jnp.maximum(jnp.abs(x).max(), jnp.abs(value).max())  # and is no rounding
        return jnp.where(strays.any(), sizes[1:][jnp.argmax(strays)], jnp.inf)

    return jax.vmap(one)(ps, xs)
