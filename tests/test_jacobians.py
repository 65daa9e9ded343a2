import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import activations
from rnn_dynamics.jacobians import along, growth_on_cycle, jacobian, push, transition
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.models.reference import Henon, Linear, Logistic
from rnn_dynamics.simulate import final_state, trajectory
from tests import reference

EPS = 2.0**-52
RNG = np.random.default_rng(0)
W, W_IN, B = (jnp.asarray(RNG.normal(size=shape)) for shape in ((3, 3), (3, 2), (3,)))
X = jnp.asarray(RNG.normal(size=3))
INPUTS = jnp.asarray(RNG.normal(size=(30, 2)))
NETWORK = PascanuRNN(W, W_IN, B, activations.tanh)


class Spy(PascanuRNN):
    """A network whose own derivative is a lie that shows."""

    def jacobian(self, x, u=None):
        return jnp.full((3, 3), 7.0) + 0 * x + (0 if u is None else u.sum())


# One step


def test_the_jacobian_of_a_linear_map_is_its_matrix():
    np.testing.assert_array_equal(jacobian(Linear(W), X), W)
    np.testing.assert_array_equal(jacobian(lambda x, _: W @ x, X), W)


def test_rows_answer_and_columns_ask():
    np.testing.assert_array_equal(
        jacobian(lambda x, _: jnp.stack([x[1] ** 2, 0 * x[0]]), jnp.array([5.0, 3.0])), [[0, 6], [0, 0]]
    )


def test_the_jacobian_of_a_network_is_w_diag_slope():
    slope = 1 - np.tanh(X) ** 2
    np.testing.assert_allclose(jacobian(NETWORK, X, INPUTS[0]), np.asarray(W) * slope, atol=16 * EPS)
    np.testing.assert_allclose(jacobian(lambda x, u: NETWORK(x, u), X, INPUTS[0]), np.asarray(W) * slope, atol=16 * EPS)


def test_the_jacobians_of_henon_and_logistic_are_their_closed_forms():
    np.testing.assert_allclose(jacobian(Henon(), jnp.array([0.5, 0.1])), [[-2 * 1.4 * 0.5, 1], [0.3, 0]], rtol=4 * EPS)
    np.testing.assert_allclose(jacobian(Logistic(3.5), jnp.array([0.2])), [[3.5 * 0.6]], rtol=4 * EPS)


def test_a_map_that_knows_its_derivative_is_asked_for_it_with_its_input():
    spy = Spy(W, W_IN, B)
    np.testing.assert_array_equal(jacobian(spy, X), np.full((3, 3), 7.0))
    np.testing.assert_array_equal(jacobian(spy, X, np.ones(2)), np.full((3, 3), 9.0))
    np.testing.assert_array_equal(along(spy, jnp.stack([X, X]), np.ones((1, 2))), np.full((1, 3, 3), 9.0))


def test_the_input_is_seen():
    np.testing.assert_array_equal(jacobian(lambda x, u: u["gain"] * x, jnp.ones(1), {"gain": 3.0}), [[3.0]])


def test_float32_stays_float32_and_the_wider_dtype_wins():
    single = X.astype(jnp.float32)
    assert jacobian(lambda x, _: 2.0 * x, single).dtype == jnp.float32
    assert jacobian(Linear(W.astype(jnp.float32)), single).dtype == jnp.float32
    assert jacobian(Linear(W), single).dtype == jnp.float64
    assert along(Linear(W), jnp.stack([single, single])).dtype == jnp.float64


# Along a trajectory


@pytest.mark.parametrize("step", [NETWORK, ElmanRNN.from_pascanu(NETWORK), lambda x, u: jnp.tanh(W @ x + W_IN @ u)])
def test_along_is_the_derivative_of_every_step(step):
    xs = trajectory(step, X, INPUTS)
    js = np.asarray(along(step, xs, INPUTS))
    assert js.shape == (30, 3, 3)
    h = EPS ** (1 / 3)

    def difference(x, u, v):
        return (step(x + h * v, u) - step(x - h * v, u)) / (2 * h)

    columns = jax.vmap(jax.vmap(difference, in_axes=(None, None, 0), out_axes=1), in_axes=(0, 0, None))
    # h²/6 of third derivatives below 2 (tanh) times 4³, and ε/h of terms below 10.
    np.testing.assert_allclose(js, jax.jit(columns)(xs[:-1], INPUTS, np.eye(3)), atol=100 * EPS ** (2 / 3))
    np.testing.assert_allclose(js[7], jacobian(step, xs[7], INPUTS[7]), atol=16 * EPS)


def test_along_an_autonomous_orbit():
    js = along(lambda x, _: x**2, jnp.array([[2.0], [4.0], [16.0]]))
    np.testing.assert_array_equal(np.ravel(js), [4, 8])


def test_along_a_single_state_there_is_no_step():
    assert along(NETWORK, X[None], INPUTS[:0]).shape == (0, 3, 3)
    assert along(NETWORK, X[None]).shape == (0, 3, 3)


def layer(x, u):
    w, b = u
    return jnp.tanh(w @ x + b)


def test_depth_is_time():  # the Jacobian of each layer is diag(1 - h²) W
    weights, biases = RNG.normal(size=(5, 3, 3)), RNG.normal(size=(5, 3))
    hs = trajectory(layer, X, (weights, biases))
    js = along(layer, hs, (weights, biases))
    np.testing.assert_allclose(js, (1 - np.asarray(hs)[1:, :, None] ** 2) * weights, atol=32 * EPS)
    whole = transition(layer, X, (weights, biases)).to_array()
    product = np.linalg.multi_dot(list(np.asarray(js)[::-1]))
    np.testing.assert_allclose(whole, product, atol=1e3 * EPS * np.linalg.norm(product))


# Perturbations carried along


@pytest.mark.parametrize("step", [NETWORK, lambda x, u: NETWORK(x, u)])
def test_a_push_is_the_step_and_the_jacobian_times_the_perturbations(step):
    tangents = jnp.asarray(RNG.normal(size=(3, 2)))
    x, v = push(step, X, INPUTS[0], tangents)
    np.testing.assert_allclose(x, NETWORK(X, INPUTS[0]), atol=16 * EPS)
    slope = 1 - np.tanh(X) ** 2
    np.testing.assert_allclose(v, np.asarray(W) * slope @ np.asarray(tangents), atol=64 * EPS)


def test_a_push_asks_the_map_for_its_derivative():
    _, v = push(Spy(W, W_IN, B), X, np.ones(2), jnp.asarray(np.eye(3)))
    np.testing.assert_array_equal(v, np.full((3, 3), 9.0))


def test_a_push_of_nothing_is_the_step_and_its_dtype_is_the_maps():
    assert push(lambda x, _: 2 * x, X, None, jnp.ones((3, 0)))[1].shape == (3, 0)
    for step, dtype in ((lambda x, _: 2 * x, jnp.float32), (Linear(W), jnp.float64), (lambda x, _: W @ x, jnp.float64)):
        single = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
        came = jax.eval_shape(lambda x, v, step=step: push(step, x, None, v), *single)
        assert [part.dtype for part in came] == [dtype, dtype]


# The product of all


def test_no_steps_are_the_identity():
    np.testing.assert_array_equal(transition(NETWORK, X, INPUTS[:0]).to_array(), np.eye(3))


@pytest.mark.parametrize("step", [NETWORK, ElmanRNN.from_pascanu(NETWORK)])
def test_the_transition_is_the_product_along_and_the_derivative_of_the_last_state(step):
    came = transition(step, X, INPUTS[:10])
    js = np.asarray(along(step, trajectory(step, X, INPUTS[:10]), INPUTS[:10]))
    # Ten products of matrices of norm below 5: backward stable in each factor.
    tolerance = 10 * 16 * EPS * np.prod(np.linalg.norm(js, 2, axis=(1, 2)))
    np.testing.assert_allclose(came.to_array(), np.linalg.multi_dot(list(js[::-1])), atol=tolerance)
    derivative = jax.jit(jax.jacfwd(lambda x: final_state(step, x, INPUTS[:10])))(X)
    np.testing.assert_allclose(came.to_array(), derivative, atol=tolerance)
    # Volumes shrink as the determinants say; those of matrices of condition below 1e4 are known to 1e4 ε each.
    np.testing.assert_allclose(came.log_abs_det(), np.linalg.slogdet(js)[1].sum(), rtol=0, atol=10 * 1e4 * EPS)


def test_in_parallel_over_time_the_transition_is_the_same():
    inputs = np.random.default_rng(5).standard_normal(
        (1301, *INPUTS.shape[1:])
    )  # two stretches of 651, one of them filled up
    for drive in (inputs, INPUTS[:0]):
        ours, theirs = (transition(NETWORK, X, drive, parallel=parallel) for parallel in (True, False))
        # roundings of a few ε a step times the condition of the step, below 1e4
        np.testing.assert_allclose(ours.log_singular_values(), theirs.log_singular_values(), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("scale", "spiral"), [(1.0, False), (5.0, True)])
def test_a_linear_maps_transition_is_its_power_at_any_length(scale, spiral):
    # [[1/2, 1], [0, 2]]^T = [[2^-T, (2^T - 2^-T)/1.5], [0, 2^T]] has determinant 1, and at T = 10^5 a largest singular
    # value of 2^T √(1 + 1/1.5²) to all digits; 5 times a rotation stretches all directions alike, beyond the floats.
    # Every step rounds its factor by a few ε, and the running logarithm by half an ulp of itself.
    steps = 100_000
    if spiral:
        a = scale * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
        expected = np.full(2, steps * np.log(scale))
    else:
        a = np.array([[0.5, 1.0], [0.0, 2.0]])
        expected = (steps * np.log(2.0) + 0.5 * np.log(1 + 1 / 1.5**2)) * np.array([1, -1])
    tolerance = (8 + expected[0] / 2) * EPS * steps
    came = transition(Linear(a), X[:2], num_steps=steps)
    np.testing.assert_allclose(came.log_singular_values(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(came.log_norm(), expected[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(came.log_abs_det(), expected.sum(), rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize(("epsilon", "c"), reference.NOTE_3_NORMS)
def test_note_threes_product_has_its_closed_form_norm(epsilon, c):
    matrix = c * np.array([[0.0, 2.0], [epsilon, 0.0]])
    came = transition(Linear(matrix), X[:2], num_steps=50)
    # 10 digits are given; 50 steps of a few ε are far below.
    np.testing.assert_allclose(np.exp(came.log_norm()), reference.NOTE_3_NORMS[epsilon, c], rtol=1e-9)


def test_on_its_unstable_point_doyas_transition_is_its_closed_form():
    point = reference.DOYA_UNSTABLE_POINT
    neuron = DoyaNeuron(w=point["w"], b=point["b"], epsilon=0.1)
    came = transition(neuron, jnp.array([point["x"]]), num_steps=100_000)
    expected = 100_000 * np.log1p(0.1 * point["growth_per_epsilon"])
    np.testing.assert_allclose(came.log_norm(), expected, rtol=0, atol=(8 + expected / 2) * EPS * 100_000)


def test_henon_contracts_areas_by_b_a_step_whatever_its_orbit():
    steps = 1000
    expected = steps * np.log(0.3)
    henon = transition(Henon(), jnp.array([0.1, 0.1]), num_steps=steps)
    # As above, the two logarithms being some hundred apart and below 1.6 steps each.
    np.testing.assert_allclose(henon.log_abs_det(), expected, rtol=0, atol=(64 + 2 * steps) * EPS * steps)
    total = np.sum(henon.log_singular_values())
    np.testing.assert_allclose(total, expected, rtol=0, atol=(64 + 2 * steps) * EPS * steps)


@pytest.mark.parametrize("num_steps", [0, 2])
def test_the_transition_has_the_dtype_in_which_the_map_works(num_steps):
    def dtype(step):
        return jax.eval_shape(lambda x: transition(step, x, num_steps=num_steps).u, X.astype(jnp.float32)).dtype

    assert dtype(Linear(W)) == jnp.float64
    assert dtype(lambda x, _: 2.0 * x) == jnp.float32


# Growth on a cycle


@pytest.mark.parametrize(
    ("r", "orbit", "period", "growth"),
    [
        (3.2, [(4.2 - 0.84**0.5) / 6.4, (4.2 + 0.84**0.5) / 6.4], 2, np.log(0.16) / 2),  # 4 + 2r - r² (May 1976)
        (3.2, [1 - 1 / 3.2, np.nan], 1, np.log(1.2)),  # |2 - r|; what is not of the cycle is not looked at
        (1e-200, [0.0, 0.0], 2, np.log(1e-200)),  # r² is beyond the floats
        (0.0, [0.0, 0.0], 2, -np.inf),
    ],
)
def test_the_growth_on_a_logistic_cycle_is_the_logarithm_of_its_multiplier(r, orbit, period, growth):
    found = growth_on_cycle(Logistic(r), jnp.array(orbit)[:, None], jnp.array(period))
    np.testing.assert_allclose(found, growth, rtol=100 * EPS)  # 100 roundings of the points' positions


def test_the_growth_at_rest_is_that_of_the_largest_eigenvalue_whatever_the_others():
    for matrix, largest in (
        ([[0.5, -0.3], [-0.3, 0.5]], 0.8), ([[0.5, 1e6], [0.0, 0.5]], 0.5), ([[0.6, 0.8], [-0.8, 0.6]], 1.0)
    ):  # fmt: skip
        found = growth_on_cycle(Linear(jnp.array(matrix)), jnp.zeros((1, 2)), jnp.array(1))
        np.testing.assert_allclose(found, np.log(largest), rtol=0, atol=16 * EPS)


# Misuse


def shrinking(x, _):
    return x[:1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jacobian(NETWORK, np.array(1.0)),
            r"x must be a float array of shape \(n,\); got float64 of shape \(\)",
        ),
        (lambda: jacobian(NETWORK, np.ones(3, int)), r"x must be a float array of shape \(n,\); got int64"),
        (lambda: jacobian(NETWORK, np.full(3, np.nan)), "x must be finite; got 3 NaN or infinite of 3"),
        (
            lambda: jacobian(NETWORK, np.ones(2)),
            r"x must be a float array of shape \(3,\); got float64 of shape \(2,\)",
        ),
        (lambda: jacobian(shrinking, np.ones(2)), r"step must map a float state of shape \(2,\) .* shape \(1,\)"),
        (lambda: along(NETWORK, X), r"xs must be a float array of shape \(T\+1, n\); got float64 of shape \(3,\)"),
        (lambda: along(NETWORK, np.ones((0, 3))), r"xs must hold at least the initial state; got shape \(0, 3\)"),
        (lambda: along(NETWORK, np.full((2, 3), np.inf)), "xs must be finite; got 6 NaN or infinite of 6"),
        (lambda: along(NETWORK, np.ones((3, 3)), INPUTS[:3]), "inputs must be 2 steps long, as num_steps says; got 3"),
        (lambda: along(shrinking, np.ones((3, 2))), r"step must map a float state of shape \(2,\)"),
        (lambda: push(NETWORK, np.ones(()), None, np.eye(3)), r"x must be a float array of shape \(n,\)"),
        (
            lambda: push(NETWORK, X, None, np.eye(2)),
            r"tangents must be a float array of shape \(3, k\); got .* \(2, 2\)",
        ),
        (
            lambda: push(NETWORK, X, None, np.full((3, 1), np.inf)),
            "tangents must be finite; got 3 NaN or infinite of 3",
        ),
        (lambda: push(shrinking, X, None, np.eye(3)), r"step must map a float state of shape \(3,\)"),
        (lambda: growth_on_cycle(NETWORK, X, 1), r"orbit must be a float array of shape \(p, n\); got .* \(3,\)"),
        (lambda: growth_on_cycle(NETWORK, X[None], 2), "period must lie between 1 and the 1 states of orbit; got 2"),
        (lambda: growth_on_cycle(NETWORK, X[None], 0), "period must lie between 1 and .*; got 0"),
        (lambda: growth_on_cycle(shrinking, np.ones((1, 2)), 1), r"step must map a float state of shape \(2,\)"),
        (lambda: transition(NETWORK, np.ones((2, 3)), INPUTS), r"x0 must be a float array of shape \(n,\)"),
        (lambda: transition(NETWORK, X), "inputs or num_steps must be given; got neither"),
        (lambda: transition(NETWORK, X, num_steps=-1), "num_steps must be a whole number, at least 0; got -1"),
        (lambda: transition(NETWORK, X, INPUTS, num_steps=3), "inputs must be 3 steps long, as num_steps says; got 30"),
        (lambda: transition(shrinking, np.ones(2), num_steps=1), r"step must map a float state of shape \(2,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
