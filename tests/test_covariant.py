"""Covariant Lyapunov vectors: eigenvectors where there are any, covariance along the orbit, and the ugly cases."""

import jax
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
    assert found.status == "converged"
    assert "converged" in repr(found)


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


@pytest.mark.parametrize(("angle", "tolerance"), [(0.0, 0.0), (1e-9, 1e-15), (0.3, 1e-15), (np.pi / 2, 0.0)])
def test_angles_are_as_exact_as_their_vectors(angle, tolerance):
    # entries rounded to ε/2 turn a vector by as much; signs do not matter
    pair = np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
    pair = np.eye(2) if angle == np.pi / 2 else pair
    both = jnp.asarray(np.stack([pair, pair * [1, -1]]))
    found = covariant.CovariantVectors(jnp.zeros((2, 2)), both, jnp.zeros((1, 2)), jnp.array(True)).angles()
    expected = np.broadcast_to([[0, angle], [angle, 0]], (2, 2, 2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def scaled(x, u):
    return u * x


@pytest.mark.parametrize(
    ("factors", "dtype"),
    [((1e-19, 1e-20), "float32"), ((1e-159, 1e-160), float), ((1e-200, 1e-290), float), ((1e150, 1e-160), float)],
)
def test_growth_whose_squares_leave_the_floats_is_right(factors, dtype):
    inputs = jnp.broadcast_to(jnp.array(factors, dtype), (80, 2))
    found = covariant.vectors(scaled, jnp.zeros(2, dtype), inputs, num_transient=30)
    assert found.status == "converged"
    # thirty steps of a tenth each: e^{-69}, below rounding
    rounding = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.abs(found.vectors[0]), np.eye(2), atol=rounding)
    np.testing.assert_allclose(found.growth, np.broadcast_to(np.log(factors), (20, 2)), rtol=rounding, atol=rounding)


def test_an_orbit_that_leaves_the_floats_is_a_status_in_every_lane():
    factors = jnp.stack([jnp.full((1200, 1), 0.5), jnp.full((1200, 1), 2.0)])
    found = jax.vmap(lambda u: covariant.vectors(scaled, jnp.ones(1), u, num_transient=10))(factors)
    assert found.status.tolist() == ["converged", "diverged"]


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
