"""Pascanu et al. (2013), figures 4 and 5: two nearby states under the same maps, torn apart at a basin boundary.

One unit, x' = 5 σ(x) - 2.5 + u_t. Without input its basins meet at x = 0. Claims: two states that start 0.001 apart
are driven by the same inputs to different attractors; until then their distance is what the product of Jacobians says;
every step is a step of F̃(x) = 5 σ(x) - 2.5, which moves away from the boundary, followed by the shift U_t(x) = x + u_t.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import root_scalar

from rnn_dynamics import jacobians, plotting, products, simulate
from rnn_dynamics.models import PascanuRNN

NETWORK = PascanuRNN(w_rec=jnp.array([[5.0]]), w_in=jnp.array([[1.0]]), b=jnp.array([-2.5]))
GAP, FIRST, SPLIT_STEPS = 1e-3, 14, 6  # the initial distance, and the steps that are taken apart
FULL = {"num_steps": 40}
QUICK = {"num_steps": 25}


def compute(num_steps: int) -> dict[str, np.ndarray]:
    """Two orbits astride the state whose orbit ends on the boundary, their distance, and its linear prediction."""
    inputs = np.zeros((num_steps, 1))
    inputs[:, 0] = 0.25 * np.sin(2 * np.pi * np.arange(num_steps) / 6)
    inputs = jnp.asarray(inputs)

    def end(x0):
        return float(simulate.final_state(NETWORK, jnp.array([x0]), inputs)[0])

    # The driven boundary: from here the orbit goes to neither side.
    edge = root_scalar(end, bracket=(-1.5, 1.5), method="brentq", xtol=1e-15).root
    below, above = (simulate.trajectory(NETWORK, jnp.array([edge + side * GAP / 2]), inputs) for side in (-1, 1))
    growth = products.cumulative(jacobians.along(NETWORK, below, inputs))
    arrays = {
        "inputs": inputs[:, 0],
        "below": below[:, 0],
        "above": above[:, 0],
        "log_product": growth.log_singular_values()[:, 0],
        "below_image": jax.vmap(NETWORK)(below[:-1])[:, 0],
        "above_image": jax.vmap(NETWORK)(above[:-1])[:, 0],
        "attractors": jnp.log(1 / (1 / jnp.array([0.1447941082560648, 0.5, 0.8552058917439352]) - 1)),
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The two orbits; their distance; the first steps taken apart into F̃ and U_t."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(plotting.FULL_WIDTH, 2.9), width_ratios=(1, 1, 1.25), gridspec_kw={"wspace": 0.08}
    )
    low, boundary, high = data["attractors"]
    colours = {"below": plotting.COLOURS["second"], "above": plotting.COLOURS["first"]}
    times = np.arange(len(data["below"]))
    for ax in (left, right):
        ax.axhline(boundary, color=plotting.COLOURS["unstable"], linestyle="--", linewidth=1, zorder=0)
    for x in (low, high):
        left.axhline(x, color=plotting.COLOURS["stable"], linewidth=4, alpha=0.35, zorder=0)
        left.annotate("stable", (1, 0.92 * x), color=plotting.COLOURS["stable"], va="top" if x > 0 else "bottom")
    left.fill_between(times[:-1], data["inputs"], step="post", color=plotting.COLOURS["flow"], alpha=0.4, linewidth=0)
    for name, marker in (("below", "v"), ("above", "^")):
        left.plot(times, data[name], marker + "-", color=colours[name], markersize=3, linewidth=0.8)
    left.annotate(
        "basin boundary",
        (2.5, boundary),
        xytext=(0, 0.9),
        color=plotting.COLOURS["unstable"],
        arrowprops={"arrowstyle": "-", "color": plotting.COLOURS["unstable"], "linewidth": 0.6},
    )
    left.annotate("input $u_t$", (1, -0.35), color="0.4", va="top")
    left.set(xlabel="step $t$", ylabel="state $x_t$", title="two states, the same maps")

    gap = data["above"] - data["below"]
    middle.semilogy(times, gap, "o", color=plotting.COLOURS["third"], markersize=3.5, label="distance")
    predicted = gap[0] * np.exp(np.concatenate([[0.0], data["log_product"]]))
    middle.semilogy(times, predicted, color="black", linewidth=0.9, label="product of Jacobians")
    middle.set(xlabel="step $t$", ylabel="distance", ylim=(gap[0] / 10, 30), title="how far apart")
    middle.legend(loc="lower right")

    shown = np.arange(FIRST, FIRST + SPLIT_STEPS + 1)
    for name in ("below", "above"):
        start, image, end = data[name][shown[:-1]], data[f"{name}_image"][shown[:-1]], data[name][shown[1:]]
        path = np.stack([start, image, end], axis=1)
        when = shown[:-1, None] + np.array([0.0, 0.5, 1.0])
        for t, x in zip(when, path, strict=True):
            right.annotate("", (t[1], x[1]), (t[0], x[0]), arrowprops=_arrow(colours[name], "-"))
            right.annotate("", (t[2], x[2]), (t[1], x[1]), arrowprops=_arrow("0.5", ":"))
        right.plot(shown, data[name][shown], "o", color=colours[name], markersize=4)
    right.plot([], [], color="black", linewidth=1, label=r"$\tilde F$: away from the boundary")
    right.plot([], [], ":", color="0.5", linewidth=1, label="$U_t$: shift by the input")
    right.set(
        xlim=(shown[0] - 0.3, shown[-1] + 0.3),
        ylim=(-0.38, 0.5),
        xlabel="step $t$",
        title=r"each step is $\tilde F$, then $U_t$",
    )
    right.legend(loc="upper left")
    plotting.label_panels((left, middle, right))
    return figure


def _arrow(colour: str, line: str) -> dict:
    return {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1, "shrinkA": 0, "shrinkB": 1}


if __name__ == "__main__":
    _figure.run(__name__)
