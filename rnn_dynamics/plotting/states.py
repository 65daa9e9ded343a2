"""Fixed points, cycles, orbits, basins and bifurcations, over a parameter or in the plane of states."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke

from rnn_dynamics import _check
from rnn_dynamics.bifurcation import Diagram
from rnn_dynamics.continuation import Branch
from rnn_dynamics.plotting.look import COLOURS

__all__ = [
    "draw_basins",
    "draw_branch",
    "draw_curve",
    "draw_diagram",
    "draw_events",
    "draw_flow",
    "draw_folds",
    "draw_orbits",
]

_EVENTS = {
    "LP": ("fold", "o"),
    "PD": ("flip", "s"),
    "NS": ("Neimark-Sacker", "D"),
    "H": ("Hopf", "D"),
    "BP": ("branch point", "P"),
    "BC": ("border collision", "X"),
    "CP": ("cusp", "*"),
    "GPD": ("degenerate flip", "*"),
}
"""Special points: what they are called, which is also the name of their colour, and their marker."""

_CURVES = {"fold": "-", "flip": "--", "Neimark-Sacker": "-.", "Hopf": "-."}


def draw_branch(ax: Axes, p, x, stable, *, labels: bool = True, name: str = "fixed point", width: float = 1.4) -> None:
    """A branch of fixed points or cycles over a parameter: stable pieces solid, unstable ones dashed.

    Args:
        ax: Where to draw.
        p: Parameter along the branch, shape (k,).
        x: One component of the state along it, shape (k,); of cycles of period q, shape (k, q).
        stable: Whether each point is stable, shape (k,).
        labels: Whether the two kinds enter the legend.
        name: What is stable or unstable, for the legend.
        width: Of the line, in points.

    Raises:
        ValueError: arrays of different lengths.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_branch(ax, [0, 1, 2], [5, 6, 7], [True, True, False])
        >>> [line.get_label() for line in ax.lines]
        ['stable fixed point', 'unstable fixed point']
    """
    p, x, stable = np.asarray(p), np.asarray(x), np.asarray(stable, dtype=bool)
    if not (p.shape == x.shape[:1] == stable.shape and x.ndim in (1, 2)):
        raise ValueError(f"p, x and stable must share one length k; got shapes {p.shape}, {x.shape} and {stable.shape}")
    for kind, mask, line in (("stable", stable, "-"), ("unstable", ~stable, "--")):
        touching = mask.copy()  # a piece reaches to the first point of the next, so that no gap is left between them
        touching[1:] |= mask[:-1]
        for number, phase in enumerate(x.reshape(len(p), -1).T):
            ax.plot(
                p,
                np.where(touching, phase, np.nan),
                line,
                color=COLOURS[kind],
                linewidth=width,
                label=f"{kind} {name}" if labels and number == 0 else None,
            )


def draw_diagram(ax: Axes, found: Branch | Diagram, *, component: int = 0) -> None:
    """A branch, or every branch of a diagram, with the special points.

    Args:
        ax: Where to draw.
        found: Of `continuation.trace` or `bifurcation.diagram`.
        component: Which component of the state is drawn.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from rnn_dynamics import continuation
        >>> from rnn_dynamics.models.reference import Logistic
        >>> branch = continuation.trace(Logistic, jnp.array([0.6]), 2.5, p_span=(2.0, 3.5))
        >>> ax = Figure().subplots()
        >>> draw_diagram(ax, branch)
        >>> [line.get_label() for line in ax.lines]
        ['stable fixed point', 'unstable fixed point', 'flip']
    """
    branches, orbits = ((found,), (found.x[:, None],)) if isinstance(found, Branch) else (found.branches, found.orbits)
    cycles = any(orbit.shape[1] > 1 for orbit in orbits)
    for number, (branch, orbit) in enumerate(zip(branches, orbits, strict=True)):
        name = "fixed point or cycle" if cycles else "fixed point"
        draw_branch(ax, branch.p, orbit[:, :, component], branch.stable, labels=number == 0, name=name)
    events = found.events
    draw_events(ax, [e.kind for e in events], [e.p for e in events], [e.x[component] for e in events])


def draw_folds(ax: Axes, folds, *, names: bool = True) -> None:
    """Folds as black dots, each with its bias written beside it.

    Args:
        ax: Where to draw.
        folds: Pairs (parameter, state), as `DoyaNeuron.folds` returns them.
        names: Whether to write b₁, b₂, ... above the panel.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> ax = Figure().subplots()
        >>> draw_folds(ax, DoyaNeuron.folds(5.0))
        >>> [text.get_text() for text in ax.texts]
        ['$b_1$', '$b_2$']
    """
    folds = np.asarray(folds, dtype=float)
    draw_events(ax, ["LP"] * len(folds), *folds.T)
    for number, p in enumerate(folds[:, 0] if names else (), start=1):
        ax.axvline(p, color=COLOURS["fold"], linewidth=0.6, linestyle=":", zorder=0)
        ax.annotate(
            f"$b_{number}$", (p, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom",
        )  # fmt: skip


def draw_events(ax: Axes, kinds, p, x, *, size: float = 4.5) -> None:
    """Special points of branches or curves, a marker and a legend entry for each kind.

    Args:
        ax: Where to draw.
        kinds: "LP", "PD", "NS", "H", "BP", "BC", "CP" or "GPD", shape (e,).
        p: Parameters, shape (e,).
        x: One component of the states, or the second parameter, shape (e,).
        size: Of the markers, in points.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_events(ax, ["LP", "PD", "LP"], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
        >>> [(line.get_label(), len(line.get_xdata())) for line in ax.lines]
        [('fold', 2), ('flip', 1)]
    """
    kinds, p, x = np.asarray(kinds), np.asarray(p), np.asarray(x)
    for kind in kinds:
        _check.option("kind", str(kind), _EVENTS)
    for kind, (name, marker) in _EVENTS.items():
        if (kinds == kind).any():
            ax.plot(
                p[kinds == kind],
                x[kinds == kind],
                marker,
                color=COLOURS.get(name, COLOURS["fold"]),
                markeredgecolor="black",
                markeredgewidth=0.5,
                markersize=size,
                zorder=5,
                label=name,
            )


def draw_curve(ax: Axes, p, q, *, kind: str) -> None:
    """A curve of bifurcations in the plane of two parameters, on a white edge that parts it from a map beneath.

    Args:
        ax: Where to draw.
        p: The parameter of the horizontal axis, shape (k,).
        q: That of the vertical axis, shape (k,).
        kind: "fold", "flip", "Neimark-Sacker" or "Hopf".

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from rnn_dynamics import continuation
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> spans = {"p_span": (-10.0, 0.0), "q_span": (4.0, 8.0)}
        >>> curve = continuation.fold_curve(lambda b, w: DoyaNeuron(w, b), jnp.array([0.28]), -2.3, 5.0, **spans)
        >>> ax = Figure().subplots()
        >>> draw_curve(ax, curve.q, curve.p, kind="fold")
        >>> ax.lines[0].get_label()
        'fold'
    """
    _check.option("kind", kind, _CURVES)
    edge = [withStroke(linewidth=3, foreground="white")]
    ax.plot(p, q, _CURVES[kind], color=COLOURS[kind], label=kind, path_effects=edge)


def draw_flow(ax: Axes, p, x, change) -> None:
    """Small vertical arrows that say which way the state moves; their length is the same everywhere.

    Args:
        ax: Where to draw.
        p: Parameter values, shape (i,).
        x: States, shape (j,).
        change: The state's change or velocity, shape (i, j); only its sign is drawn.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_flow(ax, [0.0, 1.0], [0.5], [[-7.0], [0.1]])
        >>> len(ax.collections)
        1
    """
    columns, rows = np.meshgrid(p, x, indexing="ij")
    signs = np.sign(change)
    ax.quiver(
        columns, rows, np.zeros_like(signs), signs, color=COLOURS["flow"], pivot="mid", scale=38, width=0.0022,
        headwidth=4, zorder=0,
    )  # fmt: skip


def draw_orbits(ax: Axes, values, kept, *, kind: str, label: str | None = None) -> None:
    """Where orbits settle over a parameter: a dot for every state kept.

    Args:
        ax: Where to draw.
        values: Parameter values, shape (P,).
        kept: One component of the states kept, shape (P, num_kept).
        kind: "up" or "down" (a sweep's direction), "stable", or "flow": grey dust, for chaotic attractors.
        label: Legend entry.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_orbits(ax, [0.0, 1.0], [[0.2, 0.8], [0.5, 0.5]], kind="stable")
        >>> len(ax.lines[0].get_xdata())
        4
    """
    _check.option("kind", kind, ("up", "down", "stable", "flow"))
    marker, dust = {"up": "^", "down": "v", "stable": ".", "flow": ","}[kind], kind == "flow"
    kept = np.asarray(kept)
    columns = np.repeat(np.asarray(values), kept.shape[1])
    ax.plot(
        columns, kept.ravel(), marker, color=COLOURS[kind], markersize=3.2, linestyle="none",
        label=None if dust else label, alpha=0.35 if dust else 1, rasterized=dust, zorder=0 if dust else 2,
    )  # fmt: skip
    if dust and label:
        ax.plot([], [], "o", color=COLOURS[kind], markersize=2, label=label)


def draw_basins(ax: Axes, x, y, label) -> None:
    """Basins of attraction in a plane of states, as pale shades that mean no more than "first", "second" and "third".

    Args:
        ax: Where to draw.
        x: Horizontal coordinates, shape (i,).
        y: Vertical coordinates, shape (j,).
        label: Which of at most three attractors each state goes to, shape (i, j), or -1, which stays white.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_basins(ax, [0.0, 1.0, 2.0], [0.0, 1.0], [[0, 0], [0, 1], [-1, 1]])
        >>> ax.collections[0].get_array().tolist()
        [[0, 0, -1], [0, 1, 1]]
    """
    shades = ListedColormap(["#FFFFFF", "#E2E0EA", "#F4F0FB", "#CFC9DC"])
    ax.pcolormesh(x, y, np.asarray(label).T, shading="auto", cmap=shades, vmin=-1.5, vmax=2.5, rasterized=True)
