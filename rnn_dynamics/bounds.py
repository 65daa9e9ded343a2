r"""Can gradients explode? Certified bounds on every product of step Jacobians, from the recurrent weights alone.

Row 5 of the layer table. Along any trajectory, whatever the inputs, the step Jacobian is W·diag(d), or diag(d)·W where
the activation comes last, with $0 \le |d_i| \le \gamma = \sup|\sigma'|$. A norm in which every such matrix is shorter
than one proves that gradients vanish. Three norms are tried: the 2-norm; the best 2-norm in rescaled coordinates,
$\min_D \|D W D^{-1}\|_2$, which sees that units have no common scale; and Perron's, ρ(|W|), which forgets all signs.
`joint_spectral_radius` brackets the true worst case. Next: `lyapunov`, the typical case.
"""

import math
from typing import NamedTuple

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse.csgraph import connected_components

from rnn_dynamics import _check
from rnn_dynamics._compile import jit, one_blas_thread, top_level
from rnn_dynamics.activations import Activation

__all__ = ["Bounds", "joint_spectral_radius", "network_bounds", "spectral_norm", "spectral_radius"]

_exact = jax.default_matmul_precision("highest")


def spectral_radius(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest modulus of the eigenvalues of `w`: the growth rate of its powers, and of nothing else.

    $$ \rho(W) = \max_i |\lambda_i(W)| = \lim_{k \to \infty} \|W^k\|^{1/k} $$

    Differentiable where the largest eigenvalue is simple (or one of a complex pair); 0 at the zero matrix.

    Args:
        w: The recurrent weights.

    Returns:
        A dimensionless factor per step, at most the spectral norm.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_radius(jnp.array([[0.0, 2.0], [0.1, 0.0]])).round(12)
        Array(0.4472136, dtype=float64)

    References:
        Horn, Johnson (2013), Matrix Analysis, corollary 5.6.14 and theorem 6.3.12 (its derivative).
    """
    return jit(_spectral_radius)(_square("w", w))


def spectral_norm(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest singular value of `w`: the most one step can stretch a perturbation.

    $$ \|W\|_2 = \max_{\|v\|_2 = 1} \|W v\|_2 $$

    Differentiable where the largest singular value is simple; elsewhere the derivative is one finite subgradient.

    Args:
        w: The recurrent weights.

    Returns:
        A dimensionless factor, at least the spectral radius.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_norm(jnp.diag(jnp.array([0.5, -2.0])))
        Array(2., dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 6.
    """
    return jit(_spectral_norm)(_square("w", w))


class Bounds(equinox.Module):
    r"""What the weights alone say about the growth of products of T step Jacobians $J_T \cdots J_1$.

    Every certified bound is γ times a number of W, and each certifies its own inequality:

    - γ‖W‖₂: $\|J_T \cdots J_1\|_2 \le (\gamma \|W\|_2)^T$, from the first step on.
    - γ·scaled_norm, with D = diag(scaling) and κ = max(scaling)/min(scaling): every Jacobian is at most that long in
      the norm ‖D v‖₂, so $\|J_T \cdots J_1\|_2 \le \kappa\, (\gamma \|D W D^{-1}\|_2)^T$.
    - γρ(|W|): entry by entry $|J_T \cdots J_1| \le \gamma^T |W|^T$, so the growth rate is at most γρ(|W|); the
      constant is max x/min x of Perron's vector in the ∞-norm where |W| is irreducible, a polynomial in T elsewhere.

    Args:
        slope: γ, the largest slope of the activation.
        spectral_norm: ‖W‖₂.
        spectral_radius: ρ(W). It bounds the powers of γW, not products of different Jacobians: no certificate.
        perron: ρ(|W|).
        scaled_norm: ‖D W D⁻¹‖₂ for the D below, the smallest over positive diagonal D.
        scaling: The diagonal of D; its geometric mean is 1.
        rate: γ·min(spectral_norm, scaled_norm, perron): the certified growth per step in the long run.

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 6 and 7. Stoer, Witzgall (1962), Transformations by diagonal matrices in a
        normed space: scaled_norm ≤ ρ(|W|), with equality for W ≥ 0.
    """

    slope: Float[Array, "*batch"]
    spectral_norm: Float[Array, "*batch"]
    spectral_radius: Float[Array, "*batch"]
    perron: Float[Array, "*batch"]
    scaled_norm: Float[Array, "*batch"]
    scaling: Float[Array, "*batch n"]
    rate: Float[Array, "*batch"]

    @property
    def vanishes(self) -> Bool[Array, "*batch"]:
        """Whether every product of Jacobians is proved to vanish: rate < 1 by more than rounding, 8nε. Traceable."""
        return self.rate < 1 - 8 * self.scaling.shape[-1] * jnp.finfo(self.rate.dtype).eps

    @property
    def verdict(self) -> str | np.ndarray:
        """`vanishes` in words: "vanishes" (proved) or "may explode" (not excluded); after `vmap` an array of words."""
        if isinstance(self.rate, jax.core.Tracer):
            raise ValueError("verdict is words, known outside jit, vmap and grad only; inside them use vanishes")
        words = np.where(np.asarray(self.vanishes), "vanishes", "may explode")
        return words if words.ndim else str(words)

    def __repr__(self) -> str:
        if isinstance(self.rate, jax.core.Tracer) or self.rate.ndim:
            return f"Bounds(rate={self.rate.dtype}{list(self.rate.shape)}, scaling={list(self.scaling.shape)})"
        return (
            f"Bounds({self.verdict}: rate {self.rate:.6g} a step = slope {self.slope:.6g} × least of spectral norm "
            f"{self.spectral_norm:.6g}, scaled norm {self.scaled_norm:.6g}, Perron {self.perron:.6g}; "
            f"spectral radius {self.spectral_radius:.6g} bounds nothing)"
        )

    __str__ = __repr__


def network_bounds(w_rec: Float[Array, "n n"], activation: Activation) -> Bounds:
    r"""Every certified bound on the gradients of $x' = W\sigma(x) + \ldots$ or $h' = \sigma(W h + \ldots)$.

    $$ \lim_{T \to \infty} \|J_T \cdots J_1\|^{1/T} \le \gamma \min(\|W\|_2,\; \min_D \|D W D^{-1}\|_2,\; \rho(|W|)) $$

    The minimum over D is found to about 1e-11 (float32: 1e-4) relative, and what is reported is the norm for the D
    that is returned, so a certificate does not depend on the search. Where W is reducible (some units never hear of
    some others: feedforward chains, triangular W) the infimum is approached but attained by no D; then units are
    spread by at most √(largest float). First derivatives are those of the minimum (envelope theorem); entries that
    would join separate groups of units count as absent, and `scaling` as constant.

    Args:
        w_rec: The recurrent weights.
        activation: Its slope is used, nothing else.

    Returns:
        The bounds and the verdict. About 90 eigendecompositions of an n×n matrix: 0.1 s for n = 50, 10 s for n = 512.

    Raises:
        ValueError: not a square float matrix, not finite, not an Activation, or an infinite slope.

    Example:
        >>> from rnn_dynamics.activations import tanh
        >>> bounds = network_bounds(jnp.array([[0.0, 2.0], [0.1, 0.0]]), tanh)
        >>> bounds.spectral_norm.round(6), bounds.scaled_norm.round(6), bounds.verdict
        (Array(2., dtype=float64), Array(0.447214, dtype=float64), 'vanishes')
        >>> network_bounds(jnp.array([[1.2, 2.0], [-0.8, -1.2]]), tanh)  # eigenvalues ±0.4i
        Bounds(may explode: rate 2.4 a step = slope 1 × ...)

    References:
        Sezginer, Overton (1990), The largest singular value of e^X A e^-X is convex on convex sets of commuting
        matrices. Boyd, El Ghaoui (1993), Method of centers for minimizing generalized eigenvalues.
    """
    w_rec = _square("w_rec", w_rec)
    if not isinstance(activation, Activation):
        raise ValueError(f"activation must be an Activation; got {type(activation).__name__}")
    if not math.isfinite(activation.slope):
        raise ValueError(f"activation must have a finite slope; {activation.name} has {activation.slope}")
    slope = jnp.asarray(activation.slope, w_rec.dtype)
    if not top_level():
        return jit(_network_bounds)(w_rec, slope)
    with one_blas_thread():
        return jax.block_until_ready(jit(_network_bounds)(w_rec, slope))


@_exact
def _network_bounds(w, slope):
    norm, perron = _spectral_norm(w), _spectral_radius(jnp.abs(_groups(w).core))
    scaled_norm, scaling = _scaled_norm(w)
    rate = slope * jnp.minimum(jnp.minimum(scaled_norm, norm), perron)
    return Bounds(slope, norm, _spectral_radius(w), perron, scaled_norm, scaling, rate)


def _square(name, w):
    w = _check.floats(name, w, "n", "n")
    if w.size == 0:
        raise ValueError(f"{name} must hold at least one unit; got shape (0, 0)")
    return w


def _spectral_norm(w):
    return jnp.linalg.svd(w, compute_uv=False)[0]


@jax.custom_jvp
def _spectral_radius(w):
    return jnp.max(jnp.abs(jnp.linalg.eigvals(w)))


@_spectral_radius.defjvp
@_exact
def _(primals, tangents):
    # dλ = yᴴ dW x / yᴴx needs the eigenvectors y, x of λ alone: the null vectors of W - λ. Those of the other
    # eigenvalues, which may be defective, stay out of it.
    (w,), (dw,) = primals, tangents
    values = jnp.linalg.eigvals(w)
    value = values[jnp.argmax(jnp.abs(values))]
    left, _, right = jnp.linalg.svd(w - value * jnp.eye(len(w)))
    y, x = left[:, -1].conj(), right[-1].conj()
    eps = jnp.finfo(w.dtype).eps
    change = y @ dw @ x / jnp.where(jnp.abs(y @ x) > eps, y @ x, eps)
    radius = jnp.abs(value)
    return radius, jnp.where(radius > 0, jnp.real(value.conj() * change) / jnp.where(radius > 0, radius, 1), 0)


# ---- min over D of ‖D W D⁻¹‖₂
#
# With x = ln diag D and M(x) = e^X W e^-X, ln of any unitarily invariant norm of M(x) is convex in x (Sezginer, Overton
# 1990). So are all tr (MᵀM)ᵏ, and with them -ln det(I - MᵀM/η²), jointly in x and y = ln η. It is a barrier for
# η > ‖M‖₂: the centre
#     φ_t(x) = min_y  t·y - ln det(I - e^{-2y} M(x)ᵀM(x))
# is a smooth convex function, finite for every x, and φ_t/t tends to ln ‖M(x)‖₂ like (n/t)·ln t. (For t → 0 it is
# the Frobenius norm: Osborne's balancing.) Newton's method follows its minimiser from t = 2n up, ten times a level.


class _Groups(NamedTuple):
    """Units that reach each other both ways share a group; `level` rises along every connection between groups."""

    core: Float[Array, "n n"]  # W without the connections between groups; min over D and ρ(|·|) are those of W
    level: Int[Array, " n"]


def _groups(w):
    n = len(w)
    reaches = (w != 0) | jnp.eye(n, dtype=bool)  # [i, j]: j acts on i within 1, 2, 4, ... steps
    for _ in range(max(1, n - 1).bit_length()):
        reaches = (reaches.astype(w.dtype) @ reaches.astype(w.dtype)) > 0
    ancestors = reaches.sum(1)
    level = jnp.cumsum(jnp.zeros(n + 1, int).at[ancestors].set(1))[ancestors] - 1
    return _Groups(jnp.where(reaches & reaches.T, w, 0), level)


class _Point(NamedTuple):
    value: Float[Array, ""]  # φ_t
    log_eta: Float[Array, ""]
    unit: Float[Array, "n n"]  # M/η
    vectors: Float[Array, "n n"]  # eigenvectors of MᵀM
    gain: Float[Array, " n"]  # eigenvalues of G = (I - MᵀM/η²)⁻¹


def _evaluate(m, x, t):
    m = m * jnp.exp(x[:, None] - x)
    size = jnp.max(jnp.abs(m))
    m = m / size
    squares, vectors = jnp.linalg.eigh(m.T @ m)
    squares = jnp.maximum(squares, 0)
    gap = squares[-1] - squares

    # η² = σ²_max + e solves f(e) = Σ σ²/(e + gap) = t/2. 1/f is concave and increasing: Newton's iterates rise to the root.
    def newton(state):
        e, _ = state
        f, df = jnp.sum(squares / (e + gap)), jnp.sum(squares / (e + gap) ** 2)
        return e + f * (2 * f / t - 1) / df, e

    eps = jnp.finfo(m.dtype).eps
    e, _ = lax.while_loop(lambda s: s[0] > s[1] * (1 + 4 * eps), newton, (2 * squares[-1] / t, jnp.zeros_like(t)))
    gain = (squares[-1] + e) / (e + gap)
    log_eta = jnp.log(size) + jnp.log(squares[-1] + e) / 2
    return _Point(t * log_eta + jnp.sum(jnp.log(gain)), log_eta, m / jnp.sqrt(squares[-1] + e), vectors, gain)


def _newton_step(point):
    """The step in x, and how much it promises twice over (the squared Newton decrement).

    With G above, B = MG and C = MGMᵀ (M in units of η) and ∘ the elementwise product, φ's gradient is 2(diag C - diag G + 1)
    and its Hessian at fixed y is 4(G∘G - B∘B - (B∘B)ᵀ + C∘C + diag(diag C - diag G)); minimising over y takes off a rank.
    """
    g = (point.vectors * point.gain) @ point.vectors.T
    b = point.unit @ g
    c = b @ point.unit.T
    g2, b2, spread = g * g, b * b, jnp.diag(c) - jnp.diag(g)
    mixed = g2.sum(1) - jnp.diag(g) - b2.sum(1)
    hessian = g2 - b2 - b2.T + c * c + jnp.diag(spread) - jnp.outer(mixed, mixed) / (g2.sum() - jnp.trace(g))
    gradient = (spread + 1) / 2
    # x is free up to a constant in every group, and what cancels above leaves n·ε·max(G∘G): neither may move x.
    values, vectors = jnp.linalg.eigh(hessian)
    floor = len(g) * jnp.finfo(g.dtype).eps * jnp.max(g2)
    step = -vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), floor))
    return step, -4 * gradient @ step


def _centre(m, x, t, tol):
    """Minimises φ_t by Newton's method with backtracking until the squared decrement is below `tol`."""
    eps = jnp.finfo(m.dtype).eps

    def full(point):
        step, decrement = _newton_step(point)
        return point, step, decrement, jnp.minimum(1, 2 / jnp.max(jnp.abs(step)))

    def move(state):
        x, (point, step, decrement, size), count = state
        new = _evaluate(m, x + size * step, t)
        noise = 4 * eps * t * (1 + jnp.abs(point.log_eta))
        accept = new.value <= point.value - 1e-4 * size * decrement + noise
        rest = lax.cond(accept, full, lambda _: (point, step, decrement, size / 2), new)
        return jnp.where(accept, x + size * step, x), rest, count + 1

    def unfinished(state):
        _, (_, _, decrement, size), count = state
        return (decrement > tol) & (size > 1e-4) & (count < 60)

    return lax.while_loop(unfinished, move, (x, full(_evaluate(m, x, t)), 0))[:2]


def _first_guess(core):
    """The x that makes all entries of M alike: min Σ (ln|M_ij|)² over the entries that are not zero, one linear system.

    It moves with W under any diagonal similarity, so what follows does not depend on the units W is written in.
    """
    edges = (core != 0) & ~jnp.eye(len(core), dtype=bool)
    logs = jnp.where(edges, jnp.log(jnp.abs(jnp.where(edges, core, 1))), 0)
    links = (edges.astype(core.dtype) + edges.T)
    return -jnp.linalg.pinv(jnp.diag(links.sum(1)) - links, hermitian=True) @ (logs.sum(1) - logs.sum(0))


def _minimiser(core):
    """The x that minimises ‖e^X core e^-X‖₂, and the derivative of the minimum's logarithm with respect to core."""
    n, eps = len(core), float(jnp.finfo(core.dtype).eps)
    x0 = _first_guess(core)
    logs = jnp.log(jnp.abs(core)) + x0[:, None] - x0
    top = jnp.max(logs)
    m = jnp.where(top > -jnp.inf, jnp.sign(core) * jnp.exp(logs - jnp.where(top > -jnp.inf, top, 0)), jnp.eye(n))

    # A derivative is exact to about 1/t, and to ε·t for rounding; the minimiser is the better the larger t.
    halfway, end = max(2.0 * n, eps**-0.5), max(2.0 * n, 0.005 / eps)

    def follow(x, start, stop):
        levels = [start * 10**k for k in range(max(0, math.ceil(math.log10(stop / start))))]
        levels = jnp.array(levels or [start], core.dtype)
        return lax.scan(lambda x, t: (_centre(m, x, t, 0.1)[0], None), x, levels)[0]

    x = follow(jnp.zeros(n, core.dtype), 2.0 * n, halfway)
    x, (point, *_) = _centre(m, x, jnp.asarray(halfway, core.dtype), 100 * n * eps)
    b = point.unit @ ((point.vectors * point.gain) @ point.vectors.T)
    log_slope = jnp.log(2 / halfway) + (x + x0)[:, None] - (x + x0) - point.log_eta - top
    derivative = jnp.where((core != 0) | True, b * jnp.exp(log_slope), 0)
    return x0 + follow(x, halfway * 10, end), derivative
