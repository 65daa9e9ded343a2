"""Small dense linear algebra inside compiled loops: bordered solves with the sign of a determinant, eigenvalues.

Row 7 of the layer table: the lowest of `continuation`. Next: `arclength`.

Up to three unknowns everything is written out: a call of LAPACK costs more than the whole step of a scalar branch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from rnn_dynamics import _graded

__all__ = ["derivative", "eigenvalues", "null_vectors", "solve", "solve_both", "solve_with_sign"]


def derivative(function, y: Float[Array, " m"]) -> tuple[Float[Array, "*k"], Float[Array, "*k m"]]:
    """The value of a function and its Jacobian, in forward mode, all columns at once."""

    def twice(y):
        value = function(y)
        return value, value

    jacobian, value = jax.jacfwd(twice, has_aux=True)(y)
    return value, jacobian


def solve_with_sign(matrix: Inexact[Array, "m m"], right: Inexact[Array, " m"]) -> tuple[Array, Array]:
    """M⁻¹ r and the sign of det M; a singular M gives something that is not finite, and sign 0 or NaN."""
    if len(matrix) == 1:
        return right / matrix[0], jnp.sign(matrix[0, 0])
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        det = a * d - b * c
        return jnp.stack([d * right[0] - b * right[1], a * right[1] - c * right[0]]) / det, jnp.sign(det)
    if len(matrix) == 3:
        rows = jnp.cross(jnp.roll(matrix, -1, 0), jnp.roll(matrix, -2, 0))  # the columns of the adjugate
        det = matrix[0] @ rows[0]
        return right @ rows / det, jnp.sign(det)
    solution, packed, pivots = _eliminate(matrix, right[:, None])
    swaps = jnp.sum(pivots != jnp.arange(len(pivots), dtype=pivots.dtype))
    return solution[:, 0], jnp.prod(jnp.sign(jnp.diagonal(packed))) * (1 - 2 * (swaps % 2))


def solve(matrix: Inexact[Array, "m m"], right: Inexact[Array, " m"]) -> Inexact[Array, " m"]:
    """M⁻¹ r; a singular M gives something that is not finite."""
    return solve_with_sign(matrix, right)[0]


def solve_both(matrix: Inexact[Array, "m m"], rights: list[Array], left: Array) -> list[Array]:
    """M⁻¹ r for several r, and last M⁻* l, with one factorisation."""
    if len(matrix) <= 3:
        return [*(solve(matrix, right) for right in rights), solve(matrix.conj().T, left)]
    solutions, packed, pivots = _eliminate(matrix, jnp.stack(rights, axis=1))
    adjoint = {"left_side": True, "transpose_a": True, "conjugate_a": True}
    left = jax.lax.linalg.triangular_solve(packed, left[:, None], **adjoint)
    left = jax.lax.linalg.triangular_solve(packed, left, lower=True, unit_diagonal=True, **adjoint)
    return [*solutions.T, _graded.swapped_back(left[:, 0], pivots)]


def _eliminate(matrix, rights):
    """M⁻¹ R, and of P M = L U both factors in one matrix, with the pivots.

    The elimination of [M R] leaves L⁻¹ P R beside U. JAX's own solver has a loop that makes P of the pivots, on a CPU
    half as long as the elimination.
    """
    both, pivots, _ = jax.lax.linalg.lu(jnp.hstack([matrix, rights]))
    packed, rest = both[:, : len(matrix)], both[:, len(matrix) :]
    return jax.lax.linalg.triangular_solve(packed, rest, left_side=True), packed, pivots


def null_vectors(matrix: Inexact[Array, "k m"]) -> tuple[Inexact[Array, " k"], Inexact[Array, " m"]]:
    """Unit vectors w, v with w* M and M v as small as they get: the last singular pair."""
    left, _, right = jnp.linalg.svd(matrix)
    return left[:, -1], right[-1].conj()


def eigenvalues(matrix):
    """The eigenvalues of one matrix, unordered; in closed form up to two."""
    if len(matrix) == 1:
        return matrix[0].astype(jnp.promote_types(matrix.dtype, jnp.complex64))
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        half, spread = (a + d) / 2, ((a - d) / 2) ** 2 + b * c
        root = jnp.sqrt(jnp.abs(spread))
        # Of two real ones, the larger without cancellation and the other from the determinant.
        large = half + jnp.where(half < 0, -root, root)
        small = jnp.where(large == 0, 0.0, (a * d - b * c) / jnp.where(large == 0, 1.0, large))
        pair = jax.lax.complex(jnp.stack([half, half]), jnp.stack([root, -root]))
        return jnp.where(spread < 0, pair, jnp.stack([large, small]).astype(pair.dtype))
    return jnp.linalg.eigvals(matrix)
