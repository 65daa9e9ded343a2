"""Solutions of fields dx/dt = f(x, u), and the map that Euler's method makes of one.

Row 3 of the layer table: above `models`; the only importer of diffrax.
"""

from collections.abc import Callable

import diffrax
import equinox
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["Euler", "euler", "integrate"]

_MAX_STEPS = 1_000_000
"""Of the solver, in all without inputs, between two times with; a solution that needs more is reported as infinite."""


def integrate(
    field: Callable,
    x0: Float[Array, " n"],
    times: Float[Array, " S"],
    *,
    inputs: PyTree = None,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> Float[Array, "S n"]:
    r"""The solution of $\dot x = f(x, u)$ at given times, by an adaptive Runge-Kutta method of order 8.

    Args:
        field: f, `(x, u) -> dx/dt`.
        x0: State at `times[0]`.
        times: When to report the state; strictly increasing, at least one.
        inputs: A pytree of arrays with a leading axis of length `len(times) - 1`; `inputs[k]` is held from `times[k]`
            to `times[k+1]`. None for an autonomous field, which then receives `u = None`.
        rtol: Relative error allowed per step. Below 4 machine epsilons (in float32 4.8e-7) there is only rounding: a
            smaller one is raised to that, and `atol` in proportion.
        atol: Absolute error allowed per step, in the units of the state.

    Returns:
        The state at each time. From the time on at which the solution blows up, the field is no longer a number, or
        the solver would need more than a million steps, every entry is infinite. Differentiable in reverse mode
        (`jax.grad`, `jax.jacrev`); for a derivative forward in time, integrate it beside the state.

    Raises:
        ValueError: x0 is not a finite float array (n,), times are not increasing, inputs have another length, a
            tolerance is not a positive finite number, or the field changes the shape of the state.

    Example:
        >>> integrate(lambda x, u: -x, jnp.array([1.0]), jnp.array([0.0, 1.0])).round(9)
        Array([[1.        ],
               [0.36787944]], dtype=float64)

    References:
        Prince and Dormand (1981), High order embedded Runge-Kutta formulae; Kidger (2021), diffrax.
    """
    x0 = _check.state("x0", x0)
    times = _check.floats("times", times, "S")
    if len(times) == 0 or (_check.known(times) and not bool((jnp.diff(times) > 0).all())):
        raise ValueError(f"times must be strictly increasing and at least one; got {times}")
    rtol, atol = _positive("rtol", rtol), _positive("atol", atol)
    _check.inputs(inputs, len(times) - 1)
    return _integrate(field, x0, times, inputs, rtol, atol)


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
        self.dt = _positive("dt", dt)

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


def _positive(name, value):
    value = _check.number(name, value)
    if _check.known(value) and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}")
    return value


def _size(error):
    """Root mean square; NaN, where a stage has left the floats, counts as infinite: the step is refused and shortened."""
    size = jnp.sqrt(jnp.mean(jax.lax.stop_gradient(error) ** 2))
    return jnp.where(jnp.isnan(size), jnp.inf, size)


@jit
def _integrate(field, x0, times, inputs, rtol, atol):
    x0 = _check.first_state(field, x0, inputs, name="field")
    if len(times) == 1:
        return x0[None]
    times = times.astype(x0.dtype)
    eps = jnp.finfo(x0.dtype).eps
    coarser = jnp.maximum(1, 4 * eps / rtol)
    controller = diffrax.PIDController(
        rtol=(coarser * rtol).astype(x0.dtype),
        atol=(coarser * atol).astype(x0.dtype),
        norm=_size,
        dtmin=eps * jnp.abs(times).max(),  # a shorter step does not move the time: the solution has blown up
        force_dtmin=False,
    )
    term = diffrax.ODETerm(lambda t, x, u: field(x, u))  # noqa: ARG005

    def solve(x, start, end, saveat, u):
        return diffrax.diffeqsolve(
            term, diffrax.Dopri8(), start, end, None, x, u,
            saveat=saveat, stepsize_controller=controller, max_steps=_MAX_STEPS, throw=False,
        )  # fmt: skip

    if inputs is None:
        return solve(x0, times[0], times[-1], diffrax.SaveAt(ts=times), None).ys

    def advance(x, interval):
        start, end, u = interval
        end = jnp.where(jnp.isfinite(x).all(), end, start)  # nothing is left to solve after a blow-up
        solution = solve(x, start, end, diffrax.SaveAt(t1=True), u)
        x = jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.inf)
        return x, x

    _, xs = jax.lax.scan(advance, x0, (times[:-1], times[1:], inputs))
    return jnp.concatenate([x0[None], xs])
