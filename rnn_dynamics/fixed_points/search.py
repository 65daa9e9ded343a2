"""The search for fixed points of maps and equilibria of fields, from many starts.

Row 6 of the layer table: above `newton`. Next: `slow` and `cycles`, searches of the same kind; `continuation`.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import always_on_one_blas_thread, jit
from rnn_dynamics.fixed_points import results
from rnn_dynamics.fixed_points.newton import lanes, levenberg, newton
from rnn_dynamics.fixed_points.results import (
    CONVERGED,
    DIVERGED,
    MAX_STEPS,
    NON_FINITE,
    STATUS,
    FixedPoints,
    default_tol,
    defect,
    defect_jacobian,
    size,
    verdict,
)

__all__ = ["find", "solve", "starts_from"]

_DIFFERENTIATED = {"hybr": {"xtol": 0.0}, "lm": {"xtol": 0.0, "ftol": 0.0}}
"""Methods of SciPy that take the pair (G, dG/dx), with the options that send them on to the rounding floor."""
_ESTIMATING = ("broyden1", "broyden2", "anderson", "linearmixing", "diagbroyden", "excitingmixing", "krylov", "df-sane")
"""Those that estimate what they need of dG/dx."""
_METHODS = (*_DIFFERENTIATED, *_ESTIMATING)


@always_on_one_blas_thread
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
    scaled down to at most max(1, ‖x‖/8) in its largest component (the first ones to twice that), and goes on to the
    rounding floor. Where it stalls, Levenberg's method takes over from the best iterate; the status stays Newton's
    unless that succeeds. A point counts as found if
    $\|G(x)\|_\infty \le \min(tol\,(1 + \|x\|_\infty), \tfrac12)$; two nearer than
    $unique\_tol\,(1 + \|x\|_\infty)$ are one, and the one with the least residual is kept. The 1 is a length: a state
    that stays below √tol, in whatever units, needs units in which it is of size 1, or smaller tolerances.

    Args:
        step: The map F, `(x, u) -> x`, or the field f.
        starts: Where to start.
        u: The input, held constant.
        solver: "newton", or a method of `scipy.optimize.root`, which runs start by start.
        time: "discrete" for a map, "continuous" for a field.
        tol: Residual allowed; by default 100 machine epsilons.
        unique_tol: By default √tol: next to a fold, a residual of tol leaves a position uncertain by √tol.
        max_steps: Newton steps per start; where they fail, up to 30 of Levenberg's follow, and no more than this.

    Returns:
        The points, classified, and the status of every start. No points is an answer too. Points far from every
        start are kept, and marked.

    Raises:
        ValueError: starts are not a finite float array (s, n) with s, n ≥ 1, an unknown solver or time, a tolerance
            that is not positive, max_steps below 1, a step that changes the shape of the state, or traced arguments.

    Example:
        >>> points = find(lambda x, u: jnp.tanh(2 * x), jnp.array([[-1.0], [0.1], [1.0]]))
        >>> print(np.sort(points.x[:, 0]).round(6), len(points[points.stable]))
        [-0.957504  0.        0.957504] 2

    References:
        Sussillo and Barak (2013), Opening the black box, for fixed points as the skeleton of a network's dynamics.
    """
    _check.on_host("find", step=step, starts=starts, u=u)
    starts = _check.starts(starts)
    _check.option("solver", solver, ("newton", *_METHODS))
    _check.option("time", time, ("discrete", "continuous"))
    _check.count("max_steps", max_steps, least=1)
    for name, value in (("tol", tol), ("unique_tol", unique_tol)):
        if value is not None:
            _check.positive(name, value)
    if solver == "newton":
        x, residual, code = _by_newton(step, starts, u, time, tol, max_steps)
    else:
        ends = [_root(step, start, u, solver, time, tol) for start in starts]
        x, residual, code = (np.array([end[name] for end in ends]) for name in ("x", "residual", "code"))
    return results.collect(step, x, residual, code, u, time, tol, unique_tol, np.asarray(starts))


def solve(
    step: Callable,
    x0: Float[Array, " n"],
    u: PyTree = None,
    *,
    method: str = "hybr",
    time: Literal["discrete", "continuous"] = "discrete",
    tol: float | None = None,
) -> "scipy.optimize.OptimizeResult":
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
        ValueError: x0 is not a finite float array (n,), an unknown method or time, a tol that is not positive, or
            traced arguments.

    Example:
        >>> solve(lambda x, u: jnp.cos(x), jnp.array([1.0])).x.round(9)
        array([0.73908513])

    References:
        Moré, Garbow, Hillstrom (1980), MINPACK, for "hybr" and "lm".
    """
    _check.on_host("solve", step=step, x0=x0, u=u)
    x0 = _check.state("x0", x0)
    _check.option("method", method, _METHODS)
    _check.option("time", time, ("discrete", "continuous"))
    if tol is not None:
        _check.positive("tol", tol)
    result = _root(step, x0, u, method, time, tol)
    result.status = str(STATUS[result.pop("code")])
    return result


def starts_from(trajectory: Float[Array, "S n"], num: int, *, noise: float = 0.0, seed: int) -> Float[Array, "num n"]:
    r"""Starts near where a system goes: states drawn from a trajectory, each moved a little.

    $$ x_i = x_{t_i} + \text{noise}\, \xi_i, \qquad t_i \text{ uniform}, \quad \xi_i \sim N(0, I) $$

    Args:
        trajectory: The states to draw from, with replacement.
        num: How many starts.
        noise: Standard deviation of what is added, in the units of the state.
        seed: Of `numpy.random.default_rng`.

    Returns:
        The starts, in the trajectory's dtype.

    Raises:
        ValueError: trajectory is not a finite float array (T+1, n) with T ≥ 0 and n ≥ 1, num below 1, noise negative
            or not finite, a seed that is not a whole number from 0 on, or traced arguments.

    Example:
        >>> starts_from(jnp.array([[0.0, 1.0]]), 2, seed=0)
        Array([[0., 1.],
               [0., 1.]], dtype=float64)

    References:
        Sussillo and Barak (2013), who start from states that the network visits.
    """
    _check.on_host("starts_from", trajectory=trajectory)
    trajectory = _check.floats("trajectory", trajectory, "S", "n")
    if trajectory.size == 0:
        raise ValueError(f"trajectory must hold at least one state of at least one unit; got shape {trajectory.shape}")
    num = _check.count("num", num, least=1)
    _check.within("noise", _check.number("noise", noise), "be at least 0", lambda value: value >= 0)
    generator = np.random.default_rng(_check.count("seed", seed))
    drawn = np.asarray(trajectory)[generator.integers(len(trajectory), size=num)]
    moved = drawn + float(noise) * generator.standard_normal(drawn.shape)
    return jnp.asarray(moved.astype(trajectory.dtype))


@jit
def _look(step, x, u, time):
    g = defect(step, x, u, time)
    return g, defect_jacobian(step, x, u, time), size(g)


def _by_newton(step, starts, u, time, tol, max_steps):
    """Newton's method from every start, then Levenberg's from the best iterate of each that it failed."""
    x, residual, code = (np.array(each) for each in lanes(newton, step, (starts,), u, time, tol, max_steps))
    failed = (verdict(x, residual, code, tol) != CONVERGED) & np.isfinite(residual) & (code != DIVERGED)
    if failed.any():
        again = lanes(levenberg, step, (x, failed), u, time, tol, max_steps)
        other, other_residual, other_code = (np.array(each) for each in again)
        better = failed & (other_residual < residual)
        x[better], residual[better] = other[better], other_residual[better]
        code = np.where(better & (other_code == CONVERGED), CONVERGED, code)
    return x, residual, code


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
    code = NON_FINITE
    if np.isfinite(best["residual"]):
        code = MAX_STEPS
        options = _DIFFERENTIATED.get(method, {"fatol": default_tol(tol, x0.dtype)})
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
    result.code = int(verdict(result.x, result.residual, code, tol))
    result.success = result.code == CONVERGED
    result.message = f"{STATUS[result.code]}: residual {result.residual:.1e}"
    return result
