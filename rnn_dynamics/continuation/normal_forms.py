"""What happens at a special point: normal-form coefficients, and where the branches that meet there go.

Row 7 of the layer table: above `branch`. Next: `bifurcation`, which switches branches with them.

The multilinear forms B and C of the map's second and third derivatives are nested forward derivatives, so their cost
does not grow with the number of third derivatives. ⟨w, v⟩ is w* v.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from rnn_dynamics import _check, jacobians
from rnn_dynamics._compile import jit
from rnn_dynamics.continuation import crossings, defining, linear
from rnn_dynamics.continuation.branch import Event

__all__ = ["NormalForm", "TwoCycle", "branch_directions", "flip_direction", "normal_form"]

_COEFFICIENTS = ("LP", "PD", "NS", "H")


class NormalForm(equinox.Module):
    """The leading coefficients of the dynamics on the centre manifold of a special point."""

    kind: str
    coefficient: Float[Array, ""]
    r"""LP: a of ξ' = ξ + a ξ² + ...; PD: c of ξ' = -ξ + c ξ³; NS: a of ρ' = ρ + a ρ³; H: the first Lyapunov coefficient
    ℓ₁, of dρ/dt = ω ℓ₁ ρ³. Per unit of the eigenvector `right`."""
    cubic: Float[Array, ""]
    """LP: the coefficient of ξ³, which decides where a vanishes: at a cusp. NaN otherwise."""
    parameter: Float[Array, ""]
    """LP: ⟨w, F_p⟩, how fast the fold is crossed. NaN otherwise."""
    verdict: str
    """"supercritical": what is born is stable on the centre manifold; "subcritical": unstable; "fold"; "degenerate":
    the coefficient is no larger than the errors of its terms and of the event may be, whatever the state's unit;
    "strong resonance": an NS point with e^{ikθ} = 1, k = 3 or 4, to which the coefficient does not apply."""
    right: Inexact[Array, " n"]
    """v, of length 1: the critical eigenvector."""
    left: Inexact[Array, " n"]
    """w, the one of the transpose, with ⟨w, v⟩ = 1."""

    def __repr__(self) -> str:
        return f"NormalForm({self.kind} {self.verdict}, coefficient {float(self.coefficient):.6g})"


class TwoCycle(NamedTuple):
    """The cycle born at a flip: x ± s first + s² second, at p + s² parameter, up to terms in s³."""

    first: Float[Array, " n"]
    second: Float[Array, " n"]
    parameter: Float[Array, ""]


def normal_form(
    family: Callable, event: Event, u: PyTree = None, *, time: Literal["discrete", "continuous"] = "discrete"
) -> NormalForm:
    r"""The normal-form coefficients at a fold, flip, Neimark-Sacker or Hopf point. Runs on the host: it returns words.

    With A the Jacobian, Av = μv, w* A = μ w*, ⟨w, v⟩ = 1 and ‖v‖ = 1:

    - LP: $a = \tfrac12 \langle w, B(v,v) \rangle$;
    - PD: $c = \tfrac16 \langle w, C(v,v,v) \rangle + \tfrac12 \langle w, B(v, (I-A)^{-1} B(v,v)) \rangle$;
    - NS: $a = \tfrac12 \mathrm{Re}\, e^{-i\theta} \langle w, C(v,v,\bar v) + 2B(v, (I-A)^{-1}B(v,\bar v)) +
      B(\bar v, (e^{2i\theta} - A)^{-1} B(v,v)) \rangle$;
    - H: $\ell_1 = \tfrac1{2\omega} \mathrm{Re} \langle w, C(v,v,\bar v) - 2B(v, A^{-1}B(v,\bar v)) +
      B(\bar v, (2i\omega - A)^{-1} B(v,v)) \rangle$.

    A flip is supercritical for c > 0, a Neimark-Sacker or Hopf point for a negative coefficient.

    Args:
        family: As in `trace`.
        event: One of a branch's `events`.
        u: The input, held constant.
        time: "discrete" for maps, "continuous" for fields.

    Returns:
        Coefficients, verdict and eigenvectors.

    Raises:
        ValueError: an event of another kind, or an unknown time.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> from rnn_dynamics.continuation import trace
        >>> flip = trace(Logistic, jnp.array([0.6]), 2.5, p_span=(2.0, 3.5)).events[0]
        >>> normal_form(Logistic, flip)
        NormalForm(PD supercritical, coefficient 9)

    References:
        Kuznetsov (2004), Elements of applied bifurcation theory, sections 5.4 and 8.2.
    """
    _check.on_host("normal_form", event=event, u=u)
    x, p = _checked(family, event, u, time, _COEFFICIENTS)
    compute = _pair if event.kind in ("NS", "H") else _real
    coefficient, cubic, parameter, right, left, error, phase = compute(family, x, p, u, event.kind, time == "discrete")
    value, same = float(coefficient), math.sqrt(defining.tol(x.dtype))
    if event.kind == "NS" and min(abs(float(phase) - 2 * math.pi / k) for k in (3, 4)) < same:
        verdict = "strong resonance"
    elif not abs(value) > float(error):
        verdict = "degenerate"
    elif event.kind == "LP":
        verdict = "fold"
    else:
        verdict = "supercritical" if (value > 0) == (event.kind == "PD") else "subcritical"
    return NormalForm(str(event.kind), coefficient, cubic, parameter, verdict, right, left)


def branch_directions(
    family: Callable, event: Event, u: PyTree = None, *, time: Literal["discrete", "continuous"] = "discrete"
) -> Float[Array, "2 m"]:
    r"""The tangents (dx, dp) of the two branches that cross at a simple branch point.

    In the plane on which [G_x G_p] vanishes, spanned by φ₁ and φ₂, they solve the algebraic bifurcation equation
    $\sum_{ij} \langle \psi, D^2G(\varphi_i, \varphi_j) \rangle \alpha_i \alpha_j = 0$, ψ the left null vector.

    Args:
        family: As in `trace`.
        event: A branch point.
        u: The input, held constant.
        time: "discrete" for maps, "continuous" for fields.

    Returns:
        Two rows of length 1; NaN where the equation has no two real solutions: an isolated point, or a degenerate one.

    Raises:
        ValueError: an event that is not a branch point, or an unknown time.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> from rnn_dynamics.continuation import trace
        >>> exchange = trace(Logistic, jnp.array([0.0]), 0.5, p_span=(0.5, 2.0)).events[0]
        >>> print(branch_directions(Logistic, exchange).round(6) + 0.0)  # x = 0, and x = 1 - 1/r: slope 1 at r = 1
        [[0.707107 0.707107]
         [0.       1.      ]]

    References:
        Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems; Kuznetsov (2004),
        section 10.2.
    """
    x, p = _checked(family, event, u, time, ("BP",))
    return _directions(family, jnp.append(x, p), u, time == "discrete")


def flip_direction(family: Callable, event: Event, u: PyTree = None) -> TwoCycle:
    r"""Where the 2-cycle born at a flip goes: a start from which to continue the second iterate.

    Args:
        family: As in `trace`, of maps.
        event: A flip.
        u: The input, held constant.

    Returns:
        The cycle's two points up to third order in s, for either sign of s; not finite at a degenerate flip.

    Raises:
        ValueError: an event that is not a flip.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> from rnn_dynamics.continuation import trace
        >>> flip = trace(Logistic, jnp.array([0.6]), 2.5, p_span=(2.0, 3.5)).events[0]
        >>> flip_direction(Logistic, flip).parameter.round(9)  # λ = 2 - r, c = 9: r = 3 + 9 s²
        Array(9., dtype=float64)

    References:
        Kuznetsov (2004), section 5.4.
    """
    return _two_cycle(family, *_checked(family, event, u, "discrete", ("PD",)), u)


def _checked(family, event, u, time, kinds):
    """Where the event is, (x, p)."""
    _check.option("time", time, ("discrete", "continuous"))
    _check.instance("event", event, Event)
    _check.option("event.kind", event.kind, kinds)
    x = jnp.asarray(event.x)
    p, name = jnp.asarray(event.p, x.dtype), "family(event.p)"
    return _check.next_state(_check.member(family, p, name=name), x, u, name=name), p


def _form(function, x, vectors):
    """The multilinear form of a function's derivatives, of vectors that may be complex."""
    if not vectors:
        return function(x)
    first, *others = vectors

    def along(direction):
        return _form(lambda x: jax.jvp(function, (x,), (direction,))[1], x, others)

    if not jnp.iscomplexobj(first):
        return along(first)
    return along(first.real) + 1j * along(first.imag)


def _null_vectors(matrix):
    """v of length 1 and w with ⟨w, v⟩ = 1 in the right and left kernel; v's largest component is real and positive."""
    left, right = linear.null_vectors(matrix)
    largest = right[jnp.argmax(jnp.abs(right))]
    right = right * jnp.abs(largest) / largest
    return right, left / jnp.vdot(right, left)


def _error(left, *terms):
    """What ⟨w, the sum of the terms⟩ may be off by: an event, and with it each term, is known to `defining.tol`."""
    return 100 * defining.tol(left.dtype) * (jnp.abs(left) @ sum(map(jnp.abs, terms)))


@jit
def _real(family, x, p, u, kind, discrete):
    multiplier = -1.0 if kind == "PD" else 1.0 * discrete

    def step(x):
        return family(p)(x, u)

    A = jacobians.jacobian(lambda x, u: family(p)(x, u), x, u)
    identity = jnp.eye(len(x), dtype=x.dtype)
    right, left = _null_vectors(A - multiplier * identity)
    quadratic = _form(step, x, [right, right])
    triple = _form(step, x, [right, right, right]) / 6
    nothing = jnp.asarray(jnp.nan, x.dtype)
    if kind == "PD":
        other = _form(step, x, [right, linear.solve(identity - A, quadratic)]) / 2
        return left @ (triple + other), nothing, nothing, right, left, _error(left, triple, other), nothing
    # The bordered system inverts A - μ on the complement of v.
    a = left @ quadratic / 2
    whole = jnp.block([[A - multiplier * identity, right[:, None]], [left[None], jnp.zeros((1, 1), x.dtype)]])
    second = linear.solve(whole, jnp.append(2 * a * right - quadratic, 0.0))[:-1]
    cubic = left @ (triple + _form(step, x, [right, second]) / 2)
    slope = left @ jax.jvp(lambda p: family(p)(x, u), (p,), (jnp.ones_like(p),))[1]
    # Where the multiplier is known to δ, the fold may be ξ away, 3|c|ξ² = δ, if a vanishes there; here it is 3cξ.
    delta = defining.tol(x.dtype) * (1 + jnp.abs(A).max())
    error = _error(left, quadratic / 2) + jnp.sqrt(3 * jnp.abs(cubic) * delta)
    return a, cubic, slope, right, left, error, nothing


@jit
def _pair(family, x, p, u, kind, discrete):
    del kind

    def step(x):
        return family(p)(x, u)

    A = jacobians.jacobian(lambda x, u: family(p)(x, u), x, u)
    identity = jnp.eye(len(x), dtype=x.dtype)
    values = jnp.linalg.eigvals(A)
    off = jnp.abs(crossings.excess(values, discrete))
    critical = values[jnp.argmin(jnp.where(values.imag > 0, off, jnp.inf))]
    phase = jnp.angle(critical) if discrete else critical.imag
    multiplier = jnp.exp(1j * phase) if discrete else 1j * phase
    right, left = _null_vectors(A - multiplier * identity)
    square, mixed = _form(step, x, [right, right]), _form(step, x, [right, right.conj()])
    still = identity - A if discrete else -A
    double = multiplier**2 if discrete else 2 * multiplier
    terms = (
        _form(step, x, [right, right, right.conj()]),
        2 * _form(step, x, [right, linear.solve(still.astype(mixed.dtype), mixed)]),
        _form(step, x, [right.conj(), linear.solve(double * identity - A, square)]),
    )
    turned, unit = (multiplier.conj(), 2) if discrete else (1, 2 * phase)
    coefficient = (jnp.vdot(left, sum(terms)) * turned).real / unit
    nothing = jnp.asarray(jnp.nan, x.dtype)
    return coefficient, nothing, nothing, right, left, _error(left, *terms) / unit, phase


@jit
def _directions(family, y, u, discrete):
    def residual(y):
        value = family(y[-1])(y[:-1], u)
        return value - y[:-1] if discrete else value

    left, _, right = jnp.linalg.svd(linear.derivative(residual, y)[1])
    psi, plane = left[:, -1], right[-2:]
    entries = [[psi @ _form(residual, y, [a, b]) for b in plane] for a in plane]
    values, vectors = jnp.linalg.eigh(jnp.array(entries))  # ascending: two real directions if they differ in sign
    down, up = jnp.sqrt(-values[0]) * vectors[:, 1], jnp.sqrt(values[1]) * vectors[:, 0]
    tangents = jnp.stack([down + up, down - up]) @ plane
    tangents = tangents / jnp.linalg.norm(tangents, axis=1, keepdims=True)
    # Which comes first must not depend on the null space's basis: the one that moves the state more, p rising.
    rising = jnp.where(jnp.abs(tangents[:, -1]) > 1e-12, tangents[:, -1], tangents[:, 0])
    tangents = tangents * jnp.where(rising < 0, -1, 1)[:, None]
    return tangents[jnp.argsort(tangents[:, -1])]


@jit
def _two_cycle(family, x, p, u):
    c, _, _, right, left, _, _ = _real(family, x, p, u, "PD", True)
    one = jnp.ones_like(p)

    def slope(function):
        return jax.jvp(function, (p,), (one,))[1]

    A = jacobians.jacobian(lambda x, u: family(p)(x, u), x, u)
    still = jnp.eye(len(x), dtype=x.dtype) - A
    moves = linear.solve(still, slope(lambda p: family(p)(x, u)))  # dx/dp of the fixed point
    twist = slope(lambda p: jax.jvp(lambda x: family(p)(x, u), (x,), (right,))[1])
    growth = left @ (twist + _form(lambda x: family(p)(x, u), x, [right, moves]))  # dλ/dp
    parameter = -c / growth
    second = linear.solve(still, _form(lambda x: family(p)(x, u), x, [right, right]) / 2) + parameter * moves
    return TwoCycle(right, second, parameter)
