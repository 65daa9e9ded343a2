"""Fixed points of maps, and equilibria of fields: found from many starts, merged, and classified.

Row 6 of the layer table: above `jacobians` and `stability`. Next: `bifurcation`.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from rnn_dynamics import _check, jacobians, stability
from rnn_dynamics._compile import jit

__all__ = ["FixedPoints", "find", "solve"]

_STATUS = np.array(["converged", "max_steps", "diverged", "singular", "non_finite"])
_CONVERGED, _MAX_STEPS, _DIVERGED, _SINGULAR, _NON_FINITE, _RUNNING = range(6)
_DIFFERENTIATED = {"hybr": {"xtol": 0.0}, "lm": {"xtol": 0.0, "ftol": 0.0}}
"""Methods of SciPy that take the pair (G, dG/dx), with the options that send them on to the rounding floor."""
_ESTIMATING = ("broyden1", "broyden2", "anderson", "linearmixing", "diagbroyden", "excitingmixing", "krylov", "df-sane")
"""Those that estimate what they need of dG/dx."""
_METHODS = (*_DIFFERENTIATED, *_ESTIMATING)


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
    status: np.ndarray
    """(s,) one word a start: "converged", "max_steps", "diverged", "singular" or "non_finite"."""
    start_residual: Float[np.ndarray, " s"]
    """The least residual met from each start; infinite where the map was never finite."""
    reached: Int[np.ndarray, " s"]
    """Which point each start led to; -1 where it did not converge."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index) -> "FixedPoints":
        chosen = np.atleast_1d(np.arange(len(self))[index])
        renumber = np.full(len(self) + 1, -1)
        renumber[chosen] = np.arange(len(chosen))
        x, residual, jacobian, values = (
            jnp.asarray(np.asarray(field)[chosen]) for field in (self.x, self.residual, self.jacobian, self.multipliers)
        )
        stable, kind, reached = self.stable[chosen], self.kind[chosen], renumber[self.reached]
        return FixedPoints(x, residual, jacobian, values, stable, kind, self.status, self.start_residual, reached)

    def __iter__(self) -> Iterator["FixedPoints"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        words, counts = np.unique(self.status, return_counts=True)
        starts = ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True))
        worst = f", residual at most {float(self.residual.max()):.1e}" if len(self) else ""
        return f"FixedPoints({len(self)} points, {int(self.stable.sum())} stable{worst}; starts: {starts})"


def find(
    step: Callable,
    starts: Float[Array, "s n"],
    u: PyTree = None,
    *,
    solver: str = "newton",
    time: Literal["discrete", "continuous"] = "discrete",
    tol: float | None = None,
    unique_tol: float | None = None,
    max_steps: int = 200,
) -> FixedPoints:
    r"""The fixed points x = F(x, u) that a solver reaches from given starts. Runs on the host: their number is data.

    Newton's method solves G(x) = F(x, u) - x = 0 (in continuous time G = f) from every start at once, each step
    scaled down to at most max(1, ‖x‖/2) in its largest component, and goes on to the rounding floor. A point counts
    as found if $\|G(x)\|_\infty \le \min(tol\,(1 + \|x\|_\infty), \tfrac12)$; two nearer than
    $unique\_tol\,(1 + \|x\|_\infty)$ are one, and the one with the least residual is kept.

    Args:
        step: The map F, `(x, u) -> x`, or the field f.
        starts: Where to start.
        u: The input, held constant.
        solver: "newton", or a method of `scipy.optimize.root`, which runs start by start.
        time: "discrete" for a map, "continuous" for a field.
        tol: Residual allowed; by default 100 machine epsilons.
        unique_tol: By default √tol: next to a fold, a residual of tol leaves a position uncertain by √tol.
        max_steps: Newton steps per start.

    Returns:
        The points, classified, and the status of every start. No points is an answer too.

    Raises:
        ValueError: starts are not a finite float array (s, n) with s, n ≥ 1, an unknown solver or time, a tolerance
            that is not positive, max_steps below 1, or a step that changes the shape of the state.

    Example:
        >>> points = find(lambda x, u: jnp.tanh(2 * x), jnp.array([[-1.0], [0.1], [1.0]]))
        >>> print(np.sort(points.x[:, 0]).round(6), len(points[points.stable]))
        [-0.957504  0.        0.957504] 2

    References:
        Sussillo and Barak (2013), Opening the black box, for fixed points as the skeleton of a network's dynamics.
    """
    starts = _check.floats("starts", starts, "s", "n")
    if starts.size == 0:
        raise ValueError(f"starts must hold at least one start of at least one unit; got shape {starts.shape}")
    _check.option("solver", solver, ("newton", *_METHODS))
    _check.option("time", time, ("discrete", "continuous"))
    _check.count("max_steps", max_steps, least=1)
    for name, value in (("tol", tol), ("unique_tol", unique_tol)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    if solver == "newton":
        x, residual, code = (np.array(field) for field in _newton(step, starts, u, time, tol, max_steps))
    else:
        ends = [_root(step, start, u, solver, time, tol) for start in starts]
        x, residual, code = (np.array([end[name] for end in ends]) for name in ("x", "residual", "code"))
    code = _verdict(x, residual, code, tol)
    unique_tol = _default_tol(tol, x.dtype) ** 0.5 if unique_tol is None else unique_tol
    kept, reached = _merge(x, residual, code == _CONVERGED, unique_tol)
    padded = np.resize(np.append(kept, 0), 1 << len(kept).bit_length())  # to a power of two: few shapes to compile
    jacobian, values = (np.asarray(field)[: len(kept)] for field in _linearise(step, x[padded], u, time))
    kind = _kinds(values, residual[kept], time)
    stable = np.char.startswith(kind, "stable")
    points, floor, jacobian, values = (jnp.asarray(field) for field in (x[kept], residual[kept], jacobian, values))
    return FixedPoints(points, floor, jacobian, values, stable, kind, _STATUS[code], residual, reached)


def solve(
    step: Callable,
    x0: Float[Array, " n"],
    u: PyTree = None,
    *,
    method: str = "hybr",
    time: Literal["discrete", "continuous"] = "discrete",
    tol: float | None = None,
) -> scipy.optimize.OptimizeResult:
    """One fixed point from one start by `scipy.optimize.root`, with the exact Jacobian. Runs on the host.

    Args:
        step: The map F, `(x, u) -> x`, or the field f.
        x0: Where to start.
        u: The input, held constant.
        method: Any of `scipy.optimize.root`; those that take a Jacobian ("hybr", "lm") are given it.
        time: "discrete" for a map, "continuous" for a field.
        tol: Residual allowed, as in `find`.

    Returns:
        SciPy's result, put right: `x` is the best point met on the way, `fun` the F(x) - x found there, `residual`
        its largest component, and `success` whether that is small, for SciPy's own flag does not mean it is. `status`
        is a word, as in `find`, and `solver_message` what SciPy said.

    Raises:
        ValueError: x0 is not a finite float array (n,), an unknown method or time, a tol that is not positive.

    Example:
        >>> solve(lambda x, u: jnp.cos(x), jnp.array([1.0])).x.round(9)
        array([0.73908513])

    References:
        Moré, Garbow, Hillstrom (1980), MINPACK, for "hybr" and "lm".
    """
    x0 = _check.state("x0", x0)
    _check.option("method", method, _METHODS)
    _check.option("time", time, ("discrete", "continuous"))
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be positive; got {tol}")
    result = _root(step, x0, u, method, time, tol)
    result.status = str(_STATUS[result.pop("code")])
    return result


def _defect(step, x, u, time):
    """G, whose zeros are sought: F(x) - x of a map, f(x) of a field."""
    return step(x, u) - x if time == "discrete" else step(x, u)


def _defect_jacobian(step, x, u, time):
    jacobian = jacobians.jacobian(step, x, u)
    return jacobian - jnp.eye(len(x), dtype=x.dtype) if time == "discrete" else jacobian


@jit
def _look(step, x, u, time):
    g = _defect(step, x, u, time)
    return g, _defect_jacobian(step, x, u, time), _size(g)


def _size(g):
    return jnp.where(jnp.isfinite(g).all(), jnp.abs(g).max(), jnp.inf)


def _default_tol(tol, dtype):
    return 100 * float(jnp.finfo(dtype).eps) if tol is None else tol


def _allowed(tol, x, size):
    """The residual allowed at x. Never 1: far out, where tol * size is more, x + 1 would have fixed points."""
    return (_default_tol(tol, x.dtype) * (1 + size)).clip(max=0.5)


def _verdict(x, residual, code, tol):
    """The status that the residual bears out, whatever the solver says: "converged" is said here and nowhere else.

    Beyond 1/eps neighbouring floats are farther apart than 1, and a residual of zero means nothing.
    """
    size = np.abs(x).max(-1)
    far = size > 1 / jnp.finfo(x.dtype).eps
    found = residual <= _allowed(tol, x, size)
    denied = np.where(code == _CONVERGED, _MAX_STEPS, code)
    return np.where(far, _DIVERGED, np.where(found, _CONVERGED, denied))


def _kinds(multipliers, residual, time):
    """`stability.classify`, "marginal" if the point is known too badly to tell.

    A residual r leaves the position uncertain by r / |λ - 1| (in continuous time r / |λ|), for the λ nearest to a fold,
    and the multipliers by as much.
    """
    size = np.abs(multipliers).max(1)
    gap = np.abs(multipliers - 1 if time == "discrete" else multipliers).min(1)
    rounding = _default_tol(None, residual.dtype) * np.maximum(1, size)
    with np.errstate(divide="ignore"):
        tols = np.where(np.isfinite(size), (residual + rounding) / np.minimum(gap, 1), np.inf)
    rows = zip(np.nan_to_num(multipliers), tols, strict=True)
    return np.array([stability.classify(row, time=time, tol=float(tol)) for row, tol in rows], dtype=str)


@jit
def _linearise(step, xs, u, time):
    jacobian = jax.vmap(lambda x: jacobians.jacobian(step, x, u))(xs)
    return jacobian, stability.multipliers(jacobian, time=time)


@jit
def _newton(step, starts, u, time, tol, max_steps):
    def advance(carry):
        count, x, g, best, best_size, _ = carry
        jacobian = _defect_jacobian(step, x, u, time)
        change = -jnp.linalg.solve(jacobian, g)
        largest = jnp.abs(change).max()
        change = change * jnp.minimum(1, jnp.maximum(1, jnp.abs(x).max() / 2) / jnp.maximum(largest, 1e-30))
        new = x + change
        new_g = _defect(step, new, u, time)
        new_size, old_size = _size(new_g), _size(g)
        at_floor = (best_size <= _allowed(tol, x, jnp.abs(best).max())) & ~(new_size < old_size / 2)
        code = jnp.select(
            [
                at_floor | (new_size == 0),
                ~jnp.isfinite(jacobian).all(),
                ~jnp.isfinite(change).all(),
                jnp.abs(new).max() > 1 / jnp.finfo(x.dtype).eps,
                ~jnp.isfinite(new_size),
            ],
            [_CONVERGED, _NON_FINITE, _SINGULAR, _DIVERGED, _NON_FINITE],
            jnp.where(count + 1 < max_steps, _RUNNING, _MAX_STEPS),
        )
        better = new_size < best_size
        best, best_size = jnp.where(better, new, best), jnp.where(better, new_size, best_size)
        return count + 1, new, new_g, best, best_size, code

    def one(start):
        start = _check.next_state(step, start, u)
        g = _defect(step, start, u, time)
        code = jnp.where(_size(g) == 0, _CONVERGED, jnp.where(jnp.isfinite(_size(g)), _RUNNING, _NON_FINITE))
        carry = (0, start, g, start, _size(g), code)
        *_, best, _, code = jax.lax.while_loop(lambda carry: carry[-1] == _RUNNING, advance, carry)
        return best, _size(_defect(step, best, u, time)), code

    # Under vmap every lane waits for the slowest; on a CPU, where lanes share nothing, one after the other is faster.
    if jax.default_backend() == "cpu" and starts.shape[1] > 8:
        return jax.lax.map(one, starts)
    return jax.vmap(one)(starts)


def _root(step, x0, u, method, time, tol):
    """SciPy's result from one start, with an honest `x`, `fun`, `residual` and `success`, and a status `code`."""
    x0 = _check.next_state(step, x0, u)
    best = {"residual": np.inf, "x": np.asarray(x0), "fun": np.full(x0.shape, np.nan)}

    def evaluate(x):
        x = np.array(x, dtype=x0.dtype).reshape(x0.shape)
        g, jacobian, size = (np.asarray(field) for field in _look(step, x, u, time))
        if size < best["residual"]:
            best.update(residual=float(size), x=x, fun=g)
        return (g, jacobian) if method in _DIFFERENTIATED else g

    evaluate(x0)
    result = scipy.optimize.OptimizeResult(message="")
    code = _NON_FINITE
    if np.isfinite(best["residual"]):
        code = _MAX_STEPS
        options = _DIFFERENTIATED.get(method, {"fatol": _default_tol(tol, x0.dtype)})
        if method == "df-sane":
            options["ftol"] = 0.0  # otherwise it is content with 1e-8 of what it started from
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # what SciPy warns of, the residual tells
                jac = method in _DIFFERENTIATED
                result = scipy.optimize.root(evaluate, np.asarray(x0), jac=jac, method=method, options=options)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            result.message = str(error)  # some methods raise on NaN or a singular matrix
    result.solver_message = result.message
    result.update(best)
    result.code = int(_verdict(result.x, result.residual, code, tol))
    result.success = result.code == _CONVERGED
    result.message = f"{_STATUS[result.code]}: residual {result.residual:.1e}"
    return result


def _merge(x, residual, converged, unique_tol):
    """Which converged points to keep, by residual, and which of them each start reached.

    Points are grouped along one random direction first: points of different groups are farther apart than the
    tolerance, so only within a group are distances taken. k log k unless many points really are close.
    """
    reached = np.full(len(x), -1)
    candidates = np.flatnonzero(converged)
    if not len(candidates):
        return candidates, reached
    # The best first; ties by position, so that the order of the starts decides nothing.
    candidates = candidates[np.lexsort((*x[candidates].T[::-1], residual[candidates]))]
    points = x[candidates]
    radius = unique_tol * (1 + np.abs(points).max(1))
    direction = np.random.default_rng(0).standard_normal(x.shape[1])
    along = points @ (direction / np.abs(direction).sum())  # moves by at most the largest component's change
    order = np.argsort(along)
    apart = np.diff(along[order]) > radius.max()
    representative = np.empty(len(candidates), dtype=int)
    for group in np.split(order, np.flatnonzero(apart) + 1):
        left = np.sort(group)
        while len(left):
            same = np.abs(points[left] - points[left[0]]).max(1) <= radius[left[0]]
            representative[left[same]] = left[0]
            left = left[~same]
    kept, reached[candidates] = np.unique(representative, return_inverse=True)
    return candidates[kept], reached
