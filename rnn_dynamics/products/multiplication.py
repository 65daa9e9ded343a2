"""Multiplication of matrices, and of products, into a `Product`.

Row 1 of the layer table: above `product`. Next: `jacobians`, which multiplies along a trajectory.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, PyTree

from rnn_dynamics import _check, _graded
from rnn_dynamics._compile import any_lane, in_threads, jit, num_cores, on_one_blas_thread, one_blas_thread
from rnn_dynamics.products.product import Product, identity, regular

__all__ = ["advance", "compose", "cumulative", "from_matrices", "multiply", "scan", "stretch_size"]

_CHUNK = 1024
"""Factors multiplied in parallel at a time, at most: what they are held in is all the memory that it takes."""
_SKEW = 0.2  # a factor L with ‖L⁻¹‖ above ε^-0.2 (1,350; in float32, 24) costs digits: it is left orthogonal instead
_GRADED = 1e3  # a factor whose columns differ more than this in size is taken apart before it multiplies


def multiply(matrix: Float[Array, "n n"], product: Product) -> Product:
    r"""matrix · product: one more factor, acting last. For a scan that forms its matrices as it goes.

    One QR decomposition; another where the columns of `matrix` differ much in size, as those of W·diag(σ′) do in a
    saturated network, and another where v has become skew. Backward stable: exact for
    a factor whose rows and columns, each at its own size, are off by a few ε. A factor singular to within such an error
    (90 ε; in float32, ε) gives scales of exactly -inf, and derivatives of the others stay right.

    Args:
        matrix: The factor on the left.
        product: What it multiplies.

    Returns:
        The product, in the wider of the two dtypes.

    Raises:
        ValueError: a matrix that is not a finite float array of the product's size; a product with leading axes.

    Example:
        >>> multiply(2.0 * jnp.eye(3), identity(3)).log_singular_values().round(6)
        Array([0.693147, 0.693147, 0.693147], dtype=float64)

    References:
        Stewart (1997), On graded QR decompositions of products of matrices. Cox, Higham (1998), Stability of
        Householder QR factorization for weighted least squares problems: why rows are sorted by size.
    """
    n = _size("product", product)
    return _multiply(_check.floats("matrix", matrix, n, n), product)


def from_matrices(matrices: Float[Array, "T n n"], *, parallel: bool = False) -> Product:
    r"""The product $A_T \cdots A_2 A_1$ of a sequence of matrices: the last acts last.

    Args:
        matrices: $A_1 \dots A_T$; none of them (T = 0) gives the identity.
        parallel: On a CPU, a stretch for each core; elsewhere, and inside a caller's transformation, as `cumulative`.

    Returns:
        The product, as accurate as `multiply`. By elimination, which takes a third of the time of its QR.

    Raises:
        ValueError: anything but a finite float array of shape (T, n, n), n at least 1.

    Example:
        >>> steps = jnp.tile(jnp.diag(jnp.array([0.1, 10.0])), (1000, 1, 1))
        >>> from_matrices(steps).log_singular_values().round(6)
        Array([ 2302.585093, -2302.585093], dtype=float64)
    """
    matrices = _sequence(matrices, check_finite=False)
    _check.instance("parallel", parallel, bool)
    num_stretches = min(num_cores(), len(matrices))
    if not parallel or num_stretches == 0:
        product = on_one_blas_thread(_sequential, matrices, False)
    elif num_stretches == 1:
        product = _from_matrices_in_parallel(matrices)
    else:
        ends = [jnp.asarray(len(matrices) * i // num_stretches) for i in range(num_stretches + 1)]
        with one_blas_thread():
            stretches = in_threads(_stretch, [(matrices, *between) for between in itertools.pairwise(ends)])
            product = functools.reduce(lambda earlier, later: _compose(later, earlier), stretches)
    # A factor that is not finite makes the product NaN, or is lost in zero: it need not be looked for before.
    if _check.known(product.log_scale) and not np.isfinite(product.log_scale).all():
        _sequence(matrices)
    return product


def cumulative(matrices: Float[Array, "T n n"], *, parallel: bool = False) -> Product:
    r"""Every partial product $A_t \cdots A_1$, t = 1 ... T, of a sequence of matrices.

    Args:
        matrices: $A_1 \dots A_T$.
        parallel: Of every 1,024 factors, multiply 32 stretches of 32 side by side and compose these by a parallel
            prefix sum: twice to three times the work, but 32 multiplications and 7 compositions one after the other
            instead of 1,024. For a GPU; the numbers are the same to the accuracy of `multiply`.

    Returns:
        T products in one, with leading axis T; the last is `from_matrices(matrices)`.

    Raises:
        ValueError: anything but a finite float array of shape (T, n, n), n at least 1.

    Example:
        >>> cumulative(jnp.tile(jnp.diag(jnp.array([0.5, 2.0])), (3, 1, 1))).log_norm().round(6)
        Array([0.693147, 1.386294, 2.079442], dtype=float64)
    """
    matrices = _sequence(matrices)
    _check.instance("parallel", parallel, bool)
    return _cumulative_in_parallel(matrices) if parallel and len(matrices) else _sequential(matrices, True)


def compose(later: Product, earlier: Product) -> Product:
    r"""later · earlier, associative up to rounding; `jax.vmap` it for products with leading axes.

    Args:
        later: The factor on the left.
        earlier: The factor on the right, of the same size.

    Derivatives are NaN where `later` is singular, and so are those of all that is done with `parallel=True`, which
    composes; those of `multiply` are as `Product` says.

    Raises:
        ValueError: products of different sizes, or with leading axes.

    Example:
        >>> grow, shrink = (from_matrices(jnp.tile(c * jnp.eye(2), (1000, 1, 1))) for c in (4.0, 0.5))
        >>> compose(shrink, grow).log_singular_values().round(6)
        Array([693.147181, 693.147181], dtype=float64)

    References:
        Demmel, Gu, Eisenstat, Slapničar, Veselić, Drmač (1999), Computing the singular value decomposition with high
        relative accuracy.
    """
    if _size("later", later) != _size("earlier", earlier):
        raise ValueError(f"earlier must have later's size {later.log_scale.size}; got {earlier.log_scale.size}")
    return _compose(later, earlier)


def _sequence(matrices, *, check_finite=True):
    matrices = _check.floats("matrices", matrices, "T", "n", "n", check_finite=check_finite)
    if matrices.shape[1] == 0:
        raise ValueError(f"matrices must be at least 1 by 1; got shape {matrices.shape}")
    return matrices


def _size(name, product):
    if not isinstance(product, Product) or product.log_scale.ndim != 1:
        kind = type(product).__name__
        came = f"leading axes {product.log_scale.shape[:-1]}" if isinstance(product, Product) else kind
        raise ValueError(f"{name} must be a Product without leading axes; got {came}")
    return product.log_scale.size


# Multiplication: J·U = Q·R gives J·U·diag(e^l)·V = Q·(R·diag(e^l)·V), and the bracket is scaled row by row. R is upper
# triangular and its columns sorted, so row i meets only ratios e^{l_j - l_i}, j ≥ i, that cannot overflow. Nothing is
# divided by R's diagonal, which is 0 for a singular factor. Sorting alone is not enough: a repeated factor can make two
# columns change places for ever, and rows of V that were orthogonal turn parallel. Hence `_straight`.


@jit
def _multiply(matrix, product):
    return _accumulate(matrix, _beginning(product), _graded.row_sorted_qr)[0]


def _beginning(product):
    return product, jnp.zeros_like(product.log_scale), jnp.asarray(jnp.inf, product.v.dtype)


def _accumulate(matrix, so_far, factorise):
    """The next product, what the sums of logarithms leave over, and how far v has moved since it was looked at.

    In float32 the last place of a long product's logarithm is as large as one factor's: the next adds what is left.
    """
    u, log_scale, v, left, moved = _straight(*so_far)
    sizes = lax.stop_gradient(jnp.max(jnp.abs(matrix), axis=0))
    graded = jnp.max(sizes) / _GRADED > jnp.min(sizes)
    power = _power(sizes)
    matrix = _graded.times_power(matrix, -power)
    one = jnp.eye(len(matrix), dtype=matrix.dtype)
    q1, r1 = _where_any(graded, lambda _, matrix: _graded.by_rows(matrix), one, matrix)
    c = r1 @ u
    order, _ = _graded.descending(jnp.log(jnp.max(jnp.abs(c), axis=0)) + log_scale)
    q2, r2 = factorise(jnp.where(log_scale == -jnp.inf, 0, c)[:, order])
    (q,) = _where_any(graded, lambda q2: (q1 @ q2,), q2)
    v = v[order]
    product, left = _scaled(q, r2, log_scale[order], left[order], v)
    log_scale, left = _graded.total(product.log_scale, left, power.astype(left.dtype) * math.log(2))
    turned = 1 - jnp.abs(lax.stop_gradient(jnp.sum(product.v * v, axis=1)))  # of each row, whatever its sign
    moved = moved + jnp.sqrt(2 * jnp.maximum(turned, 0).sum())
    return Product(product.u, log_scale, product.v), left, moved


def _eliminated(c):
    """c = L·R with a well conditioned L: by elimination, which hardly ever fails in that; by QR where it does."""
    *factors, stretch = _graded.triangles(c)
    skew = lax.stop_gradient(stretch) > jnp.finfo(c.dtype).eps ** -_SKEW
    return _where_any(skew, lambda *_: _graded.row_sorted_qr(c), *factors)


def _power(sizes):
    """The power of two to divide a matrix by, so that multiplying it neither over- nor underflows; 0 for most."""
    _, power = jnp.frexp(jnp.max(sizes))
    return jnp.where(jnp.abs(power) > jnp.finfo(sizes.dtype).maxexp // 4, power, 0)


def scan(
    factor: Callable, start: PyTree, n: int, dtype: DTypeLike, inputs: PyTree, num_steps: int, *, every: bool
) -> Product:
    """Multiplies what `factor(carry, input) -> (carry, matrix)` gives, into one product or every partial one."""

    def advance(carry, now) -> tuple[Any, Any]:
        carry, so_far = carry
        carry, matrix = factor(carry, now)
        so_far = _accumulate(matrix, so_far, _graded.row_sorted_qr if every else _eliminated)
        return (carry, so_far), so_far[0] if every else None

    (_, so_far), products = lax.scan(advance, (start, _beginning(identity(n, dtype))), inputs, num_steps)
    return products if every else _ended(so_far)


def _ended(so_far):
    """The product, its u orthogonal."""
    product, left, _ = so_far
    log_scale, u = product.log_scale, jnp.where(product.log_scale == -jnp.inf, 0, product.u)
    order, _ = _graded.descending(jnp.log(jnp.max(jnp.abs(u), axis=0)) + log_scale)
    return _scaled(*_graded.row_sorted_qr(u[:, order]), log_scale[order], left[order], product.v[order])[0]


@jit
def _stretch(matrices, first, last):
    start = _beginning(identity(matrices.shape[1], matrices.dtype))
    return _ended(lax.fori_loop(first, last, lambda i, so_far: _accumulate(matrices[i], so_far, _eliminated), start))


@jit
def _sequential(matrices, every):
    num, n, _ = matrices.shape
    return scan(lambda _, matrix: (None, matrix), None, n, matrices.dtype, matrices, num, every=every)


# In parallel: each lane multiplies its own part of a stretch, and a prefix sum over the lanes says what went before.
# XLA would compile every level of `lax.associative_scan` anew; a doubling of fixed shape is compiled once.


def advance(product: Product, matrices: Float[Array, "T n n"]) -> tuple[Product, Product]:
    """The product of all the matrices with what came before them, and every partial one; T steps held in memory."""
    num, n = matrices.shape[:2]
    steps = math.isqrt(num - 1) + 1
    lanes = -(-num // steps)
    filled = jnp.concatenate(
        [matrices, jnp.broadcast_to(jnp.eye(n, dtype=matrices.dtype), (lanes * steps - num, n, n))]
    )
    start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), identity(n, matrices.dtype))

    def multiply(products, matrices):
        products = jax.vmap(_multiply)(matrices, products)
        return products, products

    by_step = filled.reshape(lanes, steps, n, n).swapaxes(0, 1)
    totals, within = lax.scan(multiply, start, by_step)
    before = _prefix(jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), product, totals))
    every = jax.vmap(jax.vmap(_compose), (0, None))(within, jax.tree.map(lambda leaf: leaf[:-1], before))
    in_order = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[:num], every)
    return jax.tree.map(lambda leaf: leaf[-1], before), in_order


def _prefix(products):
    """Entry t: the product of entries 0 to t, the later on the left.

    Hillis and Steele (1986), Data parallel algorithms.
    """
    index = jnp.arange(len(products.log_scale))

    def double(level, products):
        shift = 1 << level
        composed = jax.vmap(_compose)(products, jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis=0), products))
        return jax.tree.map(
            lambda new, old: jnp.where((index >= shift).reshape(-1, *[1] * (old.ndim - 1)), new, old),
            composed,
            products,
        )

    return lax.fori_loop(0, (len(index) - 1).bit_length(), double, products)


@jit
def _cumulative_in_parallel(matrices):
    _, products = lax.scan(advance, identity(matrices.shape[1], matrices.dtype), _stretches(matrices))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(matrices)], products)


@jit
def _from_matrices_in_parallel(matrices):
    start = identity(matrices.shape[1], matrices.dtype)
    return lax.scan(lambda product, stretch: (advance(product, stretch)[0], None), start, _stretches(matrices))[0]


def _stretches(matrices):
    """The matrices in stretches of one length, filled up with the identity."""
    num, n = matrices.shape[:2]
    size = stretch_size(num)
    filling = jnp.broadcast_to(jnp.eye(n, dtype=matrices.dtype), (-num % size, n, n))
    return jnp.concatenate([matrices, filling]).reshape(-1, size, n, n)


def stretch_size(num: int) -> int:
    """How many of `num` factors to multiply in parallel at a time: as evenly as goes, at most 1,024."""
    return -(-num // -(-num // _CHUNK))


def _straight(product, left, moved):
    """u, l, v of the product with κ(v) at most 2.5; u is then well conditioned but need not be orthogonal.

    V = L·Q turns diag(e^l)·V into (diag(e^l)·L·diag(e^-l))·diag(e^l)·Q, and below its diagonal the bracket holds ratios
    of a smaller to a larger scale only. Left alone are V whose Gram matrix is so close to 1, Σ_{i≠j} (v_i·v_j)² ≤ 1/2,
    that its eigenvalues lie within 1 ± √½; found to be within 2/5, V may move by 0.03 before it is looked at again.
    """

    def straighten(u, log_scale, v, left):
        order, _ = _graded.descending(log_scale)
        u, log_scale, (q, r), left = u[:, order], log_scale[order], _graded.qr(v[order].T), left[order]
        live = log_scale > -jnp.inf
        below = jnp.tri(len(v), k=-1, dtype=bool) & live
        distance = log_scale[:, None] - jnp.where(live, log_scale, 0) + (left[:, None] - left)
        ratio = jnp.exp(jnp.where(below, distance, 0))
        u = u @ jnp.where(below, ratio * r.T, jnp.diag(jnp.where(live, jnp.diagonal(r), 1)))
        return u, log_scale, q.T, left

    def look(*factors):
        v = factors[2]
        skew = moving & (jnp.sum((v @ v.T) ** 2) - len(v) > 0.4)
        return _where_any(skew, straighten, *factors)

    moving = moved > 0.03
    factors = _where_any(moving, look, product.u, product.log_scale, product.v, left)
    return *factors, jnp.where(moving, 0, moved)


def _where_any(flag, change, *values):
    """change(*values) where the flag holds. Under `vmap` a branch that is taken if any lane wants it."""

    def changed(*values):
        return jax.tree.map(lambda new, old: jnp.where(flag, new, old), change(*values), values)

    return lax.cond(any_lane(flag), changed, lambda *values: values, *values)


@jax.custom_jvp
def _scaled(q, r, log_scale, left, v):
    """q·r·diag(e^(log_scale + left))·v as a Product, and what its logarithms leave over.

    r is upper triangular, its columns sorted by size after scaling.
    """
    live = jnp.any(r != 0, axis=0)
    top = lax.cummax(lax.stop_gradient(jnp.where(live, log_scale, -jnp.inf)), reverse=True)
    top = jnp.where(top == -jnp.inf, 0, top)
    r = _graded.times_exp(r, jnp.where(jnp.tri(len(r), dtype=bool).T, log_scale - top[:, None] + left, 0))
    zero = ~jnp.any(r != 0, axis=1)
    rows, log_length = _graded.unit(jnp.where(zero[:, None], jnp.eye(len(r), dtype=r.dtype), r) @ v)
    log_scale, left = _graded.total(top, jnp.zeros_like(left), log_length)
    return Product(q, jnp.where(zero, -jnp.inf, log_scale), rows), jnp.where(zero, 0, left)


@_scaled.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # A zero row i of R has scale -inf, yet its change Σ_j dR_ij e^{l_j} v_j counts. The part in the span of the rows
    # that are not zero is a turn of U; the rest is orthogonal to every later right singular vector.
    (product, rest), (change, unchanged) = jax.jvp(_scaled.fun, primals, tangents)
    (q, r, log_scale, left, v), dr = primals, tangents[1]
    zero = ~jnp.any(r != 0, axis=1)
    both = ~zero[:, None] & ~zero
    top = jnp.max(jnp.where(jnp.cumsum(zero) > 0, log_scale, -jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    rows = (jnp.where(zero[:, None], dr, 0) * jnp.exp(jnp.minimum(log_scale - top + left, 0))) @ v
    gram = jnp.where(both, product.v @ product.v.T, jnp.eye(len(v), dtype=v.dtype))
    part = jnp.linalg.solve(gram, jnp.where(zero[:, None], 0, product.v @ rows.T)).T
    turn = _graded.times_exp(part, jnp.where(zero, 0, top - jnp.where(zero, 0, product.log_scale) - rest))
    return (product, rest), (Product(change.u + q @ (turn - turn.T), change.log_scale, change.v), unchanged)


# Composition: Gaussian elimination of diag(e^a)·V₂U₁·diag(e^b). Elimination commutes with scaling, so it runs on V₂U₁
# alone, with the pivots that complete pivoting would choose were the scales there.


@jit
def _compose(later, earlier):
    nothing = jnp.zeros_like(later.log_scale)
    (u2, left, v2, *_), (u1, right, v1, *_) = (_straight(*_beginning(each)) for each in (later, earlier))
    left, b = regular(left, v2 @ u1)
    columns, log_scale, rows = _graded.eliminate(b, left, right)
    return _scaled(*_graded.qr(u2 @ columns), log_scale, nothing, rows @ v1)[0]
