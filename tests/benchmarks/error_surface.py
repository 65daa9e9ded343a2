"""The error surface E₅₀(w, b) = (σ(x₅₀) - 0.7)², x' = wσ(x) + b, x₀ = 0.5, with its gradient, on a 1000 × 1000 grid."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn_dynamics import activations, simulate, sweeps
from rnn_dynamics.models import PascanuRNN
from tests.benchmarks import _kernels
from tests.benchmarks._measure import absent, quotients, row, side_by_side

_TWO = "--xla_force_host_platform_device_count=2"
_TUNED = "--xla_backend_extra_options=xla_cpu_disable_tiled_emitter"
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
VARIANTS = {
    "": {},
    "tuned environment": {"XLA_FLAGS": _TUNED, **_HUGE_PAGES},
    "two devices": {"XLA_FLAGS": _TWO},
    "two devices, tuned environment": {"XLA_FLAGS": f"{_TWO} {_TUNED}", **_HUGE_PAGES},
}

X0, TARGET, NUM_STEPS = 0.5, 0.7, 50
FULL = {"num_points": 1000, "rounds": 21}
QUICK = {"num_points": 100, "rounds": 3}


def error(point):
    """E₅₀ at (w, b)."""
    w, b = point
    unit = PascanuRNN(w[None, None], None, b[None])
    x = simulate.final_state(unit, jnp.array([X0]), num_steps=NUM_STEPS)
    return (activations.sigmoid(x[0]) - TARGET) ** 2


def error_and_gradient(point):
    """Two tangents carried forward with the state: nothing to remember on the way, as reverse mode would have to."""
    gradient, value = jax.jacfwd(lambda point: (error(point),) * 2, has_aux=True)(point)
    return value, gradient


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    num_points = settings["num_points"]
    grid = np.meshgrid(np.linspace(4.0, 7.0, num_points), np.linspace(-4.0, -2.0, num_points), indexing="ij")
    weights, biases = (np.ascontiguousarray(axis).reshape(-1) for axis in grid)
    points = jnp.stack([weights, biases], axis=-1)
    contenders = {
        "ours": lambda: sweeps.sweep(error_and_gradient, points),
        "in place": lambda: in_place(weights, biases),
        "plain": lambda: plain(weights, biases),
    }
    if not _kernels.absent():
        contenders["C"] = lambda: _kernels.error_surface(weights, biases, X0, TARGET, num_steps=NUM_STEPS)
    _agree(contenders)
    seconds = side_by_side(contenders, settings["rounds"])
    what = "error surface and gradient"
    than_c = "≤ 1.6" if jax.local_device_count() > 1 else "≤ 3.5"
    yield row(what, "NumPy, in place, no gradient / ours", quotients(seconds["in place"], seconds["ours"]), "≥ 4")
    yield row(what, "NumPy, a new array an operation, no gradient / ours", quotients(seconds["plain"], seconds["ours"]))
    if "C" in contenders:
        yield row(what, "NumPy, in place, no gradient / C", quotients(seconds["in place"], seconds["C"]))
        yield row(what, "ours / C", quotients(seconds["ours"], seconds["C"]), than_c)
    else:
        yield absent(what, "ours / C", than_c, _kernels.absent())


def _agree(contenders):
    """All contenders compute the same surface, but for the points on its wall, where rounding is amplified too."""
    value, gradient = map(np.asarray, contenders["ours"]())
    for other in (contenders["in place"](), contenders["plain"]()):
        assert np.quantile(np.abs(other - value), 0.99) < 1e-12
    if "C" in contenders:
        other_value, other_gradient = contenders["C"]()
        assert np.quantile(np.abs(other_value - value), 0.99) < 1e-12
        assert np.quantile(np.abs(other_gradient - gradient) / (1 + np.abs(gradient)), 0.99) < 1e-10


def in_place(weights, biases):
    """NumPy's fastest: no new array in the loop."""
    x = np.full_like(weights, X0)
    for _ in range(NUM_STEPS):
        _one_plus_exp(x)
        np.divide(weights, x, out=x)
        x += biases
    _one_plus_exp(x)
    np.reciprocal(x, out=x)
    x -= TARGET
    x *= x
    return x


def _one_plus_exp(x):
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1


def plain(weights, biases):
    """The loop as one writes it first."""
    x = np.full_like(weights, X0)
    for _ in range(NUM_STEPS):
        x = weights / (1 + np.exp(-x)) + biases
    return (1 / (1 + np.exp(-x)) - TARGET) ** 2
