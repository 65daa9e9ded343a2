"""The report says what the mathematics says: vanishing, exploding and healthy gradients, each for its reason."""

import math

import equinox
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import diagnosis
from rnn_dynamics.activations import relu, sigmoid, tanh
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN


def first(x):
    return x[0]


def report(w, b, x0):
    """On a tanh network of three units over 500 steps: one compilation serves all."""
    return diagnosis.report(PascanuRNN(w, None, jnp.asarray(b), tanh), jnp.asarray(x0), None, first, num_steps=500)


def orthogonal(c):
    return c * np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]


def test_a_contraction_vanishes_and_the_weights_prove_it():
    found = report(orthogonal(0.5), np.zeros(3), np.zeros(3))
    assert found.verdict == "vanishing"
    assert found.rate == pytest.approx(math.log(0.5), abs=1e-12)
    assert found.exponent == pytest.approx(math.log(0.5), abs=1e-12)
    assert found.omega == pytest.approx(0.25, abs=1e-12)  # (1 - 0.5)²
    assert "weights alone prove" in found.sentence
    assert not np.asarray(found.saturated).any()


def test_an_isometry_is_healthy():
    found = report(orthogonal(1.0), np.zeros(3), np.zeros(3))
    assert found.verdict == "healthy"
    assert found.omega == pytest.approx(0, abs=1e-12)
    assert found.sentence.endswith("; nearby orbits keep their distance over 500 steps")  # whatever rounding's sign is


@pytest.mark.parametrize("nats", [-0.011, -0.009, 0.009, 0.011])
def test_orbits_keep_their_distance_within_a_hundredth(nats):
    found = diagnosis.report(power, jnp.ones(1), np.array([[math.exp(nats), 0.0], *[[1.0, 0.0]] * 29]), first)
    moves = "the orbit is stable" if nats < 0 else "nearby orbits part"
    assert ("keep their distance" if abs(nats) < 0.01 else moves) in found.sentence


def test_an_expansion_explodes_with_its_exponent():
    found = report(orthogonal(1.2), np.zeros(3), np.zeros(3))  # at the unstable point 0: 1.2 a step
    assert found.verdict == "exploding"
    assert found.rate == pytest.approx(math.log(1.2), abs=1e-12)
    assert "nearby orbits part" in found.sentence
    assert f"10^{500 * math.log10(1.2):+.1f}" in found.sentence


def test_saturation_is_named_as_the_reason():
    # b = 8 holds the first two of three units at x ≈ 8, where tanh' = 4e-7; the third sits at 0
    found = report(2.0 * np.eye(3), [8.0, 8.0, 0.0], [9.0, 9.0, 0.0])
    np.testing.assert_array_equal(found.saturated, [1.0, 1.0, 0.0])
    assert found.verdict == "vanishing"
    assert "67 % of the units are saturated" in found.sentence


@pytest.mark.parametrize(("start", "part"), [(0.0, 750 / 1500), (9.0, 751 / 1500)])
def test_saturation_is_a_reason_beyond_half_of_the_units(start, part):
    # Unit 1 is saturated always, and unit 3 every other step, between 4 and 0.5: tanh' is 1e-3 and 0.8 there. Unit 2 is
    # at rest in 0, or at the first of its steps at 9: 0 + 2 tanh 9 = 2, and tanh' is 0.07 there and more from then on.
    w = (4 - 0.5) / (math.tanh(0.5) - math.tanh(4))
    found = report(np.diag([2.0, 2.0, w]), [8.0, 0.0, 4 - w * math.tanh(0.5)], [9.0, start, 4.0])
    np.testing.assert_allclose(found.saturated, [1.0, start and 1 / 500, 0.5], rtol=0, atol=1e-15)
    assert found.verdict == "vanishing"
    assert ("; 50 % of the units are saturated" in found.sentence) == (part > 0.5)


@pytest.mark.parametrize("b", [[0.0, 0.0, 0.0], [0.0, 8.0, 8.0]])
def test_what_would_have_made_a_gradient_vanish_is_no_reason_where_it_has_not(b):
    # Certified to shrink, or two of three units saturated, the gradient is still at 0.999^500 = 0.6 of its length.
    found = report(0.999 * np.eye(3), b, b)
    assert found.verdict == "healthy"
    assert "10^-0.2 over 500 steps; the orbit is stable" in found.sentence


def power(x, factors):
    """Maps of one unit, chosen by their input: 0, x, or x²."""
    return factors[0] * x + factors[1] * x**2


def powers(linear, quadratic):
    return np.tile([linear, quadratic], (30, 1))


@pytest.mark.parametrize(
    ("factor", "verdict", "decades", "exponent"),
    [
        (1 / 1001, "vanishing", "-3.0", "the orbit is stable, its largest exponent -0.23"),
        (1 / 999, "healthy", "-3.0", "the orbit is stable, its largest exponent -0.23"),
        (999, "healthy", "+3.0", "nearby orbits part, at 0.23"),
        (1001, "exploding", "+3.0", "nearby orbits part, at 0.23"),
    ],
)
def test_a_change_beyond_a_thousand_is_not_healthy(factor, verdict, decades, exponent):  # ln 1000 / 30 = 0.230
    found = diagnosis.report(power, jnp.ones(1), np.array([[factor, 0.0], *[[1.0, 0.0]] * 29]), first)
    assert found.verdict == verdict
    assert found.sentence == f"{verdict}: the gradient changes by 10^{decades} over 30 steps; {exponent} nats per step"


def test_a_gradient_that_is_exactly_zero_has_vanished():
    found = diagnosis.report(power, jnp.ones(1), powers(0.0, 0.0), first)
    assert found.verdict == "vanishing"
    assert "exactly zero" in found.sentence
    assert found.bounds is None
    assert found.saturated is None


def test_a_loss_without_gradient_counts_as_vanished():
    found = diagnosis.report(power, jnp.ones(1), powers(1.0, 0.0), lambda x: jnp.zeros(()))
    assert found.verdict == "vanishing"
    assert "the loss does not depend on the last state" in found.sentence


def test_a_diverging_orbit_is_said_to_diverge():
    found = diagnosis.report(power, jnp.array([2.0]), powers(0.0, 1.0), first)
    assert found.verdict == "diverged"
    assert "floating-point" in found.sentence


def test_a_jacobian_that_is_not_finite_is_said_to_diverge():
    found = diagnosis.report(lambda x, u: jnp.sqrt(x), jnp.zeros(1), None, first, num_steps=10)
    assert found.verdict == "diverged"
    assert "Jacobian" in found.sentence


def leaky(b, h0):
    """A report on h' = 0.9 h + 0.1 σ(2h + b), from h0."""
    network = ElmanRNN(jnp.array([[2.0]]), None, jnp.array([b]), sigmoid, leak=0.1)
    return diagnosis.report(network, jnp.array([h0]), None, first, num_steps=500)


def test_what_the_weights_prove_of_a_leaky_network_holds_for_it():
    # At rest in 2h + b = 0, the Jacobian is (1 - α) + α w σ', and w γ = 0.5.
    found = leaky(-1.0, 0.5)
    assert found.rate == pytest.approx(math.log(0.95), abs=1e-12)
    assert "by 0.95 a step" in found.sentence


@pytest.mark.parametrize(("part", "saturated"), [(0.0499, 1.0), (0.0501, 0.0)])
def test_a_unit_is_saturated_below_a_twentieth_of_the_largest_slope(part, saturated):
    # At rest in h = σ(z), where σ' = h (1 - h) is that part of its largest, 1/4.
    h = (1 + math.sqrt(1 - part)) / 2
    found = leaky(math.log(h / (1 - h)) - 2 * h, h)
    assert found.saturated.tolist() == [saturated]
    assert found.rate == pytest.approx(math.log(0.9 + 0.1 * 2 * part / 4), abs=1e-12)


def test_a_network_of_another_kind_is_not_judged_by_its_weights():
    class Residual(PascanuRNN):
        def __call__(self, x, u=None):
            return x + super().__call__(x, u)

        jacobian = None

    network = Residual(0.5 * np.eye(1), None, np.zeros(1), tanh)
    found = diagnosis.report(network, jnp.zeros(1), None, first, num_steps=500)
    assert found.verdict == "exploding"
    assert found.bounds is None
    plain = equinox.tree_at(lambda network: network.activation, network, jnp.tanh, is_leaf=lambda leaf: leaf is tanh)
    assert diagnosis.report(plain, jnp.zeros(1), None, first, num_steps=500).saturated is None


def test_a_relu_network_has_no_bound_missing_and_a_step_function_none():
    network = ElmanRNN(0.5 * np.eye(3), None, np.ones(3), relu)
    found = diagnosis.report(network, jnp.ones(3), None, first, num_steps=500)
    assert float(found.bounds.rate) == pytest.approx(0.5, rel=1e-12)
    assert found.rate == pytest.approx(math.log(0.5), abs=1e-12)


def test_its_table_shows_each_number_beside_its_name():
    # The first two units, of determinant 0.24: ρ² is that, and with ‖W‖_F² = 16.2016, ‖W‖₂² is 16.1980, the larger root
    # of s² - 16.2016 s + 0.24². Scaled to ±0.4 off the diagonal, (0.4 - 0.2 + √(0.6² + 0.8²))/2 = 0.6; ρ(|W|) is 0.71.
    # They are held at 8, where tanh' < 1e-6, and the loss depends on them alone: Ω is (1 - 1e-6)².
    w = np.array([[0.4, 4.0, 0.0], [-0.04, 0.2, 0.0], [0.0, 0.0, 0.1]])
    x = np.array([8.0, 8.0, 0.0])
    found = report(w, x - w @ np.tanh(x), x)
    assert {line[:34].strip(): line[34:].strip() for line in str(found).splitlines()[1:]} == {
        "gradient, nats per step back": f"{found.rate:.4f}",
        "largest exponent, nats per step": f"{found.exponent:.4f}",
        "Ω per step": "1.0000",
        "units saturated, on average": "67 %",
        "γ‖W‖₂, γ min ‖DWD⁻¹‖₂": "4.025, 0.6",
        "γρ(W), no bound": "0.4899",
    }
    assert found.rate < -10 < found.exponent < 0  # that of the third unit is about ln 0.1


def test_it_prints_as_a_short_table_that_starts_with_the_verdict():
    x0 = jnp.array([0.855205891743935186])  # the upper fixed point, of multiplier 0.619143872351978987 (mpmath)
    text = str(diagnosis.report(DoyaNeuron(5.0, -2.5), x0, None, first, num_steps=100)).splitlines()
    assert text[0].startswith("vanishing: the gradient changes by 10^-20.8 over 100 steps")
    assert 3 <= len(text) <= 8
    assert all(len(line) < 100 for line in text[1:])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "at least one step.*0"),
        ({"num_steps": None}, "inputs or num_steps"),
        ({"loss": jnp.sin}, r"loss must return a float scalar.*\(2,\)"),
        ({"inputs": np.ones((3, 1)), "num_steps": 4}, "4 steps long.*3"),
    ],
)
def test_misuse_is_named(options, message):
    arguments = {"inputs": None, "loss": first, "num_steps": 5} | options
    with pytest.raises(ValueError, match=message):
        diagnosis.report(lambda x, u: x, np.ones(2), **arguments)
