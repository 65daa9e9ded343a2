"""How a fold moves with every parameter of a family: its position, differentiable.

Row 7 of the layer table: above `defining`. The curves in `curves` are the same folds, followed.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit
from rnn_dynamics.continuation import defining

__all__ = ["fold_position"]


def fold_position(
    family: Callable,
    theta: PyTree,
    x0: Float[Array, " n"],
    p0: Float[Array, ""] | float,
    /,
    u: PyTree = None,
    *,
    time: Literal["discrete", "continuous"] = "discrete",
) -> Float[Array, ""]:
    r"""The parameter p at which a family has a fold, as a differentiable function of all its other parameters θ.

    $$ \frac{dp}{d\theta} = -\frac{w^\top F_\theta}{w^\top F_p}, \qquad w^\top (F_x - I) = 0 $$

    (for a field $w^\top F_x = 0$), by the implicit function theorem; any order of derivative, forward or reverse:
    `jax.grad(fold_position, argnums=1)`.

    Args:
        family: `(p, theta) -> map` or `(p, theta) -> field`, p a scalar.
        theta: The other parameters, any pytree: a scalar, an array, a model.
        x0: Near the fold, as an "LP" event of `trace` is.
        p0: Near the fold.
        u: The input, held constant; also differentiable.
        time: "discrete" for maps, "continuous" for fields.

    Returns:
        p at the fold, in its own units; NaN if Newton's method finds none from x0, p0.

    Raises:
        ValueError: x0 is not a finite float array (n,), p0 is not a finite scalar, an unknown time, or a map that
            changes the shape.

    Example:
        >>> from rnn_dynamics.models import DoyaNeuron
        >>> family = lambda b, w: DoyaNeuron(w=w, b=b)
        >>> position, slope = jax.value_and_grad(fold_position, argnums=1)(family, 5.0, jnp.array([0.28]), -2.3)
        >>> print(f"{position:.9f} {slope:.9f}")  # db/dw = -x at a fold
        -2.344389661 -0.276393202

    References:
        Krantz and Parks (2002), The implicit function theorem; Kuznetsov (2004), Elements of applied bifurcation
        theory, section 3.2, for w' F_p ≠ 0.
    """
    _check.option("time", time, ("discrete", "continuous"))
    x0, p0 = _check.state("x0", x0), _check.number("p0", p0)
    name = "family(p0, theta)"
    x0 = _check.next_state(_check.member(family, p0, theta, name=name), x0, u, name=name)
    return _fold_position(family, theta, x0, p0, u, time == "discrete")


@jit
def _fold_position(family, theta, x0, p0, u, discrete):
    size, multiplier = len(x0), float(discrete)

    def system(theta, u):
        return defining.System(lambda parameters: family(parameters[0], theta), u, discrete)

    held = system(*jax.lax.stop_gradient((theta, u)))
    start = jax.lax.stop_gradient(jnp.append(x0, p0))
    found, error = defining.newton(defining.singular(held, multiplier, size), start)
    left, right = defining.null_vectors(held, found, size, multiplier)

    def equations(y):
        free = system(theta, u)
        test = defining.eigenpair(free, y, left, right, multiplier)[2]
        return jnp.append(free.residual(y[:size], y[size:]), test)

    def solve(linear, value):
        return jnp.linalg.solve(jax.jacfwd(linear)(value), value)

    y = jax.lax.custom_root(equations, found, lambda _, y: y, solve)
    good = error <= defining.tol(y.dtype) * (1 + jnp.abs(found).max())
    return y[-1] * jnp.where(good, 1, jnp.nan)  # and its derivative
