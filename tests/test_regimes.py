"""Over a plane of parameters: as many stable points, such periods and exponents as the closed forms have."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics.bifurcation import regimes
from rnn_dynamics.models import DoyaNeuron
from rnn_dynamics.models.reference import Logistic

STARTS = jnp.array([[0.0], [0.5], [1.0]])


def doya(w, b):
    return DoyaNeuron(w, b)


@pytest.fixture(scope="module")
def plane():
    ws, bs = jnp.linspace(-11.75, 7.75, 14), jnp.linspace(-7.6, 12.2, 12)
    return ws, bs, regimes(doya, ws, bs, STARTS, num_transient=30_000, num_steps=200)


def test_doyas_neuron_has_two_stable_points_between_its_folds_one_outside_and_none_between_its_flips(plane):
    ws, bs, found = plane
    for i, w in enumerate(np.asarray(ws)):
        expected = np.ones(len(bs), int)
        if w > 4:
            (upper, _), (lower, _) = (map(float, fold) for fold in DoyaNeuron.folds(w))
            expected[(bs > min(upper, lower)) & (bs < max(upper, lower))] = 2
        if w < -4:  # flips: w x (1 - x) = -1, b = ln(x/(1-x)) - w x
            x = (1 + np.array([-1, 1]) * np.sqrt(1 + 4 / w)) / 2
            low, high = np.sort(np.log(x / (1 - x)) - w * x)
            expected[(bs > low) & (bs < high)] = 0
        np.testing.assert_array_equal(found.num_stable[i], expected)


def test_where_no_point_is_stable_all_orbits_have_period_two_and_exponents_are_negative(plane):
    _, _, found = plane
    none = np.asarray(found.num_stable) == 0
    # the middle start may rest on the unstable point by chance: ½ is it where b = -w/2, which is not on the grid
    np.testing.assert_array_equal(np.asarray(found.period)[none], 2)
    np.testing.assert_array_equal(np.asarray(found.period)[~none], 1)
    assert (np.asarray(found.exponent) < 0).all()


def test_an_exponent_is_the_logarithm_of_the_multiplier():
    found = regimes(doya, jnp.array([5.0]), jnp.array([-2.5]), STARTS)
    # w x (1 - x) = 0.619143872351978987 at both attractors; at x = ½, where the second start rests, 5/4
    np.testing.assert_allclose(found.exponent[0, 0], np.log([0.619143872351979, 1.25, 0.619143872351979]), atol=1e-12)
    assert int(found.num_stable[0, 0]) == 2  # the orbit at rest on the unstable point does not count


@pytest.mark.parametrize(
    ("weights", "start", "exponent", "num_stable"),
    [
        ([[0.5, -0.3], [-0.3, 0.5]], [1.0, 0.5], np.log(0.8), 1),  # (1, 1) belongs to the other eigenvalue, 0.2
        ([[0.5, -1.0], [-1.0, 0.5]], [0.0, 0.0], np.log(1.5), 0),  # a saddle
        ([[1.0, -1.0], [0.5, -0.5]], [1.0, 0.3], np.log(0.5), 1),  # (1, 1) is lost at once
        ([[0.5, 1.0], [0.0, 0.5]], [1.0, 0.3], np.log(0.5), 1),  # defective
        ([[0.0, 1.0], [0.0, 0.0]], [1.0, 0.3], -np.inf, 1),  # nothing is left after two steps
        ([[0.6, 0.8], [-0.8, 0.6]], [0.0, 0.0], 0.0, 0),  # neither shrinks nor grows
    ],
)
def test_the_exponent_at_rest_is_that_of_the_multipliers_however_symmetric_the_network(
    weights, start, exponent, num_stable
):
    found = regimes(Weights, jnp.ones(1), jnp.array([0.0]), jnp.array([start]), jnp.array(weights))
    assert found.period.tolist() == [[[1]]]
    # at rest in 0; a defective eigenvalue moves by the root of what rounding there is
    np.testing.assert_allclose(found.exponent, [[[exponent]]], rtol=0, atol=1e-7)
    assert found.num_stable.tolist() == [[num_stable]]


class Weights(equinox.Module):
    """x' = W tanh(x), W being the input: one compiled program for all."""

    p: jax.Array
    q: jax.Array

    def __call__(self, x, u):
        return self.p * (u @ jnp.tanh(x)) + self.q


def test_the_tolerance_says_when_an_orbit_rests_and_when_two_points_are_one():
    def decay(p, q):
        return lambda x, u: p * x + q

    arguments = decay, jnp.array([0.99]), jnp.zeros(1), jnp.array([[1.0], [-1.0]])
    counts = {"num_transient": 500, "num_steps": 200}
    # |x| = 0.99^700 = 9e-4: it closes to 9e-6, and the two are 1.8e-3 apart
    assert regimes(*arguments, **counts, tol=1e-4).num_stable.tolist() == [[1]]
    assert regimes(*arguments, **counts).num_stable.tolist() == [[0]]


def test_chaos_has_no_period_and_divergence_no_exponent():
    found = regimes(lambda r, _: Logistic(r), jnp.array([3.9]), jnp.array([0.0]), jnp.array([[0.3], [2.0]]))
    assert found.period[0, 0].tolist() == [0, -1]
    assert found.exponent[0, 0, 0] > 0.4  # 0.49 at r = 3.9
    assert np.isnan(found.exponent[0, 0, 1])
    assert int(found.num_stable[0, 0]) == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps": jnp.zeros(0)}, "must not be empty"),
        ({"qs": jnp.zeros((2, 2))}, "qs must be a float array"),
        ({"starts": jnp.zeros(3)}, r"starts must be a float array of shape \(s, n\)"),
        ({"num_steps": 0}, "num_steps.*0"),
        ({"num_transient": -1}, "num_transient.*-1"),
        ({"max_period": 0}, "max_period.*0"),
        ({"tol": -1.0}, "tol must be positive"),
        ({"family": lambda p, q: p * jnp.ones(1)}, "family must return a map"),
    ],
)
def test_misuse_is_named(change, message):
    arguments = {"family": doya, "ps": jnp.ones(1), "qs": jnp.ones(1), "starts": STARTS} | change
    positional = [arguments.pop(name) for name in ("family", "ps", "qs", "starts")]
    with pytest.raises(ValueError, match=message):
        regimes(*positional, **arguments)
