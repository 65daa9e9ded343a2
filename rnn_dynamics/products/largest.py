"""The largest singular value of a product of many matrices, alone.

Row 1 of the layer table: above `multiplication`, which it falls back on. Next: `jacobians`.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rnn_dynamics import _check, _graded
from rnn_dynamics._compile import in_threads, jit, num_cores, one_blas_thread, top_level
from rnn_dynamics.products.multiplication import from_matrices

__all__ = ["log_norm"]

_BLOCK = 8
"""Factors multiplied before the columns are scaled anew."""
_LOSS = 1e-4
"""Two halves are joined if no more of them than this cancels: four digits of sixteen."""


def log_norm(matrices: Float[Array, "T n n"], *, parallel: bool = False) -> Float[Array, ""]:
    r"""ln ‖A_T ⋯ A_2 A_1‖₂ alone: `from_matrices(matrices).log_norm()` in the time that bare multiplication takes.

    The matrices are multiplied out column by column, each column at its own scale. That loses all singular values but
    the largest, to which it is backward stable: exact for factors that are off by a few ε. Where a column leaves the
    floats within a few factors, or is lost, and inside a caller's transformation, it is `from_matrices` that answers.

    Args:
        matrices: $A_1 \dots A_T$; none of them (T = 0) gives 0.
        parallel: On a CPU, the first half by columns from the front and the second by rows from the back, side by
            side; where more than four digits cancel as they meet, `from_matrices` answers.

    Returns:
        The logarithm of the largest singular value; -inf for the zero matrix.

    Raises:
        ValueError: anything but a finite float array of shape (T, n, n), n at least 1.

    Example:
        >>> log_norm(jnp.tile(jnp.diag(jnp.array([0.1, 10.0])), (1000, 1, 1))).round(6)
        Array(2302.585093, dtype=float64)

    References:
        Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.7: products of matrices.
    """
    # What is not finite spoils a column, and `from_matrices` says so: looking for it first would take as long again.
    matrices = _check.floats("matrices", matrices, "T", "n", "n", check_finite=False)
    _check.instance("parallel", parallel, bool)
    if top_level() and matrices.size:
        with one_blas_thread():
            value, sure = _met(matrices) if parallel and min(num_cores(), len(matrices)) > 1 else _straight(matrices)
        if sure:
            return value
    return from_matrices(matrices, parallel=parallel).log_norm()


def _straight(matrices):
    columns, log_scale, sure = _multiplied(matrices, jnp.asarray(0), jnp.asarray(len(matrices)), False)
    return _joined(jnp.eye(len(columns), dtype=columns.dtype), jnp.zeros_like(log_scale), columns, log_scale, sure)


def _met(matrices):
    start, middle, end = (jnp.asarray(len(matrices) * i // 2) for i in range(3))
    halves = in_threads(_multiplied, [(matrices, start, middle, False), (matrices, middle, end, True)])
    (columns, after, sure), (rows, before, also) = halves
    return _joined(rows, before, columns, after, sure & also)


@jit
def _multiplied(matrices, first, last, backward):
    """The product's columns (its rows if backward), largest entry 1, their log scales, and whether none got lost."""
    n = matrices.shape[1]
    lowest = jnp.finfo(matrices.dtype).tiny ** 0.5
    along = 1 if backward else 0

    def advance(i, product):
        matrix = lax.dynamic_index_in_dim(matrices, first + last - 1 - i if backward else i, keepdims=False)
        return product @ matrix if backward else matrix @ product

    def block(carry):
        i, product, log_scale, left, _ = carry
        end = jnp.minimum(i + _BLOCK, last)
        product = lax.fori_loop(i, end, advance, product)
        size = jnp.abs(product).max(axis=along)
        sure = ((size > lowest) & (size < 1 / lowest)).all()
        log_scale, left = _graded.total(log_scale, left, jnp.log(size))
        return end, product / jnp.expand_dims(size, along), log_scale, left, sure

    zeros = jnp.zeros(n, matrices.dtype)
    start = (first, jnp.eye(n, dtype=matrices.dtype), zeros, zeros, jnp.array(True))
    _, product, log_scale, left, sure = lax.while_loop(lambda carry: (carry[0] < last) & carry[-1], block, start)
    return product, log_scale + left, sure


@jit
def _joined(rows, before, columns, after, sure):
    """ln ‖diag(e^before) rows columns diag(e^after)‖₂, and whether it is right."""
    inner, log_scale = rows @ columns, before[:, None] + after
    logs = jnp.log(jnp.abs(inner)) + log_scale
    lengths = jnp.log(_graded.lengths(rows.T))[:, None] + jnp.log(_graded.lengths(columns)) + log_scale
    top = logs.max()
    sure &= top >= lengths.max() + math.log(_LOSS)  # False for NaN
    graded = jnp.sign(inner) * jnp.exp(jnp.where(sure, logs - top, 0))
    return top + jnp.log(jnp.linalg.svd(graded, compute_uv=False)[0]), sure
