"""Newton's method from many starts, and what takes over where it stalls: compiled loops, one lane a start.

Row 6 of the layer table: above `results`. Next: `search`, `slow`, `cycles`, which run these loops.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, jacobians
from rnn_dynamics._compile import jit, num_shares, on_all_cores
from rnn_dynamics.fixed_points.results import (
    CONVERGED,
    DIVERGED,
    MAX_STEPS,
    NON_FINITE,
    RUNNING,
    SINGULAR,
    allowed,
    defect,
    defect_jacobian,
    size,
)

__all__ = ["SMALL", "iterate", "lanes", "levenberg", "newton", "over_lanes", "solve_one"]

SMALL = 8
"""Up to so many units the lanes run side by side; beyond, one after the other on a CPU, and on one BLAS thread."""

_LONG = 40
"""So many of Newton's steps may be twice as long as the rest."""
_FAR = 1e-2
"""Where ‖G‖∞ is more, a step in single precision serves as well."""
_STALLED = 1e-2
"""Levenberg's method gives a lane up when its model promises less than this share of ½‖G‖²: a minimum, no zero."""
_PATIENCE = 30
"""Levenberg's method takes no more steps than this: where it can help at all, it has helped by then."""
_DAMPING = 1e-3
"""Levenberg's first damping, in units of the largest diagonal entry of JᵀJ (Madsen, Nielsen, Tingleff 2004)."""


def iterate(defect_of: Callable, change_of: Callable, start: Float[Array, "..."], tol, max_steps):
    """Newton's method with limited steps: the best iterate met, its residual and a code.

    `change_of(x, g)` gives the full step, and whether the derivatives in it are finite. A step is scaled down to
    max(L, ‖x‖/8) in the largest component, where L is 2 for the first 40 steps and 1 after them. The bound grows with
    the state, so that it is no limit far out; nearer, it decides: of 96 starts of a tanh network (n = 100, gain 1.5)
    96 converge with L = 2, after some 20 steps, but 71 with L = 1; at gain 3, where Newton's method is chaotic, 30 do
    within 200 steps with L = 1 and hardly any with L = 5. The loop goes on to the rounding floor: past the residual
    allowed, it ends when that is no longer halved.
    """

    def advance(carry):
        count, x, g, best, best_size, _ = carry
        change, differentiable = change_of(x, g)
        largest = jnp.abs(change).max()
        limit = jnp.maximum(jnp.where(count < _LONG, 2, 1), jnp.abs(x).max() / 8)
        change = change * jnp.minimum(1, limit / jnp.maximum(largest, 1e-30))
        new = x + change
        new_g = defect_of(new)
        new_size, old_size = size(new_g), size(g)
        at_floor = (best_size <= allowed(tol, x, jnp.abs(best).max())) & ~(new_size < old_size / 2)
        code = jnp.select(
            [
                at_floor | (new_size == 0),
                ~differentiable,
                ~jnp.isfinite(change).all(),
                jnp.abs(new).max() > 1 / jnp.finfo(x.dtype).eps,
                ~jnp.isfinite(new_size),
            ],
            [CONVERGED, NON_FINITE, SINGULAR, DIVERGED, NON_FINITE],
            jnp.where(count + 1 < max_steps, RUNNING, MAX_STEPS),
        )
        better = new_size < best_size
        best, best_size = jnp.where(better, new, best), jnp.where(better, new_size, best_size)
        return count + 1, new, new_g, best, best_size, code

    g = defect_of(start)
    code = jnp.where(size(g) == 0, CONVERGED, jnp.where(jnp.isfinite(size(g)), RUNNING, NON_FINITE))
    carry = (0, start, g, start, size(g), code)
    *_, best, _, code = jax.lax.while_loop(lambda carry: carry[-1] == RUNNING, advance, carry)
    return best, size(defect_of(best)), code


def over_lanes(one: Callable, num_units: int, *lanes):
    """`one` of every lane. Under vmap all wait for the slowest; on a CPU one after the other is faster."""
    if jax.default_backend() == "cpu" and num_units > SMALL:
        return jax.lax.map(lambda lane: one(*lane), lanes)
    return jax.vmap(one)(*lanes)


def lanes(function: Callable, step: Callable, per_lane: tuple, u: PyTree, *rest):
    """`function(step, *per_lane, u, *rest)`, a compiled loop over lanes whose arrays are `per_lane`.

    On a CPU, where its matrices are worth a thought, in equal shares on all cores.
    """
    num_lanes, *shape = per_lane[0].shape
    if math.prod(shape) <= SMALL:
        return function(step, *per_lane, u, *rest)
    linearised = jax.vmap(lambda x: jacobians.jacobian(step, x, u))
    state = jax.ShapeDtypeStruct((1, shape[-1]), per_lane[0].dtype)
    return on_all_cores(function, (step,), per_lane, (u, *rest), num_shares(num_lanes, linearised, state))


@jit
def newton(step, starts, u, time, tol, max_steps):
    """From every start the best iterate, its residual, and a code."""
    return over_lanes(lambda start: solve_one(step, start, u, time, tol, max_steps), starts.shape[1], starts)


@jit
def levenberg(step, starts, wanted, u, time, tol, max_steps):
    r"""As `newton`, for those of the lanes that are wanted: Levenberg's method on ½‖G‖², then Newton's.

    It only ever goes down, and so comes through where Newton's steps jump to and fro; but it may end in a minimum of
    ½‖G‖² that is no zero of G, where it stops.

    $$ (J^T J + \mu I)\, \delta = -J^T G $$

    Levenberg (1944); Marquardt (1963); μ as in Madsen, Nielsen, Tingleff (2004), section 3.2.
    """

    def one(start, wanted):
        start = _check.next_state(step, start, u)

        def advance(carry):
            count, x, g, jacobian, damping, growth, _ = carry
            normal, gradient = jacobian.T @ jacobian, jacobian.T @ g
            change = -jnp.linalg.solve(normal + damping * jnp.eye(len(x), dtype=x.dtype), gradient)
            new = x + change
            new_g = defect(step, new, u, time)
            promised = change @ (damping * change - gradient) / 2
            gain = jnp.nan_to_num((g @ g - new_g @ new_g) / 2 / promised, nan=-1.0, posinf=-1.0, neginf=-1.0)
            accepted = gain > 0
            damping = damping * jnp.where(accepted, jnp.maximum(1 / 3, 1 - (2 * gain.clip(max=1) - 1) ** 3), growth)
            growth = jnp.where(accepted, 2.0, 2 * growth).astype(x.dtype)
            x, g = jnp.where(accepted, new, x), jnp.where(accepted, new_g, g)
            jacobian = jax.lax.cond(
                accepted, lambda x, _: defect_jacobian(step, x, u, time), lambda _, jacobian: jacobian, x, jacobian
            )
            stalled = accepted & ~(promised > _STALLED * (g @ g)) | ~(growth < 1e6)
            going_on = (count + 1 < min(max_steps, _PATIENCE)) & ~stalled & ~near(x, g)
            return count + 1, x, g, jacobian, damping, growth, going_on

        def near(x, g):
            return size(g) <= jnp.finfo(x.dtype).eps ** 0.25 * (1 + jnp.abs(x).max())

        g, jacobian = defect(step, start, u, time), defect_jacobian(step, start, u, time)
        damping = _DAMPING * (jacobian**2).sum(0).max()
        running = wanted & jnp.isfinite(size(g)) & jnp.isfinite(jacobian).all() & (damping > 0)
        carry = (0, start, g, jacobian, damping, jnp.asarray(2, start.dtype), running)
        _, x, g, *_ = jax.lax.while_loop(lambda carry: carry[-1], advance, carry)
        return solve_one(step, x, u, time, tol, jnp.where(near(x, g), max_steps, 1))

    return over_lanes(one, starts.shape[1], starts, wanted)


def solve_one(step, start, u, time, tol, max_steps):
    """`newton` from one start."""

    def change_of(x, g):
        jacobian = defect_jacobian(step, x, u, time)
        return -_solved(jacobian, g), jnp.isfinite(jacobian).all()

    start = _check.next_state(step, start, u)
    return iterate(lambda x: defect(step, x, u, time), change_of, start, tol, max_steps)


def _solved(matrix, g):
    """matrix⁻¹ g; far from a zero, on a CPU, to single precision, which takes two thirds of the time.

    There Newton's steps are limited and wander: that they are right to 1e-7 times the condition is as good.
    """

    def eliminate(matrix, g):
        # [matrix g], so that g takes part in the swaps of rows.
        packed = jax.lax.linalg.lu(jnp.concatenate([matrix, g[:, None]], axis=1))[0]
        return jax.lax.linalg.triangular_solve(packed[:, :-1], packed[:, -1:], left_side=True)[:, 0]

    if g.dtype != jnp.float64 or g.size <= SMALL or jax.default_backend() != "cpu":
        return eliminate(matrix, g)
    single = lambda: eliminate(matrix.astype(jnp.float32), g.astype(jnp.float32)).astype(g.dtype)  # noqa: E731
    roughly = jax.lax.cond(size(g) > _FAR, single, lambda: jnp.full_like(g, jnp.nan))
    return jax.lax.cond(jnp.isfinite(roughly).all(), lambda: roughly, lambda: eliminate(matrix, g))
