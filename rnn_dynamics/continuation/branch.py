"""`trace`: one branch of fixed points of a map, or of equilibria of a field, with its special points.

Row 7 of the layer table: above `events`. Next: `normal_forms`; then `bifurcation`, which draws whole diagrams.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from rnn_dynamics import _check, jacobians, stability
from rnn_dynamics._compile import jit, on_one_blas_thread, top_level
from rnn_dynamics.continuation import arclength, crossings, defining, events, linear

__all__ = ["STARTS", "Branch", "Event", "trace"]

STARTS = ("converged", "moved", "none")
"""What became of the start: a fixed point at p0 was found near it; one was found at another p; none was found."""


class Event(equinox.Module):
    """A special point of a branch."""

    kind: str | Int[Array, "*e"]
    """"LP" fold, "PD" flip, "NS" Neimark-Sacker, "BP" branch point, "H" Hopf, "BC" border collision (the Jacobian
    jumps). BP and PD may be double: in a symmetric network two multipliers may be 1, or -1, together. Inside a
    caller's `jit` or `vmap` its index in `events.KINDS`, -1 where there is none."""
    p: float | Float[Array, "*e"]
    x: Float[np.ndarray, " n"] | Float[Array, "*e n"]
    multipliers: Complex[np.ndarray, " n"] | Complex[Array, "*e n"]
    residual: float | Float[Array, "*e"]
    """The largest residual of the defining equations: of the fixed point and of the test function; where several
    multipliers are critical together, of their distances from 1, or from the border of stability."""
    converged: bool | Bool[Array, "*e"]
    """Whether they were solved; if not, p and x are the best that was found, as the middle of the bracket."""

    def __repr__(self) -> str:
        if not isinstance(self.kind, str):
            return f"Event(indices of KINDS, shape {jnp.shape(self.kind)})"
        doubt = "" if self.converged else ", not converged"
        return f"Event({self.kind} at p = {self.p:.12g}, residual {self.residual:.1e}{doubt})"

    def __str__(self) -> str:
        """As a branch lists it: kind and place, with a question mark if it is not converged."""
        return f"{self.kind} {self.p:.6g}{'' if self.converged else '?'}" if isinstance(self.kind, str) else repr(self)


class Branch(equinox.Module):
    """A branch of fixed points, from one of its ends to the other: p first rises from the start to the last row.

    The arrays are NumPy's and have k rows, one a point. Inside a caller's `jit` or `vmap` k is a fixed size, rows
    beyond the branch's end are NaN, and words are indices.
    """

    p: Float[Array, " k"] | Float[np.ndarray, " k"]
    x: Float[Array, "k n"] | Float[np.ndarray, "k n"]
    multipliers: Complex[Array, "k n"] | Complex[np.ndarray, "k n"]
    """Eigenvalues of the Jacobian, the least stable first."""
    stable: Bool[Array, " k"] | Bool[np.ndarray, " k"]
    """Whether all multipliers are inside the unit circle (rates of a field: left of the imaginary axis)."""
    residual: Float[Array, " k"] | Float[np.ndarray, " k"]
    """The largest component of |F(x) - x| (of |f(x)| in continuous time)."""
    events: Any
    """A tuple of Events, in the order of the branch. Inside a caller's `jit` or `vmap` one Event of arrays."""
    ended: tuple[str, str] | Int[Array, "2"]
    """Why the branch ends at its first and its last point: "p_span", "max_points", "step too small", "closed curve",
    "diverged"; "no start" if there is no branch. The words are `arclength.ENDS`."""
    start: str | Int[Array, ""]
    """"converged": the start led to a fixed point at p0; "moved": only to one at another p; "none": to none."""
    start_residual: float | Float[Array, ""]
    """The residual at the start; where none was found, where the search at p0 ended."""
    complete: bool | Bool[Array, ""]
    """Whether every change of stability on the branch was looked into: False if there were more than max_events."""

    def __len__(self) -> int:
        return len(self.p)

    def __repr__(self) -> str:
        if not isinstance(self.events, tuple):
            return f"Branch({len(self)} rows, padded)"
        if self.start == "none":
            return f"Branch(none found near the start: residual {self.start_residual:.1e})"
        found = ", ".join(map(str, self.events)) or "no special points"
        ends = f"p = {self.p[0]:.6g} ({self.ended[0]}) to {self.p[-1]:.6g} ({self.ended[1]})"
        return f"Branch({len(self)} points, {ends}; {found})"


def trace(
    family: Callable,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    *,
    p_span: tuple[Float[Array, ""] | float, Float[Array, ""] | float],
    u: PyTree = None,
    time: Literal["discrete", "continuous"] = "discrete",
    max_points: int = 1001,
    max_events: int = 128,
    first_step: float = 0.01,
    max_step: float = 0.1,
    max_angle: float = 0.3,
) -> Branch:
    r"""The branch of fixed points $x = F_p(x, u)$ (equilibria $f_p(x, u) = 0$) through a start, both ways.

    Pseudo-arclength continuation of $G(x, p) = 0$: folds need no special care. Lengths are measured in
    $\|(x,p)\|^2 = \|x\|^2/(n s^2) + p^2/P^2$, with P the width of the span and s the size of the state: the larger of
    the start's root mean square and its growth along the branch over the span (1 where both vanish); a branch that
    grows a thousandfold from below 1 is followed once more with s its largest, or 1, and one too sharp for the smallest
    steps, a fold over a narrow span, in a smaller s. Special points are solved for, to the rounding floor; where
    several multipliers cross together, interpolated on the branch, nearly to it. One that lies exactly on an end of the
    span is not seen, and a fold there ends the branch. Where rounding of the state moves p by more than 1/20 of the
    span, no fold is known: it is not converged.

    The start is first corrected at p0 by Newton's method; if that fails, to the nearest fixed point at any p.

    Many branches at once: `jax.vmap` for a few units; for more, `jax.lax.map`, which on a CPU is several times faster,
    because there the lanes of a `vmap` wait for each other and share nothing.

    Args:
        family: `p -> map` or `p -> field`, p a scalar.
        x0: Near a fixed point at p0.
        p0: Where to start.
        p_span: (least, largest) parameter; the branch is followed to these, exactly.
        u: The input, held constant.
        time: "discrete" for maps, "continuous" for fields.
        max_points: The most points of the branch, half of them on each side of the start.
        max_events: The most special points.
        first_step: Length of the first step.
        max_step: The longest step; it may grow a little far from the start.
        max_angle: The most that the tangent may turn in a step, in radians.

    Returns:
        The branch. In a caller's `jit` or `vmap`, padded with NaN.

    Raises:
        ValueError: x0 is not a finite float array (n,), a parameter is not a finite scalar, p0 lies outside p_span,
            the span is empty, if only in the state's dtype, an unknown time, a count or step that is not positive, or a
            map that changes the shape. In a caller's `jit`, where ends may be unknown, an empty span has no start.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> branch = trace(lambda b: DoyaNeuron(w=5.0, b=b), jnp.array([0.06]), -3.0, p_span=(-3.0, -2.0))
        >>> [(event.kind, round(event.p, 9)) for event in branch.events]
        [('LP', -2.344389661), ('LP', -2.655610339)]

    References:
        Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems; Kuznetsov (2004), Elements
        of applied bifurcation theory, chapter 10.
    """
    _check.option("time", time, ("discrete", "continuous"))
    x0, p0 = _check.state("x0", x0), _number("p0", p0)
    low, high = _check.span("p_span", p_span, ("p0", p0), convert=_number)
    _check.count("max_points", max_points, least=3)
    _check.count("max_events", max_events, least=1)
    lengths = [_number("first_step", first_step), _number("max_step", max_step), _number("max_angle", max_angle)]
    for name, value in zip(("first_step", "max_step", "max_angle"), lengths, strict=True):
        _check.within(name, value, "be positive", lambda v: v > 0)
    if not _check.are_apart(low, high, x0.dtype):  # nor in the dtype that the family works in?
        name = "family(p0)"
        x0 = _check.next_state(_check.member(family, jnp.asarray(p0, x0.dtype), name=name), x0, u, name=name)
        _check.apart("p_span", low, high, x0.dtype)
    numbers = _check.numbers([p0, low, high, *lengths])
    arguments = family, x0, numbers, u, time == "discrete", (max_points - 1) // 2, max_events
    # OpenBLAS never splits matrices as small as this.
    found = _trace(*arguments) if len(x0) <= 16 else on_one_blas_thread(_trace, *arguments)
    return _on_host(found, time) if top_level() else _traced(found)


def _number(name, value):
    """A finite number: a Python float as it is, for the sake of speed."""
    return value if type(value) is float and math.isfinite(value) else _check.number(name, value)


class _Found(NamedTuple):
    """Few arrays: a compiled call costs a little for each, which is much of a short branch."""

    y: Array
    multipliers: Array
    stable: Array
    residual: Array
    event_y: Array
    event_multipliers: Array
    event_residual: Array
    event_kind: Array
    event_converged: Array
    words: Array
    """Indices of ENDS, twice, and of STARTS; the number of points, of events; whether they are complete."""
    start_residual: Array


@jit
def _trace(family, x0, numbers, u, discrete, num_each, max_events):
    name = "family(p0)"
    x0 = _check.next_state(_check.member(family, numbers[0].astype(x0.dtype), name=name), x0, u, name=name)
    p0, low, high, *lengths = numbers.astype(x0.dtype)
    lengths = arclength.Steps(*lengths)

    @jax.jit  # the many places that differentiate it trace it once
    def residual(y):
        x = y[:-1]
        value = family(y[-1])(x, u)
        return value - x if discrete else value

    @jax.jit
    def jacobian(y):
        return jacobians.jacobian(family(y[-1]), y[:-1], u)

    y0, start, start_residual, weights = _begin(residual, x0, p0, low, high)
    bounds = jnp.full_like(y0, jnp.inf).at[-1].set(0)
    bounds = jnp.where(bounds == 0, low, -bounds), jnp.where(bounds == 0, high, bounds)
    size = len(x0)
    path, weights = arclength.follow_in_units(residual, y0, weights, size, *bounds, lengths, num_each, start < 2)
    problem = crossings.Problem(residual, jacobian, discrete, weights)

    values = _spectra(jacobian, path.y, path.number)
    located = events.locate(problem, path, values, max_events)
    p = jnp.clip(located.y[:, -1], low, high)  # where p is lost in rounding, or turns back just beyond the span
    sure = located.converged & (jnp.abs(p - located.y[:, -1]) <= defining.tol(p.dtype) * (high - low))
    located = located._replace(y=located.y.at[:, -1].set(p), converged=sure)
    event_values = _spectra(jacobian, located.y, located.number)
    inside = jnp.arange(len(path.y)) < path.number
    stable = inside & jnp.all(crossings.excess(values, discrete) < 0, axis=1)
    defect = jnp.where(inside, jnp.abs(jax.vmap(residual)(path.y)).max(1), jnp.nan)
    if len(x0) > 1:
        time = "discrete" if discrete else "continuous"
        values, event_values = (stability.least_stable_first(each, time=time) for each in (values, event_values))
    words = jnp.stack([*path.ended, start, path.number, located.number, located.complete])
    return _Found(
        *(path.y, values, stable, defect),
        *(located.y, event_values, located.residual, located.kind, located.converged),
        *(words, start_residual),
    )


def _begin(residual, x0, p0, low, high):
    """A point of a branch near (x0, p0), how it was found (an index of STARTS), its residual, the norm's weights."""
    width = arclength.unit_of_span(low, high)
    size = jnp.sqrt(jnp.mean(x0**2))
    eps = float(jnp.finfo(x0.dtype).eps)
    tol, least_unit = 100 * eps, eps**arclength.UNIT_FROM
    y0 = jnp.append(x0, p0)
    at_p0 = jnp.zeros_like(y0).at[-1].set(1)

    def weigh(scale):
        return jnp.append(jnp.full_like(x0, 1 / (len(x0) * scale**2)), 1 / width**2)

    weights = weigh(jnp.where(size > least_unit, size, 1.0))

    def again(state):
        """First Newton's method at p0; where that ends without a fixed point, again from the start with p free."""
        y, least, best, count, free, held, _ = state
        value, matrix = linear.derivative(residual, y)
        # With p free, the least change that solves the linearised equations: no part of it along the tangent.
        border = jnp.where(free, weights * arclength.first_tangent(matrix, weights)[0], at_p0)
        change = linear.solve(jnp.vstack([matrix, border / jnp.abs(border).max()]), jnp.append(-value, 0.0))
        largest = jnp.abs(change).max()
        y = y + change * jnp.minimum(1, jnp.maximum(1, jnp.abs(y).max() / 2) / jnp.maximum(largest, 1e-30))
        y = y.at[-1].set(jnp.where(free, y[-1], p0))
        error = _size(residual(y))
        good = least <= tol * (1 + jnp.abs(best[:-1]).max())
        at_floor = good & ~(error < least / 2)
        better = error < least
        best, least = jnp.where(better, y, best), jnp.where(better, error, least)
        over = at_floor | (error == 0) | ~jnp.isfinite(error) | (count >= 50)
        good = least <= tol * (1 + jnp.abs(best[:-1]).max())
        turns = over & ~good & ~free
        held = jnp.where(turns, least, held)
        y, best, least, count = (
            jnp.where(turns, fresh, now) for fresh, now in ((y0, y), (y0, best), (error0, least), (0, count + 1))
        )
        return y, least, best, count, free | turns, held, ~over | turns

    error0 = _size(residual(y0))
    no = jnp.asarray(False)
    state = y0, error0, y0, jnp.zeros((), int), no, error0, error0 > 0
    _, least, y, _, free, held, _ = jax.lax.while_loop(lambda state: state[-1], again, state)
    found = (least <= tol * (1 + jnp.abs(y[:-1]).max())) & (y[-1] >= low) & (y[-1] <= high) & (low < high)
    start = jnp.where(found, jnp.where(free, 1, 0), 2)
    left = jnp.where(found, least, held)  # a solution beyond the span is none
    size = jnp.sqrt(jnp.mean(y[:-1] ** 2))
    size = jnp.where(size > least_unit, size, 0.0)
    unit = weigh(jnp.where(size > 0, size, 1.0))
    tangent, _ = arclength.first_tangent(linear.derivative(residual, y)[1], unit)
    growth = jnp.sqrt(jnp.mean(tangent[:-1] ** 2)) * width / jnp.maximum(jnp.abs(tangent[-1]), 1e-30)
    growth = jnp.minimum(growth, 10 * jnp.where(size > 0, size, 1.0))
    scale = jnp.maximum(size, jnp.where(growth > least_unit, growth, 0.0))
    return y, start, left, weigh(jnp.where(scale > 0, scale, 1.0))


def _size(value):
    return jnp.where(jnp.isfinite(value).all(), jnp.abs(value).max(), jnp.inf)


def _spectra(jacobian, ys, count):
    """The multipliers at the first `count` rows: LAPACK never sees the padding."""
    if ys.shape[1] <= 3:
        return jax.vmap(lambda y: linear.eigenvalues(jacobian(y)))(ys)

    def one(state):
        i, values = state
        return i + 1, values.at[i].set(linear.eigenvalues(jacobian(ys[i])))

    blank = jnp.full((len(ys), ys.shape[1] - 1), jnp.nan, jnp.promote_types(ys.dtype, jnp.complex64))
    return jax.lax.while_loop(lambda s: s[0] < count, one, (jnp.zeros((), int), blank))[1]


def _traced(found):
    y, place = found.y, found.event_y
    special = Event(
        *(found.event_kind, place[:, -1], place[:, :-1], found.event_multipliers),
        *(found.event_residual, found.event_converged),
    )
    return Branch(
        *(y[:, -1], y[:, :-1], found.multipliers, found.stable, found.residual, special),
        *(found.words[:2], found.words[2], found.start_residual, found.words[5] == 1),
    )


def _on_host(found, time):
    found = jax.tree.map(np.asarray, found)  # `jax.device_get` would take half as long as the branch
    first, last, start, number, num_events, complete = found.words.tolist()
    y, place = found.y[:number], found.event_y
    names = [*events.KINDS]
    if time == "continuous":
        names[events.NS] = names[events.H]
    columns = (place[:, -1].tolist(), place[:, :-1], found.event_multipliers, found.event_residual.tolist())
    rows = itertools.islice(zip(found.event_kind, *columns, found.event_converged.tolist(), strict=True), num_events)
    return Branch(
        *(y[:, -1], y[:, :-1], found.multipliers[:number], found.stable[:number], found.residual[:number]),
        tuple(Event(names[kind], *rest) for kind, *rest in rows),
        (arclength.ENDS[first], arclength.ENDS[last]),
        *(STARTS[start], float(found.start_residual), complete == 1),
    )
