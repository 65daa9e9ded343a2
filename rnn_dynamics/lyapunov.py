"""How fast nearby orbits part, direction by direction: Lyapunov exponents, with error bars, and what follows of them.

Row 5 of the layer table: above `jacobians` and `flows`. Exponents are in nats per step (of a field: per unit of
time), the largest first. Next: `covariant`, the directions themselves.
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_dynamics import _check, _graded, flows, jacobians
from rnn_dynamics._compile import any_lane, jit, on_one_blas_thread

__all__ = ["Spectrum", "entropy", "flow_spectrum", "kaplan_yorke", "participation_ratio", "spectrum"]

_LONGEST = 64  # steps between two eliminations at most, when the interval is chosen automatically


class Spectrum(equinox.Module):
    """Lyapunov exponents of one orbit, the largest first, with what there is to know about their accuracy."""

    exponents: Float[Array, " k"]
    """Nats per step (of a field: per unit of time); -inf where the Jacobian is singular to working precision (or, if
    `condition` is infinite, may only seem so), and NaN if no step was averaged."""
    standard_error: Float[Array, " k"]
    """Of each exponent, from the scatter of block means; infinite if there are fewer than two blocks."""
    history: Float[Array, "blocks k"]
    """The running average at the end of each of about √T blocks; its last row is `exponents`, in their order."""
    drift: Float[Array, " k"]
    """Mean of the second half less that of the first, in units of its own standard error (twice `standard_error`):
    beyond about 3 the run was too short to have settled."""
    condition: Float[Array, ""]
    """The most that a column lost to those before it, as a factor, in one elimination and in one QR, multiplied:
    rounding has cost the exponents that are finite at most about this many machine epsilons. Infinite if a column was
    lost while several steps shared one QR: `interval=1` tells whether the Jacobian is singular."""
    num_averaged: Int[Array, ""]
    """Steps that entered the averages: fewer than asked for if the orbit left the floating-point numbers."""
    num_asked: int = equinox.field(static=True)

    @property
    def status(self) -> str | np.ndarray:
        """ "converged", or "diverged": the exponents are those before the orbit left the floats. Arrays after vmap."""
        done = lambda number: number == np.asarray(self.num_asked)  # noqa: E731
        return _check.word("status", self.num_averaged, done, "converged", "diverged", instead="num_averaged")

    def __repr__(self) -> str:
        if self.exponents.ndim > 1 or not _check.known(self.exponents):
            return f"Spectrum(exponents of shape {self.exponents.shape})"
        pairs = zip(self.exponents[:3], self.standard_error, strict=False)
        shown = ", ".join(f"{value:.4f} ± {error:.1g}" for value, error in pairs)
        more = ", ..." if len(self.exponents) > 3 else ""
        return f"Spectrum({shown}{more}; {int(self.num_averaged)} steps, {self.status})"


def spectrum(
    step: Callable,
    x0: Float[Array, " n"],
    inputs: PyTree = None,
    *,
    num_steps: int | None = None,
    num_exponents: int | None = None,
    num_transient: int = 0,
    interval: int | Literal["auto"] = 1,
) -> Spectrum:
    r"""The Lyapunov exponents along one orbit of a map, autonomous or driven.

    $$ \lambda_i = \lim_{T\to\infty} \frac1T \sum_t \ln r_{ii}(t), \qquad J_t Q_t = Q_{t+1} R_t $$

    with R upper triangular and its diagonal made positive (Householder QR). The first matrix Q is random and the same
    in every run, so k exponents are the first k of a full run.

    The run is cut into about √T blocks of consecutive steps. If s is the standard deviation of the B block means, the
    standard error is s/√B: blocks much longer than the memory of the dynamics are independent (batch means).

    Several steps may share one QR. Between two of them a column loses digits to those before it, ‖column of R‖/r_ii
    of them as a factor; `condition` is the largest factor met. Columns about to leave the floats are factorised early.
    If it is one step and k = n, rows of J that differ in size, as those of diag(σ′) W do, lose nothing: QR takes them
    in order of size (Cox and Higham), and the factor is their size, weighted as in column i of Q, over r_ii. Nor do
    columns, as those of W diag(σ′): where the factor is beyond ε^{-1/2}, J is factorised alone first, and R_J Q then.
    With k < n it is not known what forming J Q has lost, and not counted.

    With "auto" QR comes at the end of a block. Until then only the span of the leading columns matters, and elimination
    with partial pivoting keeps it at a quarter of the work: J_t L_t = Pᵀ L_{t+1} U_t, with (|L||U|)_ii/|u_ii| for the
    factor of one step. Each interval follows the fastest growth of late, to stay near ε^{-0.45}: 10⁷ in float64.

    Args:
        step: The map, `(x, u) -> x`.
        x0: Initial state.
        inputs: As in `simulate.trajectory`.
        num_steps: All steps, the transient included; as in `simulate.trajectory`.
        num_exponents: k, how many, from the largest; all n by default.
        num_transient: Steps that come first and are not averaged, in which orbit and Q settle.
        interval: Steps per QR, or "auto": the fastest.

    Returns:
        The exponents in nats per step, and their accuracy.

    Raises:
        ValueError: num_exponents outside 1 ... n, no step left after the transient, an interval below 1, a state
            narrower than float32; otherwise as `simulate.trajectory`.

    Example:
        >>> rotate = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        >>> spectrum(lambda x, u: 0.5 * rotate @ x, jnp.ones(2), num_steps=100).exponents.round(6)
        Array([-0.693147, -0.693147], dtype=float64)

    References:
        Benettin et al. (1980); Bauer (1957): elimination; Flegal, Jones (2010): batch means; Cox, Higham (1998): rows.
    """
    x0 = _check.state("x0", x0)
    total = _check.inputs(inputs, num_steps)
    num_exponents, num_transient = _checked_counts(x0, total, num_exponents, num_transient)
    if interval != "auto":
        interval = _check.count("interval", interval, least=1)
    return on_one_blas_thread(_spectrum, step, x0, inputs, total, num_exponents, num_transient, interval)


def flow_spectrum(
    field: Callable,
    x0: Float[Array, " n"],
    *,
    duration: Float[Array, ""] | float,
    interval: Float[Array, ""] | float,
    num_exponents: int | None = None,
    transient: Float[Array, ""] | float = 0.0,
    rtol: Float[Array, ""] | float = 1e-9,
    atol: Float[Array, ""] | float = 1e-12,
) -> Spectrum:
    r"""The Lyapunov exponents along one orbit of an autonomous field, per unit of time.

    Beside $\dot x = f(x)$ the factors Q and ln r_ii of its tangents are solved for (`flows.turn`), so that none shrinks
    out of sight; otherwise as `spectrum`. An orbit that does not end at a fixed point has one exponent 0.

    Args:
        field: f, `(x, u) -> dx/dt`; it receives `u = None`.
        x0: Initial state.
        duration: Time averaged over, in whole intervals (rounded).
        interval: Time between two QRs, which take from Q what error it has gathered: a few turns of the orbit are safe.
        num_exponents: k, how many, from the largest; all n by default.
        transient: Time that comes first and is not averaged, in whole intervals (rounded).
        rtol: Relative error allowed per solver step, for the orbit, Q and each r_ii; as in `flows.integrate`.
        atol: Absolute error allowed per solver step, for the orbit.

    Returns:
        The exponents in nats per unit of time; `num_averaged` counts intervals. A solver that gives up is "diverged".

    Raises:
        ValueError: a time or tolerance not positive (transient: negative), a time a tracer; otherwise as `spectrum`.

    Example:
        >>> flow_spectrum(lambda x, u: -jnp.array([1.0, 3.0]) * x, jnp.ones(2), duration=10.0, interval=0.5,
        ...               transient=20.0).exponents.round(4)
        Array([-1., -3.], dtype=float64)

    References:
        Benettin, Galgani, Giorgilli, Strelcyn (1980).
    """
    x0 = _check.state("x0", x0)
    for name, value in (("duration", duration), ("interval", interval), ("rtol", rtol), ("atol", atol)):
        _check.positive(name, value)
    _check.within("transient", _check.number("transient", transient), "be at least 0", lambda value: value >= 0)
    if not all(map(_check.known, times := (duration, interval, transient))):
        raise ValueError("duration, interval and transient must be known; got a tracer")
    duration, interval, transient = map(float, times)
    _check.within("duration", duration, f"be at least an interval, {interval:g}", lambda value: value >= interval / 2)
    num_transient = round(transient / interval)
    total = num_transient + round(duration / interval)
    num_exponents, num_transient = _checked_counts(x0, total, num_exponents, num_transient)
    return on_one_blas_thread(_flow_spectrum, field, x0, total, num_exponents, num_transient, interval, rtol, atol)


def kaplan_yorke(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    r"""The Kaplan-Yorke dimension: how many exponents, the last one in part, add up to zero.

    $$ D = j + \frac{\lambda_1 + \dots + \lambda_j}{|\lambda_{j+1}|}, \qquad
       j = \max\{i : \lambda_1 + \dots + \lambda_i \ge 0\} $$

    Args:
        exponents: In any unit, descending. If the sum of all is not negative the dimension is k (at least k, if
            these are the leading ones of a larger system).

    Returns:
        D, dimensionless: 0 if λ₁ < 0.

    Raises:
        ValueError: exponents are not a float array (k,), hold NaN or +inf, or ascend.

    Example:
        >>> kaplan_yorke(jnp.array([0.4192, -1.6232])).round(3)
        Array(1.258, dtype=float64)

    References:
        Kaplan and Yorke (1979).
    """
    exponents = _check_exponents(exponents)
    sums = jnp.cumsum(exponents)
    j = jnp.sum(jnp.cumprod(sums >= 0))
    last = jnp.clip(j, 0, len(exponents) - 1)
    before = jnp.where(j > 0, sums[jnp.maximum(j - 1, 0)], 0.0)
    return jnp.where(j == len(exponents), 1.0 * j, j + before / jnp.abs(jnp.where(j > last, 1.0, exponents[last])))


def entropy(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """The Kolmogorov-Sinai entropy by Pesin's formula: the sum of the positive exponents.

    Args:
        exponents: Descending.

    Returns:
        Nats per step (or per unit of time). An upper bound where the invariant measure is not smooth along the
        unstable directions (Ruelle's inequality).

    Raises:
        ValueError: as `kaplan_yorke`.

    Example:
        >>> entropy(jnp.array([0.5, 0.25, -2.0]))
        Array(0.75, dtype=float64)

    References:
        Pesin (1977); Eckmann and Ruelle (1985).
    """
    return jnp.maximum(_check_exponents(exponents), 0).sum()


def participation_ratio(xs: Float[Array, "T n"]) -> Float[Array, ""]:
    r"""In how many linear dimensions an orbit spreads: $(\sum_i c_i)^2 / \sum_i c_i^2$, c the covariance's eigenvalues.

    Args:
        xs: States of the orbit, the transient left out.

    Returns:
        Between 1 (a line) and n (equal spread); 0 for an orbit that stands still. A unit that stays within 8 machine
        epsilons of its largest value stands still.

    Raises:
        ValueError: xs is not a finite float array (T, n) with T ≥ 2.

    Example:
        >>> participation_ratio(jnp.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]))
        Array(2., dtype=float64)

    References:
        Engelken, Wolf, Abbott (2023).
    """
    xs = _check.floats("xs", xs, "T", "n")
    if len(xs) < 2:
        raise ValueError(f"xs must hold at least two states; got shape {xs.shape}")
    least, moved = jnp.finfo(xs.dtype), xs / 8 - xs[0] / 8  # so that neither a difference nor its inverse overflows
    moved = jnp.where(jnp.abs(moved).max(axis=0) > least.eps * jnp.abs(xs).max(axis=0), moved, 0.0)
    moved = moved / jnp.maximum(jnp.abs(moved).max(), least.tiny)
    covariance = (moved - moved.mean(axis=0)).T @ (moved - moved.mean(axis=0))
    square = jnp.sum(covariance**2)
    return jnp.where(square > 0, jnp.trace(covariance) ** 2 / jnp.where(square > 0, square, 1), 0.0)


def _checked_counts(x0, total, num_exponents, num_transient):
    num_exponents = len(x0) if num_exponents is None else _check.count("num_exponents", num_exponents, least=1)
    if num_exponents > len(x0):
        raise ValueError(f"num_exponents must be at most the {len(x0)} units of the state; got {num_exponents}")
    num_transient = _check.count("num_transient", num_transient)
    if num_transient >= total:
        raise ValueError(f"num_transient must be less than the {total} steps; got {num_transient}")
    return num_exponents, num_transient


def _check_exponents(exponents):
    if len(exponents := _check.floats("exponents", exponents, "k", check_finite=False)) == 0:
        raise ValueError("exponents must hold at least one; got none")
    allowed = "be descending, and neither NaN nor +inf"
    _check.within("exponents", exponents, allowed, lambda e: (e < np.inf).all() & (e[1:] <= e[:-1]).all())
    return exponents


@jit
def _spectrum(step, x0, inputs, total, num_exponents, num_transient, interval):
    x0 = _check.first_state(step, x0, inputs)
    push = lambda x, q, u: (*jacobians.push(step, x, u, q), 0.0)  # noqa: E731
    jacobian = lambda x, u: jacobians.jacobian(step, x, u)  # noqa: E731
    return _average(push, jacobian, x0, inputs, total, num_exponents, num_transient, interval)


@jit
def _flow_spectrum(field, x0, total, num_exponents, num_transient, interval, rtol, atol):
    x0 = _check.next_state(field, x0, name="field")
    push = lambda x, q, _: flows.turn(field, x, q, interval, rtol=rtol, atol=atol)  # noqa: E731
    found = _average(push, None, x0, None, total, num_exponents, num_transient, 1)
    rates = lambda found: (found.exponents, found.standard_error, found.history)  # noqa: E731
    return equinox.tree_at(rates, found, replace_fn=lambda rate: rate / interval)


def _average(push, jacobian, x0, inputs, total, num_exponents, num_transient, interval):
    """Scans orbit and tangents, gathers ln r_ii into blocks, and makes a Spectrum of them.

    `push(x, q, u)` gives the next state, J q e^{-l}, and l; `jacobian(x, u)` gives J, if it is not None. Whether to
    factorise after a step is decided by the steps since the last time and the interval then chosen; the end of a block
    is always a time, as is the end of the floats.
    """
    _check.at_least_single(x0)
    num_blocks = math.isqrt(averaged := total - num_transient)
    boundary = np.arange(-num_transient, averaged + 1) * num_blocks // averaged  # blocks begun before each step
    blocks = np.where(np.arange(total) < num_transient, num_blocks, boundary[:-1])
    is_end = (np.diff(boundary) > 0) | (np.arange(1, total + 1) == num_transient)
    target = max(0.0, -0.45 * math.log(float(jnp.finfo(x0.dtype).eps)) - math.log(len(x0)))
    smallest = float(jnp.finfo(x0.dtype).tiny) ** 0.25  # a square must stay in the floats, after one more step
    whole, auto = num_exponents == len(x0) > 1, interval == "auto"
    dtype, one, zeros = x0.dtype, jnp.ones((), x0.dtype), jnp.zeros(num_exponents, x0.dtype)
    serious = float(jnp.finfo(dtype).eps) ** -0.5

    def wait(q, _):
        return q, zeros, zeros, one

    def factorise(q, alone):
        return _graded.triangle_with_losses(q) if auto else _graded.qr_with_losses(q, alone & whole)

    def again(bad, found, x, q, u):
        """One step factorised with more care, where that loses less."""
        other = _graded.qr_of_product(jacobian(x, u), q)
        new, old = (jnp.log(jnp.minimum(factors, serious**4)).sum() for factors in (other[2], found[2]))
        return jax.tree.map(lambda new_, old_: jnp.where(bad & (new < old), new_, old_), other, found)

    def advance(carry, now):
        (x, q, since, chosen, growth, alive), (logs, counts, lost, skew) = carry
        u, block, is_end = now
        old, (new_x, new_q, pushed) = (x, q), push(x, q, u)
        sizes = jnp.abs(new_q).max(axis=0)
        was_alive, alive = alive, alive & jnp.isfinite(new_x).all() & jnp.isfinite(len(x0) * sizes).all()
        x, q, since = jnp.where(alive, new_x, x), jnp.where(alive, new_q, q), since + alive
        is_end |= was_alive & ~alive

        due = is_end | (since >= chosen) | (sizes.max() > 1 / smallest) | (sizes.min() < smallest)
        found = factorise(q, True) if interval == 1 else jax.lax.cond(due, factorise, wait, q, since < 2)
        if whole and jacobian is not None:
            bad = alive & due & (since < 2) & (found[2].max() > serious)
            found = jax.lax.cond(any_lane(bad), again, lambda _, found, *__: found, bad, found, *old, u)
        q, log, factor, stretch = found[0], found[1] + jnp.where(alive, pushed, 0.0), *found[2:]
        gone = log == -jnp.inf
        factor = jnp.where(gone, 1, factor).max()
        # Rows of a product keep no digits of their own; nor is it known whether a column lost in it was J's to lose.
        factor = jnp.where(since > 1, jnp.where(gone.any(), jnp.inf, stretch), factor)
        if auto:
            q, more, turned, _ = jax.lax.cond(is_end, _graded.qr_with_losses, wait, q, False)
            log, skew = log + more, jnp.where(block < num_blocks, jnp.maximum(skew, turned.max()), skew)
            # Stretch grows like n·e^{growth·interval}, n being what a random matrix has. One calm interval does not
            # promise another: the fastest growth seen is forgotten slowly, and an interval at most doubles.
            seen = (jnp.log(stretch) - math.log(len(x0))) / jnp.maximum(since, 1)
            seen = jnp.where(gone.any(), target, seen)  # next time after one step
            growth = jnp.where(due, jnp.maximum(seen, 0.98 * growth), growth)
            longer = jnp.minimum(target / jnp.maximum(growth, target / _LONGEST), 2.0 * since)
            chosen = jnp.where(due, jnp.maximum(1, longer.astype(since.dtype)), chosen)
        counted = due & was_alive & (since > 0)
        logs = jax.lax.dynamic_update_index_in_dim(logs, logs[block] + jnp.where(counted, log, 0.0), block, 0)
        counts = counts.at[block].add(jnp.where(counted, since, 0))
        lost = jnp.where(block < num_blocks, jnp.maximum(lost, factor), lost)
        return ((x, q, jnp.where(due, 0, since), chosen, growth, alive), (logs, counts, lost, skew)), None

    start = np.linalg.qr(np.random.default_rng(0).standard_normal((len(x0), len(x0))))[0][:, :num_exponents]
    first = jnp.asarray(1 if interval == "auto" else interval)
    state = (x0, jnp.asarray(start, dtype), jnp.zeros_like(first), first, jnp.zeros((), dtype), jnp.array(True))
    sums = (jnp.zeros((num_blocks + 1, num_exponents), dtype), jnp.zeros(num_blocks + 1, int), one, one)
    steps = inputs, jnp.asarray(blocks), jnp.asarray(is_end)
    _, (logs, counts, lost, skew) = jax.lax.scan(advance, (state, sums), steps)[0]
    return _summary(logs[:-1], counts[:-1], lost * skew, averaged)


def _summary(logs, counts, condition, num_asked):
    history = jnp.cumsum(logs, axis=0) / jnp.cumsum(counts)[:, None]  # 0/0 if no step was averaged
    history = jnp.where(jnp.isneginf(history), -jnp.inf, history)  # derivative 0, though other steps have one
    order = jnp.argsort(-history[-1])
    means, history = (logs / jnp.maximum(counts, 1)[:, None])[:, order], history[:, order]
    index, num = jnp.arange(len(counts))[:, None], jnp.sum(counts > 0)  # blocks after the end of the floats are empty

    def mean(of, first, last):
        return jnp.sum(jnp.where((index >= first) & (index < last), of, 0.0), axis=0) / jnp.maximum(last - first, 1)

    error = jnp.sqrt(mean((means - mean(means, 0, num)) ** 2, 0, num) / jnp.maximum(num - 1, 1))
    error = jnp.where(jnp.isfinite(history[-1]) & (num > 1), error, jnp.inf)
    change = mean(means, num - num // 2, num) - mean(means, 0, num // 2)
    floor = jnp.finfo(means.dtype).eps * num_asked  # rounding: a difference below it says nothing
    drift = jnp.where(jnp.isfinite(change), change / (2 * jnp.maximum(error, floor)), 0.0)
    return Spectrum(history[-1], error, history, drift, condition, counts.sum(), num_asked)
