"""A matrix in factors that neither overflow nor underflow, and what can be read off it.

Row 1 of the layer table, the first file of `products`. Next: `multiplication`.
"""

import math

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from rnn_dynamics import _check, _graded
from rnn_dynamics._compile import jit

__all__ = ["Product", "identity", "regular"]


class Product(equinox.Module):
    r"""A matrix in factors, A = u · diag(exp(log_scale)) · v, however large or small its entries.

    Made by `from_matrices`, `cumulative`, `multiply` and `compose`. The factors are not unique, the methods depend on A
    alone: differentiate those. Of a singular A log_norm and the singular values other than 0 have their derivatives,
    the array and `apply` NaN: what a zero turns into is not stored. Where the factors have leading axes (`cumulative`),
    the methods have them too.

    Args:
        u: Orthogonal.
        log_scale: Natural logarithms, descending or nearly so; -inf where A is singular.
        v: Well conditioned, with rows of length 1, but not orthogonal.

    Raises:
        ValueError: shapes that do not belong together.

    Example:
        >>> from rnn_dynamics import products
        >>> products.from_matrices(jnp.tile(5.0 * jnp.eye(2), (1000, 1, 1))).log_scale.round(6)
        Array([1609.437912, 1609.437912], dtype=float64)
    """

    u: Float[Array, "*T n n"]
    log_scale: Float[Array, "*T n"]
    v: Float[Array, "*T n n"]

    def __check_init__(self):
        shapes = tuple(jnp.shape(factor) for factor in (self.u, self.log_scale, self.v))
        if not shapes[1] or not shapes[0] == shapes[2] == (*shapes[1], *shapes[1][-1:]):
            raise ValueError(f"u, log_scale, v must have shapes (..., n, n), (..., n), (..., n, n); got {shapes}")

    def __repr__(self) -> str:
        shape = "x".join(map(str, (*jnp.shape(self.log_scale), jnp.shape(self.log_scale)[-1])))
        if not _check.known(self.log_scale) or jnp.ndim(self.log_scale) > 1:
            return f"Product({shape})"
        scales = np.asarray(self.log_scale)
        return f"Product({shape}, log_scale from {scales.max():.6g} to {scales.min():.6g})"

    def log_singular_values(self) -> Float[Array, "*T n"]:
        r"""ln σ of every singular value, however far apart they lie, each to an absolute ε·κ(v) or so.

        By one-sided Jacobi rotations of the rows of diag(exp(log_scale))·v. Derivatives are right where the singular
        values are distinct; an entry -inf has derivative 0.

        Returns:
            Natural logarithms, descending; -inf for a singular value 0.

        Example:
            >>> from rnn_dynamics import products
            >>> steps = jnp.tile(jnp.array([[0.5, 1.0], [0.0, 2.0]]), (1000, 1, 1))
            >>> products.from_matrices(steps).log_singular_values().round(6)
            Array([ 693.331043, -693.331043], dtype=float64)

        References:
            Demmel, Veselić (1992), Jacobi's method is more accurate than QR.
        """
        return _log_singular_values(self.log_scale, self.v)

    def singular_vectors(self) -> tuple[Float[Array, "*T n n"], Float[Array, "*T n n"]]:
        r"""The directions that survive and those that vanish: A v_k = σ_k u_k, in the order of `log_singular_values`.

        Each column is right to an absolute ε·κ(v) over the relative distance of its singular value to the others: to
        nearly equal ones belongs a plane, not a line. Not for reverse-mode differentiation.

        Returns:
            U and V, orthogonal, whose columns are the u_k (where perturbations end) and the v_k (where they began).

        Example:
            >>> from rnn_dynamics import products
            >>> steps = jnp.tile(jnp.array([[0.5, 1.0], [0.0, 2.0]]), (1000, 1, 1))
            >>> left, right = products.from_matrices(steps).singular_vectors()
            >>> jnp.abs(left[:, 0]).round(6)  # where every perturbation ends, e^693 times as long
            Array([0.5547 , 0.83205], dtype=float64)
            >>> jnp.abs(right[:, 1]).round(6)  # what is forgotten: e^-693 of it is left
            Array([1., 0.], dtype=float64)

        References:
            Demmel, Veselić (1992), Jacobi's method is more accurate than QR.
        """
        return _singular_vectors(self.u, self.log_scale, self.v)

    def log_norm(self) -> Float[Array, "*T"]:
        r"""ln ‖A‖₂, the largest log singular value; -inf for the zero matrix.

        Example:
            >>> from rnn_dynamics import products
            >>> products.from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_norm().round(6)
            Array(1098.612289, dtype=float64)
        """
        return _log_norm(self.log_scale, self.v)

    def log_abs_det(self) -> Float[Array, "*T"]:
        r"""ln |det A|, the sum of the log singular values; -inf for a singular matrix.

        Example:
            >>> from rnn_dynamics import products
            >>> products.from_matrices(jnp.tile(jnp.diag(jnp.array([3.0, 0.1])), (1000, 1, 1))).log_abs_det().round(6)
            Array(-1203.972804, dtype=float64)
        """
        return _log_abs_det(self.log_scale, self.v)

    def to_array(self) -> Float[Array, "*T n n"]:
        """A written out: entries too large for the dtype are ±inf, entries too small 0, none NaN.

        Example:
            >>> from rnn_dynamics import products
            >>> products.from_matrices(jnp.tile(5.0 * jnp.eye(2), (1000, 1, 1))).to_array()
            Array([[inf,  0.],
                   [ 0., inf]], dtype=float64)
        """
        return _to_array(self.u, self.log_scale, self.v)

    def apply(self, vector: Float[Array, "*T n"]) -> tuple[Float[Array, "*T n"], Float[Array, "*T"]]:
        r"""A·x as a unit vector and the logarithm of its length.

        Returns:
            The direction (zeros where A·x = 0), and ln ‖A·x‖₂ (-inf there).

        Raises:
            ValueError: a vector that does not fit, or is not finite.

        Example:
            >>> from rnn_dynamics import products
            >>> product = products.from_matrices(jnp.tile(10.0 * jnp.eye(2), (1000, 1, 1)))
            >>> product.apply(jnp.array([3.0, 4.0]))[1].round(6)
            Array(2304.194531, dtype=float64)
        """
        vector = _check.floats("vector", vector, *self.log_scale.shape)
        return _apply(self.u, self.log_scale, self.v, vector)


def identity(n: int, dtype: DTypeLike = float) -> Product:
    """The product of no matrices.

    Args:
        n: The size.
        dtype: Of the factors.

    Raises:
        ValueError: n below 1, or a dtype that is not a float type.

    Example:
        >>> identity(2).log_abs_det()
        Array(0., dtype=float64)
    """
    n = _check.count("n", n, least=1)
    try:
        is_float = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        is_float = False
    if not is_float:
        raise ValueError(f"dtype must be a float type; got {dtype!r}")
    return Product(jnp.eye(n, dtype=dtype), jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype))


def _method(signature):
    """Compiles a method of Product, written here for one product, and gives it leading axes."""
    return lambda function: jit(jnp.vectorize(function, signature=signature))


def _top(log_scale):
    top = lax.stop_gradient(jnp.max(log_scale))
    return jnp.where(top == -jnp.inf, 0, top)


@jax.custom_jvp
def regular(log_scale, factor):
    """Both as they are, with a derivative only where no scale is -inf.

    What a zero singular value changes to is not stored: where it counts, NaN rather than a wrong number.
    """
    return log_scale, factor


@regular.defjvp
def _(primals, tangents):
    # As a factor, for reverse mode would drop a `where`.
    factor = jnp.where(jnp.any(primals[0] == -jnp.inf), jnp.nan, 1)
    return primals, tuple(factor.astype(tangent.dtype) * tangent for tangent in tangents)


@_method("(n,n),(n),(n,n)->(n,n)")
def _to_array(u, log_scale, v):
    log_scale, v = regular(log_scale, v)
    # Scales that the floats hold are added up as they are; beside larger ones they would round to 0, which matters
    # where those have exact zeros. The larger in two steps, and never times infinity: 0 stays 0.
    limit = jnp.log(jnp.finfo(v.dtype).max) - jnp.log(len(v)) - 1
    large, top = log_scale > limit, _top(log_scale)
    half = jnp.exp(jnp.minimum(top / 2, limit))
    overflowing = (u * jnp.where(large, jnp.exp(jnp.maximum(log_scale - top, -limit / 2)), 0)) @ v * half * half
    return overflowing + (u * jnp.where(large, 0, jnp.exp(jnp.minimum(log_scale, limit)))) @ v


@_method("(n,n),(n),(n,n),(n)->(n),()")
def _apply(u, log_scale, v, vector):
    log_scale, v = regular(log_scale, v)
    _, power = jnp.frexp(lax.stop_gradient(jnp.max(jnp.abs(vector))))
    y = v @ _graded.times_power(vector, -power)
    top = _top(jnp.where(y == 0, -jnp.inf, log_scale))
    (direction,), (log_length,) = _graded.unit((u @ _graded.times_exp(y, log_scale - top))[None])
    return direction, top + log_length + power.astype(v.dtype) * math.log(2)


@_method("(n),(n,n)->()")
def _log_norm(log_scale, v):
    top = _top(log_scale)
    zero = jnp.max(log_scale) == -jnp.inf
    scaled = jnp.where(zero, jnp.eye(len(v), dtype=v.dtype), jnp.exp(log_scale - top)[:, None] * v)
    return jnp.where(zero, -jnp.inf, top + jnp.log(jnp.linalg.svd(scaled, compute_uv=False)[0]))


@_method("(n),(n,n)->()")
def _log_abs_det(log_scale, v):
    return jnp.sum(log_scale) + jnp.linalg.slogdet(v)[1]


@_method("(n),(n,n)->(n)")
def _log_singular_values(log_scale, v):
    return _graded.log_singular_values(log_scale, v)


@_method("(n,n),(n),(n,n)->(n,n),(n,n)")
def _singular_vectors(u, log_scale, v):
    left, right = _graded.singular_vectors(log_scale, v)
    return u @ left, right
