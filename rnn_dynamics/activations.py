"""Activation functions that know how steep and how curved they get: sigmoid, tanh, relu, identity.

Row 1 of the layer table. The two suprema turn a network's weights into certified bounds (`bounds`) and, later,
into certificates for fixed points. Next: `models`.
"""

import functools
from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Activation", "identity", "relu", "sigmoid", "tanh"]


class Activation(equinox.Module):
    r"""An elementwise function σ with the suprema of its first two derivatives.

    Args:
        name: What it is called in messages and figures.
        function: σ itself, elementwise and differentiable by JAX.
        slope: $\sup_z |\sigma'(z)|$, the γ of Pascanu et al.
        curvature: $\sup_z |\sigma''(z)|$; infinite where σ has a corner.

    Raises:
        ValueError: a negative or NaN bound, or a function that cannot be called.

    Example:
        >>> softsign = Activation("softsign", lambda z: z / (1 + jnp.abs(z)), slope=1.0, curvature=2.0)
        >>> softsign(jnp.array([-1.0, 0.0, 1.0]))
        Array([-0.5,  0. ,  0.5], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), section 2.1: γ = 1 for tanh, 1/4 for the sigmoid.
    """

    name: str = equinox.field(static=True)
    function: Callable[[Float[Array, "..."]], Float[Array, "..."]] = equinox.field(static=True)
    slope: float = equinox.field(static=True)
    curvature: float = equinox.field(static=True)

    def __check_init__(self):
        if not callable(self.function):
            raise ValueError(f"function must be callable; got {type(self.function).__name__}")
        for name, bound in (("slope", self.slope), ("curvature", self.curvature)):
            if not bound >= 0:
                raise ValueError(f"{name} must be a number at least 0; got {bound!r}")

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """σ, elementwise."""
        return self.function(z)

    def derivative(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """σ′, elementwise.

        Example:
            >>> sigmoid.derivative(jnp.array([0.0]))
            Array([0.25], dtype=float64)
        """
        return jax.jvp(self.function, (z,), (jnp.ones_like(z),))[1]


# σ' written as σ(1-σ) or 1-tanh² cancels: it is exactly 0 from z = 37 (tanh: 19) on, and its logarithm -inf. With
# e = exp(-z), e σ² keeps every digit until e or σ leaves the floats, and shares the one exponential with σ. The rules
# below close on each other, so derivatives of every order are right. Called from outside any program, each is one.

_inline = functools.partial(jax.jit, inline=True)


@_inline
def _sigmoid_and_exp(z):
    e = jnp.exp(jnp.minimum(-z, 750.0))  # the limit changes no number; without it XLA's CPU code takes twice the time
    return 1 / (1 + e), e


@jax.custom_jvp
@_inline
def _bell(z):
    s, e = _sigmoid_and_exp(z)
    return jnp.minimum(e, jnp.finfo(e.dtype).max) * s * s  # where e is infinite, s is 0


@_bell.defjvp
def _(primals, tangents):
    return _bell(*primals), -_bell(*primals) * _tanh(primals[0] / 2) * tangents[0]


@jax.custom_jvp
def _sigmoid(z):
    return _sigmoid_and_exp(z)[0]


@_sigmoid.defjvp
def _(primals, tangents):
    return _sigmoid(*primals), _bell(*primals) * tangents[0]


@jax.custom_jvp
def _tanh(z):
    return jnp.tanh(z)


@_tanh.defjvp
def _(primals, tangents):
    return _tanh(*primals), 4 * _bell(2 * primals[0]) * tangents[0]


sigmoid = Activation("sigmoid", _sigmoid, slope=1 / 4, curvature=1 / (6 * 3**0.5))
tanh = Activation("tanh", _tanh, slope=1.0, curvature=4 / (3 * 3**0.5))
relu = Activation("relu", jax.nn.relu, slope=1.0, curvature=float("inf"))
identity = Activation("identity", lambda z: z, slope=1.0, curvature=0.0)
