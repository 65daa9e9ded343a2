"""Runs the benchmarks, prints their table and, unless they were quick, saves it in results.json and README.md.

Each topic runs in a process of its own, once in each environment that it names, so that nothing is left of the one
before: options of XLA and of the allocator are read when a process starts.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

TOPICS = (
    "orbit_diagram",
    "error_surface",
    "fixed_points",
    "continuation",
    "lyapunov",
    "products",
    "backpropagation",
    "long_orbit",
    "startup",
)
HERE = Path(__file__).resolve().parent
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # passive: C's threads sleep while others are timed
MARKED_FLAGS = ("avx2", "fma", "avx512f", "avx512dq")

EXPLANATION = """\
# Speed, measured side by side

`make benchmark` writes this file and `results.json`; with `ARGS=topic` it measures that one and keeps the rest. The
contenders of a topic take turns in one process, and every number is a quotient of two of them in the same round: its
least, middle and largest value over all rounds. What is shorter than 50 ms is called several times in its turn.
Absolute times are left out: they belong to a machine. All in float64; every contender returns a new array.

- *ours*: what a user writes, through the public functions. On one device JAX computes a loop of small steps on one
  core; orbit diagrams, sweeps and searches for fixed points deal theirs out to all of them, and so do products *in
  parallel*. What they are compared with uses one core, but for C, torch and *NumPy* with its own threads: of the bare
  products, of `scipy.optimize.root` and of *one* branch, two cores make up to a factor of 2 of the quotient.
- *C*: `kernels.c`, by hand: vector code, two threads, every step done. *NumPy / C* is all there is to win.
- *NumPy, in place*: no new array in the loop, NumPy's `exp`. *NumPy, a new array an operation*: the same formula as
  one writes it first.
- *tuned environment*: `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (memory for large arrays comes in large pages, as
  NumPy asks for them by itself) and `XLA_FLAGS=--xla_backend_extra_options=xla_cpu_disable_tiled_emitter` (XLA's tiled
  code is scalar where the last axis of a batch has length 1, as it has for one neuron).
- *fixed points*: rates are ours over a peer's, from the same starts. A point counts if NumPy verifies it anew.
- *branches*: NumPy is a pseudo-arclength loop with LAPACK that finds the folds and, between two points, one crossing
  of the unit circle; ours finds all special points.
- *C, one core*: one orbit by a plain loop with libm's exponential; every step waits for the one before it.
- *Lyapunov spectra*: NumPy takes a Jacobian, a product and a QR at every step; its time a step is ours' to compare.
- *products of matrices*: `from_matrices` and its log singular values; `log_norm` for the largest alone. *In parallel*:
  with `parallel=True`, a stretch of the matrices for each core. NumPy's QR is its time a step, and the logarithms that
  it gives are off by 1 or so.
- *BPTT*: a network's outputs, their loss and its gradient in all weights, in float32, under `vmap`; torch where it is
  installed, and then in the process of ours, which is slower with torch imported.
- *two devices*: `XLA_FLAGS=--xla_force_host_platform_device_count=2`, a core each.

The orbit diagram's early exit is checked to change no bit, and all contenders to agree, before anything is timed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed ratios, side by side.")
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(TOPICS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes: that it works, not how fast")
    parser.add_argument("--alone", metavar="ENVIRONMENT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if unknown := set(chosen.topics) - set(TOPICS):
        parser.error(f"unknown topic {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}")
    if chosen.alone is not None:
        _alone(*chosen.topics, quick=chosen.quick)
        return
    topics = chosen.topics or TOPICS
    rows = [row for topic in topics for row in _rows(topic, quick=chosen.quick)]
    print(table(rows))
    if not chosen.quick:
        save([row for row in _saved() if row["topic"] not in topics] + rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| work | environment | quotient | least – middle – largest | target | |", "|---|---|---|---|---|---|"]
    for row in rows:
        spread = " – ".join(f"{value:.2f}" for value in row["spread"]) if row["spread"] else f"absent: {row['why']}"
        met = {True: "met", False: "missed", None: ""}[row["met"]]
        cells = (row["what"], row["environment"], row["measure"], spread, row["target"], met)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(rows: list[dict[str, Any]]) -> None:
    """Writes results.json and README.md beside this file."""
    rows = sorted(rows, key=lambda row: TOPICS.index(row["topic"]))
    setting = _setting()
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "results.json").write_text(f'{{"setting": {json.dumps(setting)},\n"rows": [\n{lines}\n]}}\n')
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    processor = f"{setting['cores']} cores with {', '.join(setting['cpu']) or 'no vector units known'}"
    text = f"{EXPLANATION}\nMeasured on {processor}; {versions}.\n\n{table(rows)}\n"
    (HERE / "README.md").write_text(text)


def _saved() -> list[dict[str, Any]]:
    """What the last runs found, of topics that there still are."""
    file = HERE / "results.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in rows if row["topic"] in TOPICS]


def _rows(topic: str, *, quick: bool) -> list[dict[str, Any]]:
    """A topic's rows, from a process for each of its environments."""
    rows = []
    for name, variables in importlib.import_module(f"tests.benchmarks.{topic}").VARIANTS.items():
        print(f"{topic}{f' ({name})' if name else ''} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tests.benchmarks", topic, "--alone", name, *(["--quick"] if quick else [])]
        environment = {**os.environ, **THREADS, **variables}
        done = subprocess.run(
            command, cwd=HERE.parents[1], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        rows += [{"topic": topic, "environment": name, **row} for row in json.loads(done.stdout)]
    return rows


def _alone(topic: str, *, quick: bool) -> None:
    """One topic in this process; its rows go to the standard output."""
    import jax

    jax.config.update("jax_enable_x64", True)
    module = importlib.import_module(f"tests.benchmarks.{topic}")
    json.dump(list(module.rows(quick=quick)), sys.stdout)


def _setting() -> dict[str, Any]:
    from tests.benchmarks import _kernels

    packages = ("jax", "jaxlib", "numpy", "scipy", "equinox")
    versions = {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
    if not _kernels.absent():
        versions["gcc"] = _kernels.version()
    information = Path("/proc/cpuinfo")
    flags = information.read_text().split() if information.exists() else []
    return {"versions": versions, "cpu": [flag for flag in MARKED_FLAGS if flag in flags], "cores": os.cpu_count()}


if __name__ == "__main__":
    main()
