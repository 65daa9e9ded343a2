"""What every test shares: a way to call functions with deliberately wrong types, and the marker of GPU tests."""

import jax
import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Annotations are enforced while tests run; a test of the package's own complaints switches that off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` run where JAX sees one and say why not elsewhere."""
    if any(item.get_closest_marker("gpu") for item in items) and jax.default_backend() != "gpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and JAX sees none"))
