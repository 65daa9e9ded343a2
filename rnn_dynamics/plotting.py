"""One look for every figure: what the colours mean, and how a result is drawn on given axes.

Row 10 of the layer table: the only importer of matplotlib. It computes nothing: each `draw_*(ax, ...)` takes arrays
or results of the modules below. Colours are those of Okabe and Ito, safe for colour-blind readers, and each meaning
has a line style or marker as well.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rnn_dynamics import _check
from rnn_dynamics.diagnosis import Report

__all__ = [
    "COLOURS",
    "FULL_WIDTH",
    "draw_bounds",
    "draw_branch",
    "draw_events",
    "draw_flow",
    "draw_folds",
    "draw_growth",
    "draw_loss_map",
    "draw_orbits",
    "draw_path",
    "draw_report",
    "draw_scatter",
    "label_panels",
    "style",
]

FULL_WIDTH = 7.0
"""Inches: the text width of a two-column page, at which the figures are meant to be read."""

COLOURS = {
    "stable": "#0072B2",
    "unstable": "#D55E00",
    "fold": "#000000",
    "flip": "#009E73",
    "up": "#56B4E9",
    "down": "#CC79A7",
    "flow": "#999999",
    "bound": "#E69F00",
    "plain": "#D55E00",
    "clipped": "#009E73",
    "Neimark-Sacker": "#F0E442",
    "Hopf": "#882255",
    "branch point": "#666666",
    "border collision": "#44AA99",
}
"""What each colour means, in every figure: attractors and repellers, bifurcations, the two sweeps of a knob, the
state's evolution, certified bounds, gradient descent as it is and clipped, and the rarer special points."""

_EVENTS = {
    "LP": ("fold", "o"),
    "PD": ("flip", "s"),
    "NS": ("Neimark-Sacker", "D"),
    "H": ("Hopf", "D"),
    "BP": ("branch point", "P"),
    "BC": ("border collision", "X"),
    "CP": ("cusp", "*"),
}
"""Special points: what they are called, which is also the name of their colour, and their marker."""

_RC = {
    "axes.grid": False,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 8,
    "image.cmap": "viridis",
    "legend.fontsize": 7.5,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.4,
    "mathtext.fontset": "cm",
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.hashsalt": "rnn_dynamics",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for every figure of the package, for the length of a `with` block.

    Example:
        >>> with style():
        ...     print(mpl.rcParams["axes.labelsize"])
        9.0
    """
    with mpl.rc_context(_RC):  # pyright: ignore[reportArgumentType]
        yield


def label_panels(axes, *, offset: float = -0.02) -> None:
    """Puts a, b, c ... before the titles of a sequence of axes.

    Args:
        axes: The axes, in reading order.
        offset: Where the letter stands, in axes widths left of the panel.
    """
    for ax, letter in zip(axes, "abcdefghijklmnopqrstuvwxyz", strict=False):
        ax.set_title(f"{letter}   {ax.get_title(loc='left')}", loc="left", x=offset, fontweight="normal")


def draw_branch(ax: Axes, p, x, stable, *, labels: bool = True, width: float = 1.4) -> None:
    """A branch of fixed points over a parameter: stable pieces solid, unstable ones dashed.

    Args:
        ax: Where to draw.
        p: Parameter along the branch, shape (k,).
        x: State along the branch, shape (k,).
        stable: Whether each point is stable, shape (k,).
        labels: Whether the two kinds enter the legend.
        width: Of the line, in points.

    Raises:
        ValueError: arrays of different lengths.
    """
    p, x, stable = np.asarray(p), np.asarray(x), np.asarray(stable, dtype=bool)
    if not p.shape == x.shape == stable.shape or p.ndim != 1:
        raise ValueError(f"p, x and stable must share one shape (k,); got {p.shape}, {x.shape} and {stable.shape}")
    for kind, mask, line in (("stable", stable, "-"), ("unstable", ~stable, "--")):
        touching = mask.copy()  # a piece reaches to the first point of the next, so that no gap is left between them
        touching[1:] |= mask[:-1]
        ax.plot(
            p,
            np.where(touching, x, np.nan),
            line,
            color=COLOURS[kind],
            linewidth=width,
            label=f"{kind} fixed point" if labels else None,
        )


def draw_folds(ax: Axes, folds, *, names: bool = True) -> None:
    """Folds as black dots, each with its bias written beside it.

    Args:
        ax: Where to draw.
        folds: Pairs (parameter, state), as `DoyaNeuron.folds` returns them.
        names: Whether to write b₁, b₂, ... under the axis.
    """
    for number, (p, x) in enumerate(np.asarray(folds, dtype=float), start=1):
        ax.plot(p, x, "o", color=COLOURS["fold"], markersize=4.5, zorder=5, label="fold" if number == 1 else None)
        if names:
            ax.axvline(p, color=COLOURS["fold"], linewidth=0.6, linestyle=":", zorder=0)
            ax.annotate(
                f"$b_{number}$",
                (p, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )


def draw_events(ax: Axes, kinds, p, x, *, size: float = 4.5) -> None:
    """Special points of branches, a marker and a legend entry for each kind.

    Args:
        ax: Where to draw.
        kinds: "LP", "PD", "NS", "H", "BP", "BC" or "CP", shape (e,).
        p: Parameters, shape (e,).
        x: One component of the states, shape (e,).
        size: Of the markers, in points.

    Raises:
        ValueError: an unknown kind.
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


def draw_flow(ax: Axes, p, x, change) -> None:
    """Small vertical arrows that say which way the state moves; their length is the same everywhere.

    Args:
        ax: Where to draw.
        p: Parameter values, shape (i,).
        x: States, shape (j,).
        change: The state's change or velocity, shape (i, j); only its sign is drawn.
    """
    columns, rows = np.meshgrid(p, x, indexing="ij")
    signs = np.sign(change)
    ax.quiver(
        columns,
        rows,
        np.zeros_like(signs),
        signs,
        color=COLOURS["flow"],
        pivot="mid",
        scale=38,
        width=0.0022,
        headwidth=4,
        zorder=0,
    )


def draw_orbits(ax: Axes, values, kept, *, kind: str, label: str | None = None) -> None:
    """Where orbits settle over a parameter: a dot for every state kept.

    Args:
        ax: Where to draw.
        values: Parameter values, shape (P,).
        kept: One component of the states kept, shape (P, num_kept).
        kind: "up" or "down" (a sweep's direction), or "stable".
        label: Legend entry.

    Raises:
        ValueError: an unknown kind.
    """
    _check.option("kind", kind, ("up", "down", "stable"))
    marker = {"up": "^", "down": "v", "stable": "."}[kind]
    kept = np.asarray(kept)
    columns = np.repeat(np.asarray(values), kept.shape[1])
    ax.plot(columns, kept.ravel(), marker, color=COLOURS[kind], markersize=3.2, linestyle="none", label=label)


def draw_loss_map(ax: Axes, x, y, values, *, halfrange: float | None = None) -> QuadMesh:
    """A function of two variables as colour; with `halfrange`, white at zero, blue below and red above.

    Args:
        ax: Where to draw.
        x: Horizontal coordinates, shape (i,).
        y: Vertical coordinates, shape (j,).
        values: Shape (i, j).
        halfrange: Where the two colours are deepest, if the sign is what matters.

    Returns:
        The mesh, for a colour bar.
    """
    colours, norm = ("viridis", None) if halfrange is None else ("RdBu_r", CenteredNorm(halfrange=halfrange))
    return ax.pcolormesh(x, y, np.asarray(values).T, shading="auto", rasterized=True, cmap=colours, norm=norm)


def draw_path(ax: Axes, x, y, *, kind: str, label: str | None = None) -> list[Line2D]:
    """A path of gradient descent: its steps as dots on a line, an open circle where it starts, a star where it ends.

    Args:
        ax: Where to draw.
        x: Shape (T+1,).
        y: Shape (T+1,).
        kind: "plain" or "clipped".
        label: Legend entry.

    Returns:
        The artists.

    Raises:
        ValueError: an unknown kind.
    """
    _check.option("kind", kind, ("plain", "clipped"))
    line = {"plain": "--", "clipped": "-"}[kind]
    colour = COLOURS[kind]
    dot = 3 if len(x) <= 60 else 0.5
    return [
        *ax.plot(x, y, line, marker=".", color=colour, markersize=dot, linewidth=0.9, label=label),
        *ax.plot(x[:1], y[:1], "o", color=colour, markerfacecolor="white", markersize=5, zorder=6),
        *ax.plot(
            x[-1:], y[-1:], "*", color=colour, markeredgecolor="black", markeredgewidth=0.5, markersize=9, zorder=6
        ),
    ]


def draw_scatter(ax: Axes, x, samples, *, marker: str, label: str | None = None) -> None:
    """The mean of several samples at each x, with a bar of one standard deviation between them.

    Args:
        ax: Where to draw.
        x: Shape (k,).
        samples: Shape (samples, k).
        marker: Tells several sets on one axis apart: "^" is drawn in the second colour.
        label: Legend entry.
    """
    samples = np.asarray(samples)
    colour = COLOURS["bound" if marker == "^" else "stable"]
    ax.errorbar(
        x, samples.mean(axis=0), samples.std(axis=0), fmt=marker,
        color=colour, markersize=2.8, linewidth=0.8, markerfacecolor="none", label=label,
    )  # fmt: skip


def draw_growth(ax: Axes, lags, log_singular_values) -> None:
    """Singular values of a Jacobian product against the lag: the largest as a line, the others thin in a band.

    Args:
        ax: Where to draw.
        lags: Number of steps in the product, shape (T,).
        log_singular_values: Natural logarithms, shape (T, n), descending; drawn in decades.
    """
    decades = np.asarray(log_singular_values) / np.log(10)
    ax.fill_between(lags, decades[:, -1], decades[:, 0], color=COLOURS["stable"], alpha=0.12, linewidth=0)
    ax.plot(lags, decades[:, 1:], color=COLOURS["stable"], linewidth=0.4, alpha=0.5)
    ax.plot(lags, decades[:, 0], color=COLOURS["stable"], label=r"$\sigma_1$ of $\partial x_t/\partial x_k$")


def draw_bounds(ax: Axes, lags, rates) -> None:
    """What each certified bound allows after a number of steps, and what the textbook's spectral radius would.

    Args:
        ax: Where to draw.
        lags: Numbers of steps, shape (T,).
        rates: Factors per step: γ‖W‖₂, γρ(|W|), γ min ‖DWD⁻¹‖₂, and, no bound at all, γρ(W).
    """
    names = (r"$\gamma\Vert W\Vert_2$", r"$\gamma\rho(|W|)$", r"$\gamma\min_D\Vert DWD^{-1}\Vert_2$")
    for rate, name, line in zip(rates, (*names, r"$\gamma\rho(W)$: no bound"), ("-", "-.", "--", ":"), strict=True):
        colour = COLOURS["unstable" if line == ":" else "bound"]
        ax.plot(lags, np.asarray(lags) * np.log10(max(rate, 1e-300)), line, color=colour, linewidth=1.1, label=name)


def draw_report(figure: Figure, report: Report) -> None:
    """A report on gradients, on a figure of its own: their length against the lag, and the saturation of every unit.

    Args:
        figure: Where to draw; empty.
        report: Of `diagnosis.report`.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from rnn_dynamics import diagnosis
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> found = diagnosis.report(DoyaNeuron(5.0, -2.5), jnp.array([0.8]), None, lambda x: x[0], num_steps=100)
        >>> with style():
        ...     figure = plt.figure(figsize=(FULL_WIDTH, 2.6))
        ...     draw_report(figure, found)
        >>> len(figure.axes)
        1
        >>> plt.close(figure)
    """
    saturated = None if report.saturated is None else np.sort(report.saturated)[::-1]
    ax, *more = figure.subplots(1, 1 if saturated is None else 2, squeeze=False)[0]
    figure.suptitle(textwrap.fill(report.sentence, 110), fontsize=9, x=0.01, ha="left")
    lags = np.arange(len(report.log_norms))
    decades = (np.asarray(report.log_norms)[::-1] - report.log_norms[-1]) / np.log(10)
    ax.plot(lags, decades, color=COLOURS["stable"], label=r"$\Vert\partial E/\partial x_{T-k}\Vert$")
    ax.plot(
        lags, lags * report.exponent / np.log(10), "--", color=COLOURS["flow"], label=r"$e^{\lambda_1 k}$", zorder=1
    )
    if report.bounds is not None:
        rate = lags * np.log10(max(float(report.bounds.rate), 1e-300))
        ax.plot(lags, rate, "-.", color=COLOURS["bound"], label="certified bound", zorder=1)
    if np.isfinite(decades).any():
        low, high = np.nanmin(decades[np.isfinite(decades)]), np.nanmax(decades[np.isfinite(decades)])
        margin = 0.2 * (high - low) + 0.5
        ax.set_ylim(low - margin, high + margin)
    ax.set(xlabel="lag $k$ (steps back)", ylabel="length of the gradient (decades)")
    ax.legend(loc="best")
    if saturated is not None:
        more[0].bar(np.arange(len(saturated)), saturated, width=1.0, color=COLOURS["stable"])
        more[0].set(xlabel="unit, most saturated first", ylabel="part of the steps saturated", ylim=(0, 1.02))
