"""What tests and doctests share: float64, a quiet picture backend, and the names that the docstrings' examples use."""

import os

os.environ.setdefault("MPLBACKEND", "agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    """An example starts where its reader does: its module's own names are there, and these."""
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
