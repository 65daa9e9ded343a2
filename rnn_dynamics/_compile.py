"""How the package compiles: its `jit`, the same for elementwise work, and one BLAS thread round small linear algebra.

Row 0 of the layer table: imports nothing of the package. Next: `activations`, `products`.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import equinox
import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array
from threadpoolctl import threadpool_limits

__all__ = ["any_lane", "jit", "jit_wide", "on_one_blas_thread", "one_blas_thread", "top_level", "untiled"]

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


def one_blas_thread():
    """A context in which BLAS and LAPACK use one thread: small matrices run several times faster so."""
    return threadpool_limits(1, "blas")


def on_one_blas_thread(function: Callable, *args):
    """Calls a compiled loop of small linear algebra on one BLAS thread, and waits for it before the rest come back.

    Inside a caller's transformation nothing runs yet, and a GPU has no BLAS threads: there it is a plain call.
    """
    if not top_level() or jax.default_backend() != "cpu":
        return function(*args)
    with one_blas_thread():
        return jax.block_until_ready(function(*args))
