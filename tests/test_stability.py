import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics.models import DoyaNeuron
from rnn_dynamics.models.reference import chaotic_module
from rnn_dynamics.stability import classify, multipliers
from tests import reference

EPS = 2.0**-52


def companion(*roots):
    """A matrix with these eigenvalues."""
    coefficients = np.real(np.poly(roots))
    return jax.device_put(np.vstack([-coefficients[1:], np.eye(len(roots) - 1, len(roots))]))


# Multipliers


def test_the_multipliers_of_a_triangular_matrix_stand_on_its_diagonal_by_size():
    j = jnp.array([[0.5, 3.0, 1.0], [0.0, -2.0, 4.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(multipliers(j), [-2, 1, 0.5], atol=64 * EPS)
    np.testing.assert_allclose(multipliers(j, time="continuous"), [1, 0.5, -2], atol=64 * EPS)


def test_of_a_complex_pair_the_upper_one_comes_first():
    spiral = [0.3 + 0.4j, 0.3 - 0.4j]
    for time, rest in (("discrete", [-2.0, 0.1]), ("continuous", [0.1, -2.0])):
        came = multipliers(companion(*spiral, -2.0, 0.1), time=time)
        expected = [-2.0, *spiral, 0.1] if time == "discrete" else [*spiral, *rest]
        np.testing.assert_allclose(came, expected, atol=1e3 * EPS)


def test_of_equal_sizes_the_larger_real_part_comes_first():
    np.testing.assert_array_equal(multipliers(jnp.array([[-1.0, 0.0], [0.0, 1.0]])), [1, -1])


def test_one_unit_has_its_slope():
    np.testing.assert_array_equal(multipliers(jnp.array([[-3.0]])), [-3])


def test_defective_and_zero_matrices_have_their_double_eigenvalue():
    # A perturbation of ε moves the eigenvalues of a Jordan block by √ε.
    np.testing.assert_allclose(multipliers(jnp.array([[1.0, 1.0], [0.0, 1.0]])), [1, 1], atol=4 * np.sqrt(EPS))
    np.testing.assert_array_equal(multipliers(jnp.zeros((2, 2))), [0, 0])


def test_a_stack_is_done_one_by_one_and_what_is_not_finite_is_nan():
    good = np.array([[1.0, 2.0], [3.0, 4.0]])
    stack = np.stack([good, good, 2 * good, good])[:, None]
    stack[1, 0, 0, 0], stack[3, 0, 1, 0] = np.nan, np.inf
    came = np.asarray(multipliers(jnp.asarray(stack)))
    assert came.shape == (4, 1, 2)
    assert np.isnan(came).all(-1)[:, 0].tolist() == [False, True, False, True]
    expected = (5 + np.sqrt(33) * np.array([1, -1])) / 2
    np.testing.assert_allclose(came[0, 0], expected, rtol=32 * EPS)
    np.testing.assert_allclose(came[2, 0], 2 * expected, rtol=32 * EPS)


def test_multipliers_belong_to_the_map_not_to_its_coordinates():
    rng = np.random.default_rng(0)
    j, t = rng.normal(size=(2, 5, 5))
    # Eigenvalues and basis of condition below 100 each.
    np.testing.assert_allclose(
        multipliers(jnp.asarray(t @ j @ np.linalg.inv(t))), multipliers(jnp.asarray(j)), atol=1e4 * 10 * EPS
    )


def test_single_precision_stays_single():
    assert multipliers(jnp.asarray(np.eye(2, dtype=np.float32))).dtype == jnp.complex64


def test_multipliers_are_the_same_under_jit_and_vmap():
    js = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4)))
    expected = multipliers(js)
    np.testing.assert_allclose(jax.jit(multipliers)(js), expected, atol=64 * EPS)
    np.testing.assert_allclose(jax.vmap(multipliers)(js), expected, atol=64 * EPS)


def test_a_simple_multipliers_derivative_is_that_of_the_matrix():
    j = jnp.array([[2.0, 0.0], [0.0, 0.5]])
    gradient = jax.jit(jax.grad(lambda j: multipliers(j)[0].real))(j)
    np.testing.assert_allclose(gradient, [[1, 0], [0, 0]], atol=16 * EPS)


def test_the_chaotic_modules_fixed_point_is_a_saddle_with_the_computed_multipliers():
    point = np.array(reference.CHAOTIC_MODULE["fixed_point"])
    came = multipliers(jax.jit(lambda x: chaotic_module().jacobian(x))(point))
    np.testing.assert_allclose(came, reference.CHAOTIC_MODULE["multipliers"], atol=30 * 0.5e-8)  # 8 decimals
    assert classify(came) == "saddle"


# Classes


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5], "stable node"),
        ([-0.5, 0.2], "stable node"),
        ([0.0, 0.0], "stable node"),
        ([0.3 + 0.4j, 0.3 - 0.4j], "stable focus"),
        ([0.9, 0.3 + 0.4j, 0.3 - 0.4j], "stable focus"),
        ([-1.5, 1.2], "unstable node"),
        ([1.2 + 0.4j, 1.2 - 0.4j], "unstable focus"),
        ([1.5, 0.5], "saddle"),
        ([1.5, 1.0, 0.5], "saddle"),
        ([1.2 + 0.4j, 1.2 - 0.4j, 0.5], "saddle"),
        ([1.0, 0.5], "marginal"),
        ([-1.0], "marginal"),
        ([0.6 + 0.8j, 0.6 - 0.8j], "marginal"),
        ([1.0, 1.5], "marginal"),
    ],
)
def test_maps_are_classified_by_the_unit_circle(values, kind):
    assert classify(np.array(values)) == kind
    assert classify(jnp.asarray(values, complex)) == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([-0.5], "stable node"),
        ([-0.1 + 2j, -0.1 - 2j], "stable focus"),
        ([0.5, 3.0], "unstable node"),
        ([0.1 + 2j, 0.1 - 2j], "unstable focus"),
        ([0.1, -0.1], "saddle"),
        ([0.5, 0.0, -0.5], "saddle"),
        ([0.0, -1.0], "marginal"),
        ([2j, -2j], "marginal"),
        ([0.0, 1.0], "marginal"),
    ],
)
def test_flows_are_classified_by_the_imaginary_axis(values, kind):
    assert classify(np.array(values), time="continuous") == kind


def test_maps_and_flows_are_never_mixed():
    assert classify(np.array([0.5])) == "stable node"
    assert classify(np.array([0.5]), time="continuous") == "unstable node"
    assert classify(np.array([-2.0])) == "unstable node"
    assert classify(np.array([-2.0]), time="continuous") == "stable node"


def test_the_border_is_as_wide_as_it_is_said_to_be():
    for excess, kind in ((0.02, "unstable node"), (-0.02, "stable node"), (0.005, "marginal"), (-0.005, "marginal")):
        assert classify(np.array([1 + excess]), tol=0.01) == kind
        assert classify(np.array([excess]), time="continuous", tol=0.01) == kind
    assert classify(np.array([0.5 + 0.005j, 0.5 - 0.005j]), tol=0.01) == "stable node"
    assert classify(np.array([1.0]), tol=0.0) == "marginal"
    assert classify(np.array([1.0 + EPS]), tol=0.0) == "unstable node"


def test_the_default_border_follows_rounding_and_the_largest_multiplier():
    assert classify(np.array([1 + 90 * EPS])) == "marginal"
    assert classify(np.array([1 + 110 * EPS])) == "unstable node"
    assert classify(np.array([1e6, 1 + 1e5 * EPS])) == "marginal"
    assert classify(np.array([1 + 2.0**-20], np.float32)) == "marginal"  # 8 ulp of float32
    assert classify(np.array([1 + 2.0**-20])) == "unstable node"


def test_a_stack_is_classified_row_by_row():
    kinds = classify(np.array([[0.5, 0.2], [1.5, 0.2], [1.0, 0.2]]))
    assert kinds.tolist() == ["stable node", "saddle", "marginal"]
    assert classify(np.zeros((0, 2))).shape == (0,)
    assert classify(np.full((2, 3, 1), 0.5)).shape == (2, 3)


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_doyas_fixed_points_are_stable_unstable_stable_and_marginal_on_a_fold(epsilon):
    @jax.jit
    @jax.vmap
    def jacobians(b, x):
        return DoyaNeuron(w=5.0, b=b, epsilon=epsilon).jacobian(x[None])

    equilibria = DoyaNeuron(w=5.0, b=-2.5, epsilon=epsilon).equilibria()
    kinds = classify(multipliers(jacobians(np.full(3, -2.5), equilibria)))
    assert kinds.tolist() == ["stable node", "unstable node", "stable node"]
    at_folds = classify(multipliers(jacobians(*np.transpose(jax.jit(DoyaNeuron.folds)(5.0)))))
    assert at_folds.tolist() == ["marginal", "marginal"]


# Misuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multipliers(np.eye(2), time="both"), "time must be one of 'discrete', 'continuous'; got 'both'"),
        (lambda: multipliers(np.ones((2, 3))), r"jacobian must be a float array of shape \(n, n\); got .* \(2, 3\)"),
        (
            lambda: multipliers(np.ones(3)),
            r"jacobian must be a float array of shape \(n, n\); got float64 of shape \(3,\)",
        ),
        (lambda: multipliers(np.eye(2, dtype=int)), "jacobian must be a float array .* got int64"),
        (lambda: multipliers(np.eye(2) * 1j), "jacobian must be a float array .* got complex128"),
        (lambda: classify(np.array([0.5]), time="both"), "time must be one of 'discrete', 'continuous'; got 'both'"),
        (lambda: classify(np.array([np.nan, 0.5])), "multipliers must be finite; got 1 NaN or infinite of 2 values"),
        (lambda: classify(np.array([np.inf])), "multipliers must be finite"),
        (
            lambda: classify(np.array(0.5)),
            r"multipliers must be floats .* shape \(n,\) or \(k, n\).* float64 of shape \(\)",
        ),
        (lambda: classify(np.zeros((2, 0))), r"multipliers must be floats or complex .* float64 of shape \(2, 0\)"),
        (lambda: classify(np.array([1, 2])), r"multipliers must be floats or complex .* got int64 of shape \(2,\)"),
        (lambda: classify(np.array(["a"])), "multipliers must be floats or complex .* got <U1"),
        (lambda: classify(np.array([0.5]), tol=-1.0), r"tol must be at least 0; got -1\.0"),
        (lambda: classify(np.array([0.5]), tol=float("nan")), "tol must be at least 0; got nan"),
        (lambda: classify(np.array([0.5]), tol="small"), "tol must be an array of numbers; got str"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
