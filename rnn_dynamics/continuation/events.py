"""Where a branch of fixed points bifurcates: found between its points by what changes, located by Newton's method.

Row 7 of the layer table: above `arclength`. Next: `branch`, which collects them, and `normal_forms`.

Along a branch y = (x, p), with A = [G_x G_p], its tangent t and the multipliers λ of the map (rates of the field):

- LP, a fold: the tangent's last component changes sign;
- BP, a branch point: det [A; t] changes sign;
- PD, a flip: det(F_x + I) changes sign, which the number of real multipliers below -1 tells;
- NS (of a field H): the number of unstable multipliers changes by two more than these account for. Two real ones with
  product 1 (sum 0), a neutral saddle, change no number: they are never seen.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_dynamics.continuation import arclength, linear

__all__ = ["BC", "BP", "KINDS", "LP", "NS", "PD", "Located", "Problem", "locate", "signatures"]

KINDS = ("LP", "PD", "NS", "BP", "BC", "H")
LP, PD, NS, BP, BC, H = range(6)

PER_INTERVAL = 8
"""The most special points that are looked for between two neighbouring points of a branch."""


class Problem(NamedTuple):
    """What is continued: G(y) for y = (x, p), the Jacobian F_x of the map or field, and which of the two it is."""

    residual: Callable
    jacobian: Callable
    discrete: bool
    weights: Float[Array, " m"]


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


def eigenvalues(matrix):
    """The eigenvalues of one matrix, unordered; in closed form up to two."""
    if len(matrix) == 1:
        return matrix[0].astype(_complex(matrix.dtype))
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        half, spread = (a + d) / 2, ((a - d) / 2) ** 2 + b * c
        root = jnp.sqrt(jnp.abs(spread))
        # Of two real ones, the larger without cancellation and the other from the determinant.
        large = half + jnp.where(half < 0, -root, root)
        small = jnp.where(large == 0, 0.0, (a * d - b * c) / jnp.where(large == 0, 1.0, large))
        pair = jax.lax.complex(jnp.stack([half, half]), jnp.stack([root, -root]))
        return jnp.where(spread < 0, pair, jnp.stack([large, small]).astype(pair.dtype))
    return jnp.linalg.eigvals(matrix)


def signatures(problem: Problem, tangent, orientation, values) -> Signature:
    """Of one point or of many, from the tangent, the orientation and the multipliers there."""
    band = _band(tangent.dtype)
    slope = tangent[..., -1] * jnp.sqrt(problem.weights[-1])
    side = jnp.where(jnp.abs(slope) <= band, 0, jnp.sign(slope)).astype(int)
    width = band * jnp.maximum(1, jnp.abs(values).max(-1, keepdims=True))
    excess = jnp.abs(values) - 1 if problem.discrete else values.real
    unstable = jnp.sum(excess > width, axis=-1)
    real = jnp.abs(values.imag) <= 0
    flips = jnp.sum(real & (values.real < -1 - width), axis=-1) % 2 if problem.discrete else jnp.zeros_like(unstable)
    return Signature(side, orientation.astype(int), flips, unstable)


def locate(problem: Problem, path: arclength.Path, values, max_events: int) -> Located:
    """The special points between the points of a path, whose multipliers are `values`."""
    rows = jnp.arange(len(path.y) - 1)
    signature = signatures(problem, path.tangent, path.orientation, values)
    signature = signature._replace(side=_carry_on(signature.side))
    earlier, later = (jax.tree.map(lambda field, at=at: field[at], signature) for at in (rows, rows + 1))
    inside = rows < path.number - 1
    kinks = path.kink[:-1] & inside
    candidates = inside & (kinks | _differ(earlier, later))
    places = jnp.nonzero(candidates, size=max_events, fill_value=len(rows) - 1)[0]
    number = jnp.minimum(candidates.sum(), max_events)

    def advance(state):
        which, tries, point, count, found = state
        place = places[which]
        end = _Point(path.y[place + 1], path.tangent[place + 1], jax.tree.map(lambda f: f[place + 1], signature))
        corner = path.y[place + (place >= path.start)]  # the row farther from the start is on the corner
        kind, y, residual, converged, after, more = jax.lax.cond(
            kinks[place], lambda: _kink(problem, corner, end), lambda: _first(problem, point, end)
        )
        row = jnp.where(kind >= 0, count, max_events)
        found = found._replace(
            kind=found.kind.at[row].set(kind),
            y=found.y.at[row].set(y),
            residual=found.residual.at[row].set(residual),
            converged=found.converged.at[row].set(converged),
        )
        count = count + (kind >= 0)
        more &= tries + 1 < PER_INTERVAL
        which = jnp.where(more, which, which + 1)
        fresh = places[jnp.minimum(which, max_events - 1)]
        begin = _Point(path.y[fresh], path.tangent[fresh], jax.tree.map(lambda f: f[fresh], signature))
        point = _choose(more, after, begin)
        return which, jnp.where(more, tries + 1, 0), point, count, found

    first = places[0]
    begin = _Point(path.y[first], path.tangent[first], jax.tree.map(lambda f: f[first], signature))
    blank = jnp.full((max_events + 1, path.y.shape[1]), jnp.nan, path.y.dtype)
    none = jnp.full(max_events + 1, -1)
    nowhere = Located(none, blank, blank[:, 0], none >= 0, jnp.zeros((), int), candidates.sum() <= max_events)
    state = jnp.zeros((), int), jnp.zeros((), int), begin, jnp.zeros((), int), nowhere
    state = jax.lax.while_loop(lambda s: (s[0] < number) & (s[3] < max_events), advance, state)
    *_, count, found = state
    complete = found.complete & (state[0] >= number)
    return Located(found.kind[:-1], found.y[:-1], found.residual[:-1], found.converged[:-1], count, complete)


class _Point(NamedTuple):
    y: Array
    tangent: Array
    signature: Signature


def _kink(problem, y, end):
    """A jump of the Jacobian that the path has met, and located."""
    residual = jnp.abs(problem.residual(y)).max()
    return jnp.asarray(BC), y, residual, residual <= _tol(y.dtype), end, jnp.asarray(False)


def _first(problem, begin, end):
    """The first special point between two points of a branch, and the point just beyond it.

    Newton's method from the middle of a bracket in which one thing changes; where it does not converge to a point of
    the bracket, the bracket is halved, by what has changed at its middle. A change that stays in ever shorter brackets
    while Newton's method finds nothing is a jump of the Jacobian: a border collision.
    """
    length = _norm(problem, end.y - begin.y)
    shortest = 50 * float(jnp.finfo(end.y.dtype).eps)

    def again(state):
        low, high, *_, halve, _ = state
        kind = _kind(low.signature, high.signature)
        y, residual, converged = _newton(problem, kind, low, high)
        chord = high.y - low.y
        width = _norm(problem, chord)
        along = jnp.sum(problem.weights * chord * (y - low.y)) / width**2
        aside = _norm(problem, y - low.y - along * chord)
        found = converged & (along >= -0.05) & (along <= 1.05) & (aside <= width) & (kind >= 0) & ~halve

        # The next point to look at: half way, or just beyond what was found, where the rest of the interval begins.
        rest = end.y - y
        stride = jnp.minimum(1e-3 * length, width / 10)
        onward = y + stride * rest / jnp.maximum(_norm(problem, rest), tiny)
        across = problem.weights * jnp.where(found, rest, chord)
        border = across / jnp.maximum(jnp.abs(across).max(), tiny)
        guess = jnp.where(found, onward, (low.y + high.y) / 2)
        middle, ok = _point_near(problem, guess, border, low)
        room = ok & (_norm(problem, rest) > 2 * stride)
        # What was found must be all that lies before the point beyond it, unless they are too near to be told apart.
        whole = (_kind(low.signature, middle.signature) == kind) | ~room | (width <= 1e-5 * length)
        done = found & whole
        left = _differ(low.signature, middle.signature)
        stuck = ~found & (~ok | (width <= shortest * (1 + _norm(problem, low.y))))
        new_low = _choose(left | found | stuck, low, middle)
        new_high = _choose(done | (left & ~found & ~stuck), middle, high)
        return new_low, new_high, kind, y, residual, done, room, found & ~whole, done | stuck

    no = jnp.asarray(False)
    tiny = float(jnp.finfo(end.y.dtype).tiny)
    nothing = jnp.asarray(-1), begin.y, jnp.asarray(jnp.inf, end.y.dtype), no, no, no, no
    state = jax.lax.while_loop(lambda state: ~state[-1], again, (begin, end, *nothing))
    low, high, kind, y, residual, done, room, *_ = state

    a, b = jax.vmap(problem.jacobian)(jnp.stack([low.y, high.y]))
    jumps = jnp.abs(a - b).max() > 1e-6 * jnp.maximum(jnp.abs(a).max(), jnp.abs(b).max())
    short = _norm(problem, high.y - low.y) <= 1e-6 * (1 + _norm(problem, low.y))
    border = ~done & jumps & short
    y = jnp.where(done, y, (low.y + high.y) / 2)
    kind = jnp.where(border, BC, jnp.where(kind >= 0, kind, _likeliest(low.signature, high.signature)))
    residual = jnp.where(done, residual, jnp.abs(problem.residual(y)).max())
    sure = done | (border & (residual <= _tol(y.dtype)))
    return kind, y, residual, sure, high, (room | ~done) & _differ(high.signature, end.signature)


def _choose(which, a, b):
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)


def _point_near(problem, guess, border, low):
    """The point of the branch on a plane through the guess, and whether it was found."""
    y, converged, _ = arclength.correct(problem.residual, guess, border, problem.weights)
    tangent, orientation = arclength.tangent_at(problem.residual, y, low.tangent, problem.weights)
    signature = signatures(problem, tangent, orientation, eigenvalues(problem.jacobian(y)))
    side = jnp.where(signature.side == 0, low.signature.side, signature.side)
    return _Point(y, tangent, signature._replace(side=side)), converged & jnp.isfinite(tangent).all()


def _differ(a, b):
    sides = a.side * b.side < 0
    turns = a.orientation * b.orientation < 0
    return sides | turns | (a.flips != b.flips) | (a.unstable != b.unstable)


def _kind(a, b):
    """The one kind of special point that accounts for all that differs; -1 if it takes more than one."""
    side, turn, flip = a.side * b.side < 0, a.orientation * b.orientation < 0, a.flips != b.flips
    change = jnp.abs(b.unstable - a.unstable)
    fold = side | turn  # a branch point on whose curve the parameter turns back, as at a pitchfork, changes both
    return jnp.select(
        [turn & ~flip & (change <= 1), fold & ~flip & (change <= 1), flip & ~fold & (change == 1)],
        [BP, LP, PD],
        jnp.where(~fold & ~flip & (change == 2), NS, -1),
    )


def _likeliest(a, b):
    """What to call a point in which several coincide."""
    turn, side = a.orientation * b.orientation < 0, a.side * b.side < 0
    return jnp.select([turn, side, a.flips != b.flips], [BP, LP, PD], NS)


def _newton(problem, kind, low, high):
    """A special point of this kind from the middle of a bracket: (y, residual with the test function, converged)."""
    share = low.tangent[-1] / (low.tangent[-1] - high.tangent[-1])
    share = jnp.where((kind == LP) & (share > 0) & (share < 1), share, 0.5)
    guess = low.y + share * (high.y - low.y)
    multiplier = jnp.where(kind == PD, -1, 1 if problem.discrete else 0).astype(guess.dtype)
    branches = [lambda: _real(problem, guess, multiplier), lambda: _branch_point(problem, guess)]
    if len(guess) > 2:
        branches.append(lambda: _pair(problem, guess, high.y))
    return jax.lax.switch(jnp.select([kind == BP, kind == NS], [1, 2], 0), branches)


def _real(problem, guess, multiplier):
    """A fold or a flip: G = 0 and F_x - μI singular, as a bordered scalar (Govaerts 2000, chapter 3)."""
    size = len(guess) - 1
    identity = jnp.eye(size, dtype=guess.dtype)
    if size == 1:

        def system(y):
            return jnp.append(problem.residual(y), problem.jacobian(y) - multiplier)

        return _polish(system, guess, problem.weights, lambda y: jnp.abs(system(y)).max())
    left, right = linear.null_vectors(problem.jacobian(guess) - multiplier * identity)

    def system(y):
        matrix = problem.jacobian(y) - multiplier * identity
        return jnp.append(problem.residual(y), _bordered(matrix, left, right))

    return _polish(system, guess, problem.weights, lambda y: jnp.abs(system(y)).max())


def _pair(problem, guess, where):
    """A complex pair on the unit circle, e^{±iθ}, or on the imaginary axis, ±iω: unknowns y and θ or ω."""
    size = len(guess) - 1
    values = eigenvalues(problem.jacobian(where))
    excess = jnp.abs(jnp.abs(values) - 1) if problem.discrete else jnp.abs(values.real)
    chosen = values[jnp.argmin(jnp.where(values.imag > 0, excess, jnp.inf))]
    phase = jnp.angle(chosen) if problem.discrete else chosen.imag

    def shifted(y, phase):
        value = jnp.exp(1j * phase) if problem.discrete else 1j * phase
        return problem.jacobian(y) - value * jnp.eye(size, dtype=guess.dtype)

    left, right = linear.null_vectors(shifted(guess, phase))

    def system(z):
        test = _bordered(shifted(z[:-1], z[-1]), left, right)
        return jnp.concatenate([problem.residual(z[:-1]), jnp.stack([test.real, test.imag])])

    weights = jnp.append(problem.weights, 1.0)
    z, residual, converged = _polish(system, jnp.append(guess, phase), weights, lambda z: jnp.abs(system(z)).max())
    truly = (jnp.abs(jnp.sin(z[-1])) if problem.discrete else jnp.abs(z[-1])) > math.sqrt(_tol(guess.dtype))
    return z[:-1], residual, converged & truly


def _branch_point(problem, guess):
    """A simple branch point: A = [G_x G_p] loses rank. There G = 0 is not regular; G + βw = 0 is, with β → 0.

    The two conditions on the rank are the bordered ones for a left null vector of A (Govaerts 2000, chapter 8, for the
    minimally extended form of Moore's 1980 system).
    """
    size = len(guess) - 1
    jacobian = linear.derivative(problem.residual, guess)[1]
    if size == 1:  # both derivatives of the one equation vanish, and it holds of itself

        def slope(y):
            return linear.derivative(problem.residual, y)[1][0]

        def largest(y):
            return jnp.maximum(jnp.abs(slope(y)).max(), jnp.abs(problem.residual(y)).max())

        return _polish(slope, guess, problem.weights, largest)
    left, _, right = jnp.linalg.svd(jacobian)
    left, second = left[:, -1], right[-2:]

    def system(z):
        y, slack = z[:-1], z[-1]
        value, matrix = linear.derivative(problem.residual, y)
        top = jnp.hstack([matrix.T, second.T])
        whole = jnp.vstack([top, jnp.append(left, jnp.zeros(2, left.dtype))])
        tests = linear.solve(whole, jnp.zeros(size + 2, left.dtype).at[-1].set(1))[-2:]
        return jnp.concatenate([value + slack * left, tests])

    weights = jnp.append(problem.weights, 1.0)

    def defect(z):
        return jnp.maximum(jnp.abs(system(z)).max(), jnp.abs(problem.residual(z[:-1])).max())

    z, residual, converged = _polish(system, jnp.append(guess, 0.0), weights, defect)
    return z[:-1], residual, converged


def _bordered(matrix, left, right):
    """The scalar g of [M b; c* 0] (v; g) = (0; 1): zero exactly where M is singular (Govaerts 2000, chapter 3)."""
    size = len(matrix)
    whole = jnp.block([[matrix, left[:, None]], [right.conj()[None], jnp.zeros((1, 1), matrix.dtype)]])
    return linear.solve(whole, jnp.zeros(size + 1, whole.dtype).at[-1].set(1))[-1]


def _polish(system, start, weights, defect):
    """Newton's method down to the rounding floor: it stops where the corrections no longer shrink."""

    def again(state):
        z, best, least, last, _, count = state
        value, jacobian = linear.derivative(system, z)
        change = linear.solve(jacobian, -value)
        size = jnp.sqrt(jnp.sum(weights * change**2))
        z = z + change
        error = defect(z)
        better = error < least
        best, least = jnp.where(better, z, best), jnp.where(better, error, least)
        goes_on = jnp.isfinite(size) & (size > 0) & ((size < last) | (count < 3)) & (count < 20)
        return z, best, least, size, goes_on, count + 1

    huge = jnp.asarray(jnp.inf, start.dtype)
    state = start, start, huge, huge, jnp.asarray(True), jnp.zeros((), int)
    _, best, least, *_ = jax.lax.while_loop(lambda state: state[4], again, state)
    return best, least, least <= _tol(start.dtype) * jnp.minimum(1e3, 1 + jnp.abs(best).max())


def _carry_on(sides):
    """Each sign, or where it is 0 the one before it."""
    return jax.lax.associative_scan(lambda a, b: jnp.where(b == 0, a, b), sides)


def _norm(problem, y):
    return jnp.sqrt(jnp.sum(problem.weights * y**2))


def _band(dtype):
    """How near to a border a number has to be not to count as beyond it: rounding must not make events."""
    return float(jnp.finfo(dtype).eps) ** 0.575  # 1e-9 in float64, 1e-4 in float32


def _tol(dtype):
    """What the residual of a defining system may be: 7e-11 in float64, 3e-5 in float32."""
    return float(jnp.finfo(dtype).eps) ** 0.65


def _complex(dtype):
    return jnp.promote_types(dtype, jnp.complex64)
