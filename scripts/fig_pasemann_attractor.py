"""Pasemann's minimal chaotic neuromodule: its attractor, and its Lyapunov exponents with their error bars.

Claims: exponents that agree within their error bars with 0.2305 ± 0.0003 and -3.3595 ± 0.0005 nats per step, and so a
Kaplan-Yorke dimension of 1.0686;
the attractor lies in x ∈ [-13.67, 1.88], y ∈ [-2.21, 3.00].
Reference: Lynch, Dynamical Systems with Applications, chapter 20, for the parameters.
"""

import _figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rnn_dynamics import lyapunov, plotting, simulate
from rnn_dynamics.models.reference import chaotic_module

START, TRANSIENT = (0.0, 2.0), 1000
REFERENCE = (0.2305, -3.3595)  # an independent run of as many steps; known to 0.0003 and 0.0005
FULL = {"num_points": 100_000, "num_steps": 2_000_000}
QUICK = {"num_points": 2_000, "num_steps": 2_000}


def compute(num_points: int, num_steps: int) -> dict[str, np.ndarray]:
    """Points of the attractor, and the running averages of both exponents."""
    module, x0 = chaotic_module(), jnp.array(START)
    found = lyapunov.spectrum(module, x0, num_steps=num_steps + TRANSIENT, num_transient=TRANSIENT)
    arrays = {
        "points": simulate.trajectory(module, x0, num_steps=num_points + TRANSIENT)[TRANSIENT:],
        "exponents": found.exponents, "standard_error": found.standard_error, "history": found.history,
        "dimension": lyapunov.kaplan_yorke(found.exponents),
    }  # fmt: skip
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The attractor, a piece of it enlarged, and the exponents' convergence."""
    figure = plt.figure(figsize=(plotting.FULL_WIDTH, 3.3))
    grid = figure.add_gridspec(2, 3)
    whole, piece = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    upper, lower = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])
    box = ((0.5, 1.95), (2.2, 3.0))
    for ax in (whole, piece):
        ax.plot(
            *data["points"].T, ".", color=plotting.COLOURS["stable"], markersize=0.7, markeredgewidth=0, rasterized=True
        )
        ax.set(xlabel="state $x$", ylabel="state $y$")
    whole.set_title(f"$D_{{KY}} = {data['dimension']:.4f}$ (1.0686)")
    whole.add_patch(
        Rectangle((box[0][0], box[1][0]), box[0][1] - box[0][0], box[1][1] - box[1][0], fill=False, linewidth=0.8)
    )
    piece.set(xlim=box[0], ylim=box[1], title="a piece of it")
    for ax, index in ((upper, 0), (lower, 1)):
        history, error = data["history"][:, index], data["standard_error"][index]
        final, blocks = data["exponents"][index], len(data["history"])
        progress = np.arange(1, blocks + 1) / blocks
        ax.axhspan(
            final - error, final + error, color=plotting.COLOURS["third"], alpha=0.5, linewidth=0, label="its error bar"
        )
        ax.plot(progress, history, color=plotting.COLOURS["first"], linewidth=0.9, label="running average")
        ax.axhline(REFERENCE[index], color="black", linestyle="--", linewidth=0.9, label="reference (in brackets)")
        ax.set(xlim=(0, 1), ylim=(final - 10 * error, final + 10 * error), ylabel=rf"$\lambda_{index + 1}$")
        ax.set_title(rf"${final:.4f} \pm {error:.4f}$ $({REFERENCE[index]:.4f})$")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("part of the run")
    plotting.key_below(lower, drop=0.5)
    plotting.label_panels((whole, piece, upper, lower))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
