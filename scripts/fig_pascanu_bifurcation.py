"""Pascanu et al. (2013), figure 3, after Doya (1993): the fixed points of one neuron over its bias, at w = 5.

Claims: the folds stand at b₁ = -2.344389661369312 and b₂ = -2.655610338630688; there are 1, 3 and 1 fixed points
below, between and above them; the state that follows a slow sweep of the bias jumps at b₁ going up and at b₂ going
down, so the two sweeps enclose a hysteresis loop.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import bifurcation, plotting
from rnn_dynamics.models import DoyaNeuron

W, SPAN = 5.0, (-3.0, -2.0)
FULL = {"num_biases": 1001}
QUICK = {"num_biases": 51}


def compute(num_biases: int) -> dict[str, np.ndarray]:
    """The curve of fixed points, their number, the folds, the two sweeps, and the way the state moves."""
    x = jnp.linspace(0.03, 0.97, num_biases)
    folds = DoyaNeuron.folds(W)
    biases = jnp.linspace(*SPAN, num_biases)
    counts = [len(DoyaNeuron(W, b).equilibria()) for b in np.asarray(biases)]

    def sweep(direction):
        kept = bifurcation.orbit_diagram(
            lambda b: DoyaNeuron(W, b), biases, jnp.array([0.5]), num_kept=1, num_transient=2000, sweep=direction
        )
        return kept[:, 0, 0]

    flow_b, flow_x = jnp.linspace(*SPAN, 25)[1:-1], jnp.linspace(0.0, 1.0, 15)[1:-1]
    velocity = jax.vmap(lambda b: jax.vmap(DoyaNeuron(W, b).velocity)(flow_x[:, None]))(flow_b)[..., 0]
    arrays = {
        "branch_b": DoyaNeuron.equilibrium_bias(W, x),
        "branch_x": x,
        "branch_stable": W * x * (1 - x) < 1,
        "folds": jnp.array(folds),
        "biases": biases,
        "counts": np.array(counts),
        "sweep_up": sweep("up"),
        "sweep_down": sweep("down"),
        "flow_b": flow_b,
        "flow_x": flow_x,
        "flow": velocity,
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The branch with its folds and arrows, and beside it the loop that the sweeps trace."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.FULL_WIDTH, 3.3), sharey=True)
    for ax in (left, right):
        plotting.draw_branch(ax, data["branch_b"], data["branch_x"], data["branch_stable"], labels=ax is left)
        plotting.draw_folds(ax, data["folds"])
        ax.set(xlim=SPAN, ylim=(0, 1), xlabel="bias $b$")
    left.set(ylabel=r"fixed point $x^*$")
    b, x = np.meshgrid(data["flow_b"], data["flow_x"], indexing="ij")
    written = (b > -2.34) & (b < -2.13) & (x > 0.38) & (x < 0.52)  # where words stand there is no arrow
    plotting.draw_flow(left, data["flow_b"], data["flow_x"], np.where(written, np.nan, data["flow"]))
    quarter = np.searchsorted(data["branch_x"], 0.45)
    crossing = (data["branch_b"][quarter], data["branch_x"][quarter])
    left.plot(*crossing, "o", color=plotting.COLOURS["unstable"], markerfacecolor="white", markersize=6, zorder=6)
    left.annotate(
        "basin\nboundary",
        crossing,
        xytext=(-2.325, 0.45),
        fontsize=7.5,
        va="center",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6},
    )
    b2, b1 = data["folds"][1, 0], data["folds"][0, 0]
    for middle, number in (((SPAN[0] + b2) / 2, 1), ((b1 + b2) / 2, 3), ((b1 + SPAN[1]) / 2, 1)):
        left.text(middle, 1.005, f"{number} fixed point{'s' * (number > 1)}", ha="center", va="bottom", fontsize=7)
    left.set_title("flow towards the stable states")
    right.set_title("slow sweeps and hysteresis")
    plotting.label_panels((left, right), pad=17)
    every = max(1, len(data["biases"]) // 50)
    for direction in ("up", "down"):
        states = data[f"sweep_{direction}"]
        jump = np.abs(np.diff(states)).argmax()
        ends = [(data["biases"][i], states[i]) for i in (jump, jump + 1)][:: 1 if direction == "up" else -1]
        right.annotate(
            "",
            ends[1],
            ends[0],
            zorder=4,
            arrowprops={"arrowstyle": "-|>", "color": plotting.COLOURS[direction], "linewidth": 1.5},
        )
        plotting.draw_orbits(
            right, data["biases"][::every], states[::every, None], kind=direction, label=f"$b$ swept {direction}"
        )
    entries = {
        label: handle for ax in (left, right) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
