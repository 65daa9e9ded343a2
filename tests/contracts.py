"""The laws that every map must pass, whatever it models: `check_map(step, x, u)`.

`scale` is the size of the largest term that a step adds up, and of its third derivatives divided by 50; the tolerances
are proportional to it.
"""

import functools

import equinox
import jax
import jax.numpy as jnp
import numpy as np

EPS = 2.0**-52
EPS32 = 2.0**-23
H = EPS ** (1 / 3)
"""Step of the central differences: off by h²/6 of a third derivative (≤ 50 scale, along a direction of entries ≤ 1) and
by ε·scale/h, together less than 10 ε^(2/3) scale."""

_quick_jit = functools.partial(equinox.filter_jit, compiler_options={"xla_backend_optimization_level": 0})


def check_map(step, x, u=None, *, scale=10.0):
    """Every law that applies: those of its parameters only to a map that is a pytree with arrays in it."""
    # Two ways to add up fewer than 2n + 8 terms below `scale`, a few ulp of the activation function in each.
    rounding = 4 * (2 * len(x) + 8) * EPS * scale
    difference = 10 * EPS ** (2 / 3) * scale
    owns_parameters = any(equinox.is_array(leaf) for leaf in jax.tree.leaves(step))
    single = cast((step, x, u), np.float32)
    came = jax.tree.map(np.asarray, _everything(step, x, u, single))
    check_transformations(came, step, x, u, rounding)
    check_derivatives(came, step, x, u, rounding, difference)
    check_dtypes(came, step, x, u, rounding / EPS * EPS32, promotes=owns_parameters)
    if owns_parameters:
        check_round_trip(step, x, u)
        check_parameters(came, len(x), rounding, difference)


def check_transformations(came, step, x, u, rounding):
    """jit = eager; vmap over states = loop; a scan's body = a call."""
    one_by_one = np.stack([step(row, u) for row in (x, 0.9 * x, 1.1 * x)])
    assert one_by_one.shape == (3, *x.shape)
    assert one_by_one.dtype == x.dtype
    for name in ("jit", "vmap", "scan"):
        assert came[name].dtype == x.dtype
        close(came[name], one_by_one, rounding)


def check_derivatives(came, step, x, u, rounding, difference):
    """JVP = central difference; the map's own Jacobian = jacfwd = differences; reverse mode = forward mode."""
    close(came["jvp"], came["difference"], len(x) * difference)
    close(came["jacfwd"], came["differences"], difference)
    close(came["jacrev"], came["jacfwd"], rounding)
    if hasattr(step, "jacobian"):
        own = step.jacobian(x, u)
        assert own.dtype == x.dtype
        close(own, came["jacfwd"], rounding)
        close(came["own"], own, rounding)


def check_dtypes(came, step, x, u, rounding, *, promotes):
    """float32 in, float32 out, and right to its precision; else the wider dtype of the state's and the parameters'."""
    single, double = (cast((step, x, u), dtype) for dtype in (np.float32, np.float64))
    assert came["single"].dtype == jax.eval_shape(*single).dtype == jnp.float32
    close(came["single"], step(x, u), rounding)
    if hasattr(step, "jacobian"):
        assert jax.eval_shape(single[0].jacobian, *single[1:]).dtype == jnp.float32
    if promotes:
        assert jax.eval_shape(double[0], *single[1:]).dtype == jnp.float64
        assert jax.eval_shape(single[0], *double[1:]).dtype == jnp.float64


def check_round_trip(step, x, u):
    """A map taken apart into leaves, or into arrays and the rest, and put together again is the same map."""
    leaves, structure = jax.tree.flatten(step)
    for again in (jax.tree.unflatten(structure, leaves), equinox.combine(*equinox.partition(step, equinox.is_array))):
        assert jax.tree.structure(again) == structure
        np.testing.assert_array_equal(again(x, u), step(x, u))


def check_parameters(came, n, rounding, difference):
    """vmap over parameters = loop; derivatives by the parameters: forward = central difference, reverse = forward."""
    close(came["variants"], came["variants one by one"], rounding)
    assert (np.ptp(came["variants"], axis=0) > 0).any()
    close(came["forward"], came["forward difference"], n * difference)
    close(came["reverse"], came["weights"] @ came["forward"], n * rounding)


def cast(tree, dtype):
    """The same pytree with its floats in this dtype; arrays of another kind, and what is not an array, stay."""
    return jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf, dtype)) if equinox.is_inexact_array(leaf) else leaf, tree
    )


def close(came, expected, tolerance):
    """Of one shape, all numbers, and nowhere further apart than the tolerance."""
    assert came.shape == expected.shape
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(came, expected, rtol=0, atol=tolerance)


@_quick_jit
def _everything(step, x, u, single):
    near = jnp.stack([x, 0.9 * x, 1.1 * x])
    direction = jnp.cos(1.0 + jnp.arange(len(x)))

    def difference(v):
        return (step(x + H * v, u) - step(x - H * v, u)) / (2 * H)

    came = {
        "jit": jnp.stack([step(row, u) for row in near]),
        "vmap": jax.vmap(step, in_axes=(0, None))(near, u),
        "scan": jax.lax.scan(lambda _, row: (None, step(row, u)), None, near)[1],
        "jvp": jax.jvp(lambda x: step(x, u), (x,), (direction,))[1],
        "difference": difference(direction),
        "differences": jax.vmap(difference, out_axes=1)(jnp.eye(len(x))),
        "jacfwd": jax.jacfwd(step)(x, u),
        "jacrev": jax.jacrev(step)(x, u),
        "single": single[0](*single[1:]),
    }
    if hasattr(step, "jacobian"):
        came["own"] = step.jacobian(x, u)
    arrays, rest = equinox.partition(step, equinox.is_inexact_array)
    if jax.tree.leaves(arrays):
        came |= _by_parameters(lambda arrays: equinox.combine(arrays, rest)(x, u), arrays, len(x))
    return came


def _by_parameters(out, arrays, n):
    variants = [jax.tree.map(lambda leaf, factor=factor: factor * leaf, arrays) for factor in (1.0, 0.99, 0.98)]
    direction = jax.tree.map(
        lambda leaf: jnp.cos(2.0 + jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), arrays
    )
    weights = jnp.sin(1.0 + jnp.arange(n))
    plus, minus = (out(jax.tree.map(lambda leaf, d, s=s: leaf + s * H * d, arrays, direction)) for s in (1, -1))
    gradient = jax.grad(lambda arrays: weights @ out(arrays))(arrays)
    return {
        "variants": jax.vmap(out)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants)),
        "variants one by one": jnp.stack([out(variant) for variant in variants]),
        "forward": jax.jvp(out, (arrays,), (direction,))[1],
        "forward difference": (plus - minus) / (2 * H),
        "reverse": sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction))),
        "weights": weights,
    }
