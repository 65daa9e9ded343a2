import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from rnn_dynamics import activations
from rnn_dynamics.models import DoyaNeuron, PascanuRNN
from rnn_dynamics.models.reference import Logistic
from rnn_dynamics.simulate import final_state, settle, trajectory
from tests import reference

EPS = 2.0**-52
ONE = jnp.ones(1)


def halve(x, u):
    return 0.5 * x if u is None else 0.5 * x + u


# What a trajectory is


def test_a_trajectory_is_the_loop_over_its_map():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1)))
    xs = trajectory(halve, ONE, inputs)
    expected = [np.ones(1)]
    for u in np.asarray(inputs):
        expected.append(0.5 * expected[-1] + u)
    np.testing.assert_allclose(xs, np.array(expected), atol=8 * EPS)
    np.testing.assert_allclose(final_state(halve, ONE, inputs), expected[-1], atol=8 * EPS)


def test_linear_orbits_are_powers():  # powers of two: exact
    xs = trajectory(halve, ONE, num_steps=50)
    np.testing.assert_array_equal(np.ravel(xs), 0.5 ** np.arange(51))
    np.testing.assert_array_equal(final_state(halve, ONE, num_steps=50), [0.5**50])


def test_input_t_drives_state_t_to_state_t_plus_one():
    inputs = np.arange(1.0, 6.0)[:, None]
    np.testing.assert_array_equal(trajectory(lambda x, u: u, ONE, inputs), [[1], [1], [2], [3], [4], [5]])


@pytest.mark.parametrize("inputs", [None, jnp.zeros((0, 1)), {}])
def test_no_steps_leave_the_initial_state(inputs):
    np.testing.assert_array_equal(trajectory(lambda x, _: x / 2, ONE, inputs, num_steps=0), [[1.0]])
    np.testing.assert_array_equal(final_state(lambda x, _: x / 2, ONE, inputs, num_steps=0), [1.0])


@pytest.mark.usefixtures("unchecked")
def test_the_length_may_come_from_the_inputs_from_num_steps_or_from_both():
    inputs = jnp.zeros((3, 1))
    step = lambda x, _: x / 2  # noqa: E731
    for given, num_steps in ((inputs, None), (inputs, 3), (None, 3), ({"a": None}, 3), (None, np.int64(3))):
        assert trajectory(step, ONE, given, num_steps=num_steps).shape == (4, 1)


def test_inputs_may_be_any_pytree():
    inputs = {"a": jnp.arange(3.0), "b": (np.arange(3), jnp.array([True, False, True]))}
    keys = jax.random.split(jax.random.key(0), 3)

    def step(x, u):
        inputs, key = u
        a, (count, switch) = inputs["a"], inputs["b"]
        return x + jnp.where(switch, 10 * a + count, 0) + 0 * jax.random.normal(key)

    np.testing.assert_array_equal(np.ravel(trajectory(step, jnp.zeros(1), (inputs, keys))), [0, 0, 0, 22])


def test_depth_is_time():  # a feedforward network is a map driven by its layers' weights
    rng = np.random.default_rng(1)
    weights, biases = rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 4))
    x = np.ones(4)
    xs = np.asarray(trajectory(lambda x, u: jnp.tanh(u[0] @ x + u[1]), jnp.asarray(x), (weights, biases)))
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True), start=1):
        x = np.tanh(w @ x + b)
        np.testing.assert_allclose(xs[layer], x, atol=1e3 * EPS)  # three layers of norm below 5, 5 terms each


def test_a_million_steps_settle_on_the_fixed_point():
    x = final_state(DoyaNeuron(w=5.0, b=-2.5, epsilon=0.1), jnp.array([0.4]), num_steps=1_000_000)
    # The map contracts by 0.96 a step: rounding of an ulp a step adds up to 26 of them.
    np.testing.assert_allclose(x, reference.DOYA_EQUILIBRIA[-2.5][0], rtol=0, atol=32 * EPS)


def test_an_orbit_that_leaves_the_floats_says_from_where_on():
    # 2^(2^t): beyond 2^1023 from t = 10 on
    xs = np.asarray(trajectory(lambda x, u: x**2, jnp.array([2.0]), num_steps=12))
    assert np.isfinite(xs).all(-1).tolist() == [True] * 10 + [False] * 3
    np.testing.assert_array_equal(xs[:10, 0], 2.0**2.0 ** np.arange(10))


# Precision


def test_float32_stays_float32():
    inputs = jnp.zeros((3, 1), jnp.float32)
    for driven in (inputs, None):
        assert trajectory(halve, ONE.astype(jnp.float32), driven, num_steps=3).dtype == jnp.float32
        assert final_state(halve, ONE.astype(jnp.float32), driven, num_steps=3).dtype == jnp.float32


@pytest.mark.parametrize("num_steps", [0, 3])
def test_the_state_takes_the_dtype_in_which_the_map_works(num_steps):
    wide = PascanuRNN(np.eye(1), None, np.zeros(1))
    x0 = ONE.astype(jnp.float32)
    assert trajectory(wide, x0, num_steps=num_steps).dtype == jnp.float64
    assert final_state(wide, x0, num_steps=num_steps).dtype == jnp.float64
    inputs = jnp.zeros((num_steps, 1))
    assert trajectory(halve, x0, inputs).dtype == jnp.float64
    assert final_state(halve, x0, inputs).dtype == jnp.float64


# Published and computed values


@pytest.mark.parametrize(("b", "x0"), reference.DOYA_ORBITS)
def test_doyas_orbits_are_the_computed_ones(b, x0):
    orbit = reference.DOYA_ORBITS[b, x0]
    xs = np.ravel(trajectory(DoyaNeuron(w=5.0, b=b, epsilon=0.1), jnp.array([x0]), num_steps=500))
    # An ulp a step, grown by dx_t/dx_s: at most 1.025^50 = 4 beside the unstable point, 20 past the ghost of the fold.
    np.testing.assert_allclose([xs[t] for t in orbit], list(orbit.values()), rtol=0, atol=20 * 50 * EPS)
    if (b, x0) == (-2.5, 0.4):
        mirrored = np.ravel(trajectory(DoyaNeuron(w=5.0, b=b, epsilon=0.1), jnp.array([0.6]), num_steps=500))
        np.testing.assert_allclose(mirrored, 1 - xs, rtol=0, atol=20 * 50 * EPS)


def test_the_settled_loss_jumps_where_the_basin_changes():
    biases = np.array(list(reference.DOYA_SETTLED_LOSS))

    @jax.jit
    @jax.vmap
    def settled(b):
        return final_state(DoyaNeuron(w=5.0, b=b, epsilon=0.1), jnp.array([0.5]), num_steps=1000)[0]

    loss = (0.855 - np.asarray(settled(biases))) ** 2
    # 1e-14 absolute on x beside the basin boundary; 0.855 itself is a decimal, hence up to 1e-15 in x - 0.855.
    slope = 2 * np.sqrt(list(reference.DOYA_SETTLED_LOSS.values()))
    error = np.abs(loss - np.array(list(reference.DOYA_SETTLED_LOSS.values())))
    assert (error <= slope * 1e-14 + 1e-15).all()


@pytest.mark.parametrize("push", reference.DOYA_PULSE_STEPS)
def test_a_pulse_switches_the_neuron_from_its_fewest_steps_on(push):
    neuron = DoyaNeuron(w=5.0, b=-2.5, epsilon=0.1, w_in=1.0)
    low = jnp.array([reference.DOYA_EQUILIBRIA[-2.5][0]])
    fewest = reference.DOYA_PULSE_STEPS[push]
    lengths = np.array([fewest - 1, fewest])
    pulses = push * (np.arange(700) < lengths[:, None])
    ends = np.ravel(jax.vmap(lambda inputs: final_state(neuron, low, inputs))(pulses))
    assert (ends > 0.5).tolist() == [False, True]


@pytest.mark.parametrize("side", [-1, 1])
def test_a_constant_drive_beyond_the_fold_leaves_no_lower_state(side):
    neuron = DoyaNeuron(w=5.0, b=-2.5, epsilon=1.0, w_in=1.0)
    drive = np.full(3000, reference.DOYA_DRIVE_LIMIT + side * 1e-4)
    # x is low or high; the passage of the ghost takes π/√(0.2 · 5 · 1e-4 · 1.118 · ...) ≈ 300 steps.
    end = final_state(neuron, jnp.array([0.0]), drive)
    assert (end.item() > 0.5) == (side > 0)


# Derivatives: a linearisation at all states, and a recursion


def loop(step, x0, inputs=None, *, num_steps=None, parallel=False):
    """The trajectory as JAX differentiates it by itself."""
    return jnp.concatenate([x0[None], jax.lax.scan(lambda x, u: (step(x, u),) * 2, x0, inputs, length=num_steps)[1]])


def size_of(parameters, run=trajectory, **options):
    """Every kind of argument at once: a map that closes over what is differentiated, inputs of floats, whole numbers
    and keys."""
    w_rec, w_in, x0, pushes = parameters
    inputs = pushes, jnp.arange(len(pushes)), jax.random.split(jax.random.key(0), len(pushes))

    def step(x, u):
        push, count, key = u
        return jnp.tanh(w_rec @ x + w_in @ push + 0.1 * count * x + 0.1 * (jax.random.key_data(key)[0] % 3))

    return jnp.sum(jnp.sin(run(step, x0, inputs, **options)))


PARAMETERS = tuple(np.random.default_rng(3).normal(size=shape) for shape in ((3, 3), (3, 2), (3,), (7, 2)))


@pytest.mark.parametrize("derivative", [lambda f: jax.grad(jax.checkpoint(f)), jax.hessian])
def test_derivatives_are_those_of_the_loop(derivative):
    ours, plain = (jax.jit(derivative(lambda p, run=run: size_of(p, run)))(PARAMETERS) for run in (trajectory, loop))
    # Sums of some 7² paths of 3 units, of norm up to 3 a step before it saturates: 1e4 roundings of numbers up to 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e5 * EPS), ours, plain)


def test_vmap_over_maps_states_and_inputs_differentiates_each_in_parallel_too():
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf / 2]), PARAMETERS)
    expected = jax.jit(jax.vmap(jax.grad(lambda p: size_of(p, loop))))(stacked)
    for parallel in (False, True):
        came = jax.jit(jax.vmap(jax.grad(lambda p, parallel=parallel: size_of(p, parallel=parallel))))(stacked)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e5 * EPS), came, expected)


def test_the_gradient_of_a_linear_orbit_has_its_closed_form():
    x0, a, num_steps = np.array([1.5]), 0.75, 20

    def last(a, x0):
        return trajectory(lambda x, u: a * x, x0, num_steps=num_steps)[-1, 0]

    by_a, by_x0 = jax.jit(jax.grad(last, argnums=(0, 1)))(a, x0)  # a^T x_0
    np.testing.assert_allclose(by_a, num_steps * a ** (num_steps - 1) * x0[0], rtol=num_steps * EPS)
    np.testing.assert_allclose(by_x0, [a**num_steps], rtol=num_steps * EPS)
    second = jax.jit(jax.grad(jax.grad(last)))(a, x0)
    np.testing.assert_allclose(second, 20 * 19 * a**18 * 1.5, rtol=50 * EPS)


def test_an_orbit_of_no_steps_depends_on_its_start_alone():
    total = lambda w, x: trajectory(lambda x, u: w * x + u, x, np.ones((0, 1))).sum()  # noqa: E731
    by_w, by_x0 = jax.jit(jax.grad(total, (0, 1)))(2.0, ONE)
    assert (float(by_w), by_x0.tolist()) == (0.0, [1.0])


def test_gradients_of_an_orbit_that_leaves_the_floats_are_not_finite():
    slope = jax.jit(jax.grad(lambda x: trajectory(lambda x, u: x**2, x, num_steps=12).sum()))
    assert not np.isfinite(slope(np.array([2.0]))).any()


@pytest.mark.parametrize("step", [lambda w, x, u: w @ x + u, lambda w, x, u: (w + u * w.T) @ x])
def test_neither_jacobians_nor_weights_made_by_an_input_are_kept_for_all_steps(step):
    def length(w):
        return (trajectory(lambda x, u: step(w, x, u), jnp.ones(6), jnp.ones((40, 1))) ** 2).sum()

    assert "[40,6,6]" not in str(jax.make_jaxpr(length)(np.eye(6)))
    if step(np.eye(6), np.zeros(6), 1.0).any():  # of a fixed W, not even one a step in its gradient
        assert "[40,6,6]" not in str(jax.make_jaxpr(jax.value_and_grad(length))(np.eye(6)))


def test_single_precision_gradients_stay_single():
    def total(w):
        return trajectory(lambda x, u: w @ x, jnp.ones(2, jnp.float32), num_steps=3).sum()

    gradient = jax.jit(jax.grad(total))(np.eye(2, dtype=np.float32))
    assert gradient.dtype == jnp.float32


def test_steps_have_their_effects_one_by_one():
    seen = []

    def step(x, u):
        jax.debug.callback(lambda u: seen.append(float(u)), u, ordered=True)
        return x / 2

    trajectory(step, ONE, jnp.arange(4.0)).block_until_ready()
    jax.effects_barrier()
    assert seen == [0, 1, 2, 3]


# One orbit in parallel


@pytest.mark.parametrize("num_steps", [0, 2, 37, 4001])
def test_in_parallel_a_contracting_orbit_is_the_same_to_the_last_bit(num_steps):
    inputs = 0.3 * np.random.default_rng(4).normal(size=num_steps)
    neuron = DoyaNeuron(w=3.0, b=-1.0, epsilon=1.0, w_in=1.0)  # |slope| ≤ 3/4: a factor of 2^-53 in 128 steps
    xs = trajectory(neuron, jnp.array([0.4]), inputs)
    np.testing.assert_array_equal(trajectory(neuron, jnp.array([0.4]), inputs, parallel=True), xs)
    assert xs.shape == (num_steps + 1, 1)


def test_in_parallel_a_network_follows_its_map():
    w_rec, w_in, *_ = PARAMETERS
    network = PascanuRNN(w_rec / np.linalg.norm(w_rec, 2), w_in, np.zeros(3), activations.tanh)
    inputs = np.random.default_rng(5).normal(size=(4001, 2))
    xs = np.asarray(trajectory(network, jnp.ones(3), inputs, parallel=True))
    # Each state is the image of the one before it, but for the order of two sums of 3 and 2 terms up to 5.
    np.testing.assert_allclose(xs[1:], jax.jit(jax.vmap(network))(xs[:-1], inputs), rtol=0, atol=5 * 5 * EPS)
    assert (xs[0] == 1).all()


@pytest.mark.parametrize(
    ("step", "x0"),
    [(Logistic(4.0), 0.3), (lambda x, u: x**2, 1.5), (lambda x, u: x - 1e-3 * x**3, 1.0), (lambda x, u: -x, 1.0)],
    ids=["chaos", "divergence", "weak contraction", "none"],
)
def test_in_parallel_an_orbit_that_does_not_contract_is_run_step_by_step(step, x0):
    xs = trajectory(step, jnp.array([x0]), num_steps=3000)
    np.testing.assert_array_equal(trajectory(step, jnp.array([x0]), num_steps=3000, parallel=True), xs)


# The error surface of Pascanu et al., figure 6


def error(w, b):
    unit = PascanuRNN(jnp.reshape(w, (1, 1)), None, jnp.reshape(b, (1,)))
    return (jax.nn.sigmoid(final_state(unit, jnp.array([0.5]), num_steps=50)[0]) - 0.7) ** 2


SURFACE = jax.jit(jax.vmap(jax.value_and_grad(error, argnums=(0, 1))))


def test_the_error_surface_and_its_gradient_are_the_computed_ones():
    points = np.array(list(reference.ERROR_SURFACE))
    expected = np.array([[np.nan if v is None else v for v in row] for row in reference.ERROR_SURFACE.values()])
    values, gradients = SURFACE(*points.T)
    # E to 3e-15 of E as float64 was found to have it, times 10; the gradients are given to 10 digits.
    np.testing.assert_allclose(values, expected[:, 0], rtol=3e-14)
    known = ~np.isnan(expected[:, 1])
    np.testing.assert_allclose(np.stack(gradients, axis=1)[known], expected[known, 1:], rtol=1e-9)


def test_the_wall_of_the_error_surface_has_its_closed_form_height():
    w = np.array(list(reference.WALL))
    b, growth, by_w, by_b, length = np.array(list(reference.WALL.values())).T
    values, gradients = jax.tree.map(np.asarray, SURFACE(w, b))
    # Every step rounds by an ulp of b or so, which grows like μ^t: x_50 strays from 1/2 by less than this.
    stray = 2 * np.abs(b) * EPS * growth**50 / (growth - 1)
    # dE/dx = 2 (σ - 0.7) σ' = 0.04; and d ln(dE/db)/dx < σ'/|σ - 0.7| + |σ''/σ'| μ/(μ-1) < 8, times a few for the rest.
    assert (np.abs(values - reference.WALL_ERROR) < 0.04 * stray + EPS).all()
    np.testing.assert_array_less(np.abs(gradients[0] / by_w - 1), 8 * stray + 64 * EPS)
    np.testing.assert_array_less(np.abs(gradients[1] / by_b - 1), 8 * stray + 64 * EPS)
    came = np.hypot(*gradients)
    np.testing.assert_array_less(np.abs(came / length - 1), 8 * stray + 64 * EPS)
    for part, normal in zip(gradients, reference.WALL_NORMAL, strict=True):  # downhill is across
        np.testing.assert_array_less(np.abs(-part / came - normal), 8 * stray + 64 * EPS)


def test_the_error_jumps_across_the_wall():
    (b, *_), settled = reference.WALL[5.0], reference.WALL_SIDES

    @jax.jit
    @jax.vmap
    def settled_error(b):
        unit = PascanuRNN(jnp.array([[5.0]]), None, jnp.reshape(b, (1,)))
        return (jax.nn.sigmoid(final_state(unit, jnp.array([0.5]), num_steps=2000)[0]) - 0.7) ** 2

    # The limits move with b by dE/db < 1 (above) and -0.25 (below); they are given to 12 digits at the wall itself.
    distance = 1e-10
    came = settled_error(b + distance * np.array([1.0, -1.0]))
    np.testing.assert_allclose(came, settled, atol=2 * distance)


def test_the_error_surface_has_its_computed_statistics():
    grid = reference.ERROR_SURFACE_GRID
    w, b = np.linspace(*grid["w"]), np.linspace(*grid["b"])
    points = np.stack(np.meshgrid(w, b, indexing="ij"), axis=-1).reshape(-1, 2)
    values, gradients = jax.tree.map(np.asarray, SURFACE(*points.T))
    slope = np.hypot(*gradients)
    for name, array, index in (
        ("minimum", values, np.argmin(values)),
        ("maximum", values, np.argmax(values)),
        ("steepest", slope, np.argmax(slope)),
    ):
        value, place = grid[name]
        np.testing.assert_allclose(array[index], value, rtol=1e-7)  # "steepest" is given to 8 digits
        np.testing.assert_allclose(points[index], place, atol=1e-12)
    np.testing.assert_allclose(values.mean(), grid["mean"], rtol=1e-11)


# Misuse


def shrinking(x, _):
    return x[:1]


@pytest.mark.parametrize("function", [trajectory, final_state])
@pytest.mark.parametrize(
    ("step", "x0", "inputs", "num_steps", "message"),
    [
        (halve, np.array(1.0), None, 3, r"x0 must be a float array of shape \(n,\); got float64 of shape \(\)"),
        (halve, np.ones((2, 2)), None, 3, r"x0 must be a float array of shape \(n,\); got float64 of shape \(2, 2\)"),
        (halve, np.ones(2, int), None, 3, r"x0 must be a float array of shape \(n,\); got int64 of shape \(2,\)"),
        (halve, np.ones(2) * 1j, None, 3, r"x0 must be a float array of shape \(n,\); got complex128"),
        (halve, np.ones(0), None, 3, r"x0 must hold at least one unit; got shape \(0,\)"),
        (halve, np.array([1.0, np.nan]), None, 3, "x0 must be finite; got 1 NaN or infinite of 2 values"),
        (halve, "x", None, 3, "x0 must be an array of numbers; got str"),
        (halve, ONE, None, None, "inputs or num_steps must be given; got neither"),
        (halve, ONE, {}, None, "inputs or num_steps must be given; got neither"),
        (halve, ONE, None, -1, "num_steps must be a whole number, at least 0; got -1"),
        (halve, ONE, None, 2.0, r"num_steps must be a whole number, at least 0; got 2\.0"),
        (halve, ONE, None, True, "num_steps must be a whole number, at least 0; got True"),
        (halve, ONE, np.zeros((3, 1)), 4, "inputs must be 4 steps long, as num_steps says; got 3"),
        (halve, ONE, (np.zeros(3), np.zeros(4)), None, r"inputs must have one leading .* lengths \[3, 4\]"),
        (halve, ONE, np.array(1.0), None, r"inputs must have a leading time axis; got a scalar \(num_steps"),
        (halve, ONE, [1.0, 2.0], None, r"inputs must have a leading time axis; got a scalar \(each leaf"),
        (halve, ONE, np.array([[0.0], [np.inf]]), None, "inputs must be finite; got 1 NaN or infinite of 2 values"),
        (halve, ONE, {"name": "noise"}, 3, "inputs must be an array of numbers; got str"),
        (
            shrinking,
            np.ones(2),
            None,
            3,
            r"step must map a float state of shape \(2,\) .* returned float64 of shape \(1,\)",
        ),
        (shrinking, np.ones(2), None, 0, r"step must map a float state of shape \(2,\)"),
        (lambda x, u: (x, x), ONE, None, 3, r"step must map a float state of shape \(1,\) .* returned tuple"),
        (
            lambda x, u: x > 0,
            ONE,
            None,
            3,
            r"step must map a float state of shape \(1,\) .* returned bool of shape \(1,\)",
        ),
        (lambda x, u: x.astype(jnp.float32), ONE, None, 3, "step must return its state's dtype float64; .* float32"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_is_refused_by_name(function, step, x0, inputs, num_steps, message):
    with pytest.raises(ValueError, match=message):
        function(step, x0, inputs, num_steps=num_steps)


def test_the_sigmoid_of_these_tests_is_scipys():  # the surface's loss is not the package's
    np.testing.assert_allclose(jax.nn.sigmoid(jnp.array([0.5])), expit([0.5]), rtol=4 * EPS)
    np.testing.assert_allclose(expit(0.5), reference.SIGMOID_HALF, rtol=4 * EPS)


@pytest.mark.parametrize(("r", "period"), [(2.5, 1), (3.2, 2), (3.5, 4), (3.83, 3), (3.9, 0), (4.5, -1)])
def test_an_orbit_settles_to_the_period_of_the_logistic_maps_window(r, period):
    # May (1976): 1 up to r = 3, then 2 to 3.449, 4 to 3.544; 3 from 1 + √8; chaos at 3.9; beyond 4 orbits escape
    found = settle(Logistic(r), jnp.array([0.3]), num_steps=3000)
    assert int(found.period) == period
    if period > 0:
        orbit = np.asarray(found.orbit)
        np.testing.assert_allclose(Logistic(r)(jnp.asarray(orbit[period - 1])), orbit[0], rtol=0, atol=1e-13)


@pytest.mark.usefixtures("unchecked")
def test_parallel_is_a_bool():
    with pytest.raises(ValueError, match="parallel must be of type bool; got int"):
        trajectory(halve, ONE, num_steps=1, parallel=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_steps": -1}, "num_steps"), ({"max_period": 0}, "max_period"), ({"tol": 0.0}, "tol must be positive")],
)
def test_settling_refuses_what_it_cannot_do(change, message):
    with pytest.raises(ValueError, match=message):
        settle(Logistic(2.0), jnp.array([0.3]), **({"num_steps": 1} | change))
