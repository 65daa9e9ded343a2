"""Elman's network, h' = (1-α)h + α σ(W h + W_in u + b): the post-activation form that most frameworks use.

Row 2 of the layer table: above `pascanu`, into which it converts and from which it comes.
"""

import equinox
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_dynamics import _check, activations
from rnn_dynamics.activations import Activation
from rnn_dynamics.models.pascanu import PascanuRNN, drive

__all__ = ["ElmanRNN"]


class ElmanRNN(equinox.Module):
    r"""A recurrent network in post-activation form, with an optional leak; a map of its state, shape (n,).

    $$ h_{t+1} = (1-\alpha) h_t + \alpha\, \sigma(W h_t + W_{in} u_t + b) $$

    With α = 1 this is `torch.nn.RNN` (whose two biases add up to `b`) and Pascanu's network seen after its
    activation: if h = σ(x), then x' = W σ(x) + W_in u + b and h' = σ(x'). The two forms share their cycles,
    multipliers and Lyapunov exponents (the Jacobians are products AB and BA), but not their norms.

    Args:
        w_rec: Recurrent weights, shape (n, n); row i holds the weights into unit i.
        w_in: Input weights, shape (n, m), or None for a network without input.
        b: Bias, shape (n,).
        activation: σ, elementwise.
        leak: α, in (0, 1].

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, an activation that is not an `Activation`, a leak outside
            (0, 1]; when called, a state that is not a float array (n,), an input that is not (m,), or an input where
            `w_in` is None.

    Example:
        >>> network = ElmanRNN(w_rec=jnp.array([[2.0]]), w_in=None, b=jnp.zeros(1), leak=0.5)
        >>> network(jnp.array([0.0]))
        Array([0.], dtype=float64)

    References:
        Elman (1990), Finding structure in time; Pascanu, Mikolov, Bengio (2013), footnote 1.
    """

    w_rec: Float[Array, "n n"]
    w_in: Float[Array, "n m"] | None
    b: Float[Array, " n"]
    activation: Activation
    leak: Float[Array, ""]

    def __init__(self, w_rec, w_in, b, activation: Activation = activations.tanh, leak: float | Array = 1.0):
        self.w_rec = _check.floats("w_rec", w_rec, "n", "n")
        num_units = len(self.w_rec)
        self.w_in = None if w_in is None else _check.floats("w_in", w_in, num_units, "m")
        self.b = _check.floats("b", b, num_units)
        self.activation = activation
        _check.instance("activation", activation, Activation)
        self.leak = _check.number("leak", leak)
        _check.within("leak", self.leak, "lie in (0, 1]", lambda a: 0 < a <= 1)

    def __call__(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, " n"]:
        """The next state."""
        return (1 - self.leak) * x + self.leak * self.activation(self.pre_activation(x, u))

    def jacobian(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, "n n"]:
        """∂h'/∂h = (1-α) I + α diag(σ'(W h + W_in u + b)) W."""
        slope = self.activation.derivative(self.pre_activation(x, u))
        return (1 - self.leak) * jnp.eye(len(x), dtype=x.dtype) + self.leak * slope[:, None] * self.w_rec

    def pre_activation(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, " n"]:
        """What σ is applied to: W h + W_in u + b."""
        x = _check.floats("x", x, len(self.b), check_finite=False)
        return self.w_rec @ x + drive(self.w_in, u) + self.b

    @classmethod
    def from_pascanu(cls, network: PascanuRNN) -> "ElmanRNN":
        """The network whose state is h = σ(x) when `network`'s is x: the same weights, read after the activation.

        Example:
            >>> pascanu = PascanuRNN(jnp.array([[2.0]]), None, jnp.array([0.5]), activations.tanh)
            >>> x = jnp.array([0.3])
            >>> bool(jnp.allclose(ElmanRNN.from_pascanu(pascanu)(jnp.tanh(x)), jnp.tanh(pascanu(x))))
            True

        References:
            Pascanu, Mikolov, Bengio (2013), footnote 1.
        """
        return cls(network.w_rec, network.w_in, network.b, network.activation)

    def to_pascanu(self) -> PascanuRNN:
        """The inverse of `from_pascanu`; it exists only without leak, where h' depends on h through W h alone.

        Raises:
            ValueError: `leak` is not 1.
        """
        _check.within("leak", self.leak, "be 1 for the pre-activation form to exist", lambda a: a == 1)
        return PascanuRNN(self.w_rec, self.w_in, self.b, self.activation)
