"""Beer's continuous-time network: its equation, its equilibria, and the published oscillator."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from rnn_dynamics import activations, fixed_points, flows
from rnn_dynamics.models import CTRNN, DoyaNeuron, PascanuRNN
from rnn_dynamics.models.reference import oscillator
from tests import reference
from tests.contracts import EPS, check_map

RNG = np.random.default_rng(3)
W, THETA, TAU = RNG.normal(size=(3, 3)), RNG.normal(size=3), np.array([0.5, 1.0, 4.0])
Y, U = jnp.asarray(RNG.normal(size=3)), jnp.asarray(RNG.normal(size=3))


@pytest.mark.parametrize("u", [U, None], ids=["driven", "autonomous"])
def test_it_passes_the_contract(u):
    check_map(CTRNN(W, THETA, TAU), Y, u)


def test_its_velocity_is_its_equation():
    expected = (W @ expit(Y + THETA) - np.asarray(Y) + np.asarray(U)) / TAU
    np.testing.assert_allclose(CTRNN(W, THETA, TAU)(Y, U), expected, rtol=0, atol=16 * EPS * 10)  # 5 terms below 10
    one = CTRNN(W, THETA, 2.0, activations.tanh)
    np.testing.assert_allclose(one(Y), (W @ np.tanh(Y + THETA) - np.asarray(Y)) / 2, rtol=0, atol=16 * EPS * 10)


def test_its_equilibria_are_the_fixed_points_of_pascanus_network():
    network = PascanuRNN(W, None, jnp.asarray(THETA))
    x = fixed_points.find(network, jnp.asarray(np.asarray(Y)[None] + THETA)).x[0]
    # fixed to 100 ε in each of two terms below 10
    np.testing.assert_allclose(CTRNN(W, THETA, TAU)(x - THETA), 0, atol=1000 * EPS)


def test_one_neuron_is_doyas_in_continuous_time():
    # y = w x - and its velocity w times Doya's: τ = 1, θ = b
    neuron, doya, x = CTRNN(jnp.array([[5.0]]), jnp.array([-2.4]), 1.0), DoyaNeuron(5.0, -2.4), jnp.array([0.3])
    came, expected = jax.jit(lambda x: (neuron(5.0 * x), 5.0 * doya.velocity(x)))(x)
    np.testing.assert_allclose(came, expected, rtol=0, atol=16 * EPS * 5)


@equinox.filter_jit
def at_its_centre(network):
    return network(-network.theta), network.jacobian(-network.theta)


@pytest.mark.parametrize("c", [0.75, 1.0, 2.0])
def test_the_oscillators_centre_is_an_equilibrium_with_its_closed_form_eigenvalues(c):
    velocity, jacobian = at_its_centre(oscillator(c))
    np.testing.assert_allclose(velocity, 0, atol=8 * EPS)
    # W/4 - I = [[1/8, c/4], [-c/4, 1/8]]
    values = np.linalg.eigvals(jacobian)
    np.testing.assert_allclose(sorted(values.imag), [-c / 4, c / 4], rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(values.real, 1 / 8, rtol=0, atol=16 * EPS)


def test_the_oscillators_cycle_has_its_published_period_and_range():
    start = jnp.array(reference.OSCILLATOR["crossing"])
    period = reference.OSCILLATOR["period"]
    xs = np.asarray(flows.integrate(oscillator(), start, jnp.asarray(np.linspace(0.0, period, 2001))))
    # the period is given to 1e-7, the crossing to 1e-8, and the cycle attracts; its speed is below 1
    np.testing.assert_allclose(xs[-1], start, rtol=0, atol=3e-7)
    for i, name in enumerate(("y1", "y2")):
        # between two of 2,001 samples, 0.0145 apart, a parabola of curvature below 1 is off by (0.00725)²/2 at most
        np.testing.assert_allclose([xs[:, i].min(), xs[:, i].max()], reference.OSCILLATOR[name], atol=3e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CTRNN(jnp.ones((2, 3)), jnp.zeros(2), 1.0), r"w must be a float array of shape \(n, n\)"),
        (lambda: CTRNN(W, jnp.zeros(2), 1.0), r"theta must be a float array of shape \(3,\).*\(2,\)"),
        (lambda: CTRNN(W, THETA, jnp.ones(2)), r"tau must be a float array of shape \(3,\)"),
        (lambda: CTRNN(W, THETA, jnp.array([1.0, 0.0, 1.0])), "tau must be positive"),
        (lambda: CTRNN(W, THETA, float("nan")), "tau must be finite"),
        (lambda: CTRNN(W, THETA, 1.0, jnp.tanh), "activation must be of type Activation"),
        (lambda: CTRNN(W, THETA, 1.0)(jnp.zeros(2)), r"x must be a float array of shape \(3,\)"),
        (lambda: CTRNN(W, THETA, 1.0)(Y, jnp.zeros(2)), r"u must be a float array of shape \(3,\)"),
        (lambda: oscillator(float("inf")), "c must be finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_refuses_what_it_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
