"""What tests and doctests share: float64, a quiet picture backend, a compilation cache, names for the examples."""

import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
# The programs that tests make round the package's functions compile as its own long ones do (`_compile.py`); what the
# package compiles itself says what it needs. XLA refuses to start with a flag that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
# Two thirds of the suite's time is compilation, much of it of the same program in both of its processes.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_given_back():
    """Linux allows a process 65,530 memory maps, and the programs of all files together would take more."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    """An example starts where its reader does: its module's own names are there, and these."""
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
