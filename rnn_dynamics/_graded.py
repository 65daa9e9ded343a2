"""Linear algebra for matrices whose rows or columns differ by more than the floats can span.

Row 0 of the layer table, for `products`: QR and elimination that keep small rows, and the singular values of
diag(e^l)·V by Jacobi rotations that form nothing but ratios of scales. For `lyapunov`: QR and elimination that say what
they lose. For all who eliminate: the rows swapped back.
"""

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "by_rows",
    "descending",
    "eliminate",
    "lengths",
    "log_singular_values",
    "qr",
    "qr_of_product",
    "qr_with_losses",
    "row_sorted_qr",
    "singular_vectors",
    "swapped_back",
    "times_exp",
    "times_power",
    "total",
    "triangle_with_losses",
    "triangles",
    "unit",
]

_SINGULAR = 2e-14  # 90 ε; a random factor comes so near to singular by chance once in 10¹³ steps
_MAX_SWEEPS = 30  # of Jacobi rotations; about ten are the most ever seen


def unit(rows):
    """Each row at length 1, and the logarithms of the lengths; a zero row stays zero, at -inf."""
    size = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1))
    zero = size == 0
    size = jnp.where(zero, 1, size)
    length = jnp.sqrt(jnp.where(zero, 1, jnp.sum((rows / size[:, None]) ** 2, axis=1)))
    return rows / size[:, None] / length[:, None], jnp.where(zero, -jnp.inf, jnp.log(size) + jnp.log(length))


def times_exp(a, exponent):
    """a·e^exponent where that is of moderate size, so that the exponent can be too large only where a = 0."""
    return a * jnp.exp(jnp.minimum(exponent, jnp.log(jnp.finfo(a.dtype).max) - 1))


def times_power(a, exponent):
    """a·2^exponent in two factors, each finite, so that 0 stays 0; `jnp.ldexp` has a wrong derivative at 0."""
    most = jnp.finfo(a.dtype).maxexp - 1
    exponent = jnp.clip(exponent, -2 * most, 2 * most)
    half = exponent // 2
    one = jnp.ones((), a.dtype)
    return a * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def total(so_far, left, more):
    """so_far + left + more, and what its rounding leaves for the next time: of a million summands none is rounded away.

    Knuth (1969), The art of computer programming, vol. 2, section 4.2.2: the error of a sum is a float.
    """
    more = more + left
    new = so_far + more
    back = new - more
    return new, jnp.where(jnp.isfinite(new), (so_far - back) + (more - (new - back)), 0)


def descending(sizes):
    """The order that sorts, and the place of each: comparing all pairs is faster than `argsort` for a few hundred."""
    sizes, index = lax.stop_gradient(jnp.where(jnp.isnan(sizes), jnp.inf, sizes)), jnp.arange(len(sizes))
    place = jnp.sum((sizes > sizes[:, None]) | ((sizes == sizes[:, None]) & (index < index[:, None])), axis=1)
    return jnp.zeros_like(index).at[place].set(index), place


def row_sorted_qr(a):
    """QR with the rows taken in order of size, so that small rows keep their digits."""
    order, place = descending(jnp.max(jnp.abs(a), axis=1))
    q, r = qr(a[order])
    return q[place], r


def by_rows(a):
    """a = q·r with rows of r at their own sizes: r·u keeps them all, where a·u rounds small columns away."""
    order, place = descending(jnp.max(jnp.abs(a), axis=0))
    q, r = row_sorted_qr(a[:, order])
    return q, r[:, place]


def qr_with_losses(a, alone):
    """Q of A = Q R, ln r_ii, what rounding A cost each column over ε r_ii, and the largest ‖column of R‖/r_ii.

    A column counts as lost, ln 0, where rounding could have left its r_ii. If `alone`, A is J times an orthogonal
    matrix, whose rows are as long as those of J: forming it has rounded each in proportion to its length.
    """
    rows = jnp.abs(a).max(axis=1)
    order, place = descending(rows)
    q, *rest = _factor(a[order], rows[order], alone)
    return q[place], *rest


@jax.custom_jvp
def _factor(a, rows, alone):
    return _factor_with_r(a, rows, alone)[1:]


def _factor_with_r(a, rows, alone):
    q, r = jnp.linalg.qr(a)
    return r, q, *_losses(r, jnp.where(alone, rows @ jnp.abs(q), lengths(r)), len(a))


@_factor.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # As of `qr` below, but A may be tall, and columns are lost singly.
    r, *found = _factor_with_r(*primals)
    q, logs, losses, stretch = found
    solved = _over(tangents[0], r, logs)
    x = q.T @ solved
    below = jnp.tril(x, -1)
    change = q @ (below - below.T - x) + solved
    return (q, logs, losses, stretch), (change, jnp.diagonal(x), jnp.zeros_like(losses), jnp.zeros_like(stretch))


def qr_of_product(a, q):
    """`qr_with_losses` of A·Q, Q orthogonal, where columns of A differ in size: A = Q₁ R₁ first, and then R₁ Q.

    A loss in R₁ is one in its rows, and the second QR multiplies it; what R₁ lacks, A lacks.
    """
    order, place = descending(jnp.max(jnp.abs(a), axis=0))
    q1, r1 = row_sorted_qr(a[:, order])
    rounding = jnp.minimum(lengths(r1), jnp.abs(a).max(axis=1) @ jnp.abs(q1))
    _, first, _ = _losses(r1, rounding, len(a))
    q2, logs, second, stretch = qr_with_losses(r1[:, place] @ q, True)
    return q1 @ q2, logs, jnp.where(jnp.isfinite(first), first, 1).max() * second, stretch


@jax.custom_jvp
def triangle_with_losses(a):
    """As `qr_with_losses` by elimination, for a quarter of the work: Pᵀ L of P A = L U, ln |u_ii|, the losses.

    Of each column, (|L||U|)_ii/|u_ii|. Higham (2002), Accuracy and Stability of Numerical Algorithms, theorem 9.3:
    P A + ΔA = L U, |ΔA| ≤ n ε |L| |U|. Summed over rows of U: over those of L it would take four times as long.
    """
    return _eliminate(a)[1:]


def _eliminate(a):
    packed, pivots, order = lax.linalg.lu(a)
    lower = jnp.tril(packed, -1) + jnp.eye(*a.shape, dtype=a.dtype)
    square = packed[: a.shape[1]]
    upper = jnp.triu(square)
    size = jnp.sum(jnp.triu(jnp.abs(square * square.T), 1), axis=0) + jnp.abs(jnp.diagonal(square))
    return (lower, upper, pivots, order), swapped_back(lower, pivots), *_losses(upper, size, len(a))


@triangle_with_losses.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # dA U⁻¹ = dL + L dU U⁻¹, and L⁻¹ dL is below the diagonal, dU U⁻¹ is not.
    (lower, upper, pivots, order), *found = _eliminate(*primals)
    rows, logs, losses, stretch = found
    solved = _over(tangents[0][order], upper, logs)
    x = lax.linalg.triangular_solve(lower[: len(upper)], solved[: len(upper)], left_side=True, lower=True)
    change = swapped_back(solved - lower @ jnp.triu(x), pivots)
    return (rows, logs, losses, stretch), (change, jnp.diagonal(x), jnp.zeros_like(losses), jnp.zeros_like(stretch))


def _over(a, r, logs):
    """A R⁻¹ for derivatives of A's factors: columns that are lost, ln r_ii = -inf, are held still, and 0 here."""
    lost = logs == -jnp.inf
    held = jnp.where(lost[:, None], jnp.eye(len(r), dtype=r.dtype), r)
    return jnp.where(lost, 0, lax.linalg.triangular_solve(held, a))


def _losses(upper, size, n):
    diagonal = jnp.abs(jnp.diagonal(upper))
    lost = diagonal <= n * jnp.finfo(size.dtype).eps * size  # singular to working precision
    kept = jnp.where(lost, 1.0, diagonal)
    return (
        jnp.where(lost, -jnp.inf, jnp.log(kept)),
        jnp.where(lost, jnp.inf, size / kept),
        jnp.where(lost, 1.0, lengths(upper) / kept).max(),
    )


def lengths(a):
    """Of the columns; their scale, the inverse of which is neither 0 nor infinite, is taken out of the squares."""
    scale = jnp.maximum(jnp.abs(a).max(axis=0) / 4, jnp.finfo(a.dtype).tiny)
    return scale * jnp.linalg.norm(a / scale, axis=0)


@jax.custom_jvp
def qr(a):
    """A = Q·R, with exact zeros for the rows of R that rounding alone could have left: A is singular there."""
    q, r = jnp.linalg.qr(a)
    return q, _zeros_exact(r, _sizes(a))


def _zeros_exact(r, sizes):
    return jnp.where(jnp.all(_noise(r, *sizes), axis=1)[:, None], 0, r)


def _sizes(whole):
    return tuple(jnp.max(jnp.abs(whole), axis=axis) for axis in (1, 0))


def _noise(rest, rows, columns):
    """Where what is left of a matrix is within rounding of 0, as its row and its column had been."""
    noise = max(_SINGULAR, jnp.finfo(rest.dtype).eps) * jnp.minimum(rows[:, None], columns)
    return jnp.isfinite(rest) & (jnp.abs(rest) <= noise)


@qr.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # dQ = Q·Ω with Ω skew and the lower triangle of Qᵀ dA R⁻¹. Where R has zero rows, columns of Q may turn among
    # themselves; they are held still, where R⁻¹ would give NaN, and dR keeps a full block there.
    q, r = qr(*primals)
    turn, change = _split(r, q.T @ tangents[0], lambda below: below - below.T)
    return (q, r), (q @ turn, change)


def _split(r, x, whole):
    """N and dR of X = N R + dR: N is whole(strict lower triangle), and dR has none but where R has zero rows."""
    zero = ~jnp.any(r != 0, axis=1)
    solved = lax.linalg.triangular_solve(r + jnp.diag(zero.astype(r.dtype)), x)  # x R⁻¹
    n = whole(jnp.tril(jnp.where(zero, 0, solved), -1))
    kept = jnp.tri(len(r), dtype=bool).T | (zero[:, None] & zero)
    return n, jnp.where(kept, x - n @ r, 0)


@jax.custom_jvp
def triangles(a):
    """A = L·R as `qr`, by elimination, for a third of the work: L is unit lower triangular but for the order of rows.

    No entry of L is above 1, but L need not be well conditioned; the third result is an estimate of ‖L⁻¹‖∞: what L⁻¹
    makes of a vector of generic signs (Cline, Moler, Stewart, Wilkinson 1979).
    """
    lower, upper, order, stretch = _triangles(a)
    return lower[_places(order)], upper, stretch


def _triangles(a):
    index = jnp.arange(len(a))
    signs = jnp.where(jnp.cos(1.0 + index) > 0, 1, -1).astype(a.dtype)[:, None]
    packed, pivots, _ = lax.linalg.lu(jnp.concatenate([a, signs], axis=1))  # a last column, to become L⁻¹ P signs
    packed, solved = packed[:, :-1], packed[:, -1]
    lower, order = jnp.tril(packed, -1) + jnp.eye(len(a), dtype=a.dtype), _order(index.astype(pivots.dtype), pivots)
    rows, columns = _sizes(a)
    return lower, _zeros_exact(jnp.triu(packed), (rows[order], columns)), order, jnp.abs(solved).max()


@triangles.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # X = L⁻¹ P dA = N R + dR, with N = L⁻¹ dL strictly lower. Where R has zero rows all is as for `qr`.
    lower, r, order, stretch = _triangles(*primals)
    x = lax.linalg.triangular_solve(lower, tangents[0][order], left_side=True, lower=True, unit_diagonal=True)
    n, change = _split(r, x, lambda below: below)
    place = _places(order)
    return (lower[place], r, stretch), ((lower @ n)[place], change, jnp.zeros_like(stretch))


def swapped_back(rows, pivots):
    """Pᵀ rows, for the row swaps P that LAPACK's elimination says it made.

    `lax.linalg.lu` has P too, left out by XLA where unused: its loop takes half as long as the elimination itself.
    """
    return rows[_places(_order(jnp.arange(len(rows), dtype=pivots.dtype), pivots))]


def _order(order, pivots):
    def swap(i, order):
        first, second = order[i], order[pivots[i]]
        order = lax.dynamic_update_index_in_dim(order, second, i, 0)
        return lax.dynamic_update_index_in_dim(order, first, pivots[i], 0)

    return lax.fori_loop(0, len(pivots), swap, order)


def _places(order):
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))


def eliminate(b, left, right):
    """diag(e^left)·b·diag(e^right) = columns·diag(e^log_scale)·rows, no entry of either above 1 in size."""
    n = len(b)
    lowest = -jnp.finfo(b.dtype).max / 16  # stands for -inf, so that differences are never NaN
    left, right = jnp.maximum(left, lowest), jnp.maximum(right, lowest)

    def eliminate(carry, _):
        b, row_free, column_free = carry
        weight = jnp.log(jnp.abs(lax.stop_gradient(b))) + left[:, None] + right
        weight = jnp.where(row_free[:, None] & column_free, jnp.maximum(weight, 4 * lowest), -jnp.inf)
        i, j = jnp.divmod(jnp.argmax(weight), n)
        zero = weight[i, j] < lowest / 2
        pivot = jnp.where(zero, 1, b[i, j])
        at_i, at_j = jnp.arange(n) == i, jnp.arange(n) == j
        row_free, column_free = row_free & ~at_i, column_free & ~at_j
        column = jnp.where(row_free & ~zero, b[:, j] / pivot, 0)
        row = jnp.where(column_free & ~zero, b[i] / pivot, 0)
        log_pivot = jnp.where(zero, -jnp.inf, jnp.log(jnp.abs(pivot)) + left[i] + right[j])
        signed_row = jnp.sign(pivot) * (times_exp(row, right - right[j]) + at_j)
        b = b - pivot * jnp.outer(column, row)
        b = jnp.where(_noise(b, *sizes), 0, b)
        return (b, row_free, column_free), (times_exp(column, left - left[i]) + at_i, log_pivot, signed_row)

    sizes, free = _sizes(b), jnp.ones(n, bool)
    columns, log_scale, rows = lax.scan(eliminate, (b, free, free), length=n)[1]
    return columns.T, log_scale, rows


def singular_vectors(log_scale, v):
    """U and V, orthogonal, of diag(e^log_scale)·v = U·diag(σ)·Vᵀ, in the order of `log_singular_values`."""
    log_sigma, vt = _jacobi(log_scale, v)
    left, distance = _left(log_scale, v, log_sigma, vt)
    return _completed((jnp.exp(-jnp.abs(distance)) * left).T, log_sigma), _completed(vt.T, log_sigma)


def _left(log_scale, v, log_sigma, vt):
    """ũ_ik times σ_k/e^{l_i} or e^{l_i}/σ_k, whichever is the larger, and the distance l_i - ln σ_k of the two.

    Row k of Ṽ·V⁻¹ holds ũ_ik e^{l_i}/σ_k. Where e^{l_i} < σ_k it would be rounded away; there v_i·ṽ_k is
    ũ_ik σ_k/e^{l_i} to full accuracy.
    """
    distance = log_scale - jnp.where(log_sigma == -jnp.inf, 0, log_sigma)[:, None]
    return jnp.where(distance < 0, vt @ v.T, jnp.linalg.solve(v.T, vt.T).T), distance


def _completed(columns, log_sigma):
    """The columns, orthogonal already, with an orthonormal basis of the rest where σ = 0."""
    live = log_sigma > -jnp.inf
    q, r = jnp.linalg.qr(jnp.where(live, columns, 0))
    return q * jnp.where(live & (jnp.diagonal(r) < 0), -1, 1)


@jax.custom_jvp
def log_singular_values(log_scale, v):
    """ln σ of diag(e^log_scale)·v, descending; differentiable where the singular values are distinct."""
    return _jacobi(log_scale, v)[0]


@log_singular_values.defjvp
@jax.default_matmul_precision("highest")
def _(primals, tangents):
    # diag(e^l)·V = Ũ·diag(σ)·Ṽ: d ln σ_k = Σ_i H_ki (dl_i v_i + dv_i)·ṽ_k, and H = Ṽ·V⁻¹ holds ũ_ik e^{l_i}/σ_k.
    (log_scale, v), (dl, dv) = primals, tangents
    log_sigma, vt = _jacobi(log_scale, v)
    live = log_scale > -jnp.inf
    h, distance = _left(log_scale, v, log_sigma, vt)
    h = jnp.where(live, jnp.exp(2 * jnp.minimum(distance, 0)) * h, 0)
    change = (jnp.where(live, dl, 0)[:, None] * v + dv) @ vt.T
    return log_sigma, jnp.where(log_sigma > -jnp.inf, jnp.sum(h * change.T, axis=1), 0)


def _jacobi(log_scale, v):
    """ln σ, descending, and the right singular vectors, as rows, of diag(e^log_scale)·v.

    Two rows e^a·x and e^b·y, a ≥ b, whose directions have cosine c, are made orthogonal by a turn in their plane. With
    ρ = e^{b-a} and t = 2c / (1 - ρ² + √((1 - ρ²)² + 4ρ²c²)) they become e^a (x + tρ² y) and e^b (y - t x), both over
    √(1 + t²ρ²): only the ratio ρ ≤ 1 is ever formed. In one sweep every two rows meet, k-th from the front with k-th
    from the back; after each round all but the first move on by one place.
    """
    n, noise = len(v), max(len(v), 10) * jnp.finfo(v.dtype).eps
    floor = -jnp.finfo(v.dtype).max / 16  # stands for -inf, so that differences are never NaN
    bye = (0, n % 2)  # an odd number of rows is filled up with a zero row
    front = jnp.arange(n + n % 2) < (n + 1) // 2

    def rotate(_, carry):
        rows, scale, worst = carry
        partner, other = rows[::-1], scale[::-1]
        c, distance = jnp.sum(rows * partner, axis=1), -2 * jnp.abs(scale - other)
        ratio, gap = jnp.exp(distance), -jnp.expm1(distance)
        under = gap + jnp.sqrt(gap**2 + 4 * ratio * c**2)
        t = 2 * c / jnp.where(under == 0, 1, under)
        larger = jnp.where(scale == other, front, scale > other)
        turned = rows + jnp.where(larger, t * ratio, -t)[:, None] * partner
        rows, log_length = unit(turned / jnp.sqrt(1 + t**2 * ratio)[:, None])
        scale = jnp.where(log_length < jnp.log(noise), floor, scale + log_length)
        rows, scale = (jnp.concatenate([z[:1], jnp.roll(z[1:], 1, axis=0)]) for z in (rows, scale))
        return rows, scale, jnp.maximum(worst, jnp.max(jnp.abs(c)))

    def sweep(carry):
        rows, scale, _, sweeps = carry
        order, _ = descending(scale)
        start = (rows[order], scale[order], jnp.zeros((), v.dtype))
        return *lax.fori_loop(0, len(rows) - 1, rotate, start), sweeps + 1

    def unfinished(carry):
        return (carry[2] > noise) & (carry[3] < _MAX_SWEEPS)

    rows, log_length = unit(jnp.pad(v, (bye, (0, 0))))
    scale = jnp.maximum(jnp.pad(log_scale, bye) + log_length, floor)
    rows, scale, _, _ = lax.while_loop(unfinished, sweep, (rows, scale, jnp.array(jnp.inf, v.dtype), 0))
    order = descending(scale)[0][:n]
    return jnp.where(scale[order] < floor / 2, -jnp.inf, scale[order]), rows[order]
