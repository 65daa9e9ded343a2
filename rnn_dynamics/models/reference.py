"""Systems whose answers are known in closed form or published: linear, tent, cat, logistic, Hénon, the normal forms of
bifurcations, Pasemann's modules, Beer's oscillator.

Row 2 of the layer table: above `pascanu` and `ctrnn`. Tests, benchmarks and newcomers start here.
"""

from typing import Literal

import equinox
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_dynamics import _check
from rnn_dynamics.models.ctrnn import CTRNN
from rnn_dynamics.models.pascanu import PascanuRNN, drive

__all__ = ["Cat", "Henon", "Linear", "Logistic", "Normal", "Tent", "bistable_module", "chaotic_module", "oscillator"]


class Linear(equinox.Module):
    """x' = A x + B u: every gradient of it is a power of A.

    Args:
        a: The matrix A, shape (n, n).
        w_in: The matrix B, shape (n, m), or None for no input.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity.

    Example:
        >>> Linear(jnp.diag(jnp.array([0.5, 2.0])))(jnp.ones(2))
        Array([0.5, 2. ], dtype=float64)
    """

    a: Float[Array, "n n"]
    w_in: Float[Array, "n m"] | None

    def __init__(self, a, w_in=None):
        self.a = _check.floats("a", a, "n", "n")
        self.w_in = None if w_in is None else _check.floats("w_in", w_in, len(self.a), "m")

    def __call__(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, " n"]:
        """The next state."""
        return self.a @ _check.floats("x", x, len(self.a), check_finite=False) + drive(self.w_in, u)


class Tent(equinox.Module):
    """x' = s·min(x, 1 - x): piecewise linear with slopes ±s, so its exponent is ln s.

    Args:
        slope: s, in (0, 2], so that the interval [0, 1] maps into itself.

    Raises:
        ValueError: a slope outside (0, 2].

    Example:
        >>> Tent(1.5)(jnp.array([0.6])).round(6)
        Array([0.6], dtype=float64)
    """

    slope: Float[Array, ""]

    def __init__(self, slope):
        self.slope = _check.number("slope", slope)
        _check.within("slope", self.slope, "lie in (0, 2]", lambda s: 0 < s <= 2)

    def __call__(self, x: Float[Array, " n"], u: None = None) -> Float[Array, " n"]:
        """The next state; several states at once if n > 1, each on its own."""
        del u
        return self.slope * jnp.minimum(x, 1 - x)


class Cat(equinox.Module):
    """(x, y)' = (2x + y, x + y) mod 1, Arnold's cat: hyperbolic everywhere, its exponents are ±2 ln((1 + √5)/2).

    Raises:
        ValueError: when called, a state that is not a float array (2,).

    Example:
        >>> Cat()(jnp.array([0.5, 0.25]))
        Array([0.25, 0.75], dtype=float64)

    References:
        Arnold and Avez (1968), Ergodic problems of classical mechanics.
    """

    def __call__(self, x: Float[Array, " 2"], u: None = None) -> Float[Array, " 2"]:
        """The next state, in [0, 1)²."""
        del u
        x = _check.floats("x", x, 2, check_finite=False)
        return jnp.stack([2 * x[0] + x[1], x[0] + x[1]]) % 1


class Normal(equinox.Module):
    r"""The normal form of a bifurcation of fixed points, which is at p = 0, x = 0.

    - "LP", a fold: x' = x + p + a x²;
    - "BP", a pitchfork: x' = x + p x + a x³;
    - "PD", a flip: x' = -(1 + p) x + a x³, supercritical for a > 0;
    - "NS", Neimark-Sacker: $z' = e^{i	heta} z (1 + p + a |z|^2)$ with z = x₀ + i x₁, supercritical for a < 0.

    Args:
        kind: Which.
        p: The parameter.
        a: The coefficient that decides what is born.
        angle: θ, in radians a step, for "NS".

    Raises:
        ValueError: an unknown kind, a number that is not finite; when called, a state of another size than 1 ("NS": 2).

    Example:
        >>> Normal("PD", 0.5)(jnp.array([1.0]))
        Array([-0.5], dtype=float64)

    References:
        Kuznetsov (2004), Elements of applied bifurcation theory, section 4.
    """

    kind: str = equinox.field(static=True)
    p: Float[Array, ""]
    a: Float[Array, ""]
    angle: Float[Array, ""]

    def __init__(self, kind: Literal["LP", "BP", "PD", "NS"], p, a=1.0, angle=1.0):
        _check.option("kind", kind, ("LP", "BP", "PD", "NS"))
        self.kind = kind
        self.p, self.a, self.angle = _check.number("p", p), _check.number("a", a), _check.number("angle", angle)

    def __call__(self, x: Float[Array, " n"], u: None = None) -> Float[Array, " n"]:
        """The next state."""
        del u
        x = _check.floats("x", x, 2 if self.kind == "NS" else 1, check_finite=False)
        if self.kind == "LP":
            return x + self.p + self.a * x**2
        if self.kind == "BP":
            return x + self.p * x + self.a * x**3
        if self.kind == "PD":
            return -(1 + self.p) * x + self.a * x**3
        c, s = jnp.cos(self.angle), jnp.sin(self.angle)
        return (1 + self.p + self.a * jnp.sum(x**2)) * jnp.stack([c * x[0] - s * x[1], s * x[0] + c * x[1]])


class Logistic(equinox.Module):
    """x' = r x (1 - x): fixed points 0 and 1 - 1/r, period doubling from r = 3, exponent ln 2 at r = 4.

    Args:
        r: Growth rate.

    Raises:
        ValueError: r is not a finite real scalar.

    Example:
        >>> Logistic(4.0)(jnp.array([0.75]))
        Array([0.75], dtype=float64)

    References:
        May (1976), Simple mathematical models with very complicated dynamics.
    """

    r: Float[Array, ""]

    def __init__(self, r):
        self.r = _check.number("r", r)

    def __call__(self, x: Float[Array, " n"], u: None = None) -> Float[Array, " n"]:
        """The next state; several states at once if n > 1, each on its own."""
        del u
        return self.r * x * (1 - x)


class Henon(equinox.Module):
    """x' = 1 - a x² + y, y' = b x: contracts areas by |b| a step, so its exponents sum to ln |b|.

    Args:
        a: Strength of the fold.
        b: Contraction.

    Raises:
        ValueError: a or b is not a finite real scalar.

    Example:
        >>> Henon()(jnp.array([0.0, 0.0]))
        Array([1., 0.], dtype=float64)

    References:
        Hénon (1976), A two-dimensional mapping with a strange attractor: a = 1.4, b = 0.3.
    """

    a: Float[Array, ""]
    b: Float[Array, ""]

    def __init__(self, a=1.4, b=0.3):
        self.a = _check.number("a", a)
        self.b = _check.number("b", b)

    def __call__(self, x: Float[Array, " 2"], u: None = None) -> Float[Array, " 2"]:
        """The next state."""
        del u
        x = _check.floats("x", x, 2, check_finite=False)
        return jnp.stack([1 - self.a * x[0] ** 2 + x[1], self.b * x[0]])


def chaotic_module(b1: Float[Array, ""] | float = -2.0) -> PascanuRNN:
    """Pasemann's minimal chaotic neuromodule, a Pascanu network of two sigmoid units.

    W = [[-20, 6], [-6, 0]], b = (b1, 3). At b1 = -2, from (0, 2), it is chaotic.

    Args:
        b1: Bias of the first unit.

    Returns:
        The network, n = 2.

    Example:
        >>> chaotic_module()(jnp.zeros(2))  # (-2 - 10 + 3, 3 - 3)
        Array([-9.,  0.], dtype=float64)

    References:
        Lynch, Dynamical Systems with Applications, chapter 20, after Pasemann.
    """
    return PascanuRNN(jnp.array([[-20.0, 6.0], [-6.0, 0.0]]), None, _module_bias(b1))


def bistable_module(b1: Float[Array, ""] | float = 0.0) -> PascanuRNN:
    """Pasemann's bistable module, a Pascanu network of two sigmoid units with hysteresis in b1.

    W = [[7, -4], [5, 0]], b = (b1, 3). Two stable fixed points for b1 between the folds -0.2277 and 1.1447.

    Args:
        b1: Bias of the first unit.

    Returns:
        The network, n = 2.

    Example:
        >>> bistable_module()(jnp.zeros(2))
        Array([1.5, 5.5], dtype=float64)

    References:
        Lynch, Dynamical Systems with Applications, chapter 20, after Pasemann.
    """
    return PascanuRNN(jnp.array([[7.0, -4.0], [5.0, 0.0]]), None, _module_bias(b1))


def oscillator(c: Float[Array, ""] | float = 1.0) -> CTRNN:
    """Beer's two-neuron oscillator, a field: W = [[4.5, c], [-c, 4.5]], τ = 1, θ centre-crossing.

    θ_i = -Σ_j w_ij / 2 puts an equilibrium at y = -θ, where every σ is ½ and steepest; its eigenvalues are
    ⅛ ± ic/4. At c = 1 a limit cycle of period 28.9999 surrounds it.

    Args:
        c: The coupling.

    Returns:
        The network, n = 2.

    Example:
        >>> oscillator()(jnp.array([2.75, 1.75]))
        Array([0., 0.], dtype=float64)

    References:
        Beer (1995), On the dynamics of small continuous-time recurrent neural networks.
    """
    c = _check.number("c", c)
    w = jnp.array([[4.5, 0.0], [0.0, 4.5]]) + c * jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    return CTRNN(w, -w.sum(axis=1) / 2, 1.0)


def _module_bias(b1):
    return jnp.stack([_check.number("b1", b1), jnp.asarray(3.0)])
