"""Networks seen by their pre-activation, z = W σ(z) + c: one form for all models, enclosed in intervals.

Row 6 of the layer table: above `intervals`. Next: `proofs`, `enumeration`.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_dynamics import _check, activations
from rnn_dynamics.fixed_points.intervals import EPS, Ball, Corner, Sigmoidal, enclosure_of, exact_dot, product, upper
from rnn_dynamics.models.ctrnn import CTRNN
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.elman import ElmanRNN
from rnn_dynamics.models.pascanu import PascanuRNN

__all__ = [
    "MODELS",
    "Canonical",
    "Operator",
    "at_most_one",
    "canonical",
    "inclusion",
    "operator",
    "refined",
    "slope_of",
]


class Canonical(NamedTuple):
    """z = W σ(z) + c, and how a state is read off z; the numbers of the network, exactly, in float64.

    Of cycles, z holds all p states one after the other, and W and c are p times as large.
    """

    w: Ball
    c: Ball
    enclosure: Corner | Sigmoidal
    activated: bool
    """The state is M σ(z) + shift; otherwise z + shift."""
    shift: Ball
    time: str
    leak: float = 1.0
    mixing: Ball | None = None
    """M, where it is not the identity."""

    def encode(self, x: np.ndarray) -> np.ndarray:
        """About the z of a fixed point about x."""
        near = x - self.shift.mid
        return self.w.mid @ near + self.c.mid if self.activated else near

    def decode(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An interval that holds the states of all z in [lo, hi], which may be infinite."""
        if self.activated:
            lo, hi = self.enclosure.image(lo, hi)
        if self.mixing is not None:
            lo, hi = _apply(self.mixing, Ball.between(lo, hi)).ends
        if (self.shift.mid == 0).all() and (self.shift.rad == 0).all():
            return lo, hi
        down, up = self.shift.ends
        return np.nextafter(lo + down, -np.inf), np.nextafter(hi + up, np.inf)

    def lifted(self, period: int) -> "Canonical":
        r"""The form of all p states of a cycle at once.

        $$ z_{k+1} = (1-\alpha) z_k + \alpha (W \sigma(z_k) + c) \quad\Longrightarrow\quad
           z_k = \sum_{j<p} \kappa_j\, (W \sigma(z_{k-1-j}) + c), \qquad
           \kappa_j = \frac{(1-\alpha)^j}{\sum_{i<p} (1-\alpha)^i} $$
        """
        if period == 1:
            return self
        powers = (1 - self.leak) ** np.arange(period)
        mean = powers / powers.sum()
        before = (np.arange(period)[:, None] - 1 - np.arange(period)) % period
        mixing = Ball(mean[before], 8 * (period + 4) * EPS * mean[before] * (self.leak != 1))
        eye = np.eye(len(self.c.mid))
        rad = np.kron(mixing.rad, np.abs(self.w.mid)) + EPS * np.kron(mixing.mid, np.abs(self.w.mid)) * (self.leak != 1)
        return self._replace(
            w=Ball(np.kron(mixing.mid, self.w.mid), upper(rad) * (rad > 0)),
            c=Ball(*(np.tile(each, period) for each in self.c)),
            shift=Ball(*(np.tile(each, period) for each in self.shift)),
            mixing=Ball(np.kron(mixing.mid, eye), np.kron(mixing.rad, eye)) if self.activated else None,
        )


def canonical(network: Callable, u) -> Canonical | None:
    """The form of a network under a constant input; None of a map that is none of `MODELS`, or has another σ."""
    read = _READERS.get(type(network))
    if read is None or (enclosure := enclosure_of(getattr(network, "activation", activations.sigmoid))) is None:
        return None
    with np.errstate(all="ignore"):
        return read(network, u, enclosure)


_NO_INPUT = "u must be None for a network whose w_in is None; got an input"


def _exactly(value) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _driven(network, u):
    """W_in u + b."""
    bias = Ball.point(_exactly(network.b))
    if u is None:
        return bias
    if network.w_in is None:
        raise ValueError(_NO_INPUT)
    return exact_dot(_exactly(network.w_in), _exactly(_check.floats("u", u, network.w_in.shape[1]))) + bias


def _nothing(c):
    return Ball.point(np.zeros_like(c.mid))


def _pascanu(network, u, enclosure):
    c = _driven(network, u)
    return Canonical(Ball.point(_exactly(network.w_rec)), c, enclosure, False, _nothing(c), "discrete")


def _elman(network, u, enclosure):
    c = _driven(network, u)
    return Canonical(
        Ball.point(_exactly(network.w_rec)), c, enclosure, True, _nothing(c), "discrete", float(network.leak)
    )


def _doya(network, u, enclosure):  # x = σ(z) + w' u and z = w x + b
    w = Ball.point(_exactly(network.w).reshape(1, 1))
    shift = Ball.point(np.zeros(1))
    if u is not None:
        if network.w_in is None:
            raise ValueError(_NO_INPUT)
        u = _exactly(_check.floats("u", u, *(() if jnp.ndim(u) == 0 else (1,)))).reshape(1)
        shift = exact_dot(_exactly(network.w_in).reshape(1, 1), u)
    c = product(w, Ball(shift.mid[:, None], shift.rad[:, None]))
    c = Ball(c.mid[:, 0], c.rad[:, 0]) + Ball.point(_exactly(network.b).reshape(1))
    return Canonical(w, c, enclosure, True, shift, "discrete", float(network.epsilon))


def _ctrnn(network, u, enclosure):  # z = y + θ and y = W σ(z) + u
    theta = Ball.point(_exactly(network.theta))
    c = theta if u is None else theta + Ball.point(_exactly(_check.floats("u", u, len(theta.mid))))
    return Canonical(Ball.point(_exactly(network.w)), c, enclosure, False, -theta, "continuous")


_READERS = {PascanuRNN: _pascanu, ElmanRNN: _elman, DoyaNeuron: _doya, CTRNN: _ctrnn}
MODELS = ", ".join(model.__name__ for model in _READERS)
"""Their names, as a message lists them."""


class Operator(NamedTuple):
    r"""T(z) = z - C (z - W σ(z) - c), whose fixed points are those of the network if C is not singular.

    With σ(z) = αz + β(z) it is T(z) = R z + C W β(z) + C c, where R = I - C (I - W α): small, as C is an approximate
    inverse. Any number of them at once, along the leading axes.
    """

    c: np.ndarray
    cw: Ball
    r: np.ndarray
    """Bounds |R|."""
    slope: np.ndarray

    def image(self, system: Canonical, lo: np.ndarray, hi: np.ndarray, rest: Ball) -> tuple[np.ndarray, np.ndarray]:
        """All T(z), z in [lo, hi], where all β(z) are in `rest`."""
        moved = _apply(self.cw, rest) + _apply(Ball.point(self.c), system.c)
        size = np.maximum(np.abs(lo), np.abs(hi))
        return Ball(moved.mid, upper(moved.rad + _times(self.r, size), lo.shape[-1])).ends

    def stretch(self, lo: np.ndarray, hi: np.ndarray, system: Canonical) -> np.ndarray:
        """Bounds |∂T/∂z| on [lo, hi]; of T's difference quotients where σ has a corner."""
        least, most = system.enclosure.slopes(lo, hi)
        spread = upper(np.maximum(np.abs(least - self.slope), np.abs(most - self.slope)))
        return upper(self.r + self.cw.size * spread[..., None, :])


def operator(system: Canonical, slope: np.ndarray) -> Operator:
    """The operator that is best where the slopes are these."""
    eye = np.eye(len(system.c.mid))
    matrix = eye - system.w.mid * slope[..., None, :]
    noise = np.random.default_rng(0).standard_normal(matrix.shape)
    c = np.broadcast_to(eye, matrix.shape)  # any C will do: this one is regular, and needs nothing to be inverted
    for size in (0.0, 1e-9):  # noise where one of them is singular, exactly
        with contextlib.suppress(np.linalg.LinAlgError):
            c = np.linalg.inv(matrix + size * np.abs(matrix).max((-2, -1), keepdims=True) * noise)
            break
    cw = product(Ball.point(c), system.w)
    scaled = cw.mid * slope[..., None, :]
    rounding = 4 * EPS * (eye + np.abs(c) + np.abs(scaled))
    r = upper(np.abs(eye - c + scaled) + rounding + cw.rad * np.abs(slope[..., None, :]))
    return Operator(c, cw, r, slope)


def at_most_one(system: Canonical, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Whether a box surely has no two fixed points: T contracts it in some weighted maximum norm.

    A v < v for some v > 0, where A bounds |∂T/∂z|; v comes from A's power iteration. Then C is not singular: |R| ≤ A,
    so C (I - W α) = I - R is not.
    """
    stretch = operator(system, _middle_slope(system, lo, hi)).stretch(lo, hi, system)
    v = np.ones(lo.shape)
    for _ in range(3):
        v = _times(stretch, v) + 1e-3 * v
        v = v / v.max(-1, keepdims=True)
    return np.asarray(np.all(upper(_times(stretch, v), lo.shape[-1]) < v, axis=-1))


def inclusion(system: Canonical, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Boxes about points z (..., n) with exactly one fixed point of the network each, as far as that can be proved.

    $$ |C\,(z - W\sigma(z) - c)| + A \rho \le \rho, \qquad A \ge |\partial T/\partial z| \text{ on } z \pm \rho $$

    is Newton and Kantorovich's condition by components: T takes the box z ± ρ into itself and contracts it. ρ is
    inflated until it holds (Rump 2010, section 13); what comes back is the smaller box that T takes it into.

    Returns:
        The ends lo, hi of the boxes, and whether each is proved; one that is not means nothing.
    """
    tangent = operator(system, _middle_slope(system, z, z))
    n = z.shape[-1]
    s = system.enclosure.value(z)
    extended = np.concatenate(
        [np.broadcast_to(system.w.mid, (*z.shape, n)), np.stack([np.broadcast_to(system.c.mid, z.shape), -z], -1)], -1
    )
    image = exact_dot(extended, np.concatenate([s.mid, np.ones((*z.shape[:-1], 2))], -1))
    lack = Ball(
        image.mid,
        upper(image.rad + system.c.rad + _times(system.w.size, s.rad) + _times(system.w.rad, np.abs(s.mid)), n),
    )
    change = _apply(Ball.point(tangent.c), lack)  # T(z) - z
    step = change.size + EPS * np.abs(z)
    rho, proved, spread = 2 * step, np.zeros(z.shape[:-1], bool), step
    for _ in range(12):
        lo, hi = z - rho, z + rho
        spread = upper(_times(tangent.stretch(lo, hi, system), upper(np.maximum(hi - z, z - lo))), n)
        moved = upper(step + spread)
        proved = np.asarray((moved < np.minimum(hi - z, z - lo) * (1 - 4 * EPS)).all(-1))
        if proved.all():
            break
        rho = np.where(proved[..., None], rho, 1.2 * moved + 0.1 * rho)
    return *Ball(z + change.mid, upper(change.rad + spread + EPS * np.abs(z) + EPS * np.abs(change.mid))).ends, proved


def refined(system: Canonical, z: np.ndarray) -> np.ndarray:
    """Where Newton's method leads from z (..., n): to the rounding floor if it converges, anywhere if it does not."""
    for _ in range(12):
        s = system.enclosure.value(z).mid
        step = _times(operator(system, _middle_slope(system, z, z)).c, z - s @ system.w.mid.T - system.c.mid)
        z = z - step
        if (np.abs(step) <= 1e-8 * (1 + np.abs(z))).all():
            break
    return z


def slope_of(system: Canonical, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """The slope to write σ(z) = αz + β(z) with, on [lo, hi]: that of the chord, or of the middle if that is short."""
    (low, _), (_, high) = system.enclosure.value(lo).ends, system.enclosure.value(hi).ends
    least, most = system.enclosure.slopes(lo, hi)
    chord = ((high - low) / np.maximum(hi - lo, 1e-4)).clip(least, most)
    return np.where(hi - lo > 1e-4, chord, (least + most) / 2)


def _middle_slope(system, lo, hi):
    least, most = system.enclosure.slopes(lo, hi)
    return (least + most) / 2


def _times(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def _apply(matrix: Ball, vector: Ball) -> Ball:
    result = product(matrix, Ball(vector.mid[..., None], vector.rad[..., None]))
    return Ball(result.mid[..., 0], result.rad[..., 0])
