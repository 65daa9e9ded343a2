"""Fixed points of maps, and equilibria of fields: found from many starts, merged, and classified.

Row 6 of the layer table: above `jacobians` and `stability`. `results` stands first; `newton` holds the compiled loops
that `search` and `cycles` run.
"""

from rnn_dynamics.fixed_points.cycles import Cycles, cycles
from rnn_dynamics.fixed_points.results import FixedPoints
from rnn_dynamics.fixed_points.search import find, solve, starts_from

__all__ = ["Cycles", "FixedPoints", "cycles", "find", "solve", "starts_from"]
