"""One bit latched by one neuron: Bengio, Simard and Frasconi (1994), which inputs flip it and what its gradient does.

The neuron a' = w tanh(a) + h holds one of two states if w > 1. Claims: an input held for long flips it if and only if
it exceeds h*(w) = w r - artanh r, r = √(1 - 1/w), a quarter of the width of the fold of Doya's neuron of weight 4w; a
shorter pulse must be stronger; noise below h* never flips it, and meanwhile ∂a_t/∂a_0 vanishes exponentially.
Reference: Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent is difficult.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import activations, jacobians, plotting, simulate
from rnn_dynamics.models import PascanuRNN

FULL = {"num_weights": 61, "durations": [1, 2, 5, 500], "num_halvings": 50}
QUICK = {"num_weights": 7, "durations": [1, 50], "num_halvings": 20}
WEIGHT, NOISE, PULSE = 2.0, (0.2, 0.5), 0.6
REST, HELD, SEED = 200, (100, 120), 0  # steps after a pulse; when the pulse of the middle panel begins and ends


def unit(w):
    """The neuron, with one input that is added to its state."""
    return PascanuRNN(jnp.reshape(w, (1, 1)), jnp.ones((1, 1)), jnp.zeros(1), activations.tanh)


def flips(w, h, duration):
    """Whether `h`, held for so long, takes the neuron from its lower state to the upper one for good."""
    lower = simulate.final_state(unit(w), jnp.array([-10.0]), jnp.zeros((REST, 1)))
    pulse = jnp.concatenate([jnp.full((duration, 1), h), jnp.zeros((REST, 1))])
    return simulate.final_state(unit(w), lower, pulse)[0] > 0


def threshold(w, duration, num_halvings):
    """The weakest input that flips it, by bisection; 2w certainly does."""

    def halve(_, bracket):
        middle = bracket.mean()
        return jnp.where(flips(w, middle, duration), bracket.at[1].set(middle), bracket.at[0].set(middle))

    return jax.lax.fori_loop(0, num_halvings, halve, jnp.array([0.0, 2.0]) * w)[1]


def compute(num_weights: int, durations: list[int], num_halvings: int) -> dict[str, np.ndarray]:
    """h*(w), the thresholds found by simulation, and three driven runs with their gradients."""
    weights = jnp.linspace(1.1, 4.1, num_weights)
    r = np.sqrt(1 - 1 / np.asarray(weights))
    found = [jax.vmap(lambda w, d=d: threshold(w, d, num_halvings))(weights) for d in durations]
    noise = np.random.default_rng(SEED).uniform(-1, 1, HELD[1] + 80)
    pulse = np.zeros(len(noise))
    pulse[slice(*HELD)] = PULSE
    inputs = np.stack([NOISE[0] * noise, NOISE[1] * noise, NOISE[0] * noise * (pulse == 0) + pulse])
    neuron, start = unit(WEIGHT), simulate.final_state(unit(WEIGHT), jnp.array([-2.0]), jnp.zeros((REST, 1)))
    states = jnp.stack([simulate.trajectory(neuron, start, drive[:, None])[:, 0] for drive in jnp.asarray(inputs)])
    slopes = jnp.stack([jnp.log(jacobians.along(neuron, run[:, None])[:, 0, 0]) for run in states])
    return {
        "weights": np.asarray(weights), "critical": np.asarray(weights) * r - np.arctanh(r),
        "durations": np.asarray(durations), "thresholds": np.stack(found), "inputs": inputs,
        "states": np.asarray(states), "log_gradients": np.cumsum(slopes, axis=1),
    }  # fmt: skip


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The threshold against the weight, the runs, and how their gradients vanish."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 2.9))
    w = data["weights"]
    left.fill_between(w, 0, data["critical"], color=plotting.COLOURS["flow"], alpha=0.25, linewidth=0)
    left.plot(w, data["critical"], color=plotting.COLOURS["fold"], label="$h^*(w)$")
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.15, len(data["durations"])))
    for duration, found, shade, marker in zip(data["durations"], data["thresholds"], shades, "ov^sDP", strict=False):
        steps = "held for 1 step" if duration == 1 else f"{duration} steps"
        left.plot(w[::3], found[::3], marker, color=shade, markersize=3, markerfacecolor="none", label=steps)
    left.text(3.3, 0.25, "never flips", ha="center")
    left.set(
        xlabel="weight $w$", ylabel="input $h$", title="the weakest input that flips", xlim=(1, 4.2), ylim=(0, 4.3)
    )
    weak, strong = (rf"noise within $\pm{size:g}$" for size in NOISE)
    kinds = [
        ("third", weak, "-"),
        ("second", strong, "-"),
        ("first", rf"$\pm{NOISE[0]:g}$, and a pulse of {PULSE:g}", "--"),
    ]
    order = (1, 0, 2)  # the noisiest run behind the others
    for number in order:
        run, gradient, (kind, name, line) = data["states"][number], data["log_gradients"][number], kinds[number]
        look = {"color": plotting.COLOURS[kind], "linestyle": line, "linewidth": 1.0, "label": name}
        middle.plot(run, **look)
        right.plot(np.arange(1, len(run)), gradient / np.log(10), **look)
    middle.axvspan(*HELD, color=plotting.COLOURS["flow"], alpha=0.35, linewidth=0)
    middle.axhline(0, color=plotting.COLOURS["flow"], linewidth=0.6, linestyle=":")
    middle.set(xlabel="step $t$", ylabel="state $a_t$", title=f"runs at $w = {WEIGHT:g}$, $h^* = 0.533$")
    right.set(xlabel="step $t$", ylabel=r"$|\partial a_t/\partial a_0|$ (decades)", title="the gradient vanishes")
    for ax, columns in ((left, 2), (middle, 1), (right, 1)):
        plotting.key_below(ax, columns=columns)
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
