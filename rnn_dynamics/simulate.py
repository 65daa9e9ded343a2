"""Trajectories of maps: x_0, x_1 = F(x_0, u_0), ..., x_T.

Row 3 of the layer table: above `models`, which it does not need: any callable `(x, u) -> x` is a map. Next:
`jacobians`, which linearises along a trajectory; `flows`, the same in continuous time.
"""

import math
from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import jit_wide, untiled

__all__ = ["Settled", "final_state", "settle", "trajectory"]


def trajectory(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree = None,
    *,
    num_steps: int | None = None,
    parallel: bool = False,
) -> Float[Array, "S n"]:
    """Every state of the orbit of a map, the initial one first.

    $$ x_{t+1} = F(x_t, u_t), \\qquad t = 0 \\dots T-1 $$

    Its derivatives, of every order, linearise the map at all states side by side; only the recursion
    y ↦ J_t y + c_t, or its transpose, runs step by step.

    Args:
        step: The map F, `(x, u) -> x`.
        x0: Initial state. It is promoted to the dtype in which the map works.
        inputs: A pytree of arrays with a leading time axis: `inputs[t]` drives x_t to x_{t+1}. None for an
            autonomous map, whose `step` then receives `u = None`.
        num_steps: T; needed without inputs, and must agree with their length otherwise.
        parallel: Cut the orbit into √T/4 blocks and run them side by side, twice: from x_0, and each from where the
            one before it ended. If, to the last bit, that is where it ends again, the blocks are one orbit: the one
            that single steps lead along, up to the order of sums in a product. So is an orbit that forgets within a
            block where it started, with a largest Lyapunov exponent below about -9/√T. Any other is then run step by
            step, for up to half as much time again. Inside `jax.vmap` all of this is always done.

    Returns:
        x_0 ... x_T in the units of the state. An orbit that leaves the floating-point numbers is infinite or NaN from
        that step on: `jnp.isfinite(xs).all(-1)` tells which.

    Raises:
        ValueError: x0 is not a finite float array (n,); inputs hold NaN or infinity, or disagree with each other or
            with num_steps; neither inputs nor num_steps is given; parallel is no bool; step changes the shape of the
            state.

    Example:
        >>> trajectory(lambda x, u: 0.5 * x + u, jnp.array([1.0]), jnp.array([0.0, 1.0]))
        Array([[1.  ],
               [0.5 ],
               [1.25]], dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 1.
    """
    x0 = _check.state("x0", x0)
    _check.instance("parallel", parallel, bool)
    return _trajectory(step, x0, inputs, _check.inputs(inputs, num_steps), parallel)


def final_state(
    step: Callable, x0: Float[Array, " n"], inputs: PyTree = None, *, num_steps: int | None = None
) -> Float[Array, " n"]:
    """The last state of the orbit of a map, x_T, without keeping the others.

    Forward-mode derivatives keep none either. Reverse mode has to, and `trajectory(...)[-1]` is then the faster.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `trajectory`.
        num_steps: T; as in `trajectory`.

    Returns:
        x_T in the units of the state.

    Raises:
        ValueError: as `trajectory`.

    Example:
        >>> final_state(lambda x, u: jnp.cos(x), jnp.array([1.0]), num_steps=100).round(6)
        Array([0.739085], dtype=float64)
    """
    x0 = _check.state("x0", x0)
    return _final_state(step, x0, inputs, _check.inputs(inputs, num_steps))


class Settled(equinox.Module):
    """Where an orbit has come after its transient, and whether it repeats from there on."""

    orbit: Float[Array, "P n"]
    """The states of the `max_period` steps after the transient."""
    period: Int[Array, ""]
    """Its least period; 0 where it has none, or has not settled yet; -1 where it left the floating-point numbers."""

    def __repr__(self) -> str:
        if not _check.known(self.period) or jnp.ndim(self.period):
            return f"Settled(orbits of shape {self.orbit.shape})"
        period = int(self.period)
        words = {0: "no period", -1: "diverged"}
        return f"Settled({words.get(period, f'period {period}')})"


def settle(
    step: Callable,
    x0: Float[Array, " n"],
    u: PyTree = None,
    *,
    num_steps: int,
    max_period: int = 16,
    tol: float | None = None,
) -> Settled:
    r"""The orbit of an autonomous map, or of one under constant input, once its transient is over; and its period.

    The period is the least p with $\|x_{t+p} - x_t\|_\infty \le tol\,(1 + \|x_t\|_\infty)$ at t = num_steps. An orbit
    that nears an attractor of multiplier μ has then come to within tol/(1 - |μ|) of it.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        u: The input, held constant.
        num_steps: Length of the transient.
        max_period: The largest period looked for.
        tol: How nearly the orbit must close; by default 100 machine epsilons.

    Returns:
        `max_period` states and the period.

    Raises:
        ValueError: x0 is not a finite float array (n,), counts that are too small, a tolerance that is not positive, a
            step that changes the shape of the state.

    Example:
        >>> from rnn_dynamics.models.reference import Logistic
        >>> settle(Logistic(3.5), jnp.array([0.3]), num_steps=1000)
        Settled(period 4)
    """
    x0 = _check.state("x0", x0)
    num_steps = _check.count("num_steps", num_steps)
    max_period = _check.count("max_period", max_period, least=1)
    if tol is not None:
        _check.positive("tol", tol)
    return _settle(step, x0, u, num_steps, max_period, tol)


@jit_wide
def _settle(step, x0, u, num_steps, max_period, tol):
    x0 = _check.next_state(step, x0, u)
    tol = 100 * jnp.finfo(x0.dtype).eps if tol is None else tol
    x = jax.lax.fori_loop(0, num_steps, lambda _, x: step(x, u), x0)
    _, orbit = jax.lax.scan(lambda x, _: (step(x, u), x), x, length=max_period + 1)
    near = jnp.abs(orbit[1:] - x).max(axis=1) <= tol * (1 + jnp.abs(x).max())
    period = jnp.where(near.any(), 1 + jnp.argmax(near), 0)
    return Settled(orbit[:-1], jnp.where(jnp.isfinite(orbit).all(), period, -1))


@jit_wide
def _trajectory(step, x0, inputs, num_steps, parallel):
    x0 = _check.first_state(step, x0, inputs)
    step = equinox.filter_closure_convert(step, x0, _first(inputs))  # what it closes over has a derivative too
    last, xs = _orbit(step, x0, inputs, num_steps=num_steps, parallel=parallel)
    return jnp.concatenate([xs, last[None]])


@jit_wide
def _final_state(step, x0, inputs, num_steps):
    x0 = _check.first_state(step, x0, inputs)
    return jax.lax.scan(lambda x, u: (untiled(step(x, u)), None), x0, inputs, length=num_steps)[0]


@equinox.filter_custom_jvp
def _orbit(step, x0, inputs, *, num_steps, parallel):
    """x_T, and x_0 ... x_{T-1}."""
    return (_in_blocks if parallel and num_steps > 0 else _scan)(step, x0, inputs, num_steps)


@_orbit.def_jvp
def _(primals, tangents, *, num_steps, parallel):
    """y_{t+1} = J_t y_t + c_t, where c_t is what the tangents of the map's parameters and of u_t make of x_t."""
    step, x0, inputs = primals
    last, xs = _orbit(step, x0, inputs, num_steps=num_steps, parallel=parallel)
    y0, moved = tangents[1], (tangents[0], tangents[2])
    moves = jax.tree.map(lambda tangent: tangent is not None, moved, is_leaf=lambda tangent: tangent is None)
    free, fixed = equinox.partition((step, inputs), moves)

    def images(free):
        step, inputs = equinox.combine(free, fixed)
        return jax.vmap(step)(xs, inputs)

    # Of all steps at once: transposed for reverse mode, it is one product of matrices, not an outer product a step.
    pushes = jax.jvp(images, (free,), (moved,))[1] if jax.tree.leaves(moved) else None

    def advance(y, at):
        x, u, push = at
        y = jax.linearize(lambda x: step(x, u), x)[1](y)
        return y if push is None else y + push

    y0 = jnp.zeros_like(x0) if y0 is None else y0
    return (last, xs), _scan(advance, y0, (xs, inputs, pushes), num_steps)


def _first(inputs):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)


def _scan(function, x, inputs, num_steps):
    """The loop over x ↦ function(x, u): the state after it, and those before each of its steps.

    What of the function does not depend on the state, such as W_in u or the slopes of a linearisation, is computed
    ahead for all steps side by side, unless it takes more memory than a few trajectories.
    """
    closed = jax.make_jaxpr(function)(x, _first(inputs))
    jaxpr, (state, *given) = closed.jaxpr, closed.jaxpr.invars
    fixed, ahead, late = [], [], []
    by_input, by_state = set(given), {state}
    for equation in jaxpr.eqns:
        read = _variables(equation.invars)
        large = any(v.aval.size > 4 * x.size for v in equation.outvars)
        if read & by_state or (read & by_input and large) or equation.effects:
            late.append(equation)
            by_state.update(equation.outvars)
        elif read & by_input:
            ahead.append(equation)
            by_input.update(equation.outvars)
        else:
            fixed.append(equation)

    def part(equations, known, wanted):
        piece = jaxpr.replace(constvars=[], invars=known, outvars=wanted, eqns=equations)
        return jaxpr_as_fun(ClosedJaxpr(piece, []))

    def results(equations):
        return [v for equation in equations for v in equation.outvars]

    read = _variables(v for equation in jaxpr.eqns for v in equation.invars) | _variables(jaxpr.outvars)
    read_late = _variables(v for equation in late for v in equation.invars) | _variables(jaxpr.outvars)
    constants = [*jaxpr.constvars, *(v for v in results(fixed) if v in read)]
    prepared = [v for v in (*given, *results(ahead)) if v in read_late]
    values = part(fixed, jaxpr.constvars, constants)(*closed.consts)
    prepare = part(ahead, [*constants, *given], prepared)
    finish = part(late, [*constants, *prepared, state], jaxpr.outvars)
    nows = jax.vmap(lambda u: prepare(*values, *jax.tree.leaves(u)))(inputs) if prepared else []
    return jax.lax.scan(lambda x, now: (finish(*values, *now, x)[0], x), x, nows, length=num_steps)


def _variables(atoms):
    return {atom for atom in atoms if isinstance(atom, Var)}


def _in_blocks(step, x0, inputs, num_steps):
    """As `_scan`; by blocks side by side if they join."""
    number = max(math.isqrt(num_steps) // 4, 1)
    size = num_steps // number
    whole = number * size
    blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(number, size, *leaf.shape[1:]).swapaxes(0, 1), inputs)

    def run(starts):
        return jax.lax.scan(lambda xs, us: (jax.vmap(step)(xs, us), xs), starts, blocks, length=size)

    def follow(ends):
        return jnp.concatenate([x0[None], ends[:-1]])

    starts = follow(run(jnp.broadcast_to(x0, (number, *x0.shape)))[0])
    ends, states = run(starts)

    def joined():
        left = jax.tree.map(lambda leaf: leaf[whole:], inputs)
        last, tail = _scan(step, ends[-1], left, num_steps - whole)
        return last, jnp.concatenate([states.swapaxes(0, 1).reshape(whole, *x0.shape), tail])

    return jax.lax.cond((follow(ends) == starts).all(), joined, lambda: _scan(step, x0, inputs, num_steps))
