"""The derivative of a map: one step, every step of a trajectory, the exact product of them all, growth on a cycle.

Row 4 of the layer table: above `simulate` and `products`. Next: `bounds`, `stability`, `sensitivity`: what a
linearisation says.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check, products
from rnn_dynamics._compile import jit, jit_wide
from rnn_dynamics.products import Product, multiplication

__all__ = ["along", "growth_on_cycle", "jacobian", "push", "transition"]

_SQUARINGS = 60
"""What a multiplier that is defective, or far from normal, adds to a power's logarithm has gone by then."""


def jacobian(step: Callable, x: Float[Array, " n"], u: PyTree = None) -> Float[Array, "n n"]:
    r"""The derivative of one step of a map.

    $$ J_{ij} = \partial F_i(x, u) / \partial x_j $$

    A map that knows its own derivative (a method `jacobian(x, u)`, as the package's models have) is asked for it;
    any other is differentiated in forward mode, n columns at once.

    Args:
        step: The map F, `(x, u) -> x`.
        x: The state at which to differentiate.
        u: The input of that step.

    Returns:
        J: row i says how x'_i answers to each x_j.

    Raises:
        ValueError: x is not a finite float array (n,), or step changes its shape.

    Example:
        >>> jacobian(lambda x, u: x[::-1] ** 2, jnp.array([1.0, 3.0]))
        Array([[0., 6.],
               [2., 0.]], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5, one factor (the paper prints the transpose).
    """
    return _jacobian(step, _check.state("x", x), u)


def along(step: Callable, xs: Float[Array, "S n"], inputs: PyTree = None) -> Float[Array, "S-1 n n"]:
    r"""The Jacobian of every step of a trajectory: entry t is ∂x_{t+1}/∂x_t, taken at x_t.

    Args:
        step: The map, `(x, u) -> x`.
        xs: A trajectory x_0 ... x_T. The last state is where the last step arrives: nothing is differentiated there.
        inputs: The inputs that drove it, with a leading time axis of length T; None if there were none.

    Returns:
        T Jacobians, in the order of time.

    Raises:
        ValueError: xs is not a finite float array (T+1, n) with T ≥ 0, or inputs are not T steps long.

    Example:
        >>> along(lambda x, u: x**2, jnp.array([[2.0], [4.0], [16.0]]))
        Array([[[4.]],
        <BLANKLINE>
               [[8.]]], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5.
    """
    return _along(step, _check.trajectory(xs, inputs), inputs)


def transition(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree = None,
    *,
    num_steps: int | None = None,
    parallel: bool = False,
) -> Product:
    r"""How the state after T steps answers to the initial one, at any length.

    $$ \frac{\partial x_T}{\partial x_0} = J_{T-1} \cdots J_1 J_0, \qquad J_t = \partial x_{t+1} / \partial x_t $$

    The Jacobians are multiplied as the map runs and never stored; the product neither over- nor underflows, and is as
    accurate as `products` says. An orbit that leaves the floats makes it NaN.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        num_steps: T; as in `simulate.trajectory`.
        parallel: Form and multiply the Jacobians in parallel over time, 1,024 at a time: see `products.cumulative`.
            The map itself still runs step by step.

    Returns:
        The product, shape (n, n), as a `products.Product`.

    Raises:
        ValueError: as `simulate.trajectory`.

    Example:
        >>> halve = transition(lambda x, u: 0.5 * x, jnp.ones(1), num_steps=10_000)
        >>> print(halve.log_norm().round(6))  # -10000 ln 2, far below the smallest float
        -6931.471806

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 5.
    """
    x0 = _check.state("x0", x0)
    _check.instance("parallel", parallel, bool)
    return (_transition_in_parallel if parallel else _transition)(step, x0, inputs, _check.inputs(inputs, num_steps))


def push(
    step: Callable, x: Float[Array, " n"], u: PyTree, tangents: Float[Array, "n k"]
) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    r"""One step of a map together with what it does to perturbations: x' = F(x, u) and J V.

    A map that knows its Jacobian is asked for it; of any other the k products are taken one by one in forward mode,
    which is cheaper than the whole Jacobian if k < n.

    Args:
        step: The map F, `(x, u) -> x`.
        x: The state.
        u: The input of the step.
        tangents: The matrix V: k perturbations of the state, one a column.

    Returns:
        The next state, and the perturbations of it to first order.

    Raises:
        ValueError: x is not a finite float array (n,), tangents are not a finite float array (n, k), or step changes
            the shape of the state.

    Example:
        >>> push(lambda x, u: x**2, jnp.array([3.0]), None, jnp.array([[1.0, -0.5]]))
        (Array([9.], dtype=float64), Array([[ 6., -3.]], dtype=float64))
    """
    x = _check.state("x", x)
    return _push(step, x, u, _check.floats("tangents", tangents, len(x), "k"))


def growth_on_cycle(
    step: Callable, orbit: Float[Array, "p n"], period: Int[Array, ""] | int, u: PyTree = None
) -> Float[Array, ""]:
    r"""How fast perturbations of a cycle grow in the long run: ln |λ|/q of its largest multiplier λ, at any length.

    $$ \frac1q \ln \rho(J_{q-1} \cdots J_0), \qquad \ln \rho(A) = \lim_{m\to\infty} \ln \|A^m\| / m $$

    Args:
        step: The map, `(x, u) -> x`.
        orbit: States in the order visited, at least a period of them; no others are looked at.
        period: q, how many of the first belong to the cycle. As an array, all periods are one program.
        u: The input, held constant.

    Returns:
        Nats per step, the largest Lyapunov exponent of the cycle: -inf if nothing is left after some rounds.

    Raises:
        ValueError: orbit is not a float array (p, n), a period outside 1 ... p, or step changes the shape of the state.

    Example:
        >>> print(growth_on_cycle(lambda x, u: -0.5 * x[::-1], jnp.zeros((4, 2)), 1).round(6))  # λ = ±1/2
        -0.693147

    References:
        Gelfand (1941), for the limit; here by squaring.
    """
    orbit = _check.floats("orbit", orbit, "p", "n", check_finite=False)
    allowed = f"lie between 1 and the {len(orbit)} states of orbit"
    _check.within("period", period, allowed, lambda period: (period >= 1) & (period <= len(orbit)))
    return _growth_on_cycle(step, orbit, period, u)


@jit
def _growth_on_cycle(step, orbit, period, u):
    orbit = orbit.astype(_check.next_state(step, orbit[0], u).dtype)

    def scaled(a):
        size = jnp.abs(a).max()
        return a / jnp.where(size == 0, 1, size), size

    def multiply(i, carry):
        product, log = carry
        product, size = scaled(_jacobian(step, orbit[i], u) @ product)
        return product, log + jnp.log(size)

    def square(i, carry):
        power, log = carry
        power, size = scaled(power @ power)
        return power, log + jnp.log(size) / 2.0 ** (i + 1)

    eye, zero = jnp.eye(orbit.shape[1], dtype=orbit.dtype), jnp.zeros((), orbit.dtype)
    product = jax.lax.fori_loop(0, period, multiply, (eye, zero))
    return jax.lax.fori_loop(0, _SQUARINGS, square, product)[1] / period


@jit
def _push(step, x, u, tangents):
    x = _check.next_state(step, x, u)
    tangents = tangents.astype(x.dtype)
    own = getattr(step, "jacobian", None)
    if own:
        return step(x, u), own(x, u) @ tangents
    with _check.derivatives():
        image, differential = jax.linearize(lambda x: step(x, u), x)
        return image, jax.vmap(differential, in_axes=1, out_axes=1)(tangents)


@jit
def _jacobian(step, x, u):
    x = _check.next_state(step, x, u)
    own = getattr(step, "jacobian", None)
    return own(x, u) if own else jax.jacfwd(step)(x, u)


@jit_wide
def _along(step, xs, inputs):
    return jax.vmap(lambda x, u: _jacobian(step, x, u))(xs[:-1], inputs)


@jit
def _transition(step, x0, inputs, num_steps):
    x0 = _check.first_state(step, x0, inputs)
    factor = lambda x, u: (step(x, u), _jacobian(step, x, u))  # noqa: E731
    return multiplication.scan(factor, x0, len(x0), x0.dtype, inputs, num_steps, every=False)


@jit
def _transition_in_parallel(step, x0, inputs, num_steps):
    x0 = _check.first_state(step, x0, inputs)
    product = products.identity(len(x0), x0.dtype)
    if num_steps == 0:
        return product
    size = multiplication.stretch_size(num_steps)
    stretches = -(-num_steps // size)
    # Filled up with steps that change nothing; the map is asked about its first one there, which it is known to take.
    taken = (jnp.arange(stretches * size) < num_steps).reshape(stretches, size)

    def fill(leaf):
        filled = jnp.concatenate([leaf, jnp.repeat(leaf[:1], taken.size - num_steps, axis=0)])
        return filled.reshape(stretches, size, *leaf.shape[1:])

    def forward(x, at):
        u, taken = at
        safe = jnp.where(taken, x, x0)
        return jnp.where(taken, step(safe, u), x), safe

    def advance(carry, at):
        x, product = carry
        x, xs = jax.lax.scan(forward, x, at)
        js = jax.vmap(lambda x, u: _jacobian(step, x, u))(xs, at[0])
        js = jnp.where(at[1][:, None, None], js, jnp.eye(len(x), dtype=x.dtype))
        return (x, multiplication.advance(product, js)[0]), None

    return jax.lax.scan(advance, (x0, product), (jax.tree.map(fill, inputs), taken))[0][1]
