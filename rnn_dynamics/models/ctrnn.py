"""Beer's continuous-time recurrent network, τ dy/dt = -y + W σ(y + θ) + u: a field.

Row 2 of the layer table: above `activations`. Next: `reference`, whose oscillator is one; `flows` solves it.
"""

import equinox
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_dynamics import _check, activations
from rnn_dynamics.activations import Activation

__all__ = ["CTRNN"]


class CTRNN(equinox.Module):
    r"""A continuous-time recurrent network; a field of its state, shape (n,): what it returns is dy/dt.

    $$ \tau_i \frac{dy_i}{dt} = -y_i + \sum_j w_{ij}\, \sigma(y_j + \theta_j) + u_i, \qquad
       \frac{\partial \dot y}{\partial y} = \operatorname{diag}(1/\tau)\,
       \bigl(W \operatorname{diag}(\sigma'(y+\theta)) - I\bigr) $$

    Its equilibria are the fixed points of Pascanu's network with bias θ, seen as x = y + θ; `flows.euler` makes a map
    of it.

    Args:
        w: Weights, shape (n, n); row i holds the weights into unit i.
        theta: Biases θ, shape (n,).
        tau: Time constants τ, shape (n,) or one for all.
        activation: σ, elementwise.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, a time constant that is not positive, an activation that
            is not an `Activation`; when called, a state or an input that is not a float array (n,).

    Example:
        >>> neuron = CTRNN(w=jnp.array([[5.0]]), theta=jnp.array([-2.5]), tau=2.0)
        >>> neuron(jnp.array([2.5]))  # (-2.5 + 5 σ(0)) / 2
        Array([0.], dtype=float64)

    References:
        Beer (1995), On the dynamics of small continuous-time recurrent neural networks, eq. 1.
    """

    w: Float[Array, "n n"]
    theta: Float[Array, " n"]
    tau: Float[Array, " n"]
    activation: Activation

    def __init__(self, w, theta, tau, activation: Activation = activations.sigmoid):
        self.w = _check.floats("w", w, "n", "n")
        self.theta = _check.floats("theta", theta, len(self.w))
        tau = _check.number("tau", tau) if jnp.ndim(tau) == 0 else _check.floats("tau", tau, len(self.w))
        _check.within("tau", tau, "be positive", lambda tau: tau > 0)
        self.tau = jnp.broadcast_to(tau, self.theta.shape)
        self.activation = activation
        _check.instance("activation", activation, Activation)

    def __call__(self, x: Float[Array, " n"], u: Float[Array, " n"] | None = None) -> Float[Array, " n"]:
        """dy/dt at the state `x`, under the input `u`."""
        drive = 0.0 if u is None else _check.floats("u", u, len(self.theta), check_finite=False)
        return (self.w @ self.activation(self.pre_activation(x)) - x + drive) / self.tau

    def jacobian(self, x: Float[Array, " n"], u: Float[Array, " n"] | None = None) -> Float[Array, "n n"]:
        """∂(dy/dt)/∂y, which does not depend on the input."""
        del u
        slope = self.activation.derivative(self.pre_activation(x))
        return (self.w * slope - jnp.eye(len(x), dtype=x.dtype)) / self.tau[:, None]

    def pre_activation(self, x: Float[Array, " n"], u: Float[Array, " n"] | None = None) -> Float[Array, " n"]:
        """What σ is applied to: y + θ."""
        del u
        return _check.floats("x", x, len(self.theta), check_finite=False) + self.theta
