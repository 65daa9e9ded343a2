"""The orbit diagram: where the orbits of a family of maps settle, over its parameter.

Row 8 of the layer table: above `simulate`.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit_wide, num_shares, on_all_cores

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


def _fresh(family, values, x0, num_kept, num_transient, inputs):
    """In two programs: what is thrown away, a share on each core; then what is kept, into one array."""
    early, late = _parts(inputs, num_transient)
    one = jax.ShapeDtypeStruct((1,), values.dtype)
    shares = num_shares(-(-len(values) // _CHUNK), functools.partial(_one_step, family), one, x0, inputs)
    xs, closed = on_all_cores(_thrown_away, (family,), (values,), (x0, num_transient, early), shares)
    return _kept(family, values, xs, closed, num_kept, late)


def _one_step(family, values, x0, inputs):
    u = jax.tree.map(lambda leaf: leaf[0], inputs)
    return jax.vmap(lambda p: family(p)(x0, u))(values)


@jit_wide
def _thrown_away(family, values, x0, num_transient, inputs):
    """Of each value the state after the transient, and whether its orbit has closed."""
    x0 = _promoted(family, values, x0, inputs)

    def run(step, part):
        x, closed = _transient(step, jnp.broadcast_to(x0, (len(part(values)), len(x0))), num_transient, inputs)
        return x, jnp.broadcast_to(closed, len(x))

    start = jnp.zeros((len(values), len(x0)), x0.dtype), jnp.zeros(len(values), bool)
    return _by_chunk(family, values, run, start, jnp.zeros(len(values), bool))


@jit_wide
def _kept(family, values, xs, closed, num_kept, inputs):
    def run(step, part):
        return _orbit(step, part(xs), num_kept, inputs).swapaxes(0, 1)

    if inputs is None and num_kept > _LAP:
        # One lap of all, over and over, which all cores write at once; then what has not closed anew.
        lap = _orbit(functools.partial(_side_by_side(family), values), xs, _LAP, None).swapaxes(0, 1)
        return _by_chunk(family, values, run, jnp.tile(lap, (1, -(-num_kept // _LAP), 1))[:, :num_kept], closed)
    start = jnp.zeros((len(values), num_kept, xs.shape[1]), xs.dtype)
    return _by_chunk(family, values, run, start, jnp.zeros_like(closed))


def _side_by_side(family):
    return jax.vmap(lambda p, x, u: family(p)(x, u), in_axes=(0, 0, None))


def _by_chunk(family, values, run, filled, done):
    """`run(step, part)` of every chunk that is not done, written in place into `filled`: stacking would copy it.

    `step(xs, u)` takes the states of a chunk, and `part` cuts them out of an array.
    """
    num_chunks = -(-len(values) // _CHUNK)
    size = -(-len(values) // num_chunks)
    starts = np.minimum(np.arange(num_chunks) * size, len(values) - size)  # the last chunk overlaps the one before
    open_chunks = ~done[starts[:, None] + np.arange(size)].all(axis=1)
    order = jnp.asarray(starts)[jnp.argsort(~open_chunks)]

    def fill(i, filled):
        def part(leaf):
            return jax.lax.dynamic_slice_in_dim(leaf, order[i], size)

        new = run(functools.partial(_side_by_side(family), part(values)), part)
        return jax.tree.map(lambda to, new: jax.lax.dynamic_update_slice_in_dim(to, new, order[i], 0), filled, new)

    return jax.lax.fori_loop(0, open_chunks.sum(), fill, filled)


@jit_wide
def _carried(family, values, x0, num_kept, num_transient, inputs):
    early, late = _parts(inputs, num_transient)

    def settle(x, p):
        x, closed = _transient(family(p), x, num_transient, early)
        if late is None and num_kept > _LAP:
            again = jnp.arange(num_kept) % _LAP
            lap = lambda x: _orbit(family(p), x, _LAP, None)[again]  # noqa: E731
            kept = jax.lax.cond(closed, lap, lambda x: _orbit(family(p), x, num_kept, None), x)
        else:
            kept = _orbit(family(p), x, num_kept, late)
        return (kept[-1] if num_kept else x), kept

    return jax.lax.scan(settle, _promoted(family, values, x0, inputs), values)[1]


def _promoted(family, values, x0, inputs):
    name = "family(values[0])"
    return _check.first_state(_check.member(family, values[0], name=name), x0, inputs, name=name)


def _parts(inputs, num_transient):
    early, late = (slice(num_transient), slice(num_transient, None))
    return tuple(jax.tree.map(lambda leaf, part=part: leaf[part], inputs) for part in (early, late))


def _transient(step, x, num_steps, inputs):
    """x after `num_steps`, leaving out whole laps once one has brought every state back to itself exactly; has one?

    The states then have a period that divides the lap, so any number of laps more would change no bit.
    """
    if inputs is not None:
        return jax.lax.scan(lambda x, u: (step(x, u), None), x, inputs, length=num_steps)[0], jnp.array(False)

    def run(x, count):
        return jax.lax.fori_loop(0, count, lambda _, x: step(x, None), x)

    def lap(carry):
        count, x, _ = carry
        new = run(x, _LAP)
        return count + 1, new, ((new == x) | (jnp.isnan(new) & jnp.isnan(x))).all()

    laps, rest = divmod(num_steps, _LAP)
    _, x, closed = jax.lax.while_loop(lambda carry: (carry[0] < laps) & ~carry[2], lap, (0, x, jnp.array(False)))
    return run(x, rest), closed


def _orbit(step, x, num_steps, inputs):
    """The states after x, time first."""

    def keep(x, u):
        x = step(x, u)
        return x, x

    return jax.lax.scan(keep, x, inputs, length=num_steps)[1]
