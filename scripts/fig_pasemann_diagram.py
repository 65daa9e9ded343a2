"""The complete bifurcation diagram of Pasemann's chaotic module over its bias: branches, cascades, chaos, exponent.

Claims: one branch of fixed points, proved to be all, with flips at b1 = -7.15660484331351 and 21.1566048433135 between
which a 2-cycle lives; cascades from it on both sides into chaos, where the largest Lyapunov exponent is positive.
Reference: Lynch, Dynamical Systems with Applications, chapter 20, for the parameters.
"""

import _figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import bifurcation, plotting
from rnn_dynamics.models.reference import chaotic_module

SPAN, START = (-10.0, 24.0), (0.0, 2.0)
FULL = {"num_values": 2001, "num_kept": 150, "num_steps": 20_000, "num_doublings": 2}
QUICK = {"num_values": 21, "num_kept": 5, "num_steps": 100, "num_doublings": 0}


def module(b1, _):
    """The family of one parameter as one of two, the second of no effect."""
    return chaotic_module(b1)


def compute(num_values: int, num_kept: int, num_steps: int, num_doublings: int) -> dict[str, np.ndarray]:
    """Every branch with its special points; the attractor and its exponent at every bias."""
    starts = jnp.array([[0.0, 0.0], [-8.0, 2.0], [2.0, 3.0]])
    found = bifurcation.diagram(chaotic_module, SPAN, starts, num_doublings=num_doublings, max_step=0.02)
    values = jnp.linspace(*SPAN, num_values)
    kept = bifurcation.orbit_diagram(chaotic_module, values, jnp.array(START), num_kept=num_kept, num_transient=2000)
    regimes = bifurcation.regimes(module, values, jnp.zeros(1), jnp.array([START]), num_steps=num_steps)
    arrays = {
        "periods": np.array(found.periods), "proved": found.proved, "values": values, "kept": kept[:, :, 0],
        "exponent": regimes.exponent[:, 0, 0], "period": regimes.period[:, 0, 0],
        "event_kinds": np.array([event.kind for event in found.events]),
        "event_p": np.array([event.p for event in found.events]),
        "event_x": np.stack([event.x for event in found.events]),
        "event_residual": np.array([event.residual for event in found.events]),
    }  # fmt: skip
    for number, (branch, orbit) in enumerate(zip(found.branches, found.orbits, strict=True)):
        arrays |= {f"p_{number}": branch.p, f"orbit_{number}": orbit[:, :, 0], f"stable_{number}": branch.stable}
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The branches over the attractor, and the largest exponent below."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(plotting.FULL_WIDTH, 4.8), height_ratios=[2.6, 1], sharex=True)
    plotting.draw_orbits(upper, data["values"], data["kept"], kind="flow", label="attractor")
    for number in range(len(data["periods"])):
        plotting.draw_branch(
            upper, data[f"p_{number}"], data[f"orbit_{number}"], data[f"stable_{number}"],
            labels=number == 0, name="fixed point or cycle", width=1.1,
        )  # fmt: skip
    plotting.draw_events(upper, data["event_kinds"], data["event_p"], data["event_x"][:, 0])
    upper.set(ylabel="state $x$", title="fixed points and cycles of period 2 and 4 over the attractor")
    upper.legend(loc="upper left")
    exponent, rest = data["exponent"], np.zeros(len(data["values"]))
    lower.axhline(0, color="black", linewidth=0.5)
    for part, kind in ((exponent > 0, "unstable"), (exponent <= 0, "stable")):
        lower.fill_between(
            data["values"], rest, exponent, where=part, color=plotting.COLOURS[kind], linewidth=0, interpolate=True
        )
    lower.set(xlabel="bias $b_1$", ylabel=r"$\lambda_1$ (nats per step)", xlim=SPAN, ylim=(-1.2, 0.5))
    lower.set_title("largest Lyapunov exponent, cut off at -1.2: orbits are stable below 0, chaotic above")
    plotting.label_panels((upper, lower))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
