"""Pascanu et al. (2013), eq. 9 and 10: what the regulariser Ω sees of a network, and what it pushes toward.

Claims: Ω is least close to the gain at which back-propagated gradients keep their length; its immediate derivative by
the gain is negative where they vanish and positive where they explode, so that its descent moves a vanishing network up
and an exploding one down, toward the edge.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import activations, gradients, plotting, simulate
from rnn_dynamics.models import PascanuRNN

FULL = {"num_units": 50, "num_steps": 100, "num_gains": 41, "num_seeds": 5}
QUICK = {"num_units": 6, "num_steps": 10, "num_gains": 4, "num_seeds": 2}


def compute(num_units: int, num_steps: int, num_gains: int, num_seeds: int) -> dict[str, np.ndarray]:
    """Ω of both forms, its derivative by the gain, and the growth of gradients, for driven networks of each gain."""
    gains = jnp.linspace(0.2, 3.0, num_gains)

    def look(gain, w, inputs, cotangent):
        def network(g):
            return PascanuRNN(g * w, jnp.eye(num_units), jnp.zeros(num_units), activations.tanh)

        xs = simulate.trajectory(network(gain), jnp.zeros(num_units), inputs)
        directions, log_norms = gradients.backpropagate(network(gain), xs, inputs, cotangent)

        def omega(g, squared):
            return gradients.omega(network(g), xs, inputs, directions[1:], squared=squared, immediate=True) / num_steps

        plain, squared = (jax.value_and_grad(lambda g, s=s: omega(g, s))(gain) for s in (False, True))
        return {
            "omega": plain[0],
            "omega_slope": plain[1],
            "squared": squared[0],
            "growth": (log_norms[0] - log_norms[-1]) / num_steps,
        }

    runs = []
    for seed in range(num_seeds):
        generator = np.random.default_rng(seed)
        w = jnp.asarray(generator.standard_normal((num_units, num_units)) / np.sqrt(num_units))
        inputs = jnp.asarray(0.5 * generator.standard_normal((num_steps, num_units)))
        cotangent = jnp.asarray(generator.standard_normal(num_units))
        runs.append(jax.lax.map(lambda g, w=w, u=inputs, c=cotangent: look(g, w, u, c), gains))
    arrays = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    return {"gains": np.asarray(gains)} | arrays


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Ω, its derivative, and the growth of gradients, over the gain."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 2.5))
    gains = data["gains"]
    for ax, name, title, label in (
        (left, "growth", "what gradients do", "growth (nats per step)"),
        (middle, "omega", r"what $\Omega$ sees", r"$\Omega$ per step"),
        (right, "omega_slope", "what it pushes toward", r"$\partial^+\Omega/\partial g$ per step"),
    ):
        plotting.draw_scatter(ax, gains, data[name], label="eq. 9")
        ax.axhline(0, color="black", linewidth=0.5, zorder=0)
        ax.set(xlabel="gain $g$", ylabel=label, title=title)
    plotting.draw_scatter(middle, gains, data["squared"], kind="second", label="eq. 10 (squared)")
    middle.set_ylim(-0.1, 2)
    middle.legend(loc="upper left")
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
