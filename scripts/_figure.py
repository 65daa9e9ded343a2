"""What every figure script shares: float64, the compilation cache, the two options, and how a figure is written.

A script has `compute(**settings) -> arrays`, `draw(arrays) -> Figure`, and the settings FULL and QUICK; `run` turns
it into four files: `<stem>.npz` (the arrays drawn), `<stem>.json` (how they came about), `<stem>.pdf`, `<stem>.png`.
Files are byte-stable: they change when the figure does and not otherwise.
"""

import argparse
import inspect
import logging
import sys
from pathlib import Path
from types import ModuleType

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt

from rnn_dynamics import files, plotting

ROOT = Path(__file__).resolve().parent.parent

mpl.use("agg")
logging.getLogger("fontTools").setLevel(logging.ERROR)  # it finds the bundled fonts' dates too old to be true
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def options(description: str) -> argparse.Namespace:
    """`--out` and `--quick`, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=ROOT / "figures", help="folder to write into (default: figures)")
    parser.add_argument("--quick", action="store_true", help="a small version, to see that the script works")
    return parser.parse_args()


def stem(script: ModuleType) -> str:
    """The name under which a script's files stand: `fig_doya_time.py` writes `doya_time.png` and so on."""
    return Path(inspect.getfile(script)).stem.removeprefix("fig_")


def make(script: ModuleType, out: Path, *, quick: bool) -> None:
    """Computes a script's arrays, saves them, and draws the figure from what was saved."""
    settings = script.QUICK if quick else script.FULL
    path = out / stem(script)
    out.mkdir(parents=True, exist_ok=True)
    files.save(path, script.compute(**settings), settings, source=inspect.getfile(script))
    with plotting.style():
        figure = script.draw(files.load(path).arrays)
        files.write(path.with_suffix(".png"), lambda stream: figure.savefig(stream, format="png"))
        date = {"CreationDate": None}
        files.write(path.with_suffix(".pdf"), lambda stream: figure.savefig(stream, format="pdf", metadata=date))
    plt.close(figure)


def run(script: str) -> None:
    """What a script does when it is run by itself."""
    module = sys.modules[script]
    chosen = options((module.__doc__ or "").splitlines()[0])
    make(module, chosen.out, quick=chosen.quick)
