"""What to look at every hundred steps of training: one report on a network's gradients, in numbers and one sentence.

Row 6 of the layer table: above `bounds`, `gradients` and `lyapunov`.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, bounds, gradients, lyapunov, simulate
from rnn_dynamics.activations import Activation
from rnn_dynamics.bounds import Bounds
from rnn_dynamics.models import ElmanRNN, PascanuRNN

__all__ = ["Report", "report"]

_HEALTHY = math.log(1e3)
"""A gradient that changes by more than this over the whole sequence, in nats, has vanished or exploded."""
_SATURATED = 0.05
"""Part of its largest slope below which a unit counts as saturated."""
_STILL = 0.01
"""What nearby orbits draw near or part over the whole sequence, in nats, that may as well be rounding."""


class Report(equinox.Module):
    """How gradients fare along one orbit; prints as a short table."""

    log_norms: Float[Array, " S"]
    """ln ‖∂E/∂x_k‖ for k = 0 ... T."""
    rate: float
    """Its mean growth per step back in time, in nats."""
    exponent: float
    """The largest finite-time Lyapunov exponent of the orbit, in nats per step."""
    omega: float
    """Pascanu's Ω (eq. 9) per step: the mean of (‖δ_{k+1} J_k‖/‖δ_{k+1}‖ - 1)²."""
    saturated: Float[Array, " n"] | None
    """The part of the steps that each unit spends with σ' below 5 % of its supremum; None for a map without σ."""
    bounds: Bounds | None
    """Of `bounds.network_bounds`, for the map without its leak; None for a map that is neither of the two networks."""
    verdict: str = equinox.field(static=True)
    """ "vanishing", "exploding" or "healthy"; "diverged" if the orbit or its gradient left the floats."""
    sentence: str = equinox.field(static=True)
    """The verdict and why."""

    def __repr__(self) -> str:
        rows = [
            ("gradient, nats per step back", f"{self.rate:+.4f}"),
            ("largest exponent, nats per step", f"{self.exponent:+.4f}"),
            ("Ω per step", f"{self.omega:.4f}"),
        ]
        if self.saturated is not None:
            rows.append(("units saturated, on average", f"{100 * float(self.saturated.mean()):.0f} %"))
        if self.bounds is not None:
            b = self.bounds
            rows.append(("γ‖W‖₂, γ min ‖DWD⁻¹‖₂", f"{b.slope * b.spectral_norm:.4g}, {b.slope * b.scaled_norm:.4g}"))
            rows.append(("γρ(W), no bound", f"{b.slope * b.spectral_radius:.4g}"))
        return "\n".join([self.sentence, *(f"  {name:<32}{value:>16}" for name, value in rows)])


def report(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree,
    loss: Callable,
    *,
    num_steps: int | None = None,
) -> Report:
    """Says whether gradients vanish, explode or are healthy along one orbit, and why. Runs on the host.

    "vanishing": ∂E/∂x_0 is more than a thousand times shorter than ∂E/∂x_T. "exploding": more than a thousand times
    longer. "healthy": neither.

    Args:
        step: The map, `(x, u) -> x`. Of a network with an `activation` (an `Activation`) and a `pre_activation` the
            report also tells saturation; of a PascanuRNN and an ElmanRNN, bounds.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        loss: E, from the last state to a scalar.
        num_steps: T, at least 1; as in `simulate.trajectory`.

    Returns:
        The report.

    Raises:
        ValueError: no step, a loss that does not return a float scalar; otherwise as `simulate.trajectory`.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> found = report(DoyaNeuron(5.0, -2.5), jnp.array([0.855206]), None, lambda x: x[0], num_steps=100)
        >>> print(found.verdict, round(found.rate, 3))  # ln 0.619, the multiplier of the attractor
        vanishing -0.479

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5, 7 and 9.
    """
    _check.on_host("report", step=step, x0=x0, inputs=inputs)
    x0 = _check.state("x0", x0)
    total = _check.inputs(inputs, num_steps)
    if total == 0:
        raise ValueError("inputs or num_steps must ask for at least one step; got 0")
    _check.loss(loss, x0)
    xs = simulate.trajectory(step, x0, inputs, num_steps=total)
    cotangent = jax.grad(loss)(xs[-1])
    exponent = float(lyapunov.spectrum(step, x0, inputs, num_steps=total, num_exponents=1).exponents[0])
    if not bool(jnp.isfinite(xs).all() & jnp.isfinite(cotangent).all()):
        nowhere = jnp.full(total + 1, jnp.nan)
        sentence = f"diverged: the orbit or its loss leaves the floating-point numbers within {total} steps"
        return Report(nowhere, math.nan, exponent, math.nan, None, None, "diverged", sentence)
    directions, log_norms = gradients.backpropagate(step, xs, inputs, cotangent)
    if not bool(jnp.isfinite(directions).all()):
        sentence = "diverged: a Jacobian of the orbit is not finite"
        return Report(log_norms, math.nan, exponent, math.nan, None, None, "diverged", sentence)
    omega = float(gradients.omega(step, xs, inputs, directions[1:])) / total
    change = float(log_norms[0]) - float(log_norms[-1]) if np.isfinite(log_norms[-1]) else -math.inf
    saturated, certified = None, None
    network: Any = step
    if isinstance(getattr(step, "activation", None), Activation) and hasattr(step, "pre_activation"):
        saturated = _saturation(network, xs, inputs)
    if type(step) in (PascanuRNN, ElmanRNN) and network.activation.slope < math.inf:
        certified = bounds.network_bounds(network.w_rec, network.activation)
    verdict = "vanishing" if change < -_HEALTHY else "exploding" if change > _HEALTHY else "healthy"
    cause = _cause(verdict, exponent, total, saturated, certified, leak=getattr(step, "leak", 1.0))
    if log_norms[-1] == -math.inf:
        cause = "the loss does not depend on the last state"
    sentence = f"{verdict}: {_extent(change, total)}; {cause}"
    return Report(log_norms, change / total, exponent, omega, saturated, certified, verdict, sentence)


def _saturation(network, xs, inputs):
    slopes = jax.vmap(lambda x, u: network.activation.derivative(network.pre_activation(x, u)))(xs[:-1], inputs)
    return (jnp.abs(slopes) < _SATURATED * network.activation.slope).mean(axis=0, dtype=xs.dtype)


def _extent(change, total):
    if change == -math.inf:
        return f"the gradient is exactly zero {total} steps back"
    return f"the gradient changes by 10^{change / math.log(10):+.1f} over {total} steps"


def _cause(verdict, exponent, total, saturated, certified, leak):
    if verdict == "vanishing" and certified is not None and bool(certified.vanishes):
        rate = 1 - float(leak) * (1 - float(certified.rate))  # of (1 - leak) x + leak F(x), in the norm that F shrinks
        return f"the weights alone prove that it must, by {rate:.3g} a step in the long run"
    if verdict == "vanishing" and saturated is not None and float(saturated.mean()) > 0.5:
        return f"{100 * float(saturated.mean()):.0f} % of the units are saturated"
    if abs(exponent) * total < _STILL:
        return f"nearby orbits keep their distance over {total} steps"
    if exponent < 0:
        return f"the orbit is stable, its largest exponent {exponent:.3g} nats per step"
    return f"nearby orbits part, at {exponent:.3g} nats per step"
