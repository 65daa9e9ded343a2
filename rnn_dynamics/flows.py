"""Solutions of fields dx/dt = f(x, u), and the map that Euler's method makes of one.

Row 3 of the layer table: above `models`; the only importer of diffrax.
"""

from collections.abc import Callable
from typing import Literal

import diffrax
import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["Euler", "euler", "integrate", "push", "turn"]

_MAX_STEPS = 1_000_000
"""Of the solver between two times; a solution that needs more is reported as infinite."""


def integrate(
    field: Callable,
    x0: Float[Array, " n"],
    times: Float[Array, " S"],
    *,
    inputs: PyTree = None,
    rtol: Float[Array, ""] | float = 1e-9,
    atol: Float[Array, ""] | float = 1e-12,
    mode: Literal["reverse", "forward"] = "reverse",
) -> Float[Array, "S n"]:
    r"""The solution of $\dot x = f(x, u)$ at given times, by an adaptive Runge-Kutta method of order 8.

    Args:
        field: f, `(x, u) -> dx/dt`.
        x0: State at `times[0]`.
        times: When to report the state; strictly increasing, at least one.
        inputs: A pytree of arrays with a leading axis of length `len(times) - 1`; `inputs[k]` is held from `times[k]`
            to `times[k+1]`. None for an autonomous field, which then receives `u = None`.
        rtol: Relative error allowed per step. Below 4 machine epsilons (in float32 4.8e-7) there is only rounding: a
            smaller one is raised to that.
        atol: Absolute error allowed per step, in the units of the state. Below 0.004 machine epsilons of the largest
            entry it is raised to that: entries near 0 hold the rounding of the others.
        mode: Which derivatives the solution has: "reverse" (`jax.grad`, `jax.jacrev`) or "forward" (`jax.jvp`,
            `jax.jacfwd`), which a map made of it needs for whatever linearises maps:
            `lambda x, u: integrate(field, x, jnp.array([0.0, period]), mode="forward")[-1]`.

    Returns:
        The state at each time. From the time on at which the solution blows up, the field is no longer a number, the
        solver would need more than a million steps to the next time or one shorter than 16 epsilons of the way there
        (as where the field jumps back and forth), every entry is infinite.

    Raises:
        ValueError: x0 is not a finite float array (n,), times are not increasing, inputs have another length, a
            tolerance is not a positive finite number, an unknown mode or one without the derivatives that are taken, or
            the field changes the shape of the state.

    Example:
        >>> integrate(lambda x, u: -x, jnp.array([1.0]), jnp.array([0.0, 1.0])).round(9)
        Array([[1.        ],
               [0.36787944]], dtype=float64)

    References:
        Prince and Dormand (1981), High order embedded Runge-Kutta formulae; Kidger (2021), diffrax.
    """
    x0 = _check.state("x0", x0)
    times = _check.floats("times", times, "S")
    _check.within("times", times, "be strictly increasing and at least one", lambda t: len(t) > 0 and np.diff(t) > 0)
    rtol, atol = _check.positive("rtol", rtol), _check.positive("atol", atol)
    _check.option("mode", mode, ("reverse", "forward"))
    _check.inputs(inputs, len(times) - 1)
    try:
        return _integrate(field, x0, times, inputs, rtol, atol, mode)
    except TypeError as error:
        if mode == "reverse" and "forward-mode autodiff (jvp)" in str(error):
            needs = "where the solution is differentiated by jax.jvp or jax.jacfwd, as whatever linearises a map does"
            raise ValueError(f"mode must be 'forward' {needs}; got 'reverse'") from error
        raise


class Euler(equinox.Module):
    """The map x' = x + dt f(x, u) of a field f.

    Args:
        field: f, `(x, u) -> dx/dt`.
        dt: The time step.

    Raises:
        ValueError: dt is not a positive finite number.

    Example:
        >>> Euler(lambda x, u: -x, 0.5)(jnp.array([1.0]))
        Array([0.5], dtype=float64)
    """

    field: Callable
    dt: Float[Array, ""]

    def __init__(self, field: Callable, dt):
        self.field = field
        self.dt = _check.positive("dt", dt)

    def __call__(self, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, " n"]:
        """The next state."""
        return x + self.dt * self.field(x, u)


def euler(field: Callable, dt: Float[Array, ""] | float) -> Euler:
    r"""The map that Euler's method makes of a field: every tool for maps then applies to it.

    $$ x_{t+1} = x_t + \Delta t\, f(x_t, u_t) $$

    Doya's neuron is the Euler map of its own velocity, with Δt = ε.

    Args:
        field: f, `(x, u) -> dx/dt`.
        dt: Δt, positive.

    Returns:
        A map; a pytree if the field is one.

    Raises:
        ValueError: dt is not a positive finite number.

    Example:
        >>> euler(lambda x, u: -x, 0.1)(jnp.array([1.0]))
        Array([0.9], dtype=float64)
    """
    return Euler(field, dt)


def push(
    field: Callable,
    x: Float[Array, " n"],
    tangents: Float[Array, "n k"],
    duration: Float[Array, ""] | float,
    u: PyTree = None,
    *,
    rtol: Float[Array, ""] | float = 1e-9,
    atol: Float[Array, ""] | float = 1e-12,
) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    r"""The solution of a field after some time together with what it does to perturbations.

    $$ \dot x = f(x, u), \qquad \dot V = \partial_x f(x, u)\, V $$

    Args:
        field: f, `(x, u) -> dx/dt`.
        x: The state.
        tangents: The matrix V: k perturbations of the state, one a column.
        duration: How long, positive.
        u: The input, held constant.
        rtol: Relative error allowed per step, for state and perturbations together.
        atol: Absolute error allowed per step; of a perturbation, in units of its largest entry at the start.

    Returns:
        The state then, and the perturbations of it to first order; infinite where `integrate` is. Derivatives of
        them are taken in reverse mode.

    Raises:
        ValueError: x is not a finite float array (n,), tangents are not a finite float array (n, k), a duration or
            tolerance is not positive, or the field changes the shape of the state.

    Example:
        >>> push(lambda x, u: -x, jnp.array([1.0]), jnp.array([[2.0]]), 1.0)[1].round(9)
        Array([[0.73575888]], dtype=float64)
    """
    x = _check.state("x", x)
    tangents = _check.floats("tangents", tangents, len(x), "k")
    duration = _check.positive("duration", duration)
    return _push(field, x, tangents, duration, u, _check.positive("rtol", rtol), _check.positive("atol", atol))


def turn(
    field: Callable,
    x: Float[Array, " n"],
    frame: Float[Array, "n k"],
    duration: Float[Array, ""] | float,
    u: PyTree = None,
    *,
    rtol: Float[Array, ""] | float = 1e-9,
    atol: Float[Array, ""] | float = 1e-12,
) -> tuple[Float[Array, " n"], Float[Array, "n k"], Float[Array, " k"]]:
    r"""`push` of an orthonormal frame, as the factors Q and ln r_ii of its QR: nothing shrinks out of sight.

    $$ \dot Q = \partial_x f\, Q - Q U, \qquad \tfrac{d}{dt} \ln r_{ii} = u_{ii}, $$

    with U the upper triangle that keeps the columns of Q orthonormal.

    Args:
        field: f, `(x, u) -> dx/dt`.
        x: The state.
        frame: k orthonormal columns.
        duration: How long, positive.
        u: The input, held constant.
        rtol: Relative error allowed per step: of the state, of the frame, of each r_ii.
        atol: Absolute error allowed per step, of the state.

    Returns:
        The state then, Q (orthonormal up to the solver's error) and ln r_ii; infinite where `integrate` is.
        Derivatives of them are taken in reverse mode.

    Raises:
        ValueError: as `push`.

    Example:
        >>> turn(lambda x, u: -jnp.array([1.0, 900.0]) * x, jnp.ones(2), jnp.eye(2), 1.0)[2].round(6)
        Array([  -1., -900.], dtype=float64)

    References:
        Dieci, Russell, Van Vleck (1997), On the computation of Lyapunov exponents for continuous dynamical systems.
    """
    x = _check.state("x", x)
    frame = _check.floats("frame", frame, len(x), "k")
    duration = _check.positive("duration", duration)
    return _turn(field, x, frame, duration, u, _check.positive("rtol", rtol), _check.positive("atol", atol))


@jit
def _integrate(field, x0, times, inputs, rtol, atol, mode):
    x0 = _check.first_state(field, x0, inputs, name="field")

    def advance(x, interval):
        duration, u = interval
        x = _solve(field, x, duration, u, rtol, atol, mode)
        return x, x

    # One solve from each time to the next: a solution read off between the solver's own steps is an interpolation,
    # hundreds of times less accurate.
    _, xs = jax.lax.scan(advance, x0, (jnp.diff(times).astype(x0.dtype), inputs))
    return jnp.concatenate([x0[None], xs])


@jit
def _push(field, x, tangents, duration, u, rtol, atol):
    x = _check.next_state(field, x, u, name="field")

    def together(rows, u):
        velocity, differential = jax.linearize(lambda x: field(x, u), rows[0])
        return jnp.concatenate([velocity[None], jax.vmap(differential)(rows[1:])])

    columns = tangents.T.astype(x.dtype)
    size = jnp.abs(columns).max(axis=1, keepdims=True)
    size = jax.lax.stop_gradient(jnp.where(size > 0, size, 1))  # the equation is linear: a perturbation has no unit
    rows = jnp.concatenate([x[None], columns / size])
    rows = _solve(together, rows, duration.astype(x.dtype), u, rtol, atol)
    return rows[0], (rows[1:] * size).T


@jit
def _turn(field, x, frame, duration, u, rtol, atol):
    x = _check.next_state(field, x, u, name="field")
    n, k = frame.shape
    rest = jnp.zeros(n - k, x.dtype)

    def together(rows, u):
        q = rows[1:-1].T
        velocity, differential = jax.linearize(lambda x: field(x, u), rows[0])
        pushed = jax.vmap(differential, in_axes=1, out_axes=1)(q)
        b = q.T @ pushed
        below = jnp.tril(b, -1)
        # 2 - QᵀQ stands for (QᵀQ)⁻¹: then the distance of Q from the orthonormal frames does not grow by itself.
        turned = pushed + q @ (below - below.T - 2 * b + (q.T @ q) @ b)
        return jnp.concatenate([velocity[None], turned.T, jnp.append(jnp.diagonal(b), rest)[None]])

    rows = jnp.concatenate([x[None], frame.T.astype(x.dtype), jnp.zeros((1, n), x.dtype)])
    rtol = jnp.maximum(rtol, _least(x.dtype))
    atol = jnp.where(jnp.arange(k + 2) == 0, atol, rtol)[:, None]  # columns have length 1, and logarithms no unit
    rows = _solve(together, rows, duration.astype(x.dtype), u, rtol, atol)
    return rows[0], rows[1:-1].T, rows[-1, :k]


def _least(dtype):
    return 4 * jnp.finfo(dtype).eps


class _Controller(diffrax.PIDController):
    """Asks for no more than rounding leaves: steps would shrink until none is left."""

    atol: Array  # may differ from row to row  # pyright: ignore[reportIncompatibleVariableOverride]

    def adapt_step_size(self, t0, t1, y0, y1_candidate, *rest):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The errors allowed are those of a state with nothing far below the largest entry of its row."""
        share = 1e-3 * _least(y0.dtype) / self.rtol
        y0, y1 = (jnp.maximum(jnp.abs(y), share * jnp.abs(y).max(axis=-1, keepdims=True)) for y in (y0, y1_candidate))
        return super().adapt_step_size(t0, t1, y0, y1, *rest)


def _solve(field, x, duration, u, rtol, atol, mode="reverse"):
    duration = jnp.where(jnp.isfinite(x).all(), duration, 0)  # nothing is left to solve after a blow-up
    controller = _Controller(
        rtol=jnp.maximum(rtol, _least(x.dtype)).astype(x.dtype),
        atol=atol.astype(x.dtype),
        dtmin=16 * jnp.finfo(x.dtype).eps * duration,  # shortening still shorter steps no longer moves their ends
        force_dtmin=False,
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, u: field(x, u)),  # noqa: ARG005
        diffrax.Dopri8(),
        t0=jnp.zeros_like(duration),
        t1=duration,
        dt0=None,
        y0=x,
        args=u,
        stepsize_controller=controller,
        max_steps=_MAX_STEPS,
        adjoint=diffrax.ForwardMode() if mode == "forward" else diffrax.RecursiveCheckpointAdjoint(),
        throw=False,
    )
    ends = solution.ys[0]  # pyright: ignore[reportOptionalSubscript]
    return _reached(ends, solution.result == diffrax.RESULTS.successful)


@jax.custom_jvp
def _reached(ends, successful):
    """Where a solution ends; infinite, and without a derivative, where it was not reached."""
    return jnp.where(successful, ends, jnp.inf)


@_reached.defjvp
def _(primals, tangents):
    # As a factor, for reverse mode would drop a `where`.
    return _reached(*primals), jnp.where(primals[1], 1, jnp.nan).astype(tangents[0].dtype) * tangents[0]
