"""The search for cycles of a map: all states of a cycle are solved for at once, so that unstable ones are found too.

Row 6 of the layer table: above `newton`. Next: `continuation`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, jacobians, products, stability
from rnn_dynamics._compile import always_on_one_blas_thread, jit
from rnn_dynamics.fixed_points.newton import iterate, lanes, over_lanes
from rnn_dynamics.fixed_points.results import (
    CONVERGED,
    STATUS,
    FixedPoints,
    default_tol,
    far_from,
    hidden,
    kinds,
    merge,
    verdict,
)

__all__ = ["Cycles", "cycles"]


class Cycles(FixedPoints):
    """Cycles of one prime period, as fixed points of that iterate; each is there once, whatever state it starts from.

    `x` is the first state, the one with the largest first component; `residual` is the largest over the whole cycle;
    `jacobian` is that of the iterate, at `x`, and `multipliers` its eigenvalues; `far` if every state is. In `status`,
    "shorter" says that a guess led to a cycle whose period only divides the one asked for.
    """

    points: Float[Array, "k p n"]
    """All states of each cycle, in the order in which the map runs through them."""


@always_on_one_blas_thread
def cycles(
    step: Callable,
    starts: Float[Array, "s n"],
    period: int,
    u: PyTree = None,
    *,
    restarts: int = 0,
    seed: int = 0,
    tol: float | None = None,
    unique_tol: float | None = None,
    max_steps: int = 200,
) -> Cycles:
    r"""The cycles of a map that Newton's method reaches from given starts. Runs on the host: their number is data.

    $$ F(x_0) = x_1, \quad F(x_1) = x_2, \quad \dots, \quad F(x_{p-1}) = x_0 $$

    All p states are unknowns (multiple shooting), and the first guess of them is the orbit of the start. No iterate of
    the map is formed, so a long or violently unstable cycle is as good as a fixed point. The steps are those of
    `find`, each by orthogonal elimination of the cyclic block system, O(p n³). Of a piecewise linear map, a step
    solves for the cycle that goes through the linear pieces its guess lies in, and then looks again which those are.
    Tolerances suit states of about size 1, as in `find`.

    Args:
        step: The map F, `(x, u) -> x`. Cycles of a field are no such thing: integrate it to a return map first.
        starts: Where to start.
        period: p, the prime period: a fixed point is not a cycle of period 2.
        u: The input, held constant.
        restarts: Further guesses for each start: p states drawn at random from all that the orbits visited. They reach
            unstable cycles of piecewise linear networks, which no orbit comes near.
        seed: Of the draws, for `numpy.random.default_rng`.
        tol: Residual allowed, of each equation as in `find`.
        unique_tol: As in `find`, for the states of two cycles in some rotation; also what tells a state from that
            after fewer than p steps.
        max_steps: Newton steps per guess.

    Returns:
        The cycles, classified. `status`, `start_residual` and `reached` have s (1 + restarts) entries: those of the
        starts, then those of the further guesses. The leading multipliers are right relative to their own size, the
        others as far as they are separated; below the smallest float they are 0.

    Raises:
        ValueError: starts are not a finite float array (s, n) with s, n ≥ 1, a period or max_steps below 1, negative
            restarts or seed, a tolerance that is not positive, a step that changes the shape of the state, or traced
            arguments.

    Example:
        >>> two = cycles(lambda x, u: 3.2 * x * (1 - x), jnp.linspace(0.1, 0.9, 5)[:, None], 2)
        >>> print(two.points[..., 0].round(6), two.multipliers.real.round(6))  # 4 + 2r - r²
        [[0.799455 0.513045]] [[0.16]]

    References:
        Ascher, Mattheij, Russell (1995), sections 4.3 and 7.1, for multiple shooting and why it is stable; Wright
        (1992), for the elimination; Eisenmann et al. (2023), for piecewise linear networks.
    """
    _check.on_host("cycles", step=step, starts=starts, u=u)
    starts = _check.starts(starts)
    for name, value, least in (("period", period, 1), ("restarts", restarts, 0), ("seed", seed, 0)):
        _check.count(name, value, least=least)
    _check.count("max_steps", max_steps, least=1)
    for name, value in (("tol", tol), ("unique_tol", unique_tol)):
        if value is not None:
            _check.positive(name, value)
    guesses = np.asarray(_orbits(step, starts, u, period))
    guesses = np.concatenate([guesses, _shuffled(guesses, restarts, seed)])
    found = lanes(_shoot, step, (guesses,), u, tol, max_steps)
    x, residual, code = (np.array(each) for each in found)
    return _collect(step, x, residual, code, u, tol, unique_tol, np.asarray(starts))


def _shuffled(orbits, restarts, seed):
    """Guesses whose states are drawn from all finite ones of the orbits; NaN where there are none."""
    num, period, n = orbits.shape
    pool = orbits.reshape(-1, n)
    pool = pool[np.isfinite(pool).all(1)] if np.isfinite(pool).all(1).any() else np.full_like(pool, np.nan)
    return pool[np.random.default_rng(seed).integers(len(pool), size=(num * restarts, period))]


def _collect(step, x, residual, code, u, tol, unique_tol, starts):
    """The Cycles that a search ended on: judged, of prime period, merged, linearised, classified."""
    num, period, n = x.shape
    code = verdict(x.reshape(num, -1), residual, code, tol)
    unique_tol = default_tol(tol, x.dtype) ** 0.5 if unique_tol is None else unique_tol
    shorter = code == CONVERGED
    shorter[shorter] = _returns_early(x[shorter], unique_tol)
    kept, reached = merge(x, residual, (code == CONVERGED) & ~shorter, unique_tol)
    turns = x[kept, :, 0].argmax(1)
    points = x[kept[:, None], (turns[:, None] + np.arange(period)) % period]
    padded = np.append(points, np.zeros((1, period, n), x.dtype), axis=0)
    padded = np.resize(padded, (1 << len(kept).bit_length(), period, n))  # to a power of two: few shapes to compile
    left = np.resize(np.append(residual[kept], 0).astype(x.dtype), len(padded))
    looked = lanes(_linearise, step, (padded, left), u)
    jacobian, values, away = (np.asarray(each)[: len(kept)] for each in looked)
    astray = lanes(_linearise, step, (np.resize(points + away, padded.shape), left), u)[0]
    kind = kinds(values, jacobian, np.asarray(astray)[: len(kept)], "discrete", period)
    return Cycles(
        x=jax.device_put(points[:, 0]),
        residual=jax.device_put(residual[kept]),
        jacobian=jax.device_put(jacobian),
        multipliers=jax.device_put(values),
        stable=np.char.startswith(kind, "stable"),
        kind=kind,
        far=far_from(points, starts),
        status=np.where(shorter, "shorter", STATUS[code]),
        start_residual=residual,
        reached=reached,
        points=jax.device_put(points),
    )


def _returns_early(x, unique_tol):
    """Whether an orbit of p steps closes after p/q of them, for some prime q."""
    period = x.shape[1]
    radius = unique_tol * (1 + np.abs(x).max((1, 2)))
    primes = [q for q in range(2, period + 1) if period % q == 0 and all(q % r for r in range(2, q))]
    closes = [np.abs(x - np.roll(x, period // q, axis=1)).max((1, 2)) <= radius for q in primes]
    return np.any(closes, axis=0) if primes else np.zeros(len(x), bool)


@jit
def _orbits(step, starts, u, period):
    def one(start):
        start = _check.next_state(step, start, u)
        return jax.lax.scan(lambda x, _: (step(x, u), x), start, length=period)[1]

    return jax.vmap(one)(starts)


@jit
def _shoot(step, guesses, u, tol, max_steps):
    def defect_of(x):
        return jax.vmap(lambda x: step(x, u))(x) - jnp.roll(x, -1, axis=0)

    def change_of(x, g):
        jacobian = jax.vmap(lambda x: jacobians.jacobian(step, x, u))(x)
        return _solve_cyclic(jacobian, -g), jnp.isfinite(jacobian).all()

    def one(guess):
        return iterate(defect_of, change_of, guess, tol, max_steps)

    return over_lanes(one, guesses[0].size, guesses)


@jit
def _linearise(step, points, residual, u):
    """Of each cycle the Jacobian of the iterate, its multipliers, and how far away the true states may be."""

    def one(cycle):
        points, residual = cycle
        each = jax.vmap(lambda x: jacobians.jacobian(step, x, u))(points)
        product = products.from_matrices(each)
        away = _solve_cyclic(each, jax.vmap(hidden, (0, None))(each, residual))
        return product.to_array(), _multipliers(product), away

    return jax.lax.map(one, (points, residual))


def _multipliers(product):
    r"""Eigenvalues of U D V: those of D^½ V U D^½, which is graded and spoils none of the large ones with the rest."""
    top = product.log_scale.max()
    top = jnp.where(jnp.isfinite(top), top, 0)
    scale = jnp.exp((product.log_scale - top) / 2)
    return stability.multipliers(scale[:, None] * (product.v @ product.u) * scale) * jnp.exp(top)


def _solve_cyclic(jacobian, g):
    r"""The d with $J_i d_i - d_{i+1} = g_i$, i = 0 ... p-1, and $d_p = d_0$.

    From the rows of two neighbouring blocks, an orthogonal transformation eliminates the state between them; what is
    left relates d_0 to the next, S d_0 + T d_i = c. Nothing is multiplied out, so nothing grows (Wright 1992).
    """
    n = jacobian.shape[-1]
    eye, zero = jnp.eye(n, dtype=g.dtype), jnp.zeros((n, n), g.dtype)

    def eliminate(carry, block):
        s, t, c = carry
        j, b = block
        q, r = jnp.linalg.qr(jnp.concatenate([t, j]), mode="complete")
        rest = q.T @ jnp.block([[s, zero, c[:, None]], [zero, -eye, b[:, None]]])
        return (rest[n:, :n], rest[n:, n:-1], rest[n:, -1]), (r[:n], rest[:n])

    def substitute(after, row):
        r, rest = row
        right = rest[:, -1] - rest[:, :n] @ first - rest[:, n:-1] @ after
        d = jax.lax.linalg.triangular_solve(r, right[:, None], left_side=True)[:, 0]
        return d, d

    (s, t, c), rows = jax.lax.scan(eliminate, (jacobian[0], -eye, g[0]), (jacobian[1:], g[1:]))
    first = jnp.linalg.solve(s + t, c)
    _, others = jax.lax.scan(substitute, first, rows, reverse=True)
    return jnp.concatenate([first[None], others])
