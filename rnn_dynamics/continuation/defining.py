"""Defining systems: the equations that hold at a fold, flip, Neimark-Sacker, Hopf or cusp point, and Newton's method.

Row 7 of the layer table: above `linear`. Next: `curves` and `positions`, which solve them.

With A = F_x - μI, a fold (μ = 1; 0 for a field) or a flip (μ = -1) is G = 0 and A singular; n + 1 equations. The
second is the scalar g of the bordered system [A b; c' 0](v; g) = (0; 1) (Govaerts 2000, chapter 3). The borders are
computed anew at every point, from the point alone: close to the null vectors, so that the bordered matrix is never
singular, however far along a curve. That costs nothing in the derivative, because dg = -w' dA v whatever the borders.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnn_dynamics import jacobians
from rnn_dynamics.continuation import linear

__all__ = [
    "System",
    "eigenpair",
    "flip_form",
    "fold_form",
    "frames",
    "newton",
    "null_vectors",
    "orthonormal",
    "pair",
    "singular",
    "solved",
    "tol",
]


class System(NamedTuple):
    """A family of maps or fields over its parameters, an array: `family(parameters) -> map`."""

    family: Callable
    u: PyTree
    discrete: bool

    def image(self, x: Float[Array, " n"], parameters: Float[Array, " k"]) -> Float[Array, " n"]:
        """F(x): the next state, or the velocity."""
        return self.family(parameters)(x, self.u)

    def residual(self, x: Float[Array, " n"], parameters: Float[Array, " k"]) -> Float[Array, " n"]:
        """G: zero at fixed points and equilibria."""
        return self.image(x, parameters) - x if self.discrete else self.image(x, parameters)

    def jacobian(self, x: Float[Array, " n"], parameters: Float[Array, " k"]) -> Float[Array, "n n"]:
        """F_x."""
        return jacobians.jacobian(self.family(parameters), x, self.u)

    def shifted(self, x: Float[Array, " n"], parameters: Float[Array, " k"], multiplier: float):
        """A = F_x - μI."""
        return self.jacobian(x, parameters) - multiplier * jnp.eye(len(x), dtype=x.dtype)


def frames(matrix: Float[Array, "n n"], count: int):
    """W and V with W' M and M V as small as they get, and g: `count` square, 0 where M lacks that much rank.

    The first borders are fixed and arbitrary. Where they happen to be poor, the solution is large, but its directions
    are as good, and they are the second ones: exact where M is singular.
    """
    size = len(matrix)
    generic = np.random.default_rng(0).normal(size=(2, size, count)) * (3 / math.sqrt(size))
    scale = jnp.abs(matrix).max()
    left, right = jnp.where(scale > 0, scale, 1) * generic.astype(matrix.dtype)

    def again(_, carry):
        left, right, *_ = carry
        whole = jnp.block([[matrix, left], [right.T, jnp.zeros((count, count), matrix.dtype)]])
        inverse = jnp.linalg.inv(whole)
        w, v = inverse[size:, :size].T, inverse[:size, size:]
        return orthonormal(w), orthonormal(v), w, v, inverse[size:, size:]

    start = left, right, left, right, jnp.zeros((count, count), matrix.dtype)
    return jax.lax.fori_loop(0, 2, again, start)[2:]


def orthonormal(columns: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """One or two columns made orthonormal, the first in its direction."""
    first = columns[:, :1] / jnp.linalg.norm(columns[:, 0])
    if columns.shape[1] == 1:
        return first
    second = columns[:, 1:] - first * (first.T @ columns[:, 1:])
    second = second - first * (first.T @ second)
    return jnp.hstack([first, second / jnp.linalg.norm(second)])


def singular(system: System, multiplier: float, size: int) -> Callable:
    """y -> (G, g) of y = (x, parameters): zero at folds (μ = 1; 0 for a field) or flips (μ = -1)."""

    def function(y):
        x, parameters = y[:size], y[size:]
        value = system.residual(x, parameters)
        if size == 1:
            return jnp.append(value, system.jacobian(x, parameters)[0, 0] - multiplier)
        matrix = jax.lax.stop_gradient(system.shifted(x, parameters, multiplier))
        left, right, g = frames(matrix, 1)
        image = jax.jvp(lambda x: system.image(x, parameters), (x,), (right[:, 0],))[1] - multiplier * right[:, 0]
        slope = left[:, 0] @ image
        # The value of g, and for its derivative that of -w' A v with w and v held.
        return jnp.append(value, g[0, 0] - slope + jax.lax.stop_gradient(slope))

    return function


def pair(system: System, size: int) -> Callable:
    """y -> (G, tr S - 2κ, det S - 1) of y = (x, κ, parameters): zero where two multipliers are e^{±iθ}, κ = cos θ.

    For a field (G, tr S, det S - κ): rates ±iω, κ = ω². S is what F_x does on the plane of the two, F_x V = V S, by a
    two-sided Rayleigh quotient. V and W, left and right null spaces of F_x² - 2κ F_x + I (Kuznetsov 2004, section
    10.5) or F_x² + κI, are held in the derivative, which is exact where they are exact.
    """

    def function(y):
        x, kappa, parameters = y[:size], y[size], y[size + 1 :]
        matrix = jax.lax.stop_gradient(system.jacobian(x, parameters))
        left = right = jnp.eye(2, dtype=y.dtype)
        if size > 2:
            held = jax.lax.stop_gradient(kappa)
            identity = jnp.eye(size, dtype=y.dtype)
            shift = identity - 2 * held * matrix if system.discrete else held * identity
            left, right, _ = frames(matrix @ matrix + shift, 2)
        pushed = jnp.stack([jax.jvp(lambda x: system.image(x, parameters), (x,), (v,))[1] for v in right.T], axis=1)
        (a, b), (c, d) = left.T @ right
        (e, f), (g, h) = left.T @ pushed
        area = a * d - b * c
        trace, det = (d * e - b * g + a * h - c * f) / area, (e * h - f * g) / area
        tests = [trace - 2 * kappa, det - 1] if system.discrete else [trace, det - kappa]
        return jnp.concatenate([system.residual(x, parameters), jnp.stack(tests)])

    return function


def eigenpair(system: System, y: Float[Array, " m"], left: Float[Array, " n"], right: Float[Array, " n"], multiplier):
    """Left and right null vectors of A at y = (x, parameters), and g, with these borders; to be differentiated."""
    size = len(left)
    matrix = system.shifted(y[:size], y[size:], multiplier)
    if size == 1:
        return left, right, matrix[0, 0]
    whole = jnp.block([[matrix, left[:, None]], [right[None], jnp.zeros((1, 1), matrix.dtype)]])
    inverse = jnp.linalg.inv(whole)
    return inverse[-1, :-1], inverse[:-1, -1], inverse[-1, -1]


def null_vectors(system: System, y: Float[Array, " m"], size: int, multiplier: float):
    """Unit left and right null vectors of A at y = (x, parameters), or what comes nearest."""
    if size == 1:
        return jnp.ones(1, y.dtype), jnp.ones(1, y.dtype)
    left, right, _ = frames(system.shifted(y[:size], y[size:], multiplier), 1)
    return orthonormal(left)[:, 0], orthonormal(right)[:, 0]


def fold_form(system: System, y: Float[Array, " m"], left: Float[Array, " n"], right: Float[Array, " n"]):
    """w' B(v, v)/2, the fold's quadratic coefficient: zero at a cusp. And its size."""
    value = left @ _second(system, y, right, right) / 2
    return value, jnp.abs(value)


def flip_form(system: System, y: Float[Array, " m"], left: Float[Array, " n"], right: Float[Array, " n"]):
    """w' (C(v, v, v) + 3 B(v, (I - F_x)⁻¹ B(v, v)))/6, the flip's cubic coefficient: zero where it is degenerate.

    It passes infinity where a fold is met, and det(I - F_x) is 0: with the sign of that it changes its own only at
    zeros. Second, what it is measured by: its terms' size, without the inverse, which must not enter here.
    """
    twice = _second(system, y, right, right)
    third = jax.jvp(lambda x: _second(system, y.at[: len(x)].set(x), right, right), (y[: len(right)],), (right,))[1]
    answer, sign = linear.solve_with_sign(-system.shifted(y[: len(right)], y[len(right) :], 1.0), twice)
    value = left @ (third + 3 * _second(system, y, right, answer)) / 6
    size = jnp.abs(left) @ (jnp.abs(third) + 3 * jnp.abs(_second(system, y, right, twice))) / 6
    return jax.lax.stop_gradient(sign) * value, size


def _second(system, y, v1, v2):
    """B(v₁, v₂): the second derivative of F in two directions."""
    x, parameters = y[: len(v1)], y[len(v1) :]

    def once(x):
        return jax.jvp(lambda x: system.image(x, parameters), (x,), (v1,))[1]

    return jax.jvp(once, (x,), (v2,))[1]


def newton(function: Callable, start: Float[Array, " m"], border: Callable | None = None):
    """Newton's method down to the rounding floor, no step longer than the point: (y, largest residual there).

    Args:
        function: The equations: as many as unknowns, or one less.
        start: Where to start.
        border: If one less: Jacobian -> a row to which every step is orthogonal.
    """

    def again(state):
        y, best, least, _, count = state
        value, jacobian = linear.derivative(function, y)
        error = jnp.where(jnp.isfinite(value).all(), jnp.abs(value).max(), jnp.inf)
        at_floor = (least <= tol(y.dtype) * (1 + jnp.abs(best).max())) & ~(error < least / 2)
        better = error < least
        best, least = jnp.where(better, y, best), jnp.where(better, error, least)
        over = at_floor | (error == 0) | ~jnp.isfinite(error) | (count >= 40)
        if border is not None:
            row = border(jacobian)
            jacobian, value = jnp.vstack([jacobian, row / jnp.abs(row).max()]), jnp.append(value, 0.0)
        change = linear.solve(jacobian, -value)
        shorter = jnp.maximum(1, jnp.abs(y).max() / 2) / jnp.maximum(jnp.abs(change).max(), 1e-30)
        return y + change * jnp.minimum(1, shorter), best, least, ~over, count + 1

    state = start, start, jnp.asarray(jnp.inf, start.dtype), jnp.asarray(True), jnp.zeros((), int)
    _, best, least, *_ = jax.lax.while_loop(lambda state: state[3], again, state)
    return best, least


def solved(error: Float[Array, ""], y: Float[Array, " m"]) -> Bool[Array, ""]:
    """Whether the largest residual of a defining system at y is what rounding leaves of it."""
    return error <= tol(y.dtype) * jnp.minimum(1e3, 1 + jnp.abs(y).max())


def tol(dtype) -> float:
    """What the residual of a defining system may be: 7e-11 in float64, 3e-5 in float32."""
    return float(jnp.finfo(dtype).eps) ** 0.65
