"""Products of matrices: every log singular value right at any length, against mpmath and closed forms."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics import products
from rnn_dynamics.jacobians import transition

EPS = np.finfo(float).eps


def gaussian(num, n, seed=0):
    return np.random.default_rng(seed).standard_normal((num, n, n))


def orthogonal(num, n, seed=0):
    q, r = np.linalg.qr(gaussian(num, n, seed))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def mpmath_log_singular_values(matrices, digits):
    """ln σ of A_T ··· A_1 from the eigenvalues of its Gram matrix, with digits enough to hold their whole span."""
    with mpmath.workdps(digits):
        product = mpmath.eye(matrices.shape[1])
        for matrix in matrices:
            product = mpmath.matrix(matrix.tolist()) * product
        values = mpmath.eigsy(product.T * product, eigvals_only=True)
        return sorted((float(mpmath.log(value) / 2) if value > 0 else -np.inf for value in values), reverse=True)


def test_400_random_matrices_agree_with_mpmath_in_every_singular_value():
    matrices = gaussian(400, 6)
    # the exponents of a Gaussian 6 × 6 product span 2.6 nats a step: 450 decimal orders, twice that in the Gram matrix
    exact = mpmath_log_singular_values(matrices, 1200)
    found = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    # a rounding of ε κ(A_t) a step, the worst κ of 400 Gaussian matrices near 3000: at the very most 3e-10
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10)


def test_100_000_matrices_of_known_product_span_thousands_of_orders_of_magnitude():
    num, n = 100_000, 4
    generator = np.random.default_rng(1)
    d = np.exp(generator.uniform(-0.3, 0.3, (num, n)) + np.array([0.8, 0.3, -0.2, -0.9]))
    q = orthogonal(num + 1, n, seed=2)
    matrices = q[1:] * d[:, None, :] @ q[:-1].swapaxes(1, 2)  # Q_t D_t Q_{t-1}ᵀ: the product is Q_T (Π D) Q_0ᵀ
    exact = np.log(d).sum(axis=0)
    assert (exact[0] - exact[-1]) / np.log(10) > 70_000
    found = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    # roundings of a few ε κ(A_t) a step, κ < 10, add up like a random walk: far below 1e-8 of 10^5 nats
    np.testing.assert_allclose(found, exact, rtol=1e-11)


def test_a_badly_ordered_triangular_factor_does_not_overflow():
    # [[1/2, 1], [0, 2]]^T = [[2^-T, (2^T - 2^-T)/1.5], [0, 2^T]]: σ₁ = 2^T √(1 + 1/2.25) and det = 1
    for matrix in ([[0.5, 1.0], [0.0, 2.0]], [[2.0, 0.0], [1.0, 0.5]]):
        found = products.from_matrices(jax.device_put(np.tile(matrix, (5000, 1, 1)))).log_singular_values()
        top = 5000 * np.log(2) + np.log(1 + 1 / 2.25) / 2
        np.testing.assert_allclose(found, [top, -top], rtol=1e-12)


def test_a_repeated_jordan_block_keeps_its_polynomial_growth():
    # [[1, 1], [0, 1]]^T = [[1, T], [0, 1]]: σ = (√(T² + 4) ± T)/2, ln σ = ±asinh(T/2)
    for num in (1000, 100_000):
        found = products.from_matrices(jax.device_put(np.tile([[1.0, 1.0], [0.0, 1.0]], (num, 1, 1))))
        np.testing.assert_allclose(
            found.log_singular_values(), np.arcsinh([num / 2, -num / 2]), rtol=0, atol=num * EPS * 4
        )


def test_nearly_equal_exponents_agree_with_mpmath():
    matrices = orthogonal(400, 6, seed=3) + 1e-3 * gaussian(400, 6, seed=4)
    exact = mpmath_log_singular_values(matrices, 60)
    found = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    np.testing.assert_allclose(found, exact, rtol=0, atol=400 * 6 * EPS * 10)


def test_saturated_network_jacobians_agree_with_mpmath():
    # W diag(σ') with slopes down to e^-30: columns of very different size
    generator = np.random.default_rng(5)
    matrices = generator.standard_normal((60, 4, 4)) * np.exp(-generator.uniform(0, 30, (60, 1, 4)))
    exact = mpmath_log_singular_values(matrices, 2500)
    found = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10)


def test_a_network_at_rest_agrees_with_mpmath():
    # one Jacobian repeated: sorted columns then change places at every step, which turns the rows of v parallel unless
    # v is made orthogonal again (without that the second value is wrong by ten nats after a hundred steps)
    generator = np.random.default_rng(109)
    w, x = 3 * generator.standard_normal((6, 6)) / np.sqrt(6), generator.standard_normal(6)
    matrices = []
    for _ in range(120):
        x = w @ np.tanh(x)
        matrices.append(w / np.cosh(x)[:, None] ** 2)
    exact = mpmath_log_singular_values(np.array(matrices[10:]), 700)
    found = products.from_matrices(jax.device_put(np.array(matrices[10:]))).log_singular_values()
    # 110 roundings of ε κ(J), κ = 310 at rest, and ten before it
    np.testing.assert_allclose(found, exact, rtol=0, atol=120 * 310 * EPS * 10)


def test_factors_whose_elimination_is_ill_conditioned_agree_with_mpmath():
    # Unit lower triangular with -1 below: eliminated already, and ‖L⁻¹‖∞ = 2^(n-1), so that QR has to take over.
    n, num = 16, 10
    matrix = np.eye(n) - np.tril(np.ones((n, n)), -1)
    matrices = np.tile(matrix, (num, 1, 1)) + 1e-3 * gaussian(num, n)
    exact = mpmath_log_singular_values(matrices, 250)
    found = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    np.testing.assert_allclose(found, exact, rtol=0, atol=10 * EPS * np.linalg.cond(matrices).sum())


@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
def test_a_multiple_of_orthogonal_matrices_has_equal_singular_values(c):
    found = products.from_matrices(jax.device_put(c * orthogonal(400, 6)))
    np.testing.assert_allclose(found.log_singular_values(), np.full(6, 400 * np.log(c)), rtol=1e-12, atol=1e-11)


def test_what_the_floats_cannot_hold_is_infinite_or_zero_and_never_nan():
    def power(diagonal):
        return products.from_matrices(jax.device_put(np.tile(np.diag(diagonal), (1001, 1, 1)))).to_array()

    np.testing.assert_array_equal(power([5.0, 5.0, 5.0]), np.where(np.eye(3, dtype=bool), np.inf, 0.0))
    np.testing.assert_array_equal(power([-0.1, -0.1, -0.1]), np.zeros((3, 3)))
    np.testing.assert_array_equal(power([-10.0, 0.1, 1.0]), np.diag([-np.inf, 0.0, 1.0]))


def test_a_short_product_written_out_is_the_plain_product():
    matrices = gaussian(5, 6)
    plain = np.linalg.multi_dot(matrices[::-1])
    product = products.from_matrices(jax.device_put(matrices))
    np.testing.assert_allclose(product.to_array(), plain, rtol=0, atol=1e-13 * np.abs(plain).max())
    vector = np.arange(1.0, 7.0)
    direction, log_norm = map(np.asarray, product.apply(jnp.asarray(vector)))
    np.testing.assert_allclose(direction * np.exp(log_norm), plain @ vector, rtol=0, atol=1e-12 * np.abs(plain).max())
    u = np.asarray(product.u)
    np.testing.assert_allclose(u.T @ u, np.eye(6), rtol=0, atol=1e-14)


def test_a_lost_direction_is_minus_infinity_and_leaves_the_others_right():
    # rank 2 of 3, by a zero column, a zero row, and a hidden dependence
    for singular in (np.diag([1.0, 0.0, 2.0]), np.array([[1.0, 2.0, 3.0], [0, 1, 1], [1, 3, 4]])):
        matrices = np.concatenate([gaussian(20, 3, 6), singular[None], gaussian(20, 3, 7)])
        found = products.from_matrices(jax.device_put(matrices))
        exact = mpmath_log_singular_values(matrices, 300)
        logs = np.asarray(found.log_singular_values())
        np.testing.assert_allclose(logs[:2], exact[:2], rtol=0, atol=1e-11)
        assert logs[2] == -np.inf
        assert float(found.log_abs_det()) == -np.inf
        assert np.isfinite(found.log_norm())
        assert np.isfinite(found.to_array()).all()


def test_the_zero_matrix_ends_every_product():
    matrices = gaussian(5, 3)
    matrices[2] = 0.0
    found = products.from_matrices(jax.device_put(matrices))
    assert np.isneginf(found.log_singular_values()).all()
    assert float(found.log_norm()) == -np.inf
    np.testing.assert_array_equal(found.to_array(), np.zeros((3, 3)))
    assert float(found.apply(jnp.ones(3))[1]) == -np.inf


def test_one_dimension_is_the_sum_of_logarithms_with_the_sign():
    numbers = np.random.default_rng(8).uniform(-2, 2, 1000)
    found = products.from_matrices(jax.device_put(numbers[:, None, None]))
    np.testing.assert_allclose(found.log_singular_values(), [np.log(np.abs(numbers)).sum()], rtol=1e-12)
    few = products.from_matrices(jax.device_put(numbers[:3, None, None])).to_array()
    np.testing.assert_allclose(few, [[numbers[:3].prod()]], rtol=1e-14)


def test_no_matrices_give_the_identity():
    found = products.from_matrices(jnp.empty((0, 3, 3)))
    np.testing.assert_array_equal(found.to_array(), np.eye(3))
    assert products.cumulative(jnp.empty((0, 3, 3))).log_scale.shape == (0, 3)


def test_determinant_norm_and_singular_values_agree():
    product = products.from_matrices(jax.device_put(gaussian(400, 6, 9)))
    logs = np.asarray(product.log_singular_values())
    assert (np.diff(logs) <= 0).all()
    assert float(product.log_norm()) == pytest.approx(float(logs[0]), abs=1e-12 * abs(float(logs[0])))
    assert float(product.log_abs_det()) == pytest.approx(float(logs.sum()), abs=1e-10)
    exact = np.linalg.slogdet(gaussian(400, 6, 9))[1].sum()
    assert float(product.log_abs_det()) == pytest.approx(exact, abs=1e-9)


def test_composition_is_the_product_and_associative():
    matrices = gaussian(399, 6, 10)
    whole = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    a, b, c = (products.from_matrices(jax.device_put(part)) for part in np.split(matrices, 3))
    left = products.compose(products.compose(c, b), a).log_singular_values()
    right = products.compose(c, products.compose(b, a)).log_singular_values()
    np.testing.assert_allclose(left, whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(right, whole, rtol=0, atol=1e-9)


def test_composition_with_nothing_and_with_zero():
    product = products.from_matrices(jax.device_put(gaussian(50, 4, 11)))
    logs = product.log_singular_values()
    for composed in (products.compose(product, products.identity(4)), products.compose(products.identity(4), product)):
        np.testing.assert_allclose(composed.log_singular_values(), logs, rtol=0, atol=1e-11)
    zero = products.from_matrices(jnp.zeros((1, 4, 4)))
    assert np.isneginf(products.compose(product, zero).log_singular_values()).all()
    assert np.isneginf(products.compose(zero, product).log_singular_values()).all()


def test_cumulative_holds_every_partial_product():
    matrices = gaussian(41, 3, 12)
    partial = products.cumulative(jax.device_put(matrices))
    logs, log_norms = np.asarray(partial.log_singular_values()), np.asarray(partial.log_norm())
    assert logs.shape == (41, 3)
    for t in (1, 2, 17, 41):
        first = np.where(np.arange(41)[:, None, None] < t, matrices, np.eye(3))
        alone = products.from_matrices(jax.device_put(first))
        np.testing.assert_allclose(logs[t - 1], alone.log_singular_values(), rtol=0, atol=1e-11)
        np.testing.assert_allclose(log_norms[t - 1], alone.log_norm(), rtol=0, atol=1e-11)


def test_scaling_one_factor_adds_its_logarithm_so_the_derivative_along_a_factor_is_one():
    # Σ_ij A_ij ∂ ln σ_k / ∂A_ij = 1 for every factor A and every k, at any length
    matrices = gaussian(300, 4, 18)
    derivative = jax.jit(jax.jacrev(lambda m: products.from_matrices(m).log_singular_values()))(matrices)
    # 300 roundings of ε κ(A_t) that the derivative, up to κ(A_t), multiplies once more: κ² near 10⁶ for the worst
    np.testing.assert_allclose(np.einsum("ktij,tij->kt", derivative, matrices), 1.0, rtol=0, atol=1e-8)


def exact_derivatives(matrices, rank):
    """∂ ln σ_k / ∂A_t = (A_T ··· A_{t+1})ᵀ u_k v_kᵀ (A_{t-1} ··· A_1)ᵀ / σ_k, for the first `rank` singular values."""
    before = [np.eye(matrices.shape[1])]
    for matrix in matrices:
        before.append(matrix @ before[-1])
    u, sigma, vt = np.linalg.svd(before[-1])
    after, result = np.eye(matrices.shape[1]), np.empty((rank, *matrices.shape))
    for t in reversed(range(len(matrices))):
        for k in range(rank):
            result[k, t] = np.outer(after.T @ u[:, k], before[t] @ vt[k]) / sigma[k]
        after = after @ matrices[t]
    return result


# a unit that is off has a zero slope: diag(1, 0, 1, 1, 1) on the left or on the right of the weights
WEIGHTS, OTHER = gaussian(2, 5, 19)
COLUMN, ROW = WEIGHTS * np.array([1.0, 0, 1, 1, 1]), WEIGHTS * np.array([1.0, 1, 0, 1, 1])[:, None]


def test_derivatives_are_right_and_a_lost_direction_leaves_those_of_the_others_right():
    def values(matrices):
        return products.from_matrices(matrices).log_singular_values()

    backward, forward = jax.jit(jax.jacrev(values)), jax.jit(jax.jacfwd(values))
    for factors, rank in (
        ((OTHER, WEIGHTS, OTHER), 5),
        ((OTHER, COLUMN, OTHER), 4),
        ((ROW, OTHER, WEIGHTS), 4),
        ((OTHER, ROW, COLUMN), 3),
        ((COLUMN, COLUMN, ROW), 4),
    ):
        matrices = np.stack(factors)
        exact = exact_derivatives(matrices, rank)
        for derivative in (backward, forward):
            found = np.asarray(derivative(matrices))
            # ε times the condition of each of three factors, below 10⁴ in all, on derivatives of size `exact`
            np.testing.assert_allclose(found[:rank], exact, rtol=0, atol=1e-11 * np.abs(exact).max())
            assert not found[rank:].any()


def test_derivatives_of_a_composition_are_right_or_nan():
    def values(matrices):
        earlier, later = (products.multiply(matrix, products.identity(5)) for matrix in matrices)
        return products.compose(later, earlier).log_singular_values()

    derivative = jax.jit(jax.jacrev(values))
    for factors, rank in (((OTHER, WEIGHTS), 5), ((ROW, OTHER), 4)):  # the earlier may be singular
        matrices = np.stack(factors)
        exact = exact_derivatives(matrices, rank)
        found = np.asarray(derivative(matrices))
        np.testing.assert_allclose(found[:rank], exact, rtol=0, atol=1e-11 * np.abs(exact).max())
    assert np.isnan(derivative(np.stack([OTHER, ROW])))[:4].any(axis=(2, 3)).all()


def test_entries_of_a_product_have_their_derivatives_or_none():
    def entries(matrices, vector):
        product = products.from_matrices(matrices)
        return product.to_array(), product.apply(vector)[0]

    derivative = jax.jit(jax.jacrev(entries, argnums=(0, 1)))
    factors, vector = np.stack([OTHER, WEIGHTS, OTHER]), np.eye(5)[0]
    (whole, _), (turned, by_vector) = derivative(factors, vector)

    def plainly(matrices, vector):
        product = matrices[2] @ matrices[1] @ matrices[0]
        return product, product @ vector / jnp.linalg.norm(product @ vector)

    (exact, _), (exactly_turned, exactly_by_vector) = jax.jit(jax.jacrev(plainly, argnums=(0, 1)))(factors, vector)
    for found, true in ((whole, exact), (turned, exactly_turned), (by_vector, exactly_by_vector)):
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-11 * np.abs(true).max())  # as above
    (whole, _), (turned, by_vector) = derivative(np.stack([OTHER, ROW, OTHER]), vector)
    assert np.isnan(whole).any(axis=(0, 1)).all()  # the change of a zero row is not stored
    assert np.isnan(turned).any(axis=0).all()
    assert np.isfinite(by_vector).all()
    # A vector that has no part in a direction still answers to what it is given of it.
    stretch = products.from_matrices(jax.device_put(np.diag([2.0, 3.0])[None]))
    np.testing.assert_allclose(jax.jit(jax.jacobian(lambda x: stretch.apply(x)[0]))(np.eye(2)[0]), np.diag([0.0, 1.5]))


def test_a_product_prints_in_one_line():
    one = products.from_matrices(jax.device_put(np.diag([2.0, 0.5])[None]))
    assert repr(one) == "Product(2x2, log_scale from 0.693147 to -0.693147)"
    assert repr(jax.tree.map(lambda leaf: leaf[None], one)) == "Product(1x2x2)"
    assert repr(jax.eval_shape(lambda: one)) == "Product(2x2)"


def test_what_is_not_finite_makes_a_product_nan_and_never_zero():
    def norms(matrices):
        return [products.from_matrices(matrices, parallel=parallel).log_norm() for parallel in (False, True)]

    compiled = jax.jit(norms)
    for factor in (np.diag([np.inf, 1.0]), np.full((2, 2), np.inf), np.diag([np.nan, 1.0])):
        assert np.isnan(compiled(np.stack([np.eye(2), factor, np.eye(2)]))).all()
    for square in (lambda x, u: x**2, lambda x, u: 4.5 * x * (1 - x)):
        assert np.isnan(transition(square, jax.device_put(np.array([2.0, 0.5])), num_steps=20).log_norm())


def test_in_parallel_over_time_every_partial_product_is_the_same():
    num = 1203  # two stretches of 602, the last matrix of which is filling; nor do lanes divide them evenly
    factors = gaussian(num, 6, 20)
    matrices = jax.device_put(factors)
    found, one_by_one = products.cumulative(matrices, parallel=True), products.cumulative(matrices)
    ours, theirs = found.log_singular_values(), one_by_one.log_singular_values()
    assert ours.shape == (num, 6)
    # roundings of ε κ(A_t) a step, κ mostly near 10 and below 1e5 in 1,203 matrices
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    third = np.asarray(found.to_array())[2]
    np.testing.assert_allclose(third, factors[2] @ factors[1] @ factors[0], rtol=0, atol=1e-11)


def test_in_parallel_over_time_a_lost_direction_stays_lost_and_nothing_is_the_identity():
    matrices = gaussian(9, 3, 22)
    matrices[4] = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 1.0, 0.0]]
    found = np.asarray(products.from_matrices(jax.device_put(matrices), parallel=True).log_singular_values())
    exact = mpmath_log_singular_values(matrices, 60)[:2]
    np.testing.assert_allclose(found[:2], exact, rtol=0, atol=1e-12)
    assert found[2] == -np.inf
    nothing = products.from_matrices(jnp.zeros((0, 3, 3)), parallel=True)
    np.testing.assert_array_equal(nothing.to_array(), np.eye(3))
    assert products.cumulative(jnp.zeros((0, 3, 3)), parallel=True).log_scale.shape == (0, 3)


@pytest.mark.parametrize("num_cores", [2, 3])
def test_a_stretch_for_each_core_makes_the_same_product(num_cores, monkeypatch):
    monkeypatch.setattr("rnn_dynamics.products.multiplication.num_cores", lambda: num_cores)
    d = np.exp(np.random.default_rng(1).uniform(-2, 2, (101, 4)))
    q = orthogonal(102, 4, seed=2)
    found = products.from_matrices(jax.device_put(q[1:] * d[:, None] @ q[:-1].swapaxes(1, 2)), parallel=True)
    # Roundings of a few ε κ(A_t), κ < e⁴.
    np.testing.assert_allclose(
        found.log_singular_values(), np.sort(np.log(d).sum(0))[::-1], rtol=0, atol=101 * 55 * EPS * 10
    )


TURN, MIRROR = np.array([[0.6, -0.8], [0.8, 0.6]]), np.diag([1.0, -1.0])
LARGEST = {
    "grows": (np.tile(np.diag([0.1, 10.0]), (1000, 1, 1)), 1000 * np.log(10)),
    "turns": (np.tile(3.0 * TURN, (100, 1, 1)), 100 * np.log(3)),
    # What leads after 400 factors is gone after 1,200, and what leads then was e^-921 of it, below the least float.
    "overtaken": (
        np.concatenate([np.tile(np.diag([10.0, 1.0]), (400, 1, 1)), np.tile(np.diag([0.1, 1.0]), (800, 1, 1))]),
        0.0,
    ),
    # [[2⁶⁰, 2⁶⁰], [0, 1]], and then what leaves of it the 1 alone: the halves meet almost at right angles.
    "cancelled": (np.stack([[[1.0, 1.0], [0.0, 1.0]], *60 * [np.diag([2.0, 1])], *61 * [np.diag([2.0**-10, 1])]]), 0.0),
    "beyond the floats at once": (np.tile(np.diag([1e200, 1e-200]), (3, 1, 1)), 600 * np.log(10)),
    "one column lost": (np.tile([[2.0, 0.0], [1.0, 0.0]], (10, 1, 1)), 9 * np.log(2) + np.log(5) / 2),
    "zero": (np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]), -np.inf),
    "nothing": (np.zeros((0, 2, 2)), 0.0),
    "one": (2.0 * MIRROR[None], np.log(2)),
}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_singular_value_alone_has_its_closed_form(name, parallel, monkeypatch):
    monkeypatch.setattr("rnn_dynamics.products.largest.num_cores", lambda: 2)
    matrices, exact = LARGEST[name]
    found = products.log_norm(jax.device_put(matrices), parallel=parallel)
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_alone_is_the_largest_of_all_with_its_derivative(dtype):
    matrices = jnp.asarray(gaussian(300, 5), dtype)
    all_of_them = lambda matrices: products.from_matrices(matrices).log_norm()  # noqa: E731
    exact, eps = all_of_them(jnp.asarray(gaussian(300, 5))), np.finfo(dtype).eps
    for parallel in (False, True):
        found = products.log_norm(matrices, parallel=parallel)
        assert found.dtype == dtype
        # A few ε κ a step, the mean κ of a Gaussian factor about 30: they add up like a random walk.
        np.testing.assert_allclose(found, exact, rtol=0, atol=300**0.5 * 30 * eps * 10)
    if dtype == np.float64:
        np.testing.assert_allclose(jax.grad(products.log_norm)(matrices), jax.grad(all_of_them)(matrices), rtol=1e-12)


def test_singular_vectors_are_the_directions_that_survive_and_those_that_vanish():
    matrices = gaussian(400, 6)
    product = products.from_matrices(jax.device_put(matrices))
    left, right = (np.asarray(vectors) for vectors in product.singular_vectors())
    with mpmath.workdps(800):  # 450 decimal orders between the singular values
        whole = mpmath.eye(6)
        for matrix in matrices:
            whole = mpmath.matrix(matrix.tolist()) * whole
        u, _, vt = mpmath.svd_r(whole)
    u, v = np.array(u.tolist(), dtype=float), np.array(vt.T.tolist(), dtype=float)
    signs = np.sign((u * left).sum(axis=0))
    # ε κ(A) of the first and the last factors, below 100, with everything between at relative distances beyond 10⁶
    np.testing.assert_allclose(left * signs, u, rtol=0, atol=1e-12)
    np.testing.assert_allclose(right * signs, v, rtol=0, atol=1e-12)


def test_singular_vectors_are_orthogonal_and_make_up_the_product_even_where_it_is_singular():
    sequence = gaussian(11, 5, 23)
    sequence[5] = np.diag([1.0, 2.0, 3.0, 0.0, 0.0])
    for matrices, rank in ((sequence, 3), (np.zeros((1, 5, 5)), 0), (orthogonal(3, 5), 5)):
        product = products.from_matrices(jax.device_put(matrices))
        left, right = map(np.asarray, product.singular_vectors())
        for vectors in (left, right):
            np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), rtol=0, atol=50 * EPS)
        logs = np.asarray(product.log_singular_values())
        assert np.isfinite(logs).sum() == rank
        plain = np.eye(5)
        for matrix in matrices:
            plain = matrix @ plain
        # backward stable factor by factor: 11 of norm below 5, which multiply up to 1e4 times the whole
        np.testing.assert_allclose((left * np.exp(logs)) @ right.T, plain, rtol=0, atol=1e-11 * (np.abs(plain).max()))


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e-200), (np.float64, 1e150), (np.float32, 1e-30)])
def test_scaling_every_factor_shifts_every_log_singular_value(dtype, size):
    matrices = gaussian(400, 6, 21).astype(dtype)
    plain = np.asarray(products.from_matrices(jax.device_put(matrices)).log_singular_values())
    scaled = products.from_matrices(jax.device_put(matrices * dtype(size))).log_singular_values()
    # 400 roundings of logarithms up to 400 ln(size), and those of matrices * size through κ(A_t), mostly below 1000
    bound = float(jnp.finfo(dtype).eps) * 400 * (400 * abs(np.log(size)) + 1000)
    np.testing.assert_allclose(scaled, plain + 400 * np.log(size), rtol=0, atol=bound)


def test_nan_met_inside_jit_stays_nan():
    @jax.jit
    def values(matrices):
        product = products.from_matrices(matrices)
        composed = products.compose(product, products.identity(3))
        return product.log_singular_values(), product.log_norm(), product.log_abs_det(), composed.log_singular_values()

    matrices = gaussian(5, 3)
    matrices[2, 1, 1] = np.nan
    for value in values(matrices):
        assert np.isnan(value).all()


def test_jit_and_vmap_change_nothing():
    batch = gaussian(3 * 30, 4, 16).reshape(3, 30, 4, 4)
    together = jax.jit(jax.vmap(lambda m: products.from_matrices(m).log_singular_values()))(batch)
    for matrices, came in zip(batch, np.asarray(together), strict=True):
        alone = products.from_matrices(jax.device_put(matrices)).log_singular_values()
        np.testing.assert_allclose(came, alone, rtol=0, atol=1e-11)


def test_float32_is_right_to_its_own_rounding():
    matrices = gaussian(400, 6, 17)
    exact = products.from_matrices(jax.device_put(matrices)).log_singular_values()
    found = products.from_matrices(jax.device_put(matrices.astype(np.float32))).log_singular_values()
    assert found.dtype == jnp.float32
    # 400 roundings of ε κ(A_t), κ below 10⁴ and mostly near 10
    np.testing.assert_allclose(found, exact, rtol=0, atol=400 * 100 * float(jnp.finfo(jnp.float32).eps))


def test_in_single_precision_the_logarithms_of_a_long_product_are_summed_without_loss():
    # A step's logarithm is right to some eps of itself; its sum, one place of which is 0.004, must lose no more.
    factor, num = np.float32(0.9), 300_000
    exact = num * np.log(np.float64(factor))
    allowed = 4 * np.finfo(np.float32).eps * abs(exact)
    matrices = jnp.full((num, 1, 1), factor)
    np.testing.assert_allclose(products.from_matrices(matrices).log_norm(), exact, rtol=0, atol=allowed)
    orthogonal_ones = jnp.asarray(factor * orthogonal(1, 3)[0], jnp.float32)
    long = products.from_matrices(jnp.broadcast_to(orthogonal_ones, (num // 3, 3, 3)))
    # Rounding makes the three singular values of the factor differ, by some eps, and of its power by that times T.
    exact = num // 3 * np.linalg.slogdet(np.asarray(orthogonal_ones, float))[1]
    np.testing.assert_allclose(np.asarray(long.log_singular_values(), float).sum(), exact, rtol=0, atol=allowed)


@pytest.mark.parametrize(("dtype", "power"), [(jnp.float64, 1023), (jnp.float64, -1022), (jnp.float32, 127)])
def test_factors_at_either_end_of_the_floats_multiply_as_others_do(dtype, power):
    # H² = 2·1 for H = [[1, 1], [1, -1]].
    eps = float(jnp.finfo(dtype).eps)
    matrix = (2.0**power * np.array([[1.0, 1.0], [1.0, -1.0]])).astype(dtype)
    for num in (1, 3):
        product = products.from_matrices(jax.device_put(np.stack([matrix] * num)))
        exact = num * (power + 0.5) * np.log(2)
        np.testing.assert_allclose(product.log_singular_values(), [exact, exact], rtol=8 * eps)
    direction, log_length = products.from_matrices(jax.device_put(matrix[None])).apply(jnp.asarray(matrix[0]))
    np.testing.assert_allclose(direction, [1, 0], atol=8 * eps)
    np.testing.assert_allclose(log_length, (2 * power + 1) * np.log(2), rtol=8 * eps)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: products.from_matrices(np.ones((3, 2, 4))), r"matrices.*\(3, 2, 4\)"),
        (lambda: products.from_matrices(np.ones((3, 3))), r"matrices.*\(3, 3\)"),
        (lambda: products.from_matrices(np.ones((3, 2, 2), int)), "matrices.*int"),
        (lambda: products.from_matrices(np.full((3, 2, 2), np.nan)), "matrices must be finite.*12"),
        (lambda: products.cumulative(np.ones((3, 0, 0))), "at least 1 by 1"),
        (lambda: products.log_norm(np.ones((3, 2, 4))), r"matrices.*\(3, 2, 4\)"),
        (lambda: products.log_norm(np.ones((3, 0, 0))), "at least 1 by 1"),
        (lambda: products.log_norm(np.stack([np.eye(2), np.diag([1, np.nan])])), "matrices must be finite"),
        (lambda: products.log_norm(np.stack([np.eye(2), np.diag([0, np.inf])])), "matrices must be finite"),
        (lambda: products.log_norm(np.ones((3, 2, 2)), parallel=2), "parallel must be of type bool; got int"),
        (lambda: products.cumulative(np.ones((3, 2, 2)), parallel=4), "parallel must be of type bool; got int"),
        (lambda: products.from_matrices(np.ones((3, 2, 2)), parallel=None), "parallel.*NoneType"),
        (lambda: products.identity(0), "n must be.*0"),
        (lambda: products.identity(2, int), "dtype"),
        (lambda: products.identity(2, "foo"), "dtype must be a float type; got 'foo'"),
        (lambda: products.Product(1.0, 2.0, 3.0), r"log_scale.*\(\)"),
        (lambda: products.multiply(np.ones((3, 3)), products.identity(2)), r"matrix.*\(2, 2\).*\(3, 3\)"),
        (lambda: products.compose(products.identity(2), products.identity(3)), "earlier.*2.*3"),
        (lambda: products.compose(products.identity(2), np.eye(2)), "earlier must be a Product"),
        (lambda: products.identity(2).apply(np.ones(3)), r"vector.*\(2,\).*\(3,\)"),
        (lambda: products.Product(np.eye(2), np.zeros(3), np.eye(2)), r"log_scale.*\(3,\)"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
