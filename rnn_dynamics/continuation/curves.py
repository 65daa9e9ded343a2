"""Curves of bifurcations in two parameters: folds, flips, Neimark-Sacker and Hopf points, with cusps located.

Row 7 of the layer table: above `codim1`, which computes them. Next: `positions`, how a fold moves with all parameters.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import on_one_blas_thread, top_level
from rnn_dynamics.continuation import codim1
from rnn_dynamics.continuation.branch import STARTS

__all__ = [
    "Curve",
    "CurveEvent",
    "flip_curve",
    "fold_curve",
    "hopf_curve",
    "neimark_sacker_curve",
]

Span = tuple[Float[Array, ""] | float, Float[Array, ""] | float]


class CurveEvent(equinox.Module):
    """A special point of a curve of bifurcations."""

    kind: str | Int[Array, "*e"]
    """"CP": a cusp, on a fold curve, where w'B(v,v) = 0; "GPD": a degenerate flip, on a flip curve, where the cubic
    coefficient is 0 and the 2-cycles change sides. Inside a caller's `jit` or `vmap` its index in `codim1.KINDS`, -1
    where there is none."""
    p: float | Float[Array, "*e"]
    q: float | Float[Array, "*e"]
    x: Float[np.ndarray, " n"] | Float[Array, "*e n"]
    residual: float | Float[Array, "*e"]
    """The largest residual of the defining equations: fixed point, singular matrix, vanishing coefficient, this as a
    share of what it is at the neighbouring points of the curve, or of a flip of what its terms are there."""
    converged: bool | Bool[Array, "*e"]
    """Whether Newton's method solved them; if not, the point is the middle of the bracket that was left."""

    def __repr__(self) -> str:
        if not isinstance(self.kind, str):
            return f"CurveEvent(indices of KINDS, shape {jnp.shape(self.kind)})"
        doubt = "" if self.converged else ", not converged"
        return f"CurveEvent({self.kind} at ({self.p:.12g}, {self.q:.12g}), residual {self.residual:.1e}{doubt})"


class Curve(equinox.Module):
    """A curve of bifurcations, from one of its ends to the other: q first rises from the start to the last row.

    The arrays are NumPy's and have k rows, one a point. Inside a caller's `jit` or `vmap` k is a fixed size, rows
    beyond the curve's end are NaN, and words are indices.
    """

    p: Float[Array, " k"] | Float[np.ndarray, " k"]
    q: Float[Array, " k"] | Float[np.ndarray, " k"]
    x: Float[Array, "k n"] | Float[np.ndarray, "k n"]
    angle: Float[Array, " k"] | Float[np.ndarray, " k"]
    """Of the critical multipliers e^{±iθ}: θ, in radians; of a field's critical rates ±iω: ω, per unit of time."""
    residual: Float[Array, " k"] | Float[np.ndarray, " k"]
    """The largest residual of the defining equations: of the fixed point and of the test function."""
    events: Any
    """A tuple of CurveEvents, in the order of the curve. Inside a caller's `jit` or `vmap` one CurveEvent of arrays."""
    ended: tuple[str, str] | Int[Array, "2"]
    """Why the curve ends at its first and its last point: one of `codim1.ENDS`."""
    start: str | Int[Array, ""]
    """"converged": the start led to a bifurcation at q0; "moved": only to one at another q; "none": to none."""
    start_residual: float | Float[Array, ""]
    """The residual where the search from the start ended."""
    complete: bool | Bool[Array, ""]
    """Whether every change of sign of the coefficient was looked into: False if there were more than max_events."""

    def __len__(self) -> int:
        return len(self.p)

    def __repr__(self) -> str:
        if not isinstance(self.events, tuple):
            return f"Curve({len(self)} rows, padded)"
        if self.start == "none":
            return f"Curve(none found near the start: residual {self.start_residual:.1e})"
        found = ", ".join(f"{e.kind} ({e.p:.6g}, {e.q:.6g})" for e in self.events) or "no special points"
        ends = [f"({self.p[i]:.6g}, {self.q[i]:.6g}) ({self.ended[i]})" for i in (0, -1)]
        return f"Curve({len(self)} points, {ends[0]} to {ends[1]}; {found})"


def fold_curve(
    family: Callable,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    q0: Float[Array, ""] | float,
    *,
    p_span: Span,
    q_span: Span,
    u: PyTree = None,
    time: Literal["discrete", "continuous"] = "discrete",
    max_points: int = 1001,
    max_events: int = 16,
    first_step: float = 0.01,
    max_step: float = 0.1,
    max_angle: float = 0.3,
) -> Curve:
    r"""The curve of folds in two parameters through a start, both ways, and its cusps.

    $$ F_{pq}(x, u) = x, \qquad \det(F_x - I) = 0 $$

    (for a field F = 0, det F_x = 0), the second as the scalar of a bordered system. It is followed by pseudo-arclength,
    through cusps without special care; lengths are measured as in `trace`. A cusp is where the quadratic coefficient
    $\tfrac12 \langle w, B(v,v) \rangle$, v and w the null vectors, changes sign; there it is solved for. Two cusps
    within one step go unseen, and one that lies exactly on an end of a span ends the curve, unseen.

    The start is first corrected at q0 by Newton's method; if that fails, at p0; then with both parameters free.

    Args:
        family: `(p, q) -> map` or `(p, q) -> field`, p and q scalars.
        x0: Near a fold, as an "LP" event of `trace` is.
        p0: Where the fold is.
        q0: Where the fold is.
        p_span: (least, largest) p; the curve is followed to these, exactly.
        q_span: (least, largest) q.
        u: The input, held constant.
        time: "discrete" for maps, "continuous" for fields.
        max_points: The most points of the curve, half of them on each side of the start.
        max_events: The most special points.
        first_step: Length of the first step.
        max_step: The longest step; it may grow a little far from the start.
        max_angle: The most that the tangent may turn in a step, in radians.

    Returns:
        The curve. In a caller's `jit` or `vmap`, padded with NaN.

    Raises:
        ValueError: x0 is not a finite float array (n,), a parameter is not a finite scalar or outside its span, an
            empty span, if only in the state's dtype, an unknown time, a count or step that is not positive, or a map
            that changes the shape.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> family = lambda b, w: DoyaNeuron(w=w, b=b)
        >>> curve = fold_curve(family, jnp.array([0.276]), -2.34, 5.0, p_span=(-4.0, -1.0), q_span=(3.0, 6.0))
        >>> [(event.kind, round(event.p, 9), round(event.q, 9)) for event in curve.events]
        [('CP', -2.0, 4.0)]

    References:
        Govaerts (2000), Numerical methods for bifurcations of dynamical equilibria, chapters 3 and 4; Kuznetsov (2004),
        Elements of applied bifurcation theory, section 10.5.
    """
    _check.option("time", time, ("discrete", "continuous"))
    options = u, max_points, max_events, (first_step, max_step, max_angle)
    return _curve(codim1.Kind("LP", time == "discrete"), family, x0, p0, q0, p_span, q_span, *options)


def flip_curve(
    family: Callable,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    q0: Float[Array, ""] | float,
    *,
    p_span: Span,
    q_span: Span,
    u: PyTree = None,
    max_points: int = 1001,
    max_events: int = 16,
    first_step: float = 0.01,
    max_step: float = 0.1,
    max_angle: float = 0.3,
) -> Curve:
    r"""The curve of flips of a map in two parameters, det(F_x + I) = 0; everything else is as in `fold_curve`.

    A degenerate flip ("GPD") is where the cubic coefficient
    $\tfrac16 \langle w, C(v,v,v) + 3B(v, (I-F_x)^{-1}B(v,v)) \rangle$ changes sign.

    Args:
        family: `(p, q) -> map`.
        x0: Near a flip, as a "PD" event of `trace` is.
        p0: Where the flip is.
        q0: Where the flip is.
        p_span: (least, largest) p.
        q_span: (least, largest) q.
        u: The input, held constant.
        max_points: The most points of the curve.
        max_events: The most special points.
        first_step: Length of the first step.
        max_step: The longest step.
        max_angle: The most that the tangent may turn in a step, in radians.

    Returns:
        The curve.

    Raises:
        ValueError: As `fold_curve`.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> family = lambda b, w: DoyaNeuron(w=w, b=b)
        >>> curve = flip_curve(family, jnp.array([0.5]), 2.1, -4.5, p_span=(0.0, 6.0), q_span=(-6.0, -3.0))
        >>> bool(np.allclose(curve.q * curve.x[:, 0] * (1 - curve.x[:, 0]), -1))  # w x (1 - x) = 1 - 2/ε
        True

    References:
        Kuznetsov (2004), Elements of applied bifurcation theory, sections 9.5 and 10.5.
    """
    options = u, max_points, max_events, (first_step, max_step, max_angle)
    return _curve(codim1.Kind("PD", True), family, x0, p0, q0, p_span, q_span, *options)


def neimark_sacker_curve(
    family: Callable,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    q0: Float[Array, ""] | float,
    *,
    p_span: Span,
    q_span: Span,
    u: PyTree = None,
    max_points: int = 1001,
    first_step: float = 0.01,
    max_step: float = 0.1,
    max_angle: float = 0.3,
) -> Curve:
    r"""The curve of Neimark-Sacker points of a map, F_x with a pair $e^{\pm i\theta}$; all else as in `fold_curve`.

    On the plane of the two multipliers F_x has trace 2 cos θ and determinant 1. The curve ends where θ reaches 0 or π,
    a 1:1 or 1:2 resonance: beyond, the two are real, and the saddle is no bifurcation.

    Args:
        family: `(p, q) -> map`, of at least two units.
        x0: Near a Neimark-Sacker point, as an "NS" event of `trace` is.
        p0: Where it is.
        q0: Where it is.
        p_span: (least, largest) p.
        q_span: (least, largest) q.
        u: The input, held constant.
        max_points: The most points of the curve.
        first_step: Length of the first step.
        max_step: The longest step.
        max_angle: The most that the tangent may turn in a step, in radians.

    Returns:
        The curve; it has no events.

    Raises:
        ValueError: As `fold_curve`, or a single unit.

    Example:
        >>> family = lambda r, s: lambda x, u: jnp.stack([r * x[0] * (1 - s * x[0] - (1 - s) * x[1]), x[0]])
        >>> curve = neimark_sacker_curve(family, jnp.array([0.5, 0.5]), 2.0, 0.0, p_span=(1.0, 4.0), q_span=(-0.1, 0.2))
        >>> bool(np.allclose((curve.p - 1) * (1 - curve.q), 1))  # the determinant there
        True

    References:
        Kuznetsov (2004), Elements of applied bifurcation theory, section 10.5.
    """
    options = u, max_points, 1, (first_step, max_step, max_angle)
    return _curve(codim1.Kind("NS", True), family, x0, p0, q0, p_span, q_span, *options)


def hopf_curve(
    family: Callable,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    q0: Float[Array, ""] | float,
    *,
    p_span: Span,
    q_span: Span,
    u: PyTree = None,
    max_points: int = 1001,
    first_step: float = 0.01,
    max_step: float = 0.1,
    max_angle: float = 0.3,
) -> Curve:
    r"""The curve of Hopf points of a field, f_x with a pair $\pm i\omega$; all else as in `fold_curve`.

    On the plane of the two rates f_x has trace 0 and determinant ω². The curve ends where ω reaches 0.

    Args:
        family: `(p, q) -> field`, of at least two units.
        x0: Near a Hopf point, as an "H" event of `trace` is.
        p0: Where it is.
        q0: Where it is.
        p_span: (least, largest) p.
        q_span: (least, largest) q.
        u: The input, held constant.
        max_points: The most points of the curve.
        first_step: Length of the first step.
        max_step: The longest step.
        max_angle: The most that the tangent may turn in a step, in radians.

    Returns:
        The curve; it has no events.

    Raises:
        ValueError: As `fold_curve`, or a single unit.

    Example:
        >>> family = lambda p, q: lambda x, u: jnp.array([[p - q, -2.0], [2.0, p]]) @ x - x**3
        >>> curve = hopf_curve(family, jnp.zeros(2), 0.1, 0.2, p_span=(-1.0, 1.0), q_span=(-1.0, 1.0))
        >>> bool(np.allclose(2 * curve.p, curve.q))  # the trace vanishes
        True

    References:
        Kuznetsov (2004), Elements of applied bifurcation theory, section 10.5.
    """
    options = u, max_points, 1, (first_step, max_step, max_angle)
    return _curve(codim1.Kind("H", False), family, x0, p0, q0, p_span, q_span, *options)


def _curve(kind, family, x0, p0, q0, p_span, q_span, u, max_points, max_events, lengths):
    x0 = _check.state("x0", x0)
    if kind.complex and len(x0) < 2:
        raise ValueError("x0 must have at least two units to have a complex pair; got shape (1,)")
    p_range, q_range = _range("p", p0, p_span), _range("q", q0, q_span)
    _check.count("max_points", max_points, least=3)
    _check.count("max_events", max_events, least=1)
    names = "first_step", "max_step", "max_angle"
    lengths = [_check.positive(*pair) for pair in zip(names, lengths, strict=True)]
    name = "family(p0, q0)"
    x0 = _check.next_state(_check.member(family, p_range[0], q_range[0], name=name), x0, u, name=name)
    for span, ends in (("p_span", p_range[1:]), ("q_span", q_range[1:])):
        _check.apart(span, *ends, x0.dtype)
    num_each = (max_points - 1) // 2
    arguments = family, x0, _check.numbers([*p_range, *q_range, *lengths]), u, num_each, max_events
    found = on_one_blas_thread(codim1.compute, kind, *arguments)
    return _on_host(kind, found, len(x0)) if top_level() else _traced(kind, found, len(x0))


def _range(name, start, span):
    """(start, least, largest) of a parameter."""
    start = _check.number(f"{name}0", start)
    return start, *_check.span(f"{name}_span", span, (f"{name}0", start))


def _angle(kind, y, size):
    if kind.name in ("LP", "PD"):
        return y[:, 0] * 0 + (np.pi if kind.name == "PD" else 0.0)
    kappa = y[:, size]
    return jnp.arccos(jnp.clip(kappa, -1, 1)) if kind.discrete else jnp.sqrt(jnp.maximum(kappa, 0))


def _traced(kind, found, size):
    place = found.special
    which = jnp.where(jnp.arange(len(place)) < found.num_special, ("LP", "PD", "NS", "H").index(kind.name), -1)
    special = CurveEvent(which, place[:, -2], place[:, -1], place[:, :size], found.special_residual, found.converged)
    y = found.y
    return Curve(
        *(y[:, -2], y[:, -1], y[:, :size], _angle(kind, y, size), found.residual, special),
        *(found.ended, found.start, found.start_residual, found.complete),
    )


def _on_host(kind, found, size):
    found = jax.device_get(found)
    y = found.y[: found.number]
    special = tuple(
        CurveEvent(
            "CP" if kind.name == "LP" else "GPD", float(y[-2]), float(y[-1]), y[:size], float(residual), bool(converged)
        )
        for y, residual, converged in list(zip(found.special, found.special_residual, found.converged, strict=True))[
            : found.num_special
        ]
    )
    return Curve(
        *(y[:, -2], y[:, -1], y[:, :size], np.asarray(_angle(kind, y, size)), found.residual[: found.number]),
        special,
        (codim1.ENDS[found.ended[0]], codim1.ENDS[found.ended[1]]),
        STARTS[found.start],
        float(found.start_residual),
        bool(found.complete),
    )
