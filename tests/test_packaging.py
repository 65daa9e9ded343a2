"""Laws of the package as a whole."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rnn_dynamics

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rnn_dynamics"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
SUBMODULES = sorted({name.split(".")[1] for name in MODULES if "." in name and "._" not in name})


def run(*command):
    environment = {name: value for name, value in os.environ.items() if name != "EAGER_IMPORT"}  # lazy_loader reads it
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy_and_each_module_comes_on_first_use():
    program = """
import json, sys
import rnn_dynamics
at_first = sorted(sys.modules)
names = {name: getattr(rnn_dynamics, name).__name__ for name in sys.argv[1:]}
print(json.dumps([at_first, names, dir(rnn_dynamics)]))
"""
    at_first, names, listed = json.loads(run("-c", program, *SUBMODULES))
    assert not {"diffrax", "jax", "matplotlib", "optax", "scipy.optimize"} & set(at_first)
    assert not [name for name in at_first if name.startswith("rnn_dynamics.")]
    assert names == {name: f"rnn_dynamics.{name}" for name in SUBMODULES}
    assert set(SUBMODULES) <= set(listed)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_every_public_name_is_documented(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for public in module.__all__:
        assert not public.startswith("_") or public == "__version__"
        assert hasattr(module, public)
        assert (getattr(module, public).__doc__ or "").strip(), f"{name}.{public} has no docstring"


def test_the_package_needs_only_what_it_may():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    permitted = "diffrax equinox jax jaxtyping lazy-loader matplotlib numpy optax scipy threadpoolctl tqdm"
    assert sorted(re.match(r"[\w-]+", line)[0] for line in needed) == permitted.split()


def test_there_is_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert rnn_dynamics.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_is_longer_than_four_hundred_lines():
    files = [*SOURCES, *(ROOT / "scripts").rglob("*.py")]
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 400} == {}


def test_a_wheel_holds_the_package_its_type_marker_and_its_licence_alone(tmp_path):
    run("-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    package = {path.relative_to(ROOT).as_posix() for path in SOURCES} | {"rnn_dynamics/py.typed"}
    described = {name for name in held if ".dist-info/" in name}
    assert held - described == package
    assert {Path(name).name for name in described} >= {"METADATA", "LICENSE"}
