"""Doya's neuron over both its parameters: fold curves, cusp and flip curve, and what the attractors are in between.

Claims: the fold curve w x (1 - x) = 1 passes through its cusp at (w, b) = (4, -2), the flip curve is w x (1 - x) = -1;
inside the folds two fixed points are stable, inside the flips none, and every orbit ends on a 2-cycle; elsewhere one.
Reference: Doya (1993), Bifurcations of recurrent neural networks in gradient descent learning.
"""

import _figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import bifurcation, continuation, plotting
from rnn_dynamics.models import DoyaNeuron

W_SPAN, B_SPAN = (-12.0, 12.0), (-10.0, 14.0)
FULL = {"num_w": 361, "num_b": 361, "num_steps": 500}
QUICK = {"num_w": 13, "num_b": 15, "num_steps": 20}


def swapped(b, w):
    """The neuron as a family of its bias first."""
    return DoyaNeuron(w, b)


def compute(num_w: int, num_b: int, num_steps: int) -> dict[str, np.ndarray]:
    """Both curves, and over the plane the number of stable points, the period and the largest exponent."""
    spans = {"p_span": B_SPAN, "q_span": W_SPAN, "max_step": 0.02}
    fold = continuation.fold_curve(swapped, jnp.array([0.28]), -2.3, 5.0, **spans)
    flip = continuation.flip_curve(swapped, jnp.array([0.28]), 0.4, -5.0, **spans)
    ws, bs = jnp.linspace(*W_SPAN, num_w), jnp.linspace(*B_SPAN, num_b)
    found = bifurcation.regimes(
        DoyaNeuron, ws, bs, jnp.array([[0.001], [0.999]]), num_transient=40 * num_steps, num_steps=num_steps
    )
    arrays = {
        "ws": ws, "bs": bs, "num_stable": found.num_stable, "period": found.period.max(axis=2),
        "exponent": found.exponent.max(axis=2), "fold": jnp.column_stack([fold.q, fold.p, fold.x[:, 0]]),
        "flip": jnp.column_stack([flip.q, flip.p, flip.x[:, 0]]),
        "cusps": np.array([[event.q, event.p, event.x[0]] for event in fold.events]),
    }  # fmt: skip
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The plane, coloured by the largest exponent, and the neighbourhood of the cusp."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.FULL_WIDTH, 3.4), width_ratios=[1.7, 1])
    for ax in (left, right):
        mesh = plotting.draw_loss_map(ax, data["ws"], data["bs"], data["exponent"], span=(-3, 0))
        for kind in ("fold", "flip"):
            plotting.draw_curve(ax, *data[kind][:, :2].T, kind=kind)
        plotting.draw_events(ax, ["CP"] * len(data["cusps"]), *data["cusps"][:, :2].T, size=9.0)
        ax.set(xlabel="weight $w$", ylabel="bias $b$")
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for w, b, text in ((-9, 4.5, "one 2-cycle"), (-5, -8, "one fixed point")):
        left.text(w, b, text, ha="center", va="center", bbox=box)
    arrow = {"arrowstyle": "-", "color": "white"}
    left.annotate("two fixed points", (10, -4.8), (7.2, -8.6), ha="center", va="center", bbox=box, arrowprops=arrow)
    left.set(title="what the attractors are", xlim=W_SPAN, ylim=B_SPAN)
    right.set(title="beside the cusp (4, -2)", xlim=(3, 7), ylim=(-4.6, -1))
    left.legend(loc="upper right")
    figure.colorbar(mesh, ax=right, label=r"$\lambda_1$ (nats per step)", extend="min", ticks=[-3, -2, -1, 0])
    plotting.label_panels((left, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
