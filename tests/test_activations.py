import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics.activations import Activation, identity, relu, sigmoid, tanh

EPS = 2.0**-52
# Ordinary arguments, the place where 1 - tanh² and σ(1-σ) have become exactly 0, and the tails down to underflow.
POINTS = [-700.0, -300.0, -38.0, -20.0, -3.0, -0.7, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.7, 3.0, 20.0, 38.0, 300.0, 700.0]


def exact_bell(z):
    """σ' with 50 digits."""
    e = mpmath.exp(-abs(mpmath.mpf(z)))
    return e / (1 + e) ** 2


def derivatives(function, order):
    for _ in range(order):
        function = jax.grad(function)
    return np.asarray(jax.jit(jax.vmap(function))(jnp.array(POINTS)))


@pytest.fixture(autouse=True)
def _fifty_digits():
    with mpmath.workdps(50):
        yield


@pytest.mark.parametrize("activation", [sigmoid, tanh], ids=lambda a: a.name)
def test_values_keep_their_relative_accuracy_in_the_tails(activation):
    exact = {"sigmoid": lambda z: 1 / (1 + mpmath.exp(-mpmath.mpf(z))), "tanh": mpmath.tanh}[activation.name]
    # exp, a sum and a quotient (tanh: a rational function), each good to 2 ulp.
    np.testing.assert_allclose(activation(jnp.array(POINTS)), [float(exact(z)) for z in POINTS], rtol=8 * EPS)


@pytest.mark.parametrize("activation", [sigmoid, tanh], ids=lambda a: a.name)
def test_slopes_keep_their_relative_accuracy_in_the_tails(activation):
    # tanh'(z) = 4 σ'(2z). 1e-300 is where e^-700 lies; below the smallest normal number (z = 708) nothing is promised.
    exact = {"sigmoid": exact_bell, "tanh": lambda z: 4 * exact_bell(2 * z)}[activation.name]
    expected = np.array([float(exact(z)) for z in POINTS])
    normal = expected > 1e-300
    assert normal.sum() >= 13
    for came in (activation.derivative(jnp.array(POINTS)), derivatives(activation, 1)):
        np.testing.assert_allclose(np.asarray(came)[normal], expected[normal], rtol=8 * EPS)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("activation", [sigmoid, tanh], ids=lambda a: a.name)
def test_higher_derivatives_are_those_of_the_function(activation, order):
    # Polynomials in s = σ(z) (in t = tanh z) of degree 5 at most: the sums cancel, so the error is absolute,
    # some 20 operations on terms below 50.
    polynomials = {
        "sigmoid": [
            lambda s: 1 - 2 * s,
            lambda s: 1 - 6 * s + 6 * s**2,
            lambda s: (1 - 2 * s) * (1 - 12 * s + 12 * s**2),
        ],
        "tanh": [lambda t: -2 * t, lambda t: 6 * t**2 - 2, lambda t: t * (16 - 24 * t**2)],
    }[activation.name]
    if activation is sigmoid:
        expected = [exact_bell(z) * polynomials[order - 2](1 / (1 + mpmath.exp(-mpmath.mpf(z)))) for z in POINTS]
    else:
        expected = [4 * exact_bell(2 * z) * polynomials[order - 2](mpmath.tanh(z)) for z in POINTS]
    np.testing.assert_allclose(derivatives(activation, order), [float(v) for v in expected], atol=20 * 50 * EPS)


@pytest.mark.parametrize("activation", [sigmoid, tanh, relu, identity], ids=lambda a: a.name)
def test_slope_and_curvature_are_the_suprema(activation):
    # σ'' is largest at ln(2 ± √3), tanh'' at artanh(1/√3) = half of that; the grid holds both points and 0.
    extremes = np.log(2 + np.sqrt(3)) * np.array([-1, -0.5, 0, 0.5, 1])
    z = np.concatenate([np.linspace(-10, 10, 4001), extremes])
    slope = np.abs(jax.jit(activation.derivative)(z)).max()
    curvature = np.abs(jax.jit(jax.vmap(jax.grad(jax.grad(activation))))(z)).max()
    assert slope == pytest.approx(activation.slope, rel=4 * EPS)
    if np.isfinite(
        activation.curvature
    ):  # a corner has no second derivative; the supremum of its quotients is infinite
        assert curvature == pytest.approx(activation.curvature, rel=8 * EPS, abs=0)


def test_names_and_bounds_are_those_of_the_papers():
    assert [a.name for a in (sigmoid, tanh, relu, identity)] == ["sigmoid", "tanh", "relu", "identity"]
    assert (sigmoid.slope, tanh.slope, relu.slope, identity.slope) == (0.25, 1.0, 1.0, 1.0)
    assert sigmoid.curvature == pytest.approx(1 / (6 * 3**0.5), rel=EPS)
    assert tanh.curvature == pytest.approx(4 / (3 * 3**0.5), rel=EPS)
    assert (relu.curvature, identity.curvature) == (float("inf"), 0.0)


def test_relu_and_identity_are_exact():
    z = jnp.array([-2.0, -0.5, 0.5, 2.0])
    np.testing.assert_array_equal(relu(z), [0, 0, 0.5, 2])
    np.testing.assert_array_equal(relu.derivative(z), [0, 0, 1, 1])
    np.testing.assert_array_equal(identity(z), z)
    np.testing.assert_array_equal(identity.derivative(z), np.ones(4))


def test_infinity_saturates_and_nan_stays_nan():
    z = jnp.array([-jnp.inf, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(sigmoid(z), [0, 1, np.nan])
    np.testing.assert_array_equal(tanh(z), [-1, 1, np.nan])
    for activation in (sigmoid, tanh):
        np.testing.assert_array_equal(activation.derivative(z), [0, 0, np.nan])
        np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(activation.derivative)))(z), [0, 0, np.nan])


@pytest.mark.parametrize("activation", [sigmoid, tanh, relu, identity], ids=lambda a: a.name)
def test_float32_stays_float32_and_keeps_its_tail(activation):
    z = np.array([-80.0, -40.0, 0.5, 40.0], np.float32)
    value, slope = jax.jit(lambda z: (activation(z), activation.derivative(z)))(z)
    assert value.dtype == slope.dtype == jnp.float32
    if activation is sigmoid:  # e^-80 = 1.8e-35 is a normal float32, with z exact: exp is good to 2 ulp there
        np.testing.assert_allclose(slope, [float(exact_bell(float(x))) for x in z], rtol=16 * 2.0**-24)


def test_an_activation_of_ones_own_is_differentiated_by_jax():
    softsign = Activation("softsign", lambda z: z / (1 + jnp.abs(z)), slope=1.0, curvature=2.0)
    z = np.array([-3.0, 0.5])
    np.testing.assert_allclose(jax.jit(softsign)(z), [-0.75, 1 / 3], rtol=4 * EPS)
    np.testing.assert_allclose(jax.jit(softsign.derivative)(z), [1 / 16, 4 / 9], rtol=8 * EPS)  # (1 + |z|)^-2


def test_an_activation_is_static_under_jit():
    assert jax.tree.leaves(sigmoid) == []
    np.testing.assert_array_equal(jax.jit(lambda a, z: a(z))(identity, jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", jnp.sin, -1.0, 1.0), "slope must be a number at least 0; got -1.0"),
        (("a", jnp.sin, float("nan"), 1.0), "slope must be a number at least 0; got nan"),
        (("a", jnp.sin, 1.0, -0.5), "curvature must be a number at least 0; got -0.5"),
        (("a", jnp.sin, 1.0, float("nan")), "curvature must be a number at least 0; got nan"),
        (("a", "tanh", 1.0, 1.0), "function must be callable; got str"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bounds_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Activation(*arguments)
