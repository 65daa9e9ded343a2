"""Wikipedia, "Vanishing gradient problem", dynamical systems model: how x(T) answers to x(0) and to b.

Claims: near the unstable fixed point both sensitivities explode, far from it that to x(0) vanishes, and the one to b
settles at 1/(1/(x(1-x)) - 5), the only well-behaved gradient.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import plotting, sensitivity, simulate
from rnn_dynamics.models import DoyaNeuron

W, EPSILON, NUM_STEPS, SETTLED_STEPS = 5.0, 0.1, 200, 1000
FULL = {"num_states": 301, "num_biases": 301}
QUICK = {"num_states": 21, "num_biases": 21}


def family(b):
    """Doya's neuron by its bias."""
    return DoyaNeuron(W, b, EPSILON)


def compute(num_states: int, num_biases: int) -> dict[str, np.ndarray]:
    """Both sensitivities over the plane of initial state and bias, and the settled one along both stable branches."""
    states, biases = jnp.linspace(0.0, 1.0, num_states), jnp.linspace(-3.0, -2.0, num_biases)

    @jax.jit
    def over_states(b):
        def both(x0):
            to_state = sensitivity.to_state(family(b), x0[None], num_steps=NUM_STEPS)[-1, 0, 0]
            return to_state, sensitivity.to_parameter(family, b, x0[None], num_steps=NUM_STEPS)[-1, 0]

        return jax.vmap(both)(states)

    def settled(b, x0):
        x = simulate.final_state(family(b), x0, num_steps=SETTLED_STEPS)
        slope = sensitivity.to_parameter(family, b, x0, num_steps=SETTLED_STEPS)[-1]
        is_settled = jnp.abs(family(b).velocity(x)[0]) < 1e-13  # beside a fold the state still creeps past its ghost
        return jnp.where(is_settled, jnp.array([slope[0], family(b).bias_sensitivity(x)[0]]), jnp.nan)

    to_state, to_bias = jax.lax.map(over_states, biases)
    curve = jnp.linspace(0.02, 0.98, num_states)
    arrays = {
        "states": states,
        "biases": biases,
        "to_state": to_state,
        "to_bias": to_bias,
        "curve_x": curve,
        "curve_b": DoyaNeuron.equilibrium_bias(W, curve),
        "curve_stable": W * curve * (1 - curve) < 1,
    }
    for name, x0 in (("low", jnp.array([0.0])), ("high", jnp.array([1.0]))):
        slope, formula = jax.vmap(lambda b, x0=x0: settled(b, x0))(biases).T
        arrays |= {f"{name}_slope": slope, f"{name}_formula": formula}
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Two maps in decades, red exploding and blue vanishing, and the settled sensitivity over the bias."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 3.0))
    steps = rf"a, b: after $T = {NUM_STEPS}$ steps; c: after $T = {SETTLED_STEPS}$"
    figure.suptitle(rf"$w = {W:g}$, $\varepsilon = {EPSILON:g}$; {steps}", x=0.01, ha="left", fontsize=8.5)
    for ax, name, title in (
        (left, "to_state", r"$|\partial x_T/\partial x_0|$"),
        (middle, "to_bias", r"$|\partial x_T/\partial b|$"),
    ):
        decades = np.log10(np.abs(data[name]) + 1e-300)
        mesh = plotting.draw_loss_map(ax, data["biases"], data["states"], decades, halfrange=4.0)
        plotting.draw_branch(ax, data["curve_b"], data["curve_x"], data["curve_stable"], labels=ax is middle, width=0.9)
        ax.set(xlim=(-3, -2), ylim=(0, 1), xlabel="bias $b$", title=title)
    left.set_ylabel("initial state $x_0$")
    figure.colorbar(mesh, ax=[left, middle], label="decades", extend="both", shrink=0.9, aspect=30)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    for name, kind, marker, label in (("low", "first", "v", "$x_0 = 0$"), ("high", "second", "^", "$x_0 = 1$")):
        formula = data[f"{name}_formula"].copy()
        formula[np.flatnonzero(np.abs(np.diff(formula)) > 1)] = np.nan  # from one branch to the other: no line
        right.plot(data["biases"], formula, color="black", linewidth=0.9, label="exact" if name == "low" else None)
        every = max(1, len(data["biases"]) // 20)
        right.plot(
            data["biases"][::every],
            data[f"{name}_slope"][::every],
            marker,
            markersize=4,
            color=plotting.COLOURS[kind],
            markerfacecolor="none",
            label=label,
        )
    right.set(xlim=(-3, -2), ylim=(0, 1), xlabel="bias $b$", title=r"settled $\partial x_T/\partial b$")
    right.legend(loc="upper left", handlelength=1.0, borderaxespad=0.5, borderpad=0.2)
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
