"""The orbit diagram of Doya's neuron: 100,000 biases, 2,000 steps that are dropped and 100 that are kept, float64."""

import jax.numpy as jnp
import numpy as np

from rnn_dynamics import bifurcation
from rnn_dynamics.models import DoyaNeuron
from tests.benchmarks import _kernels
from tests.benchmarks._measure import absent, quotients, row, side_by_side

TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "XLA_FLAGS": "--xla_backend_extra_options=xla_cpu_disable_tiled_emitter",
}
VARIANTS = {"": {}, "tuned environment": TUNED}
"""The environments in which to measure, each in a process of its own."""

W, X0 = 5.0, 0.5
TARGETS = {1.0: ("≥ 8", "≤ 1.0"), 0.1: ("≥ 4", "≤ 1.5")}
FULL = {"num_biases": 100_000, "rounds": 11}
QUICK = {"num_biases": 5_000, "rounds": 3}
STEPS = {"num_transient": 2_000, "num_kept": 100}


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    biases = np.linspace(-3.0, -2.0, settings["num_biases"])
    for epsilon, (faster, than_c) in TARGETS.items():
        yield from _rows(biases, epsilon, settings["rounds"], faster, than_c)


def _rows(biases, epsilon, rounds, faster, than_c):
    values, x0 = jnp.asarray(biases), jnp.array([X0])

    def family(b):
        neuron = DoyaNeuron(w=W, b=b, epsilon=epsilon)
        return lambda x, u: neuron(x)

    def ours(inputs=None):
        return bifurcation.orbit_diagram(family, values, x0, inputs=inputs, **STEPS)

    contenders = {
        "ours": ours,
        "in place": lambda: in_place(biases, epsilon, **STEPS),
    }
    if not _kernels.absent():
        contenders["C"] = lambda: _kernels.orbit_diagram(biases, W, epsilon, X0, **STEPS)
    slow = {"ours": ours, "plain": lambda: plain(biases, epsilon, **STEPS)}
    _agree(contenders | slow, every_step=ours(jnp.zeros(sum(STEPS.values()))))
    seconds = side_by_side(contenders, rounds)
    what = f"orbit diagram, ε = {epsilon:g}"
    yield row(what, "NumPy, in place / ours", quotients(seconds["in place"], seconds["ours"]), faster)
    if "C" in contenders:
        yield row(what, "ours / C, every step", quotients(seconds["ours"], seconds["C"]), than_c)
    else:
        yield absent(what, "ours / C, every step", than_c, _kernels.absent())
    seconds = side_by_side(slow, 3)
    yield row(what, "NumPy, a new array an operation / ours", quotients(seconds["plain"], seconds["ours"]))


def _agree(contenders, every_step):
    """Leaving early changes no bit (an input switches that off); all contenders draw the same diagram."""
    ours = np.asarray(contenders["ours"]())
    assert np.array_equal(ours, every_step)
    ours = ours[..., 0]
    # The most that 2,100 steps make of rounding: passing the ghost of a fold they amplify it some 10⁵ times.
    np.testing.assert_allclose(contenders["in place"]().T, ours, rtol=0, atol=1e-9)
    np.testing.assert_allclose(contenders["plain"]().T, ours, rtol=0, atol=1e-9)
    if "C" in contenders:
        np.testing.assert_allclose(contenders["C"](), ours, rtol=0, atol=1e-9)


def in_place(biases, epsilon, *, num_transient, num_kept):
    """The fastest loop NumPy has: no new array in it, and NumPy's exp, which is vector code, not SciPy's expit."""
    x, y = np.full_like(biases, X0), np.empty_like(biases)
    kept = np.empty((num_kept, len(biases)))
    for t in range(num_transient + num_kept):
        np.multiply(x, -W, out=y)
        y -= biases
        np.exp(y, out=y)
        y += 1
        np.divide(epsilon, y, out=y)
        if epsilon == 1:
            x, y = y, x
        else:
            x *= 1 - epsilon
            x += y
        if t >= num_transient:
            kept[t - num_transient] = x
    return kept


def plain(biases, epsilon, *, num_transient, num_kept):
    """The loop as one writes it first."""
    x = np.full_like(biases, X0)
    kept = np.empty((num_kept, len(biases)))
    for t in range(num_transient + num_kept):
        x = (1 - epsilon) * x + epsilon / (1 + np.exp(-(W * x + biases)))
        if t >= num_transient:
            kept[t - num_transient] = x
    return kept
