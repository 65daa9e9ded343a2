"""Covariant Lyapunov vectors: eigenvectors where there are any, covariance along the orbit, and the ugly cases."""

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import covariant, jacobians, lyapunov
from rnn_dynamics.models import PascanuRNN
from rnn_dynamics.models.reference import Henon, Linear


def test_of_a_linear_map_they_are_the_eigenvectors():
    change = np.random.default_rng(2).standard_normal((4, 4))
    change /= np.linalg.norm(change, axis=0)
    matrix = change @ np.diag([1.6, -1.1, 0.6, 0.3]) @ np.linalg.inv(change)
    found = covariant.vectors(Linear(matrix), jnp.zeros(4), num_steps=250, num_transient=110)
    # e^{-gap · 110} with the least gap ln(1.6/1.1): 1e-18; left is rounding times the eigenvectors' condition
    cosines = np.abs(np.einsum("sni,ni->si", found.vectors, change))
    np.testing.assert_allclose(cosines, 1, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.growth, np.broadcast_to(np.log([1.6, 1.1, 0.6, 0.3]), (30, 4)), atol=1e-9)
    expected = np.arccos(np.abs(change.T @ change).clip(max=1))
    np.testing.assert_allclose(found.angles()[0], expected, atol=1e-7)  # arccos near 1 loses half the digits


def test_the_jacobian_maps_each_onto_a_multiple_of_the_next():
    found = covariant.vectors(Henon(), jnp.array([0.1, 0.1]), num_steps=700, num_transient=100)
    pushed = jacobians.along(Henon(), found.xs) @ found.vectors[:-1]
    scaled = found.vectors[1:] * jnp.exp(found.growth)[:, None, :]
    sign = jnp.sign((pushed * scaled).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(pushed, sign * scaled, rtol=0, atol=1e-12)


def test_their_mean_growth_is_the_spectrum():
    found = covariant.vectors(Henon(), jnp.array([0.1, 0.1]), num_steps=5200, num_transient=100)
    same = lyapunov.spectrum(Henon(), jnp.array([0.1, 0.1]), num_steps=5100, num_transient=100)
    # both average ln|det J| exactly; each exponent differs by a bounded term (the angle) over 5000 steps
    np.testing.assert_allclose(found.growth.mean(axis=0), same.exponents, rtol=0, atol=5e-3)
    assert float(lyapunov.kaplan_yorke(same.exponents)) == pytest.approx(1.26, abs=0.01)


def test_the_first_few_of_a_network_are_those_of_the_full_set():
    network = PascanuRNN.initialise("gaussian", 10, 2, seed=3, gain=1.4)
    inputs = jnp.asarray(np.random.default_rng(1).standard_normal((600, 2)))
    x0 = jnp.zeros(10)
    full = covariant.vectors(network, x0, inputs, num_transient=280)
    few = covariant.vectors(network, x0, inputs, num_transient=280, num_exponents=2)
    cosines = np.abs((full.vectors[..., :2] * few.vectors).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, rtol=0, atol=1e-6)


def test_a_lost_direction_is_the_kernel_and_not_nan():
    matrix = jnp.array([[0.5, 1.0], [0.0, 0.0]])  # kernel (2, -1)/√5
    found = covariant.vectors(Linear(matrix), jnp.zeros(2), num_steps=30, num_transient=10)
    assert np.isfinite(found.vectors).all()
    np.testing.assert_allclose(np.abs(found.vectors[0, :, 1]), np.array([2, 1]) / np.sqrt(5), atol=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_exponents": 3}, "num_exponents.*3"), ({"num_transient": 5}, "num_transient.*taken twice.*5"),
        ({"num_transient": -1}, "num_transient"), ({"num_steps": None}, "inputs or num_steps"),
    ],
)  # fmt: skip
def test_misuse_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        covariant.vectors(Henon(), jnp.zeros(2), **({"num_steps": 10, "num_transient": 1} | options))
