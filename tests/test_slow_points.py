"""Slow points: every minimum of q = ½‖F(x) - x‖², fixed points told from ghosts, and what is said of each holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics.fixed_points import SlowPoints, find, slow_points
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.pascanu import PascanuRNN
from rnn_dynamics.models.reference import Linear
from tests import reference

EPS = np.finfo(float).eps

ZOO = {
    "two roots": lambda x: x + x**2 - 1,  # q = ½(x² - 1)² has a maximum at 0
    "shift": lambda x: x + 1,
    "no minimum": lambda x: x + jnp.exp(-x),
    "nan": lambda x: x * jnp.nan,
    "parabola": lambda x: x + (x - 1) ** 2 + 1e-6,
    "double root": lambda x: x + (x - 1) ** 2,
}


@jax.jit
def zoo(x, which):
    """One of them, chosen by its input: one compilation serves all, as long as there are three starts."""
    return jax.lax.switch(which, list(ZOO.values()), x)


def which(name):
    return jnp.array(list(ZOO).index(name))


def column(*numbers):
    return jnp.array(numbers, dtype=float)[:, None]


def neuron(x, parameters):
    w, b = parameters
    return DoyaNeuron(w=w, b=b)(x)


@pytest.fixture(scope="module")
def network():
    return PascanuRNN.initialise("gaussian", 20, 0, seed=0, gain=1.5)


@pytest.fixture(scope="module")
def points(network):
    return slow_points(network, jnp.asarray(np.random.default_rng(1).standard_normal((40, 20))))


@pytest.mark.parametrize(("w", "beyond"), [(5.0, 0.045), (5.0, 1e-6), (8.0, 0.01)])
def test_past_the_fold_of_a_neuron_its_ghost_is_the_minimum_in_closed_form(w, beyond):
    # |σ(wx + b) - x| is least where wσ' = 1: there σ is what it is on the fold, S, and x = (logit S - b)/w.
    fold, s = reference.DOYA_FOLDS[w][0]
    b = fold + beyond
    found = slow_points(neuron, column(0.0, s, 1.0), jnp.array([w, b]))
    assert found.ghost.tolist() == [False, True]
    x = (np.log(s / (1 - s)) - b) / w
    # The slope of G is level to rounding, eps, and its curvature w(1-2S)/2 · 2: x is good to a few eps.
    np.testing.assert_allclose(found.x[1], [x], atol=100 * EPS)
    np.testing.assert_allclose(found.residual[1], beyond / w, atol=10 * EPS)  # S - x, as the fold has S = x
    np.testing.assert_allclose(found.speed[1], (beyond / w) ** 2 / 2, rtol=20 * EPS * w / beyond)
    np.testing.assert_allclose(found.multipliers[1], [1], atol=100 * EPS)
    assert found.kind.tolist() == ["stable node", "marginal"]
    assert len(find(neuron, found.x, jnp.array([w, b]))) == 1


def test_fixed_points_next_to_a_fold_are_no_ghosts():
    fold, s = reference.DOYA_FOLDS[5.0][0]
    for before in (1e-4, 1e-7, 1e-10):
        found = slow_points(neuron, column(s - 0.05, s + 0.05, 1.0), jnp.array([5.0, fold - before]))
        assert not found.ghost.any()
        assert len(found) == 3


def test_a_fields_ghost_is_its_maps():
    fold, s = reference.DOYA_FOLDS[5.0][0]
    field = DoyaNeuron(w=5.0, b=fold + 0.01, epsilon=0.1).velocity
    found = slow_points(field, column(0.0, s, 1.0), time="continuous")
    assert found.ghost.tolist() == [False, True]
    np.testing.assert_allclose(found.x[1], [s - 0.01 / 5], atol=100 * EPS)
    np.testing.assert_allclose(found.multipliers[1], [0], atol=100 * EPS)
    np.testing.assert_allclose(found.time_constants[0], -1 / found.multipliers[0].real, rtol=4 * EPS)


def test_at_every_point_the_gradient_vanishes_and_at_a_ghost_the_distance_is_a_left_null_vector(network, points):
    assert (points.status == "converged").all()
    assert points.ghost.sum() >= 2
    assert (np.diff(points.speed) >= 0).all()
    for point in points:
        g = np.asarray(network(point.x[0]) - point.x[0])
        np.testing.assert_allclose(point.speed[0], g @ g / 2, rtol=1e-11, atol=100 * EPS**2)
        np.testing.assert_allclose(point.residual[0], np.abs(g).max(), atol=10 * EPS)
        jacobian = np.asarray(point.jacobian[0]) - np.eye(20)
        assert np.linalg.norm(jacobian.T @ g) <= 100 * EPS * np.linalg.norm(jacobian) * (1 + np.abs(point.x).max())
        if point.ghost[0]:
            one = np.argmin(np.abs(point.multipliers[0] - 1))
            # ‖JᵀG‖ of some eps over ‖G‖ = 0.02, times the eigenvalue's condition number.
            np.testing.assert_allclose(point.multipliers[0, one], 1, atol=1e-11)
            np.testing.assert_allclose(np.abs(point.left[0][:, one].conj() @ g), np.linalg.norm(g), rtol=1e-10)


def test_those_that_are_no_ghosts_are_fixed_points_and_the_mirror_image_of_each_is_one(network, points):
    real = points[~points.ghost]
    found = find(network, real.x)
    assert len(found) == len(real)
    order, other = (np.argsort(each.x[:, 0]) for each in (real, found))
    np.testing.assert_allclose(real.x[order], found.x[other], atol=1e-12)
    assert real.kind[order].tolist() == found.kind[other].tolist()
    mirrored = np.concatenate([points.x, -points.x])  # the network is odd
    nearest = np.sort(np.abs(mirrored[:, None] - mirrored[None]).max(-1), axis=1)[:, 1]
    assert (nearest[: len(points)] < 1e-9).all()


def test_eigenvectors_belong_to_the_multipliers_from_both_sides(points):
    for jacobian, values, right, left in zip(
        points.jacobian, points.multipliers, points.right, points.left, strict=True
    ):
        assert (np.diff(np.abs(values)) <= 4 * EPS).all()
        np.testing.assert_allclose(jacobian @ right, right * values, atol=100 * EPS)
        np.testing.assert_allclose(left.conj().T @ jacobian, values[:, None] * left.conj().T, atol=100 * EPS)
        np.testing.assert_allclose(np.linalg.norm(right, axis=0), 1, atol=10 * EPS)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), 1, atol=10 * EPS)


def test_time_constants_and_the_answer_to_the_input_of_a_linear_map():
    b = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    system = Linear(jnp.diag(jnp.array([0.0, 2.0, 0.5])), b)
    u = jnp.array([0.1, 0.2])
    found = slow_points(system, jnp.ones((2, 3)), u)
    assert len(found) == 1
    np.testing.assert_allclose(found.multipliers[0], [2, 0.5, 0], atol=4 * EPS)
    np.testing.assert_allclose(found.time_constants[0], [-1 / np.log(2), 1 / np.log(2), 0], rtol=10 * EPS)
    np.testing.assert_allclose(found.input_jacobian[0], b)
    np.testing.assert_allclose(found.x[0], np.linalg.solve(np.diag([1.0, -1.0, 0.5]), b @ u), rtol=10 * EPS)
    assert found.right.shape == found.left.shape == (1, 3, 3)


def test_a_memory_of_three_bits_has_twenty_seven_points_of_which_eight_are_stable():
    # Three units a' = tanh 2a, each with -a*, 0, a*, seen in turned coordinates (Sussillo, Barak 2013, section 3.1).
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    starts = jnp.asarray(np.random.default_rng(1).uniform(-1.2, 1.2, (300, 3)))
    found = slow_points(lambda x, u: q @ jnp.tanh(2 * q.T @ x), starts)
    assert len(found) == 27
    assert not found.ghost.any()
    assert found.stable.sum() == 8
    a = reference.LATCH_STATES[2.0][1]
    np.testing.assert_allclose(np.abs(found.x[found.stable] @ q), a, atol=20 * EPS)
    assert found.input_jacobian is None


@pytest.mark.parametrize(
    ("name", "starts", "words"),
    [
        ("two roots", (0.0, 0.5, -3.0), ["singular", "converged", "converged"]),
        ("shift", (0.0, 0.5, -3.0), ["singular"] * 3),  # q is constant
        ("nan", (0.0, 0.5, -3.0), ["non_finite"] * 3),
        ("parabola", (0.0, 0.5, -3.0), ["converged"] * 3),
        ("double root", (0.0, 0.5, -3.0), ["converged"] * 3),
    ],
)
def test_every_start_has_its_status(name, starts, words):
    found = slow_points(zoo, column(*starts), which(name))
    assert found.status.tolist() == words
    assert ((found.reached >= 0) == (found.status == "converged")).all()
    assert isinstance(found[:0], SlowPoints)
    if name == "parabola":
        np.testing.assert_allclose(found.x, [[1]], atol=1e-10)  # where the slope 2(x - 1) is below eps of the largest
        np.testing.assert_allclose(found.speed, [1e-12 / 2], rtol=1e-9)
        assert found.ghost.tolist() == [True]
    if name == "double root":
        assert not found.ghost.any()


def test_speed_that_falls_for_ever_has_no_minimum():
    found = slow_points(zoo, column(0.0, 0.5, 3.0), which("no minimum"), max_steps=20)
    assert found.status.tolist() == ["max_steps"] * 3
    assert len(found) == 0


def test_in_single_precision_the_ghost_is_there_too():
    fold, s = reference.DOYA_FOLDS[5.0][0]
    parameters = jnp.array([5.0, fold + 0.045], jnp.float32)
    found = slow_points(neuron, column(0.0, s, 1.0).astype(jnp.float32), parameters)
    assert found.x.dtype == found.jacobian.dtype == jnp.float32
    assert found.ghost.tolist() == [False, True]
    np.testing.assert_allclose(found.x[1], [s - 0.009], atol=100 * np.finfo(np.float32).eps)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"starts": jnp.zeros(2)}, "starts must be a float array of shape \\(s, n\\)"),
        ({"starts": jnp.zeros((0, 1))}, "starts must hold at least one start"),
        ({"time": "sometimes"}, "time must be one of"),
        ({"max_steps": 0}, "max_steps must be a whole number, at least 1"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"unique_tol": np.nan}, "unique_tol must be finite"),
        ({"tol": np.full(2, 1e-3)}, r"tol must be a float array of shape \(\)"),
        ({"step": lambda x, u: jnp.zeros(3)}, "step must map"),
    ],
)
def test_slow_points_refuses_wrong_arguments(changed, message):
    arguments = {"step": lambda x, u: jnp.cos(x), "starts": jnp.zeros((1, 1))} | changed
    step, starts = arguments.pop("step"), arguments.pop("starts")
    with pytest.raises(ValueError, match=message):
        slow_points(step, starts, **arguments)
