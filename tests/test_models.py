import equinox
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from rnn_dynamics import activations
from rnn_dynamics.fixed_points import certify
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.models.pascanu import drive
from rnn_dynamics.models.reference import (
    Cat,
    Henon,
    Linear,
    Logistic,
    Normal,
    Tent,
    bistable_module,
    chaotic_module,
)
from rnn_dynamics.simulate import final_state, trajectory
from tests import reference
from tests.contracts import EPS, check_map

RNG = np.random.default_rng(0)
W, W_IN, B = (jnp.asarray(RNG.normal(size=shape)) for shape in ((4, 4), (4, 2), (4,)))
X, U = jnp.asarray(RNG.normal(size=4)), jnp.asarray(RNG.normal(size=2))
KINDS = ["sigmoid", "basic_tanh", "smart_tanh", "gaussian"]


# Laws of every map


@pytest.mark.parametrize("u", [U, None], ids=["driven", "autonomous"])
@pytest.mark.parametrize("kind", KINDS)
def test_pascanu_networks_pass_the_contract(kind, u):
    check_map(PascanuRNN.initialise(kind, 4, 0 if u is None else 2, seed=1), X, u)


def test_a_pascanu_network_with_corners_passes_the_contract():
    check_map(PascanuRNN(W, W_IN, B, activations.relu), X, U)


@pytest.mark.parametrize(("leak", "w_in", "u"), [(1.0, W_IN, U), (0.3, W_IN, U), (0.3, None, None)])
def test_elman_networks_pass_the_contract(leak, w_in, u):
    check_map(ElmanRNN(W, w_in, B, leak=leak), X, u)


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
@pytest.mark.parametrize("u", [jnp.array(0.3), None], ids=["driven", "autonomous"])
def test_doyas_neuron_passes_the_contract(epsilon, u):
    # The third derivative of σ(wx + b) by x, w and b is below w³/8 + w²/2 + w < 50 · 10.
    check_map(DoyaNeuron(w=5.0, b=-2.4, epsilon=epsilon, w_in=0.7), jnp.array([0.3]), u)


@pytest.mark.parametrize(
    ("system", "x", "u"),
    [
        (Linear(W, W_IN), X, U),
        (Logistic(3.7), jnp.array([0.3, 0.4]), None),
        (Henon(), jnp.array([0.3, -0.2]), None),
        (chaotic_module(), jnp.array([-1.0, 2.0]), None),
        (bistable_module(0.3), jnp.array([-1.0, 2.0]), None),
        (Tent(1.7), jnp.array([0.3, 0.8]), None),
        (Cat(), jnp.array([0.3, 0.6]), None),
        (Normal("LP", -0.1, 2.0), jnp.array([0.3]), None),
        (Normal("BP", -0.1, 2.0), jnp.array([0.3]), None),
        (Normal("PD", -0.1, 2.0), jnp.array([0.3]), None),
        (Normal("NS", -0.1, 2.0, 0.7), jnp.array([0.3, -0.4]), None),
    ],
    ids=["linear", "logistic", "henon", "chaotic", "bistable", "tent", "cat", "fold", "pitchfork", "flip", "circle"],
)
def test_reference_systems_pass_the_contract(system, x, u):
    check_map(system, x, u, scale=30.0)


def test_a_plain_function_passes_the_contract():
    check_map(lambda x, u: jnp.tanh(x[::-1]) + u, X, jnp.float64(0.5))


def test_models_are_arrays_all_through_and_go_into_a_jit_as_arguments():
    for model in (PascanuRNN(W, W_IN, B), ElmanRNN(W, None, B), DoyaNeuron(5.0, -2.5), Linear(W), Henon(), Logistic(2)):
        assert all(equinox.is_array(leaf) for leaf in jax.tree.leaves(model))
    network = PascanuRNN(W, W_IN, B)
    came = jax.jit(lambda network, x, u: network(x, u))(network, X, U)
    np.testing.assert_allclose(came, network(X, U), atol=16 * EPS * 10)


def test_a_population_is_made_under_vmap():
    neurons = equinox.filter_vmap(lambda b: DoyaNeuron(w=5.0, b=b))(jnp.array([-2.6, -2.4]))
    came = equinox.filter_jit(equinox.filter_vmap(lambda neuron: neuron(jnp.array([0.5]))[0]))(neurons)
    np.testing.assert_allclose(came, expit([-0.1, 0.1]), rtol=4 * EPS)


# Pascanu's network


def test_pascanus_step_is_its_equation():
    expected = np.asarray(W) @ expit(X) + np.asarray(W_IN) @ np.asarray(U) + np.asarray(B)
    np.testing.assert_allclose(PascanuRNN(W, W_IN, B)(X, U), expected, atol=16 * EPS * 10)  # 7 terms below 10
    expected = np.asarray(W) @ np.tanh(X) + np.asarray(B)
    np.testing.assert_allclose(PascanuRNN(W, W_IN, B, activations.tanh)(X), expected, atol=16 * EPS * 10)


def test_rows_of_the_weights_receive():
    network = PascanuRNN(jnp.array([[0.0, 2.0], [0.0, 0.0]]), None, jnp.zeros(2), activations.identity)
    np.testing.assert_array_equal(network(jnp.array([5.0, 7.0])), [14.0, 0.0])
    np.testing.assert_array_equal(network.jacobian(jnp.zeros(2)), [[0, 2], [0, 0]])


def test_the_jacobian_is_w_diag_slope_whatever_the_input():
    network = PascanuRNN(W, W_IN, B)
    s = expit(np.asarray(X))
    expected = np.asarray(W) @ np.diag(s * (1 - s))
    np.testing.assert_allclose(network.jacobian(X), expected, atol=16 * EPS)
    np.testing.assert_array_equal(network.jacobian(X, U), network.jacobian(X))


@pytest.mark.parametrize("w", reference.PASCANU_FLIPS)
def test_the_units_flips_are_where_the_closed_form_has_them(w):
    for (b, _), sign in zip(reference.PASCANU_FLIPS[w], (-1, 1), strict=True):
        s = (1 + sign * np.sqrt(1 + 4 / w)) / 2
        x, unit = np.log(s / (1 - s)), PascanuRNN(jnp.array([[w]]), None, jnp.array([b]))
        # b and x are good to an ulp of |w| + |b| + |x| < 20; the multiplier changes by < |w| for each of x.
        np.testing.assert_allclose(unit(jnp.array([x]))[0], x, atol=4 * 20 * EPS)
        np.testing.assert_allclose(unit.jacobian(jnp.array([x]))[0, 0], -1, atol=4 * 20 * EPS * abs(w))


@pytest.mark.parametrize("w", reference.PASCANU_TWO_CYCLES)
def test_the_units_two_cycle_is_where_it_was_computed(w):
    *states, multiplier = reference.PASCANU_TWO_CYCLES[w]
    unit = PascanuRNN(jnp.array([[w]]), None, jnp.array([-w / 2]))
    x, y = (jnp.array([np.log(s / (1 - s))]) for s in states)
    # The values of S have 15 digits at least; x = ln(S/(1-S)) magnifies an error in S by 1/(S(1-S)) < 50.
    np.testing.assert_allclose(unit(x), y, atol=50 * 1e-15 * 10)
    np.testing.assert_allclose(unit(y), x, atol=50 * 1e-15 * 10)
    np.testing.assert_allclose(unit.jacobian(x) * unit.jacobian(y), [[multiplier]], rtol=50 * 1e-15 * 10)


def test_the_pre_activation_is_what_the_slope_is_taken_at():
    np.testing.assert_array_equal(PascanuRNN(W, W_IN, B).pre_activation(X, U), X)
    z = np.asarray(W) @ np.asarray(X) + np.asarray(W_IN) @ np.asarray(U) + np.asarray(B)
    np.testing.assert_allclose(ElmanRNN(W, W_IN, B, leak=0.3).pre_activation(X, U), z, atol=16 * EPS * 10)


# Its initialisations


@pytest.mark.parametrize(
    ("kind", "rec", "inp"),
    [
        ("sigmoid", 0.01, 0.01),
        ("basic_tanh", 0.1, 0.1),
        ("gaussian", 1.5 / 100**0.5, 1 / 50**0.5),
        ("smart_tanh", 0, 0.01),
    ],
)
def test_weights_have_the_stated_deviations_and_biases_are_zero(kind, rec, inp):
    network = PascanuRNN.initialise(kind, 100, 50, seed=3, gain=1.5)
    for weights, deviation in ((np.asarray(network.w_rec), rec), (np.asarray(network.w_in), inp)):
        if deviation:  # five standard errors of N normal numbers: 5/√(2N) of the deviation, 5/√N for the mean
            assert np.std(weights) == pytest.approx(deviation, rel=5 / np.sqrt(2 * weights.size))
            assert abs(np.mean(weights)) < 5 * deviation / np.sqrt(weights.size)
    np.testing.assert_array_equal(network.b, np.zeros(100))
    assert network.activation is (activations.sigmoid if kind == "sigmoid" else activations.tanh)


@pytest.mark.parametrize(("n", "incoming"), [(50, 15), (15, 15), (7, 7), (1, 1)])
def test_smart_tanh_has_fifteen_incoming_weights_and_spectral_radius_095(n, incoming):
    w = np.asarray(PascanuRNN.initialise("smart_tanh", n, 3, seed=5).w_rec)
    assert set((w != 0).sum(axis=1)) == {incoming}
    # Rescaled once: the eigenvalue, of condition below 1e3 here, is as good as LAPACK's.
    assert np.abs(np.linalg.eigvals(w)).max() == pytest.approx(0.95, rel=1e3 * n * EPS)


def test_smart_tanh_chooses_its_partners_afresh_for_every_unit():
    pattern = np.asarray(PascanuRNN.initialise("smart_tanh", 50, 0, seed=6).w_rec) != 0
    assert len(np.unique(pattern, axis=0)) == 50
    outgoing = pattern.sum(axis=0)  # binomial, mean 15, deviation √(50 · 0.3 · 0.7) = 3.2: within five
    assert outgoing.min() > 0
    assert outgoing.max() < 32


def test_weights_come_from_numpys_stream_and_the_gain_scales_them_exactly():
    normal = np.random.default_rng(7)
    w_rec, w_in = normal.standard_normal((6, 6)), normal.standard_normal((6, 2))
    network = PascanuRNN.initialise("basic_tanh", 6, 2, seed=7)
    np.testing.assert_array_equal(network.w_rec, 0.1 * w_rec)
    np.testing.assert_array_equal(network.w_in, 0.1 * w_in)
    one, two = (PascanuRNN.initialise("gaussian", 6, 2, seed=7, gain=gain) for gain in (1.0, 2.0))
    np.testing.assert_allclose(one.w_rec, w_rec / np.sqrt(6), rtol=2 * EPS)
    np.testing.assert_array_equal(two.w_rec, 2 * one.w_rec)
    np.testing.assert_array_equal(two.w_in, one.w_in)
    assert not np.array_equal(PascanuRNN.initialise("gaussian", 6, 2, seed=8).w_rec, one.w_rec)


def test_a_network_without_inputs_has_no_input_weights():
    assert PascanuRNN.initialise("gaussian", 3, 0, seed=0).w_in is None
    assert PascanuRNN.initialise("gaussian", 3, 1, seed=0).w_in.shape == (3, 1)


def test_a_network_can_be_made_inside_a_jit():
    came = jax.jit(lambda x: PascanuRNN.initialise("gaussian", 3, 0, seed=0, gain=0.5)(x))(X[:3])
    np.testing.assert_allclose(came, PascanuRNN.initialise("gaussian", 3, 0, seed=0, gain=0.5)(X[:3]), atol=16 * EPS)


# Elman's network


def test_elmans_step_is_its_equation():
    z = np.asarray(W) @ np.asarray(X) + np.asarray(W_IN) @ np.asarray(U) + np.asarray(B)
    np.testing.assert_allclose(ElmanRNN(W, W_IN, B)(X, U), np.tanh(z), atol=16 * EPS * 10)
    expected = 0.7 * np.asarray(X) + 0.3 * expit(z)
    np.testing.assert_allclose(ElmanRNN(W, W_IN, B, activations.sigmoid, leak=0.3)(X, U), expected, atol=16 * EPS * 10)


def test_elmans_jacobian_sees_the_input_and_the_leak():
    z = np.asarray(W) @ np.asarray(X) + np.asarray(W_IN) @ np.asarray(U) + np.asarray(B)
    expected = 0.7 * np.eye(4) + 0.3 * np.diag(1 - np.tanh(z) ** 2) @ np.asarray(W)
    np.testing.assert_allclose(ElmanRNN(W, W_IN, B, leak=0.3).jacobian(X, U), expected, atol=16 * EPS * 10)


@pytest.mark.parametrize("activation", [activations.sigmoid, activations.tanh], ids=lambda a: a.name)
def test_pascanus_trajectory_read_after_the_activation_is_elmans(activation):
    # W of norm below 0.6 contracts errors of 20 ulp a step to less than 50 in all.
    pascanu = PascanuRNN(0.15 * W, W_IN, B, activation)
    assert np.linalg.norm(pascanu.w_rec, 2) < 0.6
    inputs = jnp.asarray(RNG.normal(size=(40, 2)))
    elman = ElmanRNN.from_pascanu(pascanu)
    xs = trajectory(pascanu, X, inputs)
    hs = trajectory(elman, activation(X), inputs)
    np.testing.assert_allclose(hs, activation(xs), atol=50 * EPS * 10)
    back = trajectory(elman.to_pascanu(), X, inputs)
    np.testing.assert_array_equal(back, xs)


def test_conversion_there_and_back_changes_nothing():
    pascanu = PascanuRNN(W, W_IN, B, activations.tanh)
    assert equinox.tree_equal(ElmanRNN.from_pascanu(pascanu).to_pascanu(), pascanu)
    elman = ElmanRNN(W, None, B, activations.sigmoid)
    assert equinox.tree_equal(ElmanRNN.from_pascanu(elman.to_pascanu()), elman)


def test_the_two_forms_share_their_multipliers_but_not_their_norms():
    pascanu = PascanuRNN(W, None, B, activations.tanh)
    elman = ElmanRNN.from_pascanu(pascanu)
    x = final_state(PascanuRNN(0.15 * W, None, B, activations.tanh), X, num_steps=100)  # any state will do
    before = np.asarray(pascanu.jacobian(x))  # W D
    after = np.diag(activations.tanh.derivative(x)) @ np.asarray(W)  # D W
    z = jnp.asarray(np.linalg.solve(W, x - B))  # W of condition < 100
    np.testing.assert_allclose(elman.jacobian(z), after, atol=1e3 * EPS)
    sort = lambda values: values[np.lexsort((values.imag, values.real))]  # noqa: E731
    eigenvalues = [sort(np.linalg.eigvals(j)) for j in (before, after)]
    np.testing.assert_allclose(*eigenvalues, atol=1e3 * EPS)  # eigenvalues of condition < 100
    assert abs(np.linalg.norm(before, 2) - np.linalg.norm(after, 2)) > 0.01


# Doya's neuron


def test_doyas_step_is_its_equation():
    neuron = DoyaNeuron(w=5.0, b=-2.4, epsilon=0.3, w_in=2.0)
    expected = 0.7 * 0.2 + 0.3 * expit(5 * 0.2 - 2.4) + 0.3 * 2.0 * 0.5
    np.testing.assert_allclose(neuron(jnp.array([0.2]), jnp.array(0.5)), [expected], rtol=8 * EPS)
    np.testing.assert_allclose(neuron(jnp.array([0.2]), jnp.array([0.5])), [expected], rtol=8 * EPS)
    np.testing.assert_allclose(neuron(jnp.array([0.2])), [expected - 0.3], rtol=16 * EPS)


@pytest.mark.parametrize("epsilon", [1.0, 0.5, 1e-3])
def test_the_velocity_is_the_step_over_epsilon(epsilon):
    neuron = DoyaNeuron(w=5.0, b=-2.4, epsilon=epsilon, w_in=2.0)
    x, u = jnp.array([0.2]), jnp.array([0.5])
    step = (np.asarray(neuron(x, u)) - 0.2) / epsilon  # the difference of numbers near 1 is off by an ulp of 1
    np.testing.assert_allclose(neuron.velocity(x, u), step, atol=8 * EPS / epsilon)
    np.testing.assert_allclose(neuron.velocity(x, u), expit(1.0 - 2.4) - 0.2 + 1.0, rtol=8 * EPS)


@pytest.mark.parametrize("b", reference.DOYA_EQUILIBRIA)
def test_equilibria_and_multipliers_are_the_closed_form_ones(b):
    neuron = DoyaNeuron(w=5.0, b=b)
    x = np.asarray(neuron.equilibria())
    # y = wx + b is found to an ulp or two of |w| + |b| < 8, and x = σ(y) moves by x(1-x)/|1 - multiplier| < 2 of that.
    np.testing.assert_allclose(x, reference.DOYA_EQUILIBRIA[b], atol=2 * 4 * 8 * EPS)
    multipliers = [neuron.jacobian(jnp.array([state])).item() for state in x]
    np.testing.assert_allclose(multipliers, reference.DOYA_MULTIPLIERS[b], atol=5 * 2 * 4 * 8 * EPS)


def test_equilibria_and_folds_do_not_depend_on_the_time_step():
    found = [DoyaNeuron(w=5.0, b=-2.45, epsilon=epsilon).equilibria() for epsilon in (1.0, 0.5, 1e-3)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    for b, x in DoyaNeuron.folds(5.0):
        for epsilon in (1.0, 0.5, 0.1, 1e-3):
            neuron = DoyaNeuron(w=5.0, b=b, epsilon=epsilon)
            np.testing.assert_allclose(neuron(x[None]), x, atol=4 * 8 * EPS)
            np.testing.assert_allclose(neuron.jacobian(x[None]), 1, atol=4 * 8 * EPS)


def random_neurons(number):
    """Pairs (w, b): ordinary, inhibitory, none, huge; biases on all sides of the folds, and close to -w/2."""
    rng = np.random.default_rng(11)
    w = rng.choice([1.0, -1.0], number, p=[0.75, 0.25]) * rng.choice([0.0, 1.0, 3.0, 10.0, 1e3], number)
    w = w * rng.uniform(0.5, 1.0, number)
    b = -w / 2 + rng.normal(size=number) * (1 + np.abs(w)) * rng.choice([1e-6, 0.05, 0.5, 3.0], number)
    return w, b


def folds_of(w):
    """The closed form for w > 4, in NumPy: x₋, x₊ and their biases; beside, nan."""
    with np.errstate(invalid="ignore", divide="ignore"):
        upper = np.where(w > 4, (1 + np.sqrt(1 - 4 / w)) / 2, np.nan)
        lower = 1 / (w * upper)
        return lower, upper, np.log(lower / upper) - w * lower, np.log(upper / lower) - w * upper


def neuron(w, b):
    """A neuron whose parameters are plain numbers: 10,000 are made at once."""
    return jax.tree.unflatten(jax.tree.structure(DoyaNeuron(1.0, 0.0)), (w, b, 1.0))


@pytest.mark.usefixtures("unchecked")  # which costs ten times as much as the work
def test_equilibria_are_all_found_once_each_for_ten_thousand_random_neurons():
    w, b = random_neurons(10_000)
    found = [np.asarray(neuron(*pair).equilibria()) for pair in zip(w, b, strict=True)]
    lower, upper, b_lower, b_upper = folds_of(w)
    with np.errstate(invalid="ignore"):
        clear = ~(np.minimum(abs(b - b_lower), abs(b - b_upper)) < 1e-12 * (1 + abs(w)))
        three = (b > b_upper) & (b < b_lower)
    counts = np.array([len(x) for x in found])
    np.testing.assert_array_equal(counts[clear], np.where(three, 3, 1)[clear])
    assert three.sum() > 1000
    assert (~three).sum() > 1000
    assert clear.mean() > 0.99

    index = np.repeat(np.arange(len(w)), counts)
    x, w, b = np.concatenate(found), w[index], b[index]
    # x = σ(wx + b): rounding x, the product and the sum moves the argument by 2 ε (|w| x + |b|), and the root of h
    # by as much again; σ then moves by at most x (1 - x) of that, plus 2 ulp of its own.
    y = w * x + b
    tolerance = EPS * (4 * x + 8 * x * expit(-y) * (np.abs(w) * (1 + x) + 2 * np.abs(b) + 1))
    assert (np.abs(x - expit(y)) <= tolerance).all()
    # Each piece between the folds holds at most one: ascending, and one to a piece.
    piece = (x > lower[index]).astype(int) + (x > upper[index])
    pairs = index[1:] == index[:-1]
    assert (np.diff(x)[pairs] > 0).all()
    assert (np.diff(piece)[pairs] == 1).all()


@pytest.mark.parametrize("w", [4.1, 5.0, 50.0, 1e3])
@pytest.mark.parametrize("distance", [1e-3, 1e-9])
def test_equilibria_are_counted_rightly_close_to_a_fold(w, distance):
    (b_lower, x_lower), (b_upper, x_upper) = np.array(DoyaNeuron.folds(w))
    for b, x, inward in ((b_lower, x_lower, -1), (b_upper, x_upper, 1)):
        inside, outside = (np.asarray(DoyaNeuron(w, b + s * inward * distance).equilibria()) for s in (1, -1))
        assert (len(inside), len(outside)) == (3, 1)
        # Two of the three are √(δ / (w c)) to either side, c = w|1 - 2x|/2 (normal form of the fold), to leading order.
        near = np.sort(np.abs(inside - x))[:2]
        reach = np.sqrt(2 * distance / w**2 / abs(1 - 2 * x))
        if reach < 0.02 * min(x, 1 - x):
            np.testing.assert_allclose(near, reach, rtol=0.05)


@pytest.mark.parametrize("w", [4.5, 5.0, 8.0])
def test_equilibria_on_a_fold_are_two_up_to_rounding(w):
    for b, x in reference.DOYA_FOLDS[w]:
        found = np.asarray(DoyaNeuron(w, b).equilibria())
        assert 1 <= len(found) <= 3
        others = found[np.abs(found - x) > 1e-6]  # rounding b by δ moves the double point by √(δ·O(1)) ≈ 1e-8
        assert len(others) == 1
        multiplier = w * others[0] * (1 - others[0])
        assert multiplier < 0.9


@pytest.mark.parametrize(
    ("w", "b", "expected"),
    [
        (0.0, 0.3, [expit(0.3)]),
        (0.0, -800.0, [0.0]),
        (-1e3, 500.0, [0.5]),  # x = 1/2 wherever b = -w/2
        (4.0, -2.0, [0.5]),  # the cusp
        (1e3, -500.0, [np.exp(-500.0), 0.5, 1.0]),
        (1e3, 2e3, [1.0]),
        (1e3, -2e3, [0.0]),
        (1e-300, 0.0, [0.5]),
    ],
)
def test_equilibria_of_extreme_neurons(w, b, expected):
    # Absolute errors of y = wx + b of a few ulp of 1e3 are relative errors of the small x.
    np.testing.assert_allclose(DoyaNeuron(w, b).equilibria(), expected, rtol=4e3 * EPS, atol=1e-300)


def test_equilibria_mirror_each_other():  # (x, b) -> (1 - x, -w - b)
    for b in (-2.6, -2.45, -1.0):
        mirrored = 1 - np.asarray(DoyaNeuron(5.0, -5.0 - b).equilibria())[::-1]
        np.testing.assert_allclose(DoyaNeuron(5.0, b).equilibria(), mirrored, atol=2 * 4 * 8 * EPS)


@pytest.mark.parametrize("w", reference.DOYA_FOLDS)
def test_folds_are_the_closed_form_ones(w):
    (b_lower, x_lower), (b_upper, x_upper) = DoyaNeuron.folds(w)
    expected = reference.DOYA_FOLDS[w]
    # x: a root of 1 - 4/w, whose rounding is magnified by 1/√(1 - 4/w) < 7; b is stationary in x, so it only rounds.
    np.testing.assert_allclose([x_lower, x_upper], [x for _, x in expected], rtol=16 * EPS)
    np.testing.assert_allclose([b_lower, b_upper], [b for b, _ in expected], rtol=8 * EPS)


def test_folds_meet_in_the_cusp_and_keep_their_digits_far_from_it():
    w, b, x = DoyaNeuron.cusp
    assert DoyaNeuron.cusp == reference.DOYA_CUSP
    np.testing.assert_array_equal(np.ravel(DoyaNeuron.folds(w)), [b, x, b, x])
    for w in (1e3, 1e8):
        with mpmath.workdps(50):
            root = mpmath.sqrt(1 - 4 / mpmath.mpf(w))
            expected = [(1 - root) / 2, (1 + root) / 2]
            biases = [float(mpmath.log(x / (1 - x)) - w * x) for x in expected]
        folds = DoyaNeuron.folds(w)
        np.testing.assert_allclose([x for _, x in folds], [float(x) for x in expected], rtol=8 * EPS)
        np.testing.assert_allclose([b for b, _ in folds], biases, rtol=8 * EPS)


def test_folds_move_with_the_weight_as_the_envelope_theorem_says():  # b is stationary in x at a fold: db/dw = -x
    for branch in (0, 1):
        slope = jax.jit(jax.grad(lambda w, branch=branch: DoyaNeuron.folds(w)[branch][0]))(5.0)
        np.testing.assert_allclose(slope, -DoyaNeuron.folds(5.0)[branch][1], rtol=64 * EPS)


def test_folds_of_a_traced_weight_below_the_cusp_are_nan():
    assert np.isnan(jax.jit(lambda w: DoyaNeuron.folds(w)[0][0])(3.9))


def test_folds_are_beers_and_bengios():
    for w in reference.DOYA_FOLDS:
        (b_lower, _), (b_upper, _) = DoyaNeuron.folds(w)
        np.testing.assert_allclose([b_upper, b_lower], reference.beer_folds(w), rtol=64 * EPS)
    for w, threshold in reference.LATCH_THRESHOLDS.items():  # h* = distance of the folds / 4 at four times the weight
        (b_lower, _), (b_upper, _) = DoyaNeuron.folds(4 * w)
        np.testing.assert_allclose((b_lower - b_upper) / 4, threshold, atol=4 * 20 * EPS)


@pytest.mark.parametrize(("epsilon", "w"), reference.DOYA_FLIPS)
def test_flips_are_the_closed_form_ones(epsilon, w):
    for b, x in reference.DOYA_FLIPS[epsilon, w]:
        neuron = DoyaNeuron(w, b, epsilon)
        np.testing.assert_allclose(neuron(jnp.array([x])), x, atol=4 * 80 * EPS)  # argument wx + b, |w| + |b| < 80
        np.testing.assert_allclose(neuron.jacobian(jnp.array([x])), -1, atol=4 * 80 * EPS * abs(w))


def test_the_equilibrium_bias_is_the_logit_minus_the_weighted_state():
    x = np.array([1e-300, 1e-3, 0.3, 0.5, 0.999])
    with mpmath.workdps(50):
        exact = [float(mpmath.log(mpmath.mpf(v) / (1 - mpmath.mpf(v))) - 5 * mpmath.mpf(v)) for v in x]
    biases = np.asarray(DoyaNeuron.equilibrium_bias(5.0, jnp.asarray(x)))
    np.testing.assert_allclose(biases, exact, rtol=8 * EPS)
    np.testing.assert_allclose(expit(5 * x + biases)[1:], x[1:], rtol=4 * 8 * 8 * EPS)


def test_the_equilibrium_bias_inverts_equilibria():
    for b, points in reference.DOYA_EQUILIBRIA.items():
        came = [DoyaNeuron.equilibrium_bias(5.0, x) for x in points]
        np.testing.assert_allclose(came, np.full(len(points), b), atol=16 * EPS / min(points))


@pytest.mark.parametrize("b", reference.DOYA_BIAS_SENSITIVITY)
def test_sensitivities_are_the_closed_form_ones(b):
    neuron = DoyaNeuron(w=5.0, b=b)
    for x, expected in zip(reference.DOYA_EQUILIBRIA[b], reference.DOYA_BIAS_SENSITIVITY[b], strict=True):
        if expected is not None:  # 1 - 5x(1-x) > 0.2 in size, from terms below 1.25
            np.testing.assert_allclose(neuron.bias_sensitivity(jnp.array(x)), expected, rtol=32 * EPS)
            np.testing.assert_allclose(neuron.weight_sensitivity(jnp.array(x)), x * expected, rtol=32 * EPS)


def test_the_bias_sensitivity_is_infinite_at_the_cusp():
    assert np.isinf(DoyaNeuron(w=4.0, b=-2.0).bias_sensitivity(jnp.array([0.5])))


# Reference systems


def test_linear_is_its_matrix():
    np.testing.assert_allclose(Linear(W, W_IN)(X, U), np.asarray(W) @ X + np.asarray(W_IN) @ U, atol=16 * EPS * 10)
    np.testing.assert_array_equal(Linear(jnp.array([[0.0, 1.0], [0.0, 0.0]]))(jnp.array([5.0, 7.0])), [7, 0])


def test_logistic_orbits_at_four_are_sines():  # x_t = sin²(2^t arcsin √x_0), May 1976
    xs = np.asarray(trajectory(Logistic(4.0), jnp.array([0.3]), num_steps=10))[:, 0]
    # Errors double each step: 2^10 ulp on either side.
    np.testing.assert_allclose(xs, np.sin(2.0 ** np.arange(11) * np.arcsin(np.sqrt(0.3))) ** 2, atol=4 * 2**10 * EPS)
    np.testing.assert_array_equal(Logistic(2.0)(jnp.array([0.0, 0.5])), [0, 0.5])


def test_what_a_normal_form_gives_birth_to_has_the_closed_form():
    p, a = 0.09, 0.25  # √(p/a) = 0.6
    for kind, sign, born in (("LP", -1, 1), ("BP", -1, 1), ("PD", 1, -1)):  # fixed points, and a 2-cycle
        system = Normal(kind, sign * p, a)
        for x in (0.6, -0.6):
            np.testing.assert_allclose(system(jnp.array([x])), [born * x], rtol=8 * EPS)
    circle = Normal("NS", p, -a, 0.8)(0.6 * jnp.array([np.cos(0.5), np.sin(0.5)]))
    np.testing.assert_allclose(circle, 0.6 * np.array([np.cos(1.3), np.sin(1.3)]), rtol=16 * EPS)


def test_henon_contracts_areas_and_has_its_fixed_points():
    a, b = 1.4, 0.3
    for sign in (1, -1):
        x = (-(1 - b) + sign * np.sqrt((1 - b) ** 2 + 4 * a)) / (2 * a)
        point = jnp.array([x, b * x])
        np.testing.assert_allclose(Henon()(point), point, atol=16 * EPS)
        np.testing.assert_allclose(np.linalg.det(jax.jit(jax.jacfwd(Henon()))(point)), -b, rtol=16 * EPS)
    np.testing.assert_array_equal(Henon(2.0, 0.5)(jnp.array([1.0, 3.0])), [2.0, 0.5])


def test_the_chaotic_module_is_pasemanns():
    module, point = chaotic_module(), jnp.array(reference.CHAOTIC_MODULE["fixed_point"])
    # The fixed point has 8 decimals; the map stretches by at most 3.2, and the multipliers' derivatives are below 30.
    np.testing.assert_allclose(module(point), point, atol=5 * 0.5e-8)
    multipliers = np.sort(np.linalg.eigvals(module.jacobian(point)))
    np.testing.assert_allclose(multipliers, reference.CHAOTIC_MODULE["multipliers"], atol=30 * 0.5e-8)


def test_the_chaotic_modules_orbit_stays_in_its_published_range():
    xs = np.asarray(trajectory(chaotic_module(), jnp.array(reference.CHAOTIC_MODULE["start"]), num_steps=200_000))[
        1000:
    ]
    for column, name in enumerate("xy"):
        low, high = reference.CHAOTIC_MODULE[name]  # of 2e6 steps: a tenth of them comes nearly as far and no further
        assert low - 1e-5 <= xs[:, column].min() < low + 0.01
        assert high - 0.01 < xs[:, column].max() <= high + 1e-5
    # The mean of 2e5 chaotic steps of deviation 5 is good to 5/√2e5 = 0.011; five of those.
    np.testing.assert_allclose(xs.mean(axis=0), reference.CHAOTIC_MODULE["mean"], atol=0.06)


def test_the_chaotic_modules_flips_are_where_they_were_computed():
    # On fixed points, y = 3 - 6 σ(x) and b₁ = x + 20 σ(x) - 6 σ(y): along x, find where det(J + I) = 0.
    def point(x):
        return np.array([x, 3 - 6 * expit(x)])

    def bias(x):
        return x + 20 * expit(x) - 6 * expit(point(x)[1])

    def determinant(x):
        return np.linalg.det(np.eye(2) + np.asarray(chaotic_module(bias(x)).jacobian(jnp.asarray(point(x)))))

    grid = np.linspace(-8, 8, 65)
    values = [determinant(x) for x in grid]
    pieces = [grid[i : i + 2] for i in np.flatnonzero(np.diff(np.sign(values)))]
    zeros = [brentq(determinant, *piece, xtol=1e-13) for piece in pieces]
    np.testing.assert_allclose([bias(x) for x in zeros], reference.CHAOTIC_MODULE["flips"], atol=1e-11)
    for x in zeros:
        np.testing.assert_allclose(chaotic_module(bias(x))(jnp.asarray(point(x))), point(x), atol=1e-13)


@pytest.mark.parametrize(("b1", "x"), reference.BISTABLE_MODULE["folds"])
def test_the_bistable_modules_folds_are_where_they_were_computed(b1, x):
    point = jnp.array([x, 3 + 5 * expit(x)])
    module = bistable_module(b1)
    # 14 decimals; 7σ' + ... stretches below 3, and det(J - I) has derivatives below 10.
    np.testing.assert_allclose(module(point), point, atol=3e-14)
    assert abs(np.linalg.det(np.asarray(module.jacobian(point)) - np.eye(2))) < 1e-12


def test_the_bistable_modules_determinant_stays_small():  # det J = 20 σ'(x) σ'(y) on y = 3 + 5 σ(x)
    x = np.linspace(-10, 10, 2001)
    points = np.stack([x, 3 + 5 * expit(x)], axis=1)
    largest = np.linalg.det(jax.jit(jax.vmap(bistable_module().jacobian))(points)).max()
    np.testing.assert_allclose(largest, reference.BISTABLE_MODULE["largest_determinant"], atol=0.5e-4)


# Misuse

NAN, EYE = np.nan, np.eye(3)
NETWORK = PascanuRNN(EYE, np.ones((3, 2)), np.zeros(3))
NEURON = DoyaNeuron(5.0, -2.5)


@pytest.mark.parametrize("kind", [PascanuRNN, ElmanRNN])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), None, np.zeros(3)), r"w_rec .* shape \(n, n\); got float64 of shape \(3, 2\)"),
        ((np.ones(3), None, np.zeros(3)), r"w_rec .* got float64 of shape \(3,\)"),
        ((EYE * 1j, None, np.zeros(3)), r"w_rec must be a float array .* got complex128 of shape \(3, 3\)"),
        ((np.eye(3, dtype=int), None, np.zeros(3)), "w_rec must be a float array .* got int64"),
        ((EYE * NAN, None, np.zeros(3)), "w_rec must be finite; got 9 NaN or infinite of 9 values"),
        ((EYE, np.ones((2, 3)), np.zeros(3)), r"w_in .* shape \(3, m\); got float64 of shape \(2, 3\)"),
        ((EYE, np.full((3, 2), np.inf), np.zeros(3)), "w_in must be finite; got 6 NaN or infinite of 6"),
        ((EYE, None, np.zeros(2)), r"b .* shape \(3,\); got float64 of shape \(2,\)"),
        ((EYE, None, np.array([0.0, NAN, 0.0])), "b must be finite; got 1 NaN or infinite of 3"),
        (("W", None, np.zeros(3)), "w_rec must be an array of numbers; got str"),
        ((None, None, np.zeros(3)), "w_rec must be an array of numbers; got NoneType"),
        (
            (EYE, None, np.zeros(3), jnp.tanh),
            r"activation must be of type Activation \(see rnn_dynamics.activations\); got ",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_networks_refuse_parameters_that_do_not_fit(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(*arguments)


@pytest.mark.parametrize("call", [NETWORK, ElmanRNN.from_pascanu(NETWORK), Linear(EYE, jnp.ones((3, 2)))])
@pytest.mark.parametrize(
    ("x", "u", "message"),
    [
        (jnp.zeros(2), None, r"x must be a float array of shape \(3,\); got float64 of shape \(2,\)"),
        (jnp.zeros(1), None, r"x must be a float array of shape \(3,\); got float64 of shape \(1,\)"),
        (jnp.zeros((2, 3)), None, r"x .* got float64 of shape \(2, 3\)"),
        (jnp.zeros(3, int), None, r"x must be a float array of shape \(3,\); got int64"),
        (jnp.zeros(3), jnp.zeros(3), r"u must be a float array of shape \(2,\); got float64 of shape \(3,\)"),
        (jnp.zeros(3), jnp.array(0.0), r"u must be a float array of shape \(2,\); got float64 of shape \(\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_networks_refuse_states_and_inputs_that_do_not_fit(call, x, u, message):
    with pytest.raises(ValueError, match=message):
        call(x, u)
    if hasattr(call, "jacobian") and u is None:
        for method in (call.jacobian, call.pre_activation):
            with pytest.raises(ValueError, match=message):
                method(x)


@pytest.mark.parametrize("call", [PascanuRNN(EYE, None, jnp.zeros(3)), ElmanRNN(EYE, None, jnp.zeros(3)), Linear(EYE)])
def test_networks_without_input_weights_refuse_an_input(call):
    with pytest.raises(ValueError, match="u must be None for a network whose w_in is None; got an input"):
        call(jnp.zeros(3), jnp.zeros(2))


def test_the_push_of_no_input_is_zero():
    assert drive(None, None) == drive(jnp.ones((3, 2)), None) == 0.0


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("relu", 3, 0),
            {"seed": 0},
            "kind must be one of 'sigmoid', 'basic_tanh', 'smart_tanh', 'gaussian'; got 'relu'",
        ),
        (("sigmoid", 0, 0), {"seed": 0}, "n must be a whole number, at least 1; got 0"),
        (("sigmoid", 3.0, 0), {"seed": 0}, r"n must be a whole number, at least 1; got 3\.0"),
        (("sigmoid", 3, -1), {"seed": 0}, "m must be a whole number, at least 0; got -1"),
        (("sigmoid", True, 0), {"seed": 0}, "n must be a whole number, at least 1; got True"),
        (("sigmoid", 3, 0), {"seed": -1}, "seed must be a whole number, at least 0; got -1"),
        (("gaussian", 3, 0), {"seed": 0, "gain": float("nan")}, "gain must be finite; got 1 NaN or infinite of 1"),
        (("gaussian", 3, 0), {"seed": 0, "gain": float("inf")}, "gain must be finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_initialise_refuses_what_it_does_not_know(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        PascanuRNN.initialise(*arguments, **options)


@pytest.mark.parametrize("leak", [0.0, -0.1, 1.5])
def test_a_leak_outside_its_interval_is_refused(leak):
    with pytest.raises(ValueError, match=rf"leak must lie in \(0, 1\]; got {leak}"):
        ElmanRNN(EYE, None, jnp.zeros(3), leak=leak)


def test_a_leaky_network_has_no_pre_activation_form():
    with pytest.raises(ValueError, match=r"leak must be 1 for the pre-activation form to exist; got 0\.5"):
        ElmanRNN(EYE, None, jnp.zeros(3), leak=0.5).to_pascanu()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DoyaNeuron(5.0, -2.5, 0.0), r"epsilon must lie in \(0, 1\]; got 0\.0"),
        (lambda: DoyaNeuron(5.0, -2.5, 1.01), r"epsilon must lie in \(0, 1\]; got 1\.01"),
        (lambda: DoyaNeuron(5.0, -2.5, float("nan")), "epsilon must be finite"),
        (lambda: DoyaNeuron(float("inf"), -2.5), "w must be finite; got 1 NaN or infinite of 1"),
        (lambda: DoyaNeuron(10**400, -2.5), "w must be finite; got an integer beyond the floats"),
        (lambda: DoyaNeuron(5.0, jnp.zeros(1)), r"b must be a float array of shape \(\); got float64 of shape \(1,\)"),
        (lambda: DoyaNeuron(5.0, 1j), r"b must be a float array of shape \(\); got complex128"),
        (lambda: DoyaNeuron(5.0, True), r"b must be a float array of shape \(\); got bool"),
        (lambda: DoyaNeuron(5.0, -2.5, w_in="one"), "w_in must be an array of numbers; got str"),
        (lambda: NEURON(jnp.zeros(2)), r"x must be a float array of shape \(1,\); got float64 of shape \(2,\)"),
        (lambda: NEURON(jnp.array(0.0)), r"x must be a float array of shape \(1,\); got float64 of shape \(\)"),
        (lambda: NEURON.velocity(jnp.zeros(2)), r"x must be a float array of shape \(1,\)"),
        (lambda: NEURON.jacobian(jnp.zeros(2)), r"x must be a float array of shape \(1,\)"),
        (
            lambda: DoyaNeuron(5.0, -2.5, w_in=1.0)(jnp.zeros(1), jnp.zeros(2)),
            r"u must be a float array of shape \(1,\); got float64 of shape \(2,\)",
        ),
        (lambda: NEURON(jnp.zeros(1), jnp.zeros(1)), "u must be None for a neuron whose w_in is None; got an input"),
        (lambda: certify(NEURON, jnp.zeros(1), jnp.zeros(1)), "u must be None"),
        (
            lambda: trajectory(NEURON, jnp.zeros(1), jnp.zeros(3)),
            "inputs must hold .* what the map takes: u must be None",
        ),
        (
            lambda: jax.jit(lambda b: DoyaNeuron(5.0, b).equilibria())(-2.5),
            "equilibria runs on the host .* got traced ones",
        ),
        (lambda: DoyaNeuron.equilibrium_bias(5.0, 0.0), r"x must lie in \(0, 1\), where fixed points are; got 0\.0"),
        (lambda: DoyaNeuron.equilibrium_bias(5.0, 1.0), r"x must lie in \(0, 1\)"),
        (lambda: DoyaNeuron.equilibrium_bias(5.0, jnp.array([0.5, jnp.nan])), r"x must lie in \(0, 1\)"),
        (lambda: DoyaNeuron.folds(3.9), r"w must be at least 4 for folds to exist; got 3\.9"),
        (lambda: DoyaNeuron.folds(float("nan")), "w must be finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_doyas_neuron_refuses_what_it_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Linear(jnp.ones((2, 3))), r"a must be a float array of shape \(n, n\); got float64 of shape \(2, 3\)"),
        (lambda: Linear(EYE * NAN), "a must be finite"),
        (lambda: Linear(EYE, jnp.ones((2, 1))), r"w_in must be a float array of shape \(3, m\)"),
        (lambda: Logistic(float("nan")), "r must be finite"),
        (lambda: Henon(a=float("inf")), "a must be finite"),
        (lambda: Henon(b=jnp.zeros(2)), r"b must be a float array of shape \(\)"),
        (lambda: Henon()(jnp.zeros(3)), r"x must be a float array of shape \(2,\); got float64 of shape \(3,\)"),
        (lambda: Tent(2.1), r"slope must lie in \(0, 2\]; got 2.1"),
        (lambda: Cat()(jnp.zeros(3)), r"x must be a float array of shape \(2,\)"),
        (lambda: Normal("H", 0.0), "kind must be one of 'LP', 'BP', 'PD', 'NS'; got 'H'"),
        (lambda: Normal("NS", 0.0)(jnp.zeros(1)), r"x must be a float array of shape \(2,\)"),
        (lambda: chaotic_module(float("nan")), "b1 must be finite"),
        (lambda: bistable_module(jnp.zeros(2)), r"b1 must be a float array of shape \(\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_reference_systems_refuse_what_they_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
