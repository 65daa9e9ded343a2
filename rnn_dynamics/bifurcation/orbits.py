"""The orbit diagram: where the orbits of a family of maps settle, over its parameter.

Row 8 of the layer table: above `simulate`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit_wide

__all__ = ["orbit_diagram"]

_CHUNK = 1000
"""Parameter values run side by side, at most: few enough for their orbits to stay in a CPU's cache. With a power of
two, the writes that put time behind the parameter would all fall into the same few cache lines."""
_LAP = 16
"""Steps between two looks at whether an orbit has closed: any period that divides it is noticed."""


def orbit_diagram(
    family: Callable,
    values: Float[Array, " P"],
    x0: Float[Array, " n"],
    *,
    num_kept: int,
    num_transient: int,
    inputs: PyTree = None,
    sweep: Literal["fresh", "up", "down"] = "fresh",
) -> Float[Array, "P num_kept n"]:
    """Where the orbits of a family of maps settle, for many values of its parameter.

    At each value the map runs `num_transient` steps that are thrown away, then `num_kept` that are returned. An orbit
    that has closed on itself in floating point (period 1, 2, 4, 8 or 16) skips the rest: it would repeat the same
    numbers, so the result is the same bit for bit. Because of that exit JAX cannot differentiate the diagram in
    reverse, and a forward derivative stops where the orbit closes: take `sensitivity.to_parameter` instead.

    Args:
        family: `p -> map`, for instance `lambda b: DoyaNeuron(w=5.0, b=b)`.
        values: Parameter values, in any order.
        x0: Initial state.
        num_kept: States returned per value.
        num_transient: Steps before them.
        inputs: Drives every orbit, with a leading time axis of length num_transient + num_kept; None for none.
        sweep: "fresh" starts every value from x0. "up" and "down" start each value from where the next lower
            (higher) one ended, as an experimenter turns a knob: together they show hysteresis.

    Returns:
        For each value, in the order given, its last states. States that left the floating-point numbers are infinite
        or NaN.

    Raises:
        ValueError: values or x0 are not finite float arrays (P,) and (n,), counts are negative, inputs have another
            length, or sweep is unknown.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> kept = orbit_diagram(Logistic, jnp.array([2.5, 3.2]), jnp.array([0.3]), num_kept=4, num_transient=500)
        >>> print(kept[..., 0].round(4))
        [[0.6    0.6    0.6    0.6   ]
         [0.513  0.7995 0.513  0.7995]]

    References:
        May (1976), Simple mathematical models with very complicated dynamics; for the sweeps' jumps at the folds,
        Pascanu, Mikolov, Bengio (2013), fig. 3.
    """
    values, x0 = _check.floats("values", values, "P"), _check.state("x0", x0)
    _check.option("sweep", sweep, ("fresh", "up", "down"))
    num_kept, num_transient = _check.count("num_kept", num_kept), _check.count("num_transient", num_transient)
    if inputs is not None:
        _check.inputs(inputs, num_transient + num_kept)
    if len(values) == 0:
        return jnp.empty((0, num_kept, len(x0)), x0.dtype)
    if sweep == "fresh":
        return _fresh(family, values, x0, num_kept, num_transient, inputs)
    order = jnp.argsort(values, descending=sweep == "down")
    return _carried(family, values[order], x0, num_kept, num_transient, inputs)[jnp.argsort(order)]


@jit_wide
def _fresh(family, values, x0, num_kept, num_transient, inputs):
    x0 = _promoted(family, values, x0, inputs)
    step = jax.vmap(lambda p, x, u: family(p)(x, u), in_axes=(0, 0, None))
    num_chunks = -(-len(values) // _CHUNK)
    size = -(-len(values) // num_chunks)

    def fill(i, kept):
        start = jnp.minimum(i * size, len(values) - size)  # the last chunk overlaps the one before
        ps = jax.lax.dynamic_slice_in_dim(values, start, size)
        xs = jnp.broadcast_to(x0, (size, len(x0)))
        _, orbits = _settle(lambda xs, u: step(ps, xs, u), xs, num_kept, num_transient, inputs)
        return jax.lax.dynamic_update_slice_in_dim(kept, orbits.swapaxes(0, 1), start, 0)

    # Written in place: stacking what the chunks return would copy it all once more.
    return jax.lax.fori_loop(0, num_chunks, fill, jnp.zeros((len(values), num_kept, len(x0)), x0.dtype))


@jit_wide
def _carried(family, values, x0, num_kept, num_transient, inputs):
    x0 = _promoted(family, values, x0, inputs)
    return jax.lax.scan(lambda x, p: _settle(family(p), x, num_kept, num_transient, inputs), x0, values)[1]


def _promoted(family, values, x0, inputs):
    name = "family(values[0])"
    return _check.first_state(_check.member(family, values[0], name=name), x0, inputs, name=name)


def _settle(step, x, num_kept, num_transient, inputs):
    """The last state, and those after the transient, time first."""

    def keep(x, u):
        x = step(x, u)
        return x, x

    if inputs is not None:
        early = jax.tree.map(lambda leaf: leaf[:num_transient], inputs)
        late = jax.tree.map(lambda leaf: leaf[num_transient:], inputs)
        x = jax.lax.scan(lambda x, u: (step(x, u), None), x, early)[0]
        return jax.lax.scan(keep, x, late, length=num_kept)

    def orbit(x, length):
        return jax.lax.scan(keep, x, length=length)[1]

    x, closed = _transient(lambda x: step(x, None), x, num_transient)
    repeats = closed & (num_kept > _LAP)
    again = jnp.arange(num_kept) % _LAP
    kept = jax.lax.cond(repeats, lambda x: orbit(x, _LAP)[again], lambda x: orbit(x, num_kept), x)
    return (kept[-1] if num_kept else x), kept


def _transient(step, x, num_steps):
    """x after `num_steps`, leaving out whole laps once one has brought every state back to itself exactly; has one?

    The states then have a period that divides the lap, so any number of laps more would change no bit.
    """

    def run(x, count):
        return jax.lax.fori_loop(0, count, lambda _, x: step(x), x)

    def lap(carry):
        count, x, _ = carry
        new = run(x, _LAP)
        return count + 1, new, ((new == x) | (jnp.isnan(new) & jnp.isnan(x))).all()

    laps, rest = divmod(num_steps, _LAP)
    _, x, closed = jax.lax.while_loop(lambda carry: (carry[0] < laps) & ~carry[2], lap, (0, x, jnp.array(False)))
    return run(x, rest), closed
