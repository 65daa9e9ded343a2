"""What a search for fixed points returns, and what every search shares: when a point counts, which are one, what kind.

Row 6 of the layer table: above `jacobians` and `stability`. Next: `newton`, `search`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from rnn_dynamics import jacobians, stability
from rnn_dynamics._compile import jit

__all__ = [
    "CONVERGED",
    "DIVERGED",
    "MAX_STEPS",
    "NON_FINITE",
    "RUNNING",
    "SINGULAR",
    "STATUS",
    "FixedPoints",
    "allowed",
    "collect",
    "default_tol",
    "defect",
    "defect_jacobian",
    "far_from",
    "hidden",
    "kinds",
    "leeway",
    "merge",
    "size",
    "verdict",
]

STATUS = np.array(["converged", "max_steps", "diverged", "singular", "non_finite"])
CONVERGED, MAX_STEPS, DIVERGED, SINGULAR, NON_FINITE, RUNNING = range(6)

OUTLYING = 10.0
"""A point is far from the starts beyond this many times their root mean square distance from their mean."""

_FEW = 64
"""So many points are compared with one another without ado."""
_OF_STARTS = ("status", "start_residual", "reached")
_Points = TypeVar("_Points", bound="FixedPoints")


class FixedPoints(equinox.Module):
    """Fixed points in ascending order of residual, and how each start fared; sized and indexed by point.

    `points[i]`, `points[points.stable]` and slices are FixedPoints too, with the same starts.
    """

    x: Float[Array, "k n"]
    """The points, in the units of the state."""
    residual: Float[Array, " k"]
    """The largest component of |F(x) - x| (of |f(x)| in continuous time), recomputed after the solver stopped."""
    jacobian: Float[Array, "k n n"]
    multipliers: Complex[Array, "k n"]
    """Eigenvalues of the Jacobian, the least stable first."""
    stable: Bool[np.ndarray, " k"]
    kind: np.ndarray
    """(k,) words of `stability.classify`: "marginal" wherever rounding leaves it open, as it does on a bifurcation."""
    far: Bool[np.ndarray, " k"]
    """Whether the nearest start is more than ten times as far as the starts are from their mean (root mean square).

    Such a point is where a solver strayed to; false where all starts are one.
    """
    status: np.ndarray
    """(s,) one word a start: "converged", "max_steps", "diverged", "singular" or "non_finite"."""
    start_residual: Float[np.ndarray, " s"]
    """The least residual met from each start; infinite where the map was never finite."""
    reached: Int[np.ndarray, " s"]
    """Which point each start led to; -1 where it did not converge."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self: _Points, index) -> _Points:
        chosen = np.atleast_1d(np.arange(len(self))[index])
        renumber = np.full(len(self) + 1, -1)
        renumber[chosen] = np.arange(len(chosen))
        fields: dict = {"reached": renumber[self.reached]}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in _OF_STARTS and value is not None:
                value = jax.device_put(np.asarray(value)[chosen]) if isinstance(value, jax.Array) else value[chosen]
            fields.setdefault(field.name, value)
        return type(self)(**fields)

    def __iter__(self: _Points) -> Iterator[_Points]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        words, counts = np.unique(self.status, return_counts=True)
        starts = ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True))
        worst = f", residual at most {float(self.residual.max()):.1e}" if len(self) else ""
        return f"{type(self).__name__}({len(self)} points, {int(self.stable.sum())} stable{worst}; starts: {starts})"


def collect(
    step: Callable,
    x: Float[np.ndarray, "s n"],
    residual: Float[np.ndarray, " s"],
    code: Int[np.ndarray, " s"],
    u: PyTree,
    time: Literal["discrete", "continuous"],
    tol: float | None,
    unique_tol: float | None,
    starts: Float[np.ndarray, "s n"] | None = None,
) -> FixedPoints:
    """The FixedPoints that a search ended on: judged by their residuals, merged, linearised, classified."""
    code = verdict(x, residual, code, tol)
    unique_tol = default_tol(tol, x.dtype) ** 0.5 if unique_tol is None else unique_tol
    kept, reached = merge(x[:, None], residual, code == CONVERGED, unique_tol)
    padded = np.resize(np.append(kept, 0), 1 << len(kept).bit_length())  # to a power of two: few shapes to compile
    linearised = _jacobians(step, x[padded], u)
    # Compiled apart from the map, the eigenvalues of one size serve every map.
    jacobian, values = (
        np.asarray(field)[: len(kept)] for field in (linearised, stability.multipliers(linearised, time=time))
    )
    astray = np.resize(x[kept] + leeway(jacobian, residual[kept], time), x[padded].shape)
    kind = kinds(values, jacobian, np.asarray(_jacobians(step, astray, u))[: len(kept)], time)
    stable = np.char.startswith(kind, "stable")
    far = np.zeros(len(kept), bool) if starts is None else far_from(x[kept][:, None], starts)
    points, floor, jacobian, values = jax.device_put((x[kept], residual[kept], jacobian, values))
    return FixedPoints(points, floor, jacobian, values, stable, kind, far, STATUS[code], residual, reached)


def defect(step, x, u, time):
    """G, whose zeros are sought: F(x) - x of a map, f(x) of a field."""
    return step(x, u) - x if time == "discrete" else step(x, u)


def defect_jacobian(step, x, u, time):
    """dG/dx."""
    jacobian = jacobians.jacobian(step, x, u)
    return jacobian - jnp.eye(len(x), dtype=x.dtype) if time == "discrete" else jacobian


def size(g):
    """The largest component of |g|; infinite unless all are finite."""
    return jnp.where(jnp.isfinite(g).all(), jnp.abs(g).max(), jnp.inf)


def default_tol(tol, dtype):
    """`tol`, or 100 machine epsilons where it is None."""
    return 100 * float(jnp.finfo(dtype).eps) if tol is None else tol


def allowed(tol, x, size):
    """The residual allowed at x. Never 1: far out, where tol * size is more, x + 1 would have fixed points."""
    return (default_tol(tol, x.dtype) * (1 + size)).clip(max=0.5)


def verdict(x, residual, code, tol):
    """The status that the residual bears out, whatever the solver says: "converged" is said here and nowhere else.

    Beyond 1/eps neighbouring floats are farther apart than 1, and a residual of zero means nothing.
    """
    size = np.abs(x).max(-1)
    far = size > 1 / jnp.finfo(x.dtype).eps
    found = residual <= allowed(tol, x, size)
    denied = np.where(code == CONVERGED, MAX_STEPS, code)
    return np.where(far, DIVERGED, np.where(found, CONVERGED, denied))


def hidden(jacobian, residual):
    """What a residual and rounding hide of G in each equation, the signs generic: of one Jacobian, of NumPy or JAX."""
    signs = np.where(np.cos(1 + np.arange(len(jacobian))) > 0, 1, -1)
    return (residual + default_tol(None, jacobian.dtype) * abs(jacobian).max().clip(1)) * signs


def leeway(jacobian: Float[np.ndarray, "k n n"], residual: Float[np.ndarray, " k"], time) -> Float[np.ndarray, "k n"]:
    """How far from each point a true one may be: the d with (J - I) d (continuous: J d) what the residual hides.

    Infinite where the matrix is singular.
    """
    eye = np.eye(jacobian.shape[1]) if time == "discrete" else 0.0
    found = np.full(jacobian.shape[:2], np.inf, jacobian.dtype)
    for i in np.flatnonzero(np.isfinite(jacobian).all((1, 2))):
        with contextlib.suppress(np.linalg.LinAlgError), np.errstate(over="ignore"):
            found[i] = np.linalg.solve(jacobian[i].astype(float) - eye, hidden(jacobian[i], residual[i]))
    return found


def kinds(multipliers, jacobian, astray, time, period=1):
    """`stability.classify`, "marginal" if the point is known too badly to tell.

    The multipliers are uncertain by as much as the Jacobian changes on the way to `astray`, where the point may be as
    well; over many steps, as much in parts of its size. And by rounding, times the condition of J - I (continuous: J),
    which is large beside a defective λ = 1 (0).
    """
    n = jacobian.shape[1]
    from_fold, eye = (multipliers - 1, np.eye(n)) if time == "discrete" else (multipliers, 0.0)
    with np.errstate(all="ignore"):
        condition = np.abs(jacobian - eye).max((1, 2)) / np.abs(from_fold).min(1)
        rounding = default_tol(None, jacobian.dtype) * np.maximum(condition, np.abs(multipliers).max(1)).clip(1)
        change = np.abs(astray - jacobian).max((1, 2)) / np.abs(jacobian).max((1, 2)).clip(1) ** (1 - 1 / period)
    tols = n * change + rounding
    tols = np.where(np.isfinite(tols), tols, np.inf)
    rows = zip(np.nan_to_num(multipliers), tols, strict=True)
    return np.array([stability.classify(row, time=time, tol=float(tol)) for row, tol in rows], dtype=str)


@jit
def _jacobians(step, xs, u):
    return jax.vmap(lambda x: jacobians.jacobian(step, x, u))(xs)


def far_from(points: Float[np.ndarray, "k p n"], starts: Float[np.ndarray, "s n"]) -> Bool[np.ndarray, " k"]:
    """Whether all p states of each point are farther from every start than `OUTLYING` times the starts' spread."""
    if not len(points) or len(starts) == 1 or (starts == starts[0]).all():
        return np.zeros(len(points), bool)
    scale = max(np.abs(points).max(), np.abs(starts).max())  # squares neither over- nor underflow
    centre = (starts / scale).mean(0)
    starts, points = (np.asarray(each / scale - centre, dtype=float) for each in (starts, points))
    spread = (starts**2).sum(1).mean()
    # Only what is far from the centre can be far from every start: few points need all the distances.
    far = ((points**2).sum(-1) > OUTLYING**2 * spread).all(1)
    for i in np.flatnonzero(far):
        far[i] = all((((starts - state) ** 2).sum(1) > OUTLYING**2 * spread).all() for state in points[i])
    return far


def merge(
    x: Float[np.ndarray, "s p n"], residual: Float[np.ndarray, " s"], converged: Bool[np.ndarray, " s"], unique_tol
):
    """Which converged points to keep, by residual, and which of them each start reached.

    A point is a fixed point (p = 1) or a cycle of p states, and cycles are one if they are near in some rotation. Many
    candidates are sorted along a random direction, on which near ones are near; of those, a few more directions leave
    hardly any but the true ones, whose states are then compared. k log k unless many points really are close. Along a
    direction, a cycle shows as its p shadows in ascending order: they do not depend on the rotation.
    """
    reached = np.full(len(x), -1)
    candidates = np.flatnonzero(converged)
    if not len(candidates):
        return candidates, reached
    # The best first; ties by position, so that the order of the starts decides nothing.
    candidates = candidates[np.lexsort((*x[candidates].reshape(len(candidates), -1).T[::-1], residual[candidates]))]
    points = x[candidates].astype(float)
    size = np.abs(points).max((1, 2))
    radius = unique_tol * (1 + size)
    neighbours = _neighbours(points, radius, size)
    representative = np.full(len(candidates), -1)
    for i in range(len(candidates)):
        if representative[i] < 0:
            near = neighbours(i)
            near = near[representative[near] < 0]
            same = np.abs(points[near] - points[i]).max((1, 2)) <= radius[i]
            for turn in range(1, x.shape[1]):
                same |= np.abs(points[near] - np.roll(points[i], turn, axis=0)).max((1, 2)) <= radius[i]
            representative[near[same]] = i
    kept, reached[candidates] = np.unique(representative, return_inverse=True)
    return candidates[kept], reached


def _neighbours(points, radius, size):
    """A function from a point's number to those of all that may be within its radius: itself, and hardly any others."""
    if len(points) <= _FEW:
        everyone = np.arange(len(points))
        return lambda i: everyone[i:]
    n = points.shape[2]
    directions = np.random.default_rng(0).standard_normal((n, 4))
    # Scaled so that a shadow moves by at most the largest component's change, apart from its rounding.
    shadows = np.sort(points @ (directions / np.abs(directions).sum(0)), axis=1).reshape(len(points), -1)
    reach = radius + 4 * n * np.finfo(float).eps * size
    order = np.argsort(shadows[:, 0], kind="stable")
    first = np.searchsorted(shadows[order, 0], shadows[:, 0] - reach)
    last = np.searchsorted(shadows[order, 0], shadows[:, 0] + reach, side="right")

    def neighbours(i):
        near = order[first[i] : last[i]]
        return near[(np.abs(shadows[near] - shadows[i]) <= reach[i]).all(1)]

    return neighbours
