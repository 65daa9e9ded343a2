"""`kernels.c`, compiled when asked for and called through ctypes: what the same work costs by hand."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
_SOURCE = Path(__file__).with_name("kernels.c")


def absent() -> str | None:
    """Why there is no C to compare with, or None if there is."""
    return None if shutil.which("gcc") else "gcc is not installed"


def version() -> str:
    return subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def orbit_diagram(biases, w, epsilon, x0, *, num_transient, num_kept):
    """The kept states, shape (P, num_kept), in a new array, as a caller in Python would have them."""
    kept = np.empty((len(biases), num_kept))
    call = _library().orbit_diagram
    call(
        _long(len(biases)),
        _at(biases),
        *map(_double, (w, epsilon, x0)),
        *map(_long, (num_transient, num_kept)),
        _at(kept),
    )
    return kept


def error_surface(weights, biases, x0, target, *, num_steps):
    """Errors, shape (P,), and gradients, shape (P, 2), in new arrays."""
    error, gradient = np.empty(len(weights)), np.empty((len(weights), 2))
    call = _library().error_surface
    points = (_long(len(weights)), _at(weights), _at(biases))
    call(*points, _double(x0), _double(target), _long(num_steps), _at(error), _at(gradient))
    return error, gradient


def orbit(pushes, w, b, epsilon, x0):
    """The states x_0 ... x_T, in a new array."""
    states = np.empty(len(pushes) + 1)
    parameters = map(_double, (w, b, epsilon, x0))
    _library().orbit(_long(len(pushes)), _at(pushes), *parameters, _at(states))
    return states


_long, _double = ctypes.c_long, ctypes.c_double


def _at(array):
    assert array.dtype == np.float64
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


@functools.cache
def _library():
    # Two steps: a library linked with -ffast-math switches denormal numbers off in the process that loads it.
    with tempfile.TemporaryDirectory() as folder:
        compiled, library = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        subprocess.run(["gcc", *FLAGS, "-c", _SOURCE, "-o", compiled], check=True)
        subprocess.run(["gcc", "-shared", "-fopenmp", compiled, "-lm", "-o", library], check=True)
        return ctypes.CDLL(str(library))
