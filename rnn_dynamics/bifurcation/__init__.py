"""How the attractors and fixed points of a family of maps change with its parameters.

Row 8 of the layer table: above `continuation`, `fixed_points` and `simulate`. `diagrams` follows every
branch of fixed points and cycles, `orbits` holds the orbit diagram, `regimes` a map of the plane of two parameters.
"""

from rnn_dynamics.bifurcation.diagrams import Diagram, diagram
from rnn_dynamics.bifurcation.iterates import Iterate
from rnn_dynamics.bifurcation.orbits import orbit_diagram
from rnn_dynamics.bifurcation.regimes import Regimes, regimes

__all__ = ["Diagram", "Iterate", "Regimes", "diagram", "orbit_diagram", "regimes"]
