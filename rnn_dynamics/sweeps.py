"""One function at many points: a grid of parameters, a list of starts, seeds.

Row 1 of the layer table: no dynamics. `jax.vmap` runs all points side by side, so that the states of a long run travel
through memory at every step; `sweep` takes them a chunk at a time, on every device there is. Next: `models`.
"""

from collections.abc import Callable, Sequence

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rnn_dynamics import _check
from rnn_dynamics._compile import (
    jit_wide,
    num_shares,
    on_all_cores,
    on_one_blas_thread,
    one_blas_thread,
    top_level,
)

__all__ = ["sweep"]

_CHUNK_ON_CPU, _CHUNK_ELSEWHERE = 1000, 2**17
"""Points side by side: few enough for their states to stay in a CPU's cache; enough to occupy a GPU."""


def sweep(
    function: Callable, points: PyTree, /, *, chunk: int | None = None, devices: Sequence | None = None
) -> PyTree:
    """A function of one point at many points: `jax.vmap(function)(points)` to rounding, in less memory and time.

    The points are cut into equal chunks; those of one chunk run side by side, and chunk follows chunk. Several devices
    take equal shares, and so do the cores of a CPU, which counts as one device unless
    `jax.config.update("jax_num_cpu_devices", 2)` says otherwise before anything else is asked of JAX.

    Two kinds of function want `chunk=1`, one point after the other without `vmap`: those with a `while_loop`, which
    side by side waits for the slowest point, and those that call LAPACK, whose batches can hang when several programs
    run them at once: they are left to one core, but several CPU devices are taken at their word.

    Args:
        function: `point -> result`, each any pytree of arrays. It is compiled once for each function object: define it
            once, outside loops. Derivatives sweep too: `sweep(jax.value_and_grad(error), points)`.
        points: A pytree of arrays whose leading axis counts the points.
        chunk: Points side by side, at most; None for 1,000 on a CPU and 131,072 elsewhere.
        devices: Where to run; None for every device of this process. Inside a caller's `jit`, `vmap` or `grad` it must
            be None: there the caller decides.

    Returns:
        The function's result with a new leading axis, the points in the order given.

    Raises:
        ValueError: function cannot be called; points hold no array, or leading axes that differ; chunk is below 1;
            devices are none, no devices, one of them twice, or given inside a caller's transformation.

    Example:
        >>> grid = jnp.stack(jnp.meshgrid(jnp.arange(3.0), jnp.arange(2.0), indexing="ij"), axis=-1).reshape(-1, 2)
        >>> sweep(lambda point: point[0] * point[1], grid)
        Array([0., 0., 0., 1., 0., 2.], dtype=float64)
    """
    if not callable(function):
        raise ValueError(f"function must be callable; got {type(function).__name__}")
    points = _as_points(points)
    if chunk is not None:
        chunk = _check.count("chunk", chunk, least=1)
    if devices is not None and not top_level():
        raise ValueError(f"devices must be None inside a caller's jit, vmap or grad; got {devices}")
    chosen = None if devices is None else _as_devices(devices)
    if chosen is None and (not top_level() or jax.local_device_count() == 1):
        return _on_one(function, points, chunk or _default_chunk(jax.default_backend()))
    chosen = chosen or jax.local_devices()
    mesh = Mesh(np.array(chosen), ("points",))
    num_points = _num_points(points)
    points = _extended(points, -num_points % len(chosen))
    points = jax.device_put(points, NamedSharding(mesh, PartitionSpec("points")))
    # Each device needs the function's own arrays, wherever they lie.
    everywhere = NamedSharding(mesh, PartitionSpec())
    function = jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere) if equinox.is_array(leaf) else leaf, function)
    # A core each, or two BLAS threads a device would wait for each other.
    chunk = chunk or _default_chunk(mesh.devices.flat[0].platform)
    results = on_one_blas_thread(_on_many, function, points, chunk, mesh)
    return _first(results, num_points)


def _on_one(function, points, chunk):
    """On one device; the cores of a CPU take equal shares, if there are chunks enough and nothing waits for XLA."""
    num_chunks = -(-_num_points(points) // chunk)
    keys = any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in jax.tree.leaves(points))
    shares = 1 if keys else num_shares(num_chunks, lambda share: _in_chunks(function, share, chunk), points)
    if shares == 1:
        return _in_chunks(function, points, chunk)
    with one_blas_thread():
        return jax.device_put(on_all_cores(_in_chunks, (function,), (points,), (chunk,), shares))


@jit_wide
def _in_chunks(function, points, chunk):
    num_points = _num_points(points)
    if chunk == 1:
        return jax.lax.map(function, points)
    num_chunks = max(-(-num_points // chunk), 1)
    size = -(-num_points // num_chunks)
    points = _extended(points, num_chunks * size - num_points)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(num_chunks, size, *leaf.shape[1:]), points)
    results = jax.lax.map(jax.vmap(function), chunks)
    return _first(jax.tree.map(lambda leaf: leaf.reshape(num_chunks * size, *leaf.shape[2:]), results), num_points)


@jit_wide
def _on_many(function, points, chunk, mesh):
    shares = PartitionSpec("points")
    share = jax.shard_map(
        lambda points: _in_chunks(function, points, chunk),
        mesh=mesh,
        in_specs=shares,
        out_specs=shares,
        check_vma=False,  # the bodies of loops in `function` do not say on which device their values differ
    )
    return share(points)


def _as_devices(devices):
    try:
        devices = list(devices)
    except TypeError:
        devices = [devices]
    if not (devices and all(isinstance(device, jax.Device) for device in devices)) or len({*devices}) < len(devices):
        raise ValueError(f"devices must be one or more, all different, of jax.devices(); got {devices or 'none'}")
    return devices


def _default_chunk(platform):
    return _CHUNK_ON_CPU if platform == "cpu" else _CHUNK_ELSEWHERE


def _as_points(points):
    try:
        points = jax.tree.map(jnp.asarray, points)
    except TypeError as error:
        raise ValueError(f"points must be arrays of numbers or keys; got {points!r}") from error
    shapes = [leaf.shape for leaf in jax.tree.leaves(points)]
    if not (shapes and all(shapes)) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"points must be arrays with one leading axis in common; got shapes {shapes}")
    return points


def _num_points(points):
    return len(jax.tree.leaves(points)[0])


def _extended(points, missing):
    """The points, the last one repeated: a chunk or a share that is not full costs as much as a full one."""
    if missing == 0:
        return points
    return jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))]), points
    )


def _first(results, num_points):
    return jax.tree.map(lambda leaf: leaf[:num_points] if len(leaf) > num_points else leaf, results)
