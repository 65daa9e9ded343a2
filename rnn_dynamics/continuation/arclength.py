"""One curve of solutions of G(y) = 0, N equations for N + 1 unknowns, followed by pseudo-arclength both ways.

Row 7 of the layer table: above `linear`. Next: `branch`, which follows fixed points; the curves of folds, flips and
Neimark-Sacker points in two parameters are such curves too.

Steps are measured in the norm ‖y‖² = Σ w_i y_i², which the caller chooses so that state and parameter count alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_dynamics._compile import any_lane
from rnn_dynamics.continuation import linear

__all__ = [
    "CLOSED",
    "DIVERGED",
    "ENDS",
    "MAX_POINTS",
    "NO_START",
    "P_SPAN",
    "TOO_SMALL",
    "UNIT_FROM",
    "Path",
    "Steps",
    "correct",
    "first_tangent",
    "follow",
    "follow_in_units",
    "tangent_at",
    "unit_of_span",
]

ENDS = ("p_span", "max_points", "step too small", "closed curve", "diverged", "no start")
P_SPAN, MAX_POINTS, TOO_SMALL, CLOSED, DIVERGED, NO_START, RUNNING = range(7)

MAX_CORRECTIONS = 7
FAR = 1e4
"""A curve has diverged where a component is this far from its start, in its unit of the norm, or in 1 if that is more:
a state may begin small beside what it becomes."""
UNIT_FROM = 0.75
"""A state below eps to this power (2e-12 in float64) may be a rounded 0: it is no unit to measure steps in."""
SHRINK = 1 / 30
"""By how much a unit that is too large becomes smaller."""


class Steps(NamedTuple):
    """How long the steps are, in the norm of the arclength."""

    first: float | Float[Array, ""] = 0.01
    largest: float | Float[Array, ""] = 0.1
    angle: float | Float[Array, ""] = 0.3
    """The most, in radians, that the tangent may turn in one step: what turns more may be another branch."""


def unit_of_span(low: Array, high: Array) -> Array:
    """The width of a span, or the nearest number whose square, even of a part of it, neither over- nor underflows."""
    least = float(jnp.finfo(low.dtype).tiny) ** 0.4
    return jnp.clip(high - low, least, 1 / least)


class Path(NamedTuple):
    """The points of a curve in order, padded with NaN; the tangents all point along that order."""

    y: Float[Array, "k m"]
    tangent: Float[Array, "k m"]
    orientation: Float[Array, " k"]
    """The sign of det [G_y; tangent]: on a smooth curve it changes at branch points and nowhere else."""
    kink: Bool[Array, " k"]
    """Whether G_y jumps between this point and the next."""
    number: Int[Array, ""]
    start: Int[Array, ""]
    """The row of the start."""
    ended: Int[Array, "2"]
    """Why the curve ends at its first and its last point: an index of `ENDS`."""


class _State(NamedTuple):
    back: Array
    y: Array
    tangent: Array
    orientation: Array
    step: Array
    counts: Array
    ended: Array
    rows: Array
    """A row a point, [y, tangent, orientation, whether G_y jumps on the way to it]: one write a step."""


def first_tangent(jacobian: Float[Array, "k m"], weights: Float[Array, " m"]):
    """A unit tangent of the curve where G_y is `jacobian`, its null vector, and the orientation there."""
    roots = jnp.sqrt(weights)
    if len(weights) == 2:
        tangent = jnp.stack([-jacobian[0, 1], jacobian[0, 0]])
        tangent = jnp.where(jnp.any(tangent != 0), tangent, jnp.array([0.0, 1.0], weights.dtype))
    else:
        # Columns of unit weight; the last column of the complete Q of the transpose is orthogonal to every row.
        tangent = jnp.linalg.qr((jacobian / roots).T, mode="complete")[0][:, -1] / roots
    tangent = tangent / jnp.linalg.norm(roots * tangent)
    return tangent, _sign(jacobian, weights * tangent)


def tangent_at(function: Callable, y: Float[Array, " m"], along: Float[Array, " m"], weights: Float[Array, " m"]):
    """The unit tangent at y that makes an acute angle with `along`, and the orientation there.

    The bordered system [G_y; along] t = e_m (Keller 1977) is regular at folds.
    """
    border = _border(weights * along)
    right = jnp.zeros_like(y).at[-1].set(1)
    tangent, sign = linear.solve_with_sign(jnp.vstack([linear.derivative(function, y)[1], border]), right)
    return tangent / jnp.sqrt(jnp.sum(weights * tangent**2)), sign


def correct(function: Callable, guess: Float[Array, " m"], border: Float[Array, " m"], weights: Float[Array, " m"]):
    """Newton's method for G(y) = 0 on the plane border · (y - guess) = 0.

    Returns:
        y, whether it converged, and the number of corrections. It stops at a correction whose square is below the
        rounding floor: convergence is quadratic, and the next one would change nothing. Over a span of the last
        unknown so narrow that corrections get no smaller than the rounding of G allows, it stops where G is that
        small, and moves the unknown by at most 1/30 of its span.
    """
    eps = float(jnp.finfo(guess.dtype).eps)
    small = 0.1 * math.sqrt(eps)

    def again(carry):
        y, count, last, *_ = carry
        value, jacobian = linear.derivative(function, y)
        rest = jnp.append(value, border @ (y - guess))
        change = linear.solve(jnp.vstack([jacobian, border]), -rest)
        size = jnp.sqrt(jnp.sum(weights * change**2))
        across = jnp.abs(jacobian[:, -1]).max() / jnp.sqrt(weights[-1])
        rounded = 8 * eps * jnp.abs(y[: len(value)]).max()
        solved = (jnp.abs(value).max() <= jnp.minimum(rounded, across / 30)) & (rounded > small * across)
        solved &= jnp.isfinite(size)
        return y + change, count + 1, size, (size < last) & jnp.isfinite(size), solved

    def goes_on(carry):
        _, count, last, shrinks, solved = carry
        return (last > small) & shrinks & ~solved & (count < MAX_CORRECTIONS)

    yes = jnp.asarray(True)
    start = guess, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, guess.dtype), yes, ~yes
    y, count, last, shrinks, solved = jax.lax.while_loop(goes_on, again, start)
    return y, (shrinks & (last <= small)) | solved, count


def follow_in_units(
    function: Callable, y0: Float[Array, " m"], weights: Float[Array, " m"], num_units: int, *args
) -> tuple[Path, Float[Array, " m"]]:
    """`follow`, and the weights it ended with. Where the state, the first components, has grown a thousandfold from
    below 1, the curve is followed once more, in units of the largest size it came to, or of 1.

    Near a fold a state moves by the root of what its parameter does: over a narrow span so little that in its own unit
    the curve is too sharp a hairpin for the smallest steps. Where they fail and the state has hardly moved, the curve
    is followed again in ever smaller units, until it moves by about one, or that is the root of rounding: nearer to a
    fold no state is known.
    """
    eps = float(jnp.finfo(y0.dtype).eps)
    nearest = num_units * jnp.maximum(jnp.mean(y0[:num_units] ** 2), eps ** (2 * UNIT_FROM)) * eps

    def again(carry):
        round_, weights, _, _ = carry
        path = follow(function, y0, weights, *args)
        states = path.y[:, :num_units]
        largest = jnp.nanmax(jnp.mean(states**2, axis=1), initial=0)
        larger = 1 / (num_units * jnp.clip(largest, 1e-30, 1))
        grown = (round_ == 0) & (weights[0] > 1e6 * larger)
        apart = jnp.mean((states - y0[:num_units]) ** 2, axis=1)
        moved = weights[0] * num_units * jnp.nanmax(apart, initial=0)
        sharp = ((round_ > 0) | jnp.any(path.ended == TOO_SMALL)) & (moved < 1 / 25)
        sharp &= (weights[0] > 0) & (weights[0] * nearest < SHRINK**2)  # 0 where a state's square overflows
        unit = jnp.where(grown, larger, weights[0] / jnp.maximum(4 * moved, SHRINK**2))
        weights = jnp.where(grown | sharp, weights.at[:num_units].set(unit), weights)
        return round_ + 1, weights, path, grown | sharp

    num = 2 * args[-2] + 1
    curve, none = jnp.zeros((num, len(y0)), y0.dtype), jnp.zeros((), int)
    blank = Path(curve, curve, curve[:, 0], jnp.zeros(num, bool), none, none, jnp.zeros(2, int))
    carry = jnp.zeros((), int), weights, blank, jnp.asarray(True)
    _, weights, path, _ = jax.lax.while_loop(lambda carry: any_lane(carry[-1]), again, carry)
    return path, weights


def follow(
    function: Callable,
    y0: Float[Array, " m"],
    weights: Float[Array, " m"],
    lower: Float[Array, " m"],
    upper: Float[Array, " m"],
    steps: Steps,
    num_each: int,
    found: Bool[Array, ""],
) -> Path:
    """The curve through y0, from one of its ends to the other, with at most `num_each` points on each side of y0.

    A step is taken along the tangent and corrected at right angles to it. It is taken again at half the length where
    Newton's method fails, moves the point by more than half the step, or the tangent turns by more than the angle
    allowed. A step that would leave the box [lower, upper] ends on its border, exactly. Where even the smallest steps
    fail because G_y jumps, the curve has a kink: the point of the jump is found by bisection, and the curve goes on
    with the tangent that keeps the orientation, det [G_y; t], which crosses to the jump's other side.

    Args:
        function: G.
        y0: A point of the curve (if `found`; otherwise the path has no points).
        weights: Of the norm.
        lower: The box; infinite where there is no bound.
        upper: The box.
        steps: Lengths of steps; they may be traced.
        num_each: Sizes the buffers.
        found: Whether y0 is on the curve.

    References:
        Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems; Allgower and Georg (1990),
        Numerical continuation methods, chapters 2 to 6, for the orientation and the step length.
    """
    size, eps = len(y0), float(jnp.finfo(y0.dtype).eps)
    at_kink, smallest = eps**0.4, 0.1 * eps**0.5
    t0, orientation0 = first_tangent(linear.derivative(function, y0)[1], weights)
    rising = jnp.where(t0[-1] < 0, -1, 1)
    t0, orientation0 = rising * t0, rising * orientation0

    def norm(y):
        return jnp.sqrt(jnp.sum(weights * y**2))

    def jump(y, tangent, orientation, step):
        """Whether G_y jumps on the next few steps; just beyond the jump the point, the tangent, the orientation."""

        def look(i, bracket):
            low, high, near, far = bracket
            place = jnp.where(i == 0, low, jnp.where(i == 1, high, (low + high) / 2))
            here = linear.derivative(function, y + place * tangent)[1]
            past = (i == 1) | ((i > 1) & (jnp.abs(here - far).max() < jnp.abs(here - near).max()))
            low, high = jnp.where(past, low, place), jnp.where(past, place, high)
            return low, high, jnp.where(past, near, here), jnp.where(past, here, far)

        blank = jnp.zeros((size - 1, size), y.dtype)
        _, high, near, far = jax.lax.fori_loop(0, 42, look, (jnp.zeros_like(step), 4 * step, blank, blank))
        jumps = jnp.abs(far - near).max() > 1e-3 * jnp.abs(near).max()
        new, sign = first_tangent(far, weights)
        return jumps & jnp.isfinite(new).all(), y + high * tangent, new * sign * orientation, orientation

    def advance(state):
        back, y, tangent = state.back, state.y, state.tangent
        room = jnp.where(tangent > 0, (upper - y) / tangent, jnp.where(tangent < 0, (lower - y) / tangent, jnp.inf))
        side = jnp.argmin(room)
        least = room[side]
        hits = least <= state.step
        bound = jnp.where(tangent > 0, upper, lower)
        wall = hits & (jnp.arange(size) == side)
        guess = jnp.where(wall, bound, y + jnp.minimum(least, state.step) * tangent)
        border = jnp.where(hits, wall.astype(y.dtype), _border(weights * tangent))
        new, converged, corrections = correct(function, guess, border, weights)
        new = jnp.where(wall, bound, new)
        new_tangent, orientation = tangent_at(function, new, tangent, weights)
        cosine = jnp.clip(jnp.sum(weights * tangent * new_tangent), -1, 1)
        angle = jnp.arctan2(norm(new_tangent - cosine * tangent), cosine)
        inside = jnp.all((new >= lower) & (new <= upper))
        near = norm(new - guess) <= jnp.minimum(least, state.step) / 2 + 100 * eps * (1 + norm(new))
        good = converged & inside & near & (angle <= steps.angle) & jnp.isfinite(new_tangent).all()
        at_edge = least <= 0

        tries = ~good & (state.step < at_kink) & ~at_edge
        kept = jnp.asarray(False), y, tangent, state.orientation
        # A loop of at most one round: under `vmap` a `cond` would do this at every step of every lane.
        _, kinked, beyond, after, sign = jax.lax.while_loop(
            lambda carry: carry[0],
            lambda carry: (jnp.zeros_like(carry[0]), *jump(y, tangent, state.orientation, state.step)),
            (tries, *kept),
        )
        new = jnp.where(kinked, beyond, new)
        new_tangent, orientation = jnp.where(kinked, after, new_tangent), jnp.where(kinked, sign, orientation)

        count = state.counts[back]
        before, after = jnp.sum(weights * t0 * (y - y0)), jnp.sum(weights * t0 * (new - y0))
        passed = jnp.where(after > before, -before / jnp.maximum(after - before, eps), jnp.inf)
        apart = norm(y + jnp.clip(passed, 0, 1) * (new - y) - y0)
        closed = good & (back == 0) & (count >= 2) & (before < 0) & (after >= 0) & (apart <= norm(new - y) / 2)
        closed &= jnp.sum(weights * t0 * new_tangent) > 0.5
        new, new_tangent = jnp.where(closed, y0, new), jnp.where(closed, t0, new_tangent)
        orientation = jnp.where(closed, orientation0, orientation)

        live = back < 2
        taken = (good | kinked) & ~at_edge & live
        distance = norm(jnp.where(taken, new, y) - y0)
        easy = jnp.where(corrections <= 3, 2.0, jnp.where(corrections <= 4, 1.0, 0.5))
        turned = jnp.minimum(easy, steps.angle / 2 / jnp.maximum(angle, 0.1 * steps.angle))
        step = state.step * jnp.where(good, turned.astype(y.dtype), 0.5)
        step = jnp.where(kinked, steps.first, jnp.minimum(step, steps.largest * jnp.maximum(1, distance / 2)))

        count = count + taken
        ended = jnp.select(
            [
                at_edge | (good & hits),
                closed,
                taken & jnp.any(jnp.abs(new - y0) > FAR * jnp.maximum(1, 1 / jnp.sqrt(weights))),
                count >= num_each,
                ~taken & ~(step >= smallest),  # nor go on for ever with a step that is not a number
            ],
            [P_SPAN, CLOSED, DIVERGED, MAX_POINTS, TOO_SMALL],
            RUNNING,
        )
        over = (ended != RUNNING) & live
        sense = 1 - 2 * back
        row = jnp.where(taken, num_each + sense * count, 2 * num_each + 1)
        ends = jnp.where(over, state.ended.at[1 - back].set(ended), state.ended)
        whole = over & ((back == 1) | (ended == CLOSED))
        ends = jnp.where(whole & (ended == CLOSED), CLOSED, ends)
        turns = over & ~whole

        def keep(now, start):
            return jnp.where(turns, start, now)

        return _State(
            back=jnp.where(over, jnp.where(whole, 2, 1), back),
            y=keep(jnp.where(taken, new, y), y0),
            tangent=keep(jnp.where(taken, new_tangent, tangent), -t0),
            orientation=keep(jnp.where(taken, orientation, state.orientation), -orientation0),
            step=keep(step, jnp.asarray(steps.first, y.dtype)),
            counts=state.counts.at[back].set(count),
            ended=ends,
            rows=jax.lax.dynamic_update_slice(
                state.rows,
                jnp.concatenate([new, sense * new_tangent, jnp.stack([sense * orientation, kinked])])[None],
                (row, 0),
            ),
        )

    blank = jnp.full((2 * num_each + 2, 2 * size + 2), jnp.nan, y0.dtype)
    first = jnp.concatenate([y0, t0, jnp.stack([orientation0, 0.0])])
    start = _State(
        back=jnp.where(found, 0, 2),
        y=y0,
        tangent=t0,
        orientation=orientation0,
        step=jnp.asarray(steps.first, y0.dtype),
        counts=jnp.zeros(2, int),
        ended=jnp.full(2, NO_START),
        rows=blank.at[num_each].set(jnp.where(found, first, jnp.nan)),
    )

    end = jax.lax.while_loop(lambda state: any_lane(state.back < 2), advance, start)
    total = jnp.where(found, 1 + end.counts.sum(), 0)
    before = end.counts[1]
    places = jnp.arange(2 * num_each + 1)
    rows = jnp.roll(end.rows[:-1], before - num_each, axis=0)
    rows = jnp.where((places < total)[:, None], rows, jnp.nan)
    met = rows[:, -1] == 1  # on the way from the start's side: before the row, or after it
    kinks = jnp.where(places < before, met, jnp.roll(met, -1)) & (places < total - 1)
    return Path(rows[:, :size], rows[:, size:-2], rows[:, -2], kinks, total, before, end.ended)


def _border(row):
    """The row scaled to a largest entry of 1, so that elimination chooses its pivots well."""
    return row / jnp.abs(row).max()


def _sign(jacobian, border):
    return linear.solve_with_sign(jnp.vstack([jacobian, _border(border)]), jnp.zeros_like(border))[1]
