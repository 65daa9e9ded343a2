"""Pascanu et al. (2013), figure 6: the error surface of one unit over 50 steps, its wall, and descents on it.

E₅₀ = (σ(x_50) - 0.7)², x' = w σ(x) + b, x_0 = 0.5, no input. Claims: the surface has the values of an independent
high-precision computation; its wall is the line b = ½ - σ(½) w for w > 4.2553, on which x_0 is an unstable fixed
point; gradient descent is thrown off the wall, and with rescaled gradients it follows it.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.special import expit

from rnn_dynamics import activations, plotting, simulate, training
from rnn_dynamics.models import PascanuRNN

NUM_STEPS, TARGET = 50, 0.7
STARTS, RATE, MAX_NORM, NUM_UPDATES = ((5.0, -2.2), (5.5, -2.7)), 0.1, 0.5, 150
W_SPAN, B_SPAN = (4.0, 6.5), (-3.8, -1.8)
WALL_START = 2 + 2 * np.cosh(0.5)  # 1/σ'(1/2): for smaller w the point x = 1/2 is stable and there is no wall
FULL = {"num_weights": 301, "num_biases": 301}
QUICK = {"num_weights": 31, "num_biases": 31}


def error(parameters):
    """E₅₀ at (w, b)."""
    w, b = parameters
    network = PascanuRNN(w[None, None], None, b[None])
    x = simulate.final_state(network, jnp.array([0.5]), num_steps=NUM_STEPS)
    return (activations.sigmoid(x[0]) - TARGET) ** 2


def compute(num_weights: int, num_biases: int) -> dict[str, np.ndarray]:
    """The surface and its gradient on a grid, the wall, and the descents from two starts."""
    weights, biases = jnp.linspace(*W_SPAN, num_weights), jnp.linspace(*B_SPAN, num_biases)
    look = jax.jit(lambda points: jax.lax.map(jax.value_and_grad(error), points.reshape(-1, 2), batch_size=4096))
    surface, gradient = look(jnp.stack(jnp.meshgrid(weights, biases, indexing="ij"), axis=-1))
    # For the relief: a grid that runs along the wall, finest at it, so that the cliff is drawn as one.
    away = np.sinh(np.linspace(-8, 8, num_biases // 2)) / np.sinh(8) * 0.7
    relief_w, relief_b = np.broadcast_arrays(weights[:, None], (0.5 - expit(0.5) * weights)[:, None] + away)
    relief = look(jnp.stack([relief_w, relief_b], axis=-1))[0]
    arrays = {
        "weights": weights,
        "biases": biases,
        "surface": surface.reshape(num_weights, num_biases),
        "gradient": gradient.reshape(num_weights, num_biases, 2),
        "wall": 0.5 - expit(0.5) * np.asarray(weights),
        "relief_w": relief_w,
        "relief_b": relief_b,
        "relief": relief.reshape(relief_w.shape),
    }
    for number, start in enumerate(STARTS):
        for name, max_norm in (("plain", None), ("clipped", MAX_NORM)):
            history = training.descend(error, jnp.array(start), rate=RATE, num_steps=NUM_UPDATES, max_norm=max_norm)
            arrays |= {f"{name}_{number}": history.parameters, f"{name}_{number}_error": history.loss}
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The surface in three dimensions, and as a map with the wall and the descents."""
    figure = plt.figure(figsize=(plotting.FULL_WIDTH, 3.3))
    grid = figure.add_gridspec(1, 2, wspace=0.12)
    solid = figure.add_subplot(grid[0], projection="3d")
    solid.plot_surface(
        data["relief_w"],
        data["relief_b"],
        data["relief"],
        cmap="viridis",
        rcount=100,
        ccount=150,
        linewidth=0,
        antialiased=False,
        rasterized=True,
    )
    solid.view_init(elev=30, azim=20)
    solid.set(xlabel="weight $w$", ylabel="bias $b$")
    solid.set_title("error $E_{50}$ of one unit", loc="left")
    solid.text2D(-0.02, 0.58, "$E_{50}$", transform=solid.transAxes)
    solid.set(xticks=[4, 5, 6], yticks=[-4, -3, -2], zticks=[0, 0.2, 0.4])
    solid.tick_params(pad=0)
    solid.set_box_aspect((1, 1, 0.6), zoom=1.0)  # pyright: ignore[reportArgumentType]
    flat = figure.add_subplot(grid[1])
    mesh = plotting.draw_loss_map(flat, data["weights"], data["biases"], data["surface"])
    figure.colorbar(mesh, ax=flat, label="$E_{50}$", aspect=30)
    walled = data["weights"] > WALL_START
    flat.plot(
        data["weights"][walled],
        data["wall"][walled],
        color="white",
        linewidth=0.9,
        zorder=7,
        path_effects=[withStroke(linewidth=1.9, foreground="black")],
        label=r"wall $b = \frac{1}{2} - \sigma(\frac{1}{2})\,w$",
    )
    for number in range(len(STARTS)):
        for name, label in (("plain", "gradient descent"), ("clipped", "rescaled")):
            plotting.draw_path(flat, *data[f"{name}_{number}"].T, kind=name, label=label if number == 0 else None)
    thrown = data["plain_0"]
    leap = np.flatnonzero(thrown[:, 1] > B_SPAN[1])[0]
    exit_w = np.interp(B_SPAN[1], *thrown[leap - 1 : leap + 1, ::-1].T)
    end = f"to ({thrown[-1, 0]:.0f}, {thrown[-1, 1]:.0f})"
    flat.annotate(end, (exit_w, B_SPAN[1]), (4, -3), textcoords="offset points", va="top", color="white", fontsize=7.5)
    flat.set(xlim=W_SPAN, ylim=B_SPAN, xlabel="weight $w$", ylabel="bias $b$", title="its wall, and descents")
    plotting.key_below(flat, drop=0.2, columns=2)
    plotting.label_panels((solid, flat))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
