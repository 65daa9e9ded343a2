"""Style and colours: what every picture has in common."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes

__all__ = ["COLOURS", "FULL_WIDTH", "SERIES", "key_below", "label_panels", "style"]

FULL_WIDTH = 7.0
"""Inches: the text width of a two-column page, at which the figures are meant to be read."""

COLOURS = {
    "stable": "#0072B2",
    "unstable": "#D55E00",
    "fold": "#000000",
    "flip": "#009E73",
    "Neimark-Sacker": "#F0E442",
    "Hopf": "#882255",
    "branch point": "#666666",
    "border collision": "#44AA99",
    "up": "#56B4E9",
    "down": "#CC79A7",
    "flow": "#999999",
    "bound": "#E69F00",
    "plain": "#EE3377",
    "clipped": "#7F4F24",
    "first": "#2E1A5E",
    "second": "#8465C0",
    "third": "#C0ADE3",
}
"""What each colour means, in every figure, and no two mean the same: attractors and repellers, the special points, the
two sweeps of a knob, the way states move (and inputs and other background), certified bounds, gradient descent as it is
and clipped. Violet, from dark to light, stands for no more than the first, second and third of several runs, networks
or sizes. Black is also the ink of frames, reference lines and curves known in closed form. Eight are those of Okabe and
Ito, safe for colour-blind readers, and each meaning has a line style or marker as well."""

SERIES = {"first": "o", "second": "s", "third": "^"}
"""Marker of the first, second and third of several runs, networks or sizes."""

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


def label_panels(axes, *, offset: float = -0.02, pad: float | None = None) -> None:
    """Puts a, b, c ... before the titles of a sequence of axes.

    Args:
        axes: The axes, in reading order.
        offset: Where the letter stands, in axes widths right of the panel's left edge.
        pad: How far above the panel, in points, if something else is written there.

    Example:
        >>> from matplotlib.figure import Figure
        >>> left, right = Figure().subplots(1, 2)
        >>> label_panels([left, right])
        >>> right.get_title(loc="left").strip()
        'b'
    """
    for ax, letter in zip(axes, "abcdefghijklmnopqrstuvwxyz", strict=False):
        ax.set_title(f"{letter}   {ax.get_title(loc='left')}", loc="left", x=offset, pad=pad, fontweight="normal")


def key_below(ax: Axes, *, drop: float = 0.24, columns: int = 1) -> None:
    """The legend of a panel under it, where it covers nothing.

    Args:
        ax: The panel.
        drop: How far below, in axes heights.
        columns: Of the legend.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> line = ax.plot([0, 1], label="a line")
        >>> key_below(ax)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['a line']
    """
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -drop), ncols=columns, columnspacing=1, handlelength=1.8,
        borderaxespad=0,
    )  # fmt: skip
