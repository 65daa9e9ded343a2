"""Gradients back in time and Lyapunov exponents; and which steps a gradient comes from (Pascanu et al. 2013, eq. 4).

Claims: ln ‖∂E/∂x_k‖ falls or grows with the lag along a line whose slope is the largest Lyapunov exponent, in a stable,
a nearly critical and a chaotic network; of one unit's gradient only the last steps count where it vanishes, and beside
the wall the early steps count again.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import activations, gradients, lyapunov, plotting, simulate
from rnn_dynamics.models import PascanuRNN

GAINS = {"stable": 0.7, "critical": 1.0, "chaotic": 2.0}
POINTS = ((3.0, -1.5), (5.0, -2.5), (5.0, -2.61))
FULL = {"num_units": 100, "num_steps": 400, "num_settling": 400, "seed": 0}
QUICK = {"num_units": 8, "num_steps": 20, "num_settling": 10, "seed": 0}


def compute(num_units: int, num_steps: int, num_settling: int, seed: int) -> dict[str, np.ndarray]:
    """Back-propagated log norms and exponents of three networks; temporal contributions of one unit at three points."""
    arrays = {}
    for name, gain in GAINS.items():
        network = PascanuRNN.initialise("gaussian", num_units, 0, seed=seed, gain=gain)
        start = jnp.asarray(np.random.default_rng(seed).standard_normal(num_units))
        x0 = simulate.final_state(network, start, num_steps=num_settling)
        xs = simulate.trajectory(network, x0, num_steps=num_steps)
        cotangent = jnp.asarray(np.random.default_rng(seed + 1).standard_normal(num_units))
        _, log_norms = gradients.backpropagate(network, xs, None, cotangent)
        exponent = lyapunov.spectrum(network, start, num_steps=num_settling + num_steps, num_transient=num_settling)
        arrays |= {f"{name}_log_norms": log_norms, f"{name}_exponent": exponent.exponents[0]}

    def error(x):
        return (activations.sigmoid(x[0]) - 0.7) ** 2

    for number, (w, b) in enumerate(POINTS):
        unit = PascanuRNN(jnp.array([[w]]), None, jnp.array([b]))
        arrays[f"terms_{number}"] = gradients.contributions(unit, jnp.array([0.5]), None, error, num_steps=50).b[:, 0]
        total = jax.grad(
            lambda b, unit=unit: error(
                simulate.final_state(PascanuRNN(unit.w_rec, None, b), jnp.array([0.5]), num_steps=50)
            )
        )(unit.b)
        arrays[f"total_{number}"] = total[0]
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Log norms against the lag with the exponent's slope, and the sizes of the temporal contributions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.FULL_WIDTH, 2.8))
    kinds = ("first", "second", "third")
    for kind, (name, gain) in zip(kinds, GAINS.items(), strict=True):
        log_norms = data[f"{name}_log_norms"]
        lags = np.arange(len(log_norms))[::-1]
        left.plot(lags, log_norms, color=plotting.COLOURS[kind], linewidth=2.2, label=f"{name}, $g = {gain:g}$")
        slope = r"slope $\lambda_1$" if kind == "third" else None
        left.plot(
            lags, log_norms[-1] + data[f"{name}_exponent"] * lags, "--", color="black", linewidth=0.8, label=slope
        )
    left.set(xlabel="lag $T - k$", ylabel=r"$\ln\,\Vert\partial E/\partial x_k\Vert$", title="back through time")
    left.legend(loc="lower left")
    for number, (kind, (w, b), marker) in enumerate(zip(kinds, POINTS, "os^", strict=True)):
        terms = np.abs(data[f"terms_{number}"])
        right.semilogy(
            np.arange(1, len(terms) + 1),
            terms,
            marker + "-",
            color=plotting.COLOURS[kind],
            markersize=2.5,
            linewidth=0.7,
            label=f"$w = {w:g},\\ b = {b:g}$",
        )
    right.set(xlabel="step $k$", ylabel=r"$|$contribution to $dE_{50}/db|$", title="temporal contributions, one unit")
    right.legend(loc="lower right")
    plotting.label_panels((left, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
