"""Trajectories of maps: x_0, x_1 = F(x_0, u_0), ..., x_T.

Row 3 of the layer table: above `models`, which it does not need: any callable `(x, u) -> x` is a map. Next:
`jacobians`, which linearises along a trajectory; `flows`, the same in continuous time.
"""

from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["Settled", "final_state", "settle", "trajectory"]


def trajectory(
    step: Callable, x0: Float[Array, " n"], inputs: PyTree = None, *, num_steps: int | None = None
) -> Float[Array, "S n"]:
    """Every state of the orbit of a map, the initial one first.

    $$ x_{t+1} = F(x_t, u_t), \\qquad t = 0 \\dots T-1 $$

    Args:
        step: The map F, `(x, u) -> x`.
        x0: Initial state. It is promoted to the dtype in which the map works.
        inputs: A pytree of arrays with a leading time axis: `inputs[t]` drives x_t to x_{t+1}. None for an
            autonomous map, whose `step` then receives `u = None`.
        num_steps: T; needed without inputs, and must agree with their length otherwise.

    Returns:
        x_0 ... x_T in the units of the state. An orbit that leaves the floating-point numbers is infinite or NaN from
        that step on: `jnp.isfinite(xs).all(-1)` tells which.

    Raises:
        ValueError: x0 is not a finite float array (n,); inputs hold NaN or infinity, or disagree with each other or
            with num_steps; neither inputs nor num_steps is given; step changes the shape of the state.

    Example:
        >>> trajectory(lambda x, u: 0.5 * x + u, jnp.array([1.0]), jnp.array([0.0, 1.0]))
        Array([[1.  ],
               [0.5 ],
               [1.25]], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 1.
    """
    x0 = _check.state("x0", x0)
    return _trajectory(step, x0, inputs, _check.inputs(inputs, num_steps))


def final_state(
    step: Callable, x0: Float[Array, " n"], inputs: PyTree = None, *, num_steps: int | None = None
) -> Float[Array, " n"]:
    """The last state of the orbit of a map, x_T, without keeping the others.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `trajectory`.
        num_steps: T; as in `trajectory`.

    Returns:
        x_T in the units of the state.

    Raises:
        ValueError: as `trajectory`.

    Example:
        >>> final_state(lambda x, u: jnp.cos(x), jnp.array([1.0]), num_steps=100).round(6)
        Array([0.739085], dtype=float64)
    """
    x0 = _check.state("x0", x0)
    return _final_state(step, x0, inputs, _check.inputs(inputs, num_steps))


class Settled(equinox.Module):
    """Where an orbit has come after its transient, and whether it repeats from there on."""

    orbit: Float[Array, "P n"]
    """The states of the `max_period` steps after the transient."""
    period: Int[Array, ""]
    """Its least period; 0 where it has none, or has not settled yet; -1 where it left the floating-point numbers."""


def settle(
    step: Callable,
    x0: Float[Array, " n"],
    u: PyTree = None,
    *,
    num_steps: int,
    max_period: int = 16,
    tol: float | None = None,
) -> Settled:
    r"""The orbit of an autonomous map, or of one under constant input, once its transient is over; and its period.

    The period is the least p with $\|x_{t+p} - x_t\|_\infty \le tol\,(1 + \|x_t\|_\infty)$ at t = num_steps. An orbit
    that nears an attractor of multiplier μ has then come to within tol/(1 - |μ|) of it.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        u: The input, held constant.
        num_steps: Length of the transient.
        max_period: The largest period looked for.
        tol: How nearly the orbit must close; by default 100 machine epsilons.

    Returns:
        `max_period` states and the period.

    Raises:
        ValueError: x0 is not a finite float array (n,), counts that are too small, a tolerance that is not positive, a
            step that changes the shape of the state.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> int(settle(Logistic(3.5), jnp.array([0.3]), num_steps=1000).period)
        4
    """
    x0 = _check.state("x0", x0)
    num_steps = _check.count("num_steps", num_steps)
    max_period = _check.count("max_period", max_period, least=1)
    if tol is not None:
        _check.positive("tol", tol)
    return _settle(step, x0, u, num_steps, max_period, tol)


@jit
def _settle(step, x0, u, num_steps, max_period, tol):
    x0 = _check.next_state(step, x0, u)
    tol = 100 * jnp.finfo(x0.dtype).eps if tol is None else tol
    x = jax.lax.fori_loop(0, num_steps, lambda _, x: step(x, u), x0)
    _, orbit = jax.lax.scan(lambda x, _: (step(x, u), x), x, length=max_period + 1)
    near = jnp.abs(orbit[1:] - x).max(axis=1) <= tol * (1 + jnp.abs(x).max())
    period = jnp.where(near.any(), 1 + jnp.argmax(near), 0)
    return Settled(orbit[:-1], jnp.where(jnp.isfinite(orbit).all(), period, -1))


@jit
def _trajectory(step, x0, inputs, num_steps):
    def advance(x, u):
        x = step(x, u)
        return x, x

    x0 = _check.first_state(step, x0, inputs)
    _, xs = jax.lax.scan(advance, x0, inputs, length=num_steps)
    return jnp.concatenate([x0[None], xs])


@jit
def _final_state(step, x0, inputs, num_steps):
    x0 = _check.first_state(step, x0, inputs)
    return jax.lax.scan(lambda x, u: (step(x, u), None), x0, inputs, length=num_steps)[0]
