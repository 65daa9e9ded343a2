"""Pascanu's recurrent network, x' = W σ(x) + W_in u + b, and the paper's ways to initialise it.

Row 2 of the layer table: above `activations`. Next: `elman`, the same network seen after its activation.
"""

from typing import Literal

import equinox
import numpy as np
from jaxtyping import Array, Float

from rnn_dynamics import _check, activations
from rnn_dynamics.activations import Activation

__all__ = ["PascanuRNN", "drive"]


class PascanuRNN(equinox.Module):
    r"""The network of Pascanu et al. in pre-activation form; a map of its state, shape (n,).

    $$ x_{t+1} = W_{rec}\, \sigma(x_t) + W_{in} u_t + b, \qquad
       \frac{\partial x_{t+1}}{\partial x_t} = W_{rec} \operatorname{diag}(\sigma'(x_t)) $$

    with column vectors: row i of `w_rec` holds the weights into unit i. (The paper prints the transpose of this
    Jacobian.)

    Args:
        w_rec: Recurrent weights, shape (n, n).
        w_in: Input weights, shape (n, m), or None for a network without input.
        b: Bias, shape (n,).
        activation: σ, elementwise.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, complex weights, an activation that is not an
            `Activation`; when called, a state that is not a float array (n,), an input that is not (m,), or an input
            where `w_in` is None.

    Example:
        >>> network = PascanuRNN(w_rec=jnp.array([[5.0]]), w_in=None, b=jnp.array([-2.5]))
        >>> network(jnp.zeros(1))  # 5 σ(0) - 2.5
        Array([0.], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 2 and 5.
    """

    w_rec: Float[Array, "n n"]
    w_in: Float[Array, "n m"] | None
    b: Float[Array, " n"]
    activation: Activation

    def __init__(self, w_rec, w_in, b, activation: Activation = activations.sigmoid):
        self.w_rec = _check.floats("w_rec", w_rec, "n", "n")
        num_units = len(self.w_rec)
        self.w_in = None if w_in is None else _check.floats("w_in", w_in, num_units, "m")
        self.b = _check.floats("b", b, num_units)
        self.activation = activation
        _check.instance("activation", activation, Activation)

    def __call__(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, " n"]:
        """The next state."""
        sigma = self.activation(self._state(x))
        # Of one unit, a plain product: XLA would transpose the batches of a matrix product at every step.
        pushed = self.w_rec[0] * sigma if len(sigma) == 1 else self.w_rec @ sigma
        return pushed + drive(self.w_in, u) + self.b

    def jacobian(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, "n n"]:
        """∂x'/∂x = W diag(σ'(x)), which does not depend on the input."""
        del u
        return self.w_rec * self.activation.derivative(self._state(x))

    def _state(self, x):
        return _check.floats("x", x, len(self.b), check_finite=False)

    def pre_activation(self, x: Float[Array, " n"], u: Float[Array, " m"] | None = None) -> Float[Array, " n"]:
        """What σ is applied to: here the state itself."""
        del u
        return self._state(x)

    @classmethod
    def initialise(
        cls,
        kind: Literal["sigmoid", "basic_tanh", "smart_tanh", "gaussian"],
        n: int,
        m: int,
        *,
        seed: int,
        gain: float = 1.0,
    ) -> "PascanuRNN":
        """A random network, one of the paper's three or a Gaussian one; biases are zero.

        - "sigmoid": all weights of standard deviation 0.01, sigmoid units.
        - "basic_tanh": all weights of standard deviation 0.1, tanh units.
        - "smart_tanh": 15 non-zero incoming weights a unit, rescaled to spectral radius 0.95; input weights of
          standard deviation 0.01; tanh units.
        - "gaussian": W_rec of standard deviation gain/√n, whose eigenvalues fill the disc of radius `gain` as n
          grows; W_in of standard deviation 1/√m; tanh units.

        Args:
            kind: One of the four names above.
            n: Units.
            m: Inputs; 0 for none.
            seed: Of `numpy.random.default_rng`, whose stream does not change between versions.
            gain: Of "gaussian" alone.

        Returns:
            The network, in the default float type.

        Raises:
            ValueError: an unknown kind, n below 1, m below 0, a gain that is not finite.

        Example:
            >>> network = PascanuRNN.initialise("smart_tanh", 50, 6, seed=0)
            >>> int((network.w_rec != 0).sum(1).max())
            15

        References:
            Pascanu, Mikolov, Bengio (2013), section 4.1.1; their public code shows that the second argument of the
            paper's N(0, ·) is the standard deviation.
        """
        _check.option("kind", kind, ("sigmoid", "basic_tanh", "smart_tanh", "gaussian"))
        n, m = _check.count("n", n, least=1), _check.count("m", m)
        _check.number("gain", gain)
        deviation_rec = {"sigmoid": 0.01, "basic_tanh": 0.1, "smart_tanh": 1.0, "gaussian": gain / np.sqrt(n)}[kind]
        deviation_in = {"sigmoid": 0.01, "basic_tanh": 0.1, "smart_tanh": 0.01, "gaussian": 1 / np.sqrt(max(m, 1))}[
            kind
        ]
        generator = np.random.default_rng(_check.count("seed", seed))
        w_rec = deviation_rec * generator.standard_normal((n, n))
        w_in = deviation_in * generator.standard_normal((n, m)) if m else None
        if kind == "smart_tanh":
            order = generator.permuted(np.tile(np.arange(n), (n, 1)), axis=1)
            w_rec = np.where(order < 15, w_rec, 0.0)
            w_rec *= 0.95 / np.abs(np.linalg.eigvals(w_rec)).max()
        activation = activations.sigmoid if kind == "sigmoid" else activations.tanh
        return cls(w_rec, w_in, np.zeros(n), activation)


def drive(w_in: Float[Array, "n m"] | None, u: Float[Array, " m"] | None) -> Float[Array, " n"] | float:
    """The input's push on the state: W_in u, or 0 where there is no input.

    Args:
        w_in: Input weights, or None for a network without input.
        u: This step's input, or None.

    Returns:
        W_in u, shape (n,); the number 0 if `u` is None.

    Raises:
        ValueError: `u` is given but `w_in` is None, or `u` has the wrong shape.

    Example:
        >>> drive(jnp.array([[2.0], [3.0]]), jnp.array([0.5]))
        Array([1. , 1.5], dtype=float64)
    """
    if u is None:
        return 0.0
    if w_in is None:
        raise ValueError("u must be None for a network whose w_in is None; got an input")
    return w_in @ _check.floats("u", u, w_in.shape[1], check_finite=False)
