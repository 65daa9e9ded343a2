"""Pascanu et al. (2013), section 2: what ‖W‖₂ and 1/γ say of ∂x_t/∂x_k, and what the spectral radius does not.

Claims: with γ‖W‖₂ < 1 every singular value of the product of Jacobians falls at least as fast as (γ‖W‖₂)^(t-k);
above it gradients may explode, and for these networks they do. The network of panel d has γρ(W) = 0.4, and its
gradient grows by 1.2 a step; that of panel h has γρ(W) > 1, and its gradient vanishes or explodes as σ' decides.
"""

import _figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import activations, bounds, jacobians, plotting, products, simulate
from rnn_dynamics.models import PascanuRNN

RATIOS = (0.7, 1.0, 2.0)  # γ‖W‖₂: below, at and above the bound
LIMITS = ((-20, 6), (-12, 6), (-30, 20))  # of the vertical axes, in decades; Perron's bound leaves them
COUNTEREXAMPLE = np.array([[1.2, 2.0], [-0.8, -1.2]])
NOTE_SLOPES = (0.8, 0.7)  # Wikipedia's note 3: the slope c that decides for W = [[0, 2], [1, 0]]
FULL = {"num_units": 20, "num_steps": 60, "seed": 0}
QUICK = {"num_units": 4, "num_steps": 10, "seed": 0}


def measure(network, x0, inputs):
    """Log singular values of ∂x_t/∂x_0 for t = 1 ... T along a driven orbit."""
    xs = simulate.trajectory(network, x0, inputs)
    return products.cumulative(jacobians.along(network, xs, inputs)).log_singular_values()


def rates(w, activation):
    """Factors per step, in the order of `plotting.draw_bounds`."""
    b = bounds.network_bounds(w, activation)
    return b.slope * jnp.stack([b.spectral_norm, b.perron, b.scaled_norm, b.spectral_radius])


def compute(num_units: int, num_steps: int, seed: int) -> dict[str, np.ndarray]:
    """Singular values and bounds of six networks, of the counterexample, and of note 3's product."""
    generator = np.random.default_rng(seed)
    # An orthogonal matrix in stretched coordinates: not normal, so that its norm, its best scaled norm and its spectral
    # radius are three things.
    orthogonal = np.linalg.qr(generator.standard_normal((num_units, num_units)))[0]
    stretch = generator.uniform(0.8, 1.25, num_units)
    base = stretch[:, None] * orthogonal / stretch
    base /= np.linalg.norm(base, 2)
    x0 = jnp.asarray(0.1 * generator.standard_normal(num_units))
    inputs = jnp.asarray(0.1 * generator.standard_normal((num_steps, num_units)))
    arrays = {}
    for activation in (activations.sigmoid, activations.tanh):
        for number, ratio in enumerate(RATIOS):
            w = jnp.asarray(ratio / activation.slope * base)
            b = -w @ activation(jnp.zeros(num_units))  # x = 0, where σ is steepest, is a fixed point
            network = PascanuRNN(w, jnp.eye(num_units), b, activation)
            name = f"{activation.name}_{number}"
            arrays |= {f"{name}_growth": measure(network, x0, inputs), f"{name}_rates": rates(w, activation)}

    # The bias saturates unit 2 and cancels its push on unit 1, which is left at the steepest point of tanh: D = (1, 0).
    w = jnp.asarray(COUNTEREXAMPLE)
    still = jnp.array([0.0, 20.0])
    network = PascanuRNN(w, jnp.eye(2), still - w @ jnp.tanh(still), activations.tanh)
    arrays |= {
        "counterexample_growth": measure(network, still, jnp.zeros((num_steps, 2))),
        "counterexample_rates": rates(w, activations.tanh),
        "joint": jnp.array(bounds.joint_spectral_radius(w, 1.0, depth=6)),
    }
    swap = jnp.array([[0.0, 2.0], [1.0, 0.0]])
    for number, slope in enumerate(NOTE_SLOPES):
        repeated = jnp.broadcast_to(slope * swap, (num_steps, 2, 2))
        arrays[f"note_{number}"] = products.cumulative(repeated).log_singular_values()
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Two rows of networks, sigmoid and tanh, and in the last column the two warnings."""
    figure, axes = plt.subplots(2, 4, figsize=(plotting.FULL_WIDTH, 4.3), sharex=True)
    lags = np.arange(1, len(data["note_0"]) + 1)
    for row, name in zip(axes, ("sigmoid", "tanh"), strict=True):
        for number, ratio in enumerate(RATIOS):
            ax = row[number]
            plotting.draw_growth(ax, lags, data[f"{name}_{number}_growth"])
            plotting.draw_bounds(ax, lags, data[f"{name}_{number}_rates"])
            ax.set(title=rf"{name}, $\gamma\Vert W\Vert_2 = {ratio:g}$", ylim=LIMITS[number])
        row[0].set_ylabel(r"decades of $\partial x_t/\partial x_k$")
    warning, note = axes[:, 3]
    plotting.draw_growth(warning, lags, data["counterexample_growth"][:, :1])
    plotting.draw_bounds(warning, lags, data["counterexample_rates"])
    warning.set_title(r"tanh, $\gamma\rho(W) = 0.4$")
    looks = (("first", "-"), ("second", "--"))
    for number, (slope, (kind, line)) in enumerate(zip(NOTE_SLOPES, looks, strict=True)):
        note.plot(
            lags[1::2],
            data[f"note_{number}"][1::2, 0] / np.log(10),
            line,
            color=plotting.COLOURS[kind],
            label=rf"$\sigma' = {slope:g}$",
        )
    note.set_title(r"$\rho(W) = \sqrt{2}$")
    note.legend(loc="upper left")
    for ax in axes.flat:
        ax.axhline(0, color="black", linewidth=0.5, zorder=0)
    for ax in axes[1]:
        ax.set_xlabel("lag $t-k$")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plotting.label_panels(axes.flat, offset=-0.1)
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
