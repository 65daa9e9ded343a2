"""What tests and doctests share: float64, a quiet picture backend, a compilation cache, names for the examples."""

import gc
import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
# Most programs run once here, and most of the suite's time is compilation: nothing is optimised, and neither of its two
# processes takes threads from the other. XLA refuses to start with a flag that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        "--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops "
        f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
    )

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Tracing makes objects by the million, and Python looks for cycles among them every 700.
gc.set_threshold(300_000, 20, 100)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads the programs
# The two processes compile much the same programs.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.03)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish():
    """What was imported stays, and need not be looked through again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _programs_are_given_back():
    """Linux allows a process 65,530 memory maps, and the programs of all files together would take more."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    """An example starts where its reader does: its module's own names are there, and these."""
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
