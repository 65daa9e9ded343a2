"""What a linearisation says: gradients, exponents, bounds, and the losses that gradients descend on."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from rnn_dynamics import _check
from rnn_dynamics.diagnosis import Report
from rnn_dynamics.plotting.look import COLOURS, SERIES

__all__ = [
    "draw_bounds",
    "draw_growth",
    "draw_loss_map",
    "draw_path",
    "draw_report",
    "draw_scatter",
    "draw_spectrum",
]


def draw_loss_map(ax: Axes, x, y, values, *, halfrange: float | None = None, span=(None, None)) -> QuadMesh:
    """A function of two variables as colour; with `halfrange`, white at zero, blue below and red above.

    Args:
        ax: Where to draw.
        x: Horizontal coordinates, shape (i,).
        y: Vertical coordinates, shape (j,).
        values: Shape (i, j): a loss, or the exponents or periods of `bifurcation.regimes`.
        halfrange: Where the two colours are deepest, if the sign is what matters.
        span: Otherwise, the values at both ends of the colours; those of the data where None.

    Returns:
        The mesh, for a colour bar.

    Example:
        >>> ax = Figure().subplots()
        >>> mesh = draw_loss_map(ax, [0.0, 1.0], [0.0, 1.0], [[-1.0, 0.0], [0.0, 1.0]], halfrange=2.0)
        >>> float(mesh.norm(0.0))
        0.5
    """
    colours, norm = (
        ("viridis", Normalize(*span)) if halfrange is None else ("RdBu_r", CenteredNorm(halfrange=halfrange))
    )
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

    Example:
        >>> ax = Figure().subplots()
        >>> line, start, end = draw_path(ax, [0.0, 1.0, 2.0], [3.0, 4.0, 5.0], kind="clipped")
        >>> end.get_xydata().tolist()
        [[2.0, 5.0]]
    """
    _check.option("kind", kind, ("plain", "clipped"))
    colour, edge = COLOURS[kind], [withStroke(linewidth=2.2, foreground="white")]  # to be seen on a map as well
    line, dot = {"plain": "--", "clipped": "-"}[kind], 3 if len(x) <= 60 else 0.5
    return [
        *ax.plot(
            x, y, line, marker=".", color=colour, markersize=dot, linewidth=1.0, label=label, path_effects=edge
        ),
        *ax.plot(x[:1], y[:1], "o", color=colour, markerfacecolor="white", markersize=5, zorder=6),
        *ax.plot(
            x[-1:], y[-1:], "*", color=colour, markeredgecolor="black", markeredgewidth=0.5, markersize=9, zorder=6
        ),
    ]  # fmt: skip


def draw_scatter(ax: Axes, x, samples, *, kind: str = "first", label: str | None = None) -> None:
    """The mean of several samples at each x, with a bar of one standard deviation between them.

    Args:
        ax: Where to draw.
        x: Shape (k,).
        samples: Shape (samples, k).
        kind: "first", "second" or "third" of several sets on one axis.
        label: Legend entry.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> ax = Figure().subplots()
        >>> draw_scatter(ax, [0.0, 1.0], [[1.0, 2.0], [3.0, 2.0]])
        >>> ax.lines[0].get_ydata().tolist()
        [2.0, 2.0]
    """
    samples = np.asarray(samples)
    _draw_bars(ax, x, samples.mean(axis=0), samples.std(axis=0), kind, label, markersize=2.8)


def draw_spectrum(ax: Axes, exponents, errors=None, *, kind: str = "first", label: str | None = None) -> None:
    """Lyapunov exponents over their index, counted from 0 to 1, so that those of several sizes compare.

    Args:
        ax: Where to draw.
        exponents: Descending, shape (n,), as `lyapunov.spectrum` returns them.
        errors: Their standard errors, shape (n,): the bars.
        kind: "first", "second" or "third" of several sets on one axis.
        label: Legend entry.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> ax = Figure().subplots()
        >>> draw_spectrum(ax, [0.1, -0.3], [0.01, 0.01])
        >>> ax.lines[0].get_xdata().tolist()
        [0.25, 0.75]
    """
    index = (np.arange(len(exponents)) + 0.5) / len(exponents)
    _draw_bars(ax, index, exponents, errors, kind, label, markersize=2.2, markeredgewidth=0.7)


def _draw_bars(ax, x, y, errors, kind, label, **marks):
    _check.option("kind", kind, SERIES)
    colour, marker = COLOURS[kind], SERIES[kind]
    ax.errorbar(x, y, errors, fmt=marker, color=colour, linewidth=0.8, markerfacecolor="none", label=label, **marks)


def draw_growth(ax: Axes, lags, log_singular_values) -> None:
    """Singular values of a Jacobian product against the lag: the largest as a line, the others thin in a band.

    Args:
        ax: Where to draw.
        lags: Number of steps in the product, shape (T,).
        log_singular_values: Natural logarithms, shape (T, n), descending; drawn in decades.

    Example:
        >>> ax = Figure().subplots()
        >>> draw_growth(ax, [1, 2], np.log([[10.0, 1.0], [100.0, 1.0]]))
        >>> ax.lines[-1].get_ydata().tolist()
        [1.0, 2.0]
    """
    decades, colour = np.asarray(log_singular_values) / np.log(10), COLOURS["first"]
    if decades.shape[1] > 1:
        ax.fill_between(lags, decades[:, -1], decades[:, 0], color=colour, alpha=0.12, linewidth=0)
        rest = ax.plot(lags, decades[:, 1:], color=colour, linewidth=0.4, alpha=0.5)
        rest[0].set_label(r"$\sigma_2 \ldots \sigma_n$, which fill the band")
    ax.plot(lags, decades[:, 0], color=colour, label=r"$\sigma_1$ of $\partial x_t/\partial x_k$")


def draw_bounds(ax: Axes, lags, rates) -> None:
    """What each certified bound allows after a number of steps, and what the textbook's spectral radius would.

    Args:
        ax: Where to draw.
        lags: Numbers of steps, shape (T,).
        rates: Factors per step: γ‖W‖₂, γρ(|W|), γ min ‖DWD⁻¹‖₂, and, no bound at all, γρ(W).

    Example:
        >>> ax = Figure().subplots()
        >>> draw_bounds(ax, [1, 2], [10.0, 100.0, 1.0, 0.1])
        >>> [line.get_ydata().tolist() for line in ax.lines]
        [[1.0, 2.0], [2.0, 4.0], [0.0, 0.0], [-1.0, -2.0]]
    """
    names = (r"$\gamma\Vert W\Vert_2$", r"$\gamma\rho(|W|)$", r"$\gamma\min_D\Vert DWD^{-1}\Vert_2$")
    for rate, name, line in zip(rates, (*names, r"$\gamma\rho(W)$: no bound"), ("-", "-.", "--", ":"), strict=True):
        colour, width = ("black", 1.6) if line == ":" else (COLOURS["bound"], 1.1)
        ax.plot(lags, np.asarray(lags) * np.log10(max(rate, 1e-300)), line, color=colour, linewidth=width, label=name)


def draw_report(figure: Figure, report: Report) -> None:
    """A report on gradients, on a figure of its own: their length against the lag, and the saturation of every unit.

    Args:
        figure: Where to draw; empty.
        report: Of `diagnosis.report`.

    Example:
        >>> from rnn_dynamics import diagnosis
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> found = diagnosis.report(DoyaNeuron(5.0, -2.5), jnp.array([0.8]), None, lambda x: x[0], num_steps=100)
        >>> figure = Figure()
        >>> draw_report(figure, found)
        >>> len(figure.axes)
        1
    """
    saturated = None if report.saturated is None else np.sort(report.saturated)[::-1]
    ax, *more = figure.subplots(1, 1 if saturated is None else 2, squeeze=False)[0]
    figure.suptitle(textwrap.fill(report.sentence, 110), fontsize=9, x=0.01, ha="left")
    lags = np.arange(len(report.log_norms))
    decades = (np.asarray(report.log_norms)[::-1] - report.log_norms[-1]) / np.log(10)
    ax.plot(lags, decades, color=COLOURS["first"], label=r"$\Vert\partial E/\partial x_{T-k}\Vert$")
    ax.plot(
        lags, lags * report.exponent / np.log(10), "--", color=COLOURS["second"], label=r"$e^{\lambda_1 k}$", zorder=1
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
        more[0].bar(np.arange(len(saturated)), saturated, width=1.0, color=COLOURS["first"])
        more[0].set(xlabel="unit, most saturated first", ylabel="part of the steps saturated", ylim=(0, 1.02))
