"""Doya's neuron in time: orbits on either side of the basin boundary, and the map's approach to its ODE limit.

Claims: at w = 5, b = -2.5 every orbit from below x = 1/2 settles at 0.1448 and every one from above at 0.8552; the
map's distance from the ODE's solution shrinks in proportion to ε (order 1).
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import flows, plotting, simulate
from rnn_dynamics.models import DoyaNeuron

W, B, DURATION = 5.0, -2.5, 20
NUM_SHOWN = 4  # of the time steps, the coarsest first, whose distance from the ODE is drawn
FULL = {"num_starts": 20, "num_halvings": 10, "num_times": 401}
QUICK = {"num_starts": 6, "num_halvings": 4, "num_times": 101}


def compute(num_starts: int, num_halvings: int, num_times: int) -> dict[str, np.ndarray]:
    """ODE solutions from many starts, map orbits for a few time steps, and the error against the time step."""
    neuron = DoyaNeuron(W, B)
    starts = (jnp.arange(num_starts) + 0.5) / num_starts  # symmetric about 1/2, never on it
    times = jnp.linspace(0.0, DURATION, num_times)
    flow = jax.vmap(lambda x: flows.integrate(neuron.velocity, x[None], times)[:, 0])(starts)

    def orbit(epsilon, x0):
        return simulate.trajectory(DoyaNeuron(W, B, epsilon), x0, num_steps=round(DURATION / epsilon))[:, 0]

    x0 = jnp.array([0.54])
    whole = jnp.arange(DURATION + 1.0)
    exact = flows.integrate(neuron.velocity, x0, whole, rtol=1e-12, atol=1e-14)[:, 0]
    steps = 0.5 ** np.arange(num_halvings + 1)
    lags = np.stack([orbit(epsilon, x0)[:: round(1 / epsilon)] - exact for epsilon in steps])
    arrays = {
        "starts": starts,
        "times": times,
        "flow": flow,
        "equilibria": neuron.equilibria(),
        "steps": steps,
        "whole_times": whole,
        "lags": lags,
        "errors": np.abs(lags).max(axis=1),
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Which way orbits go; the map over the ODE; the error against ε."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 2.5))
    low, boundary, high = data["equilibria"]
    left.axhline(boundary, color=plotting.COLOURS["unstable"], linestyle="--")
    for x, place in ((low, "top"), (high, "bottom")):
        left.axhline(x, color=plotting.COLOURS["stable"], linewidth=4, alpha=0.35, zorder=0)
        left.annotate(
            "stable", (11.8, x + np.sign(x - boundary) * 0.04), ha="right", va=place, color=plotting.COLOURS["stable"]
        )
    left.plot(data["times"], data["flow"].T, color=plotting.COLOURS["first"], linewidth=0.7)
    left.annotate("basin boundary", (11.8, boundary), ha="right", va="bottom", color=plotting.COLOURS["unstable"])
    left.set(xlim=(0, 12), ylim=(0, 1), xlabel="time $t$", ylabel="state $x$", title="ODE limit")
    for epsilon, lag, marker in zip(data["steps"], data["lags"][:NUM_SHOWN], "os^v", strict=False):
        middle.plot(
            data["whole_times"],
            100 * lag,
            marker,
            linestyle="-",
            linewidth=0.7,
            markersize=2.5,
            color=plotting.COLOURS["first"],
            alpha=0.4 + 0.6 * epsilon,
            label=rf"$\varepsilon = {epsilon:g}$",
        )
    middle.set(
        xlabel=r"time $t = n\varepsilon$",
        ylabel=r"$100\,(x_\mathrm{map} - x_\mathrm{ODE})$",
        title="map behind the ODE",
    )
    middle.legend(loc="lower right", fontsize=7, handlelength=1.2, borderaxespad=0.3, borderpad=0.2)
    right.loglog(data["steps"], data["errors"], "o", color=plotting.COLOURS["first"], markersize=3.5, label="error")
    right.loglog(
        data["steps"],
        data["errors"][-1] * data["steps"] / data["steps"][-1],
        "--",
        color="black",
        linewidth=0.9,
        label=r"$\propto\varepsilon$",
    )
    right.set(
        xlabel=r"time step $\varepsilon$",
        ylabel=r"$\max_t\,|x_\mathrm{map} - x_\mathrm{ODE}|$",
        title=r"first order in $\varepsilon$",
    )
    right.legend(loc="upper left")
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
