r"""Can gradients explode? Certified bounds on products of step Jacobians, from the recurrent weights alone.

Row 5 of the layer table. Whatever the inputs, the step Jacobian is W·diag(d), or diag(d)·W where the activation comes
last, with $|d_i| \le \gamma = \sup|\sigma'|$. A norm that finds all such matrices shorter than 1 proves that gradients
vanish: `network_bounds` tries three, `joint_spectral_radius` brackets the true worst case. Inside: `radii` measures a
matrix, `scaling` finds the units in which it is least, `network` draws the conclusions. Next: `lyapunov`.
"""

from rnn_dynamics.bounds.network import Bounds, joint_spectral_radius, network_bounds
from rnn_dynamics.bounds.radii import spectral_norm, spectral_radius

__all__ = ["Bounds", "joint_spectral_radius", "network_bounds", "spectral_norm", "spectral_radius"]
