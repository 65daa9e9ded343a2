"""Clipping: the law ‖clipped‖ = min(‖g‖, max), at every length a float can have and at none."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_dynamics import gradients
from rnn_dynamics.models.doya import DoyaNeuron

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
    g = {"w": jnp.asarray(VECTORS[20]), "b": jnp.array(1 / 3)}
    clipped, _ = gradients.clip_by_norm(g, 1e10)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), g, clipped)))


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
    clipped, norm = gradients.clip_by_norm({"w": jnp.zeros((2, 3)), "b": jnp.zeros(0)}, max_norm)
    assert norm == 0
    assert not clipped["w"].any()
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
    clipped, norm = gradients.clip_by_norm(size * jnp.array([3.0, 4.0], jnp.float32), 0.5 * size)
    assert clipped.dtype == norm.dtype == jnp.float32
    # 3e±30 and 4e±30 are rounded to float32 first; then as above.
    np.testing.assert_allclose(clipped / np.float32(size), [0.3, 0.4], rtol=6 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(norm / np.float32(size), 5.0, rtol=6 * np.finfo(np.float32).eps)


def test_ordinary_gradients_are_clipped_as_optax_does():
    rng = np.random.default_rng(1)
    transform = optax.clip_by_global_norm(1.5)
    for scale in (0.01, 0.3, 1.0, 1e3):
        g = {"w": jnp.asarray(scale * rng.standard_normal((4, 4))), "b": jnp.asarray(scale * rng.standard_normal(4))}
        theirs, _ = transform.update(g, transform.init(g))
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
    def jacobian(g):
        return jax.jacrev(lambda g: gradients.clip_by_norm(g, 1.0)[0])(g)

    # d(g/‖g‖) = (I - ĝĝᵀ)/‖g‖; at (3, 4): ĝ = (0.6, 0.8).
    np.testing.assert_allclose(jacobian(jnp.array([0.3, 0.4])), np.eye(2))
    np.testing.assert_allclose(jacobian(jnp.zeros(2)), np.eye(2))
    np.testing.assert_allclose(jacobian(jnp.array([3.0, 4.0])), [[0.128, -0.096], [-0.096, 0.072]], rtol=20 * EPS)
    assert not jacobian(jnp.array([np.inf, 1.0])).any()


def test_the_norms_derivative_is_the_unit_vector_and_zero_at_zero():
    slope = jax.grad(lambda g: gradients.clip_by_norm(g, 1.0)[1])
    np.testing.assert_allclose(slope(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=4 * EPS)
    assert slope(jnp.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("max_norm", [0.0, -1.0, np.nan, np.inf, 0, True, "1", None, np.ones(2)])
def test_a_limit_that_is_not_a_positive_number_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm must be"):
        gradients.clip_by_norm(jnp.ones(2), max_norm)


def test_the_structure_survives_with_equinox_filters():
    model = DoyaNeuron(w=5.0, b=-2.5)
    slope = equinox.filter_grad(lambda neuron: neuron(jnp.array([0.4]))[0])(model)
    clipped, norm = gradients.clip_by_norm(slope, 1e-3)
    assert jax.tree.structure(clipped) == jax.tree.structure(slope)
    np.testing.assert_allclose(np.linalg.norm(jax.tree.leaves(clipped)), 1e-3, rtol=12 * EPS)
    assert norm > 1e-3
