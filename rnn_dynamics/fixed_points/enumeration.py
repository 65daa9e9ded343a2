"""Every fixed point of a small network, each proved, and proof that there is no other.

Row 6 of the layer table: above `branching` and `results`. Next: `proofs`, for one point of a large network.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, jacobians, stability
from rnn_dynamics._compile import jit
from rnn_dynamics.fixed_points import results
from rnn_dynamics.fixed_points.branching import branch_and_prune, linear_regions
from rnn_dynamics.fixed_points.canonical import MODELS, canonical
from rnn_dynamics.fixed_points.intervals import Corner, upper
from rnn_dynamics.fixed_points.results import FixedPoints

__all__ = ["Enumeration", "enumerate"]


class Enumeration(FixedPoints):
    """All fixed points of a network, each proved, in ascending order of their states; and what could not be decided.

    They came from no starts: `status`, `start_residual` and `reached` are empty. A selection of the points remembers
    what its enumeration left undecided.
    """

    radius: Float[np.ndarray, " k"]
    """Within this distance of x, in the largest component, there is a true fixed point: another one for each x."""
    undecided: Float[np.ndarray, "m n 2"]
    """Boxes of states, lower and upper ends: more fixed points may be in them, or none. Elsewhere there are none."""

    @property
    def complete(self) -> bool:
        """Whether it is proved that the network has no other fixed point."""
        return not len(self.undecided)

    def __getitem__(self, index) -> "Enumeration":
        return _with_proof(
            FixedPoints(**_fields(self))[index], self.radius[np.atleast_1d(np.arange(len(self))[index])], self.undecided
        )

    def __repr__(self) -> str:
        proof = "no other" if self.complete else f"others perhaps, in {len(self.undecided)} undecided boxes"
        within = f", each within {self.radius.max():.1e}" if len(self) else ""
        return f"Enumeration({len(self)} points, {int(self.stable.sum())} stable{within}; {proof})"


def enumerate(  # noqa: A001
    network: Callable[..., Float[Array, " n"]], u: PyTree = None, *, max_boxes: int = 200_000
) -> Enumeration:
    r"""Every fixed point of a small network, with proof that there is no other. Runs on the host, in NumPy.

    All models have one form in their pre-activation, $z = W\sigma(z) + c$, and as σ is bounded, all its solutions lie
    in the box $W\sigma(\mathbb{R}) + c$. Boxes are shrunk round the solutions of

    $$ (I - W \operatorname{diag}\alpha)\, z = W \beta + c, \qquad
       \beta_j \in \{\sigma(\zeta) - \alpha_j \zeta : \zeta \in [z_j]\}, $$

    dropped where nothing is left, and settled where Krawczyk's operator contracts: then there is at most one, which
    Newton's method finds and an inclusion proves; all others are halved. With ReLU and the identity each of the 2ⁿ
    linear regions is solved. Rounding is accounted for throughout. What is proved concerns the network whose numbers
    are exactly the floats given, computed without rounding.

    How far it goes, measured on one core with random tanh networks, weights of standard deviation gain/√n and biases
    of 0.1: up to n = 8 and gain 5 at most 2,300 boxes and 0.1 s; n = 10, gain 5: 20,000 boxes, 0.5 s; n = 12, gain 5:
    46,000 boxes, 2 s; n = 14, gain 2: 83,000 boxes, 4 s; of those with n = 16 and gain 2, one in six is not finished
    after 200,000 boxes and 6 s, and there it stops being practical. Six decoupled bistable units, with 729 points, take
    1,500 boxes. Two points nearer than about 1e-7, as they are within 1e-14 of a fold in the parameter, cannot be told
    apart: one small box round them is left undecided.

    Args:
        network: A `PascanuRNN`, `ElmanRNN`, `DoyaNeuron` or `CTRNN` (its equilibria), with a sigmoid, tanh, relu or
            identity.
        u: The input, held constant.
        max_boxes: How many boxes to look at before the rest are left undecided; of regions, how many there may be.

    Returns:
        The points, rounded to the network's dtype; `complete` unless boxes are left `undecided`.

    Raises:
        ValueError: a network of another kind or with another activation, or inside `jit`, `vmap` or `grad`; an input
            that does not fit it or is not finite; max_boxes below 1, or below 2ⁿ for ReLU.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> points = enumerate(DoyaNeuron(w=5.0, b=-2.5))
        >>> print(points.x[:, 0].round(6), points.complete)
        [0.144794 0.5      0.855206] True

    References:
        Krawczyk (1969), Newton-Algorithmen zur Bestimmung von Nullstellen mit Fehlerschranken; Neumaier (1990),
        Interval methods for systems of equations, chapter 5; Rump (2010), Verification methods, Acta Numerica 19.
    """
    max_boxes = _check.count("max_boxes", max_boxes, least=1)
    if not all(map(_check.known, jax.tree.leaves((network, u)))):
        raise ValueError("network and u must be known numbers, as enumerate runs on the host; got traced ones")
    system = canonical(network, u)
    if system is None:
        activation = getattr(network, "activation", None)
        came = type(network).__name__ + (f" with {getattr(activation, 'name', activation)}" if activation else "")
        raise ValueError(f"network must be one of {MODELS}, with sigmoid, tanh, relu or identity; got {came}")
    corner = system.enclosure if isinstance(system.enclosure, Corner) else None
    identity = corner is not None and corner.least_slope == 1
    if corner is not None and not identity and 2 ** len(system.w) > max_boxes:
        raise ValueError(f"max_boxes must be at least 2**{len(system.w)}, the linear regions; got {max_boxes}")
    with np.errstate(all="ignore"):
        found = branch_and_prune(system, max_boxes) if corner is None else linear_regions(system, identity=identity)
        boxes, undecided = found
        lo, hi = system.decode(boxes[:, 0], boxes[:, 1])
        undecided = np.stack(system.decode(undecided[:, 0], undecided[:, 1]), -1)
    return _points(network, u, lo, hi, undecided, system.time)


def _points(network, u, lo, hi, undecided, time):
    """The Enumeration of boxes of states with one fixed point each."""
    grain = 1e-9 * max(1.0, np.abs(lo).max(initial=0))  # coordinates that differ by less are ties
    order = np.lexsort(np.round(lo / grain).T[::-1])
    lo, hi = lo[order], hi[order]
    dtype = jnp.result_type(*jax.tree.leaves(network))
    padded = np.zeros((1 << len(lo).bit_length(), lo.shape[1]))  # few shapes to compile
    padded[: len(lo)] = lo + (hi - lo) / 2
    padded = jnp.asarray(padded, dtype)
    residual, jacobian, multipliers = (each[: len(lo)] for each in _look(network, padded, u, time))
    x = padded[: len(lo)]
    states = np.asarray(x, dtype=np.float64)
    radius = upper(np.maximum(hi - states, states - lo).max(-1))
    kind = results.kinds(np.asarray(multipliers), np.asarray(residual), time)
    starts = np.zeros(0, results.STATUS.dtype), np.zeros(0, np.asarray(residual).dtype), np.zeros(0, int)
    stable, far = np.char.startswith(kind, "stable"), np.zeros(len(x), bool)
    return _with_proof(FixedPoints(x, residual, jacobian, multipliers, stable, kind, far, *starts), radius, undecided)


@jit
def _look(step, xs, u, time):
    residual = jax.vmap(lambda x: results.size(results.defect(step, x, u, time)))(xs)
    jacobian = jax.vmap(lambda x: jacobians.jacobian(step, x, u))(xs)
    return residual, jacobian, stability.multipliers(jacobian, time=time)


def _fields(points):
    return {field.name: getattr(points, field.name) for field in dataclasses.fields(FixedPoints)}


def _with_proof(points, radius, undecided):
    return Enumeration(**_fields(points), radius=radius, undecided=undecided)
