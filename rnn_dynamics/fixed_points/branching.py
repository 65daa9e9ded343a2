"""All z = W σ(z) + c of a small system: boxes shrunk, settled or halved until nothing is left; in intervals.

Row 6 of the layer table: above `canonical`. Next: `enumeration`, which is what this is for.
"""

import numpy as np

from rnn_dynamics.fixed_points.canonical import Canonical, at_most_one, inclusion, operator, refined, slope_of
from rnn_dynamics.fixed_points.intervals import EPS, Ball, product, upper

__all__ = ["branch_and_prune", "linear_regions", "prime_cycles"]

_CHUNK = 2048
"""Boxes in one sweep."""
_NARROW = 2.0**-26
"""A box is given up below this width, relative to 1 + |z|: beneath √ε rounding hides on which side of a fold one is."""


class _Found:
    """Boxes with exactly one fixed point each, and round every one a larger box in which there is no other."""

    def __init__(self, num_units: int):
        self.boxes = np.zeros((0, 4, num_units))

    def add(self, *ends: np.ndarray) -> None:
        self.boxes = np.concatenate([self.boxes, np.stack(ends, 1)])

    def distinct(self, system: Canonical) -> tuple[np.ndarray, np.ndarray]:
        """One of the boxes (k, 2, n) for each fixed point, and hulls of such as cannot be told to hold one or two."""
        left = self.boxes[np.lexsort(self.boxes[:, 0].T[::-1])]
        kept, unclear = [], []
        while len(left):
            one, left = left[0], left[1:]
            touching = _meet(left[:, :2], one)
            inside = ((one[2] <= left[:, 0]) & (left[:, 1] <= one[3])).all(-1)
            around = ((left[:, 2] <= one[0]) & (one[1] <= left[:, 3])).all(-1)
            for other in left[touching & ~inside & ~around]:
                hull = np.minimum(one[0], other[0]), np.maximum(one[1], other[1])
                if not at_most_one(system, *hull):
                    unclear.append(np.stack(hull))
            kept.append(one[:2])
            left = left[~touching]
        shape = (-1, 2, self.boxes.shape[-1])
        return np.reshape(kept, shape), np.reshape(unclear, shape)


def branch_and_prune(system: Canonical, max_boxes: int):
    """All zeros of a bounded system: boxes (k, 2, n) with one each, and the boxes that were left open."""
    n = len(system.c.mid)
    lo, hi = _direct(system, np.full((1, n), -1e300), np.full((1, n), 1e300))
    found, narrow, count = _Found(n), [], 0
    while len(lo) and count < max_boxes:
        count += len(lo[-_CHUNK:])
        stack = lo[:-_CHUNK], hi[:-_CHUNK]
        lo, hi, weight, shrunk, flat = _contract(system, lo[-_CHUNK:], hi[-_CHUNK:])
        unresolved = ~_resolve(system, lo, hi, found)
        lo, hi, weight, shrunk, flat = (each[unresolved] for each in (lo, hi, weight, shrunk, flat))
        hopeless = flat & ~shrunk | _narrow(lo, hi).all(-1)
        narrow.append(np.stack([lo[hopeless], hi[hopeless]], 1))
        again, divided = shrunk & ~hopeless, ~shrunk & ~hopeless
        halves = _halve(system, lo[divided], hi[divided], weight[divided])
        parts = zip(stack, (lo[again], hi[again]), halves, strict=True)
        lo, hi = (np.concatenate(part) for part in parts)
    kept, unclear = found.distinct(system)
    return kept, np.concatenate([_joined(np.concatenate([*narrow, unclear])), np.stack([lo, hi], 1)])


def _direct(system, lo, hi):
    s = Ball.between(*system.enclosure.image(lo, hi))
    image = product(Ball(s.mid[:, None], s.rad[:, None]), Ball(system.w.mid.T, system.w.rad.T))
    return (Ball(image.mid[:, 0], image.rad[:, 0]) + system.c).ends


def _contract(system, lo, hi):
    """The boxes without parts where there is surely nothing, the empty ones left out.

    Beside them, how much each coordinate blurs the image (k, n), whether the box shrank by a quarter or more, and
    whether σ is straight in it to rounding, so that its parts would blur the image as much.
    """
    width = hi - lo
    least, most = _direct(system, lo, hi)
    lo, hi = np.fmax(lo, least), np.fmin(hi, most)
    full = ~(lo > hi).any(-1)
    lo, hi, width = lo[full], hi[full], width[full]
    slope = slope_of(system, lo, hi)
    here, rest = operator(system, slope), system.enclosure.remainder(lo, hi, slope)
    least, most = here.image(system, lo, hi, rest)
    lo, hi = np.fmax(lo, least), np.fmin(hi, most)
    full = ~(lo > hi).any(-1)
    shrunk = (hi - lo).max(-1) < 0.75 * width.max(-1)
    floor = 1e-280 + np.abs(rest.mid) + 2 * slope * np.maximum(np.abs(lo), np.abs(hi))
    flat = (rest.rad <= 64 * EPS * floor).all(-1)
    return lo[full], hi[full], rest.rad[full], shrunk[full], flat[full]


def _resolve(system, lo, hi, found):
    """Which boxes hold one fixed point, now `found`, or none but that of a neighbour."""
    resolved = at_most_one(system, lo, hi)
    inner_lo, inner_hi, proved = inclusion(system, refined(system, (lo + hi)[resolved] / 2))
    box_lo, box_hi = lo[resolved], hi[resolved]
    outer_lo, outer_hi = np.minimum(box_lo, inner_lo), np.maximum(box_hi, inner_hi)
    alone = proved & at_most_one(system, outer_lo, outer_hi)
    found.add(*(each[alone] for each in (inner_lo, inner_hi, outer_lo, outer_hi)))
    resolved[resolved] = alone
    return resolved


def _narrow(lo, hi):
    return hi - lo <= _NARROW * (1 + np.maximum(np.abs(lo), np.abs(hi)))


def _halve(system, lo, hi, weight):
    """Each box in two, along the coordinate that blurs the image most; not in its middle, where zeros like to lie."""
    axis = np.where(_narrow(lo, hi), -1, weight * np.abs(system.w.mid).sum(0)).argmax(-1)[:, None]
    at = np.take_along_axis(lo + 0.48 * (hi - lo), axis, -1)
    left, right = hi.copy(), lo.copy()
    np.put_along_axis(left, axis, at, -1)
    np.put_along_axis(right, axis, at, -1)
    return np.concatenate([lo, right]), np.concatenate([left, hi])


def linear_regions(system: Canonical, *, identity: bool):
    """As `branch_and_prune`, for ReLU or the identity: one linear system for each choice of sides."""
    n = len(system.c.mid)
    if identity:
        return _linear(system, np.ones((1, n)), identity)
    parts = []
    for first in range(0, 2**n, _CHUNK):
        which = np.arange(first, min(first + _CHUNK, 2**n))
        parts.append(_linear(system, (which[:, None] >> np.arange(n) & 1).astype(float), identity))
    boxes, undecided = (np.concatenate(each) for each in zip(*parts, strict=True))
    bounded = np.isfinite(undecided).all((1, 2))
    undecided = np.concatenate([_joined(undecided[bounded]), undecided[~bounded]])
    return np.unique(boxes, axis=0), undecided  # one that lies on a border exactly is met from all sides


def _linear(system, slope, free):
    """The fixed points in the regions where σ has these slopes (k, n), and the boxes where they cannot be decided.

    The solution z of (I - W D) z = c is C c + R z, within ρ of z̃ ≈ C c if g + |R| ρ ≤ ρ, where g bounds
    |C c - z̃| + |R| |z̃|; if the norm of R is below ½, it is unique, and ρ = g + 2 ‖R‖ ‖g‖ will do.
    """
    here = operator(system, slope)
    image = product(Ball.point(here.c), Ball(system.c.mid[:, None], system.c.rad[:, None]))
    z, rad = image.mid[..., 0], image.rad[..., 0]
    norm = upper(here.r.sum(-1), z.shape[-1]).max(-1)[:, None]
    gap = upper(rad + upper((here.r @ np.abs(z)[..., None])[..., 0], z.shape[-1]) + EPS * np.abs(z))
    rho = upper(gap + 2 * norm * gap.max(-1, keepdims=True))
    if (system.c.mid == 0).all() and (system.c.rad == 0).all():
        z = rho = np.zeros_like(z)
    lo, hi = z - rho, z + rho
    regular = norm[:, 0] < 0.5
    inside = (free | np.where(slope == 1, lo >= 0, hi <= 0)).all(-1)
    outside = ((not free) & np.where(slope == 1, hi < 0, lo > 0)).any(-1)
    boxes = np.stack([lo, hi], 1)
    sides = np.stack([np.where(free | (slope == 0), -np.inf, 0.0), np.where(free | (slope == 1), np.inf, 0.0)], 1)
    return boxes[regular & inside], np.concatenate([boxes[regular & ~inside & ~outside], sides[~regular]])


def prime_cycles(system: Canonical, boxes: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes (k, 2, p n) with all states of a cycle each, one for every cycle of prime period p.

    The turns of a zero are zeros. A turned box that meets another one, or itself, has the same zero if there is at most
    one in their hull; else what is in the hull remains undecided.
    """
    kept, unclear, left = [], [], boxes
    while len(left):
        one = left[0]
        turns = np.stack([np.roll(one.reshape(2, period, -1), turn, axis=1).reshape(2, -1) for turn in range(period)])
        met = np.asarray(_meet(left[:, None], turns))
        met[0, 0] = False
        which, turn = np.nonzero(met)
        lo, hi = np.minimum(left[which, 0], turns[turn, 0]), np.maximum(left[which, 1], turns[turn, 1])
        same = at_most_one(system, lo, hi)
        unclear.append(np.stack([lo, hi], 1)[~same])
        if not met[0].any():
            kept.append(one)
        left = left[1:][~met[1:].any(1)]
    return np.reshape(kept, (-1, *boxes.shape[1:])), np.concatenate([boxes[:0], *unclear])


def _joined(boxes):
    """The hulls of boxes (k, 2, n) that touch."""
    hulls = []
    while len(boxes):
        hull, boxes = boxes[0], boxes[1:]
        while (touching := _meet(boxes, hull)).any():
            lo, hi = (np.concatenate([hull[None], boxes[touching]])[:, end] for end in (0, 1))
            hull, boxes = np.stack([lo.min(0), hi.max(0)]), boxes[~touching]
        hulls.append(hull)
    return np.reshape(hulls, (-1, 2, boxes.shape[-1]))


def _meet(a, b):
    """Whether boxes (..., 2, n) have a point in common."""
    return ((a[..., 0, :] <= b[..., 1, :]) & (b[..., 0, :] <= a[..., 1, :])).all(-1)
