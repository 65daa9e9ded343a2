"""Gradient descent against closed forms; the losses it descends in the papers against values of 50 digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import simulate, training
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.pascanu import PascanuRNN
from tests import reference

EPS = np.finfo(float).eps


def error(parameters):
    """Pascanu et al. (2013), fig. 6: E = (σ(x_50) - 0.7)², x_0 = 1/2."""
    w, b = parameters
    last = simulate.final_state(PascanuRNN(w[None, None], None, b[None]), jnp.array([0.5]), num_steps=50)
    return (jax.nn.sigmoid(last[0]) - 0.7) ** 2


error_and_gradient = jax.jit(jax.value_and_grad(error))


@jax.jit
def settled_loss(b):
    """Wikipedia, "Vanishing gradient problem", geometric model: (0.855 - x_T)², ε = 0.1, T = 1000, x_0 = 1/2."""
    last = simulate.final_state(DoyaNeuron(w=5.0, b=b, epsilon=0.1), jnp.array([0.5]), num_steps=1000)
    return (0.855 - last[0]) ** 2


def quadratic(parameters):
    return jnp.sum(jnp.array([0.5, 1.0, 3.0]) * parameters**2)


# Closed forms.


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_on_a_parabola_every_step_multiplies_by_one_minus_twice_rate_times_curvature(rate):
    start = np.array([1.0, -2.0, 0.5])
    history = training.descend(quadratic, jnp.asarray(start), rate=rate, num_steps=30)
    curvature = np.array([0.5, 1.0, 3.0])
    expected = start * (1 - 2 * rate * curvature) ** np.arange(31)[:, None]
    # Relative error per step: three roundings of quantities at most 1 + 2·0.3·3 times the result's factor 0.4 or more
    # (at 0.3·3 the factor is -0.8), so at most 3 · 2.8/0.4 · eps/2 = 11 eps a step, 30 steps.
    np.testing.assert_allclose(history.parameters, expected, rtol=30 * 11 * EPS)
    np.testing.assert_allclose(history.loss, (curvature * expected**2).sum(1), rtol=60 * 11 * EPS)
    np.testing.assert_allclose(
        history.gradient_norm, np.linalg.norm(2 * curvature * expected, axis=1), rtol=31 * 11 * EPS
    )


def test_each_step_is_the_rate_times_the_lesser_of_the_gradients_norm_and_the_limit():
    history = training.descend(quadratic, jnp.array([1.0, -2.0, 0.5]), rate=0.05, num_steps=60, max_norm=0.7)
    steps = np.linalg.norm(np.diff(history.parameters, axis=0), axis=1)
    norms = np.asarray(history.gradient_norm)
    expected = 0.05 * np.minimum(norms[:-1], 0.7)
    assert norms[0] > 0.7 > norms[-1]  # both cases occur
    # A step is the difference of parameters of size up to 2: each rounds by eps, absolutely.
    np.testing.assert_allclose(steps, expected, atol=2 * 3**0.5 * 2 * EPS, rtol=20 * EPS)


def test_a_loose_limit_changes_nothing():
    start = jnp.array([1.0, -2.0, 0.5])
    free = training.descend(quadratic, start, rate=0.1, num_steps=20)
    limited = training.descend(quadratic, start, rate=0.1, num_steps=20, max_norm=1e6)
    np.testing.assert_allclose(limited.parameters, free.parameters, rtol=20 * EPS)


def test_no_steps_leave_the_start_its_loss_and_its_gradient():
    history = training.descend(quadratic, jnp.ones(3), rate=0.1, num_steps=0)
    assert history.parameters.tolist() == [[1.0, 1.0, 1.0]]
    assert history.loss.tolist() == [4.5]
    np.testing.assert_allclose(history.gradient_norm, [41**0.5], rtol=4 * EPS)  # ‖(1, 2, 6)‖


def test_only_float_arrays_move_and_the_rest_is_kept_as_it_is():
    start = {"w": jnp.array([[1.0, 2.0]]), "b": jnp.array(3.0), "lag": jnp.array([2]), "none": None, "name": "unit"}

    def loss(p):
        return jnp.sum(p["w"] ** 2) * p["lag"][0] + p["b"] ** 2

    history = training.descend(loss, start, rate=0.05, num_steps=4)
    assert history.parameters["w"].shape == (5, 1, 2)
    assert history.parameters["b"].shape == history.loss.shape == history.gradient_norm.shape == (5,)
    assert history.parameters["lag"].tolist() == [2]
    assert history.parameters["none"] is None
    assert history.parameters["name"] == "unit"
    np.testing.assert_allclose(history.parameters["b"], 3 * 0.9 ** np.arange(5), rtol=5 * 3 * EPS)
    np.testing.assert_allclose(np.asarray(history.parameters["w"])[:, 0, 1], 2 * 0.8 ** np.arange(5), rtol=5 * 3 * EPS)


def test_complex_arrays_are_no_parameters():
    found = training.descend(
        lambda p: p["x"] ** 2 + jnp.abs(p["z"]) ** 2,
        {"x": jnp.array(1.0), "z": jnp.array(0.5 + 1j)},
        rate=0.25,
        num_steps=2,
    )
    np.testing.assert_array_equal(found.parameters["x"], [1, 0.5, 0.25])
    assert found.parameters["z"] == 0.5 + 1j
    with pytest.raises(ValueError, match="parameters must hold at least one float array"):
        training.descend(lambda z: jnp.abs(z) ** 2, jnp.array(0.5 + 1j), rate=0.25, num_steps=2)


def test_a_model_descends_by_all_its_parameters_together():
    def loss(neuron):
        return (neuron(jnp.array([0.4]))[0] - 0.9) ** 2

    history = training.descend(loss, DoyaNeuron(w=5.0, b=-2.5, epsilon=0.5, w_in=0.0), rate=0.1, num_steps=5)
    w, b, epsilon = 5.0, -2.5, 0.5
    for t in range(6):
        np.testing.assert_allclose(
            [leaf[t] for leaf in (history.parameters.w, history.parameters.b, history.parameters.epsilon)],
            [w, b, epsilon],
            rtol=50 * EPS,  # some twenty roundings a step, five steps, each step a tenth of the parameters
        )
        s = 1 / (1 + np.exp(-(0.4 * w + b)))
        outer = 2 * ((1 - epsilon) * 0.4 + epsilon * s - 0.9)
        slope = outer * epsilon * s * (1 - s)
        w, b, epsilon = w - 0.1 * slope * 0.4, b - 0.1 * slope, epsilon - 0.1 * outer * (s - 0.4)
    assert history.parameters.w_in.tolist() == [0.0] * 6


def test_single_precision_stays_single():
    history = training.descend(
        lambda p: jnp.sum(p**2), jnp.ones(2, jnp.float32), rate=jnp.array(0.25), num_steps=3, max_norm=10.0
    )
    assert history.parameters.dtype == history.loss.dtype == history.gradient_norm.dtype == jnp.float32
    assert np.asarray(history.parameters)[:, 0].tolist() == [1.0, 0.5, 0.25, 0.125]


# Failure is not hidden.


def test_a_loss_that_is_no_number_stays_in_the_history():
    followed = training.descend(jnp.sqrt, jnp.array(0.5), rate=1.0, num_steps=4)  # 0.5 - 1/(2√0.5) < 0
    assert np.isfinite(followed.loss).tolist() == [True, False, False, False, False]
    assert np.isnan(followed.parameters)[2:].all()
    clipped = training.descend(jnp.sqrt, jnp.array(0.5), rate=1.0, num_steps=4, max_norm=0.6)
    assert np.isnan(clipped.loss)[1:].all()
    assert np.isnan(clipped.gradient_norm)[1:].all()
    np.testing.assert_allclose(clipped.parameters, [0.5, -0.1, -0.1, -0.1, -0.1], rtol=4 * EPS)  # it stays where it was


def test_descent_that_diverges_says_so():
    history = training.descend(quadratic, jnp.ones(3), rate=1e200, num_steps=3)
    assert not np.isfinite(history.loss)[-1]


# The papers' losses.


@pytest.mark.parametrize(("point", "values"), [(p, v) for p, v in reference.ERROR_SURFACE.items() if v[1] is not None])
def test_the_error_surface_and_its_gradient_have_their_published_shape(point, values):
    e, (dw, db) = error_and_gradient(point)
    # float64 agrees to 3e-15 relative (50 steps of four roundings contract); the derivatives are given to 10 digits.
    np.testing.assert_allclose(e, values[0], rtol=2e-14)
    np.testing.assert_allclose([dw, db], values[1:], rtol=1e-9)


@pytest.mark.parametrize("w", reference.WALL)
def test_clipping_takes_a_short_step_where_the_wall_would_throw_the_parameters_far_away(w):
    b, multiplier, *slope, norm = reference.WALL[w]
    start = (jnp.array(w), jnp.array(b))
    thrown = training.descend(error, start, rate=0.01, num_steps=1)
    # b is rounded, so x_50 leaves 1/2 by up to eps/2 · |b| · μ^50/(μ-1), 4e-5 at w = 7, and each of 50 slopes follows.
    tolerance = 50 * abs(b) * EPS * multiplier**50 / (multiplier - 1)
    np.testing.assert_allclose(thrown.gradient_norm[0], norm, rtol=tolerance)
    moved = np.array([run[1] - run[0] for run in thrown.parameters])
    np.testing.assert_allclose(moved, -0.01 * np.array(slope), rtol=tolerance)
    clipped = training.descend(error, start, rate=0.01, num_steps=1, max_norm=1.0)
    moved = np.array([run[1] - run[0] for run in clipped.parameters])
    # Along the wall's normal, one hundredth long; the difference of two parameters near 7 rounds by 8 eps.
    np.testing.assert_allclose(moved, 0.01 * np.array(reference.WALL_NORMAL), rtol=tolerance + 1e3 * EPS, atol=8 * EPS)


@pytest.mark.parametrize("b", reference.DOYA_SETTLED_LOSS)
def test_the_settled_loss_falls_towards_the_basin_boundary_and_jumps_there(b):
    expected = reference.DOYA_SETTLED_LOSS[b]
    # (0.855 - x)²: an error of a few eps in x shows as eps/|0.855 - x|, at most 2e-12 where the loss is 2.8e-7.
    np.testing.assert_allclose(settled_loss(jnp.array(b)), expected, rtol=1e-11)


def test_descent_on_the_settled_loss_stops_short_of_the_boundary_if_the_rate_is_small():
    # dE/db = -2 (0.855 - x) dx/db, settled, with dx/db = x(1-x)/(1 - 5x(1-x)) (papers: Wikipedia's 1/(1/(x(1-x)) - 5)).
    history = training.descend(settled_loss, jnp.array(-2.0), rate=0.5, num_steps=3)
    for t in range(3):
        x = 0.855 + np.sqrt(history.loss[t])
        slope = 2 * (x - 0.855) * x * (1 - x) / (1 - 5 * x * (1 - x))
        np.testing.assert_allclose(history.gradient_norm[t], slope, rtol=1e-10)  # x is good to 1e-15/0.08 of 0.855 - x
    assert (np.diff(history.loss) < 0).all()
    assert -2.5 < history.parameters[-1] < -2.0


# Inside a caller's transformations.


def test_vmap_descends_from_many_starts_with_many_rates():
    def run(start, rate):
        return training.descend(quadratic, start, rate=rate, num_steps=10, max_norm=1.0)

    starts, rates = np.random.default_rng(0).standard_normal((4, 3)), np.array([0.01, 0.1, 0.2, 0.3])
    together = jax.vmap(run)(starts, rates)
    assert together.loss.shape == (4, 11)
    assert "(4, 11)" in repr(together)
    for i in range(4):
        alone = run(jnp.asarray(starts[i]), float(rates[i]))
        np.testing.assert_allclose(np.asarray(together.parameters)[i], alone.parameters, rtol=1e3 * EPS, atol=1e3 * EPS)


def test_jit_accepts_a_traced_rate_and_limit():
    run = jax.jit(lambda rate, limit: training.descend(quadratic, jnp.ones(3), rate=rate, num_steps=2, max_norm=limit))
    alone = training.descend(quadratic, jnp.ones(3), rate=0.1, num_steps=2, max_norm=2.0)
    np.testing.assert_allclose(run(0.1, 2.0).parameters, alone.parameters, rtol=20 * EPS)


def test_the_learning_rate_can_itself_be_learned():
    def last(rate):
        return training.descend(lambda p: p**2, jnp.array(1.0), rate=rate, num_steps=10).parameters[-1]

    # (1 - 2r)^10, so its derivative is -20 (1 - 2r)^9.
    np.testing.assert_allclose(jax.jit(jax.grad(last))(0.1), -20 * 0.8**9, rtol=100 * EPS)


def test_a_history_prints_its_length_and_its_losses():
    history = training.descend(lambda p: p**2, jnp.array(2.0), rate=0.25, num_steps=1)
    assert repr(history) == "History(1 steps, loss 4 -> 1)"


# Misuse.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["rate", "max_norm"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "1", True, np.ones(1)])
def test_a_rate_or_limit_that_is_not_a_positive_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        training.descend(quadratic, jnp.ones(3), **({"rate": 0.1, "num_steps": 1} | {name: value}))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_steps", [-1, 1.5, True, None])
def test_a_number_of_steps_that_is_not_whole_is_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps must be a whole number"):
        training.descend(quadratic, jnp.ones(3), rate=0.1, num_steps=num_steps)


@pytest.mark.parametrize("parameters", [{}, None, jnp.array([1, 2]), [2.0, "w"]])
def test_parameters_without_a_float_array_are_refused(parameters):
    with pytest.raises(ValueError, match="at least one float array"):
        training.descend(lambda p: 1.0, parameters, rate=0.1, num_steps=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="parameters must be finite"):
        training.descend(lambda p: p["w"].sum(), {"w": jnp.array([1.0, bad])}, rate=0.1, num_steps=1)


@pytest.mark.parametrize(
    ("loss", "came"),
    [
        (lambda p: p, "shape \\(3,\\)"),
        (lambda p: p[:1], "shape \\(1,\\)"),
        (lambda p: (p.sum(), p), "tuple"),
        (lambda p: None, "NoneType"),
        (lambda p: p.sum().astype(int), "int64"),
    ],
)
def test_a_loss_that_is_not_a_float_scalar_is_refused(loss, came):
    with pytest.raises(ValueError, match=f"loss must return a float scalar; it returned .*{came}"):
        training.descend(loss, jnp.ones(3), rate=0.1, num_steps=1)
