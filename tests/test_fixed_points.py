"""Fixed points: none missed where theory says which there are, and no solver's word taken for what it found."""

import equinox
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize

from rnn_dynamics import fixed_points
from rnn_dynamics.fixed_points import FixedPoints, cycles, find, newton, results, slow_points, solve, starts_from
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.reference import Henon, Linear, Logistic, bistable_module, chaotic_module
from tests import reference

EPS = np.finfo(float).eps
TOL = 100 * EPS
UNIQUE_TOL = TOL**0.5
METHODS = (
    *("hybr", "lm", "broyden1", "broyden2", "anderson"),
    *("linearmixing", "diagbroyden", "excitingmixing", "krylov", "df-sane"),
)


ZOO = {
    "cosine": jnp.cos,
    "contraction": lambda x: jnp.cos(x) / 2,
    "shift": lambda x: x + 1,
    "no real root": lambda x: x + x**2 + 1,
    "no root to the right": lambda x: 1 + 1 / x,  # as a field
    "ghost": lambda x: x + (x - 1) ** 2 + 1e-6,
    "steep": lambda x: x + 1.5 + jnp.tanh(1e9 * (x - 1)),
    "nan elsewhere": lambda x: jnp.where(x == 0.5, 0.8, jnp.nan),
    "nan everywhere": lambda x: x * jnp.nan,
    "overflow": lambda x: 1e200 * (x**3 - 1.0),
    "half a line": lambda x: 1 + jnp.log(x),  # a double root at 1, no map left of 0
    "corner": jnp.sqrt,
    "vertical": lambda x: jnp.sqrt(x) + 1,
    "arctangent": lambda x: x + jnp.arctan(x),
    "pitfall": lambda x: jnp.sqrt(x) - 0.5,
}
"""Maps of one unit, well and badly behaved."""


@jax.jit
def zoo(x, which):
    """One of them, chosen by its input: so one compilation serves all, as long as there are three starts."""
    return jax.lax.switch(which, list(ZOO.values()), x)


def which(name):
    return jnp.array(list(ZOO).index(name))


def column(*numbers):
    """Starts of a system of one unit."""
    return jax.device_put(np.array(numbers, dtype=float)[:, None])


def positions(points):
    """The points of a system of one unit, ascending."""
    return np.sort(np.asarray(points.x[:, 0]))


def neuron(x, parameters):
    """Doya's neuron with (w, b) as its input, so that one compilation serves them all."""
    w, b = parameters
    return DoyaNeuron(w=w, b=b)(x)


def curve_equilibria(w, b):
    """Every x with b = ln(x/(1-x)) - wx, (N, 3) ascending and NaN where there are fewer; bisection in NumPy.

    Between its turning points x∓ = (1 ∓ √(1 - 4/w))/2 the curve is monotone: at most one x on each piece.
    """
    root = np.sqrt(np.maximum(1 - 4 / np.where(w > 4, w, 4.0), 0))
    upper = (1 + root) / 2
    turns = np.where((w > 4)[:, None], np.stack([1 / np.where(w > 4, w, 4.0) / upper, upper], 1), [[1.0, 1.0]])
    edges = np.concatenate([np.zeros((len(w), 1)), turns, np.ones((len(w), 1))], axis=1)
    left, right = edges[:, :-1].copy(), edges[:, 1:].copy()

    def excess(x):
        with np.errstate(divide="ignore"):
            return np.log(x) - np.log1p(-x) - w[:, None] * x - b[:, None]

    falls = np.array([False, True, False])
    below = np.where(falls, excess(right) < 0, excess(left) < 0) & (left < right)
    above = np.where(falls, excess(left) > 0, excess(right) > 0)
    for _ in range(1100):
        middle = (left + right) / 2
        go_right = (excess(middle) < 0) != falls
        left, right = np.where(go_right, middle, left), np.where(go_right, right, middle)
        if (right - left <= np.spacing(left)).all():
            break
    return np.where(below & above, (left + right) / 2, np.nan)


def scalar_cases():
    """(w, b): random ones, both sides of both folds down to 1e-11, and neurons without a connection to themselves."""
    rng = np.random.default_rng(0)
    random = np.stack([rng.uniform(-12, 14, 9700), rng.uniform(-16, 8, 9700)], 1)
    near = [
        (w, b + sign * 10.0**-digits)
        for w in (4.5, 5.0, 6.0, 8.0, 10.0, 14.0)
        for b, _ in DoyaNeuron.folds(w)
        for sign in (-1, 1)
        for digits in range(1, 12)
    ]
    return np.concatenate([random, near, [(0.0, b) for b in np.linspace(-16, 8, 36)]])


# Systems whose fixed points are known.


@pytest.mark.usefixtures("unchecked")  # ten thousand calls: the annotations are checked in all other tests
def test_no_fixed_point_of_a_scalar_neuron_is_missed_and_none_is_invented():
    cases = scalar_cases()
    w, b = cases.T
    expected = curve_equilibria(w, b)
    with np.errstate(invalid="ignore"):  # the folds' closed form; NaN below w = 4, where there are none
        upper = (1 + np.sqrt(1 - 4 / np.where(w >= 4, w, np.nan))) / 2
        first = np.log(1 / (w * upper**2)) - 1 / upper
        bistable = (-w - first < b) & (b < first)
    assert (np.isfinite(expected).sum(1) == np.where(bistable, 3, 1)).all()
    middle = np.clip(np.divide(-b, w, where=w != 0, out=np.full_like(w, 0.5)), 0, 1)
    for i in range(len(cases)):
        points = find(neuron, column(0.0, middle[i], 1.0), cases[i])
        x = np.asarray(points.x)[:, 0]
        order = np.argsort(x)
        known = expected[i][np.isfinite(expected[i])]
        slope = w[i] * known * (1 - known)
        assert len(points) == len(known), (w[i], b[i])
        # A residual, or the rounding of σ(wx+b) and of the bisection (each at most (|w| + |b| + 40) eps/2), moves x
        # by itself over 1 - slope.
        allowed = (np.asarray(points.residual)[order] + 40 * EPS) / np.abs(1 - slope)
        assert (np.abs(x[order] - known) <= allowed).all(), (w[i], b[i], x[order] - known, allowed)
        assert (points.stable[order] == (np.abs(slope) < 1)).all(), (w[i], b[i], slope)


@pytest.mark.parametrize("b", reference.DOYA_EQUILIBRIA)
@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_doyas_equilibria_and_multipliers_have_their_closed_form_whatever_the_time_step(b, epsilon):
    points = find(DoyaNeuron(w=5.0, b=b, epsilon=epsilon), column(0.0, -b / 5, 1.0))
    order = np.argsort(points.x[:, 0])
    # |1 - slope| ≥ 0.19: x is good to ε·8 eps/(0.19 ε) from a residual of a few eps.
    np.testing.assert_allclose(points.x[order, 0], reference.DOYA_EQUILIBRIA[b], atol=8 * EPS / 0.19 / epsilon)
    multipliers = 1 - epsilon + epsilon * np.array(reference.DOYA_MULTIPLIERS[b])
    np.testing.assert_allclose(points.multipliers[order, 0], multipliers, atol=40 * EPS / 0.19)
    assert points.kind[order].tolist() == [
        "stable node" if multiplier < 1 else "unstable node" for multiplier in multipliers
    ]


@pytest.mark.parametrize("b", reference.DOYA_EQUILIBRIA)
def test_a_fields_equilibria_are_its_maps_fixed_points(b):
    doya = DoyaNeuron(w=5.0, b=b, epsilon=0.1)
    points = find(doya.velocity, column(0.0, -b / 5, 1.0), time="continuous")
    order = np.argsort(points.x[:, 0])
    np.testing.assert_allclose(points.x[order, 0], reference.DOYA_EQUILIBRIA[b], atol=8 * EPS / 0.19)
    rates = np.array(reference.DOYA_MULTIPLIERS[b]) - 1
    np.testing.assert_allclose(points.multipliers[order, 0], rates, atol=40 * EPS / 0.19)
    assert (points.stable[order] == (rates < 0)).all()


def test_beers_oscillator_turns_about_one_unstable_focus():
    w, theta = np.array(reference.OSCILLATOR["w"]), np.array(reference.OSCILLATOR["theta"])
    points = find(
        lambda y, u: -y + w @ jax.nn.sigmoid(y + theta),
        jnp.asarray(np.random.default_rng(0).uniform(0, 6, (20, 2))),
        time="continuous",
    )
    assert len(points) == 1
    assert points.kind.tolist() == ["unstable focus"]
    np.testing.assert_allclose(points.x[0], reference.OSCILLATOR["equilibrium"], atol=30 * EPS)  # ‖J⁻¹‖ = 3.6
    eigenvalue = reference.OSCILLATOR["eigenvalue"]
    np.testing.assert_allclose(points.multipliers[0], [eigenvalue, eigenvalue.conjugate()], atol=100 * EPS)


def test_the_roll_networks_have_their_two_mirror_states_and_the_origin():
    for n in (2, 3):
        w = np.stack([-np.roll(np.linspace(-1, 1, n), -i) for i in range(n)])
        points = find(
            lambda h, u: jnp.tanh(h @ w),  # noqa: B023
            jnp.asarray(np.random.default_rng(n).uniform(-1, 1, (60, n))),
        )
        assert len(points) == 3
        order = np.argsort(points.x[:, 0])
        x = np.asarray(points.x)[order]
        np.testing.assert_allclose(x[1], 0, atol=10 * EPS)
        np.testing.assert_allclose(x[0], -x[2], atol=20 * EPS)
        if n == 2:  # h = (a, -a) with a = tanh 2a
            a = reference.LATCH_STATES[2.0][1]
            np.testing.assert_allclose(x[2], [a, -a], atol=20 * EPS)
            assert points.kind[order].tolist() == ["stable node", "saddle", "stable node"]
        else:  # the outer ones are unstable by a flip
            np.testing.assert_allclose(points.multipliers[order[2], 0], -1.0064061706, atol=1e-10)
            assert not points.stable.any()


def test_pasemanns_chaotic_module_has_its_one_unstable_fixed_point():
    starts = jnp.asarray(np.random.default_rng(0).uniform(-14, 4, (60, 2)))
    points = find(chaotic_module(jnp.array(-2.0)), starts)
    assert len(points) == 1
    np.testing.assert_allclose(points.x[0], reference.CHAOTIC_MODULE["fixed_point"], atol=5e-9)  # digits given
    np.testing.assert_allclose(points.multipliers[0], reference.CHAOTIC_MODULE["multipliers"], atol=5e-9)
    assert points.kind.tolist() == ["saddle"]


def test_pasemanns_bistable_module_has_three_points_between_its_folds_and_one_outside():
    starts = jnp.asarray(np.random.default_rng(0).uniform(-6, 8, (60, 2)))
    (right, _), (left, _) = reference.BISTABLE_MODULE["folds"]
    for b1, number in ((left - 0.01, 1), (left + 0.01, 3), (0.5, 3), (right - 0.01, 3), (right + 0.01, 1)):
        points = find(bistable_module(jnp.array(b1)), starts)
        assert len(points) == number
        assert points.stable.sum() == (number + 1) // 2


def test_henons_two_fixed_points_solve_their_quadratic():
    # a x² + (1-b) x - 1 = 0, y = b x; the multipliers solve λ² + 2 a x λ - b = 0.
    points = find(Henon(), jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (20, 2))))
    x = np.array([-0.7 + root * np.sqrt(0.49 + 5.6) for root in (-1, 1)]) / 2.8
    order = np.argsort(points.x[:, 0])
    np.testing.assert_allclose(np.asarray(points.x)[order], np.stack([x, 0.3 * x], 1), atol=20 * EPS)
    for i, point in zip(order, x, strict=True):
        expected = np.roots([1, 2.8 * point, -0.3])
        expected = expected[np.argsort(-np.abs(expected))]
        np.testing.assert_allclose(points.multipliers[i], expected, atol=40 * EPS)
    assert points.kind.tolist() == ["saddle", "saddle"]


@pytest.mark.parametrize(
    ("r", "kinds"), [(2.5, "unstable stable"), (3.2, "unstable unstable"), (0.5, "unstable stable")]
)
def test_the_logistic_map_rests_at_zero_and_at_one_minus_one_over_r(r, kinds):
    points = find(Logistic(r), column(-1.0, 0.05, 0.9))
    np.testing.assert_allclose(positions(points), sorted([0, 1 - 1 / r]), atol=20 * EPS)
    by_multiplier = np.argsort(-np.abs(points.multipliers[:, 0]))
    expected = sorted([r, 2 - r], key=abs, reverse=True)
    np.testing.assert_allclose(points.multipliers[by_multiplier, 0], expected, atol=40 * EPS)
    assert points.kind[by_multiplier].tolist() == [f"{kind} node" for kind in kinds.split()]


@pytest.mark.parametrize("n", [1, 9])  # from 9 on the starts run one after the other
def test_an_affine_map_has_the_one_fixed_point_of_its_linear_system(n):
    rng = np.random.default_rng(n)
    a, c = rng.standard_normal((n, n)) / n**0.5, rng.standard_normal(n)
    step = Linear(jnp.asarray(a), jnp.eye(n))
    points = find(step, jnp.asarray(rng.standard_normal((7, n))), jnp.asarray(c))
    assert len(points) == 1
    assert points.reached.tolist() == [0] * 7
    expected = np.linalg.solve(np.eye(n) - a, c)
    condition = np.linalg.cond(np.eye(n) - a)
    np.testing.assert_allclose(points.x[0], expected, atol=10 * n**0.5 * condition * EPS * np.abs(expected).max())
    np.testing.assert_allclose(points.jacobian[0], a, atol=2 * EPS)
    radius = np.abs(np.linalg.eigvals(a)).max()
    np.testing.assert_allclose(np.abs(points.multipliers[0, 0]), radius, rtol=1e3 * n * EPS)


def test_inputs_lambdas_and_closures_are_maps_too():
    gain = jnp.array(0.5)
    points = find(lambda x, u: gain * x + u["push"], column(0.0, 3.0), {"push": jnp.array([1.0]), "unused": None})
    np.testing.assert_allclose(points.x, [[2.0]], rtol=4 * EPS)
    driven = DoyaNeuron(w=5.0, b=-2.5, w_in=1.0)
    limit = reference.DOYA_DRIVE_LIMIT  # constant drive that leaves no lower state
    assert len(find(driven, column(0.0, 0.5, 1.0), jnp.array(limit - 1e-4))) == 3
    assert len(find(driven, column(0.0, 0.5, 1.0), jnp.array(limit + 1e-4))) == 1


# A residual is what it says.


def test_residuals_are_those_of_an_evaluation_in_fifty_digits():
    points = find(DoyaNeuron(w=5.0, b=-2.45), column(0.0, 0.5, 1.0))
    with mpmath.workdps(50):
        for x, residual in zip(positions(points), points.residual[np.argsort(points.x[:, 0])], strict=True):
            x = mpmath.mpf(float(x))
            true = abs(1 / (1 + mpmath.exp(-(5 * x + mpmath.mpf(-2.45)))) - x)
            assert abs(float(true) - float(residual)) < 4 * EPS  # σ rounds within 2 ulp, its argument by 3 eps of 1/4


def test_points_come_in_ascending_order_of_residual_and_each_is_the_best_of_the_starts_that_reached_it():
    points = find(bistable_module(jnp.array(0.5)), jnp.asarray(np.random.default_rng(0).uniform(-6, 8, (60, 2))))
    assert (np.diff(points.residual) >= 0).all()
    for i in range(len(points)):
        assert points.residual[i] == points.start_residual[points.reached == i].min()
    assert ((points.reached >= 0) == (points.status == "converged")).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_scipy_converges_on_a_contraction(method):
    result = solve(zoo, jnp.array([1.0]), which("contraction"), method=method)
    assert result.status == "converged"
    assert result.success
    # cos(x)/2 = x, by Brent's method; |slope| < 1/4, so x is as good as the residual allowed.
    known = scipy.optimize.brentq(lambda x: np.cos(x) / 2 - x, 0, 1, xtol=1e-15, rtol=4 * EPS)
    np.testing.assert_allclose(result.x, [known], atol=2 * TOL)
    assert result.residual == np.abs(result.fun).max() <= TOL * (1 + known)
    np.testing.assert_allclose(np.cos(result.x) / 2 - result.x, result.fun, atol=EPS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", ["shift", "no real root", "ghost", "steep", "nan elsewhere", "nan everywhere", "overflow"]
)
def test_no_method_claims_success_without_a_small_residual(method, name):
    for start in (0.5, 1.0):
        result = solve(zoo, jnp.array([start]), which(name), method=method)
        g = np.asarray(zoo(jnp.asarray(result.x), which(name)) - result.x)
        np.testing.assert_equal(result.residual, np.abs(g).max() if np.isfinite(g).all() else np.inf)
        before = np.abs(zoo(jnp.array([start]), which(name)) - start).max()
        assert result.residual <= np.nan_to_num(before, nan=np.inf)  # the best point met is never worse than the start
        size = np.abs(result.x).max()  # beyond 1/eps a residual of zero means nothing
        small = result.residual <= TOL * (1 + size) and size < 1 / EPS
        assert result.success == (result.status == "converged") == small


def test_hybrs_false_success_is_not_passed_on():
    # From x = 1 the first step, 1.5e-9, is shorter than hybr's default relative tolerance: it stops, "converged".
    theirs = scipy.optimize.root(
        lambda x: 1.5 + np.tanh(1e9 * (x - 1)), [1.0], jac=lambda x: np.diag(1e9 / np.cosh(1e9 * (x - 1)) ** 2)
    )
    assert theirs.success
    assert abs(theirs.fun[0]) > 0.5
    ours = solve(zoo, jnp.array([1.0]), which("steep"))
    assert not ours.success
    assert ours.residual >= 0.5
    assert ours.status == "max_steps"


def test_lms_false_success_is_not_passed_on():
    theirs = scipy.optimize.root(lambda x: x * np.nan, [0.5], method="lm")
    assert theirs.success
    ours = solve(zoo, jnp.array([0.5]), which("nan everywhere"), method="lm")
    assert (ours.success, ours.status, ours.residual, ours.x.tolist()) == (False, "non_finite", np.inf, [0.5])


def test_a_method_that_raises_is_a_numerical_failure_and_leaves_its_words():
    with pytest.raises(ValueError, match="infs or NaNs"), np.errstate(all="ignore"):
        scipy.optimize.root(lambda x: np.ones(1), [0.5], method="diagbroyden")
    result = solve(zoo, jnp.array([0.5]), which("shift"), method="diagbroyden")
    assert result.status == "max_steps"
    assert "infs or NaNs" in result.solver_message
    points = find(zoo, column(0.5, 1.0, 2.0), which("shift"), solver="diagbroyden")
    assert points.status.tolist() == ["max_steps"] * 3


@pytest.mark.parametrize("solver", ["hybr", "lm", "krylov"])
def test_scipys_solvers_find_what_newton_finds(solver):
    rng = np.random.default_rng(0)
    ours = find(bistable_module(jnp.array(0.5)), jnp.asarray(rng.uniform(-6, 8, (60, 2))))
    theirs = find(bistable_module(jnp.array(0.5)), ours.x + 0.1 * rng.standard_normal((3, 2)), solver=solver)
    assert len(ours) == len(theirs) == 3
    order, other = np.argsort(ours.x[:, 0]), np.argsort(theirs.x[:, 0])
    # Residuals of TOL (1 + ‖x‖) over the least |1 - λ| = 0.2 or so.
    np.testing.assert_allclose(ours.x[order], theirs.x[other], atol=TOL * 8 / 0.1)
    assert ours.kind[order].tolist() == theirs.kind[other].tolist()


# A status says what happened.


@pytest.mark.parametrize(
    ("word", "name", "start", "time"),
    [
        ("converged", "cosine", 1.0, "discrete"),
        ("max_steps", "no real root", 0.3, "discrete"),  # Newton's method on x² + 1 is chaotic
        ("diverged", "no root to the right", 1.0, "continuous"),  # on 1 + 1/x it runs away from x > 0
        ("singular", "shift", 0.3, "discrete"),
        ("non_finite", "half a line", -1.0, "discrete"),
        ("non_finite", "vertical", 0.0, "discrete"),  # the derivative is infinite
    ],
)
def test_every_status_word_is_earned(word, name, start, time):
    points = find(zoo, column(start, start, start), which(name), time=time)
    assert points.status.tolist() == [word] * 3
    assert len(points) == (word == "converged")
    assert points.reached.tolist() == [0 if word == "converged" else -1] * 3


def test_each_start_is_judged_alone():
    points = find(zoo, column(-1.0, 2.0, 0.0), which("half a line"))
    assert points.status.tolist() == ["non_finite", "converged", "non_finite"]
    assert points.reached.tolist() == [-1, 0, -1]
    assert points.start_residual[[0, 2]].tolist() == [np.inf, np.inf]
    assert points.start_residual[1] <= 2 * TOL
    assert abs(points.x[0, 0] - 1) < UNIQUE_TOL * 2


def test_a_run_that_leaves_the_maps_domain_keeps_the_least_residual_it_met():
    points = find(zoo, column(0.01, 0.3, -1.0), which("pitfall"))  # √x - 1/2 < x: Newton's method falls below 0
    assert points.status.tolist() == ["non_finite"] * 3
    assert (points.start_residual[:2] >= 0.25).all()  # the least of x + 1/2 - √x, at x = 1/4
    assert (points.start_residual[:2] <= [0.41, 0.3]).all()
    assert points.start_residual[2] == np.inf


def test_a_shift_has_no_fixed_point_however_far_out_it_is_looked_for():
    for starts in ((0.0, 1.0, 1e6), (1e13, 1e14, -1e15), (4e15, 1e16, 1e300)):
        points = find(zoo, column(*starts), which("shift"))
        assert len(points) == 0
        assert set(points.status) <= {"singular", "diverged"}


@pytest.mark.parametrize("w", [4.5, 5.0, 6.0, 10.0])
def test_on_a_fold_the_double_root_is_one_point_that_is_called_neither_stable_nor_unstable(w):
    for (b, x), other in zip(reference.DOYA_FOLDS[w], (1.0, 0.0), strict=True):
        points = find(DoyaNeuron(w=w, b=b), column(x - 0.05, x + 0.05, other))
        assert (points.status == "converged").all()
        assert len(points) == 2
        fold = int(np.argmin(np.abs(points.x[:, 0] - x)))
        assert abs(float(points.x[fold, 0]) - x) < UNIQUE_TOL  # all that a residual of TOL can promise
        assert points.kind[fold] == "marginal"
        assert points.kind[1 - fold] == "stable node"


def test_on_the_cusp_every_answer_lies_within_the_cube_root_of_the_tolerance():
    w, b, x = reference.DOYA_CUSP
    points = find(DoyaNeuron(w=w, b=b), column(0.0, 0.5, 1.0))  # near 1/2 the residual is 16/3 (x - 1/2)³
    assert (points.status == "converged").all()
    assert (np.abs(points.x[:, 0] - x) < (3 / 16 * 1.5 * TOL) ** (1 / 3)).all()
    assert set(points.kind) == {"marginal"}


def slow_unit(x, b):
    return x + 2.0**-10 * (jnp.tanh(2 * x + b) - x)


@pytest.mark.parametrize("search", [find, slow_points, lambda step, starts, u: cycles(step, starts, 1, u)])
def test_what_is_said_of_a_slow_unit_is_true_however_near_a_fold(search):
    # The points are those of the neuron x' = tanh(2x + b), unstable where tanh' > 1/2, between -+asinh 1.
    starts, vertex, said = jnp.linspace(-2, 2, 16, dtype=jnp.float32)[:, None], np.arcsinh(1.0), {}
    for off in (0.0, *-np.logspace(-8, -1, 8), *np.logspace(-8, -1, 8)):
        b = jnp.asarray(vertex - np.sqrt(2) + off, jnp.float32)  # two points more for off > 0
        ends = np.array([-4.0, -vertex, vertex, 4.0]) / 2 - float(b) / 2
        defects = np.tanh(2 * ends + float(b)) - ends
        crossed = np.flatnonzero(defects[:-1] * defects[1:] < 0)
        roots = [
            scipy.optimize.brentq(lambda x, b: np.tanh(2 * x + b) - x, *ends[i : i + 2], float(b)) for i in crossed
        ]
        points = search(slow_unit, starts, b)
        for x, kind in zip(np.asarray(points.x[:, 0]), points.kind, strict=True):
            nearest = int(np.argmin(np.abs(roots - x)))
            truth = "unstable node" if crossed[nearest] == 1 else "stable node"
            assert kind in ("marginal", truth)
            assert kind == "marginal" or abs(roots[nearest] - x) < 0.5  # beyond the fold there is none
            said.setdefault(off, set()).add(kind)
    # 100 ε over the slope s √off is 0.04 there, a small part of √off, the distance to the fold
    assert said[0.1] == {"stable node", "unstable node"}
    assert said[0.0] == {"marginal", "stable node"}


def test_a_flip_is_marginal_and_its_neighbours_are_not():
    for (_, w), flips in reference.DOYA_FLIPS.items():
        for b, x in flips:
            (point,) = find(DoyaNeuron(w=w, b=b, epsilon=0.5), column(x, x, x))
            assert point.kind.tolist() == ["marginal"]
    inside, outside = (find(Logistic(r), column(0.6, 0.65, 0.7)) for r in (3 - 1e-9, 3 + 1e-9))  # multiplier 2 - r
    assert inside.kind.tolist() == ["stable node"]
    assert outside.kind.tolist() == ["unstable node"]


def test_a_fixed_point_without_a_derivative_is_kept_but_not_called_stable():
    points = find(zoo, column(0.0, 0.7, 0.8), which("corner"))
    assert positions(points).tolist() == [0.0, 1.0]
    corner = int(np.argmin(points.x[:, 0]))
    assert points.kind[corner] == "marginal"
    assert not points.stable[corner]
    assert points.stable[1 - corner]


def test_a_step_is_no_longer_than_one_or_an_eighth_of_the_state():
    # Whole Newton steps on arctan x diverge from |x| > 1.3917, where 2x = (1 + x²) arctan x; limited ones go to 0.
    points = find(zoo, column(2.0, -30.0, 1e4), which("arctangent"))
    assert points.status.tolist() == ["converged"] * 3
    assert positions(points).tolist() == [0.0]


def test_a_limit_on_steps_is_kept():
    starts = column(-3.0, -2.0, -1.0)
    assert find(zoo, starts, which("cosine"), max_steps=1).status.tolist() == ["max_steps"] * 3
    assert find(zoo, starts, which("cosine")).status.tolist() == ["converged"] * 3


def test_a_loose_tolerance_accepts_a_ghost_and_a_tight_one_does_not():
    starts = column(0.0, 0.5, 2.0)  # x' = x + (x-1)² + 1e-6 has no fixed point; its residual is 1e-6 at x = 1
    assert find(zoo, starts, which("ghost"), tol=1e-5).status.tolist() == ["converged"] * 3
    assert find(zoo, starts, which("ghost")).status.tolist() == ["max_steps"] * 3


# Merging.


def merge(starts, **options):
    """`find` on the identity, where every start is a fixed point of residual zero: distances alone decide.

    Filled up to one shape for all, with zeros in each start and with copies of the last one.
    """
    starts = np.asarray(starts, dtype=float)
    filled = np.zeros((150, 4))
    filled[: len(starts), : starts.shape[1]] = starts
    filled[len(starts) :] = filled[len(starts) - 1]
    return find(identity, jnp.asarray(filled), **options)


def identity(x, u):
    del u
    return x


def test_every_point_of_the_identity_is_fixed_and_marginal():
    starts = np.array([[0.0, 1.0, 0.0, 0.0], [3.0, -2.0, 0.0, 0.0], [1e6, 5.0, 0.0, 0.0]])
    points = merge(starts)
    assert points.x.tolist() == starts.tolist()
    assert points.residual.tolist() == [0.0, 0.0, 0.0]
    assert points.kind.tolist() == ["marginal"] * 3


def test_points_apart_stay_apart_and_points_together_become_one():
    near, apart = UNIQUE_TOL / 10, 10 * UNIQUE_TOL
    starts = [[1.0, 2.0], [1.0 + near, 2.0 - near], [1.0, 2.0 + 3 * apart], [1.0 - 2 * apart, 2.0]]
    points = merge(starts)
    assert len(points) == 3
    assert points.reached[0] == points.reached[1]
    assert len(set(points.reached[[0, 2, 3]])) == 3
    assert len(merge(starts, unique_tol=1e-3)) == 1
    assert len(merge(starts, unique_tol=1e-12)) == 4


def test_nearness_is_measured_in_the_largest_component_and_relative_to_the_size():
    far = 1e6
    assert len(merge([[far], [far + 0.1 * far * UNIQUE_TOL]])) == 1
    assert len(merge([[far], [far + 10 * far * UNIQUE_TOL]])) == 2
    assert len(merge(0.9 * UNIQUE_TOL * np.array([np.zeros(4), np.ones(4)]))) == 1  # 1.8 in the Euclidean norm


def test_a_chain_of_near_points_is_not_swallowed_by_one():
    points = merge(0.8 * UNIQUE_TOL * np.arange(30)[:, None])  # each within reach of the next
    x = np.asarray(points.x[:, 0])
    assert len(points) == 15
    assert (np.diff(np.sort(x)) > UNIQUE_TOL).all()
    assert (np.abs(x[points.reached[:30]] - 0.8 * UNIQUE_TOL * np.arange(30)) <= UNIQUE_TOL * (1 + 1e-5)).all()


def test_the_order_of_the_starts_changes_nothing():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 4))
    starts = np.repeat(centres, 5, axis=0) + UNIQUE_TOL / 20 * rng.standard_normal((150, 4))
    first = merge(starts)
    assert len(first) == 30
    for _ in range(3):
        order = rng.permutation(150)
        again = merge(starts[order])
        assert (again.x == first.x).all()
        assert (again.reached == first.reached[order]).all()


def test_thousands_of_starts_in_fifty_dimensions_lead_to_three_points():
    # x' = v tanh(2 v·x), ‖v‖ = 1: all happens along v, where it is a' = tanh 2a.
    rng = np.random.default_rng(0)
    v = rng.standard_normal(50)
    v /= np.linalg.norm(v)
    a = reference.LATCH_STATES[2.0][1]
    cluster = rng.integers(0, 3, 2000)
    starts = np.array([-a, 0.0, a])[cluster][:, None] * v + 0.01 * rng.standard_normal((2000, 50))
    points = find(lambda x, u: v * jnp.tanh(2 * v @ x), jnp.asarray(starts))
    assert len(points) == 3
    along = np.asarray(points.x @ v)
    np.testing.assert_allclose(np.sort(along), [-a, 0, a], atol=50 * EPS)
    np.testing.assert_allclose(points.x, along[:, None] * v, atol=50 * EPS)
    assert (np.sign(along.round(6))[points.reached] == cluster - 1).all()


@pytest.mark.usefixtures("unchecked")
def test_ten_thousand_points_of_any_size_are_merged_exactly_and_at_once():
    # Sizes from 1 to 1e8, where one tolerance for all would take everything for near; each point twice, a tenth of
    # its own tolerance apart, and in every other pair a third one that is three tolerances away.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4000, 512)) * 10.0 ** rng.uniform(0, 8, (4000, 1))
    centres[::2] = 1 + 1e-3 * centres[::2] / np.abs(centres[::2]).max(1, keepdims=True)  # half of them are neighbours
    radius = UNIQUE_TOL * (1 + np.abs(centres).max(1))
    shift = np.eye(512)[rng.integers(512, size=4000)] * radius[:, None]
    x = np.concatenate([centres, centres + 0.1 * shift, centres[::2] + 3 * shift[::2]])
    kept, reached = results.merge(x[:, None], np.zeros(len(x)), np.ones(len(x), bool), UNIQUE_TOL)
    assert len(kept) == 6000
    assert (reached[:4000] == reached[4000:8000]).all()
    assert len(set(reached[:4000])) == 4000
    assert not set(reached[8000:]) & set(reached[:8000])


def test_a_point_far_from_every_start_is_kept_and_marked():
    # x' = x - sin x / 10: Newton's step from near π/2 leads far away, to another multiple of π.
    starts = np.linspace(1.55, 1.62, 64)[:, None]
    points = find(lambda x, u: x - jnp.sin(x) / 10, jnp.asarray(starts))
    spread = starts.std()
    nearest = np.abs(np.asarray(points.x) - starts.T).min(1)
    assert (points.far == (nearest > 10 * spread)).all()
    assert points.far.all()
    assert points[~points.far].x.shape == (0, 1)
    assert not find(lambda x, u: x - jnp.sin(x) / 10, jnp.linspace(0.0, 6.0, 64)[:, None]).far.any()
    assert not find(zoo, column(-3.0, -3.0, -3.0), which("cosine")).far.any()  # one start says nothing of spread
    everywhere = find(identity, jnp.asarray([[1e6], [1e6 + 1], [-1e300]]))
    assert not everywhere.far.any()  # each is its own start, however the squares overflow


def test_levenbergs_method_comes_through_where_newtons_is_trapped():
    # Boggs (1971): x² - y + 1 = 0, x = cos(πy/2), whose zeros are (-1, 2), (-1/√2, 3/2) and (0, 1).
    def step(z, u):
        return z + jnp.stack([z[0] ** 2 - z[1] + 1, z[0] - jnp.cos(jnp.pi / 2 * z[1])])

    starts = jnp.asarray(np.random.default_rng(0).uniform(-6, 6, (64, 2)))
    points = find(step, starts)
    _, alone, _ = newton.newton(step, starts, None, "discrete", None, 200)
    assert (np.asarray(alone) > 0.01).sum() > (points.status != "converged").sum() > 0
    assert (points.start_residual <= alone).all()  # what the start is said to have met is never worse
    order = np.argsort(points.x[:, 0])
    np.testing.assert_allclose(points.x[order], [[-1, 2], [-(0.5**0.5), 1.5], [0, 1]], atol=20 * EPS)  # ‖J⁻¹‖ < 3


# Starts.


NINE = jnp.eye(9).at[0, 1].set(1.0).at[1, 0].set(1.0)


@pytest.mark.parametrize(
    ("scale", "hidden"),
    [
        (1.0, 1e-9),  # in single precision its first two rows are the same
        (1e60, 1.0),  # this is infinite there
        (1e-60, 1.0),  # and this is zero
    ],
)
def test_steps_in_single_precision_do_not_decide_what_is_found(scale, hidden):
    # G = A (x - r): one root, however far the starts are. From 9 units on, steps far from it are taken roughly.
    a = scale * NINE.at[1, 1].add(hidden)
    root = jnp.arange(1.0, 10.0)
    starts = jnp.asarray(np.random.default_rng(0).uniform(-20, 20, (5, 9)))
    found = find(lambda x, a: a @ (x - root), starts, a, time="continuous", tol=1e-3 * min(1.0, scale))
    assert (found.status == "converged").all()
    # x - r is off by an ulp of 9 in each unit, A⁻¹A (x - r) by as much times the condition, 5/hidden.
    np.testing.assert_allclose(found.x[0], root, rtol=0, atol=9 * EPS * 5 / hidden * 9)


@pytest.mark.parametrize("search", [find, slow_points, lambda step, starts: cycles(step, starts, 1)])
def test_a_map_that_calls_lapack_is_searched_for_all_starts(search):
    # x' = (I + M(x))⁻¹ c with M = diag(x): x (1 + x) = c, so x = (√(1 + 4c) - 1)/2 = 1 for c = 2, or -2.
    step = lambda x, u: jnp.linalg.solve(jnp.eye(9) + jnp.diag(x), jnp.full(9, 2.0))  # noqa: E731
    found = search(step, jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (7, 9))))
    assert len(found) == 1
    np.testing.assert_allclose(found.x[0], 1, atol=TOL)


def test_starts_are_states_of_the_trajectory_moved_by_noise():
    trajectory = jnp.asarray(np.random.default_rng(0).standard_normal((50, 3)))
    starts = fixed_points.starts_from(trajectory, 4000, noise=0.0, seed=1)
    assert starts.shape == (4000, 3)
    assert set(map(tuple, starts.tolist())) == set(map(tuple, trajectory.tolist()))
    moved = fixed_points.starts_from(trajectory, 4000, noise=0.1, seed=1)
    noise = np.asarray(moved - starts)
    # Mean and deviation of 12,000 normal numbers: within five standard errors.
    assert abs(noise.mean()) < 5 * 0.1 / 12000**0.5
    assert abs(noise.std() - 0.1) < 5 * 0.1 / 24000**0.5
    assert (moved == fixed_points.starts_from(trajectory, 4000, noise=0.1, seed=1)).all()
    assert fixed_points.starts_from(trajectory.astype(jnp.float32), 2, noise=0.1, seed=0).dtype == jnp.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trajectory": jnp.zeros(3)}, "trajectory must be a float array of shape"),
        ({"trajectory": jnp.zeros((0, 3))}, "trajectory must hold at least one state"),
        ({"trajectory": jnp.full((1, 1), jnp.nan)}, "trajectory must be finite"),
        ({"num": 0}, "num must be a whole number, at least 1"),
        ({"noise": -0.1}, "noise must be at least 0"),
        ({"noise": np.inf}, "noise must be finite"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
    ],
)
def test_starts_from_refuses_wrong_arguments(changed, message):
    arguments = {"trajectory": jnp.zeros((2, 1)), "num": 1, "noise": 0.0, "seed": 0} | changed
    trajectory, num = arguments.pop("trajectory"), arguments.pop("num")
    with pytest.raises(ValueError, match=message):
        fixed_points.starts_from(trajectory, num, **arguments)


# The result as a collection.


def test_points_are_counted_indexed_and_renumbered():
    points = find(DoyaNeuron(w=5.0, b=-2.5), column(0.0, 0.5, 1.0))
    assert len(points) == 3
    stable = points[points.stable]
    assert isinstance(stable, FixedPoints)
    assert len(stable) == 2
    assert stable.kind.tolist() == ["stable node"] * 2
    assert stable.status.shape == stable.start_residual.shape == stable.reached.shape == (3,)
    assert stable.reached[1] == -1  # its point is not among these
    for start in (0, 2):
        assert stable.x[stable.reached[start], 0] == points.x[points.reached[start], 0]
    assert points[1].x.tolist() == points[-2].x.tolist() == points.x[1:2].tolist()
    assert points[::-1].x.tolist() == points.x[::-1].tolist()
    assert points[[2, 0]].residual.tolist() == points.residual[np.array([2, 0])].tolist()
    assert [float(point.x[0, 0]) for point in points] == points.x[:, 0].tolist()
    assert len(points[:0]) == 0
    assert (points[:0].reached == -1).all()
    with pytest.raises(IndexError):
        points[3]


def test_no_points_are_an_answer_with_the_same_shapes():
    points = find(Linear(jnp.eye(9), jnp.eye(9)), jnp.zeros((7, 9)), jnp.ones(9))
    assert len(points) == 0
    assert points.x.shape == (0, 9)
    assert points.jacobian.shape == (0, 9, 9)
    assert points.multipliers.shape == (0, 9)
    assert jnp.iscomplexobj(points.multipliers)
    assert points.residual.shape == points.stable.shape == points.kind.shape == (0,)
    assert points.status.tolist() == ["singular"] * 7
    assert list(points) == []


def test_a_result_prints_in_one_line():
    points = find(DoyaNeuron(w=5.0, b=-2.5), column(0.0, 0.5, 1.0))
    assert repr(points).startswith("FixedPoints(3 points, 2 stable, residual at most ")
    assert repr(points).endswith("; starts: 3 converged)")
    shifted = find(zoo, column(0.0, 1.0, 2.0), which("shift"))
    assert repr(shifted) == "FixedPoints(0 points, 0 stable; starts: 3 singular)"


# Precision, and maps of every kind.


def test_in_single_precision_the_tolerances_follow():
    eps = np.finfo(np.float32).eps
    step = lambda x, u: jax.nn.sigmoid(5 * x - 2.5)  # noqa: E731
    points = find(step, jnp.array([[0.0], [0.5], [1.0], [0.145]], jnp.float32))
    assert points.x.dtype == points.residual.dtype == points.jacobian.dtype == jnp.float32
    assert points.multipliers.dtype == jnp.complex64
    assert points.reached[0] == points.reached[3]
    np.testing.assert_allclose(positions(points), reference.DOYA_EQUILIBRIA[-2.5], atol=8 * eps / 0.25)
    assert points.stable.sum() == 2
    result = solve(step, jnp.array([0.1], jnp.float32))
    assert result.success
    assert result.x.dtype == np.float32
    assert result.residual <= 100 * eps * 1.2


def test_a_state_is_promoted_to_the_dtype_of_the_map():
    points = find(Logistic(jnp.array(2.5, float)), jnp.array([[0.5]], jnp.float32))
    assert points.x.dtype == jnp.float64
    np.testing.assert_allclose(points.x, [[0.6]], atol=4 * EPS)


def test_a_map_that_is_a_pytree_is_compiled_once_for_all_its_parameters():
    traces = []

    class Counted(equinox.Module):
        gain: jax.Array

        def __call__(self, x, u=None):
            del u
            traces.append(x)
            return jnp.tanh(self.gain * x)

    find(Counted(jnp.array(2.0)), column(-1.0, 0.0, 1.0))
    once = len(traces)
    for gain in (1.5, 3.0, 4.0):
        assert len(find(Counted(jnp.array(gain)), column(-1.0, 0.0, 1.0))) == 3
    assert len(traces) == once


# Misuse.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"starts": jnp.zeros(2)}, "starts must be a float array of shape \\(s, n\\)"),
        ({"starts": jnp.zeros((2, 1), int)}, "starts must be a float array"),
        ({"starts": jnp.array([[np.nan]])}, "starts must be finite"),
        ({"starts": jnp.zeros((0, 1))}, "starts must hold at least one start"),
        ({"starts": jnp.zeros((1, 0))}, "starts must hold at least one start"),
        ({"starts": "here"}, "starts must be an array of numbers"),
        ({"solver": "powell"}, "solver must be one of 'newton', 'hybr'"),
        ({"time": "sometimes"}, "time must be one of 'discrete', 'continuous'"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": np.nan}, "tol must be finite"),
        ({"tol": "small"}, "tol must be an array of numbers"),
        ({"tol": [1e-3]}, r"tol must be a float array of shape \(\)"),
        ({"unique_tol": -1.0}, "unique_tol must be positive"),
        ({"max_steps": 0}, "max_steps must be a whole number, at least 1"),
        ({"max_steps": 2.5}, "max_steps must be a whole number"),
        ({"step": lambda x, u: x[0]}, "step must map"),
        ({"step": lambda x, u: jnp.zeros(3)}, "step must map"),
        ({"step": lambda x, u: jnp.zeros(3), "solver": "hybr"}, "step must map"),
        ({"step": lambda x, u: None}, "step must map"),
    ],
)
def test_find_refuses_wrong_arguments(changed, message):
    arguments = {"step": lambda x, u: jnp.cos(x), "starts": jnp.zeros((1, 1))} | changed
    step, starts = arguments.pop("step"), arguments.pop("starts")
    with pytest.raises(ValueError, match=message):
        find(step, starts, **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x0": jnp.zeros((1, 1))}, "x0 must be a float array of shape \\(n,\\)"),
        ({"x0": jnp.zeros(0)}, "x0 must hold at least one unit"),
        ({"x0": jnp.array([np.inf])}, "x0 must be finite"),
        ({"method": "newton"}, "method must be one of 'hybr'"),
        ({"time": "sometimes"}, "time must be one of"),
        ({"tol": -1e-3}, "tol must be positive"),
        ({"tol": "small"}, "tol must be an array of numbers"),
    ],
)
def test_solve_refuses_wrong_arguments(changed, message):
    arguments = {"x0": jnp.zeros(1)} | changed
    with pytest.raises(ValueError, match=message):
        solve(lambda x, u: jnp.cos(x), arguments.pop("x0"), **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("starts", lambda x: find(jnp.cos, x)),
        ("starts", lambda x: slow_points(jnp.cos, x)),
        ("starts", lambda x: cycles(jnp.cos, x, 2)),
        ("x0", lambda x: solve(jnp.cos, x[0])),
        ("trajectory", lambda x: starts_from(x, 2, seed=0)),
        ("find", lambda _: find(jnp.cos, np.zeros((1, 1)))),  # no tracer, but what it makes would be
    ],
)
def test_inside_jit_a_search_says_that_it_runs_on_the_host(name, search):
    wanted = f"{name} must be (known numbers|called outside of jit), as .* runs on the host"
    with pytest.raises(ValueError, match=wanted):
        jax.jit(search)(jnp.zeros((1, 1)))


def test_every_public_name_is_there_and_listed_in_order():
    assert {"FixedPoints", "find", "solve", "starts_from"} <= set(fixed_points.__all__)
    assert all(hasattr(fixed_points, name) for name in fixed_points.__all__)
    assert fixed_points.__all__ == sorted(fixed_points.__all__)
