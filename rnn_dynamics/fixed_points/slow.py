"""The search for slow points: where a system all but stands still, whether or not a fixed point is there.

Row 6 of the layer table: above `newton`. Next: `continuation`, which follows them to the fold whose ghosts they are.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Complex, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import always_on_one_blas_thread, jit
from rnn_dynamics.fixed_points.newton import lanes, over_lanes, solve_one
from rnn_dynamics.fixed_points.results import (
    CONVERGED,
    DIVERGED,
    MAX_STEPS,
    NON_FINITE,
    RUNNING,
    SINGULAR,
    STATUS,
    FixedPoints,
    allowed,
    default_tol,
    defect,
    defect_jacobian,
    far_from,
    kinds,
    leeway,
    merge,
    size,
)

__all__ = ["SlowPoints", "slow_points"]

_DAMPING = 1e-3
"""The first damping, in units of the largest diagonal entry of JᵀJ (Madsen, Nielsen, Tingleff 2004)."""


class SlowPoints(FixedPoints):
    """Local minima of q = ½‖G‖², the slowest first: fixed points, and ghosts of such, where q is not 0.

    `residual` is ‖G‖∞; `kind` and `stable` speak of the linearisation at the point. In `status`, "converged" means that
    the gradient of q vanishes there to rounding and q has a minimum; "singular", that q has a saddle, a maximum or a
    level there.
    """

    speed: Float[np.ndarray, " k"]
    """q: half the squared distance that the state moves in a step; in continuous time half its squared velocity."""
    ghost: Bool[np.ndarray, " k"]
    """Whether no fixed point is there: the residual is above what `find` would allow."""
    gradient: Float[np.ndarray, " k"]
    """‖JᵀG‖₂ in units of the largest ‖J‖ met on the way, to be compared with the distance moved."""
    input_jacobian: Float[Array, "k n *m"] | None
    """∂F/∂u, how a step from there answers to its input; None where u is no float array."""
    right: Complex[np.ndarray, "k n n"]
    """Eigenvectors of the Jacobian, one a column, of norm 1, in the order of the multipliers: directions that a
    perturbation keeps."""
    left: Complex[np.ndarray, "k n n"]
    """Left eigenvectors w, one a column, of norm 1: wᴴ J = λ wᴴ, what of a perturbation excites each direction. |wᴴ v|
    is the reciprocal of the eigenvalue's condition number. At a ghost, that of λ = 1 (continuous: 0) lies along G."""
    time_constants: Float[np.ndarray, "k n"]
    """After how long a perturbation along each direction has decayed to 1/e: -1/ln|λ| steps, or -1/Re λ. Negative
    where it grows, infinite where it does neither, 0 where it is gone in one step."""


@always_on_one_blas_thread
def slow_points(
    step: Callable,
    starts: Float[Array, "s n"],
    u: PyTree = None,
    *,
    time: Literal["discrete", "continuous"] = "discrete",
    tol: float | None = None,
    unique_tol: float | None = None,
    max_steps: int = 500,
) -> SlowPoints:
    r"""The local minima of speed that descent reaches from given starts. Runs on the host: their number is data.

    $$ q(x) = \tfrac12 \|G(x)\|^2, \qquad G = F(x, u) - x \;\text{ or }\; f(x, u), \qquad \nabla q = J^T G $$

    A fixed point is a minimum with q = 0. At a ghost, q > 0 and yet its gradient vanishes: J = ∂G/∂x is singular and G
    is its left null vector, as just past a fold, where a state that comes by lingers. The descent is Newton's on q
    with its full Hessian wherever that, damped, is positive definite, and Levenberg's with JᵀJ where it is not; q
    never rises. A few steps of Newton's method on G end it where a fixed point is near. Tolerances suit states of about
    size 1, as in `find`.

    Args:
        step: The map F, `(x, u) -> x`, or the field f; twice differentiable.
        starts: Where to start; `starts_from` draws them from a trajectory.
        u: The input, held constant.
        time: "discrete" for a map, "continuous" for a field.
        tol: Of a fixed point, as in `find`; of a ghost, the gradient allowed: $\|J^T G\|_2 \le tol\,\|J\|\,(1 +
            \|x\|_\infty)$. By default 100 machine epsilons.
        unique_tol: As in `find`.
        max_steps: Steps of the descent per start.

    Returns:
        The points in ascending order of speed, and the status of every start.

    Raises:
        ValueError: as `find`.

    Example:
        >>> points = slow_points(lambda x, u: x + (x - 1) ** 2 + 1e-4, jnp.array([[0.0], [0.5]]))
        >>> print(points.x, points.speed, points.ghost)
        [[1.]] [5.e-09] [ True]

    References:
        Sussillo and Barak (2013), Opening the black box, section 2; Strogatz (1994), section 4.3, for ghosts.
    """
    _check.on_host("slow_points", step=step, starts=starts, u=u)
    starts = _check.starts(starts)
    _check.option("time", time, ("discrete", "continuous"))
    _check.count("max_steps", max_steps, least=1)
    for name, value in (("tol", tol), ("unique_tol", unique_tol)):
        if value is not None:
            _check.positive(name, value)
    found = lanes(_descend, step, (starts,), u, time, tol, max_steps)
    x, speed, residual, gradient, code = (np.array(each) for each in found)
    code = np.where(np.abs(x).max(1) > 1 / np.finfo(x.dtype).eps, DIVERGED, code)
    unique_tol = default_tol(tol, x.dtype) ** 0.5 if unique_tol is None else unique_tol
    kept, reached = merge(x[:, None], speed, code == CONVERGED, unique_tol)
    points, ghost = x[kept], residual[kept] > np.asarray(allowed(tol, x[kept], np.abs(x[kept]).max(1, initial=0)))
    padded = np.resize(np.append(kept, 0), 1 << len(kept).bit_length())  # to a power of two: few shapes to compile
    own = lanes(_linearise, step, (x[padded],), u, time)
    jacobian, input_jacobian = jax.tree.map(lambda each: np.asarray(each)[: len(kept)], own)
    values, left, right = _spectra(jacobian, time)
    away = leeway(jacobian, np.where(ghost, 0, residual[kept]), time)
    astray = lanes(_linearise, step, (np.resize(points + away, x[padded].shape),), u, time)[0]
    kind = kinds(values, jacobian, np.asarray(astray)[: len(kept)], time)
    return SlowPoints(
        x=jax.device_put(points),
        residual=jax.device_put(residual[kept]),
        jacobian=jax.device_put(jacobian),
        multipliers=jax.device_put(values),
        stable=np.char.startswith(kind, "stable"),
        kind=kind,
        far=far_from(points[:, None], np.asarray(starts)),
        status=STATUS[code],
        start_residual=residual,
        reached=reached,
        speed=speed[kept],
        ghost=ghost,
        gradient=gradient[kept],
        input_jacobian=jax.device_put(input_jacobian),
        right=right,
        left=left,
        time_constants=_time_constants(values, time),
    )


def _spectra(jacobian, time):
    """Eigenvalues, the least stable first, with left and right eigenvectors; NaN where a Jacobian is not finite."""
    shape, dtype = jacobian.shape, np.result_type(jacobian, np.complex64)
    values, left, right = (
        np.full(shape[:2], np.nan, dtype),
        np.full(shape, np.nan, dtype),
        np.full(shape, np.nan, dtype),
    )
    for i in np.flatnonzero(np.isfinite(jacobian).all((1, 2))):
        each, on_left, on_right = scipy.linalg.eig(jacobian[i], left=True, right=True)
        by_size = np.abs(each) if time == "discrete" else each.real
        order = np.lexsort((-each.imag, -each.real, -by_size))
        values[i], left[i], right[i] = each[order], on_left[:, order], on_right[:, order]
    return values, left, right


def _time_constants(values, time):
    with np.errstate(divide="ignore"):
        rates = np.log(np.abs(values)) if time == "discrete" else values.real
        return -1 / np.where(rates == 0, -0.0, rates)


@jit
def _linearise(step, xs, u, time):
    def one(x):
        jacobian = defect_jacobian(step, x, u, time)
        if time == "discrete":
            jacobian = jacobian + jnp.eye(len(x), dtype=x.dtype)
        return jacobian, jax.jacfwd(lambda u: step(x, u))(u) if driven else None

    driven = isinstance(u, jax.Array) and jnp.issubdtype(u.dtype, jnp.floating)
    return jax.vmap(one)(xs)


@jit
def _descend(step, starts, u, time, tol, max_steps):
    """From every start the point, q, ‖G‖∞, ‖JᵀG‖₂/‖J‖ there, and a code."""

    def gradient_of(x):
        g, pull = jax.vjp(lambda x: defect(step, x, u, time), x)
        return pull(g)[0]

    def look(x):
        """What changes with x: G, ∇q, JᵀJ, the Hessian of q, and ‖J‖."""
        jacobian = defect_jacobian(step, x, u, time)
        hessian = jax.jacfwd(gradient_of)(x)
        normal = jacobian.T @ jacobian
        return defect(step, x, u, time), gradient_of(x), normal, (hessian + hessian.T) / 2, _norm(jacobian)

    def one(start):
        start = _check.next_state(step, start, u)
        eye, eps = jnp.eye(len(start), dtype=start.dtype), jnp.finfo(start.dtype).eps

        def advance(carry):
            count, x, (g, gradient, normal, hessian, _), largest, damping, growth, _ = carry
            curvature = jnp.where(_positive(hessian + damping * eye), hessian, normal)
            change = -jnp.linalg.solve(curvature + damping * eye, gradient)
            new = x + change
            new_g, new_gradient = defect(step, new, u, time), gradient_of(new)
            fall, promised = (g @ g - new_g @ new_g) / 2, change @ (damping * change - gradient) / 2
            gain = jnp.nan_to_num(fall / promised, nan=-1.0, posinf=-1.0, neginf=-1.0)
            # Where q is flat to rounding (of G, by some eps of x), the gradient still tells better from worse.
            flat = jnp.abs(fall) <= 8 * eps * (1 + jnp.abs(x).max()) * jnp.abs(g).sum()
            accepted = (gain > 0) & ~flat | flat & (_norm(new_gradient) < _norm(gradient))
            gain = jnp.where(flat, 1, gain)
            damping = damping * jnp.where(accepted, jnp.maximum(0.1, 1 - (2 * gain.clip(max=1) - 1) ** 3), growth)
            growth = jnp.where(accepted, 2, 2 * growth).astype(x.dtype)
            x, seen = jax.lax.cond(accepted, lambda: (new, look(new)), lambda: (x, carry[2]))
            # Both as `look` gave them: compiled anew, G may round otherwise, and seem halved for ever.
            halved = (size(seen[0]) < size(g) / 2) | (_norm(seen[1]) < _norm(gradient) / 2)
            largest = jnp.maximum(largest, seen[-1])
            finite = jnp.isfinite(seen[2]).all() & jnp.isfinite(seen[3]).all()
            code = jnp.select(
                [~finite, at_rest(x, seen, largest) & ~halved, (growth > 1e6) | (count + 1 >= max_steps)],
                [NON_FINITE, CONVERGED, MAX_STEPS],
                RUNNING,
            )
            return count + 1, x, seen, largest, damping, growth, code

        def at_rest(x, seen, largest):
            level = default_tol(tol, x.dtype) * largest * (1 + jnp.abs(x).max())
            return (_norm(seen[1]) <= level) | (size(seen[0]) <= allowed(tol, x, jnp.abs(x).max()))

        seen = look(start)
        code = jnp.where(jnp.isfinite(seen[0]).all() & jnp.isfinite(seen[3]).all(), RUNNING, NON_FINITE)
        code = jnp.where((code == RUNNING) & (size(seen[0]) == 0), CONVERGED, code)
        carry = (0, start, seen, seen[-1], _DAMPING * jnp.diag(seen[2]).max(), jnp.asarray(2, start.dtype), code)
        _, x, seen, largest, *_, code = jax.lax.while_loop(lambda carry: carry[-1] == RUNNING, advance, carry)
        # A minimum of q, not a saddle; the Hessian is as good as rounding in J and the distance to a zero leave it.
        slack = (eps**0.5 * largest**2 + size(seen[0]) * eps**0.25 * largest) * eye
        code = jnp.where((code == CONVERGED) & ~_positive(seen[3] + slack), SINGULAR, code)
        # JᵀJ squares the condition of J: next to a fold, only Newton's method on G itself reaches a fixed point.
        near, residual, _ = solve_one(step, x, u, time, tol, 20)
        closer = (residual < size(seen[0])) & (jnp.abs(near - x).max() <= size(seen[0]) ** 0.5 * (1 + jnp.abs(x).max()))
        x = jnp.where(closer & (residual <= allowed(tol, near, jnp.abs(near).max())), near, x)
        g = defect(step, x, u, time)
        return x, g @ g / 2, size(g), _norm(gradient_of(x)) / jnp.maximum(largest, 1e-30), code

    return over_lanes(one, starts.shape[1], starts)


def _norm(array):
    return jnp.sqrt((array**2).sum())


def _positive(matrix):
    """Whether a symmetric matrix is positive definite."""
    return jnp.isfinite(jnp.linalg.cholesky(matrix)).all()
