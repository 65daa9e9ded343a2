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
from rnn_dynamics.fixed_points.branching import branch_and_prune, linear_regions, prime_cycles
from rnn_dynamics.fixed_points.canonical import MODELS, canonical
from rnn_dynamics.fixed_points.intervals import Corner, upper
from rnn_dynamics.fixed_points.results import FixedPoints

__all__ = ["Enumeration", "enumerate"]


class Enumeration(FixedPoints):
    """All fixed points or cycles of a network, each proved, in ascending order; and what could not be decided.

    They came from no starts: `status`, `start_residual` and `reached` are empty. A selection of the points remembers
    what its enumeration left undecided. Of cycles, `x` is the first state, the one with the largest first component;
    `residual` is the largest over the whole cycle, `jacobian` that of the iterate, at `x`.
    """

    points: Float[Array, "k p n"]
    """All states of each cycle, in the order in which the map runs through them; of a fixed point, it alone."""
    radius: Float[np.ndarray, " k"]
    """Within this distance, in the largest component, there are true states: another fixed point for each."""
    undecided: Float[np.ndarray, "m p n 2"]
    """Boxes of states, lower and upper ends: more points may be in them, or none. Elsewhere there are none."""

    @property
    def complete(self) -> bool:
        """Whether it is proved that the network has no others."""
        return not len(self.undecided)

    def __getitem__(self, index) -> "Enumeration":
        chosen = np.atleast_1d(np.arange(len(self))[index])
        points = FixedPoints(**_fields(self))[chosen]
        return _with_proof(points, self.points[chosen], self.radius[chosen], self.undecided)

    def __repr__(self) -> str:
        proof = "no other" if self.complete else f"others perhaps, in {len(self.undecided)} undecided boxes"
        within = f", each within {self.radius.max():.1e}" if len(self) else ""
        kind = "points" if self.points.shape[1] == 1 else f"cycles of period {self.points.shape[1]}"
        return f"Enumeration({len(self)} {kind}, {int(self.stable.sum())} stable{within}; {proof})"


def enumerate(  # noqa: A001
    network: Callable[..., Float[Array, " n"]], u: PyTree = None, *, period: int = 1, max_boxes: int = 200_000
) -> Enumeration:
    r"""Every fixed point of a small network, with proof that there is no other. Runs on the host, in NumPy.

    All models have one form in their pre-activation, $z = W\sigma(z) + c$, and as σ is bounded, all its solutions lie
    in the box $W\sigma(\mathbb{R}) + c$. Boxes are shrunk round the solutions of

    $$ (I - W \operatorname{diag}\alpha)\, z = W \beta + c, \qquad
       \beta_j \in \{\sigma(\zeta) - \alpha_j \zeta : \zeta \in [z_j]\}, $$

    dropped where nothing is left, and settled where Krawczyk's operator contracts: then there is at most one, which
    Newton's method finds and an inclusion proves; all others are halved. With ReLU and the identity each of the 2ⁿ
    linear regions is solved. Cycles are sought as the fixed points of a network of p n units, and each is there once.
    Rounding is accounted for throughout. What is proved concerns the network whose numbers are exactly the floats
    given, computed without rounding.

    How far it goes, measured on one core with random tanh networks, weights of standard deviation gain/√n and biases
    of 0.1: up to n = 8 and gain 5 at most 2,300 boxes and 0.1 s; n = 10, gain 5: 20,000 boxes, 0.5 s; n = 12, gain 5:
    46,000 boxes, 2 s; n = 14, gain 2: 83,000 boxes, 4 s; of those with n = 16 and gain 2, one in six is not finished
    after 200,000 boxes and 6 s, and there it stops being practical. Six decoupled bistable units, with 729 points, take
    1,500 boxes. Two points nearer than about 1e-7, as they are within 1e-14 of a fold in the parameter, cannot be told
    apart: one small box round them is left undecided. Of Pasemann's chaotic module, all cycles of each period up to 12
    (eleven have that one) take 1.3 s or less.

    Args:
        network: A `PascanuRNN`, `ElmanRNN`, `DoyaNeuron` or `CTRNN` (its equilibria), with a sigmoid, tanh, relu or
            identity.
        u: The input, held constant.
        period: p, the prime period of the cycles sought; 1 for fixed points.
        max_boxes: How many boxes to look at before the rest are left undecided; of regions, how many there may be.

    Returns:
        The points, rounded to the network's dtype; `complete` unless boxes are left `undecided`.

    Raises:
        ValueError: a network of another kind or with another activation, or inside `jit`, `vmap` or `grad`; an input
            that does not fit it or is not finite; a period below 1, or above for a `CTRNN`; max_boxes below 1, or
            below 2ⁿ for ReLU (n p for cycles).

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
    period = _check.count("period", period, least=1)
    _check.on_host("enumerate", network=network, u=u)
    system = canonical(network, u)
    if system is None:
        activation = getattr(network, "activation", None)
        came = type(network).__name__ + (f" with {getattr(activation, 'name', activation)}" if activation else "")
        raise ValueError(f"network must be one of {MODELS}, with sigmoid, tanh, relu or identity; got {came}")
    if not system.c.mid.size:
        raise ValueError("network must have at least one unit; got none")
    if system.time == "continuous" and period > 1:
        raise ValueError(f"period must be 1 for a field, whose cycles have no steps; got {period}")
    system = system.lifted(period)
    corner = system.enclosure if isinstance(system.enclosure, Corner) else None
    identity = corner is not None and corner.least_slope == 1
    if corner is not None and not identity and 2 ** len(system.c.mid) > max_boxes:
        raise ValueError(f"max_boxes must be at least 2**{len(system.c.mid)}, the linear regions; got {max_boxes}")
    with np.errstate(all="ignore"):
        found = branch_and_prune(system, max_boxes) if corner is None else linear_regions(system, identity=identity)
        boxes, undecided = found
        if period > 1:
            boxes, unclear = prime_cycles(system, boxes, period)
            undecided = np.concatenate([undecided, unclear])
        shape = (-1, period, system.c.mid.size // period)
        lo, hi = (end.reshape(shape) for end in system.decode(boxes[:, 0], boxes[:, 1]))
        undecided = np.stack([end.reshape(shape) for end in system.decode(undecided[:, 0], undecided[:, 1])], -1)
    return _points(network, u, lo, hi, undecided, system.time)


def _points(network, u, lo, hi, undecided, time):
    """The Enumeration of boxes of states (k, p, n), with one cycle each."""
    _, period, n = lo.shape
    turn = (lo[..., 0].argmax(1)[:, None] + np.arange(period)) % period
    lo, hi = (np.take_along_axis(end, turn[..., None], 1) for end in (lo, hi))
    grain = 1e-9 * max(1.0, np.abs(lo).max(initial=0))  # coordinates that differ by less are ties
    order = np.lexsort(np.round(lo / grain).reshape(-1, period * n).T[::-1])
    lo, hi = lo[order], hi[order]
    dtype = jnp.result_type(*jax.tree.leaves(network))
    padded = np.zeros((1 << len(lo).bit_length(), *lo.shape[1:]), dtype)  # few shapes to compile
    padded[: len(lo)] = lo + (hi - lo) / 2
    looked = _look(network, padded, u, time)
    cycles, residual, jacobian, multipliers = (np.asarray(each)[: len(lo)] for each in (padded, *looked))
    states = cycles.astype(np.float64)
    radius = upper(np.maximum(hi - states, states - lo).max((1, 2)))
    astray = np.resize(cycles + radius[:, None, None].astype(dtype), padded.shape)
    kind = results.kinds(multipliers, jacobian, np.asarray(_look(network, astray, u, time)[1])[: len(lo)], time, period)
    stable, far = np.char.startswith(kind, "stable"), np.zeros(len(cycles), bool)
    starts = np.zeros(0, results.STATUS.dtype), np.zeros(0, residual.dtype), np.zeros(0, int)
    cycles, residual, jacobian, multipliers = jax.device_put((cycles, residual, jacobian, multipliers))
    points = FixedPoints(cycles[:, 0], residual, jacobian, multipliers, stable, kind, far, *starts)
    return _with_proof(points, cycles, radius, undecided)


@jit
def _look(step, cycles, u, time):
    image = jax.vmap(jax.vmap(lambda x: step(x, u)))(cycles)
    defect = image - jnp.roll(cycles, -1, axis=1) if time == "discrete" else image
    jacobian, *later = jnp.moveaxis(jax.vmap(jax.vmap(lambda x: jacobians.jacobian(step, x, u)))(cycles), 1, 0)
    for each in later:
        jacobian = each @ jacobian
    return jax.vmap(results.size)(defect), jacobian, stability.multipliers(jacobian, time=time)


def _fields(points):
    return {field.name: getattr(points, field.name) for field in dataclasses.fields(FixedPoints)}


def _with_proof(points, cycles, radius, undecided):
    return Enumeration(**_fields(points), points=cycles, radius=radius, undecided=undecided)
