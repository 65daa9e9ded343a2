"""The whole Lyapunov spectrum of a random tanh network, h' = tanh(W h), beside the matrix products that it takes."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn_dynamics import lyapunov, simulate
from rnn_dynamics._compile import jit, on_one_blas_thread
from rnn_dynamics.models import ElmanRNN, PascanuRNN
from tests.benchmarks._measure import quotients, row, side_by_side

VARIANTS = {"": {}}

FULL = {"runs": ((128, 1.5, 10_000), (128, 3.0, 10_000), (512, 1.5, 200)), "numpy_steps": 500, "rounds": 5}
QUICK = {"runs": ((128, 1.5, 100), (128, 3.0, 100), (512, 1.5, 4)), "numpy_steps": 10, "rounds": 3}


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    for n, gain, num_steps in settings["runs"]:
        yield from _run(n, gain, num_steps, min(num_steps, settings["numpy_steps"]), settings["rounds"])


def _run(n, gain, num_steps, numpy_steps, rounds):
    network = ElmanRNN.from_pascanu(PascanuRNN.initialise("gaussian", n, 0, seed=0, gain=gain))
    h0 = simulate.final_state(network, jnp.asarray(np.random.default_rng(1).standard_normal(n)), num_steps=200)
    slopes = jax.vmap(lambda h: network.activation.derivative(network.pre_activation(h)))(
        simulate.trajectory(network, h0, num_steps=num_steps)[:-1]
    )
    w, start = np.asarray(network.w_rec), np.asarray(h0)

    def ours():
        return lyapunov.spectrum(network, h0, num_steps=num_steps, interval="auto").exponents

    @jit
    def scan(w, slopes):
        def advance(q, slope):
            q = slope[:, None] * (w @ q)
            return q / jnp.abs(q[0, 0]), None

        return jax.lax.scan(advance, jnp.eye(n), slopes)[0]

    # The sum rule: ln |det J| = ln |det W| + Σ ln σ', whatever the orbit and the method.
    exact = np.linalg.slogdet(w)[1] + np.log(np.asarray(slopes)).sum(axis=1).mean()
    error = abs(float(ours().sum()) - exact)
    contenders = {
        "ours": ours,
        "products": lambda: on_one_blas_thread(scan, network.w_rec, slopes),
        "NumPy, one thread": lambda: on_one_blas_thread(numpy_spectrum, w, start, numpy_steps),
        "NumPy": lambda: numpy_spectrum(w, start, numpy_steps),
    }
    seconds = side_by_side(contenders, rounds)
    per_step = {
        name: [s / (numpy_steps if name.startswith("NumPy") else num_steps) for s in times]
        for name, times in seconds.items()
    }
    what = f"Lyapunov spectrum, n = {n}, g = {gain}, T = {num_steps:,}"
    yield row(what, "ours / products alone", quotients(per_step["ours"], per_step["products"]), "≤ 2.5")
    one, default = ("≥ 3.5", "≥ 12") if n == 128 else ("", "")
    for name, target in (("NumPy, one thread", one), ("NumPy", default)):
        yield row(what, f"{name} / ours", quotients(per_step[name], per_step["ours"]), target)
    yield row(what, "error by the sum rule / 1e-8", [error / 1e-8], "≤ 1")


def numpy_spectrum(w, h, num_steps):
    """The loop as one writes it: the Jacobian, a product and a QR at every step."""
    q, logs = np.eye(len(h)), np.zeros(len(h))
    for _ in range(num_steps):
        h = np.tanh(w @ h)
        q, r = np.linalg.qr(((1 - h**2)[:, None] * w) @ q)
        logs += np.log(np.abs(np.diag(r)))
    return logs / num_steps
