"""Interval arithmetic on NumPy arrays, as little of it as the proofs need: what is true is never lost to rounding.

Row 6 of the layer table: imports nothing above `activations`. Next: `canonical`, which encloses networks with it.

Rounding is not switched but bounded. A sum of n products, in whatever order it is taken, is off by at most
n ε Σ|aᵢbᵢ| (Rump 2010, Acta Numerica 19, section 2; ε = 2⁻⁵² is twice the unit roundoff, which covers the second
order), and an expression without subtraction is right to a relative n ε. NumPy's exp and tanh are tested, by NumPy, to
four units in the last place; eight are allowed for here, and `_TINY` for whatever underflows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnn_dynamics import activations
from rnn_dynamics.activations import Activation

__all__ = ["EPS", "Ball", "Corner", "Sigmoidal", "enclosure_of", "exact_dot", "product", "upper"]

EPS = float(np.finfo(float).eps)
_TINY = 1e-300


class Ball(NamedTuple):
    """All arrays within `rad` of `mid`, component by component."""

    mid: np.ndarray
    rad: np.ndarray

    @staticmethod
    def between(lo: np.ndarray, hi: np.ndarray) -> "Ball":
        """The smallest ball round [lo, hi], or the next."""
        mid = lo + (hi - lo) / 2
        return Ball(mid, upper(np.maximum(hi - mid, mid - lo)))

    @staticmethod
    def point(x: np.ndarray) -> "Ball":
        """x itself."""
        return Ball(x, np.zeros_like(x))

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value in it."""
        return upper(np.abs(self.mid) + self.rad)

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """An interval [lo, hi] that holds it."""
        rad = upper(self.rad) + EPS * np.abs(self.mid)
        return self.mid - rad, self.mid + rad

    def __add__(self, other: "Ball") -> "Ball":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Their sum."""
        mid = self.mid + other.mid
        return Ball(mid, upper(self.rad + other.rad + EPS * np.abs(mid)))

    def __neg__(self) -> "Ball":
        """Its mirror image."""
        return Ball(-self.mid, self.rad)


def upper(bound: np.ndarray, num_terms: int = 1) -> np.ndarray:
    """At least what this expression would be without rounding: sums of `num_terms` and products, nothing subtracted.

    (The operands of a difference that is rounded once may be: it is right to a relative ε like a product.)
    """
    return bound * (1 + (num_terms + 16) * EPS) + _TINY


def product(a: Ball, b: Ball) -> Ball:
    """a @ b, a (..., m, n) and b (..., n, k)."""
    n = a.mid.shape[-1]
    size = np.abs(b.mid)
    rad = np.abs(a.mid) @ (b.rad + n * EPS * size) + a.rad @ (size + b.rad)
    return Ball(a.mid @ b.mid, upper(rad, n))


def exact_dot(a: np.ndarray, x: np.ndarray) -> Ball:
    """a @ x of matrices (..., m, n) and vectors (..., n), as if in twice the precision and rounded once.

    Dekker (1971) for the products, Ogita, Rump, Oishi (2005), Dot2, for the sum and its bound.
    """
    n = x.shape[-1]
    high = a * x[..., None, :]
    low = _product_error(a, x[..., None, :], high)
    total = error = np.zeros(high.shape[:-1])
    for j in range(n):
        new = total + high[..., j]
        back = new - total
        error = error + ((total - (new - back)) + (high[..., j] - back) + low[..., j])
        total = new
    mid = total + error
    return Ball(mid, upper(EPS * np.abs(mid) + (4 * n * EPS) ** 2 * np.abs(high).sum(-1), n))


def _product_error(a, x, high):
    (a_high, a_low), (x_high, x_low) = _halves(a), _halves(x)
    return a_low * x_low - (((high - a_high * x_high) - a_low * x_high) - a_high * x_low)


def _halves(a):
    scaled = (2.0**27 + 1) * a
    high = scaled - (scaled - a)
    return high, a - high


class Corner(NamedTuple):
    """ReLU, or the identity, whose slope is one throughout: their values are exact."""

    least_slope: float

    def value(self, z: np.ndarray) -> Ball:
        """σ(z)."""
        return Ball.point(np.where(z > 0, z, z if self.least_slope else 0.0))

    def image(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All values of σ on [lo, hi]."""
        return self.value(lo).mid, self.value(hi).mid

    def slopes(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All difference quotients of σ on [lo, hi]."""
        return np.where(lo >= 0, 1.0, self.least_slope), np.where(hi <= 0, self.least_slope, 1.0)


class Sigmoidal(NamedTuple):
    """An increasing σ whose slope is even and falls with |z|: the sigmoid, tanh."""

    function: Callable[[np.ndarray], np.ndarray]
    bell: Callable[[np.ndarray], np.ndarray]
    """σ′ where z ≥ 0."""
    turn: Callable[[np.ndarray], np.ndarray]
    """The z ≥ 0 where σ′ has a given value, roughly."""
    least: float
    """σ(-∞); σ(∞) is 1."""

    def value(self, z: np.ndarray) -> Ball:
        """σ(z)."""
        s = self.function(z)
        return Ball(s, 16 * EPS * np.abs(s) + _TINY)

    def image(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All values of σ on [lo, hi]."""
        return self.value(lo).ends[0].clip(self.least, 1), self.value(hi).ends[1].clip(self.least, 1)

    def slopes(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All slopes of σ on [lo, hi]."""
        far = np.maximum(np.abs(lo), np.abs(hi))
        near = np.where((lo <= 0) & (hi >= 0), 0, np.minimum(np.abs(lo), np.abs(hi)))
        least, most = self.bell(far), self.bell(near)
        return (least * (1 - 32 * EPS) - _TINY).clip(0), most * (1 + 32 * EPS) + _TINY

    def remainder(self, lo: np.ndarray, hi: np.ndarray, slope: np.ndarray) -> Ball:
        """All values of σ(z) - slope · z on [lo, hi].

        Extreme at the ends and where σ′(z) = ±slope. That `turn` is near to there is checked, with room for its error:
        outside of it the remainder is monotone, inside it changes hardly. Where the check fails, the mean value
        theorem gives a wider answer.
        """
        turn = self.turn(slope)
        room = 1e-8 * (1 + turn)
        inner = (turn - room).clip(0)
        steepest, flattest = self.slopes(inner, inner)[0], self.slopes(turn + room, turn + room)[1]
        sure = (flattest <= slope) & ((steepest >= slope) | (inner == 0))
        change = self.slopes((inner - room).clip(0), turn + 2 * room)
        slack = 4 * room * np.maximum(np.abs(change[0] - slope), np.abs(change[1] - slope))
        at = np.stack([lo, hi, (-turn).clip(lo, hi), turn.clip(lo, hi)])
        s = self.value(at)
        line = slope * at
        low, high = Ball(s.mid - line, upper(s.rad + EPS * (np.abs(s.mid) + 2 * np.abs(line)))).ends
        tight = Ball.between(low.min(0) - slack, high.max(0) + slack)
        least, most = self.slopes(lo, hi)
        box, middle = Ball.between(lo, hi), self.value(lo + (hi - lo) / 2)
        line = slope * box.mid
        spread = np.maximum(np.abs(least - slope), np.abs(most - slope)) * box.rad
        rad = upper(middle.rad + spread + EPS * (np.abs(middle.mid) + 2 * np.abs(line)))
        wide = Ball(middle.mid - line, rad)
        return Ball(np.where(sure, tight.mid, wide.mid), np.where(sure, tight.rad, wide.rad))


def enclosure_of(activation: Activation) -> Corner | Sigmoidal | None:
    """What is known of this activation; None of one that the package does not know."""
    known = ((activations.sigmoid, _SIGMOID), (activations.tanh, _TANH), (activations.relu, Corner(0.0)))
    for candidate, enclosure in (*known, (activations.identity, Corner(1.0))):
        if activation.function is candidate.function:
            return enclosure
    return None


def _logistic(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def _logistic_bell(z):
    e = np.exp(-z)
    return e / (1 + e) ** 2


def _arccosh_root(slope):  # arccosh(1/√slope)
    return np.arccosh(1 / np.sqrt(slope.clip(1e-290, 1)))


_SIGMOID = Sigmoidal(_logistic, _logistic_bell, lambda slope: 2 * _arccosh_root(4 * slope), 0.0)
_TANH = Sigmoidal(np.tanh, lambda z: 4 * _logistic_bell(2 * z), _arccosh_root, -1.0)
