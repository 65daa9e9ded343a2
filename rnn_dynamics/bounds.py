r"""Can gradients explode? Certified bounds on products of step Jacobians, from the recurrent weights alone.

Row 5 of the layer table. Whatever the inputs, the step Jacobian is W·diag(d), or diag(d)·W where the activation comes
last, with $|d_i| \le \gamma = \sup|\sigma'|$. A norm that finds all such matrices shorter than 1 proves that gradients
vanish: `network_bounds` tries three, `joint_spectral_radius` brackets the true worst case. Next: `lyapunov`.
"""

import functools
import math

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from rnn_dynamics import _check
from rnn_dynamics._compile import jit, on_one_blas_thread, one_blas_thread
from rnn_dynamics.activations import Activation

__all__ = ["Bounds", "joint_spectral_radius", "network_bounds", "spectral_norm", "spectral_radius"]


def spectral_radius(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest modulus of an eigenvalue: the growth rate of the powers of `w`, and of no other product.

    $$ \rho(W) = \max_i |\lambda_i(W)| = \lim_{k \to \infty} \|W^k\|^{1/k} $$

    Args:
        w: The recurrent weights.

    Returns:
        A factor per step, at most the spectral norm; differentiable where the eigenvalue is simple.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_radius(jnp.array([[0.0, 2.0], [0.1, 0.0]])).round(12)
        Array(0.4472136, dtype=float64)

    References:
        Horn, Johnson (2013), Matrix Analysis, corollary 5.6.14; theorem 6.3.12 for the derivative.
    """
    return _spectral_radius(_square("w", w))


def spectral_norm(w: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""Largest singular value of `w`: the most one step can stretch a perturbation.

    $$ \|W\|_2 = \max_{\|v\|_2 = 1} \|W v\|_2 $$

    Args:
        w: The recurrent weights.

    Returns:
        A factor per step, at least the spectral radius; where it is not simple, the derivative is one subgradient.

    Raises:
        ValueError: not a square float matrix, or not finite.

    Example:
        >>> spectral_norm(jnp.diag(jnp.array([0.5, -2.0])))
        Array(2., dtype=float64)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 6.
    """
    return _spectral_norm(_square("w", w))


class Bounds(equinox.Module):
    r"""What the weights alone say about the growth of products of T step Jacobians, $J_T \cdots J_1$.

    - $\|J_T \cdots J_1\|_2 \le (\gamma \|W\|_2)^T$.
    - $\|J_T \cdots J_1\|_2 \le \kappa (\gamma \|DWD^{-1}\|_2)^T$, κ = max(scaling)/min(scaling): ‖Dv‖₂ step by step.
    - $|J_T \cdots J_1| \le \gamma^T |W|^T$ entrywise, so the rate of growth is at most γρ(|W|). The ∞-norm is at most
      (max x/min x)(γρ(|W|))^T, x the Perron vector, if |W| is irreducible; otherwise a polynomial in T comes in.

    Args:
        slope: γ, the largest slope of the activation.
        spectral_norm: ‖W‖₂.
        spectral_radius: ρ(W), which rules the powers of W, not products of different Jacobians: no bound.
        perron: ρ(|W|).
        scaled_norm: ‖DWD⁻¹‖₂, least over positive diagonal D; for irreducible W at most ρ(|W|), equal for W ≥ 0.
        scaling: The diagonal of that D; its geometric mean is 1.
        rate: γ·min(spectral_norm, scaled_norm, perron): the certified growth per step in the long run.
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
        """Whether all products are proved to vanish: rate < 1 by more than rounding, 8nε. Works inside jit and vmap."""
        return self.rate < 1 - 8 * self.scaling.shape[-1] * jnp.finfo(self.rate.dtype).eps

    @property
    def verdict(self) -> str | np.ndarray:
        """The words "vanishes" (proved) or "may explode" (not excluded); after `vmap` an array of them."""
        return _check.word("verdict", self.vanishes, np.asarray, "vanishes", "may explode", instead="vanishes")

    def __repr__(self) -> str:
        if not _check.known(self.rate) or jnp.ndim(self.rate):
            return f"Bounds(of {self.scaling.shape[-1]} units, batch shape {jnp.shape(self.rate)})"
        least = f"norm {self.spectral_norm:.6g}, scaled norm {self.scaled_norm:.6g}, Perron {self.perron:.6g}"
        return f"Bounds({self.verdict}: rate {self.rate:.6g} = {self.slope:.6g} × least of {least})"


def network_bounds(w_rec: Float[Array, "n n"], activation: Activation) -> Bounds:
    r"""Every certified bound on the gradients of $x' = W\sigma(x) + \ldots$ or $h' = \sigma(W h + \ldots)$.

    $$ \lim_{T \to \infty} \|J_T \cdots J_1\|^{1/T} \le \gamma \min(\|W\|_2,\; \min_D \|D W D^{-1}\|_2,\; \rho(|W|)) $$

    scaled_norm is the true norm for the D returned, about 1e-12 (float32: 1e-5) above the minimum; 1e-9 if W spans
    twelve decades. κ(D) ends at the root of the largest float (float32: 2e19), short of the minimum if that needs more.
    Where W is reducible (some connections are on no cycle) the infimum is not attained, and κ(D) ends at 1/ε per level.
    Second derivatives are NaN; in the first, D is constant, and so are zeros of W that are on no cycle.

    Args:
        w_rec: The recurrent weights.
        activation: Its slope is used, nothing else.

    Returns:
        The bounds and the verdict, for about 100 eigendecompositions: 0.05 s for n = 50, 9 s for n = 512.

    Raises:
        ValueError: not a square float matrix, not finite, not an Activation, or one of infinite slope.

    Example:
        >>> from rnn_dynamics.activations import tanh
        >>> network_bounds(jnp.array([[0.0, 2.0], [0.1, 0.0]]), tanh)
        Bounds(vanishes: rate 0.447214 = 1 × least of norm 2, scaled norm 0.447214, Perron 0.447214)

    References:
        Pascanu, Mikolov, Bengio (2013), eq. 6, 7. Stoer, Witzgall (1962). Sezginer, Overton (1990), least ‖DWD⁻¹‖₂.
    """
    w_rec = _square("w_rec", w_rec)
    if not isinstance(activation, Activation) or not math.isfinite(activation.slope):
        raise ValueError(f"activation must be an Activation of finite slope; got {activation!r}")
    return on_one_blas_thread(_network_bounds, w_rec, jnp.asarray(activation.slope, w_rec.dtype))


def joint_spectral_radius(
    w_rec: Float[Array, "n n"], slope: Float[Array, ""] | float, *, depth: int
) -> tuple[float, float]:
    r"""Brackets, on the host, the fastest growth of gradients that any choice of activation slopes can cause.

    $$ \lim_{k \to \infty} \max_{d_i \in [0, \gamma]^n} \|W \mathrm{diag}(d_1) \cdots W \mathrm{diag}(d_k)\|^{1/k} $$

    By convexity d ∈ {0, γ}ⁿ is enough: each unit on or off. The lower bound is ρ(P)^{1/k} of a product P of k factors,
    the upper the largest ‖P‖^{1/k}, in the norm of `network_bounds`, of those not yet seen to grow more slowly.

    Args:
        w_rec: The recurrent weights.
        slope: γ, at least 0.
        depth: The longest product, at least 1. The gap falls like 1/depth, or to nothing at some depth.

    Returns:
        (lower, upper), equal to 1e-12 where the answer is exact. All products are listed, to `depth` or while 4 million
        numbers (seconds) suffice and at most 16 units share a cycle; else lower is what a deterministic search finds
        among products of up to 8 factors, perhaps not the largest, and upper at most γ·scaled_norm.

    Raises:
        ValueError: not a square finite float matrix, a slope that is negative or not finite, a depth below 1, a tracer.

    Example:
        >>> lower, upper = joint_spectral_radius(jnp.array([[1.2, 2.0], [-0.8, -1.2]]), 1.0, depth=12)
        >>> round(lower, 6), round(upper, 6)  # √1.6, by switching the units in turn, though ρ(W) = 0.4
        (1.264911, 1.302359)

    References:
        Rota, Strang (1960). Gripenberg (1996), Computing the joint spectral radius.
    """
    w_rec, gamma, depth = _square("w_rec", w_rec), _check.number("slope", slope), _check.count("depth", depth, least=1)
    if not (_check.known(w_rec) and _check.known(gamma)) or gamma < 0:
        raise ValueError(f"w_rec must be known, slope known and at least 0; got {type(w_rec).__name__}, slope {gamma}")
    with one_blas_thread():
        d = np.asarray(_network_bounds(w_rec, jnp.asarray(gamma, w_rec.dtype)).scaling, float)
        w = d[:, None] / d * np.asarray(w_rec, float)
        num_groups, group = connected_components(w != 0, connection="strong")
        brackets = [_bracket(w[np.ix_(group == g, group == g)], depth) for g in range(num_groups)]
    lower, upper = (np.max(brackets, axis=0) * float(gamma)).tolist()
    return lower, upper


def _square(name, w):
    if (w := _check.floats(name, w, "n", "n")).size == 0:
        raise ValueError(f"{name} must hold at least one unit; got shape (0, 0)")
    return w


_spectral_norm = jit(lambda w: jnp.linalg.svd(w, compute_uv=False)[0])


def _even(w):
    """log2 D (whole) and DWD⁻¹ = m·2^top, least Σ (ln|·|)² over its entries but 0: the units of W cease to matter."""
    links = (w != 0).astype(w.dtype) + (w != 0).T
    sizes = jnp.where(w != 0, jnp.log2(jnp.abs(w)), 0)
    x = jnp.linalg.pinv(jnp.diag(links.sum(1)) - links, hermitian=True) @ (sizes.sum(0) - sizes.sum(1))
    x = jnp.round(x).astype(jnp.int32)
    top = jnp.max(jnp.where(w != 0, jnp.round(sizes).astype(jnp.int32) + x[:, None] - x, -(2**20)))
    return x, jnp.ldexp(w, x[:, None] - x - top), top


@jax.custom_jvp
@jit
def _spectral_radius(w):
    _, m, top = _even(w)
    return jnp.ldexp(jnp.max(jnp.abs(jnp.linalg.eigvals(m))), top)


@_spectral_radius.defjvp
@jit
def _(primals, tangents):
    # dλ = yᴴ dW x / yᴴx, y and x the null vectors of W - λ: other eigenvalues, perhaps defective, have no part in it.
    powers, m, top = _even(*primals)
    values = jnp.linalg.eigvals(m)
    value = values[jnp.argmax(jnp.abs(values))]
    left, _, right = jnp.linalg.svd(m - value * jnp.eye(len(m)))
    y, x = left[:, -1].conj(), right[-1].conj()
    change = y @ (tangents[0] * jnp.ldexp(jnp.ones_like(m), powers[:, None] - powers)) @ x * jnp.sign(value).conj()
    return jnp.ldexp(jnp.abs(value), top), jnp.real(change / jnp.where(y @ x == 0, jnp.finfo(m.dtype).eps, y @ x))


def _groups(w):
    """Which units act on each other both ways, and a level that rises along every connection between such groups."""
    n = len(w)
    reached = (w != 0) | jnp.eye(n, dtype=bool)  # [i, j]: j acts on i within 1, then 2, 4, 8 ... steps
    for _ in range((n - 1).bit_length()):
        reached = (reached.astype(w.dtype) @ reached.astype(w.dtype)) > 0
    ancestors = reached.sum(1)
    return reached & reached.T, jnp.cumsum(jnp.zeros(n + 1, int).at[ancestors].set(1))[ancestors] - 1


@jit
def _network_bounds(w, slope):
    norm, perron = _spectral_norm(w), _spectral_radius(jnp.abs(jnp.where(_groups(w)[0], w, 0)))
    scaled_norm, scaling, _ = _scaled_norm(w)
    least = jnp.minimum(jnp.minimum(scaled_norm, norm), perron)
    return Bounds(slope, norm, _spectral_radius(w), perron, scaled_norm, scaling, slope * least)


@jax.custom_jvp
@jit
def _scaled_norm(w):
    """The least ‖DWD⁻¹‖₂, D, and the derivative of the minimum with respect to w (by the envelope theorem)."""
    eps, widest = float(jnp.finfo(w.dtype).eps), math.log(float(jnp.finfo(w.dtype).max)) / 2
    same, level = _groups(w)
    core = jnp.where(same, w, 0)
    x, slopes = _minimise(core)
    x = x * jnp.minimum(1, widest / jnp.maximum(jnp.ptp(x), 1))  # the norm is log-convex: part of x is better than none
    x = x - level * jnp.minimum(-math.log(eps), (widest - jnp.ptp(x)) / jnp.maximum(level.max(), 1))
    scaling = jnp.exp(x - x.mean())
    norm, plain = _spectral_norm(scaling[:, None] / scaling * w), _spectral_norm(w)
    norm, scaling = jnp.where(norm < plain, norm, plain), jnp.where(norm < plain, scaling, 1)
    return norm, scaling, jnp.where(same & (core != 0).any(), norm * slopes, 0)


@_scaled_norm.defjvp
def _(primals, tangents):
    norm, scaling, slopes = _scaled_norm(*primals)
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
    powers, m, top = _even(core)
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


def _bracket(w, depth):
    """Bounds for one group of units: Gripenberg's branch and bound over all masks, where these can be listed."""
    n, size = len(w), np.linalg.norm(w, 2)
    if n == 1:
        return size, size
    w = w / size
    lower, upper, products, growth = _search(w, depth), 1.0, np.eye(n)[None], np.ones(1)
    masks = np.indices((2,) * n, float).reshape(n, -1) if n <= 16 else np.empty((n, 0))
    for k in range(1, depth + 1):
        goal = lower * (1 + 1e-12)
        if not 0 < len(products) * masks.shape[1] <= 2**22:
            break
        products = products @ w
        parent, mask = np.nonzero((products**2).sum(1) @ masks > goal ** (2 * k))  # the Frobenius norm sorts out most
        if len(parent) * n * n > 2**22:
            break
        products = products[parent] * masks.T[mask][:, None]
        growth = np.minimum(growth[parent], np.linalg.norm(products, 2, (1, 2)) ** (1 / k))
        products, growth = products[growth > goal], growth[growth > goal]
        lower = max(lower, np.abs(np.linalg.eigvals(products)).max(initial=0) ** (1 / k))
        upper = min(upper, max(lower * (1 + 1e-12), growth.max(initial=0)))
    return size * min(lower, upper), size * upper


def _search(w, depth):
    """The largest ρ(wD₁ ··· wD_k)^{1/k} that climbs reach from all units on, the best of smaller k, random masks."""
    rng, found, effort = np.random.default_rng(0), [], 2**19 // len(w) ** 3
    for k in range(1, min(depth, 8) + 1):
        starts = [np.ones((k, len(w))), *(np.tile(m, (k // len(m), 1)) for _, m in found if k % len(m) == 0)]
        starts += [*rng.integers(0, 2, (min(16, effort), k, len(w))).astype(float)]
        found.append(max((_climb(w, masks, 2 * k + 16 * effort) for masks in starts), key=lambda result: result[0]))
    return min(1.0, max(value for value, _ in found))


def _climb(w, masks, turns):
    """Raises ρ(wD₁ ··· wD_k) one mask at a time, by switching the units that promise most to first order."""
    idle, n, value = 0, len(w), 0.0
    while turns and idle < len(masks):
        turns, idle, masks = turns - 1, idle + 1, np.roll(masks, 1, axis=0)
        head, mask = functools.reduce(np.matmul, [*(w * other for other in masks[1:]), w]), masks[0]
        values, left, right = scipy.linalg.eig(head * mask, left=True)  # pyright: ignore[reportAssignmentType]
        top = np.argmax(np.abs(values))
        value, y, x = np.abs(values[top]), left[:, top].conj(), right[:, top]
        gain = np.real(np.conj(values[top] * (y @ x)) * (y @ head) * x) * (1 - 2 * mask)
        for count in max(1, (gain > 0).sum()) >> np.arange(n.bit_length()):
            trial = np.where(np.argsort(np.argsort(-gain)) < count, 1 - mask, mask)
            if (higher := np.abs(np.linalg.eigvals(head * trial)).max()) > value * (1 + 1e-12):
                value, idle, masks = higher, 0, np.vstack([trial, masks[1:]])
                break
    return value ** (1 / len(masks)), masks
