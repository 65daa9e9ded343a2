"""Fixed points of random tanh networks, x' = W tanh x: distinct verified points a second, and steps against LAPACK.

The quotients are of rates, ours over a peer's on the same starts in the same round. What counts is verified anew in
NumPy, whoever found it: starts that led to a fixed point, and how many different ones those are.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
import scipy.optimize
from threadpoolctl import threadpool_limits

from rnn_dynamics import fixed_points
from rnn_dynamics._compile import on_one_blas_thread
from rnn_dynamics.models import PascanuRNN
from tests.benchmarks._measure import absent, row, side_by_side

VARIANTS = {"": {}}

TOL = 1e-12
FULL = {"starts": 1024, "theirs": 48, "rounds": 3, "large": 16, "adam": 3000}
QUICK = {"starts": 48, "theirs": 8, "rounds": 1, "large": 2, "adam": 100}


def rows(*, quick: bool):
    settings = QUICK if quick else FULL
    for gain in (1.5, 3.0):
        yield from _against_peers(gain, settings)
    yield from _large(settings)
    yield from _gain_continued(settings)


def network(num_units, gain):
    return PascanuRNN.initialise("gaussian", num_units, 0, seed=0, gain=gain)


def verified(w, x):
    """Those that are fixed points, by NumPy's residual and nobody's word."""
    x = np.asarray(x)[np.isfinite(x).all(1)]
    return x[np.abs(np.tanh(x) @ w.T - x).max(1, initial=0) <= TOL * (1 + np.abs(x).max(1, initial=0))]


def distinct(w, x):
    """How many different fixed points there are among these."""
    return len(np.unique(np.round(verified(w, x), 5) + 0.0, axis=0))


def _against_peers(gain, settings):
    model = network(100, gain)
    w = np.asarray(model.w_rec)
    starts = np.random.default_rng(1).standard_normal((settings["starts"], 100))
    few = starts[: settings["theirs"]]
    found = {}

    def keep(name, run):
        def call():
            found[name] = run()

        return call

    contenders = {"ours": keep("ours", lambda: ends(model, few)), "root": keep("root", lambda: by_root(w, few))}
    missing = _optimistix()
    if not missing:
        contenders["optimistix"] = keep("optimistix", lambda: by_optimistix(model, few))
    contenders["Adam"] = keep("Adam", lambda: by_adam(w, few, settings["adam"]))
    seconds = side_by_side(contenders, settings["rounds"])
    what = f"fixed points, n = 100, gain {gain:g}, {len(few)} starts"
    names = {"root": "`scipy.optimize.root`", "optimistix": "optimistix's Levenberg–Marquardt"}
    for measure, count in (("converged starts", lambda x: len(verified(w, x))), ("points", lambda x: distinct(w, x))):
        for name, text in names.items():
            target = "≥ 20" if measure == "points" else ""
            text = f"{measure} a second, ours / {text}"
            if name not in seconds:
                yield absent(what, text, target, missing)
                continue
            # A peer that found nothing is granted one: the quotient is then a lower bound.
            gained = count(found["ours"]) / max(count(found[name]), 1)
            pairs = zip(seconds["ours"], seconds[name], strict=True)
            yield row(what, text, [gained * theirs / ours for ours, theirs in pairs], target)
        for name in found:
            yield row(what, f"{measure}, {name}", [float(count(found[name]))])
    seconds = side_by_side({"all": keep("all", lambda: ends(model, starts))}, 1)["all"]
    what = f"fixed points, n = 100, gain {gain:g}, {len(starts)} starts"
    yield row(what, "points, ours", [float(distinct(w, found["all"]))])
    yield row(what, "points a second, ours", [distinct(w, found["all"]) / each for each in seconds])


def ends(model, starts):
    """Where ours ended from each start that converged."""
    points = fixed_points.find(model, jnp.asarray(starts))
    return np.asarray(points.x)[points.reached[points.reached >= 0]]


def _large(settings):
    model = network(512, 1.5)
    starts = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal((settings["large"], 512)))
    w, eye = np.asarray(model.w_rec), np.eye(512)
    statuses: list[np.ndarray] = []

    def ours():
        statuses.append(fixed_points.find(model, starts).status)

    seconds = side_by_side({"ours": ours}, settings["rounds"])["ours"]
    number = int((statuses[-1] == "converged").sum())
    what = f"fixed points, n = 512, gain 1.5, {len(starts)} starts"
    yield row(what, "converged starts a second", [number / each for each in seconds], "≥ 10")
    # Steps that are the same for both: none converges in three from here.
    steps, far = 3, 3 * starts[:2]

    def lapack():
        with threadpool_limits(1, "blas"):
            for _ in range(steps * len(far)):
                scipy.linalg.lu_solve(scipy.linalg.lu_factor(w - eye, check_finite=False), np.ones(512))

    contenders = {"ours": lambda: _steps(model, far, steps), "LAPACK": lapack}
    seconds = side_by_side(contenders, settings["rounds"])
    rates = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["LAPACK"], strict=True)]
    yield row("a Newton step far from a point, n = 512", "ours, one core / LAPACK's LU and its solution", rates)


def _steps(model, starts, num):
    return on_one_blas_thread(fixed_points.newton.newton, model, starts, None, "discrete", None, num)


def _gain_continued(settings):
    """n = 512, gain 3: from the origin, where a branch starts at each gain 1/λ, λ a real eigenvalue of W."""
    w = np.asarray(network(512, 1.0).w_rec)
    found = []

    def ours():
        found[:] = by_gain(w, 3.0)

    seconds = side_by_side({"ours": ours}, 1)["ours"]
    points = np.array(found).reshape(-1, 512)
    number = distinct(3.0 * w, np.concatenate([points, -points]))
    what = "fixed points, n = 512, gain 3"
    yield row(what, "distinct points a second, gain continued from the origin", [number / each for each in seconds])
    yield row(what, "distinct points, gain continued from the origin", [float(number)])
    model = network(512, 3.0)
    starts = jnp.asarray(np.random.default_rng(1).standard_normal((settings["large"] // 2, 512)))
    yield row(what, f"distinct points, ours, {len(starts)} starts", [float(len(fixed_points.find(model, starts)))])


def by_root(w, starts):
    """SciPy's hybr from each start, with the exact Jacobian."""
    eye = np.eye(len(w))

    def both(x):
        h = np.tanh(x)
        return w @ h - x, w * (1 - h**2) - eye

    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore")
        return np.array([scipy.optimize.root(both, x, jac=True, options={"xtol": 1e-14}).x for x in starts])


def _optimistix():
    """Why optimistix cannot be compared with, or nothing."""
    try:
        import optimistix  # noqa: F401
    except ImportError:
        return "optimistix is not installed"
    return ""


def by_optimistix(model, starts):
    """Levenberg–Marquardt, all starts in one vmapped call."""
    import optimistix

    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12)

    @jax.jit
    def solve(starts):
        return jax.vmap(
            lambda x: optimistix.least_squares(lambda x, _: model(x) - x, solver, x, max_steps=200, throw=False).value
        )(starts)

    return np.asarray(solve(jnp.asarray(starts)))


def by_adam(w, starts, num_steps):
    """Adam on q, as the toolboxes do it: all starts at once, a rate that falls."""
    optimiser = optax.adam(optax.exponential_decay(0.1, num_steps // 10, 0.5))

    def speed(x):
        return ((jnp.tanh(x) @ w.T - x) ** 2).sum() / 2

    @jax.jit
    def run(x):
        def advance(carry, _):
            x, state = carry
            change, state = optimiser.update(jax.grad(speed)(x), state)
            return (optax.apply_updates(x, change), state), None

        return jax.lax.scan(advance, (x, optimiser.init(x)), length=num_steps)[0][0]

    return np.asarray(run(jnp.asarray(starts)))


def by_gain(w, gain, *, max_points=200):
    """Fixed points of x' = g W tanh x at one gain: pseudo-arclength in g along every branch that leaves the origin.

    At g = 1/λ the origin has a pitchfork along λ's eigenvector; a branch may pass the gain asked for several times.
    """
    n, eye = len(w), np.eye(len(w))
    values, vectors = scipy.linalg.eig(w, right=True, left=False)
    found = []
    with threadpool_limits(1, "blas"):
        for i in np.flatnonzero((np.abs(values.imag) < 1e-12) & (values.real > 1 / gain)):
            direction = vectors[:, i].real
            y = np.append(np.zeros(n), 1 / values[i].real)
            tangent, length = np.append(direction / np.linalg.norm(direction), 0.0), 0.5
            for _ in range(max_points):
                new, following, count = _arc(w, eye, y + length * tangent, tangent)
                if following @ tangent < 0.7:
                    length /= 2
                    continue
                if (y[n] - gain) * (new[n] - gain) <= 0:
                    start = y[:n] + (gain - y[n]) / (new[n] - y[n]) * (new - y)[:n]
                    found.append(_newton(w, eye, start, gain))
                y, tangent = new, following
                length = min(1.4 * length if count <= 4 else length, 8.0)
                if not 0.9 < y[n] < 1.2 * gain:
                    break
    return found


def _arc(w, eye, predicted, tangent):
    """The point of the branch in the plane across the tangent, its tangent, and the steps it took (Keller 1977)."""
    n, y = len(w), predicted.copy()
    matrix = np.empty((n + 1, n + 1))
    for count in range(1, 7):
        h = np.tanh(y[:n])
        matrix[:n, :n], matrix[:n, n], matrix[n] = y[n] * w * (1 - h**2) - eye, w @ h, tangent
        change = np.linalg.solve(matrix, -np.append(y[n] * w @ h - y[:n], tangent @ (y - predicted)))
        y = y + change
        if np.abs(change).max() < 1e-6:
            following = np.linalg.solve(matrix, np.append(np.zeros(n), 1.0))
            return y, following / np.linalg.norm(following), count
    return predicted, -tangent, 6  # no such point: a tangent that turns back refuses it


def _newton(w, eye, x, gain):
    for _ in range(12):
        h = np.tanh(x)
        change = np.linalg.solve(gain * w * (1 - h**2) - eye, x - gain * w @ h)
        x = x + change * min(1, 0.5 / max(np.abs(change).max(), 1e-30))
    return x
