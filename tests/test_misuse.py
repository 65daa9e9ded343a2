"""Mistakes that one can make with many functions alike: each gets one line that names the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import activations, bifurcation, continuation, gradients, lyapunov, sensitivity, stability, training
from rnn_dynamics.diagnosis import report
from rnn_dynamics.fixed_points import find
from rnn_dynamics.models import DoyaNeuron, PascanuRNN
from rnn_dynamics.simulate import trajectory

pytestmark = pytest.mark.usefixtures("unchecked")

NEURON = DoyaNeuron(w=5.0, b=-2.5)
ONE = np.full(1, 0.5)
FOLD = continuation.Event("LP", -2.34, ONE, np.ones(1, complex), 0.0, True)
FLIP = continuation.Event("PD", -2.34, ONE, -np.ones(1, complex), 0.0, True)
SPAN = {"p_span": (-3.0, -2.0), "q_span": (4.0, 6.0)}
WITH_A_FAMILY = {
    "trace": lambda family: continuation.trace(family, ONE, -2.5, p_span=(-3.0, -2.0)),
    "fold_curve": lambda family: continuation.fold_curve(family, ONE, -2.5, 5.0, **SPAN),
    "fold_position": lambda family: continuation.fold_position(family, 5.0, ONE, -2.3),
    "normal_form": lambda family: continuation.normal_form(family, FOLD),
    "flip_direction": lambda family: continuation.flip_direction(family, FLIP),
    "orbit_diagram": lambda family: bifurcation.orbit_diagram(family, ONE, ONE, num_kept=1, num_transient=1),
    "diagram": lambda family: bifurcation.diagram(family, (-3.0, -2.0), ONE[None]),
    "regimes": lambda family: bifurcation.regimes(family, ONE, ONE, ONE[None]),
    "to_parameter": lambda family: sensitivity.to_parameter(family, -2.5, ONE, num_steps=2),
}


@pytest.mark.parametrize("name", WITH_A_FAMILY)
@pytest.mark.parametrize(
    ("family", "message"),
    [
        (3.0, r"family must be a function, and family\(.*\) a map \(x, u\) -> x; got float"),
        (NEURON, r"family must be a function, and family\(.*\) a map \(x, u\) -> x; it raised: "),
        (lambda *_: 3.0, r"family must return a map \(x, u\) -> x; family\(.*\) returned float"),
        (lambda *_: jnp.ones(1), r"family must return a map \(x, u\) -> x; family\(.*\) returned an array"),
    ],
    ids=["a number", "a model", "no map", "a state"],
)
def test_what_is_no_family_is_called_so(name, family, message):
    with pytest.raises(ValueError, match=message) as raised:
        WITH_A_FAMILY[name](family)
    assert "family" in str(raised.value).splitlines()[0]


LEAK = lambda x, u: 0.5 * x  # noqa: E731
INSIDE_JIT = {
    "report": lambda x: report(LEAK, x, None, jnp.sum, num_steps=3).rate,
    "find": lambda x: find(LEAK, x[None]).x,
    "classify": lambda x: len(stability.classify(x)),
    "status": lambda x: len(lyapunov.spectrum(LEAK, x, num_steps=3).status),
}


@pytest.mark.parametrize("name", INSIDE_JIT)
def test_what_runs_on_the_host_says_so_inside_jit(name):
    with pytest.raises(ValueError, match=r"must be known numbers, as .* runs on the host|must be read where"):
        jax.jit(INSIDE_JIT[name])(ONE)


def test_what_runs_on_the_host_says_so_where_a_closure_is_traced():
    with pytest.raises(ValueError, match="find must be called outside of jit"):
        jax.jit(lambda w: find(lambda x, u: w * x, ONE[None]).x)(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradients.contributions(NEURON, ONE, None, 3.0, num_steps=1), "loss must be a function; got float"),
        (lambda: training.descend("mse", ONE, rate=0.1, num_steps=1), "loss must be a function; got str"),
        (lambda: gradients.backpropagate(None, np.zeros((2, 1)), None, ONE), "step must be a function"),
        (lambda: gradients.omega(None, np.zeros((2, 1)), None, ONE[None]), "step must be a function"),
        (lambda: lyapunov.flow_spectrum(3.0, ONE, duration=2.0, interval=1.0), "field must be a function"),
        (
            lambda: lyapunov.flow_spectrum(LEAK, ONE, duration=1.0, interval=5.0),
            "duration must be at least an interval",
        ),
        (lambda: PascanuRNN(np.eye(1), None, ONE, jnp.tanh), r"Activation \(see rnn_dynamics.activations\); got"),
        (lambda: trajectory(NEURON, ONE, 10), r"a scalar \(num_steps gives a number of steps\)"),
    ],
)
def test_a_message_names_the_argument_as_its_function_does(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_that_takes_other_inputs_is_not_told_of_a_u():
    network = PascanuRNN(np.eye(2), np.ones((2, 3)), np.zeros(2), activations.tanh)
    with pytest.raises(ValueError, match=r"inputs must hold at every time what the map takes: u must be .*\(3,\)"):
        trajectory(network, np.zeros(2), np.zeros((5, 2)))
