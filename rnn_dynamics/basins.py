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

_NEWTON_STEPS = 30
_PER_OCTAVE = 16
"""Points of a stable manifold for every doubling of the distance from its saddle, before any are put between."""


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
        growth = jacobians.growth_on_cycle(step, jax.device_put(orbit[first]), jax.device_put(period[first]), u)
        if float(growth) * period[first] > math.log1p(default_tol(None, orbit.dtype) ** 0.5):
            status[left[same]] = "on a repeller"
        else:
            label[left[same]] = len(attractors)
            attractors.append(points)
        left = left[~same]
    return Basins(label, status, tuple(attractors))


def _settle(step, u, num_steps, max_period, tol, start):
    return simulate.settle(step, start, u, num_steps=num_steps, max_period=max_period, tol=tol)


class Boundary(equinox.Module):
    """The stable manifold of a saddle: two branches that leave it on either side."""

    branches: tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "l 2"]]
    """Points along each, from the saddle outward."""
    ended: tuple[str, str]
    """Why each branch ends: "left the box", "no preimage" (the map does not reach further, or folds the plane: the last
    point is on det DF = 0), or "max_points"."""


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

    $$ F(P(t)) = P(\lambda t), \qquad P(0) = \text{the saddle}, \quad P'(0) = \text{its stable eigenvector} $$

    One branch is P(t > 0), the other P(t < 0); a map of λ < 0 sends each to the other, so they are traced together. P
    is taken for straight up to ε^0.45 of the box's length, 1e-7 in float64, which is right to 1e-14 of it where the
    radius of curvature is the box's length; beyond, P(t) is the solution y of F(y) = P(λt), by Newton's method with the
    exact Jacobian. Whatever λ is, nothing longer is ever taken for straight. Errors across the manifold shrink at every
    preimage by the unstable multiplier μ, so all points are right to about 1e-14 of the box, or, where that is more,
    to F's own rounding over |μ| - 1, which grows as the time step of a flow's map shrinks. Points lie 16 to a doubling
    of t, one in many preimages where λ is near 1; where two lie farther apart than `spacing`, points between them are
    traced from the beginning.

    P is followed as long as det DF keeps its sign. Where P(λt) crosses the image of the fold det DF = 0, the points
    whose orbits end in the saddle go on through the fold to the other sheet of preimages, where their images run
    backwards, towards the saddle again. That part, and all pieces apart, belong to the saddle's stable set but not to
    P, and are left out: the branch ends on the fold.

    Args:
        step: The map, `(x, u) -> x`. For a field, the map of its flow over a fixed time.
        saddle: A fixed point with one real multiplier inside and one outside the unit circle.
        u: The input, held constant.
        box: Where the manifold is wanted: [[lowest, highest], ...] of each coordinate.
        spacing: The largest distance allowed between neighbours inside the box.
        max_points: Points per branch, at most.

    Returns:
        Both branches, without gaps: inside the box neighbours are never farther apart than `spacing`. The map needs to
        be invertible on the way, not everywhere: a branch ends where it is not.

    Raises:
        ValueError: a saddle or a box of the wrong shape, a box without inside, a saddle that is not a fixed point or
            has other multipliers; a stable multiplier so near 0 that F's rounding, over it, exceeds a tenth of spacing,
            in particular 0; a spacing that is not positive; max_points below 100; traced arguments.

    Example:
        >>> hyperbola = lambda x, u: jnp.array([0.5 * x[0], 2 * x[1] + x[0] ** 2])  # on it y = -(4/7) x²
        >>> found = boundary(hyperbola, jnp.zeros(2), box=jnp.array([[-1.0, 1.0], [-1.0, 1.0]]), spacing=0.05)
        >>> bool(np.abs(found.branches[0][:, 1] + 4 / 7 * found.branches[0][:, 0] ** 2).max() < 1e-10)
        True

    References:
        England, Krauskopf, Osinga (2004), Computing one-dimensional stable manifolds and stable sets of planar maps
        without the inverse, which also follows what is beyond the fold; Hobson (1993), An efficient method for
        computing invariant manifolds of planar maps; Cabré, Fontich, de la Llave (2003), The parameterization method
        for invariant manifolds I, for P.
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
    centre, ends, gap = np.asarray(saddle) / unit, np.asarray(box) / unit, float(spacing / unit)
    eps, direction = float(jnp.finfo(saddle.dtype).eps), np.real(vectors[:, order[0]])
    # A preimage is known, along the manifold, to F's rounding over |λ|: nearer to the saddle points have no order.
    noise = 10 * eps * float(1 + np.abs(centre).max()) / abs(weak)
    if noise > gap:
        raise ValueError(f"saddle must have no multiplier so near 0 at a spacing of {spacing:.1e}; got {values}")
    octaves = -math.log2(abs(weak))  # from one generation to the next, or from one of many
    num, steps = min(math.ceil(_PER_OCTAVE * octaves), max_points // 4), max(int(1 / (_PER_OCTAVE * octaves)), 1)
    across = (np.ptp(ends, axis=1) / np.maximum(np.abs(direction), 1e-30)).min()
    line = _Line(centre, min(eps**0.45 * across, gap) * direction, abs(weak) ** -steps)
    flips, sign = jnp.asarray(weak.real < 0), jnp.asarray(np.sign(weak.real * strong.real), saddle.dtype)
    inverse = _Inverse(equinox.Partial(_in_units, step, jnp.asarray(unit)), u, flips, jnp.asarray(steps), sign)
    marched = _marched(inverse, line, num, ends, max_points - 1)
    columns, grid = _refined(inverse, line, *marched, ends, gap, max_points - 1)
    found = [_branch(centre, columns, grid[:, :, side], ends, gap, noise) for side in (0, 1)]
    return Boundary((unit * found[0][0], unit * found[1][0]), (found[0][1], found[1][1]))


def _in_units(step, unit, x, u):
    return step(unit * x, u) / unit


# Both branches together are an array (generation, column, side, coordinate), the point of column c in generation g
# being P(±rate^(g + c - 1) reach), 0 <= c < 1: the first generation is on the line, any other the preimage of the one
# before. Read row by row, points follow one another along the branch.


class _Line(equinox.Module):
    """The first generation: the manifold so near the saddle that it is straight."""

    saddle: np.ndarray
    reach: np.ndarray
    rate: float

    def __call__(self, columns):
        ways = self.rate ** (columns[:, None, None] - 1) * np.array([[1.0], [-1.0]])
        return (self.saddle + ways * self.reach).astype(self.saddle.dtype)


class _Inverse(equinox.Module):
    """The map backwards, from generation to generation."""

    step: Callable
    u: PyTree
    flips: Array
    """Whether λ < 0: the preimages of one branch are on the other."""
    steps: Array
    sign: Array
    """Of det DF at the saddle."""

    def __call__(self, x, guess):
        """Both sides' preimages of both sides, `steps` of them; where these are many, each is near the one before."""
        guess = jnp.where(self.steps > 1, x, guess)

        def back(_, pair):
            y = jax.vmap(self.preimage)(jnp.where(self.flips, pair[0][::-1], pair[0]), pair[1])
            return y, y

        return jax.lax.fori_loop(0, self.steps, back, (x, guess))[0]

    def preimage(self, x, guess):
        """y with F(y) = x by Newton's method; NaN if there is none near the guess on this side of the folds."""
        eps = jnp.finfo(x.dtype).eps

        def slope(y):
            (a, b), (c, d) = jacobians.jacobian(self.step, y, self.u)
            return jnp.array([[d, -b], [-c, a]]), a * d - b * c

        def improve(state):
            count, y, _ = state
            adjugate, det = slope(y)
            change = adjugate @ (x - self.step(y, self.u)) / det
            size = jnp.abs(change).max()
            change = change * jnp.minimum(1, jnp.maximum(1, jnp.abs(y).max()) / jnp.maximum(size, 1e-30))
            return count + 1, y + change, size

        def unfinished(state):  # errors are squared at every step: after one of ε^¾ nothing is left
            count, y, size = state
            return (count < _NEWTON_STEPS) & (size > eps**0.75 * (1 + jnp.abs(y).max()))

        y = jax.lax.while_loop(unfinished, improve, (0, guess, jnp.asarray(jnp.inf, x.dtype)))[1]
        gap = jnp.abs(self.step(y, self.u) - x).max()
        found = (gap <= 1000 * eps * (1 + jnp.abs(x).max())) & (slope(y)[1] * self.sign > 0)
        return jnp.where(found, y, jnp.nan)


def _over(grid, box):
    """By generation and side: whether the branch ends there, all of it being outside the box or not all there."""
    return ~np.isfinite(grid).all(axis=(1, 3)) | ~_inside(grid, box).any(axis=1)


def _marched(inverse, line, num, box, max_points):
    """`num` columns, and their generations until both branches are over or there are too many points."""
    columns = np.arange(num) / num
    generations, over = [line(columns)], np.array([False, False])
    points = _padded(generations[0])
    while not over.all() and (len(generations) + 1) * num <= max_points:
        points = _march(inverse, points, jnp.asarray(num))
        generations.append(np.asarray(points)[:num])
        over |= _over(generations[-1][None], box)[0]
    return columns, np.stack(generations)


def _refined(inverse, line, columns, grid, box, spacing, max_points):
    """The same with columns put in until nothing is too far apart. Where there is no room for all, generations wholly
    beyond the first gap go, and the columns that come first along the branch are put in first."""
    while (wide := _wide(columns, grid, box, spacing)).any():
        generations, left = np.nonzero(wide)
        left = left[np.sort(np.unique(left, return_index=True)[1])]
        room = max_points // len(grid) - len(columns)
        if len(left) > room and generations[0] < len(grid) - 1:
            grid = grid[:-1]
            continue
        if room <= 0:
            break
        left = np.sort(left[:room])
        new = (columns[left] + np.append(columns, 1.0)[left + 1]) / 2
        after = np.append(grid.reshape(-1, 2, 2)[1:], grid[-1:, -1], axis=0).reshape(grid.shape)
        near, far = grid[:, left], after[:, left]
        guesses = np.where(np.isfinite(near + far), (near + far) / 2, np.where(np.isfinite(near), near, far))
        chains = [line(new)]
        for guess in guesses[1:]:
            chains.append(np.asarray(_preimages(inverse, _padded(chains[-1]), _padded(guess)))[: len(new)])
        order = np.argsort(np.append(columns, new))
        columns, grid = np.append(columns, new)[order], np.concatenate([grid, np.stack(chains)], axis=1)[:, order]
    return columns, grid


def _gaps(points, box, spacing):
    """By point: whether the next one is too far away, or missing, and the straight way there may touch the box."""
    length = np.hypot(*np.diff(points, axis=0).T)
    low, high = np.fmin(points[:-1], points[1:]), np.fmax(points[:-1], points[1:])
    return ((low <= box[:, 1]) & (high >= box[:, 0])).all(axis=-1) & ~(length <= spacing)


def _ends(columns, repeat):
    """By point: whether no column fits between it and the next one."""
    return np.tile(np.diff(columns, append=1.0) <= 1e-13, repeat)[:-1]


def _wide(columns, grid, box, spacing):
    """By generation and column: whether a branch, as far as it goes, needs another column after this."""
    ends = _ends(columns, len(grid))
    wide = np.zeros(len(ends) + 1, bool)
    for side, over in enumerate(_over(grid, box).T):
        stop = (over.argmax() + 1 if over.any() else len(grid)) * len(columns) - 1
        gaps = _gaps(grid[:, :, side].reshape(-1, 2), box, spacing)[:stop]
        wide[:stop] |= gaps & ~np.logical_or.accumulate(gaps & ends[:stop])
    return wide.reshape(len(grid), -1)


def _branch(saddle, columns, grid, box, spacing, noise):
    """One branch as rows, up to where it leaves the box or breaks off, and why it ends."""
    over = _over(grid[:, :, None], box)[:, 0]
    ended = "left the box" if over.any() else "max_points"
    points = grid[: over.argmax() + 1 if over.any() else len(grid)].reshape(-1, 2)
    gaps = _gaps(points, box, spacing)
    broken = gaps | ~np.isfinite(points[1:]).all(axis=1)
    if broken.any():
        last = broken.argmax()
        points, ended = points[: last + 1], "no preimage" if _inside(points[last], box) else "left the box"
        if gaps[last] and not _ends(columns, len(grid))[last]:
            ended = "max_points"
    if not _inside(points[-1], box):
        points = points[: np.flatnonzero(_inside(points, box))[-1] + 2]
    first = (np.abs(points - saddle).max(axis=1) >= noise).argmax()
    return np.concatenate([saddle[None], points[first:]]), ended


def _inside(points, box):
    return ((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=-1)


def _padded(points):
    """As many columns as few others ask for, and few programs to compile."""
    missing = 32 * 4 ** max(math.ceil(math.log(len(points) / 32, 4)), 0) - len(points)
    return jnp.asarray(np.pad(points, ((0, missing), (0, 0), (0, 0)), mode="edge"))


@jit
def _march(inverse, points, num):
    """The next generation, each point sought from the one before it on."""

    def advance(i, points):
        return points.at[i].set(inverse(points[i], points[(i - 1) % num]))

    return jax.lax.fori_loop(0, num, advance, points)


@jit
def _preimages(inverse, points, guesses):
    """The next generation, each point sought from a guess of its own."""
    return jax.vmap(inverse)(points, guesses)
