"""How the package compiles and runs: its `jit`, one BLAS thread round small linear algebra, shares on all cores.

Row 0 of the layer table: imports nothing of the package. Next: `activations`, `products`.
"""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import equinox
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, get_opaque_trace_state
from jaxtyping import Array
from threadpoolctl import ThreadpoolController

__all__ = [
    "always_on_one_blas_thread",
    "any_lane",
    "in_threads",
    "jit",
    "jit_wide",
    "num_cores",
    "num_shares",
    "on_all_cores",
    "on_one_blas_thread",
    "one_blas_thread",
    "top_level",
    "untiled",
    "waits",
]

Function = TypeVar("Function", bound=Callable)

with jax.core.eval_context():
    _TOP_LEVEL = get_opaque_trace_state()


def top_level() -> bool:
    """Whether the caller runs eagerly: outside every `jit`, `vmap`, `grad` and `scan`."""
    return get_opaque_trace_state() == _TOP_LEVEL


_QUICKLY = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_WIDE = {"xla_cpu_use_fusion_emitters": True}


@functools.cache
def _compiler_options(wide: bool) -> dict[str, int | bool] | None:
    """What XLA needs to be told on a CPU.

    Its newer generator of kernels makes elementwise work on long arrays up to 4 times faster; anything else takes only
    twice as long to compile, and a tenth more again with all of LLVM's optimisations. It emits 256-bit vectors; where
    there is AVX-512, those of 512 are up to 2.5 times faster. What the user's XLA_FLAGS say holds for the package too.
    """
    if jax.default_backend() != "cpu":
        return None
    cpu = Path("/proc/cpuinfo")
    avx512 = cpu.exists() and " avx512f " in cpu.read_text()
    vectors = {"xla_cpu_prefer_vector_width": 512} if avx512 else {}
    options = _WIDE if wide else _QUICKLY
    options = vectors | (options if _are_known(*options.items()) else {})
    return {name: value for name, value in options.items() if name not in os.environ.get("XLA_FLAGS", "")}


@functools.cache
def _are_known(*options):
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return False
    return True


def jit(function: Function) -> Function:
    """`equinox.filter_jit` with the package's compiler options: arrays are traced, everything else is static.

    Options belong to a whole program, and JAX refuses them inside another one; there the plain form is used. Matrix
    products, those of the caller's map included, keep the precision of their dtype: a recent GPU would otherwise round
    the factors of a float32 product to ten bits.
    """
    return _jit(function, wide=False)


def jit_wide(function: Function) -> Function:
    """`jit` for elementwise work on long arrays: faster there, slower to compile."""
    return _jit(function, wide=True)


def _jit(function: Function, *, wide: bool) -> Function:
    inner = equinox.filter_jit(function)

    @functools.cache
    def outer():
        if options := _compiler_options(wide):
            return equinox.filter_jit(function, compiler_options=options)  # pyright: ignore[reportCallIssue]
        return inner

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return (outer() if top_level() else inner)(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


@jax.custom_jvp
def untiled(x: Array) -> Array:
    """x itself. XLA's CPU code for sums and products alone sends every vector through the stack, at up to ten times the
    cost of one that holds a constant, as this does: for states of a long loop, `jit_wide`."""
    most = jnp.asarray(jnp.inf, x.dtype)
    return jax.lax.clamp(-most, x, most)


@untiled.defjvp
def _(primals, tangents):
    return untiled(*primals), tangents[0]


@jax.custom_batching.custom_vmap
def any_lane(flag: Array) -> Array:
    """A flag as it is; under `vmap`, whether it holds in any lane.

    As the condition of a loop whose body changes nothing in lanes that are over: JAX would copy every lane's state,
    round by round, to see to that itself. As that of a `cond`: JAX would take both ways in every lane.
    """
    return flag


@any_lane.def_vmap
def _(axis_size, in_batched, flag):
    del axis_size, in_batched
    return any_lane(jnp.any(flag)), False


@functools.cache
def _libraries():
    # Looking for them takes longer than a small search. JAX calls SciPy's, which is loaded with this module of it.
    importlib.import_module("scipy.linalg.cython_lapack")
    return ThreadpoolController()


def one_blas_thread():
    """A context in which BLAS and LAPACK use one thread: small matrices run several times faster so."""
    return _libraries().limit(limits=1, user_api="blas")


def always_on_one_blas_thread(function: Function) -> Function:
    """A function that runs on the host, and all that it calls, on one BLAS thread."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with one_blas_thread():
            return function(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def on_one_blas_thread(function: Callable, *args):
    """Calls a compiled loop of small linear algebra on one BLAS thread, and waits for it before the rest come back.

    Inside a caller's transformation nothing runs yet, and a GPU has no BLAS threads: there it is a plain call.
    """
    if not top_level() or jax.default_backend() != "cpu":
        return function(*args)
    with one_blas_thread():
        return jax.block_until_ready(function(*args))


_MOST_CORES = 16  # as many callers as OpenBLAS has buffers for, however it was built
# fmt: off
_LAPACK = {
    "cholesky", "cholesky_update", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu", "ormqr",
    "qr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
}
_OTHERS = {"conv_general_dilated", "debug_callback", "debug_print", "fft", "ffi_call", "io_callback", "pure_callback"}
# fmt: on


def num_cores() -> int:
    """Into how many threads a caller may cut its work; 1 inside a caller's transformation and on a GPU."""
    if not top_level() or jax.default_backend() != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_CORES)


_compiled: set[int] = set()


def in_threads(function: Callable, calls: Sequence[tuple]) -> list[Any]:
    """function(*args) for every args in `calls`, in a thread each: XLA runs a loop of small steps on one core.

    `function` is compiled, and does not wait for XLA's own threads (`waits`).
    """
    wide = jnp.result_type(float) == jnp.float64
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    def run(args):
        with jax.enable_x64(wide), jax.default_device(device):  # a thread begins without what its maker has set
            return jax.block_until_ready(function(*args))

    # The first call compiles; threads that begin together would all do so.
    leaves, structure = jax.tree.flatten(calls[0])
    kinds = ((leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves)
    known = hash((function, structure, wide, *kinds))
    first = [] if known in _compiled else [run(calls[0])]
    _compiled.add(known)
    with ThreadPoolExecutor(len(calls)) as threads:
        return [*first, *threads.map(run, calls[len(first) :])]


def on_all_cores(function: Callable, before: tuple, points: tuple, after: tuple, num_shares: int) -> Any:
    """function(*before, *points, *after), the arrays in `points` cut into equal shares, which run `in_threads`.

    `points` are pytrees of arrays whose leading axis counts the points; `function` takes those of a share one by one or
    side by side. Arrays come back as NumPy's, random keys as JAX's.
    """
    if num_shares == 1:
        return function(*before, *points, *after)
    num_points = len(jax.tree.leaves(points)[0])
    size = -(-num_points // num_shares)
    # Shares of one shape are compiled once: the last point is repeated where the last share is not full.
    filled = num_shares * size - num_points
    parts = [slice(i * size, (i + 1) * size) for i in range(num_shares)]
    points = jax.tree.map(np.asarray, points)
    points = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[-1:].repeat(filled, 0)]) if filled else leaf, points)
    shares = [(*before, *jax.tree.map(lambda leaf, part=part: leaf[part], points), *after) for part in parts]
    return jax.tree.map(lambda *leaves: _joined(leaves)[:num_points], *in_threads(function, shares))


def _joined(leaves):
    random_keys = jnp.issubdtype(leaves[0].dtype, jax.dtypes.extended)
    return (jnp if random_keys else np).concatenate(leaves)


def num_shares(most: int, function: Callable, *args) -> int:
    """Into how many shares, at most so many, `on_all_cores` may cut work that calls `function(*args)`; 1 if it waits.

    The function is only traced, and where there is one core not even that: shapes will do for its arguments.
    """
    cores = max(1, min(num_cores(), most))
    return 1 if cores > 1 and waits(function, *args) else cores


def waits(function: Callable, *args) -> bool:
    """Whether a function calls what waits for XLA's own threads: two such programs can wait for each other for ever.

    Those are LAPACK on batches of matrices, Fourier transforms, convolutions, and all that is not JAX's. Of a function
    that cannot be traced it is not known; whoever calls it will find out why.
    """
    try:
        return _any_waits(jax.make_jaxpr(function)(*args).jaxpr)
    except Exception:  # it is the user's
        return True


def _any_waits(jaxpr):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        batched = any(getattr(variable.aval, "ndim", 0) > 2 for variable in equation.invars)
        inner = jax.tree.leaves(equation.params, is_leaf=lambda value: isinstance(value, (ClosedJaxpr, Jaxpr)))
        jaxprs = [getattr(value, "jaxpr", value) for value in inner if isinstance(value, (ClosedJaxpr, Jaxpr))]
        if name in _OTHERS or (name in _LAPACK and batched) or any(map(_any_waits, jaxprs)):
            return True
    return False
