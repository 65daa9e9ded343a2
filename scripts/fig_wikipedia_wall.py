"""Wikipedia, "Vanishing gradient problem", geometric model: the wall in a loss, and what clipping does there.

One neuron, w = 5, x(0) = 0.5, loss L = (0.855 - x(T))². Claims: as b falls to -2.5 the loss approaches 0, and past
it the basin changes and the loss jumps to 0.50; at b = -2.5 exactly it is 0.126025. Gradient descent from the far
side is thrown off the wall; with its gradient clipped it stays and finds the minimum.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import plotting, simulate, training
from rnn_dynamics.models import DoyaNeuron

W, EPSILON, TARGET, STEPS = 5.0, 0.1, 0.855, (50, 200, 1000)
START, RATE, MAX_NORM, NUM_UPDATES = -2.9, 1.0, 0.1, 40
FULL = {"num_biases": 1001}
QUICK = {"num_biases": 101}


def loss(b, num_steps):
    """(0.855 - x_T)² from x_0 = 0.5."""
    x = simulate.final_state(DoyaNeuron(W, b, EPSILON), jnp.array([0.5]), num_steps=num_steps)
    return (TARGET - x[0]) ** 2


def compute(num_biases: int) -> dict[str, np.ndarray]:
    """The loss and its slope over the bias for three lengths, and two descents on the middle one."""
    biases = jnp.linspace(-3.0, -2.0, num_biases)
    arrays = {"biases": biases}
    for steps in STEPS:
        values, slopes = jax.vmap(jax.value_and_grad(lambda b, steps=steps: loss(b, steps)))(biases)
        arrays |= {f"loss_{steps}": values, f"slope_{steps}": slopes}
    for name, max_norm in (("plain", None), ("clipped", MAX_NORM)):
        history = training.descend(
            lambda b: loss(b, STEPS[1]), jnp.array(START), rate=RATE, num_steps=NUM_UPDATES, max_norm=max_norm
        )
        arrays |= {f"{name}_b": history.parameters, f"{name}_loss": history.loss, f"{name}_norm": history.gradient_norm}
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The wall, its slope, and the two descents on it."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 3.0))
    for steps, line in zip(STEPS, (":", "--", "-"), strict=True):
        left.plot(data["biases"], data[f"loss_{steps}"], line, color="black", linewidth=1.1, label=f"$T = {steps}$")
        middle.semilogy(data["biases"], np.abs(data[f"slope_{steps}"]) + 1e-300, line, color="black", linewidth=1.1)
    edge = "$x_0$ is unstable"
    for ax in (left, middle):
        ax.axvline(-2.5, color=plotting.COLOURS["unstable"], linestyle="--", linewidth=1, zorder=3, label=edge)
        ax.set(xlim=(-3, -2), xlabel="bias $b$")
    left.set(ylim=(0, 0.7), ylabel=r"loss $L = (0.855 - x_T)^2$", title="the wall")
    middle.set(ylim=(1e-4, 1e6), ylabel=r"$|dL/db|$", title="its slope")
    for name, label in (("plain", "gradient descent"), ("clipped", "clipped")):
        plotting.draw_path(right, np.arange(len(data[f"{name}_b"])), data[f"{name}_b"], kind=name, label=label)
    right.axhline(-2.5, color=plotting.COLOURS["unstable"], linestyle="--", linewidth=0.8, zorder=0, label=edge)
    right.set(xlabel="update", ylabel="bias $b$", title=f"descent, $T = {STEPS[1]}$")
    plotting.key_below(left, columns=2)
    plotting.key_below(right)
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
