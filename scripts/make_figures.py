"""Draws every figure: runs each `fig_*.py` beside this file, with a line of progress for each."""

import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import _figure  # noqa: E402


def main() -> None:
    """Makes them all, in the order of their names."""
    chosen = _figure.options(__doc__ or "")
    names = sorted(path.stem for path in HERE.glob("fig_*.py"))
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name} ...", end=" ", flush=True)
        start = time.perf_counter()
        _figure.make(importlib.import_module(name), chosen.out, quick=chosen.quick)
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
    print(f"{len(names)} figures in {chosen.out}")


if __name__ == "__main__":
    main()
