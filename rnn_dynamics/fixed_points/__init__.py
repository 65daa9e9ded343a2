"""Fixed points of maps, and equilibria of fields: found from many starts, merged, and classified.

Row 6 of the layer table: above `jacobians` and `stability`. `results` stands first; `newton` holds the compiled loops
that `search` runs.
"""

from rnn_dynamics.fixed_points.results import FixedPoints
from rnn_dynamics.fixed_points.search import find, solve, starts_from

__all__ = ["FixedPoints", "find", "solve", "starts_from"]
