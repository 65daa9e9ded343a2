"""Which attractor each initial state goes to, and the exact border between two basins of a planar map.

Row 8 of the layer table: above `fixed_points`, `simulate`, `jacobians` and `sweeps`.
"""

import math
from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check, jacobians, simulate, sweeps
from rnn_dynamics._compile import jit
from rnn_dynamics.fixed_points.results import default_tol

__all__ = ["Basins", "Boundary", "basins", "boundary"]

_MAX_GENERATIONS = 500
"""Preimages of the first stretch of a stable manifold, at most."""
_NEWTON_STEPS = 30


class Basins(equinox.Module):
    """The attractors that were reached, and from where."""

    label: Int[np.ndarray, " s"]
    """Which attractor each start goes to; -1 where its orbit goes to none."""
    status: np.ndarray
    """(s,) words: "settled", "on a repeller" (a cycle that the slightest push would make it leave), "unsettled" (chaos,
    quasi-periodicity, or too few steps) or "diverged"."""
    attractors: tuple[Float[np.ndarray, "p n"], ...]
    """The points of each, in the order visited: p = 1 for a fixed point."""

    def __repr__(self) -> str:
        words, counts = np.unique(self.status, return_counts=True)
        starts = ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True))
        periods = ", ".join(str(len(points)) for points in self.attractors) or "none"
        return f"Basins({len(self.attractors)} attractors, of periods: {periods}; starts: {starts})"


def basins(
    step: Callable,
    starts: Float[Array, "s n"],
    u: PyTree = None,
    *,
    num_steps: int = 2000,
    max_period: int = 16,
    tol: float | None = None,
) -> Basins:
    """The attractor that the orbit of each start settles on. Runs on the host: the number of attractors is data.

    All orbits run side by side on the device. Two that have closed are on the same attractor if a point of the one is
    within √tol (1 + ‖x‖) of a point of the other. An orbit may end on a saddle or a repeller exactly, as one that
    starts there does; that is no attractor, and a multiplier outside the unit circle, by more than the root of 100
    machine epsilons, tells. A chaotic attractor is not told from a long transient: both are "unsettled". The 1 is a
    length: of a state that stays below √tol, in whatever units, all attractors are one.

    Args:
        step: The map, `(x, u) -> x`.
        starts: Initial states, for instance a grid of them.
        u: The input, held constant.
        num_steps: Steps before an orbit is looked at.
        max_period: As in `simulate.settle`.
        tol: As in `simulate.settle`.

    Returns:
        A label for every start, in the order given, and the attractors in the order of their first start.

    Raises:
        ValueError: starts are not a finite float array (s, n) with s, n ≥ 1, or traced arguments; otherwise as
            `simulate.settle`.

    Example:
        >>> found = basins(lambda x, u: jnp.tanh(2 * x), jnp.array([[-1.0], [0.1], [3.0]]))
        >>> found.label, [points.round(4).tolist() for points in found.attractors]
        (array([0, 1, 1]), [[[-0.9575]], [[0.9575]]])
    """
    _check.on_host("basins", step=step, starts=starts, u=u)
    starts = _check.starts(starts)
    _check.count("num_steps", num_steps)
    _check.count("max_period", max_period, least=1)
    if tol is not None:
        _check.positive("tol", tol)
    found = sweeps.sweep(equinox.Partial(_settle, step, u, num_steps, max_period, tol), starts)
    orbit, period = np.asarray(found.orbit), np.asarray(found.period)
    width = default_tol(tol, orbit.dtype) ** 0.5
    label, attractors = np.full(len(starts), -1), []
    status = np.select([period > 0, period == 0], ["settled", "unsettled"], "diverged").astype("<U13")
    left = np.flatnonzero(period > 0)
    while len(left):
        first = left[0]
        points = orbit[first, : period[first]]
        distance = np.abs(orbit[left, 0, None] - points).max(axis=2).min(axis=1)
        same = distance <= width * (1 + np.abs(points).max())
        growth = _growth(step, jax.device_put(orbit[first]), jax.device_put(period[first]), u)
        if growth > 1 + default_tol(None, orbit.dtype) ** 0.5:
            status[left[same]] = "on a repeller"
        else:
            label[left[same]] = len(attractors)
            attractors.append(points)
        left = left[~same]
    return Basins(label, status, tuple(attractors))


def _settle(step, u, num_steps, max_period, tol, start):
    return simulate.settle(step, start, u, num_steps=num_steps, max_period=max_period, tol=tol)


@jit
def _growth(step, orbit, period, u):
    """The largest |multiplier| of the cycle that the first states of an orbit are."""
    eye = jnp.eye(orbit.shape[1], dtype=orbit.dtype)
    product = jax.lax.fori_loop(0, period, lambda i, product: jacobians.jacobian(step, orbit[i], u) @ product, eye)
    return jnp.abs(jnp.linalg.eigvals(product)).max()


class Boundary(equinox.Module):
    """The stable manifold of a saddle: two branches that leave it on either side."""

    branches: tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "l 2"]]
    """Points along each, from the saddle outward."""
    ended: tuple[str, str]
    """Why each branch ends: "left the box", "no preimage" (the map does not reach further), or "max_points"."""


def boundary(
    step: Callable,
    saddle: Float[Array, " 2"],
    u: PyTree = None,
    *,
    box: Float[Array, "2 2"],
    spacing: float,
    max_points: int = 20_000,
) -> Boundary:
    r"""The stable manifold of a saddle of a planar map, which parts two basins of attraction. Runs on the host.

    A stretch of the saddle's stable eigenvector, ε^0.45 of the box's length along it, 1e-7 in float64, is followed
    backwards: Newton's method solves F(y) = x along it, with the exact Jacobian, and again along what that gives.
    Errors across the manifold shrink at every preimage by the unstable multiplier, so what is drawn is right to about
    1e-12 of the box, whatever its length. Where two points lie farther apart than `spacing`, points between them are
    traced from the beginning.

    Args:
        step: The map, `(x, u) -> x`. For a field, the map of its flow over a fixed time.
        saddle: A fixed point with one real multiplier inside and one outside the unit circle.
        u: The input, held constant.
        box: Where the manifold is wanted: [[lowest, highest], ...] of each coordinate.
        spacing: The largest distance allowed between neighbours inside the box.
        max_points: Points per branch, at most.

    Returns:
        Both branches. The map needs to be invertible on the way, not everywhere: a branch ends where it is not.

    Raises:
        ValueError: a saddle or a box of the wrong shape, a box without inside, a saddle that is not a fixed point or
            has other multipliers, or one multiplier 0; a spacing that is not positive; max_points below 100;
            traced arguments.

    Example:
        >>> hyperbola = lambda x, u: jnp.array([0.5 * x[0], 2 * x[1] + x[0] ** 2])  # on it y = -(4/7) x²
        >>> found = boundary(hyperbola, jnp.zeros(2), box=jnp.array([[-1.0, 1.0], [-1.0, 1.0]]), spacing=0.05)
        >>> bool(np.abs(found.branches[0][:, 1] + 4 / 7 * found.branches[0][:, 0] ** 2).max() < 1e-10)
        True

    References:
        England, Krauskopf, Osinga (2004), Computing one-dimensional stable manifolds and stable sets of planar maps
        without the inverse; Hobson (1993), An efficient method for computing invariant manifolds of planar maps.
    """
    _check.on_host("boundary", step=step, saddle=saddle, u=u, box=box, spacing=spacing)
    saddle, box = _check.floats("saddle", saddle, 2), _check.floats("box", box, 2, 2)
    _check.within("box", box, "have a lowest below its highest", lambda box: box[:, 0] < box[:, 1])
    _check.positive("spacing", spacing)
    _check.count("max_points", max_points, least=100)
    saddle = _check.next_state(step, saddle, u)
    values, vectors = np.linalg.eig(np.asarray(jacobians.jacobian(step, saddle, u)))
    # All lengths are measured in a power of two near the box's size, which changes no digit of them.
    unit = np.asarray(2.0 ** round(math.log2(np.ptp(box, axis=1).max())), saddle.dtype)
    gap = float(np.abs(step(saddle, u) - saddle).max())
    if gap > float(jnp.finfo(saddle.dtype).eps) ** 0.5 * float(unit + np.abs(saddle).max()):
        raise ValueError(f"saddle must be a fixed point; the map moves it by {gap:.1e}")
    order = np.argsort(np.abs(values))
    weak, strong = complex(values[order[0]]), complex(values[order[1]])
    if np.iscomplex(values).any() or not 0 < abs(weak) < 1 < abs(strong):
        raise ValueError(
            f"saddle must have one multiplier inside the unit circle, not 0, and one outside; got {values}"
        )
    if not _inside(np.asarray(saddle), np.asarray(box)):
        raise ValueError(f"box must hold the saddle {np.asarray(saddle)}; got {np.asarray(box).tolist()}")
    twice = bool(weak.real < 0)  # points jump from side to side: every second step stays
    direction, rate = np.real(vectors[:, order[0]]), abs(weak.real) ** -(1.0 + twice)
    centre, ends, gap = np.asarray(saddle) / unit, np.asarray(box) / unit, float(spacing / unit)
    across = (np.ptp(ends, axis=1) / np.maximum(np.abs(direction), 1e-30)).min()
    start = min(float(jnp.finfo(saddle.dtype).eps) ** 0.45 * across, gap) * direction
    step = equinox.Partial(_in_units, step, jnp.asarray(unit))
    found = [_branch(step, u, twice, centre, side * start, rate, ends, gap, max_points) for side in (1, -1)]
    return Boundary((unit * found[0][0], unit * found[1][0]), (found[0][1], found[1][1]))


def _in_units(step, unit, x, u):
    return step(unit * x, u) / unit


# Along a branch every point is the preimage of the one a generation earlier: y_{k} = F⁻¹(y_{k-m}), with the first
# generation at saddle + rate^t·start, t = 0, 1/m, ... < 1. Kept as an array of generations by columns t.


def _branch(step, u, twice, saddle, start, rate, box, spacing, max_points):
    num = 32
    ts = np.arange(-1, num) / num
    window = jnp.asarray(saddle + rate ** ts[:, None] * start)
    generations = [np.asarray(window[1:])]
    while (len(generations) + 1) * num <= min(max_points, _MAX_GENERATIONS * num):
        window = _march(step, u, twice, window)
        generations.append(np.asarray(window[1:]))
        if not (np.isfinite(generations[-1]).all() and _inside(generations[-1], box).any()):
            break
    ended = "left the box" if np.isfinite(generations[-1]).all() else "no preimage"
    if np.isfinite(generations[-1]).all() and _inside(generations[-1], box).any():
        ended = "max_points"
    ts, grid = ts[1:], np.stack(generations)
    while (wide := _wide(ts, grid, box, spacing)).any():
        if grid[..., 0].size + wide.sum() * len(grid) > max_points:
            ended = "max_points"
            break
        ts, grid = _refined(step, u, twice, saddle, start, rate, ts, grid, np.flatnonzero(wide))
    points = grid.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if not _inside(points[-1], box):
        ended = ended if ended == "max_points" else "left the box"
        points = points[: np.flatnonzero(_inside(points, box))[-1] + 2]
    return np.concatenate([saddle[None], points]), ended


def _inside(points, box):
    return ((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=-1)


def _wide(ts, grid, box, spacing):
    """The columns after which, in some generation, the next point is too far away, or there is none any more."""
    points = grid.reshape(-1, 2)
    length = np.linalg.norm(np.diff(points, axis=0), axis=1)
    seen = _inside(points[:-1], box) | _inside(points[1:], box)
    wide = np.append(seen & ~(length <= spacing), False)
    return wide.reshape(len(grid), -1).any(axis=0) & (np.diff(ts, append=1.0) > 1e-13)


def _refined(step, u, twice, saddle, start, rate, ts, grid, columns):
    """The same with a column half-way after each of the given ones, traced from the first generation on."""
    new = (ts[columns] + np.append(ts, 1.0)[columns + 1]) / 2
    after = np.append(grid.reshape(-1, 2)[1:], grid[-1:, -1], axis=0).reshape(grid.shape)
    pairs = np.stack([grid, after])[:, 1:, columns]
    finite = np.isfinite(pairs)
    guesses = np.where(finite.all(axis=0), pairs.mean(axis=0), np.where(finite[0], pairs[0], pairs[1]))
    padding = 64 * 4 ** max(math.ceil(math.log(len(columns) / 64, 4)), 0) - len(columns)  # few shapes to compile
    first = np.pad(saddle + rate ** new[:, None] * start, ((0, padding), (0, 0)), mode="edge")
    guesses = np.pad(guesses, ((0, 0), (0, padding), (0, 0)), mode="edge")
    chains = np.asarray(_chains(step, u, twice, jax.device_put(first), jax.device_put(guesses)))[:, : len(columns)]
    order = np.argsort(np.append(ts, new))
    return np.append(ts, new)[order], np.concatenate([grid, chains], axis=1)[:, order]


def _image(step, u, twice, x):
    return step(step(x, u), u) if twice else step(x, u)


def _preimage(step, u, twice, x, guess):
    """y with F(y) = x by Newton's method; NaN if there is none near the guess."""

    def improve(_, y):
        change = jnp.linalg.solve(jax.jacfwd(lambda y: _image(step, u, twice, y))(y), x - _image(step, u, twice, y))
        largest = jnp.abs(change).max()
        return y + change * jnp.minimum(1, jnp.maximum(1, jnp.abs(y).max()) / jnp.maximum(largest, 1e-30))

    y = jax.lax.fori_loop(0, _NEWTON_STEPS, improve, guess)
    gap = jnp.abs(_image(step, u, twice, y) - x).max()
    return jnp.where(gap <= 1000 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(x).max()), y, jnp.nan)


@jit
def _march(step, u, twice, window):
    """The next generation, from the last point of the one before and all of this one."""

    def advance(window, _):
        newest = window[-1]
        slope = jax.jacfwd(lambda y: _image(step, u, twice, y))(newest)
        guess = newest + jnp.linalg.solve(slope, window[1] - window[0])
        return jnp.append(window[1:], _preimage(step, u, twice, window[1], guess)[None], axis=0), None

    return jax.lax.scan(advance, window, length=len(window) - 1)[0]


@jit
def _chains(step, u, twice, first, guesses):
    def advance(y, guess):
        y = jax.vmap(lambda y, guess: _preimage(step, u, twice, y, guess))(y, guess)
        return y, y

    return jnp.concatenate([first[None], jax.lax.scan(advance, first, guesses)[1]])
