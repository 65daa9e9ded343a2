"""Fixed points of maps, and equilibria of fields: found from many starts, merged, and classified.

Row 6 of the layer table: above `jacobians` and `stability`. `results` stands first; `newton` holds the compiled loops
that `search`, `slow` and `cycles` run.
"""

from rnn_dynamics.fixed_points.cycles import Cycles, cycles
from rnn_dynamics.fixed_points.enumeration import Enumeration, enumerate  # noqa: A004
from rnn_dynamics.fixed_points.proofs import Certificate, certify
from rnn_dynamics.fixed_points.results import FixedPoints
from rnn_dynamics.fixed_points.search import find, solve, starts_from
from rnn_dynamics.fixed_points.slow import SlowPoints, slow_points

__all__ = [
    "Certificate",
    "Cycles",
    "Enumeration",
    "FixedPoints",
    "SlowPoints",
    "certify",
    "cycles",
    "enumerate",
    "find",
    "slow_points",
    "solve",
    "starts_from",
]
