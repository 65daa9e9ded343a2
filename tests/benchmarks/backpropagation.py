"""Back-propagation through time: 50 units, 200 steps, 20 sequences, float32; and `gradients.backpropagate` at length.

One piece of work is a network's outputs, the mean of their squared distances from targets, and its gradient in all
weights and biases. The network is h' = tanh(W h + W_in u + b), which torch calls `nn.RNN`.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rnn_dynamics import simulate, sweeps
from rnn_dynamics.models import ElmanRNN
from tests.benchmarks._measure import absent, quotients, row, side_by_side

VARIANTS = {"": {}}
NUM_UNITS, NUM_INPUTS, NUM_STEPS, NUM_SEQUENCES = 50, 10, 200, 20
FULL = {"num_networks": 100, "rounds": 21, "long": 1_000_000}
QUICK = {"num_networks": 3, "rounds": 3, "long": 1000}

LONG = """
import json, resource, sys
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
from rnn_dynamics import gradients, simulate
from rnn_dynamics.models import PascanuRNN
network = PascanuRNN.initialise("gaussian", 64, 0, seed=0, gain=1.5)
xs = simulate.trajectory(network, jnp.ones(64) / 8, num_steps=int(sys.argv[1]))
directions, log_norms = gradients.backpropagate(network, xs, None, jnp.ones(64))
assert np.isfinite(log_norms).all() and np.isfinite(directions).all()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
"""


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    generator = np.random.default_rng(0)

    def draw(*shape, deviation=1.0):
        return jnp.asarray(deviation * generator.standard_normal(shape), jnp.float32)

    inputs = draw(NUM_SEQUENCES, NUM_STEPS, NUM_INPUTS)
    targets = draw(NUM_SEQUENCES, NUM_STEPS, NUM_UNITS)
    shapes = (NUM_UNITS, NUM_UNITS), (NUM_UNITS, NUM_INPUTS), (NUM_UNITS,)
    networks = tuple(draw(settings["num_networks"], *shape, deviation=NUM_UNITS**-0.5) for shape in shapes)
    weights = tuple(leaf[0] for leaf in networks)
    data = inputs, targets
    yield from _one_sequence(weights, inputs[0], targets[0], settings["rounds"])
    yield from _one_network(weights, data, settings["rounds"])
    yield from _many_networks(networks, data, 3)
    command = [sys.executable, "-c", LONG, str(settings["long"])]
    gibibytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    yield row(f"backpropagate, 64 units, {settings['long']:,} steps", "peak memory, GiB", [gibibytes], "≤ 2")


def _one_sequence(weights, inputs, targets, rounds):
    contenders = {name: jax.jit(jax.value_and_grad(_error(run))) for name, run in (("ours", ours), ("plain", plain))}
    seconds = side_by_side(
        {name: lambda run=run: run(weights, inputs, targets) for name, run in contenders.items()}, rounds
    )
    yield row("BPTT, one sequence", "`lax.scan` and `jax.grad` / ours", quotients(seconds["plain"], seconds["ours"]))


def _one_network(weights, data, rounds):
    contenders = {
        "ours": jax.jit(jax.value_and_grad(_mean_error(ours))),
        "plain": jax.jit(jax.value_and_grad(_mean_error(plain))),
    }
    contenders = {name: lambda run=run: run(weights, *data) for name, run in contenders.items()}
    what = "BPTT, 20 sequences"
    measure = "`lax.scan` and `jax.grad` / ours, both under `vmap`"
    # Before torch is imported: with it, ours took half as long again, on one core instead of 1.4 (not known why).
    seconds = side_by_side(contenders, rounds)
    yield row(what, measure, quotients(seconds["plain"], seconds["ours"]), "≥ 1.8")
    theirs = _torch(weights, data)
    if theirs:
        _choose_threads(theirs)
        contenders["torch"] = theirs
    _agree(contenders)
    yield _against_torch(what, side_by_side(contenders, rounds), "≥ 3.5")


def _many_networks(networks, data, rounds):
    def one(weights):
        return jax.value_and_grad(_mean_error(ours))(weights, *data)

    contenders = {"ours": lambda: sweeps.sweep(one, networks, chunk=1)}
    theirs = [_torch(tuple(leaf[i] for leaf in networks), data) for i in range(len(networks[0]))]
    if all(theirs):
        contenders["torch"] = lambda: [run() for run in theirs]
    seconds = side_by_side(contenders, rounds)
    yield _against_torch(f"BPTT, {len(networks[0])} networks of 20 sequences", seconds, "≥ 30")


def _against_torch(what, seconds, target):
    measure = "torch, on its best number of threads / ours"
    if "torch" not in seconds:
        return absent(what, measure, target, "torch is not installed")
    return row(what, measure, quotients(seconds["torch"], seconds["ours"]), target)


def ours(weights, inputs):
    return simulate.trajectory(ElmanRNN(*weights), jnp.zeros(NUM_UNITS, inputs.dtype), inputs)[1:]


def plain(weights, inputs):
    """The loop as one writes it in JAX."""
    w_rec, w_in, b = weights

    def advance(h, u):
        h = jnp.tanh(w_rec @ h + w_in @ u + b)
        return h, h

    return jax.lax.scan(advance, jnp.zeros(NUM_UNITS, inputs.dtype), inputs)[1]


def _error(run):
    return lambda weights, inputs, targets: jnp.mean((run(weights, inputs) - targets) ** 2)


def _mean_error(run):
    return lambda weights, *data: jax.vmap(_error(run), in_axes=(None, 0, 0))(weights, *data).mean()


def _agree(contenders):
    """The same error and gradient, to the rounding of 200 steps in float32."""
    expected = jax.tree.leaves(contenders["plain"]())
    for run in contenders.values():
        for came, leaf in zip(jax.tree.leaves(run()), expected, strict=True):
            assert np.abs(np.asarray(came) - leaf).max() < 1e-4 * np.abs(leaf).max()


def _torch(weights, data):
    """A closure that does the work with torch on its best number of threads, or None where there is no torch."""
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    network = torch.nn.RNN(NUM_INPUTS, NUM_UNITS, batch_first=True)
    parameters = [network.weight_hh_l0, network.weight_ih_l0, network.bias_ih_l0]
    with torch.no_grad():
        network.bias_hh_l0.zero_()
        for parameter, leaf in zip(parameters, weights, strict=True):
            parameter.copy_(torch.tensor(np.asarray(leaf)))
    inputs, targets = (torch.tensor(np.asarray(leaf)) for leaf in data)

    def run():
        network.zero_grad()
        error = ((network(inputs)[0] - targets) ** 2).mean()
        error.backward()
        return error.item(), tuple(parameter.grad.numpy().copy() for parameter in parameters)

    return run


def _choose_threads(run):
    """Sets torch to the number of threads on which it is fastest at this work."""
    import torch

    def seconds(threads):
        torch.set_num_threads(threads)
        times = []
        for _ in range(6):
            before = time.perf_counter()
            run()
            times.append(time.perf_counter() - before)
        return min(times)

    torch.set_num_threads(min(range(1, 1 + os.cpu_count()), key=seconds))
