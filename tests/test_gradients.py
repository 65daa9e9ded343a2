"""Gradients: clipping keeps ‖clipped‖ = min(‖g‖, max) at every length; back through time nothing is lost."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_dynamics import gradients, simulate
from rnn_dynamics.activations import identity, sigmoid
from rnn_dynamics.models import DoyaNeuron, PascanuRNN

EPS = np.finfo(float).eps
VECTORS = np.random.default_rng(0).standard_normal((40, 7)) * 10.0 ** np.linspace(-300, 300, 40)[:, None]
"""Gradients of length 1e-300 to 1e300, whose squares under- and overflow."""


def length(vector):
    """‖v‖ without overflow: the largest entry is taken out."""
    largest = np.abs(vector).max()
    return np.linalg.norm(vector / largest) * largest


@pytest.mark.parametrize("max_norm", [1e-200, 0.3, 1.0, 1e200])
def test_the_clipped_norm_is_the_lesser_of_the_norm_and_the_limit(max_norm):
    clipped, norms = jax.vmap(lambda g: gradients.clip_by_norm(g, max_norm))(jnp.asarray(VECTORS))
    true = np.array([length(vector) for vector in VECTORS])
    # A sum of 7 squares, a root, two products and two divisions: at most (7 + 6)/2 + 4 roundings, each eps/2.
    np.testing.assert_allclose(norms, true, rtol=6 * EPS)
    got = np.array([length(np.asarray(vector)) for vector in clipped])
    np.testing.assert_allclose(got, np.minimum(true, max_norm), rtol=12 * EPS)


@pytest.mark.parametrize("max_norm", [1e-200, 0.3, 1e200])
def test_clipping_keeps_the_direction(max_norm):
    clipped, _ = jax.vmap(lambda g: gradients.clip_by_norm(g, max_norm))(jnp.asarray(VECTORS))
    for before, after in zip(VECTORS, np.asarray(clipped), strict=True):
        np.testing.assert_allclose(after / length(after), before / length(before), rtol=20 * EPS)


def test_a_gradient_within_the_limit_passes_unchanged_bit_for_bit():
    g = {"w": VECTORS[20], "b": np.array(1 / 3)}
    clipped, _ = gradients.clip_by_norm(g, 1e10)
    assert jax.tree.all(jax.tree.map(np.array_equal, g, clipped))


def test_a_gradient_exactly_at_the_limit_passes_unchanged():
    clipped, norm = gradients.clip_by_norm(jnp.array([3.0, 4.0]), 5.0)
    assert clipped.tolist() == [3.0, 4.0]
    assert norm == 5.0


def test_the_largest_finite_gradient_keeps_its_direction_though_its_norm_overflows():
    top = np.finfo(float).max
    clipped, norm = gradients.clip_by_norm(jnp.array([top, -top, top, top]), 1.0)
    assert clipped.tolist() == [0.5, -0.5, 0.5, 0.5]
    assert norm == np.inf


@pytest.mark.parametrize("max_norm", [0.1, 10.0])
def test_the_zero_gradient_stays_zero(max_norm):
    clipped, norm = gradients.clip_by_norm({"w": np.zeros((2, 3)), "b": np.zeros(0)}, max_norm)
    assert norm == 0
    assert not np.any(clipped["w"])
    assert clipped["b"].shape == (0,)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_without_a_direction_the_step_is_zero_and_the_norm_tells(bad):
    clipped, norm = gradients.clip_by_norm({"w": jnp.array([1.0, bad]), "b": jnp.array([2.0])}, 1.0)
    assert clipped["w"].tolist() == [0.0, 0.0]
    assert clipped["b"].tolist() == [0.0]
    np.testing.assert_equal(float(norm), abs(bad))


def test_nan_outweighs_infinity():
    _, norm = gradients.clip_by_norm(jnp.array([np.inf, np.nan, -np.inf]), 1.0)
    assert np.isnan(norm)


def test_one_norm_is_taken_over_all_leaves_and_other_leaves_are_left_alone():
    g = {"w": jnp.array([[3.0], [0.0]]), "b": jnp.array(-4.0), "none": None, "steps": jnp.array([7]), "name": "sgd"}
    clipped, norm = gradients.clip_by_norm(g, 2.5)
    assert norm == 5.0
    assert clipped["w"].tolist() == [[1.5], [0.0]]
    assert clipped["b"] == -2.0
    assert clipped["none"] is None
    assert clipped["steps"].tolist() == [7]
    assert clipped["name"] == "sgd"


def test_a_pytree_without_float_arrays_has_norm_zero():
    clipped, norm = gradients.clip_by_norm({"steps": jnp.array([3]), "none": None}, 1.0)
    assert norm == 0.0
    assert clipped["steps"].tolist() == [3]


def test_complex_gradients_are_measured_by_their_modulus():
    clipped, norm = gradients.clip_by_norm(jnp.array([3j, 4.0]), 1.0)
    np.testing.assert_allclose(clipped, [0.6j, 0.8], rtol=4 * EPS)
    np.testing.assert_allclose(norm, 5.0, rtol=4 * EPS)


def test_a_model_is_a_gradient_too():
    clipped, norm = gradients.clip_by_norm(DoyaNeuron(w=3.0, b=-4.0, epsilon=1e-9), 1.0)
    assert isinstance(clipped, DoyaNeuron)
    np.testing.assert_allclose([clipped.w, clipped.b, norm], [0.6, -0.8, 5.0], rtol=4 * EPS)


@pytest.mark.parametrize("max_norm", [1.0, jnp.array(1.0), jnp.float32(1.0)])
def test_every_leaf_keeps_its_dtype(max_norm):
    g = [jnp.array([3.0], jnp.float32), jnp.array([4.0], jnp.float16), jnp.array([12.0])]
    clipped, norm = gradients.clip_by_norm(g, max_norm)
    assert [leaf.dtype for leaf in clipped] == [leaf.dtype for leaf in g]
    assert norm == 13.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_single_precision_stays_single_and_neither_over_nor_underflows(size):
    clipped, norm = gradients.clip_by_norm(size * np.array([3.0, 4.0], np.float32), 0.5 * size)
    assert clipped.dtype == norm.dtype == jnp.float32
    # 3e±30 and 4e±30 are rounded to float32 first; then as above.
    np.testing.assert_allclose(np.asarray(clipped) / np.float32(size), [0.3, 0.4], rtol=6 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(np.asarray(norm) / np.float32(size), 5.0, rtol=6 * np.finfo(np.float32).eps)


def test_a_half_precision_gradient_of_many_entries_is_measured_in_single():
    clipped, norm = gradients.clip_by_norm(np.ones(70_000, np.float16), 1.0)
    assert float(norm) == pytest.approx(70_000**0.5, rel=1e-6)
    np.testing.assert_allclose(clipped, np.full(70_000, 70_000**-0.5), rtol=float(jnp.finfo(jnp.float16).eps))


def test_ordinary_gradients_are_clipped_as_optax_does():
    rng = np.random.default_rng(1)
    transform = optax.clip_by_global_norm(1.5)
    clip = jax.jit(lambda g: transform.update(g, transform.init(g))[0])
    for scale in (0.01, 0.3, 1.0, 1e3):
        g = {"w": scale * rng.standard_normal((4, 4)), "b": scale * rng.standard_normal(4)}
        theirs = clip(g)
        ours, norm = gradients.clip_by_norm(g, 1.5)
        np.testing.assert_allclose(norm, np.linalg.norm([*g["w"].ravel(), *g["b"]]), rtol=20 * EPS)  # 20 squares,
        for leaf in g:  # summed in another order
            np.testing.assert_allclose(ours[leaf], theirs[leaf], rtol=25 * EPS)


def test_inside_jit_the_limit_may_be_traced():
    clip = jax.jit(gradients.clip_by_norm)
    clipped, norm = clip(jnp.array([3.0, 4.0]), 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=4 * EPS)
    assert norm == 5.0


def test_vmap_clips_each_gradient_by_its_own_norm():
    batch = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [np.inf, 1.0]])
    clipped, norms = jax.vmap(gradients.clip_by_norm, in_axes=(0, None))(batch, 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4], [0, 0], [0, 0]], rtol=4 * EPS)
    np.testing.assert_allclose(norms, [5.0, 0.5, 0.0, np.inf], rtol=4 * EPS)


def test_its_derivative_is_the_identity_inside_the_ball_and_the_projected_scaling_outside():
    @jax.jit
    @jax.jacrev
    def jacobian(g, max_norm=1.0):
        return gradients.clip_by_norm(g, max_norm)[0]

    # d(g/‖g‖) = (I - ĝĝᵀ)/‖g‖; at (3, 4): ĝ = (0.6, 0.8).
    np.testing.assert_allclose(jacobian(jnp.array([0.3, 0.4])), np.eye(2))
    np.testing.assert_allclose(jacobian(jnp.zeros(2), max_norm=0.5), np.eye(2))
    np.testing.assert_allclose(jacobian(jnp.array([3.0, 4.0])), [[0.128, -0.096], [-0.096, 0.072]], rtol=20 * EPS)
    assert not np.any(jacobian(jnp.array([np.inf, 1.0])))


def test_the_norms_derivative_is_the_unit_vector_and_zero_at_zero():
    slope = jax.jit(jax.grad(lambda g: gradients.clip_by_norm(g, 1.0)[1]))
    np.testing.assert_allclose(slope(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=4 * EPS)
    assert slope(jnp.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("max_norm", [0.0, -1.0, np.nan, np.inf, 0, True, "1", None, np.ones(2)])
def test_a_limit_that_is_not_a_positive_number_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm must be"):
        gradients.clip_by_norm(jnp.ones(2), max_norm)


def test_the_structure_survives_with_equinox_filters():
    model = DoyaNeuron(w=5.0, b=-2.5)
    slope = equinox.filter_jit(equinox.filter_grad(lambda neuron: neuron(jnp.array([0.4]))[0]))(model)
    clipped, norm = gradients.clip_by_norm(slope, 1e-3)
    assert jax.tree.structure(clipped) == jax.tree.structure(slope)
    np.testing.assert_allclose(np.linalg.norm(jax.tree.leaves(clipped)), 1e-3, rtol=12 * EPS)
    assert float(norm) > 1e-3


# Back through time: backpropagate, contributions, omega

# One unit x' = w σ(x) + b over 50 steps from 0.5, E = (σ(x_50) - 0.7)²; mpmath, 50 digits:
# the terms of dE/db by step k, their sum, Ω of eq. 9 and with squared ratios (eq. 10)
UNIT = {
    (5.0, -2.5): (
        {1: 7.37731772765e-11, 10: 2.16184915475e-10, 25: 2.39669278215e-7, 40: 3.1818200323e-4, 49: 0.023798596907,
         50: 0.0384379107288},
        0.100925017636868, 6.05733886048397, 16.1564543511003,
    ),
    (3.0, -1.5): (
        {1: -7.00204792422e-8, 25: -7.52543148119e-5, 50: -0.0999999661845},
        -0.399999616141631, 3.17840625903591, 9.7065408796588,
    ),
    (5.0, -2.61): (
        {1: 0.00873929421266, 10: 0.0021355375426, 25: 0.000476281853407, 40: 0.00337361395992, 50: 0.0324778838463},
        0.2218531622, None, None,
    ),
}  # fmt: skip


def unit(w, b):
    return PascanuRNN(jnp.array([[w]]), None, jnp.array([b]))


def unit_loss(x):
    return (sigmoid(x[0]) - 0.7) ** 2


unit_slope = jax.jit(jax.grad(unit_loss))


def driven_network(n=7, m=2, num_steps=40):
    network = PascanuRNN.initialise("gaussian", n, m, seed=4, gain=1.3)
    inputs = jnp.asarray(np.random.default_rng(5).standard_normal((num_steps, m)))
    return network, jnp.asarray(0.3 * np.arange(1.0, n + 1)), inputs


@pytest.mark.parametrize(("w", "b"), UNIT)
def test_temporal_contributions_of_one_unit_have_their_published_values(w, b):
    terms, total, _, _ = UNIT[w, b]
    found = gradients.contributions(unit(w, b), jnp.array([0.5]), None, unit_loss, num_steps=50)
    found = np.asarray(found.b)[:, 0]
    # printed to 12 digits; rounding of 50 steps that multiply by at most 1.25: 50 · 1.25^50 is only met on the wall
    np.testing.assert_allclose([found[k - 1] for k in terms], list(terms.values()), rtol=5e-12)
    assert float(found.sum()) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(("w", "b"), list(UNIT)[:2])
def test_omega_of_one_unit_has_its_published_values(w, b):
    *_, plain, squared = UNIT[w, b]
    xs = simulate.trajectory(unit(w, b), jnp.array([0.5]), num_steps=50)
    directions, log_norms = map(np.asarray, gradients.backpropagate(unit(w, b), xs, None, unit_slope(xs[-1])))
    vectors = directions * np.exp(log_norms)[:, None]
    for cotangents in (jnp.asarray(directions[1:]), jnp.asarray(vectors[1:])):  # only directions count
        assert float(gradients.omega(unit(w, b), xs, None, cotangents)) == pytest.approx(plain, rel=1e-13)
        assert float(gradients.omega(unit(w, b), xs, None, cotangents, squared=True)) == pytest.approx(
            squared, rel=1e-13
        )


def test_contributions_sum_to_the_gradient_for_every_parameter():
    network, x0, inputs = driven_network()

    def loss(x):
        return jnp.sum(jnp.sin(x)) ** 2

    terms = jax.tree.map(np.asarray, gradients.contributions(network, x0, inputs, loss))
    slope = equinox.filter_grad(lambda network: loss(simulate.final_state(network, x0, inputs)))
    exact = equinox.filter_jit(slope)(network)
    for term, gradient in zip(jax.tree.leaves(terms), jax.tree.leaves(exact), strict=True):
        assert term.shape == (40, *gradient.shape)
        # two orders of summing the same 40 terms
        np.testing.assert_allclose(term.sum(axis=0), gradient, rtol=0, atol=1e-13 * np.abs(term).sum(axis=0).max())


def test_contributions_leave_integer_leaves_alone():
    class Counting(equinox.Module):
        w: jax.Array
        times: jax.Array

        def __call__(self, x, u=None):
            del u
            return self.w * x + 0.0 * self.times

    terms = gradients.contributions(Counting(jnp.array(0.5), jnp.array(3)), jnp.ones(1), None, jnp.sum, num_steps=4)
    # x_T = w^T: the term of step k is w^(T-k) x_{k-1} = w^(T-1), whichever k
    np.testing.assert_allclose(terms.w, np.full(4, 0.5**3), rtol=1e-15)
    assert terms.times is None


def test_back_propagated_gradients_are_those_of_autodiff_at_every_step():
    network, x0, inputs = driven_network()
    xs = simulate.trajectory(network, x0, inputs)
    cotangent = jnp.arange(1.0, 8.0)
    directions, log_norms = map(np.asarray, gradients.backpropagate(network, xs, inputs, cotangent))

    @jax.jit
    def exact(xs):
        def pull(k):
            return jax.vjp(lambda x: simulate.final_state(network, x, inputs[k:], num_steps=40 - k), xs[k])[1]

        return {k: pull(k)(cotangent)[0] for k in (0, 1, 17, 39, 40)}

    for k, gradient in exact(xs).items():
        came = directions[k] * np.exp(log_norms[k])
        np.testing.assert_allclose(came, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=0, atol=1e-15 * 7)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_back_propagated_gradients_neither_underflow_nor_overflow(factor):
    # 5,000 steps by a rotation times 10^∓3: the gradient is 10^∓15,000
    rotation = factor * jnp.array([[0.6, -0.8], [0.8, 0.6]])
    xs = jnp.zeros((5001, 2))
    directions, log_norms = gradients.backpropagate(lambda x, u: rotation @ x, xs, None, jnp.array([3e200, 4e200]))
    expected = np.log(5e200) + np.arange(5000, -1, -1) * np.log(factor)
    # On the way down through 0 what has been added up is as large as ln 5e200, and so is its rounding.
    np.testing.assert_allclose(log_norms, expected, rtol=1e-13, atol=1e-13 * np.log(5e200))
    assert np.isfinite(directions).all()


def test_in_single_precision_a_million_logarithms_are_summed_without_loss():
    factor, num = np.float32(0.9), 1_000_000
    _, log_norms = gradients.backpropagate(
        lambda x, u: factor * x, jnp.zeros((num + 1, 1), jnp.float32), None, jnp.ones(1, jnp.float32)
    )
    exact = num * np.log(np.float64(factor))  # each step's logarithm is right to some eps of itself
    np.testing.assert_allclose(np.asarray(log_norms)[0], exact, rtol=4 * np.finfo(np.float32).eps)


def test_contributions_through_gradients_beyond_the_floats_are_infinite_or_zero_and_never_nan():
    # The gradient of x_6 grows to 10^500 on its way back, where it meets 0, or the 10^-300 of the start.
    model = PascanuRNN(1e100 * np.eye(1), None, np.zeros(1), identity)
    loss = lambda x: x[0]  # noqa: E731
    for start, exact in ((0.0, 0.0), (1e-300, 1e200)):
        terms = gradients.contributions(model, jnp.array([start]), None, loss, num_steps=6)
        np.testing.assert_allclose(np.ravel(terms.w_rec), np.full(6, exact), rtol=30 * EPS)  # w^5 x_0, whichever step


def test_omega_has_its_derivative_however_short_the_pulled_back_gradient():
    xs, cotangents = jnp.zeros((3, 1), jnp.float32), jnp.ones((2, 1), jnp.float32)
    slope = jax.jit(jax.grad(lambda a: gradients.omega(lambda x, u: a * x, xs, None, cotangents)))
    for a in (1e-20, 1e-3):
        assert float(slope(jnp.float32(a))) == pytest.approx(4 * (a - 1), rel=1e-6)  # of 2 (a - 1)²


def test_stretch_by_stretch_from_kept_states_the_gradient_is_the_same():
    network, x0, inputs = driven_network()
    xs = simulate.trajectory(network, x0, inputs)
    cotangent, log_norm = np.eye(7)[2], 0.0
    directions, log_norms = map(np.asarray, gradients.backpropagate(network, xs, inputs, jnp.asarray(cotangent)))
    for start in (30, 20, 10, 0):
        stretch = slice(start, start + 10)
        run = simulate.trajectory(network, xs[start], inputs[stretch])
        found, logs = map(np.asarray, gradients.backpropagate(network, run, inputs[stretch], jnp.asarray(cotangent)))
        # The same products but for ‖d‖, which rounds off 1 again: 7 units, 40 steps, of which each may lose a digit.
        np.testing.assert_allclose(found, directions[start : start + 11], rtol=0, atol=40 * 7 * EPS * 10)
        np.testing.assert_allclose(logs + log_norm, log_norms[start : start + 11], rtol=0, atol=40 * 7 * EPS * 10)
        cotangent, log_norm = found[0], log_norm + logs[0]


def test_a_gradient_that_is_exactly_zero_stays_zero_and_its_logarithm_is_minus_infinity():
    step = lambda x, u: u * x  # noqa: E731
    inputs = jnp.array([[1.0], [0.0], [1.0]])
    directions, log_norms = gradients.backpropagate(step, jnp.ones((4, 1)), inputs, jnp.ones(1))
    assert log_norms.tolist() == [-np.inf, -np.inf, 0.0, 0.0]
    assert np.ravel(directions).tolist() == [0.0, 0.0, 1.0, 1.0]
    # such steps have no ratio: Ω counts the two others, whose gradients come to 0 and to 1
    assert float(gradients.omega(step, jnp.ones((4, 1)), inputs, directions[1:])) == 1.0


def test_behind_a_jacobian_that_is_not_a_number_nothing_is():
    def step(x, u):
        return jnp.linalg.norm(x) * x + u  # JAX has no derivative of the norm at 0

    xs, cotangents = jnp.zeros((3, 2)), jnp.ones((2, 2))
    directions, log_norms = gradients.backpropagate(step, xs, jnp.zeros((2, 2)), cotangents[0])
    assert np.isnan(directions[:-1]).all()
    assert np.isnan(log_norms).tolist() == [True, True, False]
    for squared in (False, True):
        assert np.isnan(gradients.omega(step, xs, jnp.zeros((2, 2)), cotangents, squared=squared))


def test_an_orbit_in_float32_of_a_map_in_float64_is_taken_back_in_float64():
    step = lambda x, u: x * np.float64(0.5)  # noqa: E731
    xs, cotangent = jax.device_put(np.ones((3, 1), np.float32)), jax.device_put(np.array([1e50]))
    for orbit in (xs, xs.astype(float)):
        directions, log_norms = gradients.backpropagate(step, orbit, None, cotangent)
        np.testing.assert_array_equal(directions, np.ones((3, 1)))
        np.testing.assert_allclose(log_norms, np.log(1e50) - np.log(2) * np.arange(2, -1, -1), rtol=4 * EPS)
    single = lambda x, u: x * np.float32(0.5)  # noqa: E731
    _, log_norms = gradients.backpropagate(single, xs, None, cotangent)  # a length beyond float32
    np.testing.assert_allclose(log_norms, np.log(1e50) - np.log(2) * np.arange(2, -1, -1), rtol=1e-6)
    cotangents = jax.device_put(np.ones((2, 1), np.float32))
    assert float(gradients.omega(step, xs, None, cotangents)) == pytest.approx(0.5, abs=4 * EPS)  # 2 (0.5 - 1)²


def test_omega_is_zero_for_an_orthogonal_map_and_known_for_a_scaled_one():
    q = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0])
    xs, cotangents = jnp.zeros((11, 5)), jnp.asarray(np.random.default_rng(1).standard_normal((10, 5)))
    step = lambda x, u: u * q @ x  # noqa: E731
    for c, squared in ((1.0, False), (0.5, False), (0.5, True), (0.0, False)):
        value = gradients.omega(step, xs, np.full(10, c), cotangents, squared=squared)
        assert float(value) == pytest.approx(10 * ((c**2 if squared else c) - 1) ** 2, abs=1e-13)


def test_the_immediate_gradient_of_omega_reaches_the_recurrent_weights_alone():
    network, x0, inputs = driven_network()
    xs = simulate.trajectory(network, x0, inputs)
    cotangents = gradients.backpropagate(network, xs, inputs, jnp.ones(7))[0][1:]

    def value(network, immediate):
        xs = simulate.trajectory(network, x0, inputs)
        return gradients.omega(network, xs, inputs, cotangents, squared=True, immediate=immediate)

    gradient = equinox.filter_jit(equinox.filter_grad(value))(network, immediate=True)
    assert not np.any(gradient.b)
    assert not np.any(gradient.w_in)
    # eq. 10 by hand: ratio = |Wᵀδ ∘ σ'|²/|δ|², d/dW of Σ (ratio - 1)²
    w, slope = np.asarray(network.w_rec), np.asarray(jax.jit(network.activation.derivative)(xs[:-1]))
    by_hand = np.zeros((7, 7))
    for delta, d in zip(np.asarray(cotangents), slope, strict=True):
        pulled = (delta @ w) * d
        ratio = pulled @ pulled / (delta @ delta)
        by_hand += 2 * (ratio - 1) * 2 * np.outer(delta, pulled * d) / (delta @ delta)
    np.testing.assert_allclose(gradient.w_rec, by_hand, rtol=0, atol=1e-12 * np.abs(by_hand).max())
    full = equinox.filter_jit(equinox.filter_grad(value))(network, immediate=False)
    assert np.abs(full.b).max() > 0


def test_omega_leaves_out_gradients_below_the_bound():
    step = lambda x, u: 0.5 * x  # noqa: E731
    cotangents = jnp.array([[1e-11], [1.0], [1e-9]])
    xs = jnp.ones((4, 1))
    assert float(gradients.omega(step, xs, None, cotangents, bound=1e-20)) == pytest.approx(2 * 0.25)
    assert float(gradients.omega(step, xs, None, cotangents)) == pytest.approx(3 * 0.25)


def test_back_propagation_composes_with_jit_vmap_and_float32():
    network, x0, inputs = driven_network()
    xs = simulate.trajectory(network, x0, inputs)
    cotangents = np.eye(7)[:3]
    _, together = jax.jit(jax.vmap(lambda c: gradients.backpropagate(network, xs, inputs, c)))(cotangents)
    together = np.asarray(together)
    for i in range(3):
        _, alone = gradients.backpropagate(network, xs, inputs, jnp.asarray(cotangents[i]))
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=1e-12)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network)
    _, log_norms = gradients.backpropagate(
        single, xs.astype(jnp.float32), inputs.astype(jnp.float32), jnp.asarray(cotangents[0], jnp.float32)
    )
    assert log_norms.dtype == jnp.float32
    np.testing.assert_allclose(log_norms, together[0], rtol=0, atol=40 * 7 * np.finfo(np.float32).eps * 10)


def test_clipping_chains_with_any_optimiser():
    optimiser = optax.chain(gradients.clip(1.0), optax.sgd(0.5))
    parameters = {"w": jnp.zeros(2)}
    updates, _ = optimiser.update({"w": jnp.array([30.0, 40.0])}, optimiser.init(parameters), parameters)
    np.testing.assert_allclose(updates["w"], [-0.3, -0.4], rtol=1e-15)
    updates, _ = optimiser.update({"w": jnp.array([jnp.nan, 1.0])}, optimiser.init(parameters), parameters)
    assert not np.asarray(updates["w"]).any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, xs: gradients.backpropagate(f, xs, None, jnp.ones(3)), r"cotangent.*\(1,\).*\(3,\)"),
        (lambda f, xs: gradients.backpropagate(f, xs, jnp.ones((2, 1)), jnp.ones(1)), "inputs must be 3 steps.*2"),
        (lambda f, xs: gradients.backpropagate(f, xs[0], None, jnp.ones(1)), r"xs.*\(T\+1, n\)"),
        (lambda f, xs: gradients.omega(f, xs, None, xs), r"cotangents.*\(3, 1\).*\(4, 1\)"),
        (lambda f, xs: gradients.omega(f, xs, None, xs[1:], bound=-1.0), "bound.*-1.0"),
        (lambda f, xs: gradients.omega(f, xs, None, xs[1:], bound="small"), "bound must be"),
        (lambda f, xs: gradients.omega(f, xs, None, xs[1:], squared=np.True_), "squared must be of type bool"),
        (lambda f, xs: gradients.contributions(f, xs[0], None, jnp.sum, num_steps=2), "step must be a pytree"),
        (lambda f, xs: gradients.contributions(unit(1.0, 0.0), xs[0], None, jnp.sin, num_steps=2), r"scalar.*\(1,\)"),
        (lambda f, xs: gradients.contributions(unit(1.0, 0.0), xs[0], None, jnp.sum), "inputs or num_steps"),
        (lambda f, xs: gradients.clip(0.0), "max_norm.*0.0"),
    ],
)
def test_misuse_of_back_propagation_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda x, u: x, jnp.ones((4, 1)))


def test_a_limit_captured_by_a_callers_jit_is_checked_and_used():
    limit = jnp.array(1.0)
    clipped, norm = jax.jit(lambda g: gradients.clip_by_norm(g, limit))(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-15)
    assert float(norm) == 5.0
