"""What a gradient does: so far, clipping it.

Row 5 of the layer table. Next: `training`, which uses it.
"""

from typing import TypeVar

import equinox
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["clip_by_norm"]

Gradients = TypeVar("Gradients", bound=PyTree)


def clip_by_norm(gradients: Gradients, max_norm: Float[Array, ""] | float) -> tuple[Gradients, Float[Array, ""]]:
    r"""Scales a gradient down to a given norm if it is longer: one norm over all parameters together.

    $$ g \leftarrow g \min(1, \text{max\_norm} / \|g\|_2) $$

    The norm is taken without overflow, so a gradient of finite entries keeps its direction however long it is. If any
    entry is NaN or infinite there is no direction to keep: the clipped gradient is zero, a step that moves nothing,
    and the norm returned (infinite or NaN) says so.

    Args:
        gradients: A pytree; leaves that are not floating-point arrays are left alone.
        max_norm: The longest gradient that passes unchanged; positive.

    Returns:
        The clipped gradient, of the same structure, and the norm it had before.

    Raises:
        ValueError: max_norm is not a positive finite number.

    Example:
        >>> clip_by_norm({"w": jnp.array([3.0, 4.0])}, 1.0)
        ({'w': Array([0.6, 0.8], dtype=float64)}, Array(5., dtype=float64))

    References:
        Pascanu, Mikolov, Bengio (2013), algorithm 1.
    """
    max_norm = _check.number("max_norm", max_norm)
    if _check.known(max_norm) and not max_norm > 0:
        raise ValueError(f"max_norm must be positive; got {max_norm}")
    return _clip(gradients, max_norm)


@jit
def _clip(gradients, max_norm):
    floats, others = equinox.partition(gradients, equinox.is_inexact_array)
    leaves = jax.tree.leaves(floats)
    if not leaves:
        return gradients, jnp.zeros_like(max_norm)
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves]).max()
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)  # the norm of g / unit can neither over- nor
    length = jnp.sqrt(sum(jnp.sum((leaf / unit) ** 2) for leaf in leaves))  # underflow
    finite = jnp.isfinite(largest)
    limit = max_norm / unit
    clips = length > limit
    scale = jnp.where(clips, limit / jnp.where(clips, length, 1), 1)
    clipped = jax.tree.map(lambda leaf: jnp.where(finite, leaf * scale, 0).astype(leaf.dtype), floats)
    return equinox.combine(clipped, others), jnp.where(finite, length * unit, largest)
