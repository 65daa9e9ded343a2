"""Trajectories of maps: x_0, x_1 = F(x_0, u_0), ..., x_T.

Row 3 of the layer table: above `models`, which it does not need: any callable `(x, u) -> x` is a map. Next:
`jacobians`, which linearises along a trajectory; `flows`, the same in continuous time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["final_state", "trajectory"]


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
