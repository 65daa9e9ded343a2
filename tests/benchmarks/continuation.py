"""One branch of fixed points by pseudo-arclength: Doya's curve with both folds, and a network of 50 units, float64."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from rnn_dynamics import continuation, sweeps
from rnn_dynamics.models import DoyaNeuron
from tests.benchmarks._measure import quotients, row, side_by_side

VARIANTS = {"": {}, "two devices": {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}}

W, SPAN = 5.0, (-4.0, -1.0)
START = 0.018_659_6
SIZE, GAIN = 50, 1.6
FULL = {"curves": 1_000, "starts": 64, "rounds": 11, "reach": 3.0}
QUICK = {"curves": 20, "starts": 2, "rounds": 3, "reach": 0.5}


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    if jax.local_device_count() == 1:
        yield from _neuron(settings)
    yield from _network(settings)


def _neuron(settings):
    yield from _curve("Doya's curve with both folds", settings, largest=0.1, numpy_largest=0.1, max_points=201)
    finer = "Doya's curve with both folds, 400 points"
    yield from _curve(finer, settings, largest=0.015, numpy_largest=0.0042, max_points=1201)


def _curve(what, settings, *, largest, numpy_largest, max_points):
    """One resolution. The norms of the two differ in the state's scale, hence two step lengths for as many points."""

    def family(b):
        return DoyaNeuron(w=W, b=b)

    x0 = jnp.array([START])
    options = {"p_span": SPAN, "max_points": max_points, "max_events": 4, "max_step": largest}

    def ours():
        return continuation.trace(family, x0, SPAN[0], **options)

    def in_numpy():
        return numpy_curve(_doya, _doya_jacobian, np.array([START]), SPAN, largest=numpy_largest)

    @jax.jit
    def many(ws):
        def curve(w):
            branch = continuation.trace(lambda b: DoyaNeuron(w=w, b=b), x0, SPAN[0], **options)
            return branch.p, branch.x, branch.stable, branch.events.p

        return jax.vmap(curve)(ws)

    ws = jnp.linspace(4.2, 6.0, settings["curves"])
    start = time.perf_counter()
    branch = ours()
    compiling = time.perf_counter() - start
    folds = [event.p for event in branch.events]
    np.testing.assert_allclose(folds, [float(b) for b, _ in DoyaNeuron.folds(W)], rtol=0, atol=1e-15)
    points, _, found, _ = in_numpy()
    np.testing.assert_allclose(found, folds, rtol=0, atol=1e-12)
    print(f"{what}: {len(branch)} points, NumPy {len(points)}", file=sys.stderr)

    contenders = {"ours": lambda: ours().x, "NumPy": lambda: in_numpy()[0], "many": lambda: many(ws)}
    seconds = side_by_side(contenders, settings["rounds"])
    yield row(what, "NumPy / ours", quotients(seconds["NumPy"], seconds["ours"]), "≥ 25")
    yield row(what, f"{settings['curves']:,} curves at once / one", quotients(seconds["many"], seconds["ours"]), "≤ 50")
    yield row(what, "first call, seconds", [compiling], "≤ 5 s")


def _network(settings):
    rng = np.random.default_rng(0)
    w, v = GAIN * rng.normal(size=(SIZE, SIZE)) / SIZE**0.5, rng.normal(size=SIZE)
    weights, push = jnp.asarray(w), jnp.asarray(v)
    span = (-settings["reach"], settings["reach"])
    x0 = jnp.zeros(SIZE)

    def family(b):
        return lambda x, u: jnp.tanh(weights @ x + b * push)

    def residual(y):
        return np.tanh(w @ y[:-1] + y[-1] * v) - y[:-1]

    def jacobian(y):
        slope = 1 - np.tanh(w @ y[:-1] + y[-1] * v) ** 2
        whole = np.empty((SIZE, SIZE + 1))
        np.multiply(slope[:, None], w, out=whole[:, :-1])
        whole[:, -1] = slope * v
        whole[np.arange(SIZE), np.arange(SIZE)] -= 1
        return whole

    options = {"p_span": span, "max_points": 1001}

    def ours():
        return continuation.trace(family, x0, 0.0, **options)

    def curve(start):
        branch = continuation.trace(family, start, 0.0, **options)
        return branch.p, branch.x, branch.multipliers, branch.events.p

    starts = jnp.asarray(0.1 * rng.normal(size=(settings["starts"], SIZE)))
    start = time.perf_counter()
    branch = ours()
    compiling = time.perf_counter() - start
    assert np.abs(branch.residual).max() < 1e-12

    contenders = {
        "ours": lambda: ours().x,
        "NumPy": lambda: [numpy_curve(residual, jacobian, np.zeros(SIZE), (0.0, side))[0] for side in span],
    }
    seconds = side_by_side(contenders, settings["rounds"])
    per_point = {
        "ours": len(branch),
        "NumPy": sum(len(half) for half in contenders["NumPy"]()),
    }
    what = f"a branch of {SIZE} units, multipliers at every point"
    yield row(what, "NumPy / ours", quotients(seconds["NumPy"], seconds["ours"]), "≥ 1")
    by_point = {name: [s / per_point[name] for s in times] for name, times in seconds.items()}
    yield row(what, "NumPy / ours, a point", quotients(by_point["NumPy"], by_point["ours"]))
    yield row(what, "first call, seconds", [compiling], "≤ 5 s")
    seconds = side_by_side({"ours": contenders["ours"], "many": lambda: sweeps.sweep(curve, starts, chunk=1)}, 3)
    yield row(what, f"{settings['starts']} starts at once / one", quotients(seconds["many"], seconds["ours"]), "≤ 40")


def _doya(y):
    return 1 / (1 + np.exp(-W * y[:1] - y[1])) - y[:1]


def _doya_jacobian(y):
    s = 1 / (1 + np.exp(-W * y[0] - y[1]))
    slope = s * (1 - s)
    return np.array([[W * slope - 1, slope]])


def numpy_curve(residual, jacobian, x0, span, *, first=0.01, largest=0.1, angle=0.3):
    """The same curve from span[0] to span[1] as one writes it in NumPy and SciPy.

    LAPACK solves the bordered systems; steps, norm and tolerances are ours; folds by Newton's method on the bordered
    scalar; multipliers of all points in one call at the end; where the number of unstable ones changes between folds,
    Brent's method on the modulus that crosses 1, one crossing an interval.

    Returns:
        Points, multipliers, the folds' parameters, those of the crossings.
    """
    size, (low, high) = len(x0), span
    width = abs(high - low)
    weights = np.append(np.full(size, 1 / size), 1 / width**2)
    last = np.zeros(size + 1)
    last[-1] = 1.0

    def newton(y, border, count=7):
        guess = y
        for tries in range(1, count + 1):
            rest = np.append(residual(y), border @ (y - guess))
            change = np.linalg.solve(np.vstack([jacobian(y), border]), -rest)
            y = y + change
            if np.sqrt(weights @ change**2) < 1e-9:
                return y, tries
        return None, count

    def unit(border, y):
        tangent = np.linalg.solve(np.vstack([jacobian(y), border]), last)
        return tangent / np.sqrt(weights @ tangent**2)

    def linearised(y):
        return jacobian(y)[:, :-1] + np.eye(size)

    y, _ = newton(np.append(x0, low), last, 50)
    tangent = unit(last, y) * (1 if high > low else -1)
    points, borders, folds, step = [y], [], [], first
    while step > 1e-9 and len(points) < 2000:
        length, border = step, weights * tangent
        if tangent[-1] != 0:
            room = max((high - y[-1]) / tangent[-1], (low - y[-1]) / tangent[-1])
            if room <= length:
                length, border = room, last
        new, tries = newton(y + length * tangent, border)
        if new is None:
            step /= 2
            continue
        new_tangent = unit(weights * tangent, new)
        turn = np.arccos(min(1.0, weights @ (tangent * new_tangent)))
        if turn > angle:
            step /= 2
            continue
        at_fold = new_tangent[-1] * tangent[-1] < 0
        if at_fold:
            folds.append(_numpy_fold(residual, jacobian, (y + new) / 2))
        y, tangent = new, new_tangent
        points.append(y)
        borders.append(None if at_fold else border)
        if border is last:
            break
        step = min(step * min(2.0 if tries <= 3 else 1.0, angle / 2 / max(turn, angle / 10)), largest)
    points = np.array(points)
    multipliers = np.linalg.eigvals(np.stack([linearised(y) for y in points]))
    unstable = (np.abs(multipliers) > 1).sum(axis=1)
    crossings = []
    for i in np.flatnonzero(np.diff(unstable)):
        if borders[i] is None:
            continue
        which = min(unstable[i : i + 2])

        def at(share, i=i):
            return newton(points[i] + share * (points[i + 1] - points[i]), borders[i])[0]

        def excess(share, at=at, which=which):
            return np.sort(np.abs(np.linalg.eigvals(linearised(at(share)))))[::-1][which] - 1

        crossings.append(at(scipy.optimize.brentq(excess, 0, 1, xtol=1e-12))[-1])
    return points, multipliers, folds, crossings


def _numpy_fold(residual, jacobian, y):
    """Newton's method on (G, g), the derivative of the bordered scalar g by differences."""
    size = len(y) - 1
    left, _, right = np.linalg.svd(jacobian(y)[:, :-1])
    left, right = left[:, -1], right[-1]

    def test(y):
        whole = np.zeros((size + 1, size + 1))
        whole[:-1, :-1], whole[:-1, -1], whole[-1, :-1] = jacobian(y)[:, :-1], left, right
        return np.linalg.solve(whole, np.append(np.zeros(size), 1.0))[-1]

    for _ in range(6):
        value = test(y)
        row = [(test(y + 1e-7 * e) - value) / 1e-7 for e in np.eye(size + 1)]
        change = np.linalg.solve(np.vstack([jacobian(y), row]), -np.append(residual(y), value))
        y = y + change
        if np.abs(change).max() < 1e-13:
            break
    return y[-1]
