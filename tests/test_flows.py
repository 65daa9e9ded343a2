import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import flows, jacobians
from rnn_dynamics.flows import Euler, euler, integrate, push, turn
from rnn_dynamics.gradients import backpropagate
from rnn_dynamics.jacobians import jacobian
from rnn_dynamics.models import DoyaNeuron
from rnn_dynamics.simulate import final_state, trajectory
from tests import reference
from tests.contracts import check_map

# The default tolerance of 1e-9 a step and a handful of steps, each contributing what is left of it at the end.
ACCURACY = 1e-8
ONES = jnp.ones(2)
TURN = jnp.array([[0.0, -1.0], [1.0, 0.0]])


class Quadratic(equinox.Module):
    """x' = A x + c x² (+ u): decay, growth, rotation and blow-up are one compiled solver with other numbers."""

    a: jax.Array
    c: jax.Array

    def __init__(self, a, c=(0.0, 0.0), dtype=float):
        self.a, self.c = jnp.asarray(a, dtype) * jnp.ones((2, 2), dtype), jnp.asarray(c, dtype)

    def __call__(self, x, u):
        TRACES.append(None)
        return self.a @ x + self.c * x**2 + (0.0 if u is None else jnp.where(u["on"], u["push"], 0.0))


TRACES = []
DECAY, ROTATION = Quadratic(-jnp.eye(2)), Quadratic(TURN)


def decay(x, _):
    return -x


# Solutions


def test_the_solution_at_every_time_is_as_accurate_as_at_the_last():
    times = jnp.array([0.0, 0.3, 3.3, 10.0])
    xs = integrate(DECAY, ONES, times)
    assert xs.shape == (4, 2)
    np.testing.assert_allclose(xs, np.exp(-np.stack([times, times], axis=1)), rtol=ACCURACY)


def test_rotations_close():
    xs = integrate(ROTATION, jnp.array([1.0, 0.0]), 2 * jnp.pi * jnp.array([0.0, 0.25, 1.0, 10.0]))
    np.testing.assert_allclose(xs, [[1, 0], [0, 1], [1, 0], [1, 0]], atol=10 * ACCURACY)  # ten turns


def test_only_differences_of_time_count():
    times = jnp.array([0.0, 0.5, 1.0, 2.0])
    np.testing.assert_array_equal(integrate(DECAY, ONES, times), integrate(DECAY, ONES, times + 2.0**40))


@pytest.mark.parametrize(("b", "x0", "t"), reference.DOYA_FLOWS)
def test_doyas_flow_is_the_computed_one(b, x0, t):
    x = integrate(DoyaNeuron(w=5.0, b=b).velocity, jnp.array([x0]), jnp.array([0.0, t]))[-1, 0]
    # 12 digits; errors a step grow by at most e^{t/4} beside the unstable point, by some hundred past the fold's ghost.
    np.testing.assert_allclose(x, reference.DOYA_FLOWS[b, x0, t], atol=200 * 1e-9)


def test_a_tighter_tolerance_is_more_accurate():
    times, ends, traces = jnp.array([0.0, 5.0, 6.0, 7.0]), [], []
    for rtol in (1e-4, 1e-13):
        ends.append(integrate(DECAY, ONES, times, rtol=rtol, atol=1e-3 * rtol)[1, 0])
        traces.append(len(TRACES))
    errors = np.abs(np.array(ends) / np.exp(-5.0) - 1)
    assert errors[1] < 1e-12
    assert 1e-3 > errors[0] > 1e3 * errors[1]
    assert traces[0] == traces[1]  # and is not another program


def test_an_absolute_tolerance_ends_the_effort():
    # 0.01 is asked for, where the default asks for 9 digits of e^-20.
    loose = integrate(DECAY, ONES, jnp.array([0.0, 20.0, 21.0, 22.0]), atol=1e-2)[1, 0]
    assert 1e-8 < abs(loose - np.exp(-20.0)) < 1e-2


def test_inputs_are_held_from_their_time_to_the_next_and_may_be_any_pytree():
    # x' = u: a polygon; and x' = -x + u, whose pieces are exponentials.
    times = jnp.array([0.0, 1.0, 1.5, 4.0])
    inputs = {"push": jnp.array([[2.0], [-4.0], [1.0]]), "on": jnp.array([True, True, False])}
    polygon = integrate(Quadratic(0.0), ONES, times, inputs=inputs)
    np.testing.assert_allclose(polygon[:, 0], [1, 3, 1, 1], rtol=ACCURACY)
    expected = [1.0]
    for length, u in zip((1.0, 0.5, 2.5), (2.0, -4.0, 0.0), strict=True):
        expected.append(u + (expected[-1] - u) * np.exp(-length))
    np.testing.assert_allclose(integrate(DECAY, ONES, times, inputs=inputs)[:, 0], expected, rtol=ACCURACY)


def test_one_time_is_the_initial_state():
    for inputs in (None, jnp.zeros((0, 1))):
        came = jax.make_jaxpr(lambda x, inputs=inputs: integrate(decay, x, jnp.array([3.0]), inputs=inputs))(ONES)
        assert came.out_avals[0].shape == (1, 2)


# Blow-up


def test_a_blow_up_is_infinite_from_then_on_and_never_nan():
    # x = 1/(1 - t), beside a component that decays.
    times = jnp.array([0.0, 0.5, 1.5, 2.0])
    for inputs in (None, {"push": jnp.zeros((3, 1)), "on": jnp.array([True, True, True])}):
        xs = integrate(Quadratic(jnp.diag(jnp.array([0.0, -1.0])), (1.0, 0.0)), ONES, times, inputs=inputs)
        np.testing.assert_allclose(xs, [[1, 1], [2, np.exp(-0.5)], [np.inf] * 2, [np.inf] * 2], rtol=4 * ACCURACY)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_what_blew_up_has_no_derivative(mode):
    def end(x):
        return integrate(Quadratic(0.0, (1.0, 1.0)), x, jnp.array([0.0, 1.5]), mode=mode)[-1]  # x² from 1, until t = 1

    jacobian = jax.jacfwd(end) if mode == "forward" else jax.jacrev(end)
    assert np.isnan(jnp.diagonal(jacobian(ONES))).all()


def test_growth_beyond_the_floats_is_infinite():
    # The field forms x², which overflows at e^355.
    xs = integrate(Quadratic(jnp.diag(jnp.array([1.0, -1.0]))), ONES, jnp.array([0.0, 1.0, 300.0, 400.0]))
    np.testing.assert_allclose(xs[:, 0], [1, np.e, np.exp(300.0), np.inf], rtol=1e3 * ACCURACY)  # a thousand steps


def test_a_field_that_is_no_number_gives_infinity():
    xs = integrate(Quadratic(jnp.nan), ONES, jnp.array([0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(xs[:, 0], [1.0, np.inf, np.inf, np.inf])


def test_the_solver_gives_up_after_its_number_of_steps(monkeypatch):
    monkeypatch.setattr(flows, "_MAX_STEPS", 1000)
    times = jnp.array([0.0, 1.0, 2.0, 3.0, 1e5])  # five of them: compiled anew, with the number above
    still = integrate(ROTATION, jnp.array([1.0, 0.0]), times)
    assert jnp.isfinite(still).all(-1).tolist() == [True, True, True, True, False]  # about a step a radian


class Counted(equinox.Module):
    """x' = c x², counting its evaluations."""

    c: jax.Array
    calls: list = equinox.field(static=True, default_factory=list)

    def __call__(self, x, _):
        jax.debug.callback(lambda: self.calls.append(None))
        return self.c * x**2


def test_the_solver_stops_at_a_blow_up(monkeypatch):
    # Towards a singularity steps shrink by a fifth or so each: some 200, half of them refused, 13 evaluations each,
    # until they no longer move the time. Where the field is no number, twenty halvings do.
    monkeypatch.setattr(flows, "_MAX_STEPS", 10_000)
    field = Counted(jnp.array(1.0))
    for c, most in ((1.0, 13 * 1000), (np.nan, 13 * 100)):
        field.calls.clear()
        came = integrate(equinox.tree_at(lambda f: f.c, field, jnp.array(c)), jnp.ones(1), jnp.array([0.0, 1.5, 2.0]))
        jax.effects_barrier()
        np.testing.assert_array_equal(came[1:, 0], [np.inf, np.inf])
        assert 13 <= len(field.calls) < most


def test_a_field_that_jumps_back_and_forth_ends_the_solution():
    # -sign(x) holds at 0 what no step can: shorter and shorter ones are tried, and that is said
    times = jnp.array([0.0, 0.5, 1.01], jnp.float32)
    came = integrate(lambda x, _: -jnp.sign(x), jnp.ones(1, jnp.float32), times)[:, 0]
    np.testing.assert_allclose(came, [1.0, 0.5, np.inf], rtol=1e-6)


# Precision and transformations


def test_float32_stays_float32_and_reaches_its_own_accuracy():
    # The default rtol of 1e-9 is below float32's rounding: without its floor the steps shrink until none is left.
    # Nor do times that float32 cannot tell apart matter: only their differences are rounded.
    times = np.array([0.0, 1.0, 10.0, 100.0])
    start = jnp.array([1.0, 0.0], jnp.float32)
    xs = integrate(Quadratic(TURN, dtype=jnp.float32), start, jnp.asarray(2.0**30 + times))
    assert xs.dtype == jnp.float32
    # 4 ε32 a step, some hundred steps to t = 100 whose errors add up.
    np.testing.assert_allclose(xs, np.stack([np.cos(times), np.sin(times)], axis=1), atol=4 * 2.0**-23 * 100)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-14), ("float64", 1e-20)])
def test_a_relative_tolerance_below_rounding_does_not_loosen_the_absolute_one(dtype, rtol):
    # ten units of time, errors of 1e-6 a step, some thirty steps, neither grown nor shrunk
    field, start = Quadratic(TURN, dtype=dtype), jnp.array([1.0, 0.0], dtype)
    x = integrate(field, start, jnp.array([0.0, 1.0, 5.0, 10.0], dtype), rtol=rtol, atol=1e-6)[-1]
    np.testing.assert_allclose(x, [np.cos(10.0), np.sin(10.0)], atol=3e-5)


def test_in_float32_an_entry_near_zero_may_hold_the_rounding_of_a_large_one():
    # x₂' = -x₂ + σ(1.1 x₁) - σ(1.1 x₁ + 1e-9), of which float32 keeps nothing but noise; x₁ → 1, both from 0
    def field(x, _):
        noise = jax.nn.sigmoid(1.1 * x[0]) - jax.nn.sigmoid(1.1 * x[0] + 1e-9)
        return jnp.stack([1 - x[0], noise - x[1], 3 * (x[0] * 1.1 - x[0]) - x[0] * 0.3 - x[2]])

    x = integrate(field, jnp.zeros(3, jnp.float32), jnp.array([0.0, 5.0, 50.0], jnp.float32))[-1]
    np.testing.assert_allclose(x, [1, 0, 0], atol=8 * 2.0**-23)


def test_the_state_takes_the_dtype_in_which_the_field_works():
    single = ONES.astype(jnp.float32)
    for times in (jnp.array([0.0]), jnp.array([0.0, 1.0], jnp.float32)):
        assert jax.eval_shape(lambda times=times: integrate(DECAY, single, times)).dtype == jnp.float64
    assert jax.eval_shape(lambda: integrate(decay, single, jnp.array([0.0, 1.0]))).dtype == jnp.float32


def test_solutions_are_the_same_under_jit_and_vmap():
    times, biases, x0 = jnp.array([0.0, 10.0]), jnp.array([-2.6, -2.4]), jnp.array([0.45])

    def flow(b):
        return integrate(DoyaNeuron(w=5.0, b=b).velocity, x0, times)

    one_by_one = jnp.stack([integrate(DoyaNeuron(w=5.0, b=float(b)).velocity, x0, times) for b in biases])
    np.testing.assert_allclose(jax.jit(jax.vmap(flow))(biases), one_by_one, atol=1e-13)  # the same steps up to rounding


def test_the_derivative_by_a_parameter_is_that_of_the_solution():  # x = e^{-pt}: dx/dp = -t x
    def end(p):
        return integrate(lambda x, _: -p * x, jnp.ones(1), jnp.array([0.0, 2.0]))[-1, 0]

    np.testing.assert_allclose(jax.grad(end)(0.7), -2 * np.exp(-1.4), rtol=ACCURACY)


def test_a_map_made_of_a_flow_is_linearised_like_any_other():
    # ẋ = -x + u held for a period T: x' = e^-T x + (1 - e^-T) u.
    period = 0.7
    shrink = np.exp(-period)

    def step(x, u):
        return integrate(lambda x, u: u - x, x, jnp.array([0.0, period]), inputs=u[None], mode="forward")[-1]

    x, u = jax.device_put(np.ones(2)), jax.device_put(np.array([0.3, -2.0]))
    np.testing.assert_allclose(jacobian(step, x, u), shrink * np.eye(2), atol=ACCURACY)


# Derivatives forward in time


def test_perturbations_are_pushed_by_the_exponential_of_a_linear_field():
    x, v = push(ROTATION, jnp.array([1.0, 0.0]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]), 1.0)
    c, s = np.cos(1.0), np.sin(1.0)
    np.testing.assert_allclose(x, [c, s], atol=ACCURACY)
    np.testing.assert_allclose(v, [[c, -s, 2 * (c - s)], [s, c, 2 * (s + c)]], atol=2 * ACCURACY)
    x, v = push(Quadratic(0.0, (1.0, 1.0)), ONES, jnp.ones((2, 3)), 1.5)  # x² from 1 blows up at t = 1
    np.testing.assert_array_equal(v, np.full((2, 3), np.inf))
    np.testing.assert_array_equal(x, np.full(2, np.inf))


def test_a_perturbation_has_no_unit():
    # both far below atol, and yet cos 20, sin 20; and a zero column stays one
    sizes = jnp.array([1e-13, 1e-200, 1.0])
    _, v = push(ROTATION, jnp.zeros(2), jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) * sizes, 20.0)
    expected = np.array([[np.cos(20.0)] * 2 + [0], [np.sin(20.0)] * 2 + [0]])
    np.testing.assert_allclose(v / sizes, expected, atol=10 * ACCURACY)


def test_a_frame_is_the_qr_of_the_perturbations():
    # J = exp(At) by its eigenvectors; the QR of J Q with positive diagonal is one matrix and no other
    change = np.random.default_rng(2).standard_normal((3, 3))
    rates = np.array([0.5, -1.0, -3.0])
    a = jnp.asarray(change @ np.diag(rates) @ np.linalg.inv(change))
    frame = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    q, r = np.linalg.qr(change @ np.diag(np.exp(rates)) @ np.linalg.inv(change) @ frame)
    sign = np.sign(np.diag(r))
    for k in (3, 2):
        _, turned, logs = turn(lambda x, _: a @ x, jnp.zeros(3), jnp.asarray(frame[:, :k]), 1.0)
        np.testing.assert_allclose(turned, (q * sign)[:, :k], atol=10 * ACCURACY)
        np.testing.assert_allclose(logs, np.log(np.abs(np.diag(r)))[:k], atol=10 * ACCURACY)


def test_parameters_are_states_that_stand_still():
    # Doya's neuron on its unstable point: dx/dx_0 = e^{t/4}, dx/db = e^{t/4} - 1, dx/dw = half of that (closed form).
    point = reference.DOYA_UNSTABLE_POINT

    def field(z, u):
        x, w, b = z[:1], z[1], z[2]
        return jnp.concatenate([DoyaNeuron(w=w, b=b, w_in=1.0).velocity(x, u), jnp.zeros(2)])

    z, v = push(field, jnp.array([point["x"], point["w"], point["b"]]), jnp.eye(3), jnp.array(8.0), jnp.array(0.0))
    growth = np.exp(point["growth_per_epsilon"] * 8.0)
    np.testing.assert_allclose(z, [0.5, 5.0, -2.5], rtol=ACCURACY)
    np.testing.assert_allclose(v[0], [growth, (growth - 1) / 2, growth - 1], rtol=10 * ACCURACY)
    np.testing.assert_array_equal(v[1:], [[0, 1, 0], [0, 0, 1]])


def test_pushing_takes_the_dtype_in_which_the_field_works():
    single = [ONES.astype(jnp.float32), jnp.eye(2, dtype=jnp.float32)]
    for field, dtype in ((decay, jnp.float32), (DECAY, jnp.float64)):
        came = jax.eval_shape(lambda x, v, field=field: push(field, x, v, 1.0), *single)
        assert [part.dtype for part in came] == [dtype, dtype]


def test_a_traced_tolerance_is_taken():
    came = jax.eval_shape(lambda rtol: integrate(decay, jnp.ones(1), jnp.array([0.0, 1.0]), rtol=rtol), 1e-6)
    assert came.shape == (2, 1)


# Euler's map


def test_eulers_map_passes_the_contract():
    check_map(euler(DoyaNeuron(w=5.0, b=-2.4, w_in=0.7).velocity, 0.1), jnp.array([0.3]), jnp.array(0.2))


def test_doyas_neuron_is_the_euler_map_of_its_velocity():
    neuron = DoyaNeuron(w=5.0, b=-2.3, epsilon=0.1, w_in=0.7)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=100))
    own = trajectory(neuron, jnp.array([0.2]), inputs)
    eulers = trajectory(euler(neuron.velocity, 0.1), jnp.array([0.2]), inputs)
    np.testing.assert_allclose(eulers, own, atol=1e-13)  # two ulp a step, contracted or grown by less than 20


def test_eulers_map_converges_with_order_one():
    def error(steps):
        x = final_state(Euler(ROTATION, 1.0 / steps), jnp.array([1.0, 0.0]), num_steps=steps)
        return np.linalg.norm(x - np.array([np.cos(1.0), np.sin(1.0)]))

    errors = [error(steps) for steps in (100, 200, 400)]
    # |(1 + ih)^(1/h) - e^i| = h/2 + O(h²): the exact constant, and halving.
    np.testing.assert_allclose(errors[0], 0.5 / 100, rtol=0.01)
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.01)


def test_eulers_map_approaches_the_flow():
    b, x0, t = -2.5, 0.4, 10.0
    x = final_state(euler(DoyaNeuron(w=5.0, b=b).velocity, 1e-3), jnp.array([x0]), num_steps=10_000)[0]
    np.testing.assert_allclose(x, reference.DOYA_FLOWS[b, x0, t], atol=1e-3)


# Misuse


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (decay, jnp.array(1.0), jnp.ones(1)),
            {},
            r"x0 must be a float array of shape \(n,\); got float64 of shape \(\)",
        ),
        ((decay, jnp.array([jnp.nan]), jnp.ones(1)), {}, "x0 must be finite"),
        ((decay, jnp.ones(1), jnp.array([[0.0, 1.0]])), {}, r"times must be a float array of shape \(S,\)"),
        ((decay, jnp.ones(1), jnp.array([0, 1])), {}, r"times must be a float array of shape \(S,\); got int64"),
        ((decay, jnp.ones(1), jnp.array([])), {}, r"times must be strictly increasing and at least one; got \[\]"),
        ((decay, jnp.ones(1), jnp.array([0.0, 0.0])), {}, r"times must be strictly increasing .* got \[0\. 0\.\]"),
        ((decay, jnp.ones(1), jnp.array([1.0, 0.0])), {}, "times must be strictly increasing"),
        ((decay, jnp.ones(1), jnp.array([0.0, jnp.inf])), {}, "times must be finite; got 1 NaN or infinite of 2"),
        (
            (decay, jnp.ones(1), jnp.array([0.0, 1.0])),
            {"inputs": jnp.zeros(2)},
            "inputs must be 1 steps long, .* got 2",
        ),
        ((decay, jnp.ones(1), jnp.array([0.0, 1.0])), {"rtol": 0.0}, r"rtol must be positive; got 0\.0"),
        ((decay, jnp.ones(1), jnp.array([0.0, 1.0])), {"rtol": float("nan")}, "rtol must be finite"),
        ((decay, jnp.ones(1), jnp.array([0.0, 1.0])), {"rtol": "tight"}, "rtol must be an array of numbers; got str"),
        ((decay, jnp.ones(1), jnp.array([0.0, 1.0])), {"mode": "both"}, "mode must be one of 'reverse', 'forward'"),
        ((decay, jnp.ones(1), jnp.array([0.0, 1.0])), {"atol": -1e-9}, "atol must be positive; got -1e-09"),
        (
            (lambda x, _: x[:1], jnp.ones(2), jnp.array([0.0, 1.0])),
            {},
            r"field must map a float state of shape \(2,\) to one like it; it returned float64 of shape \(1,\)",
        ),
        ((lambda x, _: x[:1], jnp.ones(2), jnp.array([0.0])), {}, r"field must map a float state of shape \(2,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_integrate_refuses_misuse_by_name(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        integrate(*arguments, **options)


@pytest.mark.parametrize(
    ("mode", "use", "message"),
    [
        ("reverse", lambda step: jax.jacfwd(step)(ONES, None), "mode must be 'forward' .*; got 'reverse'"),
        ("reverse", lambda step: jacobians.push(step, ONES, None, jnp.eye(2)), "step .*forward mode .*mode='forward'"),
        ("forward", lambda step: backpropagate(step, jnp.ones((2, 2)), None, ONES), "step .* mode='reverse'"),
    ],
    ids=["linearised", "pushed", "pulled"],
)
def test_a_map_made_of_a_flow_without_the_derivatives_asked_for_is_told_of_the_mode(mode, use, message):
    def step(x, _):
        return integrate(DECAY, x, jnp.array([0.0, 1.0]), mode=mode)[-1]

    with pytest.raises(ValueError, match=message):
        use(step)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((decay, jnp.ones((2, 1)), jnp.eye(2), 1.0), {}, r"x must be a float array of shape \(n,\); got .* \(2, 1\)"),
        ((decay, ONES, jnp.eye(3), 1.0), {}, r"tangents must be a float array of shape \(2, k\); got .* \(3, 3\)"),
        ((decay, ONES, jnp.full((2, 1), jnp.nan), 1.0), {}, "tangents must be finite; got 2 NaN or infinite of 2"),
        ((decay, ONES, jnp.eye(2), 0.0), {}, r"duration must be positive; got 0\.0"),
        ((decay, ONES, jnp.eye(2), 1.0), {"rtol": -1.0}, r"rtol must be positive; got -1\.0"),
        ((decay, ONES, jnp.eye(2), 1.0), {"atol": 0.0}, r"atol must be positive; got 0\.0"),
        ((lambda x, _: x[:1], ONES, jnp.eye(2), 1.0), {}, r"field must map a float state of shape \(2,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_push_refuses_misuse_by_name(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        push(*arguments, **options)


@pytest.mark.parametrize("make", [euler, Euler])
@pytest.mark.parametrize(
    ("dt", "message"),
    [
        (0.0, r"dt must be positive; got 0\.0"),
        (-0.1, r"dt must be positive; got -0\.1"),
        (float("inf"), "dt must be finite"),
        (float("nan"), "dt must be finite"),
        (jnp.ones(2), r"dt must be a float array of shape \(\); got float64 of shape \(2,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_euler_refuses_a_step_that_is_none(make, dt, message):
    with pytest.raises(ValueError, match=message):
        make(decay, dt)
