r"""Products of many matrices, kept so that they never overflow, never underflow and lose no singular value.

A product of T Jacobians grows or shrinks at n different rates; written out as an array it is 0, infinity or a single
direction after a few hundred steps. Here it stays factored, with U orthogonal, the scales in logarithm and V well
conditioned, and only ratios of scales are ever exponentiated:

$$ A = U \, \mathrm{diag}(e^{\ell}) \, V $$

Rounding perturbs each factor by ε times the least of the sizes of its row and its column, zeros included. That moves no
logarithm by more than rounding unless factors are far from normal over many steps: a chain without feedback, as
[[.5, 10¹⁵], [0, .5]] a thousand times over, is not kept triangular, and its zeros count as ε or so. What is not finite
makes a product NaN.

Row 1 of the layer table: `product` is the factored matrix, `multiplication` makes one, `largest` does without. Next:
`jacobians`, which multiplies along a trajectory.
"""

from rnn_dynamics.products.largest import log_norm
from rnn_dynamics.products.multiplication import compose, cumulative, from_matrices, multiply
from rnn_dynamics.products.product import Product, identity

__all__ = ["Product", "compose", "cumulative", "from_matrices", "identity", "log_norm", "multiply"]
