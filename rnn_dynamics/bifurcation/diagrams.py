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
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_dynamics import _check, continuation, fixed_points, jacobians
from rnn_dynamics._compile import jit
from rnn_dynamics.continuation import Branch, Event
from rnn_dynamics.fixed_points.canonical import canonical

__all__ = ["Diagram", "Iterate", "diagram"]

_PROVABLE = 8
"""Units of the largest network whose fixed points are enumerated: some milliseconds at each parameter."""
_BESIDE = (1e-3, 1e-2, 3e-2)
"""How far beside a junction to look for what begins there, as parts of the span."""
_ASIDE = (1e-3, 1e-2, 0.1, 0.5)
"""And how far off the branch, in units of the state's size."""


class Diagram(equinox.Module):
    """Branches of fixed points and of cycles over a parameter, with the special points on them."""

    branches: tuple[Branch, ...]
    """A cycle of period q is a fixed point of the q-th iterate: multipliers and stability are those of that."""
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
        special = ", ".join(f"{event.kind} {float(event.p):.6g}" for event in self.events) or "none"
        proved = f"fixed points proved complete at {int(self.proved.sum())} of {len(self.values)} values"
        return f"Diagram({counts or 'no branch'}; special points: {special}; {proved})"


class Iterate(equinox.Module):
    """The map that takes `period` steps of another one, with its Jacobian.

    Example:
        >>> Iterate(lambda x, u: 2 * x, 3)(jnp.ones(1))
        Array([8.], dtype=float64)
    """

    step: Callable
    period: int | Int[Array, ""]
    """As an array it is an argument of a compiled function, which then serves every period."""

    def __call__(self, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, " n"]:
        """The state after `period` steps."""
        return jax.lax.fori_loop(0, self.period, lambda _, x: self.step(x, u), x)

    def jacobian(self, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, "n n"]:
        """The product of the Jacobians along them."""

        def advance(_, carry):
            x, product = carry
            return self.step(x, u), jacobians.jacobian(self.step, x, u) @ product

        return jax.lax.fori_loop(0, self.period, advance, (x, jnp.eye(len(x), dtype=x.dtype)))[1]


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
    point, and beside every flip for cycles of twice the period, points are sought along the critical eigenvector and
    followed in turn. What is stable is drawn by what its multipliers say, not by what orbits reach. Runs on the host.

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
        anything beyond the starts in a network too large for `enumerate`.

    Raises:
        ValueError: as `continuation.trace` and `fixed_points.find`.

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
    starts = _check.floats("starts", starts, "s", "n")
    _check.option("time", time, ("discrete", "continuous"))
    _check.count("num_values", num_values, least=2)
    _check.count("num_doublings", num_doublings)
    low, high = map(float, _check.span("p_span", p_span))
    search = _Search(family, (low, high), u, time, {"max_points": max_points, "max_step": max_step}, starts)
    values = np.linspace(low, high, num_values)
    proved = np.array([search.look_at(p) for p in values])
    search.follow_junctions(num_doublings if time == "discrete" else 0)
    return search.result(values, proved)


class _Search:
    """The branches found so far, and the questions asked of them while more are found."""

    def __init__(self, family, span, u, time, options, starts):
        self.family, self.span, self.u, self.time, self.options, self.starts = family, span, u, time, options, starts
        self.found: list[tuple[Branch, int]] = []

    def iterate(self, p, period):
        step = _At(self.family, jnp.asarray(p, self.starts.dtype))
        return step if period == 1 else Iterate(step, jnp.asarray(period))

    def fixed(self, p, period, starts):
        """Where the starts lead at p: an array (s, n), NaN where a search did not converge."""
        padded = np.resize(np.asarray(starts), (max(8, 1 << (len(starts) - 1).bit_length()), np.shape(starts)[1]))
        points = fixed_points.find(self.iterate(p, period), jax.device_put(padded), self.u, time=self.time)
        x = np.append(np.asarray(points.x), np.full((1, padded.shape[1]), np.nan), axis=0)
        return x[points.reached[: len(starts)]]

    def on_branch(self, branch, period, p):
        """The points of a branch at p: each crossing of its polyline, corrected."""
        before, after = branch.p[:-1] - p, branch.p[1:] - p
        at = np.flatnonzero((before * after <= 0) & (before != after))
        if not len(at):
            return np.empty((0, branch.x.shape[1]))
        part = (before[at] / (before[at] - after[at]))[:, None]
        guesses = (1 - part) * branch.x[at] + part * branch.x[at + 1]
        corrected = self.fixed(p, period, guesses)
        length = np.linalg.norm(branch.x[at + 1] - branch.x[at], axis=1) + 1e-6 * (1 + np.abs(guesses).max(1))
        near = np.linalg.norm(corrected - guesses, axis=1) <= length
        return np.where(near[:, None], corrected, guesses)

    def known(self, x, period, p):
        """Whether x, or another point of its cycle, is on a branch already."""
        cycle = self.cycles([p], x[None], period)[0]
        for branch, q in self.found:
            if q == period:
                gap = np.abs(self.on_branch(branch, period, p)[:, None] - cycle).max(axis=2)
                if gap.size and gap.min() <= 1e-5 * (1 + np.abs(x).max()):
                    return True
        return False

    def cycles(self, ps, xs, period):
        """The orbit of each x at its p, `period` states long."""
        filling = (1 << (len(ps) - 1).bit_length()) - len(ps)  # to a power of two: few shapes to compile
        all_ps = jax.device_put(np.pad(np.asarray(ps), (0, filling), mode="edge"))
        all_xs = jax.device_put(np.pad(np.asarray(xs), ((0, filling), (0, 0)), mode="edge"))
        return np.asarray(_orbits(self.family, all_ps, all_xs, self.u, period))[: len(ps)]

    def ahead(self, ps, xs, period):
        """F^(q/2)(x) - x: zero where a point taken for one of period q has half of it."""
        return self.cycles(ps, xs, period)[:, period // 2] - xs

    def add(self, x, period, p):
        """Follows the branch of x, unless it is known."""
        shorter = period > 1 and np.abs(self.ahead([p], x[None], period)).max() <= 1e-5 * (1 + np.abs(x).max())
        if shorter or self.known(x, period, p):
            return
        family = self.family if period == 1 else _IteratedFamily(self.family, jnp.asarray(period))
        branch = continuation.trace(
            family, jnp.asarray(x), p, p_span=self.span, u=self.u, time=self.time, **self.options
        )
        if branch.start == "converged":
            self.found.append((branch, period))

    def look_at(self, p):
        """Adds the branches of all fixed points found at p; whether they are proved to be all."""
        found = self.fixed(p, 1, self.starts)
        small = found.shape[1] <= _PROVABLE
        proof = _enumerated(self.family(p), self.u, self.time) if small else None
        if proof is not None:
            found = np.concatenate([np.asarray(proof.x), found])
        for x in _distinct(found):
            self.add(x, 1, p)
        return proof is not None and proof.complete

    def follow_junctions(self, num_doublings):
        """Looks beside branch points and flips, also of the branches that are found on the way."""
        done = 0
        while done < len(self.found):
            branch, period = self.found[done]
            for event in self.of_period(branch, period):
                if event.kind == "BP":
                    self.switch(event, period, period, 1.0)
                elif event.kind == "PD" and period < 2**num_doublings:
                    self.switch(event, period, 2 * period, -1.0)
            done += 1

    def switch(self, event, period, new_period, multiplier):
        """Adds the branches of `new_period` that begin at an event, found along its critical eigenvector."""
        p0, x0 = float(event.p), np.asarray(event.x)
        critical = multiplier if self.time == "discrete" else 0.0
        jacobian = np.asarray(jacobians.jacobian(self.iterate(p0, period), jnp.asarray(x0), self.u))
        direction = np.linalg.svd(jacobian - critical * np.eye(len(x0)))[2][-1]
        size = max(1.0, np.abs(x0).max())
        starts = np.array([x0 + side * aside * size * direction for aside in _ASIDE for side in (1, -1)])
        for beside, side in itertools.product(_BESIDE, (1, -1)):
            p = p0 + side * beside * (self.span[1] - self.span[0])
            if self.span[0] <= p <= self.span[1]:
                for x in _distinct(self.fixed(p, new_period, starts)):
                    self.add(x, new_period, p)

    def of_period(self, branch, period):
        """Those of a branch's special points that are not where its cycles shrink to ones of half the period."""
        events = branch.events
        if period == 1 or not events:
            return events
        ps, xs = np.array([float(event.p) for event in events]), np.stack([np.asarray(event.x) for event in events])
        apart = np.abs(self.ahead(ps, xs, period)).max(axis=1) > 1e-3 * (1 + np.abs(xs).max(axis=1))
        return tuple(itertools.compress(events, apart))

    def result(self, values, proved):
        flips = [event for branch, _ in self.found for event in branch.events if event.kind == "PD"]
        pieces = [(branch if q == 1 else self.one_phase(branch, q, flips), q) for branch, q in self.found]
        pieces = [(self.with_events(piece, q), q) for piece, q in pieces]
        events: list[tuple[Event, int]] = []
        for event, q in ((event, q) for piece, q in pieces for event in piece.events):
            if not any(q == other_q and self.same(event, other, q) for other, other_q in events):
                events.append((event, q))
        return Diagram(
            tuple(piece for piece, _ in pieces),
            tuple(q for _, q in pieces),
            tuple(self.cycles(piece.p, piece.x, q) for piece, q in pieces),
            tuple(sorted((event for event, _ in events), key=lambda event: float(event.p))),
            values,
            proved,
        )

    def one_phase(self, branch, period, flips):
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
        for at, cut in ((0, closed or start > 0), (end - start, closed or end < len(branch))):
            if cut and flips:  # up to the flip itself
                p, x = (rows[name][-1 if at else 0] for name in ("p", "x"))
                nearest = min(flips, key=lambda flip: np.abs(flip.x - x).max() + abs(float(flip.p) - p))
                rows = _inserted(rows, at, nearest, np.asarray(nearest.multipliers) ** 2, self.time)
        events = self.of_period(branch, period)
        return dataclasses.replace(branch, events=events, **rows)

    def with_events(self, branch, period):
        """The branch with its special points among its rows, each at the phase and in the segment nearest to it."""
        rows, width, size = _rows(branch), np.ptp(branch.p), 1 + np.abs(branch.x).max()
        for event in branch.events:
            before = np.column_stack([rows["p"] / width, rows["x"] / size])
            along = np.diff(before, axis=0)
            phases = self.cycles([float(event.p)], np.asarray(event.x)[None], period)[0]
            points = np.column_stack([np.full(period, float(event.p) / width), phases / size])[:, None]
            part = ((points - before[:-1]) * along).sum(2) / np.maximum((along**2).sum(1), 1e-300)
            gap = np.linalg.norm(before[:-1] + np.clip(part, 0, 1)[..., None] * along - points, axis=2)
            phase, segment = np.unravel_index(np.argmin(gap), gap.shape)
            event = dataclasses.replace(event, x=phases[phase])
            rows = _inserted(rows, int(segment) + 1, event, np.asarray(event.multipliers), self.time)
        return dataclasses.replace(branch, **rows)

    def same(self, event, other, period):
        """Whether two special points of cycles are one, perhaps at another phase."""
        if event.kind != other.kind or abs(float(event.p) - float(other.p)) > 1e-7 * (1 + abs(float(event.p))):
            return False
        phases = self.cycles([float(event.p)], np.asarray(event.x)[None], period)[0]
        return bool(np.abs(phases - np.asarray(other.x)).max(axis=1).min() <= 1e-4 * (1 + np.abs(phases).max()))


@jit
def _orbits(family, ps, xs, u, period):
    def orbit(p, x):
        step = family(p)
        return jax.lax.scan(lambda x, _: (step(x, u), x), x, length=period)[1]

    return jax.vmap(orbit)(ps, xs)


class _At(equinox.Module):
    """A family's map at one parameter, which is an argument where the map that the family returns may be a closure."""

    family: Callable
    p: Float[Array, ""]

    def __call__(self, x, u=None):
        return self.family(self.p)(x, u)

    def jacobian(self, x, u=None):
        return jacobians.jacobian(self.family(self.p), x, u)


class _IteratedFamily(equinox.Module):
    family: Callable
    period: Int[Array, ""]

    def __call__(self, p):
        return Iterate(self.family(p), self.period)


def _rows(branch):
    return {name: getattr(branch, name) for name in ("p", "x", "multipliers", "stable", "residual")}


def _inserted(rows, at, event, multipliers, time):
    """The rows with a special point before row `at`, as stable as what follows if nothing is past the border."""
    beyond = (np.abs(multipliers) - 1 if time == "discrete" else np.real(multipliers)).max()
    stable = bool(rows["stable"][min(at, len(rows["stable"]) - 1)]) and beyond < 1e-6
    new = float(event.p), event.x, multipliers, stable, float(event.residual)
    return {name: np.insert(rows[name], at, value, axis=0) for name, value in zip(rows, new, strict=True)}


def _enumerated(step, u, time):
    """What `fixed_points.enumerate` says of a network that it knows; None of any other map."""
    system = canonical(step, u)
    return None if system is None or system.time != time else fixed_points.enumerate(step, u)


def _distinct(points):
    """The rows that are finite, each once."""
    kept: list[np.ndarray] = []
    for x in points[np.isfinite(points).all(axis=1)]:
        if not any(np.abs(x - other).max() <= 1e-6 * (1 + np.abs(x).max()) for other in kept):
            kept.append(x)
    return kept
