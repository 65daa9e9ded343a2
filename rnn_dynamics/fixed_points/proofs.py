"""Proof that there is a true fixed point near a computed one.

Row 6 of the layer table: above `canonical` and `rigorous`. Next: `enumeration`, for all fixed points at once.
"""

from collections.abc import Callable
from typing import Literal

import equinox
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics.fixed_points import rigorous
from rnn_dynamics.fixed_points.canonical import Canonical, canonical, inclusion
from rnn_dynamics.fixed_points.intervals import EPS, upper
from rnn_dynamics.fixed_points.results import defect

__all__ = ["Certificate", "certify"]

_NO_BOX = "no box round x is taken into itself"
_INFLATIONS = 6
_PRECISION = 128
"""Bits that Arb works with: rounding is then nothing beside the width of the box."""


class Certificate(equinox.Module):
    """Whether a fixed point is proved, and how near it is."""

    radius: float
    """There is a true fixed point within this distance of x, in the largest component; infinite if none is proved."""
    status: str
    """"certified" or "not certified"."""
    reason: str
    """Why not; empty if it is."""

    def __repr__(self) -> str:
        said = f"radius {self.radius:.1e}" if self.status == "certified" else self.reason
        return f"Certificate({self.status}: {said})"


def certify(
    step: Callable,
    x: Float[Array, " n"],
    u: PyTree = None,
    *,
    time: Literal["discrete", "continuous"] = "discrete",
) -> Certificate:
    r"""Proves that there is a true fixed point near x, or says that it cannot. Runs on the host.

    With C an approximate inverse of the derivative G' of G(x) = F(x, u) - x (in continuous time G = f),

    $$ |C\,G(x)| + A\rho < \rho, \qquad A \ge |I - C\,G'| \text{ on the box } x \pm \rho, $$

    proves that $x - C\,G(x)$ takes the box into itself and contracts it: there is exactly one fixed point in it. (The
    componentwise form of Newton and Kantorovich's theorem, and of Krawczyk's test.) Every rounding is accounted for: a
    `PascanuRNN`, `ElmanRNN`, `DoyaNeuron` or `CTRNN` with one of the package's activations is enclosed in NumPy, by
    bounds on σ and σ′; any other map operation by operation in Arb's intervals (python-flint).

    What is proved concerns the map whose numbers are exactly the floats given, in real arithmetic, and not the rounded
    map; a float32 state is certified like any other. For all that a search found: `[certify(step, x) for x in
    points.x]`. At a bifurcation nothing can be certified; nor, other than for ReLU networks, next to a corner.

    Args:
        step: The map F, `(x, u) -> x`, or the field f.
        x: The state near which a fixed point should be.
        u: The input, held constant.
        time: "discrete" for a map, "continuous" for a field.

    Returns:
        The radius that is proved, "certified" or "not certified", and why not.

    Raises:
        ValueError: x is not a finite float array (n,), an unknown time, a step that changes the state's shape, or
            traced arguments.
        ImportError: the map is none of those models, and python-flint (the extra `certify`) is missing.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> certify(DoyaNeuron(w=5.0, b=-2.5), jnp.array([0.5])).status
        'certified'
        >>> certify(DoyaNeuron(w=5.0, b=-2.5), jnp.array([0.7]))
        Certificate(not certified: no box round x is taken into itself)

    References:
        Kantorovich (1948); Krawczyk (1969); Rump (2010), Verification methods, Acta Numerica 19, section 13; Johansson
        (2017), Arb, IEEE Trans. Computers 66.
    """
    _check.on_host("certify", step=step, x=x, u=u)
    x = _check.state("x", x)
    _check.option("time", time, ("discrete", "continuous"))
    x = _check.next_state(step, x, u)
    system = canonical(step, u)
    with np.errstate(all="ignore"):
        if system is not None and system.time == time:
            return _of_network(system, np.asarray(x, dtype=np.float64))
        if rigorous.flint is None:
            raise ImportError("certify of a map that is none of the models needs python-flint: rnn_dynamics[certify]")
        return _of_map(lambda x: defect(step, x, u, time), x)


def _certified(radius):
    return Certificate(float(radius), "certified", "")


def _not_certified(reason):
    return Certificate(float("inf"), "not certified", reason)


def _of_network(system: Canonical, x: np.ndarray) -> Certificate:
    """In the pre-activation, and from there back to the state."""
    lo, hi, proved = inclusion(system, system.encode(x))
    if not proved:
        return _not_certified(_NO_BOX)
    lo, hi = system.decode(lo, hi)
    return _certified(upper(np.maximum(hi - x, x - lo)).max())


def _of_map(function: Callable, x: Array) -> Certificate:
    """In Arb's intervals. The box is inflated until it is taken into itself (Rump 2010, section 13)."""
    arb, mat = rigorous.flint.arb, rigorous.flint.arb_mat
    trace = jax.make_jaxpr(function)(x)
    point, n = [float(entry) for entry in x], len(x)
    with rigorous.flint.ctx.workprec(_PRECISION):
        try:
            value, jacobian = rigorous.value_and_jacobian(trace, [arb(entry) for entry in point])
            inverse = np.linalg.inv(np.reshape([float(entry.mid()) for entry in jacobian.entries()], (n, n)))
            c = mat(n, n, [float(entry) for entry in inverse.flat])
            step = [abs(entry) for entry in (c * value).entries()]
            rho = [
                max(2 * float(entry.upper()), EPS * abs(centre), 1e-300)
                for entry, centre in zip(step, point, strict=True)
            ]
            for _ in range(_INFLATIONS):
                box = [arb(centre, radius) for centre, radius in zip(point, rho, strict=True)]
                _, jacobian = rigorous.value_and_jacobian(trace, box)
                spread = mat(n, n, [abs(entry).upper() for entry in (mat(n, n, 1) - c * jacobian).entries()])
                moved = [a + b for a, b in zip(step, (spread * mat(n, 1, rho)).entries(), strict=True)]
                if all(entry < radius for entry, radius in zip(moved, rho, strict=True)):
                    return _certified(upper(np.array([float(entry.upper()) for entry in moved])).max())
                rho = [1.2 * float(entry.upper()) + 0.1 * radius for entry, radius in zip(moved, rho, strict=True)]
                if not np.isfinite(rho).all():
                    break
        except np.linalg.LinAlgError:
            return _not_certified("the derivative at x is singular")
        except rigorous.CannotEvaluate as error:
            return _not_certified(str(error))
    return _not_certified(_NO_BOX)
