"""What one Jacobian says about a fixed point: its multipliers, and what kind of point it is.

Row 5 of the layer table: above `jacobians`. Next: `fixed_points`.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from rnn_dynamics import _check
from rnn_dynamics._compile import jit

__all__ = ["classify", "least_stable_first", "multipliers"]


def multipliers(
    jacobian: Float[Array, "*k n n"], *, time: Literal["discrete", "continuous"] = "discrete"
) -> Complex[Array, "*k n"]:
    """The eigenvalues of a Jacobian, the least stable first.

    Of a map's Jacobian they are the factors by which perturbations grow a step (multipliers); of a field's, the rates
    at which they grow (per unit of time).

    Args:
        jacobian: One Jacobian or a stack of them.
        time: "discrete" sorts by |λ|, "continuous" by Re λ, both descending; of a complex pair, the one with the
            positive imaginary part comes first.

    Returns:
        All n of them; NaN where the Jacobian is not finite.

    Raises:
        ValueError: jacobian is not a float array (..., n, n), or time is unknown.

    Example:
        >>> multipliers(jnp.array([[0.0, 1.0], [-0.25, 0.0]]))
        Array([0.+0.5j, 0.-0.5j], dtype=complex128)
    """
    _check.option("time", time, ("discrete", "continuous"))
    leading = np.shape(jacobian)[:-2]
    return _multipliers(_check.floats("jacobian", jacobian, *leading, "n", "n", check_finite=False), time)


def classify(
    multipliers: Inexact[Array, "*k n"] | Inexact[np.ndarray, "*k n"],
    *,
    time: Literal["discrete", "continuous"] = "discrete",
    tol: float | None = None,
) -> str | np.ndarray:
    """What kind of fixed point these multipliers belong to. Runs on the host: it returns words.

    A multiplier counts as stable inside the unit circle (continuous time: left of the imaginary axis), unstable
    outside, and marginal within `tol` of the border.

    - "stable node", "stable focus": all stable; a focus has a complex one and spirals.
    - "unstable node", "unstable focus": all unstable.
    - "saddle": some stable, some unstable.
    - "marginal": none of these can be said, because a marginal one decides.

    Args:
        multipliers: Of one fixed point, shape (n,), or of several, (k, n).
        time: "discrete" or "continuous".
        tol: Width of the border; by default 100 machine epsilons times the largest |λ| (at least 1), what rounding
            does to the eigenvalues of a Jacobian that is not far from normal.

    Returns:
        One word, or an array of k.

    Raises:
        ValueError: multipliers are not finite floats or complex numbers, an unknown time, a negative tol.

    Example:
        >>> classify(jnp.array([1.25, 0.5])), classify(jnp.array([-0.1 + 1j, -0.1 - 1j]), time="continuous")
        ('saddle', 'stable focus')
    """
    _check.option("time", time, ("discrete", "continuous"))
    _check.untraced("classify", multipliers=multipliers)
    values = np.asarray(multipliers)
    if not np.issubdtype(values.dtype, np.inexact) or values.ndim == 0 or values.shape[-1] == 0:
        came = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"multipliers must be floats or complex of shape (n,) or (k, n), n ≥ 1; got {came}")
    _check.finite("multipliers", values)
    tol = tol if tol is None or isinstance(tol, float) else float(_check.number("tol", tol))
    if tol is not None and not tol >= 0:
        raise ValueError(f"tol must be at least 0; got {tol}")
    if values.ndim > 1:
        return np.array([classify(row, time=time, tol=tol) for row in values], dtype=str).reshape(values.shape[:-1])
    width = 100 * np.finfo(values.dtype).eps * max(1.0, np.abs(values).max()) if tol is None else tol
    excess = np.abs(values) - 1 if time == "discrete" else np.real(values)
    form = "focus" if (np.abs(np.imag(values)) > width).any() else "node"
    if (excess > width).any() and (excess < -width).any():
        return "saddle"
    if (excess < -width).all():
        return f"stable {form}"
    return f"unstable {form}" if (excess > width).all() else "marginal"


def least_stable_first(values: Complex[Array, "*k n"], *, time: str) -> Complex[Array, "*k n"]:
    """Multipliers in the order of `multipliers`.

    Args:
        values: Multipliers of a map, or rates of a field.
        time: "discrete" (by modulus) or "continuous" (by real part).

    Example:
        >>> least_stable_first(jnp.array([0.5 + 0j, -2.0 + 0j]), time="discrete")
        Array([-2. +0.j,  0.5+0.j], dtype=complex128)
    """
    size = jnp.abs(values) if time == "discrete" else values.real
    order = jnp.lexsort((-values.imag, -values.real, -size))
    return jnp.take_along_axis(values, order, axis=-1)


@jit
def _multipliers(jacobian, time):
    return least_stable_first(jnp.linalg.eigvals(jacobian), time=time)
