"""The branches of fixed points that can be found in a random network of 50 units over a bias, and their special points.

Claims: at every fold a multiplier is 1, at every flip -1, at every Neimark-Sacker point a complex pair lies on the unit
circle, to 1e-9; the picture is symmetric under (x, p) -> (-x, -p), as the network is; stable and unstable stretches
alternate only at special points.
Reference: Sompolinsky, Crisanti, Sommers (1988), Chaos in random neural networks, for the weights.
"""

import _figure
import equinox
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from rnn_dynamics import activations, bifurcation, plotting
from rnn_dynamics.models import PascanuRNN

FULL = {"n": 50, "gain": 1.6, "seed": 4, "num_starts": 24, "num_values": 9}
QUICK = {"n": 6, "gain": 2.0, "seed": 0, "num_starts": 8, "num_values": 3}
SPAN = (-1.0, 1.0)


class Biased(equinox.Module):
    """A tanh network under a bias of strength p along a random direction."""

    w: Float[Array, "n n"]
    direction: Float[Array, " n"]

    def __call__(self, p):
        """The network at strength p."""
        return PascanuRNN(self.w, None, p * self.direction, activations.tanh)


def compute(n: int, gain: float, seed: int, num_starts: int, num_values: int) -> dict[str, np.ndarray]:
    """The branches, seen along the direction in which they bend most, and the multipliers at their special points."""
    generator = np.random.default_rng(seed)
    w, direction = gain * generator.standard_normal((n, n)) / np.sqrt(n), generator.standard_normal(n)
    starts = jnp.asarray(2 * generator.standard_normal((num_starts, n)))
    family = Biased(jnp.asarray(w), jnp.asarray(direction))
    found = bifurcation.diagram(family, SPAN, starts, num_doublings=0, num_values=num_values)
    ps, xs = (np.concatenate([getattr(branch, name) for branch in found.branches]) for name in ("p", "x"))
    trend = ps @ xs / (ps @ ps)  # a straight line through the origin, of which nothing would be seen but its slope
    seen = np.linalg.svd(xs - ps[:, None] * trend, full_matrices=False)[2][0]
    seen = seen - (seen @ trend) / (trend @ trend) * trend
    arrays = {
        "w": w, "gain": np.array(gain), "direction": direction, "num_branches": np.array(len(found.branches)),
        "kinds": np.array([event.kind for event in found.events], dtype="U2"),
        "event_p": np.array([float(event.p) for event in found.events]),
        "event_x": np.array([event.x for event in found.events]).reshape(-1, n),
        "event_seen": np.array([event.x @ seen for event in found.events]),
        "event_multipliers": np.array([event.multipliers for event in found.events]).reshape(-1, n),
    }  # fmt: skip
    for number, branch in enumerate(found.branches):
        arrays |= {
            f"p_{number}": branch.p, f"seen_{number}": branch.x @ seen, f"stable_{number}": branch.stable,
            f"leading_{number}": np.abs(branch.multipliers).max(axis=1),
        }  # fmt: skip
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The branches, and the multipliers at their special points."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.FULL_WIDTH, 3.4), width_ratios=[2, 1])
    for number in range(int(data["num_branches"])):
        plotting.draw_branch(
            left, data[f"p_{number}"], data[f"seen_{number}"], data[f"stable_{number}"], labels=number == 0, width=1.0
        )
    plotting.draw_events(left, data["kinds"], data["event_p"], data["event_seen"], size=3.2)
    left.set(xlabel="strength $p$ of the bias", xlim=SPAN)
    left.set(ylabel="state, along its main bending", title=f"$n = {len(data['w'])}$ units, $g = {data['gain']:g}$")
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    right.plot(np.real(circle), np.imag(circle), color="black", linewidth=0.7)
    values = data["event_multipliers"]
    right.plot(
        np.real(values).ravel(), np.imag(values).ravel(), ".", color=plotting.COLOURS["flow"], markersize=2,
        markeredgewidth=0, zorder=0, label="other multipliers",
    )  # fmt: skip
    critical = values[np.arange(len(values)), np.abs(np.abs(values) - 1).argmin(axis=1)] if len(values) else values
    for kind in ("LP", "PD", "NS"):
        both = np.concatenate([critical[data["kinds"] == kind], critical[data["kinds"] == kind].conj()])
        plotting.draw_events(right, [kind] * len(both), np.real(both), np.imag(both), size=3.2)
    right.set(xlabel=r"$\mathrm{Re}\,\lambda$", ylabel=r"$\mathrm{Im}\,\lambda$", title="multipliers there")
    right.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    plotting.label_panels((left, right))
    handles, names = left.get_legend_handles_labels()
    others = [right.get_legend_handles_labels()[which][0] for which in (0, 1)]
    figure.legend([*handles, others[0]], [*names, others[1]], loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
