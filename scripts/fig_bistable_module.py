"""Pasemann's bistable module: its hysteresis, and its basins parted by the saddle's stable manifold.

Claims: the branch of fixed points folds at b1 = 1.14473047276181 and -0.227671731131306, where slow sweeps up and down
jump; in between every state goes to one of two attractors, and the saddle's stable manifold is the border: between any
two neighbours of the grid that it does not part, the attractor is the same.
Reference: Lynch, Dynamical Systems with Applications, chapter 20, for the parameters.
"""

import _figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import basins, bifurcation, continuation, fixed_points, plotting
from rnn_dynamics.models.reference import bistable_module

SPAN, BIASES = (-2.0, 3.0), (-0.15, 0.45, 1.05)
BOX = ((-7.0, 7.0), (-3.0, 11.0))
FULL = {"num_values": 2001, "num_steps": 1000, "num_grid": 400, "spacing": 0.05}
QUICK = {"num_values": 51, "num_steps": 200, "num_grid": 30, "spacing": 0.2}


def compute(num_values: int, num_steps: int, num_grid: int, spacing: float) -> dict[str, np.ndarray]:
    """The branch, both sweeps, and at three biases the fixed points, the basins and the border."""
    lower = jnp.array([-5.0, 3.0])
    branch = continuation.trace(bistable_module, lower, SPAN[0], p_span=SPAN, max_step=0.02)
    values = jnp.linspace(*SPAN, num_values)
    arrays = {
        "branch_p": branch.p, "branch_x": branch.x[:, 0], "branch_stable": branch.stable,
        "folds": np.array([[event.p, event.x[0]] for event in branch.events]),
        "fold_kinds": np.array([event.kind for event in branch.events]), "values": values, "biases": np.array(BIASES),
    }  # fmt: skip
    for sweep in ("up", "down"):
        kept = bifurcation.orbit_diagram(
            bistable_module, values, lower, num_kept=1, num_transient=num_steps, sweep=sweep
        )
        arrays[sweep] = kept[:, 0, 0]
    axes = [np.linspace(*side, num_grid) for side in BOX]
    grid = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
    for number, b1 in enumerate(BIASES):
        module = bistable_module(b1)
        points = fixed_points.enumerate(module)
        saddle = points.x[points.kind == "saddle"][0]
        border = basins.boundary(module, saddle, box=jnp.array(BOX), spacing=spacing)
        found = basins.basins(module, grid, num_steps=num_steps)
        high = np.array([attractor[0, 0] > saddle[0] for attractor in found.attractors])
        arrays |= {
            f"upper_{number}": high[found.label].reshape(num_grid, num_grid),
            f"settled_{number}": found.label >= 0,
            f"border_{number}": np.concatenate([border.branches[0][::-1], border.branches[1][1:]]),
            f"attractors_{number}": points.x[points.stable], f"saddle_{number}": saddle,
        }  # fmt: skip
    return {name: np.asarray(array) for name, array in arrays.items()} | {"axis_x": axes[0], "axis_y": axes[1]}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The hysteresis loop, and three pictures of the basins."""
    figure, (left, *rest) = plt.subplots(1, 4, figsize=(plotting.FULL_WIDTH, 3.0), width_ratios=[1.4, 1, 1, 1])
    thin = slice(None, None, max(len(data["values"]) // 60, 1))
    for sweep in ("up", "down"):
        plotting.draw_orbits(left, data["values"][thin], data[sweep][thin, None], kind=sweep, label=f"sweep {sweep}")
    plotting.draw_branch(left, data["branch_p"], data["branch_x"], data["branch_stable"])
    plotting.draw_events(left, data["fold_kinds"], *data["folds"].T)
    for b1 in data["biases"]:
        left.axvline(b1, color=plotting.COLOURS["flow"], linewidth=0.6, linestyle=":", zorder=0)
    left.set(xlabel="bias $b_1$", ylabel="state $x$", title="fixed points and sweeps")
    for number, (ax, b1) in enumerate(zip(rest, data["biases"], strict=True)):
        plotting.draw_basins(ax, data["axis_x"], data["axis_y"], data[f"upper_{number}"].astype(int))
        ax.plot(*data[f"border_{number}"].T, color="black", linewidth=1.1, label="stable manifold")
        ax.plot(*data[f"attractors_{number}"].T, "o", color=plotting.COLOURS["stable"], markersize=5, label="attractor")
        ax.plot(
            *data[f"saddle_{number}"], "o", color=plotting.COLOURS["unstable"], markerfacecolor="white", label="saddle"
        )
        ax.set(xlim=BOX[0], ylim=BOX[1], xlabel="state $x$", title=f"$b_1 = {b1:g}$")
    rest[0].set_ylabel("state $y$")
    for ax in rest[1:]:
        ax.tick_params(labelleft=False)
    plotting.label_panels((left, *rest))
    handles, labels = map(sum, zip(*(ax.get_legend_handles_labels() for ax in (left, rest[0])), strict=True), ([], []))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
