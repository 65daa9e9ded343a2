import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics.activations import Activation, identity, sigmoid, tanh
from rnn_dynamics.bounds import Bounds, joint_spectral_radius, network_bounds, spectral_norm, spectral_radius
from tests import reference

EPS = 2.0**-52
RNG = np.random.default_rng(0)
DENSE = RNG.standard_normal((6, 5, 5))
SPARSE = DENSE * (RNG.random((6, 5, 5)) < 0.6)
SMALL = RNG.standard_normal((20, 2, 2))
SWITCHED = np.array([[1.2, 2.0], [-0.8, -1.2]])  # eigenvalues ±0.4i, yet the first unit alone grows by 1.2 a step
MINIMUM = 1e-11
"""Relative error of the scaled norm: 1/t of about 2ε/0.1 times the number of singular values that meet at the minimum,
and rounding of n·ε in the norm; ten times that for the size of the constants."""


def bounds(*matrices, activation=tanh):
    """The bounds of several matrices, as `vmap` would return them."""
    found = [network_bounds(jax.device_put(np.asarray(w)), activation) for w in matrices]
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *found)


def radius(w):
    return np.abs(np.linalg.eigvals(w)).max()


def norm(w):
    return np.linalg.norm(w, 2)


def rescaled(w, d):
    return w * d[..., :, None] / d[..., None, :]


# Spectral radius and norm


def test_powers_follow_the_radius_and_outgrow_it_on_the_way():
    w = jnp.array([[0.0, 2.0], [reference.NON_NORMAL["epsilon"], 0.0]])
    np.testing.assert_allclose(spectral_radius(w), reference.NON_NORMAL["radius"], rtol=1e-14)  # 15 digits are printed
    came = [spectral_norm(jnp.linalg.matrix_power(w, k)) for k in range(1, 6)]
    np.testing.assert_allclose(came, reference.NON_NORMAL["norms"], rtol=16 * EPS)


def test_the_radius_and_norm_of_a_normal_matrix_are_those_of_its_eigenvalues():
    rotation = jnp.array([[0.6, -0.8], [0.8, 0.6]])
    for w, expected in ((3 * rotation, 3.0), (jnp.diag(jnp.array([0.5, -2.0])), 2.0), (jnp.zeros((2, 2)), 0.0)):
        np.testing.assert_allclose([spectral_radius(w), spectral_norm(w)], expected, rtol=8 * EPS)


def test_the_radius_does_not_depend_on_the_units_even_where_the_entries_leave_the_precision():
    # LAPACK alone loses this one: entries from 1e-150 to 1e150 hide a matrix whose radius is that of its core.
    scale = np.exp(170 * np.array([1.0, -1.0, 0.3, -0.4, 0.1]))
    w = rescaled(DENSE[0], scale)
    assert np.abs(w).max() > 1e140
    # Scaling rounds each entry by 4ε; an eigenvalue moves by that times its condition, here below 10, and n.
    np.testing.assert_allclose(spectral_radius(jnp.asarray(w)), radius(DENSE[0]), rtol=400 * EPS)


def test_the_radius_of_a_nilpotent_matrix_is_zero():
    assert spectral_radius(jnp.triu(jnp.ones((5, 5)), 1)) == 0


def test_derivatives_of_radius_and_norm_are_outer_products_of_eigenvectors():
    # d|λ| = Re(λ̄/|λ| yᴴ dW x)/yᴴx, dσ = uᵀ dW v, with NumPy's vectors; conditions below 20, n = 5.
    for w in DENSE:
        values, x = np.linalg.eig(w)
        top = np.argmax(np.abs(values))
        row = np.linalg.inv(x)[top]
        expected = np.real(np.conj(values[top]) / np.abs(values[top]) * np.outer(row, x[:, top]))
        np.testing.assert_allclose(jax.grad(spectral_radius)(jnp.asarray(w)), expected, atol=1e3 * EPS)
        u, _, vt = np.linalg.svd(w)
        np.testing.assert_allclose(jax.grad(spectral_norm)(jnp.asarray(w)), np.outer(u[:, 0], vt[0]), atol=1e3 * EPS)


def test_the_radius_has_its_derivative_though_other_eigenvalues_are_defective():
    w = jnp.zeros((5, 5)).at[0, 0].set(2.0).at[1, 2].set(1.0).at[2, 3].set(1.0)
    np.testing.assert_allclose(jax.grad(spectral_radius)(w), np.eye(5)[:, :1] * np.eye(5)[0], atol=8 * EPS)


def test_forward_and_reverse_mode_agree_and_derivatives_at_the_zero_matrix_are_finite():
    w, zero = jnp.asarray(DENSE[0]), jnp.zeros((5, 5))
    for function in (spectral_radius, spectral_norm):
        np.testing.assert_allclose(jax.jacfwd(function)(w), jax.grad(function)(w), atol=64 * EPS)
        assert jnp.isfinite(jax.grad(function)(zero)).all()


# The least norm over diagonal scalings


def test_in_two_dimensions_the_least_norm_is_the_closed_form():
    # DWD⁻¹ keeps a, d and bc; the norm grows with |b|² + |c|², which is least at 2|bc|:
    # σ² = (F + √(F² - 4 det²))/2, F = a² + d² + 2|bc|.
    with mpmath.workdps(40):
        expected = []
        for w in SMALL:
            a, b, c, d = (mpmath.mpf(float(entry)) for entry in w.ravel())
            total, det = a**2 + d**2 + 2 * abs(b * c), a * d - b * c
            expected.append(float(mpmath.sqrt((total + mpmath.sqrt(total**2 - 4 * det**2)) / 2)))
    np.testing.assert_allclose(bounds(*SMALL).scaled_norm, expected, rtol=MINIMUM)


def dual_bound(m):
    """A proof that no D does better: diag(MZMᵀ) ≥ η² diag Z for one Z ⪰ 0 gives ‖DMD⁻¹‖₂ ≥ η for every D.

    For ‖DMD⁻¹‖ < η would mean tr D²MZMᵀ < η² tr D²Z. Z is sought among the combinations of the top singular vectors.
    """
    u, s, vt = np.linalg.svd(m)
    count = (s > s[0] * (1 - 1e-6)).sum()
    pairs = [(i, j) for i in range(count) for j in range(i, count)]

    def products(vectors):
        return np.stack([(1 + (i != j)) * vectors[:, i] * vectors[:, j] for i, j in pairs], axis=1)

    rows = np.vstack([products(u) - products(vt.T), [[float(i == j) for i, j in pairs]]])
    weights = np.linalg.lstsq(rows, np.eye(len(rows))[-1])[0]
    q = np.zeros((count, count))
    for (i, j), weight in zip(pairs, weights, strict=True):
        q[i, j] = q[j, i] = weight
    values, vectors = np.linalg.eigh(q)
    root = vt[:count].T @ (vectors * np.sqrt(np.maximum(values, 0)))
    return np.sqrt(np.min(((m @ root) ** 2).sum(1) / (root**2).sum(1)))


def test_no_scaling_does_better_by_a_dual_certificate():
    # A minimiser wrong by δ costs the norm δ² and the certificate δ: δ = √MINIMUM.
    found = bounds(*DENSE)
    for w, d, least in zip(DENSE, found.scaling, found.scaled_norm, strict=True):
        assert dual_bound(rescaled(w, np.asarray(d))) >= float(least) * (1 - np.sqrt(MINIMUM))
    (w,) = wide = np.random.default_rng(1).standard_normal((1, 40, 40))
    found = bounds(*wide)
    assert dual_bound(rescaled(w, np.asarray(found.scaling[0]))) >= float(found.scaled_norm[0]) * (1 - 1e-8)


def test_the_norm_reported_is_that_of_the_scaling_reported():
    matrices = [*DENSE, *SPARSE, np.triu(DENSE[0]), np.triu(DENSE[0], 1), np.zeros((5, 5))]
    found = bounds(*matrices)
    came = [norm(rescaled(w, np.asarray(d))) for w, d in zip(matrices, found.scaling, strict=True)]
    np.testing.assert_allclose(found.scaled_norm, came, rtol=32 * EPS, atol=0)
    np.testing.assert_allclose(np.log(found.scaling).sum(-1), 0, atol=1e3 * EPS)  # sums of logarithms up to 355


def test_of_nonnegative_weights_the_least_norm_is_perrons_root():
    matrices = np.abs([*DENSE, *SPARSE[:2], np.ones((5, 5)), np.roll(np.diag(DENSE[0, 0]), 1, axis=0)])
    found = bounds(*matrices)
    np.testing.assert_allclose(found.perron, [radius(w) for w in matrices], rtol=1e3 * EPS)
    np.testing.assert_allclose(found.scaled_norm, found.perron, rtol=MINIMUM)


def test_weights_of_very_different_sizes_reach_the_minimum():
    # Irreducible W: the least norm is at most ρ(|W|). Here one cycle of two large weights, √(80000·2.2) = 419.5, rules,
    # and the two are the same to six digits. Entries that span twelve decades flatten φ_t, and cost three digits.
    uneven = np.array(
        [[1e-3, 2e-3, 5e-2, -8e4], [4e-2, -0.2, -6e-4, 2e-4], [3e-3, 2.3, -1e-2, -3e-3], [2.2, -2e-5, -9e2, -1e-5]]
    )
    found = bounds(uneven)
    assert np.sqrt(8e4 * 2.2) * (1 - 1e-6) <= found.scaled_norm[0] <= found.perron[0] * (1 + MINIMUM)
    rng = np.random.default_rng(3)
    found = bounds(*(rng.standard_normal((30, 5, 5)) * 10.0 ** rng.uniform(-6, 6, (30, 5, 5))))
    assert (found.spectral_radius <= found.scaled_norm * (1 + 1e-9)).all()
    assert (found.scaled_norm <= found.perron * (1 + 1e-8)).all()


def test_of_normal_weights_the_least_norm_is_the_norm():
    orthogonal = np.linalg.qr(DENSE[0])[0]
    circulant = np.stack([np.roll(DENSE[0, 0], k) for k in range(5)])
    for w in (DENSE[0] + DENSE[0].T, DENSE[0] - DENSE[0].T, 0.7 * orthogonal, circulant, np.eye(5)):
        found = bounds(w)
        np.testing.assert_allclose(found.scaled_norm[0], norm(w), rtol=16 * EPS)
        np.testing.assert_allclose(found.spectral_radius[0], norm(w), rtol=64 * EPS)


def test_of_rank_one_weights_the_least_norm_is_the_sum_of_the_products():
    u, v = DENSE[0, :2]  # ‖Du‖‖D⁻¹v‖ ≥ Σ|u_i v_i| (Cauchy), attained
    found = bounds(np.outer(u, v))
    np.testing.assert_allclose([found.scaled_norm[0], found.perron[0]], np.abs(u * v).sum(), rtol=MINIMUM)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_units_of_the_state_do_not_matter(spread):
    d = np.exp(spread * np.array([1.0, -1.0, 0.3, -0.4, 0.1]))
    order = [2, 0, 4, 1, 3]
    plain = bounds(*DENSE)
    for changed in (rescaled(DENSE, d), DENSE[:, order][:, :, order], np.swapaxes(DENSE, 1, 2), -DENSE):
        found = bounds(*changed)
        np.testing.assert_allclose(found.scaled_norm, plain.scaled_norm, rtol=MINIMUM)
        np.testing.assert_allclose(found.perron, plain.perron, rtol=1e3 * EPS)
        np.testing.assert_allclose(found.spectral_radius, plain.spectral_radius, rtol=4e3 * EPS)  # condition below 40


def test_every_bound_is_homogeneous_over_the_range_of_floats():
    for scale in (1e-150, 1e150):
        found, plain = bounds(*(scale * DENSE)), bounds(*DENSE)
        for name in ("spectral_norm", "spectral_radius", "perron", "scaled_norm", "rate"):
            came, expected = getattr(found, name), getattr(plain, name)
            np.testing.assert_allclose(came / scale, expected, rtol=MINIMUM)


def test_the_bounds_stand_in_order():
    for matrices in (DENSE, SPARSE, SMALL):
        found = bounds(*matrices)
        assert (found.spectral_radius <= found.scaled_norm * (1 + 100 * EPS)).all()
        assert (found.scaled_norm <= found.spectral_norm).all()
        np.testing.assert_array_equal(
            found.rate, np.minimum(np.minimum(found.scaled_norm, found.spectral_norm), found.perron)
        )
    found = bounds(*DENSE)
    assert (found.scaled_norm <= found.perron * (1 + MINIMUM)).all()


def test_without_cycles_everything_vanishes_and_nothing_overflows():
    found = bounds(np.triu(DENSE[0], 1), np.zeros((5, 5)), np.eye(5, k=-1))
    np.testing.assert_array_equal(found.perron, 0)
    np.testing.assert_array_equal(found.rate, 0)
    np.testing.assert_array_equal(found.spectral_radius, 0)
    assert (found.scaled_norm <= 8 * EPS).all()  # ε per level
    assert jnp.isfinite(found.scaling).all()
    assert found.verdict.tolist() == ["vanishes"] * 3


def test_of_triangular_weights_every_rate_is_the_largest_on_the_diagonal():
    w = np.tril(DENSE[0])
    found = bounds(w)
    largest = np.abs(np.diag(w)).max()
    # ε per level of what lies outside, which is below 10
    np.testing.assert_allclose([found.perron[0], found.scaled_norm[0]], largest, rtol=1e3 * EPS)


def test_groups_of_units_that_talk_one_way_are_as_if_alone():
    a, b = SMALL[0], SMALL[1]
    joined = np.block([[a, 100 * SMALL[2]], [np.zeros((2, 2)), b]])
    joined = np.block([[joined, np.zeros((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    found, alone = bounds(joined), bounds(a, b)
    np.testing.assert_allclose(found.scaled_norm[0], alone.scaled_norm.max(), rtol=MINIMUM)
    np.testing.assert_allclose(found.perron[0], alone.perron.max(), rtol=100 * EPS)


def test_one_unit_has_its_weight():
    for w in (-3.0, 0.0, 0.5):
        found = network_bounds(jnp.array([[w]]), sigmoid)
        for name in ("spectral_norm", "spectral_radius", "perron", "scaled_norm"):
            np.testing.assert_allclose(getattr(found, name), abs(w), rtol=2 * EPS)
        np.testing.assert_allclose(found.rate, abs(w) / 4, rtol=2 * EPS)
        assert found.scaling == 1


# What the bounds certify


def test_every_product_of_jacobians_obeys_every_bound():
    for matrices, activation in ((DENSE, sigmoid), (SPARSE, tanh)):
        found = bounds(*matrices, activation=activation)
        gamma = activation.slope
        for i, w in enumerate(matrices):
            kappa = float(found.scaling[i].max() / found.scaling[i].min())
            for length, after in itertools.product((1, 2, 7, 40), (False, True)):
                product = np.eye(5)
                for _ in range(length):
                    # Slopes at random, and on or off at random: the corners are the worst.
                    d = gamma * RNG.random(5) if RNG.random() < 0.5 else gamma * (RNG.random(5) < 0.7)
                    product = (d[:, None] * w if after else w * d) @ product
                slack = 1 + 20 * length * EPS * 5  # rounding of `length` products of 5×5 matrices, relative to |W|^T
                assert norm(product) <= (gamma * float(found.spectral_norm[i])) ** length * slack
                assert norm(product) <= kappa * (gamma * float(found.scaled_norm[i])) ** length * slack
                entries = gamma**length * np.linalg.matrix_power(np.abs(w), length)
                assert (np.abs(product) <= entries * slack).all()


def test_perrons_vector_bounds_the_infinity_norm_of_products():
    w = DENSE[0]
    values, vectors = np.linalg.eig(np.abs(w))
    x = np.abs(vectors[:, np.argmax(values.real)].real)
    perron = float(bounds(w).perron[0])
    product = np.eye(5)
    for length in range(1, 30):
        product = w * (RNG.random(5) < 0.8) @ product
        assert np.linalg.norm(product, np.inf) <= x.max() / x.min() * perron**length * (1 + 100 * length * EPS)


def test_a_sigmoid_network_vanishes_below_a_norm_of_four():
    w = np.array([*DENSE]) / np.linalg.norm(DENSE, 2, (1, 2))[:, None, None]
    assert bounds(*(3.999999 * w), activation=sigmoid).verdict.tolist() == ["vanishes"] * 6
    # Pascanu's condition is sufficient, not necessary: for these matrices the scaled norm proves it beyond 4.
    assert bounds(*(4.01 * w), activation=sigmoid).verdict.tolist() == ["vanishes"] * 6


def test_orthogonal_weights_decide_at_the_inverse_slope_and_rounding_proves_nothing():
    for w in (np.linalg.qr(DENSE[k])[0] for k in range(3)):
        for activation, critical in ((tanh, 1.0), (sigmoid, 4.0)):
            factors = critical * np.array([1 - 1e-12, 1.0, 1 + 1e-12])
            came = bounds(*(factors[:, None, None] * w), activation=activation)
            assert came.verdict.tolist() == ["vanishes", "may explode", "may explode"]


def test_small_weights_vanish_as_hochreiter_says():
    # |w_ij| ≤ w_max < 4/n: the rate is at most n w_max/4 < 1 (Hochreiter et al. 2001, for the logistic function).
    largest = 3.99 / 5
    found = bounds(*np.clip(10 * DENSE, -largest, largest), activation=sigmoid)
    assert (found.rate <= 5 * largest / 4).all()
    assert found.verdict.tolist() == ["vanishes"] * 6


def test_a_spectral_radius_below_one_certifies_nothing():
    found = network_bounds(jnp.asarray(SWITCHED), tanh)
    np.testing.assert_allclose(found.spectral_radius, 0.4, rtol=64 * EPS)  # ±0.4i from entries up to 2: condition 7
    np.testing.assert_allclose(found.rate, 1.2 + np.sqrt(1.6), rtol=MINIMUM)  # |W| has (1.2, √1.6; √1.6, 1.2) inside
    assert found.verdict == "may explode"


def test_only_the_slope_of_the_activation_counts():
    half = Activation("half", lambda z: z / 2, slope=0.5, curvature=0.0)
    w = jnp.asarray(SMALL[0])
    np.testing.assert_allclose(network_bounds(w, half).rate, network_bounds(w, identity).rate / 2, rtol=2 * EPS)
    flat = Activation("flat", jnp.zeros_like, slope=0.0, curvature=0.0)
    assert network_bounds(w, flat).verdict == "vanishes"


# Inside transformations, in single precision, printed


def test_batches_and_compilation_change_nothing():
    together, vanishes = jax.jit(jax.vmap(lambda w: (found := network_bounds(w, sigmoid), found.vanishes)))(DENSE)
    for i, w in enumerate(DENSE):
        alone = network_bounds(jnp.asarray(w), sigmoid)
        for name in ("slope", "spectral_norm", "spectral_radius", "perron", "scaled_norm", "rate"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name), rtol=MINIMUM)
        assert (alone.verdict == "vanishes") == (together.verdict[i] == "vanishes") == bool(vanishes[i])


@pytest.mark.parametrize(("corner", "dtype"), [(3e-19, float), (1e-8, float), (1.1e-8, np.float32), (1e-5, np.float32)])
def test_what_grows_is_not_certified_however_ill_conditioned_its_radius(corner, dtype):
    # A chain of 12 units closed by one weak connection: the radius moves by 1e-2 where the weights move by rounding.
    eps = np.finfo(dtype).eps
    for seed in range(2):
        w = np.triu(np.random.default_rng(seed).random((12, 12)), 1) + 0.8 * np.eye(12)
        w[-1, 0] = corner
        close = float(network_bounds(jax.device_put(w), identity).perron)
        grows = np.asarray(w / close * 1.0001, dtype)
        with mpmath.workdps(60):
            root = max(abs(value) for value in mpmath.eig(mpmath.matrix(grows.tolist()), left=False, right=False))
        assert root > 1.00009
        found = network_bounds(jax.device_put(grows), identity)
        # Products of positive numbers, 13 roundings; the iteration's shift is 2nε above the bound.
        assert root * (1 - 14 * eps) <= float(found.perron) <= root * (1 + 40 * eps)
        assert float(found.rate) >= root * (1 - 14 * eps)
        assert not found.vanishes


def test_the_derivative_of_the_rate_is_that_of_the_minimum():
    # Along a random direction the central difference is off by h² f''' and MINIMUM/h, together below 1e-6 at h = 1e-5;
    # the derivative itself by 1/t and ε·t at t = 10/√ε, 1e-7, both times a condition of up to ten.
    slope = jax.jit(jax.grad(lambda w: network_bounds(w, sigmoid).rate))
    h, direction = 1e-5, RNG.standard_normal((5, 5))
    for matrices in (DENSE, np.abs(DENSE), SPARSE):
        along = direction * (matrices != 0)
        steps = [bounds(*(matrices + sign * h * along), activation=sigmoid).rate for sign in (1, -1)]
        came = np.stack([slope(jnp.asarray(w)) for w in matrices])
        np.testing.assert_allclose((came * along).sum((1, 2)), (steps[0] - steps[1]) / (2 * h), atol=1e-5)
        # The rate is homogeneous of degree one: Σ W ∂rate/∂W = rate (Euler), exactly so on the central path.
        rate = bounds(*matrices, activation=sigmoid).rate
        np.testing.assert_allclose((came * matrices).sum((1, 2)), rate, rtol=1e-9)
    for flat in (np.zeros((5, 5)), np.triu(DENSE[0], 1), np.eye(5)):
        assert jnp.isfinite(slope(jnp.asarray(flat))).all()


def test_second_derivatives_of_the_rate_are_not_made_up():
    hessian = jax.jacfwd(jax.grad(lambda w: network_bounds(w, tanh).scaled_norm))(jnp.asarray(SMALL[0]))
    assert jnp.isnan(hessian).all()


def test_single_precision_stays_single_and_close():
    # At t = 0.1/ε in single precision the minimum is 10 n ε away, 6e-6, and as much again is rounding.
    w = DENSE.astype(np.float32)
    found, exact = bounds(*w), bounds(*w.astype(float))
    for name in ("spectral_norm", "spectral_radius", "perron", "scaled_norm", "rate"):
        assert getattr(found, name).dtype == jnp.float32
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=2e-5)
    assert network_bounds(jnp.eye(5, dtype=jnp.float32), tanh).verdict == "may explode"
    assert spectral_radius(jnp.asarray(w[0])).dtype == spectral_norm(jnp.asarray(w[0])).dtype == jnp.float32


def test_bounds_print_in_one_line():
    found = network_bounds(jnp.asarray(SWITCHED), tanh)
    assert str(found) == repr(found)
    assert str(found).startswith("Bounds(may explode: rate 2.46491 = 1 × least of norm 2.74164, scaled norm 2.46491")
    assert str(bounds(*DENSE)) == "Bounds(of 5 units, batch shape (6,))"
    assert isinstance(jax.tree.map(lambda leaf: leaf, found), Bounds)


# The joint spectral radius


def every_product(w, depth):
    """max ρ(P)^{1/k} over all products of up to `depth` factors, by listing them."""
    n = len(w)
    factors = [w * np.array(mask) for mask in itertools.product((0.0, 1.0), repeat=n)]
    products, best = np.eye(n)[None], 0.0
    for k in range(1, depth + 1):
        products = np.concatenate([products @ factor for factor in factors])
        best = max(best, np.abs(np.linalg.eigvals(products)).max() ** (1 / k))
    return best


def test_switching_units_can_grow_though_the_radius_is_below_one():
    w = jnp.asarray(SWITCHED)
    for depth, lower in ((1, 1.2), (2, np.sqrt(1.6)), (7, np.sqrt(1.6))):  # w₁₁; √(w₁₂w₂₁), one unit after the other
        came = joint_spectral_radius(w, tanh.slope, depth=depth)
        np.testing.assert_allclose(came[0], lower, rtol=32 * EPS)
        assert came[1] >= came[0]
    assert came[1] < 1.34 < float(network_bounds(w, tanh).rate)


def test_no_product_is_missed():
    rng = np.random.default_rng(2)
    for w in (*rng.standard_normal((4, 3, 3)), rng.integers(-1, 2, (3, 3)).astype(float)):
        lower, upper = joint_spectral_radius(jnp.asarray(w), 1.0, depth=4)
        # The eigenvalues of products of four factors are good to n·ε·condition; ρ^{1/k} to a quarter of that.
        np.testing.assert_allclose(lower, every_product(w, 4), rtol=1e-10)
        assert lower <= upper <= float(bounds(w).scaled_norm[0]) * (1 + 8 * EPS)


def test_longer_products_only_tighten_the_bracket():
    w = jnp.asarray(np.random.default_rng(4).standard_normal((3, 3)))
    brackets = [joint_spectral_radius(w, 1.0, depth=depth) for depth in (1, 2, 4, 6)]
    for (lower, upper), (higher, under) in itertools.pairwise(brackets):
        assert lower * (1 - 8 * EPS) <= higher <= under <= upper * (1 + 1e-12)


def test_random_products_stay_below_the_upper_bound():
    # ‖P‖^{1/k} at k = 2,000 is the rate up to a constant κ^{1/k}; ln κ < 5 here.
    w = np.random.default_rng(5).standard_normal((3, 3))
    _, upper = joint_spectral_radius(jnp.asarray(w), 1.0, depth=6)
    for probability in (0.5, 0.8, 1.0):
        vector, log_growth = np.ones(3), 0.0
        for _ in range(2000):
            vector = w @ ((RNG.random(3) < probability) * vector)
            size = np.linalg.norm(vector)
            log_growth += np.log(size) if size else -np.inf
            vector = vector / size if size else np.ones(3)
        assert log_growth / 2000 <= np.log(upper) + 5 / 2000


def test_where_the_norm_is_an_eigenvalue_the_bracket_closes():
    a = np.random.default_rng(6).standard_normal((3, 3))
    for w in (a + a.T, np.abs(a), np.linalg.qr(a)[0]):
        expected = radius(w)
        # The norm is the true one only up to MINIMUM, where scaling is needed.
        np.testing.assert_allclose(joint_spectral_radius(jnp.asarray(w), 0.25, depth=2), expected / 4, rtol=MINIMUM)


def test_of_rank_one_weights_it_is_the_larger_of_the_sums_of_one_sign():
    # ρ(uvᵀD) = |Σ u_i v_i d_i|, and a product of such is the product of these numbers.
    u, v = np.random.default_rng(7).standard_normal((2, 3))
    expected = max((u * v).clip(0).sum(), (-u * v).clip(0).sum())
    lower, upper = joint_spectral_radius(jnp.asarray(np.outer(u, v)), 1.0, depth=5)
    np.testing.assert_allclose(lower, expected, rtol=64 * EPS)
    assert lower <= upper < np.abs(u * v).sum()


def test_groups_of_units_count_alone():
    joined = np.zeros((5, 5))
    joined[:2, :2], joined[2:4, 2:4], joined[4, :], joined[:2, 2:4] = SWITCHED, [[0, 2], [0.1, 0]], 0.3, 50.0
    joined[4, 4] = -1.1
    lower, upper = joint_spectral_radius(jnp.asarray(joined), 1.0, depth=7)
    np.testing.assert_allclose(lower, np.sqrt(1.6), rtol=1e3 * EPS)
    assert upper < 1.34
    triangular = np.tril(DENSE[0])
    expected = np.abs(np.diag(triangular)).max()
    np.testing.assert_allclose(joint_spectral_radius(jnp.asarray(triangular), 1.0, depth=1), expected, rtol=4 * EPS)
    for w in (np.zeros((5, 5)), np.triu(DENSE[0], 1)):
        assert joint_spectral_radius(jnp.asarray(w), 1.0, depth=3) == (0.0, 0.0)


def test_one_unit_grows_by_its_weight_times_the_slope():
    assert joint_spectral_radius(jnp.array([[-3.0]]), 0.25, depth=3) == (0.75, 0.75)
    assert joint_spectral_radius(jnp.array([[-3.0]]), 0.0, depth=3) == (0.0, 0.0)


def test_a_large_network_is_bracketed_all_the_same():
    w = np.random.default_rng(1).standard_normal((40, 40))
    lower, upper = joint_spectral_radius(jnp.asarray(w), 0.25, depth=2)
    found = bounds(w, activation=sigmoid)
    assert radius(w) / 4 * (1 + 0.01) < lower < upper  # better than all units on, which is one of its starts
    np.testing.assert_allclose(upper, found.rate[0], rtol=MINIMUM)
    assert (lower, upper) == joint_spectral_radius(jnp.asarray(w), 0.25, depth=2)


# Misuse


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong", [jnp.ones((2, 3)), jnp.ones(3), jnp.ones((2, 2), int), jnp.full((2, 2), jnp.nan), jnp.zeros((0, 0))]
)
def test_weights_must_be_a_square_finite_float_matrix(wrong):
    for name, function in (
        ("w ", spectral_radius),
        ("w ", spectral_norm),
        ("w_rec ", lambda w: network_bounds(w, tanh)),
        ("w_rec ", lambda w: joint_spectral_radius(w, 1.0, depth=1)),
    ):
        with pytest.raises(ValueError, match=f"^{name}must"):
            function(wrong)


@pytest.mark.usefixtures("unchecked")
def test_an_activation_is_an_activation_with_a_slope():
    steep = Activation("root", jnp.sqrt, slope=float("inf"), curvature=float("inf"))
    for wrong in (jnp.tanh, 1.0, steep):
        with pytest.raises(ValueError, match="activation must be an Activation of finite slope"):
            network_bounds(jnp.eye(2), wrong)


@pytest.mark.usefixtures("unchecked")
def test_depth_and_slope_have_their_limits():
    for depth in (0, -1, 1.5):
        with pytest.raises(ValueError, match="depth must be a whole number, at least 1"):
            joint_spectral_radius(jnp.eye(2), 1.0, depth=depth)
    for slope in (-1.0, float("nan"), float("inf"), "steep"):
        with pytest.raises(ValueError, match="slope"):
            joint_spectral_radius(jnp.eye(2), slope, depth=1)


def test_what_needs_numbers_says_so_inside_jit():
    with pytest.raises(ValueError, match="w_rec must be known"):
        jax.jit(lambda w: joint_spectral_radius(w, 1.0, depth=1))(jnp.eye(2))
    with pytest.raises(ValueError, match="use vanishes"):
        jax.jit(lambda w: network_bounds(w, tanh).verdict)(jnp.eye(2))
