import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from rnn_dynamics.jacobians import along
from rnn_dynamics.models import DoyaNeuron, PascanuRNN
from rnn_dynamics.models.reference import Linear
from rnn_dynamics.sensitivity import to_parameter, to_state
from rnn_dynamics.simulate import final_state, trajectory
from tests import reference

EPS = 2.0**-52
ONE = jnp.ones(1)
RNG = np.random.default_rng(0)
W, B, X = (jnp.asarray(RNG.normal(size=shape)) for shape in ((3, 3), (3,), (3,)))
INPUTS = jnp.asarray(RNG.normal(size=(20, 3)))


def scaled(x, u):
    """x' = u x: what is multiplied in is the input."""
    return u * x


def linear(w):
    return lambda x, _: w * x


def network(gain):
    return PascanuRNN(gain * W, np.eye(3), B)


# To the initial state


def test_the_first_is_the_identity_and_the_rest_are_products_along_the_orbit():
    step = network(1.0)
    s = np.asarray(to_state(step, X, INPUTS))
    js = np.asarray(along(step, trajectory(step, X, INPUTS), INPUTS))
    expected = [np.eye(3)]
    for j in js:
        expected.append(j @ expected[-1])
    np.testing.assert_array_equal(s[0], np.eye(3))
    np.testing.assert_allclose(s, np.array(expected), atol=20 * 16 * EPS)  # 20 products of norm below 1
    exact = jax.jit(jax.jacfwd(lambda x: final_state(step, x, INPUTS)))(X)
    np.testing.assert_allclose(s[-1], exact, atol=20 * 16 * EPS)


@pytest.mark.parametrize("growth", [5.0, -5.0])
def test_growth_beyond_the_floats_is_infinite_with_its_sign(growth):
    s = np.ravel(to_state(Linear(jnp.array([[growth]])), jnp.zeros(1), num_steps=1000))
    powers = growth ** np.arange(442)  # 5^441 = 1.8e308 is the largest below 2^1024
    np.testing.assert_allclose(s[:442], powers, rtol=442 * EPS)
    np.testing.assert_array_equal(s[442:], np.sign(growth) ** np.arange(442, 1001) * np.inf)


def test_zeros_stay_zero_and_other_directions_keep_their_own_scale():
    s = np.asarray(to_state(Linear(np.diag([5.0, -7.0, 1.0, 0.5])), jnp.zeros(4), num_steps=2001))
    assert not np.isnan(s).any()
    np.testing.assert_array_equal(s[-1], np.diag([np.inf, -np.inf, 1.0, 0.0]))
    np.testing.assert_array_equal(s[:, 3, 3], 0.5 ** np.arange(2002.0) * (np.arange(2002) <= 1022))


def test_decay_below_the_floats_is_zero():
    s = np.ravel(to_state(Linear(jnp.array([[0.1]])), ONE, num_steps=400))
    np.testing.assert_allclose(s[:300], 0.1 ** np.arange(300.0), rtol=300 * EPS)
    assert (s[310:] == 0).all()


@pytest.mark.parametrize(("factor", "between"), [(2.0, np.inf), (-2.0, np.inf), (0.5, 0.0)])
def test_what_left_the_floats_comes_back_exactly(factor, between):  # powers of two: nothing rounds
    inputs = np.concatenate([np.full(1500, factor), np.full(1500, 1 / factor)])
    s = np.ravel(to_state(scaled, jnp.array([1e-300]), inputs))
    assert s[1500] == between
    assert s[-1] == 1.0
    assert s[-2] == factor


def test_a_matrix_grows_with_its_off_diagonal_entries():  # [[2, 1], [0, 2]]^t = 2^t [[1, t/2], [0, 1]]
    s = np.asarray(to_state(Linear(np.array([[2.0, 1.0], [0.0, 2.0]])), jnp.zeros(2), num_steps=1100))
    t = np.arange(1001.0)
    np.testing.assert_array_equal(s[:1001, 0, 0], 2.0**t)
    np.testing.assert_allclose(s[:1001, 0, 1], t / 2 * 2.0**t, rtol=1000 * EPS)
    np.testing.assert_array_equal(s[-1], [[np.inf, np.inf], [0, np.inf]])


def test_sensitivity_to_the_state_on_doyas_unstable_point_is_its_closed_form():
    point = reference.DOYA_UNSTABLE_POINT
    neuron = DoyaNeuron(w=point["w"], b=point["b"], epsilon=0.1)
    s = np.ravel(to_state(neuron, jnp.array([point["x"]]), num_steps=200))
    rate = 1 + 0.1 * point["growth_per_epsilon"]
    np.testing.assert_allclose(s, rate ** np.arange(201), rtol=4 * 200 * EPS)


# To a parameter


@pytest.mark.parametrize("w", reference.LINEAR_UNIT)
def test_linear_units_have_their_closed_forms_up_to_the_second_derivative(w):
    x, by_w, twice = reference.LINEAR_UNIT[w]

    def last(w):
        return to_parameter(linear, w, jnp.array([0.5]), num_steps=50)[-1, 0]

    np.testing.assert_allclose(final_state(linear(w), jnp.array([0.5]), num_steps=50), [x], rtol=1e-11)
    np.testing.assert_allclose(last(w), by_w, rtol=1e-13)  # 12 digits of x, 15 of the others
    np.testing.assert_allclose(jax.jit(jax.grad(last))(w), twice, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(last))(w), twice, rtol=1e-13)


def test_the_first_is_zero_and_the_second_the_immediate_derivative():
    s = to_parameter(linear, 3.0, jnp.array([2.0]), num_steps=2)
    np.testing.assert_array_equal(s, [[0.0], [2.0], [12.0]])


def test_it_is_the_derivative_of_every_state():
    came = to_parameter(network, 1.2, X, INPUTS)
    expected = jax.jit(jax.jacfwd(lambda gain: trajectory(network(gain), X, INPUTS)))(1.2)
    np.testing.assert_allclose(came, expected, atol=20 * 64 * EPS)
    h = EPS ** (1 / 3)
    plus, minus = (np.asarray(trajectory(network(1.2 + s * h), X, INPUTS)) for s in (1, -1))
    np.testing.assert_allclose(came, (plus - minus) / (2 * h), atol=100 * EPS ** (2 / 3))


def test_on_doyas_unstable_point_it_is_its_closed_form():
    point = reference.DOYA_UNSTABLE_POINT
    power = (1 + 0.1 * point["growth_per_epsilon"]) ** np.arange(201)
    x0 = jnp.array([point["x"]])
    by_b, by_w = (np.ravel(to_parameter(family, p, x0, num_steps=200)) for family, p in doya(point))
    np.testing.assert_allclose(by_b, power - 1, rtol=4 * 200 * EPS, atol=4 * EPS)
    np.testing.assert_allclose(by_w, (power - 1) / 2, rtol=4 * 200 * EPS, atol=4 * EPS)


def doya(point):
    return (
        (lambda b: DoyaNeuron(w=point["w"], b=b, epsilon=0.1), point["b"]),
        (lambda w: DoyaNeuron(w=w, b=point["b"], epsilon=0.1), point["w"]),
    )


@pytest.mark.parametrize("b", [-3.0, -2.6])
def test_a_settled_neuron_answers_as_its_fixed_point_does(b):
    def family(b):
        return DoyaNeuron(w=5.0, b=b, epsilon=0.1)

    s = np.ravel(to_parameter(family, b, jnp.array([0.5]), num_steps=1000))[-1]
    # The settled state is off by 1/0.03 ulp, the derivative of dx/db by x below 5.
    np.testing.assert_allclose(s, reference.DOYA_BIAS_SENSITIVITY[b][0], rtol=200 * EPS)
    forgotten = np.ravel(to_state(family(b), jnp.array([0.5]), num_steps=1000))[-1]
    np.testing.assert_allclose(forgotten, {-3.0: 2e-31, -2.6: 3.5e-20}[b], rtol=0.3)  # computed, to a digit or two


@pytest.mark.parametrize(("w", "b"), [key for key, row in reference.ERROR_SURFACE.items() if row[1] is not None])
def test_the_error_surfaces_slopes_come_forward_in_time_as_well(w, b):
    by_w, by_b = map(np.asarray, surface(w, b))
    x = final_state(PascanuRNN(np.array([[w]]), None, np.array([b])), jnp.array([0.5]), num_steps=50).item()
    s = 1 / (1 + np.exp(-x))
    outer = 2 * (s - 0.7) * s * (1 - s)
    np.testing.assert_allclose([outer * by_w, outer * by_b], reference.ERROR_SURFACE[w, b][1:], rtol=1e-9)  # 10 digits


@jax.jit
def surface(w, b):
    def unit(w, b):
        return PascanuRNN(jnp.reshape(w, (1, 1)), None, jnp.reshape(b, (1,)))

    start = jnp.array([0.5])
    by_w = to_parameter(lambda w: unit(w, b), w, start, num_steps=50)[-1, 0]
    by_b = to_parameter(lambda b: unit(w, b), b, start, num_steps=50)[-1, 0]
    return by_w, by_b


def test_a_jacobian_near_the_largest_float_is_multiplied_without_overflow():
    # H² = 2·I for H = [[1, 1], [1, -1]]: the square of 2^1023 H is beyond the floats, with exact zeros in it.
    for n in (1, 2, 8):
        matrix = 2.0**1023 * scipy.linalg.hadamard(n)
        s = np.asarray(to_state(lambda x, u: matrix @ x, jnp.zeros(n), num_steps=3))  # noqa: B023
        np.testing.assert_array_equal(s[1], matrix)
        np.testing.assert_array_equal(s[2], np.where(np.eye(n) == 1, np.inf, 0))
        np.testing.assert_array_equal(s[3], np.sign(matrix) * np.inf)


@pytest.mark.parametrize("w", [5.0, -5.0])
def test_a_parameters_effect_beyond_the_floats_is_infinite_with_its_sign(w):
    # x_t = w^t x_0 with a small x_0 outlasts its derivative t w^(t-1) x_0 by some steps.
    s = np.ravel(to_parameter(linear, w, jnp.array([1e-300]), num_steps=870))
    xs = np.ravel(trajectory(linear(w), jnp.array([1e-300]), num_steps=870))
    t = np.arange(871)
    assert np.isfinite(xs).all()
    assert not np.isnan(s).any()
    logarithm = np.log(np.maximum(t, 1)) + (t - 1) * np.log(5.0) + np.log(1e-300)
    sign = np.sign(w) ** (t - 1.0)
    finite = logarithm < 709.78  # ln 2^1024
    assert (~finite).sum() >= 3
    # exp magnifies the rounding of its argument, some ulp of 1400.
    np.testing.assert_allclose(s[finite], (sign * (t > 0))[finite] * np.exp(logarithm[finite]), rtol=4 * 1400 * EPS)
    np.testing.assert_array_equal(s[~finite], (sign * np.inf)[~finite])


def test_a_parameters_effect_vanishes_and_comes_back():
    # x' = u x + p at x = 0: s' = u s + 1 while the input is on, and powers of two when p is out of play.
    def family(p):
        return lambda x, u: u[0] * x + p * u[1]

    factors = np.concatenate([[1.0], np.full(400, 0.5), np.full(400, 2.0)])
    on = np.zeros(801)
    on[0] = 1.0
    s = np.ravel(to_parameter(family, 0.3, jnp.zeros(1), np.stack([factors, on], axis=1)))
    np.testing.assert_array_equal(s[[1, 401, 801]], [1.0, 2.0**-400, 1.0])
    # Growing through the overflow and shrinking back, p in play at every step: s_T = Σ of the factors after each.
    factors = np.concatenate([np.full(1200, 2.0), np.full(1200, 0.5)])
    s = np.ravel(to_parameter(family, 0.0, jnp.zeros(1), np.stack([factors, np.ones(2400)], axis=1)))
    assert s[1200] == np.inf
    # Σ_{t<1200} 2^(-t-1)·2^1200·2^-1200 ... = 1 - 2^-1200 from the first half, 2 - 2^-1199 from the second.
    np.testing.assert_allclose(s[-1], 3.0, rtol=4 * EPS)


# Both


@pytest.mark.parametrize("num_steps", [0, 3])
def test_dtypes_and_lengths_are_those_of_the_trajectory(num_steps):
    single = ONE.astype(jnp.float32)
    wide = Linear(np.eye(1))
    for x0, step, dtype in ((single, wide, jnp.float64), (single, linear(2.0), jnp.float32)):
        s = to_state(step, x0, num_steps=num_steps)
        assert (s.shape, s.dtype) == ((num_steps + 1, 1, 1), dtype)
    s = to_parameter(linear, 2.0, single, num_steps=num_steps)
    assert (s.shape, s.dtype) == ((num_steps + 1, 1), jnp.float32)
    s = to_parameter(linear, jnp.array(2.0, jnp.float64), single, num_steps=num_steps)
    assert (s.shape, s.dtype) == ((num_steps + 1, 1), jnp.float64)


def test_float32_overflows_and_returns_as_float64_does():
    inputs = np.concatenate([np.full(200, 2.0), np.full(200, 0.5)]).astype(np.float32)
    tiny = jnp.array([2.0**-100], jnp.float32)
    s = np.ravel(to_state(scaled, tiny, inputs))
    assert (s[200], s[-1], s.dtype) == (np.inf, 1.0, jnp.float32)
    s = np.ravel(to_parameter(lambda p: lambda x, u: u * x + p, 0.0, tiny, inputs))
    assert (s[200], s.dtype) == (np.inf, jnp.float32)
    np.testing.assert_allclose(s[-1], 3.0, rtol=4 * 2.0**-23)
    # p in play at both ends of a decay to 2^-200, below float32: its second effect must not be scaled out of range.
    switched = np.stack([inputs[::-1], np.isin(np.arange(400), [0, 200]).astype(np.float32)], axis=1)
    s = np.ravel(to_parameter(lambda p: lambda x, u: u[0] * x + p * u[1], 0.0, tiny, switched))
    np.testing.assert_array_equal(s[[1, 100, 201]], np.float32([1.0, 2.0**-99, 1.0]))


def test_second_derivatives_see_entries_that_are_zero():  # A = [[a, 0], [p, a²]]: A² = [[a², 0], [p (a + a²), a⁴]]
    def family(p):
        return Linear(jnp.array([[3.0, 0.0], [0.0, 9.0]]) + p * jnp.array([[0.0, 0.0], [1.0, 0.0]]))

    for derivative in (jax.jacfwd, jax.jacrev):
        came = jax.jit(derivative(lambda p: to_state(family(p), jnp.ones(2), num_steps=2)[-1]))(0.0)
        np.testing.assert_allclose(came, [[0, 0], [12, 0]], atol=64 * EPS)


# Misuse


def shrinking(x, _):
    return x[:1]


@pytest.mark.parametrize(
    "function",
    [to_state, functools.partial(to_parameter, linear), functools.partial(to_parameter, lambda _: shrinking)],
)
@pytest.mark.parametrize(
    ("x0", "inputs", "num_steps", "message"),
    [
        (np.array(1.0), None, 3, r"x0 must be a float array of shape \(n,\); got float64 of shape \(\)"),
        (np.array([np.inf]), None, 3, "x0 must be finite; got 1 NaN or infinite of 1 values"),
        (np.ones(2, int), None, 3, r"x0 must be a float array of shape \(n,\); got int64 of shape \(2,\)"),
        (np.ones(2), None, None, "inputs or num_steps must be given; got neither"),
        (np.ones(2), None, -2, "num_steps must be a whole number, at least 0; got -2"),
        (np.ones(2), np.ones(2), 3, "inputs must be 3 steps long, as num_steps says; got 2"),
        (np.ones(2), np.array([np.nan, 0.0]), None, "inputs must be finite; got 1 NaN or infinite of 2 values"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_of_the_orbit_is_refused_by_name(function, x0, inputs, num_steps, message):
    first = linear(2.0) if function is to_state else 2.0
    with pytest.raises(ValueError, match=message):
        function(first, x0, inputs, num_steps=num_steps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_state(shrinking, np.ones(2), num_steps=1), r"step must map a float state of shape \(2,\)"),
        (
            lambda: to_parameter(lambda _: shrinking, 1.0, np.ones(2), num_steps=1),
            r"family\(p\) must map a float state of shape",
        ),
        (lambda: to_parameter(linear, float("nan"), ONE, num_steps=1), "p must be finite; got 1 NaN or infinite of 1"),
        (
            lambda: to_parameter(linear, np.ones(1), ONE, num_steps=1),
            r"p must be a float array of shape \(\); got float64",
        ),
        (lambda: to_parameter(linear, "w", ONE, num_steps=1), "p must be an array of numbers; got str"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
