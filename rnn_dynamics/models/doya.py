"""Doya's one-neuron system, as a map and as its ODE limit, with its equilibria and bifurcations in closed form.

Row 2 of the layer table: above `activations`. The system on which every tool of the package can be checked by hand.
"""

import itertools
import math
from typing import ClassVar

import equinox
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from rnn_dynamics import _check, activations

__all__ = ["DoyaNeuron"]


class DoyaNeuron(equinox.Module):
    r"""One sigmoid neuron with a connection to itself; a map of its state, shape (1,).

    $$ x_{t+1} = (1-\varepsilon) x_t + \varepsilon\, \sigma(w x_t + b) + \varepsilon w' u_t $$

    As ε → 0 with time counted in steps of ε it becomes $\dot x = -x + \sigma(wx + b) + w'u$ (`velocity`). The fixed
    points of the two are the same and do not depend on ε.

    Args:
        w: Weight of the neuron onto itself.
        b: Bias.
        epsilon: ε, the time step, in (0, 1].
        w_in: w', the weight of the input; None for a neuron that takes none.

    Raises:
        ValueError: a parameter that is not a finite real scalar, or ε outside (0, 1]; when called, a state that is not
            a float array (1,), an input that is not a scalar or (1,), or one where w_in is None.

    Example:
        >>> DoyaNeuron(w=5.0, b=-2.5)(jnp.array([0.5]))  # x = 1/2 is a fixed point on b = -w/2
        Array([0.5], dtype=float64)

    References:
        Doya (1993), Bifurcations of recurrent neural networks in gradient descent learning; Pascanu, Mikolov, Bengio
        (2013), fig. 3, for w = 5.
    """

    cusp: ClassVar[tuple[float, float, float]] = (4.0, -2.0, 0.5)
    """(w, b, x) where the two folds meet: below w = 4 there is one fixed point, whatever the bias."""

    w: Float[Array, ""]
    b: Float[Array, ""]
    epsilon: Float[Array, ""]
    w_in: Float[Array, ""] | None

    def __init__(self, w, b, epsilon=1.0, w_in=None):
        self.w = _check.number("w", w)
        self.b = _check.number("b", b)
        self.epsilon = _check.number("epsilon", epsilon)
        self.w_in = None if w_in is None else _check.number("w_in", w_in)
        _check.within("epsilon", self.epsilon, "lie in (0, 1]", lambda e: 0 < e <= 1)

    def __call__(
        self, x: Float[Array, " 1"], u: Float[Array, ""] | Float[Array, " 1"] | None = None
    ) -> Float[Array, " 1"]:
        """The next state."""
        x = _state(x)
        push = activations.sigmoid(self.w * x + self.b) + self._drive(u)
        return (1 - self.epsilon) * x + self.epsilon * push

    def velocity(
        self, x: Float[Array, " 1"], u: Float[Array, ""] | Float[Array, " 1"] | None = None
    ) -> Float[Array, " 1"]:
        r"""$\dot x = -x + \sigma(wx+b) + w'u$, the field that the map steps along: (x' - x)/ε for every ε.

        Example:
            >>> DoyaNeuron(w=5.0, b=-2.5).velocity(jnp.array([0.5]))
            Array([0.], dtype=float64)
        """
        x = _state(x)
        return activations.sigmoid(self.w * x + self.b) - x + self._drive(u)

    def jacobian(
        self, x: Float[Array, " 1"], u: Float[Array, ""] | Float[Array, " 1"] | None = None
    ) -> Float[Array, "1 1"]:
        """∂x'/∂x = 1 - ε + ε w σ'(wx + b)."""
        del u
        slope = activations.sigmoid.derivative(self.w * _state(x) + self.b)
        return (1 - self.epsilon + self.epsilon * self.w * slope)[:, None]

    def _drive(self, u):
        if u is None:
            return 0.0
        if self.w_in is None:
            raise ValueError("u must be None for a neuron whose w_in is None; got an input")
        return self.w_in * _check.floats("u", u, *(() if jnp.ndim(u) == 0 else (1,)), check_finite=False)

    def equilibria(self) -> Float[Array, " k"]:
        r"""Every fixed point without input, ascending. Runs on the host (SciPy): the parameters must be known.

        With y = wx + b a fixed point is a zero of $h(y) = y - w\sigma(y) - b$ between b and b + w. h is monotone
        between the folds, where $w\sigma'(y) = 1$, so Brent's method on each piece misses none and finds none twice.

        Returns:
            One, two (exactly on a fold) or three fixed points x, dimensionless, in [0, 1].

        Raises:
            ValueError: called on a neuron inside `jit`, `vmap` or `grad`, where its parameters are not known.

        Example:
            >>> DoyaNeuron(w=5.0, b=-2.5).equilibria().round(6)
            Array([0.144794, 0.5     , 0.855206], dtype=float64)
        """
        if not (_check.known(self.w) and _check.known(self.b)):
            raise ValueError("equilibria runs on the host and needs a neuron with known parameters; got traced ones")
        w, b = float(self.w), float(self.b)
        slack = 1e-14 * (1 + abs(w) + abs(b))  # σ rounds to 0 or 1 in the tails: keep the zero inside the bracket
        pieces = [b + min(w, 0.0) - slack, b + max(w, 0.0) + slack]
        if w > 4:
            turn = 2 * math.log((math.sqrt(w) + math.sqrt(w - 4)) / 2)  # the folds are at y = ±turn
            pieces[1:1] = [y for y in (-turn, turn) if pieces[0] < y < pieces[1]]
        zeros = {
            scipy.optimize.brentq(_excess, start, end, (w, b), xtol=1e-300, rtol=np.float64(1e-15), maxiter=2000)
            for start, end in itertools.pairwise(pieces)
            if _excess(start, w, b) * _excess(end, w, b) <= 0
        }
        return jnp.asarray(scipy.special.expit(sorted(zeros)))

    @staticmethod
    def equilibrium_bias(w: Float[Array, ""] | float, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        r"""The bias at which x is a fixed point: $b = \ln\frac{x}{1-x} - wx$, for x in (0, 1).

        It parametrises all fixed points, stable and unstable: the whole curve of the bifurcation diagram.

        Raises:
            ValueError: an x outside (0, 1).

        Example:
            >>> DoyaNeuron.equilibrium_bias(5.0, jnp.array([0.5]))
            Array([-2.5], dtype=float64)
        """
        x = jnp.asarray(x)
        _check.within("x", x, "lie in (0, 1), where fixed points are", lambda x: (x > 0) & (x < 1))
        return jnp.log(x) - jnp.log1p(-x) - w * x

    @staticmethod
    def folds(w: Float[Array, ""] | float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        r"""The two folds ((b₁, x₋), (b₂, x₊)) of weight w ≥ 4, where a stable and an unstable fixed point merge.

        $$ x_\mp = \tfrac12\left(1 \mp \sqrt{1 - 4/w}\right), \qquad b = \ln\frac{x}{1-x} - wx $$

        Lowering the bias, the lower stable state appears at b₁ and the upper one disappears at b₂ < b₁.

        Returns:
            Two pairs (bias, state): the end of the lower branch, then that of the upper.

        Raises:
            ValueError: w is below 4, where there are no folds (NaN for a traced w).

        Example:
            >>> (b1, x1), (b2, x2) = DoyaNeuron.folds(5.0)
            >>> print(f"{b1:.12f} {b2:.12f}")
            -2.344389661369 -2.655610338631

        References:
            Pascanu, Mikolov, Bengio (2013), fig. 3: b₁ and b₂ for w = 5.
        """
        w = _check.number("w", w)
        _check.within("w", w, "be at least 4 for folds to exist", lambda w: w >= 4)
        upper = (1 + jnp.sqrt(1 - 4 / w)) / 2
        lower = 1 / (w * upper)  # x₋ x₊ = 1/w: no cancellation for large w
        b_lower = jnp.log(lower / upper) - w * lower
        return (b_lower, lower), (-w - b_lower, upper)

    def bias_sensitivity(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""How a fixed point moves with the bias: $dx^*/db = \left(\frac{1}{x(1-x)} - w\right)^{-1}$.

        The only gradient of a settled neuron that neither vanishes nor explodes. Negative on the unstable branch,
        infinite at a fold.

        Args:
            x: Fixed points, any shape.

        Returns:
            dx*/db, per unit of bias.

        Example:
            >>> DoyaNeuron(w=5.0, b=-2.5).bias_sensitivity(jnp.array([0.5]))
            Array([-1.], dtype=float64)

        References:
            Wikipedia, "Vanishing gradient problem", dynamical systems model.
        """
        return x * (1 - x) / (1 - self.w * x * (1 - x))

    def weight_sensitivity(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """How a fixed point moves with the weight: dx*/dw = x dx*/db, per unit of weight.

        Args:
            x: Fixed points, any shape.

        Returns:
            dx*/dw, per unit of weight.

        Example:
            >>> DoyaNeuron(w=5.0, b=-2.5).weight_sensitivity(jnp.array([0.5]))
            Array([-0.5], dtype=float64)
        """
        return x * self.bias_sensitivity(x)


def _excess(y, w, b):
    return y - w * scipy.special.expit(y) - b


def _state(x):
    return _check.floats("x", x, 1, check_finite=False)
