"""Where a branch of fixed points bifurcates: found between its points by what changes, located by Newton's method.

Row 7 of the layer table: above `crossings`. Next: `branch`, which collects them, and `normal_forms`.

Along a branch y = (x, p), with A = [G_x G_p], its tangent t and the multipliers λ of the map (rates of the field):

- LP, a fold: the tangent's last component changes sign;
- BP, a branch point: det [A; t] changes sign;
- PD, a flip: det(F_x + I) changes sign, which the number of real multipliers below -1 tells;
- NS (of a field H): the number of unstable multipliers changes by two more than these account for. Two real ones with
  product 1 (sum 0), a neutral saddle, change no number: they are never seen. Two that cross at 1 (0) together, or at
  -1, as in symmetric networks, are a BP, or a PD.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_dynamics._compile import any_lane
from rnn_dynamics.continuation import arclength, crossings, defining, linear

__all__ = ["BC", "BP", "KINDS", "LP", "NS", "PD", "Located", "locate", "signatures"]

KINDS = ("LP", "PD", "NS", "BP", "BC", "H")
LP, PD, NS, BP, BC, H = range(6)

PER_INTERVAL = 8
"""The most special points that are looked for between two neighbouring points of a branch."""


class Signature(NamedTuple):
    """What changes at a special point, and only there."""

    side: Int[Array, "*k"]
    """The sign of dp/ds; 0 where it is too small to tell."""
    orientation: Int[Array, "*k"]
    flips: Int[Array, "*k"]
    """The parity of the number of real multipliers below -1."""
    unstable: Int[Array, "*k"]


class Located(NamedTuple):
    """Special points in the order of the branch, padded; `kind` is an index of `KINDS`, -1 in the padding."""

    kind: Int[Array, " e"]
    y: Float[Array, "e m"]
    residual: Float[Array, " e"]
    converged: Bool[Array, " e"]
    number: Int[Array, ""]
    complete: Bool[Array, ""]


def signatures(problem: crossings.Problem, tangent, orientation, values) -> Signature:
    """Of one point or of many, from the tangent, the orientation and the multipliers there."""
    band = _band(tangent.dtype)
    slope = tangent[..., -1] * jnp.sqrt(problem.weights[-1])
    level = float(jnp.finfo(tangent.dtype).eps) ** 0.8  # rounding of the bordered solve, with room
    side = jnp.where(jnp.abs(slope) <= level, 0, jnp.sign(slope)).astype(int)
    width = band * jnp.maximum(1, jnp.abs(values).max(-1, keepdims=True))
    unstable = jnp.sum(crossings.excess(values, problem.discrete) > width, axis=-1)
    real = jnp.abs(values.imag) <= 0
    flips = jnp.sum(real & (values.real < -1 - width), axis=-1) % 2 if problem.discrete else jnp.zeros_like(unstable)
    return Signature(side, orientation.astype(int), flips, unstable)


def locate(problem: crossings.Problem, path: arclength.Path, values, max_events: int) -> Located:
    """The special points between the points of a path, whose multipliers are `values`.

    Between two points at which something differs, Newton's method starts from the middle of the bracket. What it finds
    counts if it lies in the bracket and accounts for all that differs between the lower end and a point just beyond;
    else the bracket is halved, by what differs at its middle. A difference that stays in ever shorter brackets while
    Newton's method finds nothing is a jump of the Jacobian, a border collision.
    """
    signature = signatures(problem, path.tangent, path.orientation, values)
    closed = path.ended[1] == arclength.CLOSED
    side, orientation = (_carry_on(signs, path.number, closed) for signs in (signature.side, signature.orientation))
    signature = signature._replace(side=side, orientation=orientation)
    points = _Point(path.y, path.tangent, values, signature)
    inside = jnp.arange(len(path.y) - 1) < path.number - 1
    kinks = path.kink[:-1] & inside
    earlier, later = (jax.tree.map(lambda field, cut=cut: field[cut], signature) for cut in (slice(-1), slice(1, None)))
    candidates = inside & (kinks | _differ(earlier, later))
    places = jnp.nonzero(candidates, size=max_events, fill_value=len(inside) - 1)[0]
    last = jnp.minimum(candidates.sum(), max_events)

    def point(row):
        return jax.tree.map(lambda field: field[row], points)

    def enter(which):
        place = places[jnp.minimum(which, max_events - 1)]
        return _Search(which, jnp.zeros((), int), point(place), point(place + 1), jnp.asarray(False))

    def goes_on(state):
        return (state[0].which < last) & (state[1] < max_events)

    def advance(state):
        search, count, rows = state
        place = places[search.which]
        end = point(place + 1)
        length = _norm(problem, end.y - path.y[place])
        kink = kinks[place]
        corner = path.y[place + (place >= path.start)]  # the row farther from the start lies on the corner
        found, over, more, search = _narrow(problem, search, end, length)
        kind = jnp.where(kink, BC, found.kind)
        over, more = (over | kink) & goes_on(state), more & ~kink
        unsure = over & found.unsure & (kind != BC)
        ends = crossings.Point(path.y[place], path.tangent[place]), crossings.Point(end.y, end.tangent)
        y, error, solved = crossings.interpolated(problem, found.y, ends, found.number, found.turns, unsure)
        y = jnp.where(kink, corner, y)
        left = jnp.abs(problem.residual(y)).max()
        border = left, left <= defining.tol(y.dtype)
        residual, sure = _choose(kind == BC, border, _choose(unsure, (error, solved), (found.residual, found.sure)))
        row = jnp.concatenate([y, jnp.stack([kind.astype(y.dtype), residual, sure.astype(y.dtype)])])
        rows = jax.lax.dynamic_update_slice(rows, row[None], (jnp.where(over, count, max_events), 0))
        tries = search.tries + over
        again = _Search(search.which, tries, search.high, end, jnp.asarray(False))
        onward = _choose(more & (tries < PER_INTERVAL), again, enter(search.which + 1))
        return _choose(over, onward, search), count + over, rows

    blank = jnp.full((max_events + 1, path.y.shape[1] + 3), jnp.nan, path.y.dtype)
    state = enter(jnp.zeros((), int)), jnp.zeros((), int), blank
    search, count, rows = jax.lax.while_loop(lambda state: any_lane(goes_on(state)), advance, state)
    rows = rows[:-1]
    known = jnp.arange(max_events) < count
    rows = jnp.where(known[:, None], rows, jnp.nan)
    kind = jnp.where(known, rows[:, -3], -1).astype(int)
    complete = (candidates.sum() <= max_events) & (search.which >= last)
    return Located(kind, rows[:, :-3], rows[:, -2], rows[:, -1] == 1, count, complete)


class _Point(NamedTuple):
    y: Array
    tangent: Array
    values: Array
    signature: Signature


class _Search(NamedTuple):
    """A bracket between two neighbouring points: the `which`-th candidate, of which `tries` events are known."""

    which: Array
    tries: Array
    low: _Point
    high: _Point
    halve: Array


class _Guess(NamedTuple):
    kind: Array
    y: Array
    residual: Array
    sure: Array
    unsure: Array
    """Whether it was found, but not by the fast convergence to a regular point, or not at all."""
    number: Array
    """How many multipliers cross."""
    turns: Array
    """Whether the parameter turns back."""


def _narrow(problem, search, end, length):
    """One round of the search: (what it holds to be there, whether it is over, whether more may follow, what next)."""
    _, _, low, high, halve = search
    shortest, tiny = 50 * float(jnp.finfo(end.y.dtype).eps), float(jnp.finfo(end.y.dtype).tiny)
    kind = _kind(low.signature, high.signature)
    y, residual, converged, regular, lost, named = _newton(problem, jnp.where(halve, -1, kind), low, high)
    chord = high.y - low.y
    width = _norm(problem, chord)
    along = jnp.sum(problem.weights * chord * (y - low.y)) / width**2
    aside = _norm(problem, y - low.y - along * chord)
    found = converged & (along >= -1e-3) & (along <= 1 + 1e-3) & (aside <= width) & (kind >= 0) & ~halve

    # The next point to look at: half way, or just beyond what was found, where the rest of the interval begins.
    rest = end.y - y
    stride = jnp.maximum(jnp.minimum(1e-3 * length, width / 10), 20 * _band(end.y.dtype))
    onward = y + stride * rest / jnp.maximum(_norm(problem, rest), tiny)
    across = problem.weights * jnp.where(found, rest, chord)
    border = across / jnp.maximum(jnp.abs(across).max(), tiny)
    guess = jnp.where(found, onward, (low.y + high.y) / 2)
    middle, ok = _point_near(problem, guess, border, low)
    room = ok & (_norm(problem, rest) > 2 * stride)
    # What was found must be all that lies before the point beyond it, unless they are too near to be told apart.
    beyond = _choose(room, middle, end).signature
    whole = (_kind(low.signature, beyond) == kind) | (width <= jnp.maximum(1e-5 * length, 20 * _band(end.y.dtype)))
    done = found & whole
    left = _differ(low.signature, middle.signature)
    stuck = ~found & (~ok | (width <= shortest * (1 + _norm(problem, low.y))))
    new_low = _choose(left | found | stuck, low, middle)
    new_high = _choose(done | (left & ~found & ~stuck), middle, high)

    short = width <= 1e-6 * (1 + _norm(problem, low.y))
    border = stuck & short & _jumps(low.values, high.values)
    kind = jnp.where(border, BC, jnp.where(found, named, _likeliest(problem, low, high)))
    after = _choose(found, beyond, high.signature)
    number = jnp.maximum(jnp.abs(after.unstable - low.signature.unstable), 1)
    turns = after.side * low.signature.side < 0
    y = jnp.where(done, y, (low.y + high.y) / 2)
    guess = _Guess(kind, y, residual, done & ~lost, ~(done & (regular | lost)), number, turns)
    more = (room | stuck) & _differ(new_high.signature, end.signature)
    return guess, done | stuck, more, _Search(search.which, search.tries, new_low, new_high, found & ~whole)


def _jumps(a, b):
    """Whether two sets of multipliers, in whatever order, are not close: by their first two power sums."""
    size = 1 + jnp.maximum(jnp.abs(a).max(), jnp.abs(b).max())
    return (jnp.abs(a.sum() - b.sum()) > 1e-6 * size) | (jnp.abs((a**2).sum() - (b**2).sum()) > 1e-6 * size**2)


def _choose(which, a, b):
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)


def _point_near(problem, guess, border, low):
    """The point of the branch on a plane through the guess, and whether it was found."""
    y, converged, _ = arclength.correct(problem.residual, guess, border, problem.weights)
    tangent, orientation = arclength.tangent_at(problem.residual, y, low.tangent, problem.weights)
    values = linear.eigenvalues(problem.jacobian(y))
    signature = signatures(problem, tangent, orientation, values)
    pairs = zip(signature[:2], low.signature[:2], strict=True)
    side, orientation = (jnp.where(sign == 0, carried, sign) for sign, carried in pairs)
    signature = signature._replace(side=side, orientation=orientation)
    return _Point(y, tangent, values, signature), converged & jnp.isfinite(tangent).all()


def _differ(a, b):
    """Whether something happened. One unstable multiplier more, and nothing else, is a fold's before or after it.

    A real multiplier at 1 takes the tangent or the orientation with it, one at -1 the parity of the flips; within the
    bands next to them one is seen before the other.
    """
    sides = a.side * b.side < 0
    turns = a.orientation * b.orientation < 0
    return sides | turns | (a.flips != b.flips) | (jnp.abs(a.unstable - b.unstable) > 1)


def _kind(a, b):
    """The one kind of special point that accounts for all that differs; -1 if it takes more than one."""
    side, turn, flip = a.side * b.side < 0, a.orientation * b.orientation < 0, a.flips != b.flips
    change = jnp.abs(b.unstable - a.unstable)
    fold = side | turn  # a branch point on whose curve the parameter turns back, as at a pitchfork, changes both
    return jnp.select(
        [turn & ~flip & (change <= 1), fold & ~flip & (change <= 1), flip & ~fold & (change <= 1)],
        [BP, LP, PD],
        jnp.where(~fold & ~flip & (change == 2), NS, -1),
    )


def _likeliest(problem, low, high):
    """What to call a point that Newton's method does not find, as one in which several coincide."""
    a, b = low.signature, high.signature
    turn, side = a.orientation * b.orientation < 0, a.side * b.side < 0
    nearest = low.values[jnp.argmin(jnp.abs(crossings.excess(low.values, problem.discrete)))]
    real = jnp.abs(nearest.imag) <= math.sqrt(defining.tol(low.y.dtype))
    flip = (a.flips != b.flips) | (real & problem.discrete & (nearest.real < 0))
    return jnp.select([turn, side, flip, real], [BP, LP, PD, BP], NS)


def _newton(problem, kind, low, high):
    """A special point from inside a bracket: (y, residual, converged, regular, if p is lost in rounding, its kind).

    The residual is the largest of the fixed point's and of the test functions. Where several multipliers are critical
    the system is not regular, and its residual tells little of the distance: Newton's method converges slowly.

    With M = [F_x - μ, b; c* 0], M (v; g) = (0; 1) and M* (w; ·) = (0; 1), the scalar g vanishes exactly where μ is an
    eigenvalue, and its derivative is -w* (F_x - μ)' v: no derivative of a linear solver is needed. The unknowns are y
    and one more number s:

    - LP and PD, μ = 1 and -1 (a field's fold: 0): G = 0, g = 0, s = 0;
    - NS and H, μ = e^{is} and is: G = 0, Re g = Im g = 0;
    - BP: G + s b = 0, g = 0 and w* G_p = 0, which with μ = 1 make [G_x G_p] lose rank; there s = 0. Without s the
      system would be singular itself (Moore 1980).

    The bordering vectors b and c follow w and v, so M stays regular; before the first round they alone move, which is
    inverse iteration. Of no kind, -1, nothing is solved.

    References:
        Govaerts (2000), Numerical methods for bifurcations of dynamical equilibria, chapters 3, 4 and 8; Kuznetsov
        (2004), section 10.2.
    """
    size, dtype = len(low.y) - 1, low.y.dtype
    complex_pair, crossing = kind == NS, kind == BP
    (below, _), (above, critical) = (_test(problem, kind, point) for point in (low, high))
    share = below / (below - above)
    share = jnp.where((share > 0) & (share < 1) & ~crossing, share, 0.5)
    phase = jnp.angle(critical) if problem.discrete else critical.imag
    real = jnp.where(kind == PD, -1.0, 1.0) if problem.discrete else 0.0
    guess = jnp.append(low.y + share * (high.y - low.y), jnp.where(complex_pair, phase, 0.0))
    weights = jnp.append(problem.weights, 1.0)
    last = jnp.zeros(size + 1, critical.dtype).at[-1].set(1)
    at_p = jnp.zeros(size + 1, dtype).at[-1].set(1)

    def pushed(y, direction):
        return jax.jvp(problem.residual, (y,), (direction,))[1]

    def shifted(z):
        value = jnp.exp(1j * z[-1]) if problem.discrete else 1j * z[-1]
        value = jnp.where(complex_pair, value, real)
        return problem.jacobian(z[:-1]) - value * jnp.eye(size, dtype=dtype), value

    def bordered(matrix, b, c, slope):
        """(v; g), (w; ·) and M⁻¹ (-slope; 0)."""
        whole = jnp.block([[matrix, b[:, None]], [c.conj()[None], jnp.zeros((1, 1), matrix.dtype)]])
        right, moved, left = linear.solve_both(whole, [last, jnp.append(-slope, 0.0).astype(last.dtype)], last)
        return right, left[:-1], moved

    def unit(v):
        return v / jnp.linalg.norm(v)

    def again(state):
        z, best, least, old, _, b, c, count, _ = state
        y, s = z[:-1], z[-1]
        matrix, value = shifted(z)
        slope = pushed(y, at_p)
        right, w, moved = bordered(matrix, b, c, slope)
        v, g, x_p = right[:-1], right[-1], moved[:-1]
        first = jnp.append(v.real, 0.0)
        second = jnp.where(crossing, jnp.append(x_p.real, 1.0), jnp.append(v.imag, 0.0))

        def linearised(y):
            return jnp.stack([problem.residual(y), pushed(y, first), pushed(y, second)])

        (defect, _, _), (top, along_first, along_second) = linear.derivative(linearised, y)
        rows = -(w.conj() @ (along_first + 1j * along_second))
        turn = 1j * value if problem.discrete else 1j
        across = jnp.where(complex_pair, turn * jnp.vdot(w, v), 0.0)
        tests = jnp.stack([g.real, jnp.where(crossing, -(w.real @ slope), jnp.where(complex_pair, g.imag, 0.0))])
        both = complex_pair | crossing
        third = jnp.where(both, jnp.append(rows.imag, across.imag), jnp.append(0 * rows.imag, 1.0))
        system = jnp.vstack(
            [
                jnp.hstack([top, jnp.where(crossing, b.real, 0.0)[:, None]]),
                jnp.append(rows.real, across.real),
                third,
            ]
        )
        error = jnp.maximum(jnp.abs(defect).max(), jnp.abs(tests).max())
        error = jnp.where(jnp.isfinite(error), error, jnp.inf)
        better = error < least
        best, least = jnp.where(better, z, best), jnp.where(better, error, least)
        rest = jnp.append(defect + jnp.where(crossing, s * b.real, 0.0), tests)
        rest = jnp.where(jnp.arange(size + 2) == size + 1, jnp.where(both, rest[-1], s), rest)
        change = linear.solve(system, -rest)
        move = jnp.sqrt(jnp.sum(weights * change**2))
        # After a small move the square of it is below rounding: the point just judged is the last.
        last_one = (old <= small) & (error <= floor)
        goes_on = jnp.isfinite(move) & (move > 0) & ((move < old) | (count < 3)) & ~last_one
        rounding = eps * jnp.abs(y[:-1]).max() * jnp.sqrt(problem.weights[-1]) / jnp.abs(slope).max()
        return z + change, best, least, move, rounding, unit(w), unit(v), count + 1, goes_on & (count < 23)

    def turned(_, borders):
        right, w, _ = bordered(at_guess, borders[0], borders[1], jnp.zeros(size, dtype))
        return unit(w), unit(right[:-1])

    eps, huge = float(jnp.finfo(dtype).eps), jnp.asarray(jnp.inf, dtype)
    small, floor = 0.1 * math.sqrt(eps), 100 * eps
    b = c = unit(jnp.cos(1.0 + jnp.arange(size)).astype(last.dtype))  # no special direction
    if size > 1:
        at_guess, _ = shifted(guess)
        b, c = jax.lax.fori_loop(0, 2, turned, (b, c))
    state = guess, guess, huge, huge, huge, b, c, jnp.zeros((), int), kind >= 0
    _, best, least, move, rounding, *_ = jax.lax.while_loop(lambda state: state[-1], again, state)
    # A double real multiplier, as symmetric networks have, solves the equations of a pair too.
    angle, at_minus_one = (jnp.sin(best[-1]), jnp.cos(best[-1]) < 0) if problem.discrete else (best[-1], False)
    double = complex_pair & (jnp.abs(angle) <= math.sqrt(defining.tol(dtype)))
    kind = jnp.where(double, jnp.where(at_minus_one, PD, BP), kind)
    # Over a narrow span the moves get no smaller than what a rounding of the state moves p, a share of the span.
    settled = move <= jnp.where(rounding < 0.01, jnp.maximum(small, 8 * rounding), small)
    lost = (kind == LP) & (rounding > 0.05)
    return best[:-1], least, defining.solved(least, best[:-1]), settled & ~double, lost, kind


def _test(problem, kind, point):
    """A number that changes sign at a fold, a flip or a Neimark-Sacker point, and the multiplier it belongs to."""
    values, beyond = point.values, crossings.excess(point.values, problem.discrete)
    meant = jnp.where(kind == NS, values.imag > 0, (values.imag == 0) & (values.real < 0))
    nearest = jnp.argmin(jnp.where(meant, jnp.abs(beyond), jnp.inf))
    return jnp.where(kind == LP, point.tangent[-1], beyond[nearest]), values[nearest]


def _carry_on(signs, number, closed):
    """Each sign, or where it is 0 the last before it: a point exactly on a fold belongs to the side it came from.

    Before the first row comes the last on a closed curve; elsewhere nothing, and the first sign there is stands.
    """
    rows = jnp.arange(len(signs))
    told = (signs != 0) & (rows < number)
    last = jax.lax.cummax(jnp.where(told, rows, -1))
    return signs[jnp.where(last >= 0, last, jnp.where(closed, last[-1], jnp.argmax(told)))]


def _norm(problem, y):
    return jnp.sqrt(jnp.sum(problem.weights * y**2))


def _band(dtype):
    """How near to a border a number has to be not to count as beyond it: rounding must not make events."""
    return float(jnp.finfo(dtype).eps) ** 0.575  # 1e-9 in float64, 1e-4 in float32
