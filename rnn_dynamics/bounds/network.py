"""The bounds that a network's weights prove, and the growth that no choice of slopes exceeds.

Row 5 of the layer table: above `scaling`.
"""

import functools
import math

import equinox
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from rnn_dynamics import _check
from rnn_dynamics._compile import jit, on_one_blas_thread, one_blas_thread
from rnn_dynamics.activations import Activation
from rnn_dynamics.bounds.radii import groups, norm_of, perron_root, radius_of, square
from rnn_dynamics.bounds.scaling import least_scaled_norm

__all__ = ["Bounds", "joint_spectral_radius", "network_bounds"]


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
    w_rec = square("w_rec", w_rec)
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
    w_rec, gamma, depth = square("w_rec", w_rec), _check.number("slope", slope), _check.count("depth", depth, least=1)
    if not (_check.known(w_rec) and _check.known(gamma)) or gamma < 0:
        raise ValueError(f"w_rec must be known, slope known and at least 0; got {type(w_rec).__name__}, slope {gamma}")
    with one_blas_thread():
        d = np.asarray(_network_bounds(w_rec, jnp.asarray(gamma, w_rec.dtype)).scaling, float)
        w = d[:, None] / d * np.asarray(w_rec, float)
        num_groups, group = connected_components(w != 0, connection="strong")
        brackets = [_bracket(w[np.ix_(group == g, group == g)], depth) for g in range(num_groups)]
    lower, upper = (np.max(brackets, axis=0) * float(gamma)).tolist()
    return lower, upper


@jit
def _network_bounds(w, slope):
    same, _ = groups(w)
    norm, perron = norm_of(w), perron_root(jnp.where(same, w, 0), same)
    scaled_norm, scaling, _ = least_scaled_norm(w)
    least = jnp.minimum(jnp.minimum(scaled_norm, norm), perron)
    return Bounds(slope, norm, radius_of(w), perron, scaled_norm, scaling, slope * least)


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
