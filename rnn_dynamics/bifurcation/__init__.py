"""How the attractors and fixed points of a family of maps change with its parameters.

Row 8 of the layer table: above `continuation`, `fixed_points` and `simulate`. `orbits` holds the orbit diagram.
"""

from rnn_dynamics.bifurcation.orbits import orbit_diagram

__all__ = ["orbit_diagram"]
