"""The report says what the mathematics says: vanishing, exploding and healthy gradients, each for its reason."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import diagnosis
from rnn_dynamics.activations import relu, tanh
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN


def first(x):
    return x[0]


def orthogonal(n, c):
    return c * np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]


def test_a_contraction_vanishes_and_the_weights_prove_it():
    network = ElmanRNN(orthogonal(6, 0.5), None, jnp.zeros(6), tanh)
    found = diagnosis.report(network, jnp.zeros(6), None, first, num_steps=60)
    assert found.verdict == "vanishing"
    assert found.rate == pytest.approx(math.log(0.5), abs=1e-12)
    assert found.exponent == pytest.approx(math.log(0.5), abs=1e-12)
    assert found.omega == pytest.approx(0.25, abs=1e-12)  # (1 - 0.5)²
    assert "weights alone prove" in found.sentence
    assert not np.asarray(found.saturated).any()


def test_an_isometry_is_healthy():
    network = ElmanRNN(orthogonal(6, 1.0), None, jnp.zeros(6), tanh)
    found = diagnosis.report(network, jnp.zeros(6), None, first, num_steps=500)
    assert found.verdict == "healthy"
    assert found.omega == pytest.approx(0, abs=1e-12)


def test_an_expansion_explodes_with_its_exponent():
    unit = PascanuRNN(jnp.array([[1.2]]), None, jnp.zeros(1), tanh)  # at the unstable point 0: 1.2 a step
    found = diagnosis.report(unit, jnp.zeros(1), None, first, num_steps=100)
    assert found.verdict == "exploding"
    assert found.rate == pytest.approx(math.log(1.2), abs=1e-12)
    assert "nearby orbits part" in found.sentence
    assert f"10^{100 * math.log10(1.2):+.1f}" in found.sentence


def test_saturation_is_named_as_the_reason():
    # b = 8 holds the first two of three units at x ≈ 8, where tanh' = 4e-7; the third sits at 0
    network = PascanuRNN(2.0 * jnp.eye(3), None, jnp.array([8.0, 8.0, 0.0]), tanh)
    found = diagnosis.report(network, jnp.array([9.0, 9.0, 0.0]), None, first, num_steps=20)
    np.testing.assert_array_equal(found.saturated, [1.0, 1.0, 0.0])
    assert found.verdict == "vanishing"
    assert "67 % of the units are saturated" in found.sentence


def test_a_gradient_that_is_exactly_zero_has_vanished():
    found = diagnosis.report(lambda x, u: 0.0 * x, jnp.ones(2), None, first, num_steps=3)
    assert found.verdict == "vanishing"
    assert "exactly zero" in found.sentence
    assert found.bounds is None
    assert found.saturated is None


def test_a_loss_without_gradient_counts_as_vanished():
    assert (
        diagnosis.report(lambda x, u: x, jnp.ones(2), None, lambda x: jnp.zeros(()), num_steps=3).verdict == "vanishing"
    )


def test_a_diverging_orbit_is_said_to_diverge():
    found = diagnosis.report(lambda x, u: x**2, jnp.array([2.0]), None, first, num_steps=30)
    assert found.verdict == "diverged"
    assert "floating-point" in found.sentence


def test_a_relu_network_has_no_bound_missing_and_a_step_function_none():
    found = diagnosis.report(
        ElmanRNN(0.5 * jnp.eye(2), None, jnp.ones(2), relu), jnp.ones(2), None, first, num_steps=30
    )
    assert float(found.bounds.rate) == pytest.approx(0.5, rel=1e-12)
    assert found.rate == pytest.approx(math.log(0.5), abs=1e-12)


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
        ({"inputs": jnp.ones((3, 1)), "num_steps": 4}, "4 steps long.*3"),
    ],
)
def test_misuse_is_named(options, message):
    arguments = {"inputs": None, "loss": first, "num_steps": 5} | options
    with pytest.raises(ValueError, match=message):
        diagnosis.report(lambda x, u: x, jnp.ones(2), **arguments)
