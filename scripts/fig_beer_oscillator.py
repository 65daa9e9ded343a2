"""Beer's two-neuron oscillator in continuous time: nullclines, limit cycle, and where the cycle is born and dies.

Claims: one equilibrium (2.75, 1.75) with eigenvalues ⅛ ± i/4, inside a limit cycle of period 28.9999079; with θ held
and the coupling ±c varied, the equilibrium changes stability in two Hopf bifurcations, where Σ w_ii σ′_i = 2, det > 0.
Both are supercritical: the cycle grows out of one point and shrinks into the other, as the square root of the distance.
Reference: Beer (1995), On the dynamics of small continuous-time recurrent neural networks.
"""

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy
from matplotlib.figure import Figure

from rnn_dynamics import continuation, flows, plotting
from rnn_dynamics.models import CTRNN
from rnn_dynamics.models.reference import oscillator

THETA, CENTRE, SPAN = (-2.75, -1.75), (2.75, 1.75), (0.0, 2.0)
SETTLING = 40  # the slower the nearer the Hopf points: beside them cycles attract at about half the distance in c
FULL = {"num_couplings": 41, "num_times": 1001}
QUICK = {"num_couplings": 3, "num_times": 101}


def coupled(c):
    """The oscillator with coupling ±c and the thresholds that centre it at c = 1."""
    return CTRNN(jnp.diag(jnp.array([4.5, 4.5])) + c * jnp.array([[0.0, 1.0], [-1.0, 0.0]]), jnp.array(THETA), 1.0)


@jax.jit
def extremes(c, distance, times):
    """The least and the largest of both states on the cycle at c, so far from the nearest Hopf point."""
    later = jnp.concatenate([jnp.zeros(1), SETTLING / distance + times])
    xs = flows.integrate(coupled(c), jnp.array([0.5, 3.0]), later)[1:]
    return jnp.stack([xs.min(axis=0), xs.max(axis=0)])


@jax.jit
def gap(unknowns):
    """How far the orbit from (2.75, y) is from closing after a time T."""
    start = jnp.array([CENTRE[0], unknowns[0]])
    return flows.integrate(oscillator(), start, jnp.array([0.0, 1.0]) * unknowns[1])[1] - start


def compute(num_couplings: int, num_times: int) -> dict[str, np.ndarray]:
    """The cycle and its period, the nullclines, and the branch of equilibria with its Hopf points."""
    closed = scipy.optimize.root(gap, np.array([3.2, 29.0]), options={"xtol": 1e-13})
    crossing, period = closed.x
    times = np.linspace(0.0, period, num_times)
    cycle = flows.integrate(oscillator(), jnp.array([CENTRE[0], crossing]), jnp.asarray(times))
    branch = continuation.trace(coupled, jnp.array(CENTRE), 1.0, p_span=SPAN, time="continuous", max_step=0.02)
    hopf = [event for event in branch.events if event.kind == "H"]
    first, last = (event.p for event in hopf)
    couplings = first + (last - first) * np.sin(np.pi / 2 * np.linspace(0, 1, num_couplings + 2)[1:-1]) ** 2
    distances, window = np.minimum(couplings - first, last - couplings), jnp.linspace(0.0, 80.0, num_times)
    field, (y1, y2) = oscillator(), np.meshgrid(np.linspace(0.2, 5.4, 121), np.linspace(-0.8, 4.4, 121), indexing="ij")
    arrays = {
        "period": period, "times": times, "cycle": cycle, "couplings": couplings,
        "eigenvalues": np.linalg.eigvals(field.jacobian(jnp.array(CENTRE))),
        "extremes": jnp.stack([extremes(c, d, window) for c, d in zip(couplings, distances, strict=True)]),
        "hopf_coefficients": np.array(
            [continuation.normal_form(coupled, event, time="continuous").coefficient for event in hopf]
        ),
        "branch_p": branch.p, "branch_x": branch.x, "branch_stable": branch.stable,
        "event_kinds": np.array([event.kind for event in branch.events]),
        "event_p": np.array([event.p for event in branch.events]),
        "event_x": np.stack([event.x for event in branch.events]), "y1": y1, "y2": y2,
        "velocity": jax.vmap(jax.vmap(field))(jnp.asarray(np.stack([y1, y2], axis=-1))),
    }  # fmt: skip
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """The phase plane, one period in time, and the equilibria and cycles over the coupling."""
    figure, (plane, course, diagram) = plt.subplots(
        1, 3, figsize=(plotting.FULL_WIDTH, 3.0), width_ratios=[1.05, 1, 1.2]
    )
    speed = np.linalg.norm(data["velocity"], axis=-1)
    arrows = np.moveaxis(data["velocity"] / speed[..., None] ** 0.7, -1, 0)
    few = (slice(None, None, 8),) * 2
    plane.quiver(
        data["y1"][few],
        data["y2"][few],
        *(part[few] for part in arrows),
        color=plotting.COLOURS["flow"],
        width=0.004,
        headwidth=4,
        zorder=0,
    )
    for axis, line, name in ((0, "-", r"$\dot y_1 = 0$"), (1, "--", r"$\dot y_2 = 0$")):
        plane.contour(
            data["y1"], data["y2"], data["velocity"][..., axis], levels=[0.0], linestyles=line, colors="black",
            linewidths=0.8,
        )  # fmt: skip
        plane.plot([], [], line, color="black", linewidth=0.8, label=name)
    plane.plot(*data["cycle"].T, color=plotting.COLOURS["stable"], label="limit cycle")
    plane.plot(*CENTRE, "o", color=plotting.COLOURS["unstable"], markerfacecolor="white", label="equilibrium")
    plane.set(
        xlabel="state $y_1$", ylabel="state $y_2$", title="phase plane, $c = 1$", xlim=(0.2, 5.4), ylim=(-0.8, 4.4)
    )
    for state, line, name in zip(data["cycle"].T, ("-", "--"), ("$y_1$", "$y_2$"), strict=True):
        course.plot(data["times"], state, line, color=plotting.COLOURS["stable"], label=name)
    course.set(xlabel="time $t$", ylabel="state", title=f"one period: {data['period']:.5f}", ylim=(0, 4.5))
    plotting.draw_branch(diagram, data["branch_p"], data["branch_x"][:, 0], data["branch_stable"])
    plotting.draw_orbits(
        diagram, data["couplings"], data["extremes"][:, :, 0], kind="stable", label="limit cycle, both extremes"
    )
    plotting.draw_events(diagram, data["event_kinds"], data["event_p"], data["event_x"][:, 0])
    diagram.set(xlabel="coupling $c$", ylabel="state $y_1$", title="the cycle's birth and death", ylim=(0, 4.5))
    for ax, columns in ((plane, 2), (course, 2), (diagram, 1)):
        plotting.key_below(ax, drop=0.28, columns=columns)
    plotting.label_panels((plane, course, diagram))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
