import json
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from rnn_dynamics import _check, _compile
from rnn_dynamics.continuation import fold_curve
from rnn_dynamics.flows import euler, integrate
from rnn_dynamics.jacobians import along, jacobian, transition
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.sensitivity import to_parameter, to_state
from rnn_dynamics.simulate import final_state, trajectory
from rnn_dynamics.stability import multipliers

EPS = 2.0**-52
X0 = jnp.array([0.3])
INPUTS = jnp.array([0.1, -0.2, 0.3, 0.0, 0.1])


def neuron(p):
    return DoyaNeuron(w=p, b=-0.4 * p, epsilon=0.5, w_in=0.7)


# Every public function, as a function of one parameter and one state.
FUNCTIONS = {
    "trajectory": lambda p, x: trajectory(neuron(p), x, INPUTS),
    "final_state": lambda p, x: final_state(neuron(p), x, INPUTS),
    "euler": lambda p, x: euler(neuron(p).velocity, 0.5)(x, INPUTS[0]),
    "jacobian": lambda p, x: jacobian(neuron(p), x, INPUTS[0]),
    "along": lambda p, x: along(neuron(p), jnp.stack([x, 2 * x, x]), INPUTS[:2]),
    "transition": lambda p, x: transition(neuron(p), x, INPUTS).log_norm(),
    "multipliers": lambda p, x: multipliers(jnp.stack([jnp.stack([p, x[0]]), jnp.stack([x[0], -p])])).real,
    "to_state": lambda p, x: to_state(neuron(p), x, INPUTS),
    "to_parameter": lambda p, x: to_parameter(neuron, p, x, INPUTS),
    "plain function": lambda p, x: final_state(lambda y, u: jnp.tanh(p * y) + u, x, INPUTS),
}
PARAMETERS = jnp.array([4.0, 5.0, 6.0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_gives_the_same_numbers_inside_the_callers_transformations(name):
    function = FUNCTIONS[name]
    eager = np.stack([function(p, X0) for p in PARAMETERS])

    @jax.jit
    def inside(ps, x):
        total = lambda p: function(p, x).sum()  # noqa: E731
        return {
            "jit": function(ps[1], x),
            "vmap": jax.vmap(function, in_axes=(0, None))(ps, x),
            "scan": jax.lax.scan(lambda _, p: (None, function(p, x)), None, ps)[1],
            "gradient": jax.grad(total)(ps[1]),
            "forward": jax.jvp(total, (ps[1],), (jnp.ones(()),))[1],
        }

    came = inside(PARAMETERS, X0)
    rounding = 5 * 16 * 10 * EPS  # five steps on numbers below 10, each a few ulp
    np.testing.assert_allclose(came["jit"], eager[1], atol=rounding)
    np.testing.assert_allclose(came["vmap"], eager, atol=rounding)
    np.testing.assert_allclose(came["scan"], eager, atol=rounding)
    np.testing.assert_allclose(came["gradient"], came["forward"], atol=100 * rounding)
    h = EPS ** (1 / 3)
    plus, minus = (np.asarray(function(PARAMETERS[1] + s * h, X0)).sum() for s in (1, -1))
    # Third derivatives below 50, numbers below 50: see tests/contracts.py.
    np.testing.assert_allclose(came["gradient"], (plus - minus) / (2 * h), atol=10 * 50 * EPS ** (2 / 3))


def test_arrays_that_a_callers_jit_captures_are_known_and_may_be_checked():
    # Inside a jit every operation of JAX on a known array gives an unknown one; the checks must not stumble over that.
    one, half, times, eye = jnp.ones(1), jnp.array(0.5), jnp.array([0.0, 1.0]), jnp.ones((1, 1))

    def everything(x):
        return [
            DoyaNeuron(jnp.array(5.0), half, half)(x),
            ElmanRNN(eye, None, one, leak=half)(x),
            ElmanRNN(eye, None, one, leak=jnp.array(1.0)).to_pascanu()(x),
            DoyaNeuron.folds(six)[0][0],
            DoyaNeuron.equilibrium_bias(five, half),
            euler(lambda x, _: x, half)(x),
            trajectory(lambda x, u: x + u, one, one)[-1] + x,
            integrate(lambda x, _: 0 * x, one, times, rtol=half, atol=half)[-1] + x,
            along(lambda x, _: x, jnp.ones((2, 1)))[0],
            to_parameter(lambda p: lambda x, _: p * x, half, one, num_steps=1)[-1],
        ]

    five, six = jnp.array(5.0), jnp.array(6.0)
    jax.eval_shape(everything, X0)
    jax.eval_shape(jax.vmap(everything), X0[None])
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\]; got 5\.0"):
        jax.eval_shape(lambda x: DoyaNeuron(5.0, 0.0, five)(x), X0)
    with pytest.raises(ValueError, match=r"times must be strictly increasing .* got \[1\. 0\.\]"):
        jax.eval_shape(lambda x: integrate(lambda x, _: x, x, backwards), X0)


backwards = jnp.array([1.0, 0.0])


# The compiler's option


def test_only_the_outermost_call_is_at_the_top_level():
    seen = []

    def look(x):
        seen.append(_compile.top_level())
        return x

    look(X0)
    jax.jit(look)(X0)
    jax.vmap(look)(X0)
    jax.grad(lambda x: look(x).sum())(X0)
    jax.lax.scan(lambda c, x: (look(c), None), X0, jnp.arange(2))
    assert seen[0]
    assert not any(seen[1:])
    thread = threading.Thread(target=look, args=(X0,))
    thread.start()
    thread.join()
    assert seen[-1]


def test_the_option_reaches_the_outermost_program_and_no_other(monkeypatch):
    # An option that XLA does not know is noticed exactly where options are passed on.
    monkeypatch.setattr(_compile, "_compiler_options", lambda wide: {"xla_no_such_option": 1})
    double = _compile.jit(lambda x: 2 * x)
    with pytest.raises(Exception, match="xla_no_such_option"):
        double(X0)
    np.testing.assert_array_equal(jax.jit(double)(X0), 2 * X0)
    np.testing.assert_array_equal(jax.vmap(double)(X0), 2 * X0)
    np.testing.assert_array_equal(jax.grad(lambda x: double(x).sum())(X0), [2.0])
    nested = _compile.jit(lambda x: double(x) + 1)
    np.testing.assert_array_equal(jax.jit(nested)(X0), 2 * X0 + 1)


def test_a_cpu_without_the_option_does_without(monkeypatch):
    monkeypatch.setattr(_compile, "_compiler_options", lambda wide: None)
    np.testing.assert_array_equal(_compile.jit(lambda x: 2 * x)(X0), 2 * X0)


def test_the_options_are_the_wide_vectors_of_cpus_that_have_them_and_a_generator_of_kernels(monkeypatch):
    options = _compile._compiler_options.__wrapped__
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    on_cpu = jax.default_backend() == "cpu"
    vectors = {"xla_cpu_prefer_vector_width": 512} if " avx512f " in flags else {}
    for wide in (True, False):
        generator = {"xla_cpu_use_fusion_emitters": wide} | ({} if wide else {"xla_backend_optimization_level": 1})
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        assert options(wide) == (vectors | generator if on_cpu else None)
        monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2 --xla_cpu_use_fusion_emitters=true")
        assert options(wide) == (vectors if on_cpu else None), "the user's flags must stand"


def test_a_jaxlib_that_does_not_know_an_option_is_not_told_it():
    assert _compile._are_known(("xla_cpu_use_fusion_emitters", False), ("xla_backend_optimization_level", 1))
    assert not _compile._are_known(("xla_cpu_use_fusion_emitters", False), ("xla_no_such_option", 1))


# What is compiled, and how often


def test_other_numbers_are_not_another_program():
    traces = []

    def step(x, u):
        traces.append(None)
        return x + u

    trajectory(step, X0, INPUTS)
    first = len(traces)
    assert first > 0
    trajectory(step, 2 * X0, 3 * INPUTS)
    assert len(traces) == first
    trajectory(step, X0, INPUTS[:2])
    assert len(traces) > first


def test_numbers_of_another_kind_are_not_another_curve_s_program():
    traces = []

    def family(p, q):
        traces.append(None)
        return lambda x, u: p + q * x - x**3

    counts = []
    for kind in (float, np.float64, jnp.asarray):
        fold_curve(family, jnp.zeros(1), kind(0.0), kind(1.0), p_span=(-1.0, kind(1.0)), q_span=(0.5, kind(2.0)))
        counts.append(len(traces))
    # Before the program is looked up, the map's shape is checked: once a call.
    assert 0 < counts[2] - counts[1] == counts[1] - counts[0] < 3


def test_numpy_s_arrays_reach_the_device_without_a_program_for_each_shape():
    programs = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda name, *_, **__: programs.append(name) if name.endswith("backend_compile_duration") else None
    )
    try:
        for size in range(201, 211):
            assert isinstance(_check.state("x", np.ones(size)), jax.Array)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert programs == []


def test_a_model_of_other_weights_is_not_another_program(monkeypatch):
    calls = []
    monkeypatch.setattr(PascanuRNN, "__call__", lambda self, x, u=None: calls.append(None) or self.w_rec @ x)
    for w in (1.0, 2.0):
        network = PascanuRNN(jnp.array([[w]]), None, jnp.zeros(1))
        np.testing.assert_array_equal(final_state(network, X0, num_steps=2), w**2 * X0)
        compiled = len(calls)
    assert compiled == len(calls)


def test_matrix_products_keep_the_precision_of_their_dtype_the_callers_included():
    # On a CPU they always do; a GPU obeys what the program says.
    network = PascanuRNN(np.eye(2), None, np.zeros(2))
    for function in (final_state, to_state):
        program = str(jax.make_jaxpr(lambda x, function=function: function(network, x, num_steps=2))(np.zeros(2)))
        assert program.count("dot_general") == program.count("(Precision.HIGHEST, Precision.HIGHEST)") > 0


def test_a_compiled_function_keeps_its_name_and_its_words():
    def named(x):
        """Words."""
        return x

    assert (_compile.jit(named).__name__, _compile.jit(named).__doc__) == ("named", "Words.")


def test_keyword_arguments_and_static_ones_pass():
    @_compile.jit
    def power(x, exponent, *, name):
        assert isinstance(exponent, int)
        assert name == "cube"
        return x**exponent

    np.testing.assert_array_equal(power(jnp.array([2.0]), 3, name="cube"), [8.0])


def test_small_linear_algebra_runs_on_one_thread_and_then_as_before():
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with _compile.one_blas_thread():
        assert set(threads()) == {1}
    assert threads() == before


# Without float64


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7])
def test_shares_come_back_joined_in_the_order_of_the_points(num_shares):
    @_compile.jit
    def halved(offset, x, k, power):
        return {"sum": x + offset, "which": k**power}

    x, k = np.arange(14.0).reshape(7, 2), np.arange(7)
    for _ in range(2):  # the first call compiles, and runs the first share alone
        found = _compile.on_all_cores(halved, (0.5,), (x, k), (2,), num_shares)
        np.testing.assert_array_equal(found["sum"], x + 0.5)
        np.testing.assert_array_equal(found["which"], k**2)


def test_threads_keep_what_their_caller_has_set():
    tripled = _compile.jit(lambda x: (3 * x, jnp.zeros(len(x))))
    for wide, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(wide):
            for _ in range(2):
                three, zeros = _compile.on_all_cores(tripled, (), (np.arange(4.0),), (), 2)
                assert three.dtype == zeros.dtype == dtype


def test_shares_of_one_shape_are_compiled_once():
    num_traces = 0

    @_compile.jit
    def counted(x):
        nonlocal num_traces
        num_traces += 1
        return x

    for _ in range(3):
        _compile.on_all_cores(counted, (), (np.arange(5.0),), (), 2)
    assert num_traces == 1


def test_what_goes_wrong_in_a_share_is_raised():
    def one(x):
        raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError, match="broken"):
        _compile.on_all_cores(one, (), (np.arange(4.0),), (), 2)


MATRIX = jnp.eye(2)


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        (lambda x: jnp.tanh(MATRIX @ x), False),
        (lambda x: jnp.linalg.solve(MATRIX + x[0], x), False),
        (lambda x: jax.lax.map(lambda y: jnp.linalg.solve(MATRIX * y, x), x), False),
        (lambda x: jax.vmap(lambda y: jnp.linalg.solve(MATRIX * y, x))(x), True),
        (lambda x: jax.vmap(lambda y: jnp.linalg.eigvals(MATRIX * y))(x), True),
        (lambda x: jax.vmap(lambda y: jnp.linalg.qr(MATRIX * y)[0])(x), True),
        (lambda x: jax.lax.fori_loop(0, 2, lambda _, x: jnp.fft.fft(x).real, x), True),
        (lambda x: jax.lax.cond(x[0] > 0, lambda x: x, lambda x: jnp.fft.fft(x).real, x), True),
        (lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x), True),
    ],
)
def test_what_waits_for_xla_s_own_threads_is_known(function, waits):
    # Two programs that call LAPACK on batches of 64 matrices, run at once on two cores, never end (jaxlib 0.10.2).
    assert _compile.waits(function, jnp.ones(2)) is waits


def test_inside_a_transformation_there_is_one_core():
    cores = []
    jax.jit(lambda x: cores.append(_compile.num_cores()) or x)(1.0)
    assert cores == [1]
    assert 1 <= _compile.num_cores() <= 16


def test_everything_runs_in_single_precision_where_jax_is_left_as_it_comes():
    program = """
import json, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from rnn_dynamics import flows, jacobians, sensitivity, simulate, stability
from rnn_dynamics.models import DoyaNeuron, ElmanRNN, PascanuRNN, reference

neuron = DoyaNeuron(w=5.0, b=-2.5, epsilon=0.5)
network = PascanuRNN.initialise("smart_tanh", 5, 2, seed=0, gain=0.1)
x, u, inputs = jnp.ones(5), jnp.ones(2), np.ones((4, 2))
(b1, x1), _ = DoyaNeuron.folds(5.0)
arrays = {
    "equilibria": neuron.equilibria(),
    "fold": b1,
    "end": simulate.final_state(neuron, jnp.array([0.4]), num_steps=200),
    "trajectory": simulate.trajectory(network, x, inputs),
    "elman": ElmanRNN.from_pascanu(network)(x, u),
    "henon": reference.Henon()(jnp.ones(2)),
    "chaotic": reference.chaotic_module()(jnp.ones(2)),
    "flow": flows.integrate(lambda x, u: -x, jnp.ones(1), jnp.array([0.0, 1.0]))[-1],
    "along": jacobians.along(network, jnp.ones((5, 5)), inputs),
    "norm": jacobians.transition(lambda x, u: 5.0 * x, jnp.ones(1), num_steps=1000).log_norm(),
    "multipliers": stability.multipliers(jnp.diag(jnp.array([0.5, 2.0]))).real,
    "to_state": sensitivity.to_state(network, x, inputs),
    "to_parameter": sensitivity.to_parameter(lambda b: DoyaNeuron(5.0, b), -3.0, jnp.array([0.5]), num_steps=50)[-1],
}
values = {name: np.ravel(array).tolist() for name, array in arrays.items()}
print(json.dumps([sorted({str(array.dtype) for array in arrays.values()}), values]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dtypes, values = json.loads(done.stdout)
    assert dtypes == ["float32"]
    eps = 2.0**-23
    np.testing.assert_allclose(values["equilibria"], [0.144794108256065, 0.5, 0.855205891743935], rtol=eps)
    np.testing.assert_allclose(values["fold"], -2.34438966136931, rtol=8 * eps)
    np.testing.assert_allclose(values["end"], 0.144794108256065, atol=16 * eps)
    np.testing.assert_allclose(values["flow"], np.exp(-1.0), rtol=100 * eps)
    np.testing.assert_allclose(values["norm"], 1000 * np.log(5.0), rtol=1000 * eps)
    np.testing.assert_allclose(values["multipliers"], [2.0, 0.5])
    np.testing.assert_allclose(values["to_parameter"], 0.0859352757547126, rtol=64 * eps)
