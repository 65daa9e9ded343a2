"""Gradient descent on a loss, with clipping, and the history of where it went.

Row 9 of the layer table: above `gradients`.
"""

from collections.abc import Callable

import equinox
import jax
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, gradients
from rnn_dynamics._compile import jit

__all__ = ["History", "descend"]


class History(equinox.Module):
    """A run of gradient descent: what it visited, before each of its T steps and after the last."""

    parameters: PyTree
    """Each float array with a leading axis of length k = T+1; other leaves as they were."""
    loss: Float[Array, " k"]
    gradient_norm: Float[Array, " k"]
    """Before clipping; one norm over all parameters."""

    def __repr__(self) -> str:
        if self.loss.ndim > 1 or not _check.known(self.loss):
            return f"History(loss {self.loss.dtype} of shape {self.loss.shape})"
        return f"History({len(self.loss) - 1} steps, loss {float(self.loss[0]):.3g} -> {float(self.loss[-1]):.3g})"


def descend(
    loss: Callable,
    parameters: PyTree,
    *,
    rate: Float[Array, ""] | float,
    num_steps: int,
    max_norm: Float[Array, ""] | float | None = None,
) -> History:
    r"""Plain gradient descent, with the gradient's norm clipped if `max_norm` is given.

    $$ \theta \leftarrow \theta - \text{rate} \cdot \text{clip}(\nabla L(\theta)) $$

    Args:
        loss: L, from parameters to a float scalar.
        parameters: Where to start; a pytree, of which the float arrays are free and the rest, complex arrays too, is
            kept as it is.
        rate: The learning rate, in units of the parameter squared per unit of loss.
        num_steps: T.
        max_norm: Longest gradient followed as it is; None follows every gradient as it is.

    Returns:
        The parameters, losses and gradient norms along the way.

    Raises:
        ValueError: rate or max_norm is not a positive finite number, num_steps is negative, the parameters hold NaN or
            infinity or no float array, or the loss is not a float scalar.

    Example:
        >>> descend(lambda p: p**2, jnp.array(1.0), rate=0.25, num_steps=2).parameters
        Array([1.  , 0.5 , 0.25], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), algorithm 1.
    """
    rate = _check.positive("rate", rate)
    max_norm = None if max_norm is None else _check.positive("max_norm", max_norm)
    num_steps = _check.count("num_steps", num_steps)
    leaves = jax.tree.leaves(equinox.filter(parameters, _check.is_float_array))
    if not leaves:
        raise ValueError("parameters must hold at least one float array; got none")
    for leaf in leaves:
        _check.finite("parameters", leaf)
    _check.loss(loss, parameters)
    return _descend(loss, parameters, rate, num_steps, max_norm)


@jit
def _descend(loss, parameters, rate, num_steps, max_norm):
    free, fixed = equinox.partition(parameters, _check.is_float_array)

    def advance(free, _):
        value, gradient = jax.value_and_grad(lambda free: loss(equinox.combine(free, fixed)))(free)
        clipped, norm = gradients.clip_by_norm(gradient, 1.0 if max_norm is None else max_norm)
        direction = gradient if max_norm is None else clipped
        after = jax.tree.map(lambda leaf, slope: (leaf - rate * slope).astype(leaf.dtype), free, direction)
        return after, (free, value, norm)

    _, history = jax.lax.scan(advance, free, length=num_steps + 1)  # where the last step leads is never looked at
    visited, losses, norms = jax.tree.map(lambda run: run.astype(run.dtype), history)  # no longer weakly typed
    return History(equinox.combine(visited, fixed), losses, norms)
