"""What a gradient does on its way back through time: its size at every step, its parts, its regulariser, its clipping.

Row 5 of the layer table: above `jacobians`. Next: `training`, which uses it.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from rnn_dynamics import _check, simulate
from rnn_dynamics._compile import jit_wide
from rnn_dynamics._graded import times_power, total

__all__ = ["backpropagate", "clip", "clip_by_norm", "contributions", "omega"]

Gradients = TypeVar("Gradients", bound=PyTree)


def clip_by_norm(gradients: Gradients, max_norm: Float[Array, ""] | float) -> tuple[Gradients, Float[Array, ""]]:
    r"""Scales a gradient down to a given norm if it is longer: one norm over all parameters together.

    $$ g \leftarrow g \min(1, \text{max\_norm} / \|g\|_2) $$

    The norm is taken without overflow, so a gradient of finite entries keeps its direction however long it is. If any
    entry is NaN or infinite there is no direction to keep: the clipped gradient is zero, a step that moves nothing,
    and the norm returned (infinite or NaN) says so.

    Args:
        gradients: A pytree; leaves that are not arrays of real or complex floats are left alone.
        max_norm: The longest gradient that passes unchanged; positive.

    Returns:
        The clipped gradient, of the same structure, and the norm it had before.

    Raises:
        ValueError: max_norm is not a positive finite number.

    Example:
        >>> clip_by_norm({"w": jnp.array([3.0, 4.0])}, 1.0)
        ({'w': Array([0.6, 0.8], dtype=float64)}, Array(5., dtype=float64))

    References:
        Pascanu, Mikolov, Bengio (2013), algorithm 1.
    """
    return _clip(gradients, _check.positive("max_norm", max_norm))


def clip(max_norm: Float[Array, ""] | float) -> optax.GradientTransformation:
    """`clip_by_norm` as an optax transformation, to chain before any optimiser.

    Args:
        max_norm: The longest gradient that passes unchanged; positive.

    Returns:
        A transformation without state.

    Raises:
        ValueError: max_norm is not a positive finite number.

    Example:
        >>> optimiser = optax.chain(clip(1.0), optax.sgd(0.1))
        >>> updates, _ = optimiser.update(jnp.array([30.0, 40.0]), optimiser.init(jnp.zeros(2)))
        >>> updates.round(6)
        Array([-0.06, -0.08], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), algorithm 1.
    """
    _check.positive("max_norm", max_norm)
    return optax.stateless(lambda updates, params: clip_by_norm(updates, max_norm)[0])  # noqa: ARG005


def backpropagate(
    step: Callable, xs: Float[Array, "S n"], inputs: PyTree, cotangent: Float[Array, " n"]
) -> tuple[Float[Array, "S n"], Float[Array, " S"]]:
    r"""The gradient of a loss with respect to every state of a trajectory, never under- or overflowing.

    $$ \frac{\partial E}{\partial x_{k}} = \frac{\partial E}{\partial x_{k+1}} J_k, \qquad
       \frac{\partial E}{\partial x_k} = e^{\ell_k} d_k, \quad \|d_k\|_2 = 1 $$

    One backward scan of vector-Jacobian products; no Jacobian is formed, and nothing is stored but the result: memory
    is that of three trajectories (64 units over a million steps take 1.7 GiB in all). Where even the trajectory is too
    much, keep every √T-th state of it and go back stretch by stretch: run a stretch anew from the state kept at its
    start, take the direction found at its end for the cotangent, and add the logarithm found there to all of its own.

    Args:
        step: The map, `(x, u) -> x`.
        xs: A trajectory x_0 ... x_T.
        inputs: The inputs that drove it, T steps; None if there were none.
        cotangent: ∂E/∂x_T, in any scale.

    Returns:
        The directions d_0 ... d_T and the logarithms ℓ_0 ... ℓ_T of the norms. Where the gradient is exactly zero the
        direction is zero and the logarithm -inf; behind a Jacobian that is not finite both are NaN. The logarithms are
        summed without loss: in float32 too, they are right to rounding after a million steps. The slope of ℓ against k
        is minus the rate at which gradients grow.

    Raises:
        ValueError: xs is not a finite float array (T+1, n), inputs are not T steps long, cotangent is not a finite
            float array (n,).

    Example:
        >>> xs = jnp.zeros((1001, 1))
        >>> directions, log_norms = backpropagate(lambda x, u: 0.1 * x, xs, None, jnp.array([-2.0]))
        >>> print(directions[0], log_norms[0].round(4))  # ln 2 - 1000 ln 10: the gradient itself is 2e-1000
        [-1.] -2301.8919

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5 and 7.
    """
    xs = _check.trajectory(xs, inputs)
    return _backpropagate(step, xs, inputs, _check.floats("cotangent", cotangent, xs.shape[1]))


def contributions(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree,
    loss: Callable,
    *,
    num_steps: int | None = None,
) -> PyTree:
    r"""The temporal contributions to a gradient: what each step's use of the parameters adds to it.

    $$ \frac{\partial E}{\partial x_T} \frac{\partial x_T}{\partial x_k} \frac{\partial^+ x_k}{\partial \theta},
       \qquad k = 1 \dots T $$

    where ∂⁺ holds x_{k-1} constant. Their sum over k is the gradient of loss(x_T) by the parameters.

    Args:
        step: A map that is a pytree, such as a model: its floating-point arrays are the parameters θ.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        loss: E, from the last state to a scalar.
        num_steps: T; as in `simulate.trajectory`.

    Returns:
        A pytree like `step`: each parameter with a leading axis of length T (entry k-1 is the term of x_k), every
        other leaf None. Terms beyond the floats are infinite with their sign, or zero. Memory: T times the parameters.

    Raises:
        ValueError: step holds no parameter, loss does not return a float scalar; otherwise as `simulate.trajectory`.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> terms = contributions(Logistic(2.0), jnp.array([0.5]), None, lambda x: x[0], num_steps=3)
        >>> print(terms.r)  # x = 1/2 stays, its multiplier is 0: only the last step counts
        [0.   0.   0.25]

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 4.
    """
    x0 = _check.state("x0", x0)
    num_steps = _check.inputs(inputs, num_steps)
    if not jax.tree.leaves(equinox.filter(step, _check.is_float_array)):
        raise ValueError("step must be a pytree with floating-point arrays, such as a model; it holds none")
    _check.loss(loss, x0)
    return _contributions(step, x0, inputs, loss, num_steps)


def omega(
    step: Callable,
    xs: Float[Array, "S n"],
    inputs: PyTree,
    cotangents: Float[Array, "T n"],
    *,
    squared: bool = False,
    immediate: bool = False,
    bound: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    r"""Pascanu's regulariser: how far back-propagated gradients are from keeping their length.

    $$ \Omega = \sum_k \left( \frac{\|\delta_{k+1} J_k\|}{\|\delta_{k+1}\|} - 1 \right)^2, \qquad
       \delta_k = \frac{\partial E}{\partial x_k} $$

    Only the directions of the δ count. For the mean over a batch, `jax.vmap` it and average.

    Args:
        step: The map, `(x, u) -> x`.
        xs: A trajectory x_0 ... x_T.
        inputs: The inputs that drove it, T steps; None if there were none.
        cotangents: δ_1 ... δ_T; `backpropagate` returns them from δ_0 on (its directions will do: `directions[1:]`).
        squared: Take the ratio of the squared norms, as eq. 10 and the paper's public code do.
        immediate: Hold the states and the δ constant when Ω is differentiated, as the paper does, so that the
            gradient reaches the parameters through J_k alone.
        bound: Leave out the steps with ‖δ_{k+1}‖² below it, as the public code does with 1e-20. δ = 0 is always left
            out.

    Returns:
        Ω, dimensionless: 0 if every step keeps the gradient's length.

    Raises:
        ValueError: as `backpropagate`; cotangents are not a finite float array (T, n); a negative bound.

    Example:
        >>> omega(lambda x, u: 0.5 * x, jnp.zeros((3, 1)), None, jnp.ones((2, 1)))  # twice (1/2 - 1)²
        Array(0.5, dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 9 and 10.
    """
    xs = _check.trajectory(xs, inputs)
    cotangents = _check.floats("cotangents", cotangents, len(xs) - 1, xs.shape[1])
    _check.instance("squared", squared, bool)
    _check.instance("immediate", immediate, bool)
    bound = _check.number("bound", bound)
    _check.within("bound", bound, "be at least 0", lambda value: value >= 0)
    return _omega(step, xs, inputs, cotangents, squared, immediate, bound)


def _unit(vector):
    """A vector as a direction and the logarithm of its length, whatever its scale; zero is (0, -inf)."""
    largest = jnp.abs(vector).max()
    zero = largest == 0  # NaN is not
    safe = jnp.where(zero, 1, largest)
    scaled = vector / safe
    length = jnp.where(zero, 1, jnp.linalg.norm(scaled))
    return scaled / length, jnp.where(zero, -jnp.inf, jnp.log(length) + jnp.log(safe))


def _length(vector):
    """Its Euclidean norm, whatever its scale; of 0 the derivative is 0."""
    largest = jax.lax.stop_gradient(jnp.abs(vector).max())
    zero = largest == 0  # NaN is not
    safe = jnp.where(zero, 1, largest)
    return jnp.where(zero, 0, safe * jnp.sqrt(jnp.where(zero, 1, jnp.sum((vector / safe) ** 2))))


@jit_wide
def _backpropagate(step, xs, inputs, cotangent):
    xs = xs.astype(_check.first_state(step, xs[0], inputs).dtype)

    def back(carry, now):
        direction, log_norm, left = carry
        x, u = now
        with _check.derivatives():
            direction, change = _unit(jax.vjp(lambda x: step(x, u), x)[1](direction)[0])
        log_norm, left = total(log_norm, left, change)
        return (direction, log_norm, left), (direction, log_norm)

    last = tuple(each.astype(xs.dtype) for each in _unit(cotangent))  # a length may be beyond the narrower floats
    start = (*last, jnp.zeros((), xs.dtype))
    _, (directions, log_norms) = jax.lax.scan(back, start, (xs[:-1], inputs), reverse=True)
    return jnp.concatenate([directions, last[0][None]]), jnp.concatenate([log_norms, last[1][None]])


@jit_wide
def _contributions(step, x0, inputs, loss, num_steps):
    xs = simulate.trajectory(step, x0, inputs, num_steps=num_steps)
    parameters, rest = equinox.partition(step, _check.is_float_array)

    def back(carry, now):
        (direction, exponent), (x, u) = carry, now
        with _check.derivatives():
            _, pull = jax.vjp(lambda parameters, x: equinox.combine(parameters, rest)(x, u), parameters, x)
            term, cotangent = pull(direction)
        term = jax.tree.map(lambda leaf: times_power(leaf, exponent), term)
        return near_one(cotangent, exponent), term

    def near_one(cotangent, exponent):
        _, shift = jnp.frexp(jax.lax.stop_gradient(jnp.abs(cotangent).max()))
        return times_power(cotangent, -shift), exponent + shift

    start = near_one(jax.grad(loss)(xs[-1]), 0)
    return jax.lax.scan(back, start, (xs[:-1], inputs), reverse=True)[1]


@jit_wide
def _omega(step, xs, inputs, cotangents, squared, immediate, bound):
    xs = xs.astype(_check.first_state(step, xs[0], inputs).dtype)
    if immediate:
        xs, cotangents = jax.lax.stop_gradient((xs, cotangents))

    def term(x, u, cotangent):
        direction, log_norm = _unit(cotangent)
        counts = (2 * log_norm >= jnp.log(bound)) & jnp.isfinite(log_norm)
        with _check.derivatives():
            pulled = jax.vjp(lambda x: step(x, u), x)[1](jnp.where(counts, direction, 1.0).astype(x.dtype))[0]
        ratio = jnp.sum(pulled**2) if squared else _length(pulled)
        return jnp.where(counts, (ratio - 1) ** 2, 0.0)

    return jax.vmap(term)(xs[:-1], inputs, cotangents).sum()


def _wide(leaf):
    """At least in float32: a sum of 65,520 ones is infinite in float16."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


@jit_wide
def _clip(gradients, max_norm):
    floats, others = equinox.partition(gradients, equinox.is_inexact_array)
    leaves = jax.tree.leaves(floats)
    if not leaves:
        return gradients, jnp.zeros_like(max_norm)
    largest = jax.lax.stop_gradient(jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves]).max())
    finite = jnp.isfinite(largest)
    ordinary = finite & (largest > 0)  # a zero gradient has no direction either; as it is, it is differentiable
    unit = jnp.where(ordinary, largest, 1)  # the norm of g / unit neither over- nor underflows
    units = jax.tree.map(lambda leaf: jnp.where(ordinary, leaf, 0) / unit, floats)
    square = sum(jnp.sum(jnp.abs(_wide(leaf)) ** 2) for leaf in jax.tree.leaves(units))
    length = jnp.sqrt(jnp.where(ordinary, square, 1))
    clips = ordinary & (length > max_norm / unit)

    def clip(leaf, scaled):
        shorter = jnp.where(clips, scaled * (max_norm / length), leaf)
        return jnp.where(finite, shorter, 0).astype(leaf.dtype)

    clipped = jax.tree.map(clip, floats, units)
    return equinox.combine(clipped, others), jnp.where(ordinary, length * unit, largest)
