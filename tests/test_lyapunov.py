"""Lyapunov exponents: closed forms, published values, the laws that hold to rounding, and the ugly cases."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics import flows, jacobians, lyapunov, simulate
from rnn_dynamics.activations import tanh
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.models.reference import Cat, Henon, Linear, Logistic, Tent, chaotic_module

EPS = np.finfo(float).eps


def gaussian(n, seed=0, gain=1.5):
    return PascanuRNN.initialise("gaussian", n, 3, seed=seed, gain=gain)


def state(n, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(n))


def drive(num_steps, m=3, seed=2):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((num_steps, m)))


# Published values and closed forms


def test_henon_has_its_published_exponents_within_the_standard_error():
    # Sprott (2003), Chaos and Time-Series Analysis: 0.41922, -1.62319 at a = 1.4, b = 0.3
    found = lyapunov.spectrum(Henon(), jnp.array([0.1, 0.1]), num_steps=101_000, num_transient=1000)
    assert found.status == "converged"
    assert (np.abs(found.exponents - np.array([0.41922, -1.62319])) < 3 * found.standard_error).all()
    assert (found.standard_error < 0.002).all()
    # area shrinks by |b| = 0.3 at every step, whatever the orbit: only the sum's own rounding is left
    assert float(found.exponents.sum()) == pytest.approx(math.log(0.3), abs=1e-13)
    # both exponents scatter together, one up and one down, so their errors are the same
    np.testing.assert_allclose(found.standard_error[0], found.standard_error[1], rtol=1e-6)


def test_logistic_at_four_has_exponent_ln_2():
    found = lyapunov.spectrum(Logistic(4.0), jnp.array([0.3]), num_steps=100_000)
    assert abs(float(found.exponents[0]) - math.log(2)) < 4 * float(found.standard_error[0])
    assert float(found.standard_error[0]) < 1e-3


def test_tent_map_has_exponent_ln_of_its_slope_exactly():
    found = lyapunov.spectrum(Tent(1.9), jnp.array([0.3]), num_steps=5000)
    assert float(found.exponents[0]) == pytest.approx(math.log(1.9), abs=1e-13)
    assert float(found.standard_error[0]) < 1e-14


def test_arnolds_cat_has_plus_and_minus_the_log_of_the_golden_ratio_squared():
    found = lyapunov.spectrum(Cat(), jnp.array([0.2, 0.7]), num_steps=2000, num_transient=50)
    np.testing.assert_allclose(found.exponents, [0.9624236501192069, -0.9624236501192069], rtol=0, atol=1e-13)


def test_pasemanns_module_has_its_published_exponents_and_dimension():
    # computed over 2e6 steps: 0.2305 ± 0.0003, -3.3595 ± 0.0005, dimension 1.0686
    found = lyapunov.spectrum(chaotic_module(), jnp.array([0.0, 2.0]), num_steps=201_000, num_transient=1000)
    published, its_error = np.array([0.2305, -3.3595]), np.array([0.0003, 0.0005])
    assert (np.abs(found.exponents - published) < 3 * np.hypot(found.standard_error, its_error)).all()
    assert float(lyapunov.kaplan_yorke(found.exponents)) == pytest.approx(1.0686, abs=1e-3)
    # ln det J = ln(36 σ'(x) σ'(y)) along the orbit
    xs = simulate.trajectory(chaotic_module(), jnp.array([0.0, 2.0]), num_steps=201_000)[1000:-1]
    slope = np.asarray(chaotic_module().activation.derivative(xs))
    assert float(found.exponents.sum()) == pytest.approx(float(np.log(36 * slope.prod(axis=1)).mean()), abs=1e-9)


@pytest.mark.parametrize(("b", "exponent"), [(8.0, 0.326), (34.54, 0.372), (20.0, -0.746)])
def test_a_damped_inhibitory_neuron_is_chaotic_or_periodic_as_published(b, exponent):
    # Doya's map at ε = 1/2, w = -40, in Pasemann's form a' = a/2 + ...: exponents to three decimals
    found = lyapunov.spectrum(DoyaNeuron(-40.0, b, 0.5), jnp.array([0.3]), num_steps=51_000, num_transient=1000)
    assert float(found.exponents[0]) == pytest.approx(exponent, abs=max(3 * float(found.standard_error[0]), 1e-3))


@pytest.mark.parametrize("c", [0.5, 1.0, 1.5])
def test_a_multiple_of_an_orthogonal_matrix_has_all_exponents_ln_c(c):
    orthogonal = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0]
    found = lyapunov.spectrum(Linear(c * orthogonal), jnp.zeros(8), num_steps=300)
    np.testing.assert_allclose(found.exponents, np.full(8, math.log(c)), rtol=0, atol=1e-13)


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues_complex_pairs_included():
    # |λ|: 1.5, 1.5 (a pair), 0.7, 0.2; not normal
    change = np.random.default_rng(3).standard_normal((4, 4))
    block = np.array([[0.9, -1.2, 0, 0], [1.2, 0.9, 0, 0], [0, 0, -0.7, 0], [0, 0, 0, 0.2]])
    found = lyapunov.spectrum(
        Linear(change @ block @ np.linalg.inv(change)), jnp.zeros(4), num_steps=4200, num_transient=200
    )
    # within the pair the average closes only up to a bounded term that one turn leaves, over T = 4000
    np.testing.assert_allclose(found.exponents, np.log([1.5, 1.5, 0.7, 0.2]), rtol=0, atol=2e-3)
    assert float(found.exponents.sum()) == pytest.approx(math.log(1.5**2 * 0.7 * 0.2), abs=1e-12)


def test_at_a_fixed_point_the_exponents_are_the_logarithms_of_the_multipliers():
    # Doya at w = 5, b = -2.5: 5x(1-x) = .619143872351978987 at the outer states, by mpmath
    start = DoyaNeuron(5.0, -2.5).equilibria()[-1:]
    found = lyapunov.spectrum(DoyaNeuron(5.0, -2.5), start, num_steps=100)
    assert float(found.exponents[0]) == pytest.approx(math.log(0.619143872351978987), abs=1e-13)
    # a spread that is only rounding is no sign of a run too short
    assert abs(float(found.drift[0])) < 3


def test_on_a_cycle_the_exponent_is_the_mean_over_it():
    # x' = -5σ(x) + 2.5: the 2-cycle's multiplier is .383339134671004 (mpmath), the exponent half its logarithm
    unit = PascanuRNN(jnp.array([[-5.0]]), None, jnp.array([2.5]))
    found = lyapunov.spectrum(unit, jnp.array([1.0]), num_steps=600, num_transient=200)
    assert float(found.exponents[0]) == pytest.approx(math.log(0.383339134671004) / 2, abs=1e-12)


# Laws that hold to rounding


@pytest.mark.parametrize("interval", [1, 2, "auto"])
def test_the_exponents_sum_to_the_mean_log_determinant(interval):
    network, inputs = gaussian(24), drive(400)
    found = lyapunov.spectrum(network, state(24), inputs, num_transient=50, interval=interval)
    xs = simulate.trajectory(network, state(24), inputs)[50:-1]
    exact = (
        np.linalg.slogdet(np.asarray(network.w_rec))[1]
        + np.log(np.asarray(network.activation.derivative(xs))).sum(axis=1).mean()
    )
    # every r_ii carries at most `condition` roundings
    assert abs(float(found.exponents.sum()) - exact) < 24 * EPS * float(found.condition)


def test_the_leading_exponents_of_a_shorter_list_are_those_of_the_full_one():
    network, inputs = gaussian(24), drive(400)
    full = lyapunov.spectrum(network, state(24), inputs, num_transient=200)
    few = lyapunov.spectrum(network, state(24), inputs, num_transient=200, num_exponents=5)
    np.testing.assert_allclose(few.exponents, full.exponents[:5], rtol=0, atol=1e-11)
    np.testing.assert_allclose(few.standard_error, full.standard_error[:5], rtol=0, atol=1e-11)


@pytest.mark.parametrize("interval", [2, 3, "auto"])
def test_the_interval_changes_nothing_but_rounding(interval):
    network, inputs = gaussian(24), drive(403)
    every = lyapunov.spectrum(network, state(24), inputs, num_transient=100)
    some = lyapunov.spectrum(network, state(24), inputs, num_transient=100, interval=interval)
    np.testing.assert_allclose(
        some.exponents, every.exponents, rtol=0, atol=24 * EPS * float(some.condition + every.condition)
    )
    np.testing.assert_allclose(some.history, every.history, rtol=0, atol=24 * EPS * float(some.condition) * 10)


@pytest.mark.parametrize("interval", [1, "auto"])
def test_slopes_that_differ_lose_nothing(interval):
    # diag(σ') W, slopes below e^-50: rows of very different size, each of which keeps its digits
    # (and driven so hard that it contracts: the orbit is the same to rounding, in whichever program it is computed)
    network, inputs = ElmanRNN.from_pascanu(gaussian(24)), 40 * drive(400)
    found = lyapunov.spectrum(network, state(24), inputs, interval=interval)
    hs = simulate.trajectory(network, state(24), inputs)[:-1]
    slopes = network.activation.derivative(jax.vmap(network.pre_activation)(hs, inputs))
    assert float(jnp.log(slopes).min()) < -50
    exact = np.linalg.slogdet(np.asarray(network.w_rec))[1] + np.log(np.asarray(slopes)).sum(axis=1).mean()
    # cancellation in a row and in the columns of L, each 10² or so
    assert float(found.condition) < 1e5
    assert abs(float(found.exponents.sum()) - exact) < 24 * EPS * float(found.condition)


@pytest.mark.parametrize("interval", [40, "auto"])
@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0, 1e3])
def test_no_interval_is_so_long_that_its_product_leaves_the_floats(factor, interval):
    # Forty steps would take float32 to 10^±120. Expanding, the orbit is wrapped, as Arnold's is.
    def step(x, u):
        del u
        return factor * x - jax.lax.stop_gradient(jnp.round(factor * x))

    spectrum = lyapunov.spectrum(step, jnp.array([0.1, 0.2, 0.3], jnp.float32), num_steps=1000, interval=interval)
    assert spectrum.status == "converged"
    np.testing.assert_allclose(spectrum.exponents, math.log(factor), rtol=1e-5)


def diagonal(x, u):
    return u * x


TURNED = np.abs(np.log(np.abs(np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]))).max()


@pytest.mark.parametrize("interval", [1, 3, "auto"])
@pytest.mark.parametrize(
    ("factors", "dtype"), [((1e25, 1e20), "float32"), ((1e160, 1.0), "float64"), ((1e-160, 1e-161), "float64")]
)
def test_factors_whose_squares_leave_the_floats_keep_their_exponents(factors, dtype, interval):
    # At 0 nothing grows but the tangents. The first Q lies along no axis, which stays in T λ as ln|an entry of it|.
    inputs = jnp.broadcast_to(jnp.array(factors, dtype), (50, 2))
    found = lyapunov.spectrum(diagonal, jnp.zeros(2, dtype), inputs, interval=interval)
    assert found.status == "converged"
    rounding = 100 * float(jnp.finfo(dtype).eps) * abs(math.log(factors[0]))
    np.testing.assert_allclose(found.exponents, np.log(factors), rtol=0, atol=TURNED / 50 + rounding)


@pytest.mark.parametrize("factors", [(1.0, 1e-20), (1e-20, 1.0), (1e-100, 1e150)])
def test_a_graded_jacobian_keeps_its_smallest_exponent(factors):
    found = lyapunov.spectrum(diagonal, jnp.zeros(2), jnp.broadcast_to(jnp.array(factors), (50, 2)))
    np.testing.assert_allclose(found.exponents, np.sort(np.log(factors))[::-1], rtol=0, atol=TURNED / 50 + 1e-12)
    assert float(found.exponents.sum()) == pytest.approx(np.log(factors).sum(), abs=1e-12)  # the determinant
    assert float(found.condition) < 100


def test_a_singular_block_is_minus_infinity_beside_a_small_row():
    # rank 2 of 3: rows 1 and 2 are the same, row 3 is small; the largest eigenvalue is 0.6 + 0.3
    w = np.array([[0.6, 0.3, 0.5], [0.6, 0.3, 0.5], [1e-20, 2e-20, -1e-20]])
    found = lyapunov.spectrum(Linear(jnp.asarray(w)), jnp.zeros(3), num_steps=400, num_transient=200)
    assert float(found.exponents[0]) == pytest.approx(math.log(0.9), abs=1e-12)
    assert float(found.exponents[2]) == -np.inf


def test_orthogonal_coordinates_change_the_exponents_only_while_they_settle():
    network, inputs = gaussian(24), drive(6000)
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(7).standard_normal((24, 24)))[0])

    def turned(y, u):
        return turn @ network(turn.T @ y, u)

    straight = lyapunov.spectrum(network, state(24), inputs, num_transient=1000)
    other = lyapunov.spectrum(turned, turn @ state(24), inputs, num_transient=1000)
    # Q settles on its own exponents like e^{-gap t}: what is left of the start is a bounded term over T = 5000
    np.testing.assert_allclose(other.exponents, straight.exponents, rtol=0, atol=2e-3)
    assert float(other.exponents.sum()) == pytest.approx(float(straight.exponents.sum()), abs=1e-9)


def test_pre_and_post_activation_forms_share_their_exponents():
    # their Jacobians are W D and D W: products differ by one factor at each end, a bounded term over T
    pascanu, inputs = gaussian(12), drive(5000)
    elman = ElmanRNN.from_pascanu(pascanu)
    one = lyapunov.spectrum(pascanu, state(12), inputs, num_transient=500).exponents
    other = lyapunov.spectrum(elman, jnp.tanh(state(12)), inputs, num_transient=500).exponents
    np.testing.assert_allclose(one, other, rtol=0, atol=5e-3)


@pytest.mark.parametrize("interval", [1, "auto"])
@pytest.mark.parametrize("gain", [6.0, 30.0])
def test_a_saturated_network_keeps_all_its_exponents_in_either_form(gain, interval):
    # The columns of W diag(σ′) span e^-200 and more. The product of all Jacobians loses none of them (test_products);
    # from step 100 to 500 it grows by the exponents, for by then Q and the singular vectors have settled to e^-100.
    w = gain * np.random.default_rng(1).standard_normal((6, 6))
    network, start = PascanuRNN(w, None, np.zeros(6), tanh), jax.device_put(np.ones(6))
    found = lyapunov.spectrum(network, start, num_steps=500, num_transient=100, interval=interval)
    early, late = (
        np.asarray(jacobians.transition(network, start, num_steps=t).log_singular_values()) for t in (100, 500)
    )
    np.testing.assert_allclose(found.exponents, (late - early) / 400, rtol=0, atol=10 * EPS * float(found.condition))
    assert float(found.condition) < 1e8
    elman = lyapunov.spectrum(ElmanRNN.from_pascanu(network), jnp.tanh(start), num_steps=500, num_transient=100)
    # One orbit, a step apart: ln σ′ of the first and the last of 400 steps differ by at most about ln σ′ itself.
    np.testing.assert_allclose(found.exponents, elman.exponents, atol=2 * float(np.abs(found.exponents).max()) / 400)


@pytest.mark.parametrize(("interval", "least"), [(1, 1.0), (7, 1e10), (10, np.inf)])
def test_a_column_lost_between_two_factorisations_is_not_called_singular(interval, least):
    turn = np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    network, start = Linear(turn @ np.diag([1e4, 1.0]) @ turn.T), jax.device_put(np.zeros(2))
    found = lyapunov.spectrum(network, start, num_steps=200, num_transient=20, interval=interval)
    assert float(found.condition) >= least
    error = np.abs(np.asarray(found.exponents) - [math.log(1e4), 0.0]).max()
    assert error <= 10 * EPS * float(found.condition)


@pytest.mark.parametrize("a", [1e2, 1e4, 1e6])
def test_the_condition_counts_what_forming_the_product_has_lost(a):
    # κ = a²: the small singular value of J rounds at ε·a, relative to 1/a. mpmath has the exponents of J as stored.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    j = turn @ np.diag([a, 1 / a]) @ turn.T
    with mpmath.workdps(50):
        trace, det = mpmath.mpf(j[0, 0]) + j[1, 1], mpmath.mpf(j[0, 0]) * j[1, 1] - mpmath.mpf(j[0, 1]) * j[1, 0]
        large = (trace + mpmath.sqrt(trace**2 - 4 * det)) / 2
        exact = [float(mpmath.log(large)), float(mpmath.log(det / large))]
    for interval in (1, "auto"):
        found = lyapunov.spectrum(
            Linear(j), jax.device_put(np.zeros(2)), num_steps=200, num_transient=20, interval=interval
        )
        assert np.abs(np.asarray(found.exponents) - exact).max() <= 10 * EPS * float(found.condition) <= 1e-2


def test_the_condition_is_the_loss_in_an_elimination_times_that_in_a_qr():
    # Nothing moves, so the first Q says all, orthogonal with p = max |q_i1|. Elimination has l = √(1 - p²)/p below a
    # pivot of p, then u_22 = 1/p, and |l u_12| + |u_22| over that is 2 - p²; the same again after each block. QR of the
    # columns (1, l) and (0, 1) that it leaves: the second, of length 1, keeps r_22 = p.
    p = np.abs(np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0][:, 0]).max()
    found = lyapunov.spectrum(diagonal, jnp.zeros(2), jnp.ones((50, 2)), interval="auto")
    assert float(found.condition) == pytest.approx((2 - p**2) / p, rel=1e-13)


def test_a_map_without_a_jacobian_of_its_own_gives_the_same():
    network, inputs = gaussian(24), drive(400)
    own = lyapunov.spectrum(network, state(24), inputs, num_exponents=3)
    plain = lyapunov.spectrum(lambda x, u: network(x, u), state(24), inputs, num_exponents=3)
    np.testing.assert_allclose(plain.exponents, own.exponents, rtol=0, atol=1e-12)


def test_exponents_agree_with_the_singular_values_of_the_product():
    network, inputs = gaussian(6, gain=1.2), drive(800)
    found = lyapunov.spectrum(network, state(6), inputs)
    product = jacobians.transition(network, state(6), inputs)
    # two definitions of one limit: they differ by a bounded term over T = 800
    np.testing.assert_allclose(found.exponents, product.log_singular_values() / 800, rtol=0, atol=0.02)


def test_history_and_standard_error_are_those_of_the_block_means():
    found = lyapunov.spectrum(Henon(), jnp.array([0.1, 0.1]), num_steps=1000, num_transient=100)
    xs = np.asarray(simulate.trajectory(Henon(), jnp.array([0.1, 0.1]), num_steps=1000))
    # an independent NumPy QR of the same orbit from the same first matrix
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    logs = np.empty((1000, 2))
    for t in range(1000):
        q, r = np.linalg.qr(np.array([[-2.8 * xs[t, 0], 1.0], [0.3, 0.0]]) @ q)
        logs[t] = np.log(np.abs(np.diag(r)))
    blocks = logs[100:].reshape(30, 30, 2).mean(axis=1)  # √900 blocks
    np.testing.assert_allclose(found.exponents, logs[100:].mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.standard_error, blocks.std(axis=0, ddof=1) / np.sqrt(30), rtol=1e-9)
    np.testing.assert_allclose(found.history, np.cumsum(blocks, axis=0) / np.arange(1, 31)[:, None], rtol=0, atol=1e-12)
    half = (blocks[15:].mean(axis=0) - blocks[:15].mean(axis=0)) / (2 * blocks.std(axis=0, ddof=1) / np.sqrt(30))
    np.testing.assert_allclose(found.drift, half, rtol=1e-9)


def test_the_error_of_an_exponent_stands_where_the_exponent_does():
    # The first Q lies along no axis. The transient's one step leaves its first column on axis 1 to 1e-20; then, too
    # little to turn it back, axis 2 grows the faster: by 0, 0.1, ..., 0.6 nats a step in seven blocks, axis 1 by none.
    nats = np.repeat(0.1 * np.arange(7), 7)
    inputs = np.stack([np.ones(50), np.append(1e-20, np.exp(nats))], axis=1)
    found = lyapunov.spectrum(diagonal, jnp.zeros(2), inputs, num_transient=1)
    np.testing.assert_allclose(found.exponents, [0.3, 0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.history[:, 0], 0.05 * np.arange(7), rtol=0, atol=1e-14)
    # Of the means 0.1 (0 ... 6) the variance is 0.01 · 28/6, and that of their mean a seventh of it.
    np.testing.assert_allclose(found.standard_error, [0.1 * math.sqrt(2 / 3), 0], rtol=0, atol=1e-14)
    # From the first three to the last three, 0.4 nats a step.
    assert float(found.drift[0]) == pytest.approx(0.4 / (2 * 0.1 * math.sqrt(2 / 3)), abs=1e-12)
    assert abs(float(found.drift[1])) < 1


def test_the_standard_error_covers_the_true_value_as_often_as_it_should():
    # x' = e^{z} x with independent normal z: the exponent is exactly 0. 300 runs; two standard errors should cover 95 %
    # of them, and with 20 blocks a little less (Student's t: 94 %), give or take three binomial deviations of 1.3 %
    factors = jnp.exp(jnp.asarray(np.random.default_rng(11).standard_normal((300, 400, 1))))
    found = jax.vmap(lambda u: lyapunov.spectrum(lambda x, u: u * x, jnp.ones(1), u))(factors)
    inside = np.abs(found.exponents[:, 0]) < 2 * found.standard_error[:, 0]
    assert 0.90 < inside.mean() < 0.98


def test_drift_tells_a_run_that_was_too_short():
    # the contraction rate changes for good halfway: no average of this run is an exponent
    def aging(x, u):
        return u * x

    rates = jnp.concatenate([jnp.full(500, 0.9), jnp.full(500, 0.5)])[:, None]
    assert abs(float(lyapunov.spectrum(aging, jnp.ones(1), rates).drift[0])) > 3


# Degenerate cases


@pytest.mark.parametrize("interval", [1, "auto"])
def test_a_rank_deficient_jacobian_gives_minus_infinity_and_leaves_the_others_right(interval):
    w = jnp.array([[0.5, 1.0, 0.2], [0.0, 0.8, 0.3], [0.0, 0.0, 0.0]])  # eigenvalues 0.5, 0.8 and 0
    found = lyapunov.spectrum(Linear(w), jnp.ones(3), num_steps=400, num_transient=150, interval=interval)
    np.testing.assert_allclose(found.exponents[:2], np.log([0.8, 0.5]), rtol=0, atol=1e-10)
    assert float(found.exponents[2]) == -np.inf
    assert not np.isnan(found.standard_error).any()
    assert not np.isnan(found.drift).any()


def test_the_zero_map_has_all_exponents_minus_infinity():
    found = lyapunov.spectrum(Linear(jnp.zeros((2, 2))), jnp.ones(2), num_steps=10)
    assert np.isneginf(found.exponents).all()
    assert found.status == "converged"


@pytest.mark.parametrize("interval", [1, "auto"])
def test_a_diverging_orbit_is_a_status_and_the_exponents_are_those_before(interval):
    found = lyapunov.spectrum(lambda x, u: 1.1 * x, jnp.ones(2), num_steps=10_000, interval=interval)
    assert found.status == "diverged"
    # 1.1^t leaves float64 at t = 1024 ln 2 / ln 1.1 = 7447
    assert abs(int(found.num_averaged) - 7447) <= 1
    np.testing.assert_allclose(found.exponents, np.log([1.1, 1.1]), rtol=0, atol=1e-12)
    # the rate is the same at every step: blocks after the end of the floats do not count as zeros
    assert float(found.standard_error.max()) < 1e-14
    assert float(jnp.abs(found.drift).max()) < 3


def test_where_no_step_is_averaged_nothing_is_known_and_that_is_said():
    for zero, steps in ((0.0, 40), (1e-300, 40)):  # the first step already, and the transient
        found = lyapunov.spectrum(lambda x, u, zero=zero: x / zero, jnp.array([2.0]), num_steps=steps, num_transient=5)
        assert found.status == "diverged"
        assert int(found.num_averaged) == 0
        assert np.isnan(found.exponents).all()
        assert np.isinf(found.standard_error).all()


def test_the_status_is_one_word_a_lane():
    inputs = jnp.stack([jnp.full((2000, 1), 0.5), jnp.full((2000, 1), 2.0)])
    found = jax.vmap(lambda u: lyapunov.spectrum(diagonal, jnp.ones(1), u))(inputs)
    assert found.status.tolist() == ["converged", "diverged"]


def test_one_step_and_steps_fewer_than_the_interval_are_enough():
    for steps in (1, 2, 3):
        found = lyapunov.spectrum(Linear(0.5 * jnp.eye(2)), jnp.ones(2), num_steps=steps, interval=10)
        np.testing.assert_allclose(found.exponents, np.log([0.5, 0.5]), rtol=0, atol=1e-14)
    assert np.isinf(lyapunov.spectrum(Linear(0.5 * jnp.eye(2)), jnp.ones(2), num_steps=1).standard_error).all()


def test_saturated_units_keep_their_exponent():
    # x* = 40 with tanh: the multiplier 80·sech²(40)/2..., where 1 - tanh² is exactly 0; ln(w sech²(40)) in closed form
    unit = PascanuRNN(jnp.array([[2.0]]), None, jnp.array([38.0]), gaussian(1).activation)
    found = lyapunov.spectrum(unit, jnp.array([40.0]), num_steps=10)
    assert float(found.exponents[0]) == pytest.approx(math.log(2) + math.log(4) - 80, abs=1e-12)


def test_float32_agrees_to_its_own_rounding():
    network = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gaussian(8, gain=0.9))
    found = lyapunov.spectrum(network, state(8).astype(jnp.float32), drive(300).astype(jnp.float32))
    exact = lyapunov.spectrum(gaussian(8, gain=0.9), state(8), drive(300))
    assert found.exponents.dtype == jnp.float32
    np.testing.assert_allclose(
        found.exponents, exact.exponents, rtol=0, atol=8 * float(jnp.finfo(jnp.float32).eps * found.condition)
    )


# Composition


def test_jit_vmap_over_inputs_states_and_parameters_equal_the_loop():
    inputs = jnp.stack([drive(60, seed=s) for s in range(3)])
    starts = jnp.stack([state(6, seed=s) for s in range(3)])
    gains = jnp.array([0.8, 1.0, 1.3])
    base = gaussian(6, gain=1.0)

    def run(gain, x0, inputs):
        network = PascanuRNN(gain * base.w_rec, base.w_in, base.b, base.activation)
        return lyapunov.spectrum(network, x0, inputs, interval="auto")

    together = jax.jit(jax.vmap(run))(gains, starts, inputs)
    for i in range(3):
        alone = run(gains[i], starts[i], inputs[i])
        rounding = 6 * EPS * float(alone.condition)
        np.testing.assert_allclose(together.exponents[i], alone.exponents, rtol=0, atol=rounding)
        np.testing.assert_allclose(together.history[i], alone.history, rtol=0, atol=10 * rounding)


def test_the_largest_exponent_can_be_differentiated_by_a_parameter():
    def largest(r):
        return lyapunov.spectrum(Linear(r * jnp.array([[0.5, 0.2], [0.1, 0.3]])), jnp.ones(2), num_steps=50).exponents[
            0
        ]

    # λ(r) = ln r + λ(1): dλ/dr = 1/r
    assert float(jax.grad(largest)(2.0)) == pytest.approx(0.5, abs=1e-10)


@pytest.mark.parametrize("interval", [1, 3, "auto"])
def test_a_lost_exponent_leaves_the_others_their_derivatives(interval):
    factors = np.random.default_rng(0).standard_normal((30, 3, 3))
    factors[20, :, 1] = 0

    def run(a):
        inputs = jnp.asarray(factors)
        return lyapunov.spectrum(lambda x, u: a * (u @ x), jnp.zeros(3), inputs, interval=interval).exponents

    found = np.asarray(run(1.0))
    assert np.isfinite(found[:2]).all()
    assert found[2] == -np.inf
    # λ(a) = ln a + λ(1), and what is -inf whatever a is does not change; Q's derivatives cancel to rounding
    for derivative in (jax.jacfwd(run), jax.jacrev(run)):
        np.testing.assert_allclose(derivative(1.0), [1.0, 1.0, 0.0], rtol=0, atol=1e-10)


# Continuous time


def test_a_linear_field_has_the_real_parts_of_its_eigenvalues():
    change = np.random.default_rng(4).standard_normal((3, 3))
    a = jnp.asarray(change @ np.array([[-0.2, 2.0, 0], [-2.0, -0.2, 0], [0, 0, -1.5]]) @ np.linalg.inv(change))
    found = lyapunov.flow_spectrum(lambda x, u: a @ x, jnp.zeros(3), duration=200.0, interval=0.5, transient=20.0)
    np.testing.assert_allclose(found.exponents, [-0.2, -0.2, -1.5], rtol=0, atol=1e-2)
    assert float(found.exponents.sum()) == pytest.approx(-1.9, abs=1e-7)  # the trace; solver tolerance 1e-9 a step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_field_shrinks_out_of_sight_keeps_its_exponent(dtype):
    # not normal, eigenvalues -1, -20 and -100: in one interval the last direction shrinks to e^{-50} of the first
    a = jnp.array([[-1.0, 50.0, 3.0], [0.0, -100.0, 7.0], [0.0, 0.0, -20.0]], dtype)
    times = {"duration": jnp.array(20.0), "interval": np.float64(0.5), "transient": jnp.float32(5.0)}  # any number
    found = lyapunov.flow_spectrum(lambda x, u: a @ x, jnp.ones(3, dtype), **times)
    # Q lies on the invariant planes, but for a few steps' tolerance times the field's entries: then rates are constant
    tolerance = 100 * max(1e-9, 4 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(found.exponents, [-1.0, -20.0, -100.0], rtol=tolerance, atol=100 * tolerance)
    assert found.exponents.dtype == dtype


def square(x0):
    """x' = x² from x0: x = x0/(1 - x0 t), and dx/dx0 = 1/(1 - x0 t)²; eight blocks of eight intervals of 0.3."""
    return lyapunov.flow_spectrum(squared, jnp.array([x0]), duration=19.2, interval=0.3)


def squared(x, u):
    return x**2


def test_a_field_that_blows_up_keeps_the_exponents_of_the_time_before():
    found = square(1.0)  # until t = 1: three intervals
    assert found.status == "diverged"
    assert int(found.num_averaged) == 3
    assert float(found.exponents[0]) == pytest.approx(2 * math.log(10) / 0.9, abs=1e-6)


def test_history_and_error_of_a_field_are_per_unit_of_time_as_its_exponents_are():
    found, t = square(-1.0), 2.4 * np.arange(1, 9)
    history, means = -2 * np.log1p(t) / t, -2 * np.diff(np.log1p(t), prepend=0) / 2.4
    np.testing.assert_allclose(found.history[:, 0], history, rtol=0, atol=1e-7)  # 1e-9 a step, and few of them
    assert float(found.exponents[0]) == pytest.approx(history[-1], abs=1e-7)
    assert float(found.standard_error[0]) == pytest.approx(means.std(ddof=1) / math.sqrt(8), abs=1e-7)
    assert float(found.drift[0]) == pytest.approx(
        (means[4:].mean() - means[:4].mean()) / (2 * means.std(ddof=1) / math.sqrt(8)), abs=1e-6
    )


def test_a_limit_cycle_has_one_exponent_zero():
    # r' = r(1 - r²), φ' = 1: exponents 0 along the circle and -2 across it
    def field(x, u):
        del u
        return x * (1 - x @ x) + jnp.array([-x[1], x[0]])

    found = lyapunov.flow_spectrum(field, jnp.array([1.0, 0.0]), duration=100.0, interval=0.25, transient=20.0)
    np.testing.assert_allclose(found.exponents, [0.0, -2.0], rtol=0, atol=1e-6)


def test_the_flow_and_its_euler_map_have_nearby_exponents_per_unit_of_time():
    def field(x, u):
        del u
        return jnp.array([-1.0, -3.0]) * x

    dt = 1e-3
    per_step = lyapunov.spectrum(flows.euler(field, dt), jnp.ones(2), num_steps=8200, num_transient=8000).exponents
    np.testing.assert_allclose(per_step / dt, np.log1p([-dt, -3 * dt]) / dt, rtol=0, atol=1e-6)


# Dimension and entropy


def test_kaplan_yorke_at_its_corners():
    for exponents, dimension in (
        ([-0.1, -1.0], 0.0), ([0.0, -1.0], 1.0), ([0.1, -0.1], 2.0), ([0.1, 0.1], 2.0), ([0.3, 0.1, -0.2, -0.5], 3.4),
        ([0.1, -np.inf], 1.0), ([0.41922, -1.62319], 1.25827), ([1.0], 1.0), ([-np.inf], 0.0),
    ):  # fmt: skip
        assert float(lyapunov.kaplan_yorke(jnp.array(exponents))) == pytest.approx(dimension, abs=1e-5)


def test_entropy_is_the_sum_of_the_positive_exponents():
    assert float(lyapunov.entropy(jnp.array([0.5, 0.25, 0.0, -3.0]))) == 0.75
    assert float(lyapunov.entropy(jnp.array([-0.5]))) == 0.0


def test_participation_ratio_counts_equal_directions_and_ignores_scale():
    points = np.random.default_rng(0).standard_normal((5, 3))
    q = np.linalg.qr(points - points.mean(axis=0))[0]  # three orthonormal columns of mean zero
    for scale in (1e-200, 1.0, 1e200):
        assert float(lyapunov.participation_ratio(jnp.asarray(scale * q))) == pytest.approx(3, abs=1e-9)
    assert float(lyapunov.participation_ratio(jnp.ones((4, 2)))) == 0.0
    # 0.1 seven times has a mean that is not 0.1, and 1e308 twice no sum
    assert float(lyapunov.participation_ratio(jnp.full((7, 3), 0.1))) == 0.0
    ends = jnp.array([[1.7e308, 1.0], [-1.7e308, 1.0]])
    assert float(lyapunov.participation_ratio(ends)) == pytest.approx(1, abs=1e-15)  # a line
    # a unit that stands still far away does not hide one that moves little
    assert float(lyapunov.participation_ratio(jnp.array([[1e10, 1e-8], [1e10, 2e-8]]))) == pytest.approx(1, abs=1e-15)


# Misuse


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_exponents": 3}, "num_exponents.*2 units.*3"),
        ({"num_exponents": 0}, "num_exponents.*at least 1.*0"),
        ({"num_transient": 10}, "num_transient.*10.*10"),
        ({"num_transient": -1}, "num_transient.*-1"),
        ({"interval": 0}, "interval.*0"),
        ({"interval": "often"}, "interval.*'often'"),
        ({"num_steps": 0}, "num_transient must be less than"),
        ({"num_steps": None}, "inputs or num_steps"),
        ({"inputs": jnp.ones((4, 1))}, "inputs must be 10 steps long.*4"),
    ],
)
def test_misuse_of_spectrum_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        lyapunov.spectrum(Henon(), jnp.zeros(2), **({"num_steps": 10} | options))


@pytest.mark.usefixtures("unchecked")
def test_misuse_of_the_rest_is_named():
    field, x0 = lambda x, u: -x, jnp.ones(2)
    for options, message in (
        ({"duration": 0.0}, "duration.*0.0"), ({"interval": -1.0}, "interval.*-1.0"),
        ({"transient": -1.0}, "transient"), ({"transient": math.inf}, "transient"), ({"transient": "1"}, "transient"),
        ({"rtol": 0.0}, "rtol"), ({"duration": 0.1, "interval": 1.0}, "duration must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            lyapunov.flow_spectrum(field, x0, **({"duration": 1.0, "interval": 0.1} | options))
    with pytest.raises(ValueError, match=r"interval.*must be known"):
        jax.jit(lambda t: lyapunov.flow_spectrum(field, x0, duration=1.0, interval=t).exponents)(0.1)
    for half in (jnp.float16, jnp.bfloat16):
        with pytest.raises(ValueError, match="x0 must be float32 or float64"):
            lyapunov.spectrum(field, x0.astype(half), num_steps=3)
    for function in (lyapunov.kaplan_yorke, lyapunov.entropy):
        for bad in (jnp.array([0.1, 0.2]), jnp.array([jnp.nan]), jnp.array([jnp.inf]), jnp.zeros(0), jnp.zeros((2, 2))):
            with pytest.raises(ValueError, match="exponents"):
                function(bad)
    with pytest.raises(ValueError, match=r"xs.*\(1, 2\)"):
        lyapunov.participation_ratio(jnp.ones((1, 2)))


def test_exponents_captured_by_a_callers_jit_are_checked_and_used():
    exponents = jnp.array([0.2, -0.5, -jnp.inf, -jnp.inf])
    assert float(jax.jit(lambda: lyapunov.kaplan_yorke(exponents))()) == pytest.approx(1.4, abs=1e-15)  # 1 + 0.2/0.5
