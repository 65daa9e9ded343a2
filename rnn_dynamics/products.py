r"""Products of many matrices, kept so that they never overflow, never underflow and lose no singular value.

A product of T Jacobians grows or shrinks at n different rates; written out as an array it is 0, infinity or a single
direction after a few hundred steps. Here it stays factored, with U orthogonal, the scales in logarithm and V well
conditioned, and only ratios of scales are ever exponentiated:

$$ A = U \, \mathrm{diag}(e^{\ell}) \, V $$

Row 1 of the layer table. Next: `jacobians`, which multiplies along a trajectory.
"""

import equinox
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from rnn_dynamics import _check, _graded
from rnn_dynamics._compile import jit

__all__ = ["Product", "compose", "cumulative", "from_matrices", "identity", "multiply"]

_GRADED = 1e3  # a factor whose columns differ more than this in size is taken apart before it multiplies


class Product(equinox.Module):
    r"""A matrix in factors, A = u · diag(exp(log_scale)) · v, however large or small its entries.

    Made by `from_matrices`, `cumulative`, `multiply` and `compose`. The factors are not unique, the methods depend on A
    alone: differentiate those. Where the factors have leading axes (`cumulative`), the methods have them too.

    Args:
        u: Orthogonal.
        log_scale: Natural logarithms, descending or nearly so; -inf where A is singular.
        v: Well conditioned, with rows of length 1, but not orthogonal.

    Raises:
        ValueError: shapes that do not belong together.

    Example:
        >>> from_matrices(jnp.tile(5.0 * jnp.eye(2), (1000, 1, 1))).log_scale.round(6)
        Array([1609.437912, 1609.437912], dtype=float64)
    """

    u: Float[Array, "*T n n"]
    log_scale: Float[Array, "*T n"]
    v: Float[Array, "*T n n"]

    def __check_init__(self):
        shapes = tuple(jnp.shape(factor) for factor in (self.u, self.log_scale, self.v))
        if not shapes[0] == shapes[2] == (*shapes[1], *shapes[1][-1:]):
            raise ValueError(f"u, log_scale, v must have shapes (..., n, n), (..., n), (..., n, n); got {shapes}")

    def log_singular_values(self) -> Float[Array, "*T n"]:
        r"""ln σ of every singular value, however far apart they lie, each to an absolute ε·κ(v) or so.

        By one-sided Jacobi rotations of the rows of diag(exp(log_scale))·v. Derivatives are right where the singular
        values are distinct; an entry -inf has derivative 0.

        Returns:
            Natural logarithms, descending; -inf for a singular value 0.

        Example:
            >>> steps = jnp.tile(jnp.array([[0.5, 1.0], [0.0, 2.0]]), (1000, 1, 1))
            >>> from_matrices(steps).log_singular_values().round(6)
            Array([ 693.331043, -693.331043], dtype=float64)

        References:
            Demmel, Veselić (1992), Jacobi's method is more accurate than QR.
        """
        return _log_singular_values(self.log_scale, self.v)

    def log_norm(self) -> Float[Array, "*T"]:
        r"""ln ‖A‖₂, the largest log singular value; -inf for the zero matrix.

        Example:
            >>> from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_norm().round(6)
            Array(1098.612289, dtype=float64)
        """
        return _log_norm(self.log_scale, self.v)

    def log_abs_det(self) -> Float[Array, "*T"]:
        r"""ln |det A|, the sum of the log singular values; -inf for a singular matrix.

        Example:
            >>> from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_abs_det().round(6)
            Array(-1203.972804, dtype=float64)
        """
        return _log_abs_det(self.log_scale, self.v)

    def to_array(self) -> Float[Array, "*T n n"]:
        """A written out: entries too large for the dtype are ±inf, entries too small 0, none NaN.

        Example:
            >>> from_matrices(jnp.tile(5.0 * jnp.eye(2), (1000, 1, 1))).to_array()
            Array([[inf,  0.],
                   [ 0., inf]], dtype=float64)
        """
        return _to_array(self.u, self.log_scale, self.v)

    def apply(self, vector: Float[Array, "*T n"]) -> tuple[Float[Array, "*T n"], Float[Array, "*T"]]:
        r"""A·x as a unit vector and the logarithm of its length.

        Returns:
            The direction (zeros where A·x = 0), and ln ‖A·x‖₂ (-inf there).

        Raises:
            ValueError: a vector that does not fit, or is not finite.

        Example:
            >>> from_matrices(jnp.tile(10.0 * jnp.eye(2), (1000, 1, 1))).apply(jnp.array([3.0, 4.0]))[1].round(6)
            Array(2304.194531, dtype=float64)
        """
        vector = _check.floats("vector", vector, *self.log_scale.shape)
        return _apply(self.u, self.log_scale, self.v, vector)


def identity(n: int, dtype: DTypeLike = float) -> Product:
    """The product of no matrices.

    Raises:
        ValueError: a size `n` below 1, or a dtype that is not a float type.

    Example:
        >>> identity(2).log_abs_det()
        Array(0., dtype=float64)
    """
    n = _check.count("n", n, least=1)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a float type; got {dtype}")
    return Product(jnp.eye(n, dtype=dtype), jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype))


def multiply(matrix: Float[Array, "n n"], product: Product) -> Product:
    r"""matrix · product: one more factor, acting last. For a scan that forms its matrices as it goes.

    One QR decomposition; another where the columns of `matrix` differ much in size, as those of W·diag(σ′) do in a
    saturated network, and another where v has become skew (under `jax.vmap`, always three). Backward stable: exact for
    a factor whose rows and columns, each at its own size, are off by a few ε. A factor singular to within such an error
    (90 ε; in float32, ε) gives scales of exactly -inf, and derivatives of the others stay right.

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


def from_matrices(matrices: Float[Array, "T n n"]) -> Product:
    r"""The product $A_T \cdots A_2 A_1$ of a sequence of matrices: the last acts last.

    Args:
        matrices: $A_1 \dots A_T$; none of them (T = 0) gives the identity.

    Returns:
        The product, as accurate as `multiply`.

    Raises:
        ValueError: anything but a finite float array of shape (T, n, n), n at least 1.

    Example:
        >>> steps = jnp.tile(jnp.diag(jnp.array([0.1, 10.0])), (1000, 1, 1))
        >>> from_matrices(steps).log_singular_values().round(6)
        Array([ 2302.585093, -2302.585093], dtype=float64)
    """
    return _from_matrices(_sequence(matrices))


def cumulative(matrices: Float[Array, "T n n"]) -> Product:
    r"""Every partial product $A_t \cdots A_1$, t = 1 ... T, of a sequence of matrices.

    Returns:
        T products in one, with leading axis T; the last is `from_matrices(matrices)`.

    Raises:
        ValueError: anything but a finite float array of shape (T, n, n), n at least 1.

    Example:
        >>> cumulative(jnp.tile(jnp.diag(jnp.array([0.5, 2.0])), (3, 1, 1))).log_norm().round(6)
        Array([0.693147, 1.386294, 2.079442], dtype=float64)
    """
    return _cumulative(_sequence(matrices))


def compose(later: Product, earlier: Product) -> Product:
    r"""later · earlier, associative up to rounding; `jax.vmap` it for products with leading axes.

    Derivatives are NaN where `later` is singular; those of `multiply` and `from_matrices` are right there too.

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


def _sequence(matrices):
    matrices = _check.floats("matrices", matrices, "T", "n", "n")
    if matrices.shape[1] == 0:
        raise ValueError(f"matrices must be at least 1 by 1; got shape {matrices.shape}")
    return matrices


def _size(name, product):
    if not isinstance(product, Product) or product.log_scale.ndim != 1:
        came = (
            f"leading axes {product.log_scale.shape[:-1]}" if isinstance(product, Product) else type(product).__name__
        )
        raise ValueError(f"{name} must be a Product without leading axes; got {came}")
    return product.log_scale.size


# Multiplication: J·U = Q·R gives J·U·diag(e^l)·V = Q·(R·diag(e^l)·V), and the bracket is scaled row by row. R is upper
# triangular and its columns sorted, so row i meets only ratios e^{l_j - l_i}, j ≥ i, that cannot overflow. Nothing is
# divided by R's diagonal, which is 0 for a singular factor. Sorting alone is not enough: a repeated factor can make two
# columns change places for ever, and rows of V that were orthogonal turn parallel. Hence `_straight`.


@jit
def _multiply(matrix, product):
    u, log_scale, v = _straight(product)
    sizes = jnp.max(jnp.abs(matrix), axis=0)
    graded = jnp.max(sizes) > _GRADED * jnp.min(sizes)
    q1, r1 = lax.cond(graded, _by_rows, lambda matrix: (jnp.eye(len(matrix), dtype=matrix.dtype), matrix), matrix)
    c = r1 @ u
    order, _ = _graded.descending(jnp.log(jnp.max(jnp.abs(c), axis=0)) + log_scale)
    q2, r2 = _graded.row_sorted_qr(jnp.where(log_scale == -jnp.inf, 0, c)[:, order])
    q = lax.cond(graded, jnp.matmul, lambda _, q2: q2, q1, q2)
    return _scaled(q, r2, log_scale[order], v[order])


@jit
def _from_matrices(matrices):
    start = identity(matrices.shape[1], matrices.dtype)
    return lax.scan(lambda product, matrix: (_multiply(matrix, product), None), start, matrices)[0]


@jit
def _cumulative(matrices):
    def advance(product, matrix):
        product = _multiply(matrix, product)
        return product, product

    return lax.scan(advance, identity(matrices.shape[1], matrices.dtype), matrices)[1]


def _by_rows(matrix):
    """matrix = q·r with rows of r at their own sizes: r·u keeps them all, where matrix·u rounds small columns away."""
    order, place = _graded.descending(jnp.max(jnp.abs(matrix), axis=0))
    q, r = _graded.row_sorted_qr(matrix[:, order])
    return q, r[:, place]


def _straight(product):
    """u, l, v of the product with κ(v) at most 2.5; u is then well conditioned but need not be orthogonal.

    V = L·Q turns diag(e^l)·V into (diag(e^l)·L·diag(e^-l))·diag(e^l)·Q, and below its diagonal the bracket holds ratios
    of a smaller to a larger scale only. Left alone are V whose Gram matrix is so close to 1, Σ_{i≠j} (v_i·v_j)² ≤ 1/2,
    that its eigenvalues lie within 1 ± √½.
    """

    def straighten(u, log_scale, v):
        order, _ = _graded.descending(log_scale)
        u, log_scale, (q, r) = u[:, order], log_scale[order], _graded.qr(v[order].T)
        live = log_scale > -jnp.inf
        below = jnp.tri(len(v), k=-1, dtype=bool) & live
        ratio = jnp.exp(jnp.where(below, log_scale[:, None] - jnp.where(live, log_scale, 0), 0))
        return u @ jnp.where(below, ratio * r.T, jnp.diag(jnp.where(live, jnp.diagonal(r), 1))), log_scale, q.T

    skew = jnp.sum((product.v @ product.v.T) ** 2) - len(product.v)
    return lax.cond(skew > 0.5, straighten, lambda *same: same, product.u, product.log_scale, product.v)


@jax.custom_jvp
def _scaled(q, r, log_scale, v):
    """q·r·diag(e^log_scale)·v as a Product, r upper triangular, its columns sorted by size after scaling."""
    live = jnp.any(r != 0, axis=0)
    top = lax.cummax(lax.stop_gradient(jnp.where(live, log_scale, -jnp.inf)), reverse=True)
    top = jnp.where(top == -jnp.inf, 0, top)
    r = _graded.times_exp(r, jnp.where(jnp.tri(len(r), dtype=bool).T, log_scale - top[:, None], 0))
    zero = ~jnp.any(r != 0, axis=1)
    rows, log_length = _graded.unit(jnp.where(zero[:, None], jnp.eye(len(r), dtype=r.dtype), r) @ v)
    return Product(q, jnp.where(zero, -jnp.inf, top + log_length), rows)


@_scaled.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # A zero row i of R has scale -inf, yet its change Σ_j dR_ij e^{l_j} v_j counts. The part in the span of the rows
    # that are not zero is a turn of U; the rest is orthogonal to every later right singular vector.
    product, change = jax.jvp(_scaled.fun, primals, tangents)
    (q, r, log_scale, v), dr = primals, tangents[1]
    zero = ~jnp.any(r != 0, axis=1)
    both = ~zero[:, None] & ~zero
    top = jnp.max(jnp.where(jnp.cumsum(zero) > 0, log_scale, -jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    rows = (jnp.where(zero[:, None], dr, 0) * jnp.exp(jnp.minimum(log_scale - top, 0))) @ v
    gram = jnp.where(both, product.v @ product.v.T, jnp.eye(len(v), dtype=v.dtype))
    part = jnp.linalg.solve(gram, jnp.where(zero[:, None], 0, product.v @ rows.T)).T
    turn = _graded.times_exp(part, jnp.where(zero, 0, top - jnp.where(zero, 0, product.log_scale)))
    return product, Product(change.u + q @ (turn - turn.T), change.log_scale, change.v)


# Composition: Gaussian elimination of diag(e^a)·V₂U₁·diag(e^b). Elimination commutes with scaling, so it runs on V₂U₁
# alone, with the pivots that complete pivoting would choose were the scales there.


@jit
def _compose(later, earlier):
    (u2, left, v2), (u1, right, v1) = _straight(later), _straight(earlier)
    left, b = _regular(left, v2 @ u1)
    columns, log_scale, rows = _graded.eliminate(b, left, right)
    return _scaled(*_graded.qr(u2 @ columns), log_scale, rows @ v1)


@jax.custom_jvp
def _regular(log_scale, b):
    """Both as they are, with a derivative only where no scale is -inf."""
    return log_scale, b


@_regular.defjvp
def _(primals, tangents):
    # What a zero singular value of the later product changes to is not stored, and the earlier product can make it
    # count: NaN rather than a wrong number. As a factor, for reverse mode would drop a `where`.
    factor = jnp.where(jnp.any(primals[0] == -jnp.inf), jnp.nan, 1)
    return primals, tuple(factor.astype(tangent.dtype) * tangent for tangent in tangents)


def _method(signature):
    """Compiles a method of Product, written here for one product, and gives it leading axes."""
    return lambda function: jit(jnp.vectorize(function, signature=signature))


def _top(log_scale):
    top = lax.stop_gradient(jnp.max(log_scale))
    return jnp.where(top == -jnp.inf, 0, top)


@_method("(n,n),(n),(n,n)->(n,n)")
def _to_array(u, log_scale, v):
    # Scales that the floats hold are added up as they are; beside larger ones they would round to 0, which matters
    # where those have exact zeros. The larger in two steps, and never times infinity: 0 stays 0.
    limit = jnp.log(jnp.finfo(v.dtype).max) - jnp.log(len(v)) - 1
    large, top = log_scale > limit, _top(log_scale)
    half = jnp.exp(jnp.minimum(top / 2, limit))
    overflowing = (u * jnp.where(large, jnp.exp(jnp.maximum(log_scale - top, -limit / 2)), 0)) @ v * half * half
    return overflowing + (u * jnp.where(large, 0, jnp.exp(jnp.minimum(log_scale, limit)))) @ v


@_method("(n,n),(n),(n,n),(n)->(n),()")
def _apply(u, log_scale, v, vector):
    y = v @ vector
    log_scale = jnp.where(y == 0, -jnp.inf, log_scale)
    top = _top(log_scale)
    (direction,), (log_length,) = _graded.unit((u @ (y * jnp.exp(log_scale - top)))[None])
    return direction, top + log_length


@_method("(n),(n,n)->()")
def _log_norm(log_scale, v):
    top = _top(log_scale)
    zero = jnp.max(log_scale) == -jnp.inf
    scaled = jnp.where(zero, jnp.eye(len(v), dtype=v.dtype), jnp.exp(log_scale - top)[:, None] * v)
    return jnp.where(zero, -jnp.inf, top + jnp.log(jnp.linalg.svd(scaled, compute_uv=False)[0]))


@_method("(n),(n,n)->()")
def _log_abs_det(log_scale, v):
    return jnp.sum(log_scale) + jnp.linalg.slogdet(v)[1]


@_method("(n),(n,n)->(n)")
def _log_singular_values(log_scale, v):
    return _graded.log_singular_values(log_scale, v)
