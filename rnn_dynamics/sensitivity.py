"""How a state answers to where the orbit began, and to a parameter: derivatives carried forward in time.

Row 5 of the layer table: above `jacobians`. For products too long for plain numbers see `jacobians.transition`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, jacobians
from rnn_dynamics._compile import jit
from rnn_dynamics._graded import times_power

__all__ = ["to_parameter", "to_state"]


def to_state(
    step: Callable, x0: Float[Array, " n"], inputs: PyTree = None, *, num_steps: int | None = None
) -> Float[Array, "S n n"]:
    r"""The derivative of every state of an orbit by the initial one.

    $$ S_0 = I, \qquad S_{t+1} = J_t S_t, \qquad S_t = \partial x_t / \partial x_0 $$

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        num_steps: T; as in `simulate.trajectory`.

    Returns:
        S_0 ... S_T. Entries too large for the floats are infinite with the right sign, those too small (or smaller by
        such a factor than the largest of their column) are zero, and both may come back into range later. None is
        ever NaN while the orbit and its Jacobians are finite. `jacobians.transition` holds S_T exactly.

    Raises:
        ValueError: as `simulate.trajectory`.

    Example:
        >>> to_state(lambda x, u: x**2, jnp.array([2.0]), num_steps=2).squeeze()  # x_2 = x_0⁴
        Array([ 1.,  4., 32.], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5.
    """
    x0 = _check.state("x0", x0)
    return _to_state(step, x0, inputs, _check.inputs(inputs, num_steps))


def to_parameter(
    family: Callable,
    p: Float[Array, ""] | float,
    x0: Float[Array, " n"],
    inputs: PyTree = None,
    *,
    num_steps: int | None = None,
) -> Float[Array, "S n"]:
    r"""The derivative of every state of an orbit by a parameter of the map, the initial state held fixed.

    $$ s_0 = 0, \qquad s_{t+1} = J_t s_t + \partial F_p(x_t, u_t) / \partial p, \qquad s_t = d x_t / d p $$

    Args:
        family: `p -> map`, for instance `lambda b: DoyaNeuron(w=5.0, b=b)`.
        p: Where to differentiate.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        num_steps: T; as in `simulate.trajectory`.

    Returns:
        s_0 ... s_T, in units of the state per unit of p. Too large or too small entries as in `to_state`.

    Raises:
        ValueError: p is not a finite number; otherwise as `simulate.trajectory`.

    Example:
        >>> to_parameter(lambda w: lambda x, u: w * x, 3.0, jnp.array([1.0]), num_steps=2).squeeze()  # x_2 = w²
        Array([0., 1., 6.], dtype=float64)

    References:
        Doya (1993); Pascanu, Mikolov, Bengio (2013), eq. 4, the terms summed forward.
    """
    p, x0 = _check.number("p", p), _check.state("x0", x0)
    return _to_parameter(family, p, x0, inputs, _check.inputs(inputs, num_steps))


@jit
def _to_state(step, x0, inputs, num_steps):
    def tangent(x, u, s, exponent):
        del exponent  # the recursion is linear: its scale stays outside
        return step(x, u), jacobians.jacobian(step, x, u) @ s

    room = len(x0).bit_length()  # n finite numbers times 1/(2n) have a finite sum
    return _carry(step, tangent, x0, jnp.eye(len(x0), dtype=x0.dtype), inputs, num_steps, -(2**30), room)


@jit
def _to_parameter(family, p, x0, inputs, num_steps):
    def tangent(x, u, s, exponent):
        return jax.jvp(lambda p, x: family(p)(x, u), (p, x), (times_power(jnp.ones_like(p), -exponent), s))

    _check.first_state(_check.member(family, p, name="family(p)"), x0, inputs, name="family(p)")
    # What comes in at every step is divided by the scale: it must not overflow.
    lowest = -min(jnp.finfo(value.dtype).maxexp for value in (p, x0)) // 2
    return _carry(family(p), tangent, x0, jnp.zeros_like(x0), inputs, num_steps, lowest)


def _carry(step, tangent, x0, s0, inputs, num_steps, lowest, room=0):
    """Scans x and s · 2^exponent, each column of s on its own scale, kept near 2^-room as far down as 2^lowest.

    Powers of two scale without rounding, so nothing is lost by it.
    """

    def advance(carry, u):
        x, s, exponent = carry
        x, s = tangent(x, u, s, exponent)
        _, shift = jnp.frexp(jnp.abs(s).max(axis=0))
        shift = jnp.where(jnp.isfinite(s).all(axis=0), jnp.maximum(shift + room, lowest - exponent), 0)
        s, exponent = times_power(s, -shift), exponent + shift
        return (x, s, exponent), times_power(s, exponent)

    x0 = _check.first_state(step, x0, inputs)
    s0 = s0.astype(x0.dtype)
    start = (x0, times_power(s0, -room), jnp.full(s0.shape[1:], room, jnp.int32))
    return jnp.concatenate([s0[None], jax.lax.scan(advance, start, inputs, length=num_steps)[1]])
