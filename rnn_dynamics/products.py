r"""Products of many matrices, kept so that they never overflow, never underflow and lose no singular value.

Row 1 of the layer table. A product of T Jacobians grows or shrinks like e^{λT} in n directions at n different rates;
written out as an array it is 0, infinity or one direction only after a few hundred steps. Here it stays factored,

$$ A = U \, \mathrm{diag}(e^{\ell}) \, V, $$

with U orthogonal, the scales in logarithm and V well conditioned, and only ratios of scales are ever exponentiated.
Next: `jacobians`, which multiplies along a trajectory.
"""

import functools

import equinox
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, DTypeLike, Float

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["Product", "compose", "cumulative", "from_matrices", "identity", "multiply"]

_GRADED = 1e3  # rows or columns of a factor that differ more than this in size are taken apart before they are mixed
_exact = jax.default_matmul_precision("highest")
_MAX_SWEEPS = 30  # of Jacobi rotations; fewer than ten are ever needed


class Product(equinox.Module):
    r"""A matrix of any size of entries: u · diag(exp(log_scale)) · v.

    Made by `from_matrices`, `cumulative`, `multiply` and `compose`. The factors are not unique; the methods depend on
    the matrix alone, so differentiate the methods, not the factors. Everything may have leading axes, as `cumulative`
    returns it, and every method then returns one answer for each product.

    Args:
        u: Orthogonal.
        log_scale: Natural logarithms, descending or nearly so; -inf where the matrix is singular.
        v: Well conditioned but not orthogonal; the largest entry of each row is about 1.

    Raises:
        ValueError: shapes that do not belong together.

    Example:
        >>> doubled = multiply(2.0 * jnp.eye(2), identity(2))
        >>> from_matrices(jnp.tile(5.0 * jnp.eye(2), (1000, 1, 1))).to_array()
        Array([[inf,  0.],
               [ 0., inf]], dtype=float64)
    """

    u: Float[Array, "*T n n"]
    log_scale: Float[Array, "*T n"]
    v: Float[Array, "*T n n"]

    def __check_init__(self):
        shapes = tuple(jnp.shape(factor) for factor in (self.u, self.log_scale, self.v))
        if not shapes[0] == shapes[2] == (*shapes[1], *shapes[1][-1:]):
            raise ValueError(f"u, log_scale, v must have shapes (..., n, n), (..., n), (..., n, n); got {shapes}")

    def log_singular_values(self) -> Float[Array, "*T n"]:
        r"""ln σ of every singular value, each to an absolute accuracy of about ε·κ(v), however far they lie apart.

        One-sided Jacobi rotations of the rows of diag(exp(log_scale))·v, which are kept as unit rows and logarithms.
        Derivatives are those of simple singular values; an entry -inf has derivative 0.

        Returns:
            Natural logarithms, descending; -inf for a singular value 0.

        Example:
            >>> steps = jnp.tile(jnp.array([[0.5, 1.0], [0.0, 2.0]]), (1000, 1, 1))
            >>> from_matrices(steps).log_singular_values().round(6)
            Array([ 693.331444, -693.331444], dtype=float64)

        References:
            Demmel, Veselić (1992), Jacobi's method is more accurate than QR.
        """
        return _log_singular_values(self.log_scale, self.v)

    def log_norm(self) -> Float[Array, "*T"]:
        r"""ln ‖A‖₂, the largest of the log singular values; -inf for the zero matrix.

        Example:
            >>> from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_norm().round(6)
            Array(1098.612289, dtype=float64)
        """
        return _log_norm(self.log_scale, self.v)

    def log_abs_det(self) -> Float[Array, "*T"]:
        r"""ln |det A| = Σ log_scale + ln |det v|, the sum of the log singular values; -inf for a singular matrix.

        Example:
            >>> from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_abs_det().round(6)
            Array(-1203.972804, dtype=float64)
        """
        return _log_abs_det(self.log_scale, self.v)

    def to_array(self) -> Float[Array, "*T n n"]:
        """The matrix written out: entries too large for the dtype are ±inf, entries too small 0, none NaN.

        Example:
            >>> from_matrices(jnp.array([[[1.0, 1.0], [0.0, 1.0]]] * 10)).to_array().round(6)
            Array([[ 1., 10.],
                   [ 0.,  1.]], dtype=float64)
        """
        return _to_array(self.u, self.log_scale, self.v)

    def apply(self, vector: Float[Array, "*T n"]) -> tuple[Float[Array, "*T n"], Float[Array, "*T"]]:
        r"""The image A·x as a unit vector and the logarithm of its length.

        Returns:
            The direction (zero where A·x is zero), and ln ‖A·x‖₂ (-inf there).

        Raises:
            ValueError: a vector that does not fit.

        Example:
            >>> from_matrices(jnp.tile(10.0 * jnp.eye(2), (1000, 1, 1))).apply(jnp.array([3.0, 4.0]))[1].round(6)
            Array(2304.194531, dtype=float64)
        """
        vector = _check.floats("vector", vector, *self.log_scale.shape)
        return _apply(self.u, self.log_scale, self.v, vector)


def identity(n: int, dtype: DTypeLike = float) -> Product:
    """The product of no matrices.

    Args:
        n: The size, at least 1.
        dtype: A float type.

    Raises:
        ValueError: a size below 1, or a dtype that is not a float type.

    Example:
        >>> identity(2).log_abs_det()
        Array(0., dtype=float64)
    """
    n = _check.count("n", n, least=1)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a float type; got {dtype}")
    return Product(jnp.eye(n, dtype=dtype), jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype))


def multiply(matrix: Float[Array, "n n"], product: Product) -> Product:
    r"""matrix · product: one more factor, applied last. The body of a scan that forms its matrices as it goes.

    One QR decomposition; two where the rows or the columns of `matrix` differ in size by more than a factor 1000, as in
    W·diag(σ′) of a saturated network (under `jax.vmap`, always). Backward stable: the result is the exact product with a
    factor whose columns and rows, each scaled to unit size, are off by a few ε. Zero rows and columns are seen exactly
    and give scales of -inf; a factor singular in a hidden way gives what rounding leaves, about ln ε.

    Args:
        matrix: The new factor.
        product: What it acts upon.

    Returns:
        The product, in the wider of the two dtypes.

    Raises:
        ValueError: a matrix that is not a finite float array of the product's size.

    Example:
        >>> multiply(2.0 * jnp.eye(3), identity(3)).log_singular_values().round(6)
        Array([0.693147, 0.693147, 0.693147], dtype=float64)

    References:
        Stewart (1997), On graded QR decompositions of products of matrices; Cox, Higham (1998), Stability of Householder
        QR factorization for weighted least squares problems (why rows and columns are sorted by size first).
    """
    n = _size("product", product)
    return _multiply(_check.floats("matrix", matrix, n, n), product)


def from_matrices(matrices: Float[Array, "T n n"]) -> Product:
    r"""The product of a sequence of matrices, the first acting first.

    $$ A = A_T \cdots A_2 A_1 $$

    Args:
        matrices: $A_1 \dots A_T$; none (T = 0) gives the identity.

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
    r"""Every partial product of a sequence of matrices: $A_t \cdots A_1$ for t = 1 ... T.

    Args:
        matrices: $A_1 \dots A_T$.

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
    r"""later · earlier, associative up to rounding; `jax.vmap` it for products with a leading axis.

    With B = V₂U₁, the middle diag(e^a)·B·diag(e^b) is taken apart by Gaussian elimination with complete pivoting. Pivots
    are chosen as if the scales were there, but elimination commutes with scaling, so it runs on B alone.

    Args:
        later: The product that acts last.
        earlier: The product that acts first.

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


# Multiplication. With C = J·U sorted and factored C = Q·R, J·U·diag(e^l)·V = Q·(R·diag(e^l)·V), and the middle is scaled
# row by row: R is upper triangular and l descends, so row i needs only e^{l_j - l_i}, j ≥ i, which cannot overflow.
# Nothing is divided by R's diagonal, which vanishes for a singular factor.


@jit
@_exact
def _multiply(matrix, product):
    u, log_scale, v = _straight(product)
    q1, r1 = _by_rows(matrix)
    c = r1 @ u
    order = _descending(jnp.log(jnp.max(jnp.abs(c), axis=0)) + log_scale)
    q2, r2 = _row_sorted_qr(c[:, order])
    return _scaled(q1 @ q2, r2, log_scale[order], v[order])


@jit
def _from_matrices(matrices):
    start = identity(matrices.shape[1], matrices.dtype)
    return lax.scan(lambda product, matrix: (_multiply(matrix, product), None), start, matrices)[0]


@jit
def _cumulative(matrices):
    def step(product, matrix):
        product = _multiply(matrix, product)
        return product, product

    return lax.scan(step, identity(matrices.shape[1], matrices.dtype), matrices)[1]


def _by_rows(matrix):
    """matrix = q·r, r graded by rows at most, so that r·u keeps every row to full relative accuracy.

    Where columns differ much in size, `matrix @ u` would round the small ones away.
    """

    def factor(matrix):
        order = _descending(jnp.max(jnp.abs(matrix), axis=0))
        q, r = _row_sorted_qr(matrix[:, order])
        return q, r[:, jnp.argsort(order)]

    sizes = jnp.max(jnp.abs(matrix), axis=0)
    graded = jnp.max(sizes) > _GRADED * jnp.min(sizes)
    return lax.cond(graded, factor, lambda matrix: (jnp.eye(len(matrix), dtype=matrix.dtype), matrix), matrix)


def _straight(product):
    """The product as u·diag(e^l)·v with κ(v) at most 2.5; u need not be orthogonal, but well conditioned.

    V = L·Q gives diag(e^l)·V = (diag(e^l)·L·diag(e^-l))·diag(e^l)·Q, and the bracket, lower triangular, holds only ratios
    of a smaller to a larger scale. The rows of V have length 1: with Σ_{i≠j} (v_i·v_j)² ≤ 1/2, their Gram matrix has its
    eigenvalues within 1 ± √½.
    """

    def straighten(u, log_scale, v):
        order = _descending(log_scale)
        log_scale = log_scale[order]
        q, r = _qr(v[order].T)
        dead = log_scale == -jnp.inf
        below = jnp.tri(len(v), k=-1, dtype=bool) & ~dead
        ratio = jnp.exp(jnp.where(below, log_scale[:, None] - jnp.where(dead, 0, log_scale), 0))
        bracket = jnp.where(below, ratio * r.T, jnp.diag(jnp.where(dead, 1, jnp.diagonal(r))))
        return u[:, order] @ bracket, log_scale, q.T

    factors = (product.u, product.log_scale, product.v)
    skew = jnp.sum((product.v @ product.v.T) ** 2) - len(product.v)
    return lax.cond(skew > 0.5, straighten, lambda *factors: factors, *factors)


def _scaled(q, r, log_scale, v):
    """q·r·diag(e^log_scale)·v as a Product, r upper triangular and log_scale descending or nearly so."""
    log_scale = jnp.where(jnp.any(r != 0, axis=0), log_scale, -jnp.inf)
    top = lax.cummax(lax.stop_gradient(log_scale), reverse=True)
    top = jnp.where(top > -jnp.inf, top, 0)
    r = r * jnp.exp(jnp.where(jnp.tri(len(r), dtype=bool).T, log_scale - top[:, None], 0))
    zero = ~jnp.any(r != 0, axis=1)
    rows = jnp.where(zero[:, None], jnp.eye(len(r), dtype=r.dtype), r) @ v
    rows, log_length = _unit(rows)
    return Product(q, jnp.where(zero, -jnp.inf, top + log_length), rows)


def _unit(rows):
    """Each row at length 1, and the logarithms of the lengths; a zero row stays, at -inf."""
    size = jnp.max(jnp.abs(rows), axis=1)
    zero = size == 0
    rows = rows / jnp.where(zero, 1, size)[:, None]
    length = jnp.sqrt(jnp.where(zero, 1, jnp.sum(rows**2, axis=1)))
    return rows / length[:, None], jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, size)) + jnp.log(length))


def _descending(sizes):
    return jnp.argsort(lax.stop_gradient(sizes), descending=True)


def _row_sorted_qr(a):
    order = _descending(jnp.max(jnp.abs(a), axis=1))
    q, r = _qr(a[order])
    return q[jnp.argsort(order)], r


@jax.custom_jvp
def _qr(a):
    return jnp.linalg.qr(a)


@_qr.defjvp
@_exact
def _(primals, tangents):
    # dQ = Q·Ω, Ω skew with the lower triangle of Qᵀ dA R⁻¹. Rows of R that are exactly zero leave the columns of Q
    # there free to turn among themselves; they are held still, where R⁻¹ would give NaN.
    q, r = _qr(*primals)
    (da,) = tangents
    zero = ~jnp.any(r != 0, axis=1)
    x = q.T @ da
    below = jnp.tril(jnp.where(zero, 0, solve_triangular(r + jnp.diag(zero.astype(r.dtype)), x.T, trans=1).T), -1)
    turn = below - below.T
    return (q, r), (q @ turn, jnp.triu(x - turn @ r))


# Composition. B = V₂·U₁ = Σ_k (column k)·(pivot k)·(row k), with pivots chosen, and columns and rows scaled, as complete
# pivoting on diag(e^a)·B·diag(e^b) would: then no entry of the scaled columns and rows exceeds 1.


@jit
@_exact
def _compose(later, earlier):
    (u2, left, v2), (u1, right, v1) = _straight(later), _straight(earlier)
    columns, log_scale, rows = _eliminate(v2 @ u1, left, right)
    return _scaled(*_qr(u2 @ columns), log_scale, rows @ v1)


def _eliminate(b, left, right):
    """diag(e^left)·b·diag(e^right) = columns·diag(±e^log_scale)·rows, the signs put into `rows`."""
    n, limits = len(b), jnp.finfo(b.dtype)
    lowest = -limits.max / 16
    left, right = jnp.maximum(left, lowest), jnp.maximum(right, lowest)
    largest = jnp.log(limits.max) - 1

    def eliminate(carry, _):
        b, row_left, column_left = carry
        weight = jnp.log(jnp.abs(lax.stop_gradient(b))) + left[:, None] + right
        weight = jnp.where(row_left[:, None] & column_left, jnp.maximum(weight, 4 * lowest), -jnp.inf)
        i, j = jnp.divmod(jnp.argmax(weight), n)
        found = weight[i, j] > lowest / 2
        pivot = jnp.where(found, b[i, j], 1)
        at_i, at_j = jnp.arange(n) == i, jnp.arange(n) == j
        column = jnp.where(row_left & found & ~at_i, b[:, j] / pivot, 0)
        row = jnp.where(column_left & found & ~at_j, b[i] / pivot, 0)
        # An entry b that is not 0 has |b|·e^difference ≤ |pivot|, so the cap on the exponent binds only where b = 0.
        scaled_column = column * jnp.exp(jnp.minimum(left - left[i], largest)) + at_i
        scaled_row = row * jnp.exp(jnp.minimum(right - right[j], largest)) + at_j
        log_pivot = jnp.where(found, jnp.log(jnp.abs(pivot)) + left[i] + right[j], -jnp.inf)
        b = b - pivot * jnp.outer(column, row)
        return (b, row_left & ~at_i, column_left & ~at_j), (scaled_column, log_pivot, jnp.sign(pivot) * scaled_row)

    start = (b, jnp.ones(n, bool), jnp.ones(n, bool))
    columns, log_scale, rows = lax.scan(eliminate, start, length=n)[1]
    return columns.T, log_scale, rows


# The methods of Product, for one product; `vectorize` gives them their leading axes.


@jit
@_exact
@functools.partial(jnp.vectorize, signature="(n,n),(n),(n,n)->(n,n)")
def _to_array(u, log_scale, v):
    top = jnp.max(log_scale)
    top = jnp.where(top > -jnp.inf, top, 0)
    entries = (u * jnp.exp(log_scale - top)) @ v
    # In two steps, and never times infinity: 0 stays 0, and e^top may overflow where the entry does not.
    half = jnp.exp(jnp.minimum(top / 2, jnp.log(jnp.finfo(v.dtype).max)))
    return entries * half * half


@jit
@_exact
@functools.partial(jnp.vectorize, signature="(n,n),(n),(n,n),(n)->(n),()")
def _apply(u, log_scale, v, vector):
    y = v @ vector
    top = jnp.max(jnp.where(y != 0, log_scale, -jnp.inf))
    zero = top == -jnp.inf
    top = jnp.where(zero, 0, top)
    image = u @ (y * jnp.exp(jnp.where(y != 0, log_scale - top, 0)))
    size = jnp.where(zero, 1, jnp.max(jnp.abs(image)))
    length = jnp.where(zero, 1, jnp.linalg.norm(jnp.where(zero, 1, image / size)))
    return image / size / length, jnp.where(zero, -jnp.inf, top + jnp.log(size) + jnp.log(length))


@jit
@_exact
@functools.partial(jnp.vectorize, signature="(n),(n,n)->()")
def _log_norm(log_scale, v):
    top = jnp.max(log_scale)
    zero = top == -jnp.inf
    scaled = jnp.exp(log_scale - jnp.where(zero, 0, top))[:, None] * v
    norm = jnp.linalg.svd(jnp.where(zero, jnp.eye(len(v), dtype=v.dtype), scaled), compute_uv=False)[0]
    return jnp.where(zero, -jnp.inf, top + jnp.log(norm))


@jit
@_exact
@functools.partial(jnp.vectorize, signature="(n),(n,n)->()")
def _log_abs_det(log_scale, v):
    return jnp.sum(log_scale) + jnp.linalg.slogdet(v)[1]


@jit
@functools.partial(jnp.vectorize, signature="(n),(n,n)->(n)")
def _log_singular_values(log_scale, v):
    return _log_sigma(log_scale, v)


@jax.custom_jvp
def _log_sigma(log_scale, v):
    return _jacobi(log_scale, v)[0]


@_log_sigma.defjvp
@_exact
def _(primals, tangents):
    # With diag(e^l)·V = Ũ·diag(σ)·Ṽ: d ln σ_k = Σ_i H_ki (dl_i v_i + dv_i)·ṽ_k, where H = Ṽ·V⁻¹ holds ũ_ik e^{l_i}/σ_k.
    (log_scale, v), (dl, dv) = primals, tangents
    log_sigma, vt = _jacobi(log_scale, v)
    live = log_scale > -jnp.inf
    h = jnp.where(live, jnp.linalg.solve(v.T, vt.T).T, 0)
    change = (jnp.where(live, dl, 0)[:, None] * v + dv) @ vt.T
    return log_sigma, jnp.where(log_sigma > -jnp.inf, jnp.sum(h * change.T, axis=1), 0)


def _jacobi(log_scale, v):
    """ln σ and the right singular vectors (as rows) of diag(e^log_scale)·v, descending.

    Two rows of scales e^a ≥ e^b and directions x, y at cosine c are turned in their plane until they are orthogonal.
    With ρ = e^{b-a} the tangent of the angle is ρt, t = 2c / (1 - ρ² + √((1 - ρ²)² + 4ρ²c²)), and the new rows are
    e^a (x + tρ² y) and e^b (y - t x), both over √(1 + t²ρ²): only ρ ≤ 1 is ever formed. Every two rows meet once in a
    sweep, by round robin: the first stays, the others move on one place, and the k-th from the front meets the k-th from
    the back.
    """
    n = len(v)
    half = (n + 1) // 2
    limits = jnp.finfo(v.dtype)
    floor = -limits.max / 16  # stands for -inf, so that differences of scales are never NaN

    def unit(rows, scale):
        rows, log_length = _unit(rows)
        return rows, jnp.maximum(scale + log_length, floor)

    def rotate(_, carry):
        rows, scale, worst = carry
        partner, distance = rows[::-1], -2 * jnp.abs(scale[:half] - scale[::-1][:half])
        c = jnp.sum(rows[:half] * partner[:half], axis=1)
        ratio, gap = jnp.exp(distance), -jnp.expm1(distance)
        under = gap + jnp.sqrt(gap**2 + 4 * ratio * c**2)
        t = jnp.where(under > 0, 2 * c / jnp.where(under > 0, under, 1), 0)
        cosine, t, ratio = (jnp.concatenate([z, z[::-1]]) for z in (lax.rsqrt(1 + t**2 * ratio), t, ratio))
        first = jnp.arange(2 * half) < half
        larger = (scale > scale[::-1]) | ((scale == scale[::-1]) & first)
        rows, scale = unit(cosine[:, None] * (rows + jnp.where(larger, t * ratio, -t)[:, None] * partner), scale)
        rows, scale = (jnp.concatenate([z[:1], jnp.roll(z[1:], 1, axis=0)]) for z in (rows, scale))
        return rows, scale, jnp.maximum(worst, jnp.max(jnp.abs(c)))

    def sweep(carry):
        rows, scale, _, sweeps = carry
        order = jnp.argsort(scale, descending=True)
        start = (rows[order], scale[order], jnp.zeros((), v.dtype))
        return *lax.fori_loop(0, 2 * half - 1, rotate, start), sweeps + 1

    def unfinished(carry):
        return (carry[2] > max(n, 10) * limits.eps) & (carry[3] < _MAX_SWEEPS)

    bye = (0, 2 * half - n)  # an odd number of rows is filled up with a zero row
    rows, scale = unit(jnp.pad(v, (bye, (0, 0))), jnp.pad(jnp.maximum(log_scale, floor), bye))
    rows, scale, _, _ = lax.while_loop(unfinished, sweep, (rows, scale, jnp.array(jnp.inf, v.dtype), 0))
    order = jnp.argsort(scale, descending=True)[:n]
    return jnp.where(scale[order] > floor / 2, scale[order], -jnp.inf), rows[order]
