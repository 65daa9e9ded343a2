"""The diagonal scaling D of the least ‖DWD⁻¹‖₂.

Row 5 of the layer table: above `radii`. Next: `network`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_dynamics._compile import jit
from rnn_dynamics.bounds.radii import even, groups, norm_of

__all__ = ["least_scaled_norm"]


@jax.custom_jvp
@jit
def least_scaled_norm(w):
    """The least ‖DWD⁻¹‖₂, D, and the derivative of the minimum with respect to w (by the envelope theorem)."""
    eps, widest = float(jnp.finfo(w.dtype).eps), math.log(float(jnp.finfo(w.dtype).max)) / 2
    same, level = groups(w)
    core = jnp.where(same, w, 0)
    x, slopes = _minimise(core)
    x = x * jnp.minimum(1, widest / jnp.maximum(jnp.ptp(x), 1))  # the norm is log-convex: part of x is better than none
    x = x - level * jnp.minimum(-math.log(eps), (widest - jnp.ptp(x)) / jnp.maximum(level.max(), 1))
    scaling = jnp.exp(x - x.mean())
    norm, plain = norm_of(scaling[:, None] / scaling * w), norm_of(w)
    norm, scaling = jnp.where(norm < plain, norm, plain), jnp.where(norm < plain, scaling, 1)
    return norm, scaling, jnp.where(same & (core != 0).any(), norm * slopes, 0)


@least_scaled_norm.defjvp
def _(primals, tangents):
    norm, scaling, slopes = least_scaled_norm(*primals)
    return (norm, scaling, slopes), (jnp.sum(slopes * tangents[0]), 0 * scaling, jnp.nan * slopes)


# With X = diag x, M = e^X W e^-X: ln ‖M‖ is convex in x for every unitarily invariant norm (Sezginer, Overton 1990). So
# is φ_t(x) = min_η t ln η - ln det(I - MᵀM/η²), smooth for all x, which for t → 0 is Osborne's balancing (least ‖M‖_F)
# and for t → ∞ is t ln ‖M‖₂. Newton's method follows its minimisers, the central path of Boyd and El Ghaoui (1993).


def _evaluate(m, x, t):
    """φ_t, ln η, M/η, and the eigenvectors and eigenvalues of G = (I - MᵀM/η²)⁻¹."""
    m = m * jnp.exp(x[:, None] - x)
    size = jnp.max(jnp.abs(m))
    squares, vectors = jnp.linalg.eigh((m / size).T @ (m / size))
    squares, gap = jnp.maximum(squares, 0), squares[-1] - squares

    def newton(_, e):  # η² = σ²_max + e solves f = Σ σ²/(e + gap) = t/2; 1/f is concave: e rises to it, 7 times at most
        f = jnp.sum(squares / (e + gap))
        return e + f * (2 * f / t - 1) / jnp.sum(squares / (e + gap) ** 2)

    e = lax.fori_loop(0, 10, newton, 2 * squares[-1] / t)
    square, gain = squares[-1] + e, (squares[-1] + e) / (e + gap)
    log_eta = jnp.log(size) + jnp.log(square) / 2
    return t * log_eta + jnp.sum(jnp.log(gain)), log_eta, m / (size * jnp.sqrt(square)), vectors, gain


def _newton_step(m, vectors, gain):
    """The step, and the squared decrement. With B = MG and C = BMᵀ half the gradient is diag C - diag G + 1."""
    g = (vectors * gain) @ vectors.T
    b = m @ g
    c = b @ m.T
    g2, b2, change = g * g, b * b, jnp.diag(c) - jnp.diag(g)
    mixed = g2.sum(1) - jnp.diag(g) - b2.sum(1)  # a fourth of ∂²/∂x∂ln η; minimising over η takes off its outer product
    hessian = g2 - b2 - b2.T + c * c + jnp.diag(change) - jnp.outer(mixed, mixed) / (g2.sum() - jnp.trace(g))
    # It is 0 along an x constant in each group, and holds rounding of up to ε·max(G∘G): neither may move x far.
    values, basis = jnp.linalg.eigh(hessian)
    values = jnp.maximum(jnp.abs(values), jnp.finfo(g.dtype).eps * jnp.max(g2))
    step = -basis @ ((change + 1) @ basis / values) / 2
    return step, -2 * (change + 1) @ step


def _centre(m, x, t, tol):
    """The minimiser of φ_t, to a squared decrement of `tol`: Newton's method, steps halved until φ_t falls."""
    noise, one = 8 * jnp.finfo(m.dtype).eps * t, jnp.ones_like(t)

    def move(state):
        x, value, step, decrement, size, count = state
        new, log_eta, *parts = _evaluate(m, x + size * step, t)

        def accept():
            direction, promise = _newton_step(*parts)
            shorter = jnp.minimum(1, 2 / jnp.max(jnp.abs(direction)))  # where φ_t is nearly flat it is no guide
            return x + size * step, new, shorter * direction, shorter * promise, one

        falls = new <= value - 1e-4 * size * decrement + noise * (1 + jnp.abs(log_eta))
        return *lax.cond(falls, accept, lambda: (x, value, step, decrement, size / 2)), count + 1

    start = (x, jnp.inf * one, jnp.zeros_like(x), one, one, 0)  # the first move goes nowhere, and any value falls
    return lax.while_loop(lambda state: (state[3] > tol) & (state[4] > 1e-4) & (state[5] < 60), move, start)[0]


def _minimise(core):
    """The x of least ‖e^X core e^-X‖₂, and the derivative of the minimum's logarithm with respect to core."""
    n, eps = len(core), float(jnp.finfo(core.dtype).eps)
    powers, m, top = even(core)
    m = jnp.where((m != 0).any(), m, jnp.eye(n, dtype=m.dtype))
    # A larger t brings the minimiser nearer, by 1/t. The derivative has that error and ε·t of rounding: best half way.
    half, end = max(2.0 * n, 10 * eps**-0.5), max(2.0 * n, 0.1 / eps)
    early, late = (np.geomspace(a, b, 1 + math.ceil(math.log10(b / a))) for a, b in ((2.0 * n, half), (half, end)))
    ts, middle = jnp.asarray([*early, *late[1:]], core.dtype), len(early) - 1
    tols = jnp.full_like(ts, 0.1).at[middle].set(100 * n * eps)
    _, xs = lax.scan(lambda x, level: (x := _centre(m, x, *level), x), jnp.zeros(n, core.dtype), (ts, tols))
    _, log_eta, m, vectors, gain = _evaluate(m, xs[middle], ts[middle])
    xs += powers * math.log(2)
    logs = xs[middle][:, None] - xs[middle] - log_eta - top * math.log(2)
    return xs[-1], 2 / half * jnp.exp(logs) * (m @ (vectors * gain) @ vectors.T)
