"""One curve of bifurcations in two parameters, compiled: its start, its path, and its special points.

Row 7 of the layer table: above `defining` and `arclength`. Next: `curves`, the public face of this.

A point of the curve is y = (x, p, q), or (x, κ, p, q) where a complex pair is followed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_dynamics._compile import jit
from rnn_dynamics.continuation import arclength, crossings, defining, linear

__all__ = ["ENDS", "KINDS", "Found", "Kind", "compute"]

ENDS = (*arclength.ENDS, "q_span", "1:1 resonance", "1:2 resonance", "Bogdanov-Takens")
"""Why a curve ends; the last three where the two multipliers of a Neimark-Sacker curve meet at 1 or at -1, and the
two rates of a Hopf curve at 0."""
Q_SPAN, MEET_AT_ONE, MEET_AT_MINUS_ONE, MEET_AT_ZERO = range(len(arclength.ENDS), len(ENDS))

KINDS = ("CP", "GPD")


class Kind(NamedTuple):
    """Which bifurcation is followed, as `trace` calls it ("LP", "PD", "NS", "H"), and whether of a map."""

    name: str
    discrete: bool

    @property
    def complex(self) -> bool:
        """Whether two complex multipliers or rates are critical, not one real one."""
        return self.name in ("NS", "H")

    @property
    def multiplier(self) -> float:
        """The critical one, where it is real."""
        return -1.0 if self.name == "PD" else float(self.discrete)


class Found(NamedTuple):
    """The rows of the path, padded, and its special points, padded."""

    y: Array
    number: Array
    ended: Array
    residual: Array
    special: Array
    special_residual: Array
    converged: Array
    num_special: Array
    complete: Array
    start: Array
    start_residual: Array


@jit
def compute(kind: Kind, family: Callable, x0, numbers, u, num_each: int, max_events: int) -> Found:
    """The curve near x0; the numbers are nine: start, least and largest of p, the same of q, the lengths of steps."""
    dtype, size = x0.dtype, len(x0)
    (p0, *p_span), (q0, *q_span), lengths = numbers.astype(dtype).reshape(3, 3)
    lengths = arclength.Steps(*lengths)
    system = defining.System(lambda parameters: family(parameters[0], parameters[1]), u, kind.discrete)
    y0 = jnp.concatenate([x0, jnp.stack([p0, q0])])
    lower, upper = (jnp.stack([p, q]) for p, q in zip(p_span, q_span, strict=True))
    if kind.complex:
        function = defining.pair(system, size)
        y0 = jnp.concatenate([x0, _kappa(system, y0, size)[None], y0[-2:]])
        # A little beyond the ends: a curve may touch one and turn back, as where both multipliers are 1 and J = I.
        slack = float(jnp.finfo(dtype).eps) ** 0.4
        least, largest = (-1.0 - slack, 1.0 + slack) if kind.discrete else (-slack, jnp.inf)
        lower, upper = jnp.append(jnp.asarray(least, dtype), lower), jnp.append(jnp.asarray(largest, dtype), upper)
    else:
        function = defining.singular(system, kind.multiplier, size)
    function = jax.jit(function)  # the many places that differentiate it trace it once
    free = jnp.full_like(x0, jnp.inf)
    lower, upper = jnp.concatenate([-free, lower]), jnp.concatenate([free, upper])

    y0, start, start_residual, weights = _begin(function, y0, size, lower, upper)
    arguments = lower, upper, lengths, num_each, start < 2
    path, weights = arclength.follow_in_units(function, y0, weights, size, *arguments)
    ended = _ends(path, lower, upper, kind)
    if kind.complex:
        path = _at_meeting(path, function, ended, size)
    residual = _rows(lambda y: jnp.abs(function(y)).max()[None], path.y, path.number, 1)[:, 0]
    if kind.complex:
        nothing = jnp.full((max_events, len(y0)), jnp.nan, dtype)
        zero = jnp.zeros((), int)
        special = nothing, nothing[:, 0], jnp.zeros(max_events, bool), zero, jnp.asarray(True)
    else:
        special = _special(kind, system, function, weights, path, size, max_events)
    return Found(path.y, path.number, ended, residual, *special, start, start_residual)


def _kappa(system, y, size):
    """cos θ, or ω², of the complex pair nearest to the unit circle, or the imaginary axis."""
    matrix = system.jacobian(y[:size], y[size:])
    matrix = jnp.where(jnp.isfinite(matrix).all(), matrix, jnp.eye(size, dtype=y.dtype))
    values = linear.eigenvalues(matrix)
    off = jnp.abs(crossings.excess(values, system.discrete))
    value = values[jnp.argmin(jnp.where(values.imag > 0, off, jnp.inf))]
    return value.real / jnp.abs(value) if system.discrete else value.imag**2


def _begin(function, y0, size, lower, upper):
    """A point of the curve near y0, how it was found (an index of `branch.STARTS`), its residual, the weights."""
    widths = (upper - lower)[size:].at[-2:].set(arclength.unit_of_span(lower[-2:], upper[-2:]))
    if len(widths) == 3:
        widths = widths.at[0].set(jnp.where(jnp.isfinite(widths[0]), widths[0], jnp.maximum(1.0, y0[size])))

    def weigh(scale):
        return jnp.append(jnp.full_like(y0[:size], 1 / (size * scale**2)), 1 / widths**2)

    def or_one(scale):
        return jnp.where(scale > float(jnp.finfo(scale.dtype).eps) ** arclength.UNIT_FROM, scale, 1.0)

    weights = weigh(or_one(jnp.sqrt(jnp.mean(y0[:size] ** 2))))
    at_q, at_p = jnp.eye(len(y0), dtype=y0.dtype)[-1], jnp.eye(len(y0), dtype=y0.dtype)[-2]

    def attempt(state):
        _, _, count, _ = state

        def border(jacobian):
            # With both free, the least change that solves the linearised equations: no part of it along the tangent.
            tangent = weights * arclength.first_tangent(jacobian, weights)[0]
            return jnp.select([count == 0, count == 1], [at_q, at_p], tangent)

        y, error = defining.newton(function, y0, border)
        # What is held is held exactly, and a point on the border of the box is in it.
        y = y.at[-1].set(jnp.where(count == 0, y0[-1], y[-1])).at[-2].set(jnp.where(count == 1, y0[-2], y[-2]))
        good = error <= defining.tol(y.dtype) * (1 + jnp.abs(y[:size]).max())
        return y, error, count + 1, good & jnp.all((y >= lower) & (y <= upper) & (lower < upper))

    state = y0, jnp.asarray(jnp.inf, y0.dtype), jnp.zeros((), int), jnp.asarray(False)
    y, error, count, good = jax.lax.while_loop(lambda state: (state[2] < 3) & ~state[3], attempt, state)
    start = jnp.where(good, jnp.minimum(count - 1, 1), 2)

    # The state's size, or its growth over the spans if that is larger, as in `trace`.
    scale = jnp.sqrt(jnp.mean(y[:size] ** 2))
    tangent, _ = arclength.first_tangent(linear.derivative(function, y)[1], weigh(or_one(scale)))
    across = jnp.linalg.norm(tangent[-2:] / widths[-2:])
    growth = jnp.sqrt(jnp.mean(tangent[:size] ** 2)) / jnp.maximum(across, 1e-30)
    growth = jnp.minimum(growth, 10 * or_one(scale))
    return y, start, error, weigh(or_one(jnp.maximum(scale, growth)))


def _ends(path, lower, upper, kind):
    """What the path ended at, with the side of the box named that it ended on."""
    last = jnp.maximum(path.number - 1, 0)
    ends = jnp.stack([path.y[0], path.y[last]])
    on = (ends <= lower) | (ends >= upper)
    word = jnp.where(on[:, -2], arclength.P_SPAN, Q_SPAN)
    if kind.complex:
        kappa = ends[:, -3]
        meet = jnp.where(kappa > 0, MEET_AT_ONE, MEET_AT_MINUS_ONE) if kind.discrete else MEET_AT_ZERO
        word = jnp.where(on[:, -3], meet, word)
    return jnp.where(path.ended == arclength.P_SPAN, word, path.ended)


def _at_meeting(path, function, ended, size):
    """The path with its ends moved to where the two multipliers or rates meet, if it ended just beyond."""
    held = jnp.zeros(path.y.shape[1], path.y.dtype).at[size].set(1)

    def move(ys, end):
        row = jnp.where(end == 0, 0, jnp.maximum(path.number - 1, 0))
        kappa = jnp.select([ended[end] == MEET_AT_ONE, ended[end] == MEET_AT_MINUS_ONE], [1.0, -1.0], 0.0)
        y, error = defining.newton(function, ys[row].at[size].set(kappa), lambda _: held)
        good = (ended[end] >= MEET_AT_ONE) & (error <= defining.tol(y.dtype) * (1 + jnp.abs(y[:size]).max()))
        return ys.at[row].set(jnp.where(good, y, ys[row])), None

    return path._replace(y=jax.lax.scan(move, path.y, jnp.arange(2))[0])


def _rows(function, ys, number, width):
    """A function's values at the first `number` rows: LAPACK never sees the padding."""

    def one(state):
        i, values = state
        return i + 1, values.at[i].set(function(ys[i]))

    blank = jnp.full((len(ys), width), jnp.nan, ys.dtype)
    return jax.lax.while_loop(lambda state: state[0] < number, one, (jnp.zeros((), int), blank))[1]


def _special(kind, system, function, weights, path, size, max_events):
    """The points between whose neighbours the coefficient changes sign, located: y, residual, converged, number."""
    form = defining.fold_form if kind.name == "LP" else defining.flip_form

    def sample(y):
        """The coefficient, what its sign is relative to, w, and v too on a flip curve, and what it is measured by."""
        left, right = defining.null_vectors(system, y, size, kind.multiplier)
        value, terms = form(system, y, left, right)
        return jnp.concatenate([value[None], left, right, terms[None]])

    def aligned(a, b):
        """1 or -1: whether b's coefficient is to be read with the same sign as a's."""
        sign = jnp.sum(a[..., 1 : size + 1] * b[..., 1 : size + 1], axis=-1)
        if kind.name == "PD":
            sign *= jnp.sum(a[..., size + 1 : -1] * b[..., size + 1 : -1], axis=-1)
        return jnp.where(sign < 0, -1.0, 1.0).astype(a.dtype)

    samples = _rows(sample, path.y, path.number, 2 * size + 2)
    signs = jnp.cumprod(jnp.append(jnp.ones(1, samples.dtype), aligned(samples[:-1], samples[1:])))
    side = jnp.nan_to_num(jnp.sign(signs * samples[:, 0]))
    side = jax.lax.associative_scan(lambda a, b: jnp.where(b == 0, a, b), side)  # where it is 0, the one before
    inside = jnp.arange(len(side) - 1) < path.number - 1
    changes = inside & ((side[:-1] * side[1:] < 0) | ((side[:-1] == 0) & (side[1:] != 0)))
    places = jnp.nonzero(changes, size=max_events, fill_value=0)[0]

    def solve(guess, unit):
        left, right = defining.null_vectors(system, guess, size, kind.multiplier)

        def equations(y):
            w, v, g = defining.eigenpair(system, y, left, right, kind.multiplier)
            value, _ = form(system, y, w, v)
            return jnp.concatenate([system.residual(y[:size], y[size:]), jnp.stack([g, value / unit])])

        y, error = defining.newton(equations, guess)
        return y, error, error <= defining.tol(y.dtype) * (1 + jnp.abs(y).max())

    def norm(y):
        return jnp.sqrt(jnp.sum(weights * y**2))

    def between(place):
        """The zero of the coefficient between two rows: by Newton's method, or the bracket halved and again."""

        def again(state):
            low, high, at_low, at_high, *_, count = state
            a, b = at_low[0], aligned(at_low, at_high) * at_high[0]
            share = jnp.clip(jnp.where(a == b, 0.5, a / (a - b)), 0.0, 1.0)
            chord, middle = high - low, low + jnp.clip(share, 0.1, 0.9) * (high - low)
            y, error, converged = solve(low + share * chord, unit)
            along = jnp.sum(weights * chord * (y - low)) / norm(chord) ** 2
            aside = norm(y - low - along * chord)
            found = converged & (along >= -0.05) & (along <= 1.05) & (aside <= norm(chord))
            border = weights * chord
            middle, ok, _ = arclength.correct(function, middle, border / jnp.abs(border).max(), weights)
            at_middle = sample(middle)
            left = a * aligned(at_low, at_middle) * at_middle[0] <= 0
            low, at_low = jnp.where(left, low, middle), jnp.where(left, at_low, at_middle)
            high, at_high = jnp.where(left, middle, high), jnp.where(left, at_middle, at_high)
            short = norm(high - low) <= 1e3 * float(jnp.finfo(y.dtype).eps) * (1 + norm(low))
            over = found | ~ok | short | (count >= 60)
            y = jnp.where(found, y, (low + high) / 2)
            return low, high, at_low, at_high, y, error, found, over, count + 1

        low, high = path.y[place], path.y[place + 1]
        at_low, at_high = samples[place], samples[place + 1]
        unit = jnp.maximum(at_low[-1], at_high[-1])  # the state's own unit must not matter
        no, zero = jnp.asarray(False), jnp.zeros((), int)
        state = low, high, at_low, at_high, low, jnp.asarray(jnp.inf, low.dtype), no, no, zero
        end = jax.lax.while_loop(lambda state: ~state[-2], again, state)
        least, first = (
            jnp.minimum(jnp.abs(a[0]), jnp.abs(b[0])) / unit for a, b in ((end[2], end[3]), (at_low, at_high))
        )
        y, error, found = end[4:7]
        left = jnp.maximum(jnp.abs(system.residual(y[:size], y[size:])).max(), least)
        # A sign that changes through infinity is no zero: there the other critical direction passes as well.
        return y, jnp.where(found, error, left), found, found | ~(least > first)

    def advance(state):
        which, count, ys, errors, converged = state
        y, error, good, real = between(places[which])
        row = jnp.where(real, count, max_events)
        ys, errors, converged = ys.at[row].set(y), errors.at[row].set(error), converged.at[row].set(good)
        return which + 1, count + real, ys, errors, converged

    blank = jnp.full((max_events + 1, size + 2), jnp.nan, path.y.dtype)
    zero = jnp.zeros((), int)
    state = zero, zero, blank, blank[:, 0], jnp.zeros(max_events + 1, bool)
    number = jnp.minimum(changes.sum(), max_events)
    _, count, ys, errors, converged = jax.lax.while_loop(lambda state: state[0] < number, advance, state)
    return ys[:-1], errors[:-1], converged[:-1], count, changes.sum() <= max_events
