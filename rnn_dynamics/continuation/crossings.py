"""Where several multipliers become critical together, as symmetric networks have it: no defining system is regular.

Row 7 of the layer table: above `arclength`. Next: `events`, which comes here with what Newton's method leaves unsure.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn_dynamics.continuation import arclength, defining, linear

__all__ = ["Point", "Problem", "excess", "interpolated"]

NODES = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
COEFFICIENTS = np.linalg.inv(np.vander(NODES, increasing=True))
"""Of the polynomial through values at the nodes."""


class Problem(NamedTuple):
    """What is continued: G(y) for y = (x, p), the Jacobian F_x of the map or field, and which of the two it is."""

    residual: Callable
    jacobian: Callable
    discrete: bool
    weights: Float[Array, " m"]


def excess(values, discrete):
    """How far multipliers lie outside the unit circle, rates right of the imaginary axis; negative where stable."""
    return jnp.abs(values) - 1 if discrete else values.real


class Point(NamedTuple):
    """Of a branch; the tangent is of length 1."""

    y: Float[Array, " m"]
    tangent: Float[Array, " m"]


def interpolated(
    problem: Problem,
    y: Float[Array, " m"],
    ends: tuple[Point, Point],
    number: Int[Array, ""],
    turns: Bool[Array, ""],
    wanted: Bool[Array, ""],
) -> tuple[Float[Array, " m"], Float[Array, ""], Bool[Array, ""]]:
    """The point of a branch near y at which so many multipliers are critical: (y, residual, converged), if wanted.

    At the point itself [G_x G_p] has a kernel of more than two dimensions and Newton's method stalls; but the branch
    through it is smooth, and beside it regular. Six of its points, at the distances ±d, ±2d and ±3d along the tangent,
    have a polynomial through them, on which the mean excess of the multipliers nearest to the border vanishes at the
    point; or, where p turns back, the slope of p. That is wrong by d⁶ and by the points' own rounding. In float64 d is
    first 1e-2, to come near, then 1e-3.

    Args:
        problem: What is continued.
        y: Near the point.
        ends: The neighbouring points of the branch, between which it is.
        number: How many multipliers cross.
        turns: Whether p turns back there.
        wanted: If not, nothing is done.

    Returns:
        The residual is the largest of the fixed point's and of the distances of the multipliers from the border.
    """
    eps = float(jnp.finfo(y.dtype).eps)
    (low, rises), (high, arrives) = ends
    chord = high - low
    square = jnp.sum(problem.weights * chord**2)
    share = jnp.sum(problem.weights * chord * (y - low)) / square
    tangent = rises + share * (arrives - rises)
    border = problem.weights * tangent
    border = border / jnp.abs(border).max()
    # Newton's method may have strayed onto another branch: this one is near the cubic through both ends.
    bends = (1 - share) * (jnp.sqrt(square) * rises - chord) - share * (jnp.sqrt(square) * arrives - chord)
    start = low + share * chord + share * (1 - share) * bends
    size, lengths = len(NODES), np.array([eps ** (1 / 8), eps ** (3 / 16)])
    tables = NODES, COEFFICIENTS, np.arange(size), lengths
    nodes, inverse, degree, lengths = (jnp.asarray(table, y.dtype) for table in tables)

    def again(state):
        count, start, sound, _, rows, _ = state
        node, last = count % size, count >= 2 * size
        guess = start + jnp.where(last, 0, lengths[count // size] * nodes[node]) * tangent
        place, converged, _ = arclength.correct(problem.residual, guess, border, problem.weights)
        place = jnp.where(last, guess, place)
        beyond = excess(linear.eigenvalues(problem.jacobian(place)), problem.discrete)
        nearest = jnp.sum(jnp.abs(beyond) < jnp.abs(beyond)[:, None], axis=1) < number
        mean = jnp.sum(jnp.where(nearest, beyond, 0)) / jnp.sum(nearest)
        worst = jnp.maximum(jnp.abs(problem.residual(place)).max(), jnp.max(jnp.abs(beyond), where=nearest, initial=0))
        small = defining.solved(worst, place)
        rows = rows.at[node].set(jnp.append(place, mean))
        curve = inverse @ rows
        function = jnp.where(turns, jnp.append(degree[1:] * curve[1:, -2], 0), curve[:, -1])
        slopes = jnp.append(degree[1:] * function[1:], 0)

        def closer(_, root):
            powers = root**degree
            return root - function @ powers / (slopes @ powers)

        root = jax.lax.fori_loop(0, 4, closer, jnp.zeros((), y.dtype))
        full = (node == size - 1) & ~last
        sound &= jnp.where(last, small, (converged | (count < size)) & (~full | (jnp.abs(root) <= size / 2)))
        start = jnp.where(full, root**degree @ curve[:, :-1], jnp.where(last & ~small, y, start))
        return count + 1, start, sound, small, rows, worst

    def goes_on(state):
        count, _, _, small, *_ = state
        return wanted & ((count <= 2 * size) | (~small & (count <= 2 * size + 1)))

    none, no = jnp.zeros((), int), jnp.asarray(False)
    state = none, start, ~no, no, jnp.zeros((size, len(y) + 1), y.dtype), jnp.asarray(jnp.inf, y.dtype)
    _, found, sound, _, _, worst = jax.lax.while_loop(goes_on, again, state)
    return jnp.where(wanted, found, y), worst, sound
