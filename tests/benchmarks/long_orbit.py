"""One orbit, a million steps, float64: of Doya's neuron, driven by noise and alone; of the chaotic logistic map."""

import jax.numpy as jnp
import numpy as np

from rnn_dynamics import simulate
from rnn_dynamics.models import DoyaNeuron
from rnn_dynamics.models.reference import Logistic
from tests.benchmarks import _kernels
from tests.benchmarks._measure import absent, quotients, row, side_by_side

VARIANTS = {"": {}}
W, B, EPSILON, X0 = 5.0, -2.5, 1.0, 0.4
FULL = {"num_steps": 1_000_000, "rounds": 21}
QUICK = {"num_steps": 10_000, "rounds": 3}


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    num_steps, rounds = settings["num_steps"], settings["rounds"]
    pushes = 0.3 * np.random.default_rng(0).standard_normal(num_steps)
    neuron, x0 = DoyaNeuron(w=W, b=B, epsilon=EPSILON, w_in=1.0), jnp.array([X0])
    for what, inputs in (("driven", jnp.asarray(pushes)), ("alone", None)):
        used = pushes if inputs is not None else np.zeros(num_steps)
        yield from _rows(f"{num_steps:,} steps of one neuron, {what}", neuron, x0, inputs, used, rounds)
    contenders = _contenders(Logistic(4.0), jnp.array([0.3]), None, num_steps)
    assert np.array_equal(contenders["in blocks"](), contenders["step by step"]())
    seconds = side_by_side(contenders, rounds)
    what = f"{num_steps:,} steps of the logistic map, r = 4"
    yield row(what, "in parallel, in vain / step by step", quotients(seconds["in blocks"], seconds["step by step"]))


def _contenders(step, x0, inputs, num_steps):
    return {
        "in blocks": lambda: simulate.trajectory(step, x0, inputs, num_steps=num_steps, parallel=True),
        "step by step": lambda: simulate.trajectory(step, x0, inputs, num_steps=num_steps),
    }


def _rows(what, neuron, x0, inputs, pushes, rounds):
    contenders = _contenders(neuron, x0, inputs, len(pushes))
    if not _kernels.absent():
        contenders["C"] = lambda: _kernels.orbit(pushes, W, B, EPSILON, X0)
    _agree(contenders)
    seconds = side_by_side(contenders, rounds)
    yield row(what, "step by step / in parallel", quotients(seconds["step by step"], seconds["in blocks"]))
    if "C" in contenders:
        yield row(what, "in parallel / C, one core", quotients(seconds["in blocks"], seconds["C"]), "≤ 1")
    else:
        yield absent(what, "in parallel / C, one core", "≤ 1", _kernels.absent())


def _agree(contenders):
    """All contenders follow the same orbit; in blocks it is the same to the last bit."""
    expected = np.asarray(contenders["step by step"]())
    assert np.array_equal(contenders["in blocks"](), expected)
    if "C" in contenders:
        # An ulp a step, contracted by the slope: at most 5/4, but near 0.6 where the neuron spends its time.
        np.testing.assert_allclose(contenders["C"](), expected[:, 0], rtol=0, atol=1e-13)
