"""The whole bifurcation diagram: every branch of fixed points and cycles that starts and junctions lead to.

Row 8 of the layer table: above `continuation` and `fixed_points`.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnn_dynamics import _check, continuation, fixed_points, jacobians
from rnn_dynamics.bifurcation.iterates import InUnits, corrected, feet_on, orbits, padded, reach
from rnn_dynamics.continuation import Branch, Event
from rnn_dynamics.fixed_points.canonical import canonical

__all__ = ["Diagram", "diagram"]

_PROVABLE = 8
"""Units of the largest network whose fixed points are enumerated: some milliseconds at each parameter."""
_BESIDE = (1e-3, 1e-2, 3e-2)
"""How far beside a junction to look for what begins there, as parts of the span."""
_ASIDE = (1e-3, 1e-2, 0.1, 0.5, 2.0)
"""And how far off the branch, in units of the state."""


class Diagram(equinox.Module):
    """Branches of fixed points and of cycles over a parameter, with the special points on them.

    It is printed with a question mark after each special point that did not converge: "LP 0.5?".
    """

    branches: tuple[Branch, ...]
    """A cycle of period q is a fixed point of the q-th iterate: multipliers and stability are those of that. Where its
    period halves, the branch ends, and `ended` says "flip"."""
    periods: tuple[int, ...]
    """The least period on each branch; 1 for fixed points."""
    orbits: tuple[Float[np.ndarray, "_ _ n"], ...]
    """Of each branch, the points of its cycles in the order visited, shape (k, q, n)."""
    events: tuple[Event, ...]
    """The special points of all branches, each once, by ascending parameter."""
    values: Float[np.ndarray, " v"]
    """The parameter values at which fixed points were looked for."""
    proved: Bool[np.ndarray, " v"]
    """Where `fixed_points.enumerate` proves that no fixed point is missing; False where it cannot tell."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.periods.count(q)} of period {q}" for q in sorted(set(self.periods)))
        special = ", ".join(map(str, self.events)) or "none"
        proved = f"fixed points proved complete at {int(self.proved.sum())} of {len(self.values)} values"
        return f"Diagram({counts or 'no branch'}; special points: {special}; {proved})"


def diagram(
    family: Callable,
    p_span: tuple[float, float],
    starts: Float[Array, "s n"],
    *,
    u: PyTree = None,
    time: Literal["discrete", "continuous"] = "discrete",
    num_values: int = 17,
    num_doublings: int = 2,
    max_points: int = 1001,
    max_step: float = 0.05,
) -> Diagram:
    """Every branch of fixed points that can be found over a span of parameters, and the cycles that double from them.

    At `num_values` parameters fixed points are sought from all starts, and, for a model that `fixed_points.enumerate`
    knows and is small enough for, proved; each that lies on no branch yet is followed both ways. Beside every branch
    point, and beside every flip for cycles of twice the period, points are sought along the critical eigenvectors and
    followed in turn. What is stable is drawn by what its multipliers say, not by what orbits reach. Runs on the host.

    The unit of length, for steps and tolerances, is where the system leaves its linearisation, or its fixed points'
    size if that is larger: a system that is the same in other units of the state has the same diagram.

    Args:
        family: `p -> map` or `p -> field`. One compilation serves all calls with a family that is an
            `equinox.Module`, whose weights are then arguments.
        p_span: Least and largest parameter.
        starts: Where to look for fixed points, the same at every parameter.
        u: The input, held constant.
        time: "discrete" for maps, "continuous" for fields, which have no flips.
        num_values: Parameters at which to look, the ends included; at least 2.
        num_doublings: How far to follow a cascade: 2 goes to period 4.
        max_points: Points per branch, at most.
        max_step: As in `continuation.trace`.

    Returns:
        The diagram. A branch that closes on itself, or never meets a parameter looked at, can be missed; so can
        anything beyond the starts in a network too large for `enumerate`. A branch stops at a fold that lies exactly on
        an end of the span, and a special point exactly there may not be listed: let the span reach a little further.

    Raises:
        ValueError: as `continuation.trace` and `fixed_points.find`; a family that returns no map.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> found = diagram(Logistic, (0.5, 3.4), jnp.array([[0.1], [0.6]]))
        >>> [(event.kind, round(float(event.p), 9)) for event in found.events]
        [('BP', 1.0), ('PD', 3.0)]
        >>> found.periods
        (1, 1, 2)

    References:
        Doedel, Keller, Kernevez (1991), Numerical analysis and control of bifurcation problems.
    """
    _check.on_host("diagram", family=family, p_span=p_span, starts=starts, u=u)
    starts = _check.starts(starts)
    _check.option("time", time, ("discrete", "continuous"))
    _check.count("num_values", num_values, least=2)
    _check.count("num_doublings", num_doublings)
    low, high = map(float, _check.span("p_span", p_span))
    step = _check.member(family, jnp.asarray(low, starts.dtype), name="family(p)")
    starts = starts.astype(_check.next_state(step, starts[0], u, name="family(p)").dtype)
    values = np.linspace(*_check.apart("p_span", low, high, starts.dtype), num_values)
    search = _Search(family, (low, high), u, time, {"max_points": max_points, "max_step": max_step}, starts)
    found = search.choose_unit(values)
    proved = np.array([search.look_at(p, points) for p, points in zip(values, found, strict=True)])
    search.follow_junctions(num_doublings if time == "discrete" else 0)
    return search.result(values, proved)


class _Search:
    """The branches found so far, and the questions asked of them while more are found; all in units of the state."""

    def __init__(self, family, span, u, time, options, starts):
        self.family, self.span, self.u, self.time, self.options = family, span, u, time, options
        self.width, self.starts, self.dtype = span[1] - span[0], np.asarray(starts), starts.dtype
        self.unit, self.critical = 1.0, 1.0 if time == "discrete" else 0.0
        self.found: list[tuple[Branch, int]] = []

    def choose_unit(self, values):
        """Sets the unit of the state, by what is seen from the starts; where they lead at each value, in that unit."""
        found = [self.fixed(p, 1, self.starts) for p in values]
        finite = [x[np.isfinite(x).all(axis=1)] for x in found]
        ps, xs = np.repeat(values, [len(x) for x in finite]), np.concatenate(finite)
        if not len(xs):
            ps, xs = np.repeat(values, len(self.starts)), np.tile(self.starts, (len(values), 1))
        lengths = self.at_all(reach, ps, xs, self.time)
        lengths = lengths[np.isfinite(lengths)]
        length = max(np.median(lengths) if len(lengths) else 0.0, np.median(np.abs(xs).max(axis=1)))
        if not length > 0 or 1 / 32 <= length <= 32:
            return found
        self.unit = 2.0 ** round(np.log2(length))  # a power of two changes no digit
        self.starts = self.starts / self.dtype.type(self.unit)
        return [self.fixed(p, 1, self.starts) for p in values]

    def in_units(self, period):
        return InUnits(self.family, jnp.asarray(self.unit, self.dtype), None if period == 1 else jnp.asarray(period))

    def families(self, period):
        """As they come where they may, so that what `trace` has compiled for them serves here too."""
        return self.family if self.unit == period == 1 else self.in_units(period)

    def iterate(self, p, period):
        return self.in_units(period)(jnp.asarray(p, self.dtype))

    def level(self, level):
        """A tolerance: this, or what rounding leaves of a position next to a fold."""
        return max(level, 10 * float(jnp.finfo(self.dtype).eps) ** 0.5)

    def fixed(self, p, period, starts):
        """Where the starts lead at p: an array (s, n), NaN where a search did not converge."""
        padded = np.resize(
            np.asarray(starts, self.dtype), (max(8, 1 << (len(starts) - 1).bit_length()), np.shape(starts)[1])
        )
        points = fixed_points.find(self.iterate(p, period), jax.device_put(padded), self.u, time=self.time)
        x = np.append(np.asarray(points.x), np.full((1, padded.shape[1]), np.nan, self.dtype), axis=0)
        return x[points.reached[: len(starts)]]

    def known(self, x, period, p):
        """Whether x, or another point of its cycle, is on a branch already.

        If so, the branch meets there the plane through it at right angles to the nearest segment, at a fold as well.
        """
        scale = np.append(np.full(len(x), 1 + np.abs(x).max()), self.width)
        points, tol = _places(p, self.cycles([p], x[None], period)[0]) / scale, self.level(1e-5)
        for branch in (branch for branch, q in self.found if q == period):
            rows = _places(branch.p, branch.x) / scale
            along, (_, gap, feet) = np.diff(rows, axis=0), feet_on(rows, points)
            length = np.linalg.norm(along, axis=1) + 0.1 * tol
            which, at = np.nonzero(gap <= length + tol)
            if len(at):
                guesses, families = feet[which, at], self.families(period)
                starts, across = padded(guesses, self.dtype), padded(along[at], self.dtype)
                met = corrected(families, starts, across, jnp.asarray(scale, self.dtype), self.u, self.time)
                met = np.asarray(met)[: len(at)]
                near = np.linalg.norm(met - guesses, axis=1) <= length[at]
                if (np.abs(np.where(near[:, None], met, guesses) - points[which]).max(axis=1) <= tol).any():
                    return True
        return False

    def at_all(self, function, ps, xs, *options):
        """`function` of the family at each p and x."""
        places = padded(ps, self.dtype), padded(xs, self.dtype)
        return np.asarray(function(self.families(1), *places, self.u, *options))[: len(ps)]

    def cycles(self, ps, xs, period):
        """The orbit of each x at its p, `period` states long."""
        return self.at_all(orbits, ps, xs, period)

    def ahead(self, ps, xs, period):
        """F^(q/2)(x) - x: zero where a point taken for one of period q has half of it."""
        return self.cycles(ps, xs, period)[:, period // 2] - xs

    def add(self, x, period, p):
        """Follows the branch of x, unless it is known."""
        tol = self.level(1e-5) * (1 + np.abs(x).max())
        shorter = period > 1 and np.abs(self.ahead([p], x[None], period)).max() <= tol
        if shorter or self.known(x, period, p):
            return
        branch = continuation.trace(
            self.families(period), jnp.asarray(x), p, p_span=self.span, u=self.u, time=self.time, **self.options
        )
        if branch.start == "converged":
            self.found.append((branch, period))

    def look_at(self, p, found):
        """Adds the branches of the fixed points found at p, and of those proved; whether they are proved to be all."""
        small = found.shape[1] <= _PROVABLE
        proof = _enumerated(self.family(jnp.asarray(p, self.dtype)), self.u, self.time) if small else None
        if proof is not None:
            found = np.concatenate([(np.asarray(proof.x) / self.unit).astype(self.dtype), found])
        for x in self.distinct(found):
            self.add(x, 1, p)
        return proof is not None and proof.complete

    def follow_junctions(self, num_doublings):
        """Looks beside branch points and flips, also of the branches that are found on the way."""
        done, seen = 0, []
        while done < len(self.found):
            branch, period = self.found[done]
            for event in self.of_period(branch, period):
                if not self.is_new(event, period, seen):
                    continue
                if event.kind == "BP":
                    self.switch(event, period, period, self.critical)
                elif event.kind == "PD" and period < 2**num_doublings:
                    self.switch(event, period, 2 * period, -1.0)
            done += 1

    def switch(self, event, period, new_period, critical):
        """Adds the branches of `new_period` that begin at an event, found along its critical eigenvectors."""
        p0, x0 = event.p, event.x
        jacobian = np.asarray(jacobians.jacobian(self.iterate(p0, period), jnp.asarray(x0), self.u))
        _, sizes, right = np.linalg.svd(jacobian - critical * np.eye(len(x0)))
        null = right[-max(1, (sizes <= self.level(1e-4) * max(1, sizes[0])).sum()) :]
        directions = itertools.product(_fan(null, self.distinct), _ASIDE, (1, -1))
        starts = np.array([x0 + side * aside * direction for direction, aside, side in directions], self.dtype)
        for beside, side in itertools.product(_BESIDE, (1, -1)):
            p = p0 + side * beside * self.width
            if self.span[0] <= p <= self.span[1]:
                for x in self.distinct(self.fixed(p, new_period, starts)):
                    self.add(x, new_period, p)

    def distinct(self, points):
        """The rows that are finite, each once."""
        kept: list[np.ndarray] = []
        for x in points[np.isfinite(points).all(axis=1)]:
            if not any(np.abs(x - other).max() <= self.level(1e-6) * (1 + np.abs(x).max()) for other in kept):
                kept.append(x)
        return kept

    def of_period(self, branch, period):
        """Those of a branch's special points that are not where its cycles shrink to ones of half the period."""
        events = branch.events
        if period == 1 or not events:
            return events
        ps, xs = (np.array([getattr(event, name) for event in events]) for name in "px")
        tols = [self.level(1e-3 * self.blur(event)) for event in events] * (1 + np.abs(xs).max(axis=1))
        return tuple(itertools.compress(events, np.abs(self.ahead(ps, xs, period)).max(axis=1) > tols))

    def blur(self, event):
        """How many times less exact an event is than a simple one: Newton's method is slow where two coincide."""
        off = np.sort(np.abs(event.multipliers - (-1.0 if event.kind == "PD" else self.critical)))
        return 300 if not event.converged or (len(off) > 1 and off[1] <= self.level(1e-4)) else 1

    def result(self, values, proved):
        pieces = [(self.with_events(branch if q == 1 else self.one_phase(branch, q), q), q) for branch, q in self.found]
        events = self.each_once((event, q) for piece, q in pieces for event in piece.events)
        return Diagram(
            tuple(self.in_own_units(piece) for piece, _ in pieces),
            tuple(q for _, q in pieces),
            tuple(self.unit * self.cycles(piece.p, piece.x, q) for piece, q in pieces),
            tuple(map(self.event_in_own_units, sorted(events, key=lambda event: event.p))),
            values,
            proved,
        )

    def event_in_own_units(self, event):
        """In units of the state itself; of the residual, some of whose equations have no unit, a bound."""
        return dataclasses.replace(event, x=self.unit * event.x, residual=max(1.0, self.unit) * event.residual)

    def in_own_units(self, branch):
        fields = {name: self.unit * getattr(branch, name) for name in ("x", "residual", "start_residual")}
        return dataclasses.replace(branch, events=tuple(map(self.event_in_own_units, branch.events)), **fields)

    def one_phase(self, branch, period):
        """A branch of cycles from flip to flip: beyond a flip it repeats itself at another phase.

        There F^(q/2)(x) - x passes through 0 and turns round.
        """
        ahead = self.ahead(branch.p, branch.x, period)
        turns = np.flatnonzero((ahead[1:] * ahead[:-1]).sum(axis=1) < 0) + 1
        order, edges = np.arange(len(branch)), np.concatenate([[0], turns, [len(branch)]])
        closed = branch.ended[0] == "closed curve" and len(turns) > 0
        if closed:  # begun anew at a flip; its last row repeats its first
            order, edges = np.roll(order[:-1], -turns[0]), np.append(turns, len(branch) - 1 + turns[0]) - turns[0]
        longest = np.argmax(np.diff(edges))
        start, end = edges[longest], edges[longest + 1]
        rows = {name: field[order[start:end]] for name, field in _rows(branch).items()}
        flips = [event for other, q in self.found if 2 * q == period for event in other.events if event.kind == "PD"]
        cut = closed or start > 0, closed or end < len(branch)
        for side in np.flatnonzero(cut) if flips else ():  # up to the flip itself
            p, x = (rows[name][-side] for name in ("p", "x"))
            phases = [self.cycles([flip.p], flip.x[None], period)[0] for flip in flips]
            off = np.array([flip.p - p for flip in flips]) / self.width
            gaps = np.abs(x - np.array(phases)).max(axis=2) + np.abs(off)[:, None]
            nearest, phase = np.unravel_index(np.argmin(gaps), gaps.shape)
            flip = dataclasses.replace(flips[nearest], x=phases[nearest][phase])
            rows = _inserted(rows, side * len(rows["p"]), flip, np.asarray(flip.multipliers) ** 2, self.time)
        ended = tuple("flip" if at_flip else word for at_flip, word in zip(cut, branch.ended, strict=True))
        events = self.each_once((event, period) for event in self.of_period(branch, period))
        return dataclasses.replace(branch, events=events, ended=ended, **rows)

    def with_events(self, branch, period):
        """The branch with its special points among its rows, each at the phase and in the segment nearest to it."""
        rows, placed = _rows(branch), []
        for event in branch.events:
            phases = self.cycles([event.p], event.x[None], period)[0]
            scale = np.append(np.ones(len(event.x)), self.width)
            part, gap, _ = feet_on(_places(rows["p"], rows["x"]) / scale, _places(event.p, phases) / scale)
            phase, segment = np.unravel_index(np.argmin(gap), gap.shape)
            placed.append((segment + part[phase, segment], dataclasses.replace(event, x=phases[phase])))
        placed.sort(key=lambda pair: -pair[0])  # the last first: an insertion moves only what comes after it
        for place, event in placed:
            rows = _inserted(rows, int(place) + 1, event, np.asarray(event.multipliers), self.time)
        return dataclasses.replace(branch, events=tuple(event for _, event in reversed(placed)), **rows)

    def each_once(self, pairs):
        """The events of pairs (event, period), one of each."""
        seen: list[tuple[Event, int]] = []
        return tuple(event for event, q in pairs if self.is_new(event, q, seen))

    def is_new(self, event, period, seen):
        """Whether an event is none of those seen, perhaps at another phase; then it is seen."""
        if any(q == period and self.same(event, other, q) for other, q in seen):
            return False
        seen.append((event, period))
        return True

    def same(self, event, other, period):
        blur = self.blur(event)
        if event.kind != other.kind or abs(event.p - other.p) > self.level(blur**1.5 * 1e-7) * self.width:
            return False
        phases = self.cycles([event.p], event.x[None], period)[0]
        gap = np.abs(phases - other.x).max(axis=1).min()
        return bool(gap <= self.level(blur * 1e-4) * (1 + np.abs(phases).max()))


def _places(p, x):
    return np.column_stack([x, np.broadcast_to(p, len(x))]).astype(float)


def _rows(branch):
    return {name: getattr(branch, name) for name in ("p", "x", "multipliers", "stable", "residual")}


def _inserted(rows, at, event, multipliers, time):
    """The rows with a special point before row `at`, as stable as what follows if nothing is past the border."""
    beyond = (np.abs(multipliers) - 1 if time == "discrete" else np.real(multipliers)).max()
    stable = bool(rows["stable"][min(at, len(rows["stable"]) - 1)]) and beyond < 1e-6
    new = event.p, event.x, multipliers, stable, event.residual
    return {name: np.insert(rows[name], at, value, axis=0) for name, value in zip(rows, new, strict=True)}


def _enumerated(step, u, time):
    """What `fixed_points.enumerate` says of a network that it knows; None of any other map."""
    system = canonical(step, u)
    return None if system is None or system.time != time else fixed_points.enumerate(step, u)


def _fan(null, distinct):
    """Directions of length 1 in the space that orthonormal rows span.

    Where it is a plane or more, as in symmetric networks, they are the shadows of sums and differences of units, which
    no choice of basis changes: on such lines lie the branches that keep a part of the symmetry.
    """
    if len(null) == 1:
        return null
    n = null.shape[1]
    signs = itertools.product((-1, 0, 1), repeat=n) if n <= 5 else np.random.default_rng(0).integers(-1, 2, (128, n))
    shadows = np.concatenate([np.eye(n), np.array([*signs])]) @ null.T @ null
    lengths = np.linalg.norm(shadows, axis=1, keepdims=True)
    return distinct(shadows / np.where(lengths > 1e-6, lengths, np.nan))
