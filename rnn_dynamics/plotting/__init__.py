"""One look for every figure: what the colours mean, and how a result is drawn on given axes.

Row 10 of the layer table: the only importer of matplotlib. It computes nothing. Each `draw_*(ax, ...)` takes arrays,
so that a figure can be drawn anew from its saved file; `draw_diagram` and `draw_report` take results whole. `look`
holds style and colours, `states` draws fixed points, orbits and bifurcations, `slopes` gradients and exponents.
"""

from rnn_dynamics.plotting.look import COLOURS, FULL_WIDTH, key_below, label_panels, style
from rnn_dynamics.plotting.slopes import (
    draw_bounds,
    draw_growth,
    draw_loss_map,
    draw_path,
    draw_report,
    draw_scatter,
    draw_spectrum,
)
from rnn_dynamics.plotting.states import (
    draw_basins,
    draw_branch,
    draw_curve,
    draw_diagram,
    draw_events,
    draw_flow,
    draw_folds,
    draw_orbits,
)

__all__ = [
    "COLOURS",
    "FULL_WIDTH",
    "draw_basins",
    "draw_bounds",
    "draw_branch",
    "draw_curve",
    "draw_diagram",
    "draw_events",
    "draw_flow",
    "draw_folds",
    "draw_growth",
    "draw_loss_map",
    "draw_orbits",
    "draw_path",
    "draw_report",
    "draw_scatter",
    "draw_spectrum",
    "key_below",
    "label_panels",
    "style",
]
