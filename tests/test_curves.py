"""Curves of folds, flips, Neimark-Sacker and Hopf points lie where closed forms and independent solves put them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rnn_dynamics.continuation import (
    arclength,
    flip_curve,
    fold_curve,
    fold_position,
    hopf_curve,
    neimark_sacker_curve,
)
from rnn_dynamics.models import CTRNN, DoyaNeuron, PascanuRNN
from tests import reference

SOLVED = 1e-10
"""What the residual of a special point may be."""
ROUNDED = 1e-12
"""Closed forms hold at a point to its residual, about 1e-15, times the condition of the fold in w ≤ 10: under 100."""


def scalar_family(p, q):
    """Doya's neuron over (b, w), or a flip at p = 0 with cubic coefficient q² + q - 1/2; the input says which.

    `b` and `w` are (fixed part, share of the parameter). Or a fold at p = 0 whose quadratic coefficient jumps.
    """

    def step(x, u):
        bias, weight = u["b"][0] + u["b"][1] * p, u["w"][0] + u["w"][1] * q
        neuron = (1 - u["epsilon"]) * x + u["epsilon"] * jax.nn.sigmoid(weight * x + bias)
        neuron = neuron + u["jump"] * (p + jnp.where(q < u["at"], q - 5, q + 5) * x**2)
        return neuron + u["flip"] * x * ((q - 0.5) * (x / u["unit"]) ** 2 + q * x / u["unit"] - (2 + p))

    return step


def scalar(epsilon=1.0, *, b=(0.0, 1.0), w=(0.0, 1.0), flip=0.0, unit=1.0, jump=0.0, at=0.0):
    values = {"epsilon": epsilon, "b": b, "w": w, "flip": flip, "unit": unit, "jump": jump, "at": at}
    return {name: jnp.asarray(value) for name, value in values.items()}


def doya_folds(x0, p0, q0, u=None, p_span=(-8.0, 0.0), q_span=(3.0, 10.0)):
    u = scalar() if u is None else u
    return fold_curve(scalar_family, jnp.array([x0]), p0, q0, p_span=p_span, q_span=q_span, u=u, max_points=401)


def flips(x0, p0, q0, u, p_span, q_span):
    return flip_curve(scalar_family, jnp.array([x0]), p0, q0, p_span=p_span, q_span=q_span, u=u, max_points=401)


def network_family(p, q):
    """x' = (W₀ + q W₁) σ(kx) + b₀ + p b₁ + q b₂: tanh networks too; its numbers are the input."""

    def step(x, u):
        bias = u["b"][0] + p * u["b"][1] + q * u["b"][2]
        return (u["w"][0] + q * u["w"][1]) @ jax.nn.sigmoid(u["k"] * x) + bias

    return step


def pasemann(second_weight):
    """The bistable module over b₁ and either b₂ = 3 + q or w₁₁ = 7 + q, among eight units at rest."""
    w, b = np.zeros((2, 10, 10)), np.zeros((3, 10))
    w[0, :2, :2] = [[7.0, -4.0], [5.0, 0.0]]
    b[0, 1], b[1, 0] = 3.0, 1.0
    w[1, 0, 0], b[2, 1] = (1.0, 0.0) if second_weight else (0.0, 1.0)
    return {"w": w, "b": b, "k": np.array(1.0)}


def tanh_network():
    """x' = q W tanh(x) + p b, n = 10, in sigmoids: tanh x = 2 σ(2x) - 1."""
    rng = np.random.default_rng(3)
    w, b = rng.normal(size=(10, 10)) / np.sqrt(10), rng.normal(size=10)
    rows = np.stack([np.zeros(10), b, -w.sum(1)])
    return {"w": np.stack([np.zeros((10, 10)), 2 * w]), "b": rows, "k": np.array(2.0)}


def critical(u, x, p, q):
    """det(F_x - I) and the residual in NumPy, apart from the package."""
    k, w, b = u["k"], u["w"][0] + q * u["w"][1], u["b"]
    s = 1 / (1 + np.exp(-k * x))
    jacobian = w * (k * s * (1 - s))
    return w @ s + b[0] + p * b[1] + q * b[2] - x, jacobian


def scipy_fold(u, x, p, q):
    """A fold near (x, p) at this q, by SciPy alone."""

    def equations(z):
        residual, jacobian = critical(u, z[:-1], z[-1], q)
        return np.append(residual, np.linalg.det(jacobian - np.eye(10)))

    solution = scipy.optimize.root(equations, np.append(x, p), tol=1e-14)
    return solution.x, np.abs(equations(solution.x)).max()


def network_folds(u, x0, p0, q0, p_span, q_span):
    return fold_curve(network_family, jnp.asarray(x0), p0, q0, p_span=p_span, q_span=q_span, u=u, max_points=601)


TWIST = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0] * [1.0, 2.0, 0.5, 1.0]
UNTWIST = np.linalg.inv(TWIST)


def spatial_family(p, q):
    """Planar maps with two more units, in coordinates that mix all four: tanh((p + iq) z), or the delayed logistic."""

    def step(x, u):
        a, b, c, d = UNTWIST @ x
        rotated = jnp.tanh(jnp.stack([p * a - q * b, q * a + p * b]))
        delayed = jnp.stack([p * a * (1 - q * a - (1 - q) * b), a])
        plane = jnp.where(u, delayed, rotated)
        return TWIST @ jnp.append(plane, jnp.stack([0.3 * jnp.sin(c), 0.2 * c - 0.5 * d]))

    return step


def circles(plane, p0, q0, *, delayed, p_span=(-2.0, 2.0), q_span=(-2.0, 2.0), **options):
    x0 = jnp.asarray(TWIST @ np.append(plane, [0.0, 0.0]))
    options = {"p_span": p_span, "q_span": q_span, "u": jnp.asarray(delayed), "max_points": 401} | options
    return neimark_sacker_curve(spatial_family, x0, p0, q0, **options)


def bogdanov_family(p, q):
    """Bogdanov's normal form x'' = p + q x + x² + x x'."""
    return lambda x, u: jnp.stack([x[1], p + q * x[0] + x[0] ** 2 + x[0] * x[1]])


def field_family(p, q):
    """Beer's oscillator over (coupling, weight to itself), or Bogdanov's normal form."""

    def field(x, u):
        w = jnp.array([[1.0, 0.0], [0.0, 1.0]]) * q + jnp.array([[0.0, 1.0], [-1.0, 0.0]]) * p
        beer = CTRNN(w, -w.sum(1) / 2, jnp.ones(2))(x)
        return jnp.where(u, bogdanov_family(p, q)(x, None), beer)

    return field


BEER, BOGDANOV = jnp.asarray(False), jnp.asarray(True)


@pytest.fixture(scope="module")
def doya():
    """From the fold at w = 5, through the cusp, to the other one."""
    return doya_folds(0.28, -2.3, 5.0)


def assert_doya_folds(curve):
    x, b, w = curve.x[:, 0], curve.p, curve.q
    assert np.abs(w * x * (1 - x) - 1).max() < ROUNDED
    assert np.abs(np.log(x / (1 - x)) - w * x - b).max() < ROUNDED


def test_doya_s_two_fold_curves_are_one_through_the_cusp(doya):
    assert_doya_folds(doya)
    ends = sorted(zip(doya.p[[0, -1]], doya.x[[0, -1], 0], strict=True), reverse=True)
    np.testing.assert_allclose(ends, reference.DOYA_FOLDS[10.0], rtol=0, atol=ROUNDED)
    assert doya.ended == ("q_span", "q_span")
    assert (doya.q[[0, -1]] == 10.0).all()
    assert doya.residual.max() < 1e-14
    assert doya.complete
    assert doya.start == "converged"
    assert (doya.angle == 0).all()
    assert "CP (-2, 4)" in repr(doya)
    assert "CP at (-2, 4)" in repr(doya.events[0])


def test_doya_s_cusp_is_located_exactly(doya):
    (cusp,) = doya.events
    assert cusp.kind == "CP"
    assert cusp.converged
    assert cusp.residual < 1e-14
    np.testing.assert_allclose([cusp.q, cusp.p, cusp.x[0]], reference.DOYA_CUSP, rtol=0, atol=ROUNDED)


@pytest.mark.parametrize("w", [4.1, 4.5, 6.0, 8.0])
def test_a_start_is_led_to_the_fold_at_its_q(w):
    for b, x in reference.DOYA_FOLDS[w]:
        curve = doya_folds(x + 0.004, b - 0.01, w)
        (row,) = np.flatnonzero(curve.q == w)
        assert curve.start == "converged"
        # x of a fold is less exact than b by the root of the condition near the cusp, 1/(1 - 2x) = 6 at w = 4.1.
        np.testing.assert_allclose([curve.p[row], curve.x[row, 0]], [b, x], rtol=0, atol=10 * ROUNDED)


def test_folds_do_not_depend_on_the_time_step():
    curve = doya_folds(0.28, -2.3, 5.0, scalar(0.1))
    assert_doya_folds(curve)
    assert [event.kind for event in curve.events] == ["CP"]


def test_both_spans_end_a_curve_exactly():
    curve = doya_folds(0.28, -2.3, 5.0, p_span=(-2.6, -2.1))
    assert curve.ended == ("p_span", "p_span")
    assert sorted(curve.p[[0, -1]]) == [-2.6, -2.1]
    assert curve.p.min() >= -2.6
    assert curve.p.max() <= -2.1
    assert_doya_folds(curve)


def test_a_curve_may_start_at_its_cusp():
    curve = doya_folds(0.5, -2.0, 4.0)
    assert len(curve.events) == 1
    assert curve.ended == ("q_span", "q_span")
    np.testing.assert_allclose([curve.events[0].p, curve.events[0].q], [-2.0, 4.0], rtol=0, atol=ROUNDED)


def test_a_start_with_no_fold_at_its_q_is_moved():
    curve = doya_folds(0.45, -1.95, 3.8)  # below w = 4 there is none
    assert curve.start == "moved"
    assert_doya_folds(curve)


def test_a_family_constant_in_one_parameter_has_a_straight_fold_curve():
    (b, _), _ = reference.DOYA_FOLDS[5.0]
    upright = doya_folds(0.28, -2.3, 5.0, scalar(w=(5.0, 0.0)))
    assert upright.ended == ("q_span", "q_span")
    assert tuple(upright.q[[0, -1]]) == (3.0, 10.0)
    np.testing.assert_allclose(upright.p, b, rtol=0, atol=ROUNDED)
    level = doya_folds(0.28, -2.3, 5.0, scalar(b=(b, 0.0)))
    assert level.ended == ("p_span", "p_span")
    np.testing.assert_allclose(level.q, 5.0, rtol=0, atol=10 * ROUNDED)


def test_no_fold_is_said_with_the_residual():
    lines = scalar(0.5, w=(0.0, 0.0))
    without = doya_folds(0.3, -2.0, 5.0, lines)
    assert without.start == "none"
    assert len(without) == 0
    assert without.start_residual > 0.1
    assert without.ended == ("no start", "no start")
    assert "none found" in repr(without)
    broken = doya_folds(0.3, -2.0, 5.0, scalar(np.nan))
    assert broken.start == "none"
    assert len(broken) == 0


@pytest.mark.parametrize("epsilon", [1.0, 0.5])
def test_flips_of_doya_s_neuron(epsilon):
    published = [(w, *at) for (e, w), both in reference.DOYA_FLIPS.items() if e == epsilon for at in both]
    w, b, x = published[0] if published else (-6.0, 5.8, 0.789)
    curve = flips(x + 0.002, b, w, scalar(epsilon), (-5.0, 60.0), (-41.0, -1.0))
    x, b, w = curve.x[:, 0], curve.p, curve.q
    # The condition grows like w, up to 40, and that of the logarithm like 1/x.
    assert np.abs(w * x * (1 - x) - (1 - 2 / epsilon)).max() < 100 * ROUNDED
    assert np.abs(np.log(x / (1 - x)) - w * x - b).max() < 100 * ROUNDED
    assert curve.start == "converged"
    assert curve.events == ()
    assert (curve.angle == np.pi).all()
    assert w.max() <= 4 * (1 - 2 / epsilon) + ROUNDED


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_a_degenerate_flip_is_located_whatever_the_state_s_unit(unit):
    curve = flips(0.0, 0.001, -0.7, scalar(0.0, flip=1.0, unit=unit), (-1.0, 1.0), (-1.0, 1.0))
    (event,) = curve.events  # x' = -(1 + p) x + q x² + (q - 1/2) x³: it is q² + q - 1/2
    assert event.kind == "GPD"
    assert event.converged
    np.testing.assert_allclose([event.p, event.q - (3**0.5 - 1) / 2, event.x[0] / unit], 0, atol=SOLVED)


@pytest.mark.parametrize(("first_step", "q0", "number"), [(0.001, -0.5, 0), (0.001, 0.36, 1), (0.012, -0.5, 2)])
@pytest.mark.parametrize("max_points", [9, 10])
def test_a_short_curve_says_whether_all_its_special_points_are_listed(first_step, q0, number, max_points):
    roots = [(-1 - 3**0.5) / 2, (-1 + 3**0.5) / 2]  # of q² + q - 1/2, where the flip is degenerate
    spans = {"p_span": (-1.0, 1.0), "q_span": (-3.0, 3.0), "max_events": 1, "max_points": max_points}
    options = {"u": scalar(0.0, flip=1.0), "first_step": first_step, "max_step": 0.3} | spans
    curve = flip_curve(scalar_family, jnp.zeros(1), 0.0, q0, **options)
    assert (len(curve), curve.q[4]) == (9, q0)
    assert curve.ended == ("max_points", "max_points")
    assert sum(curve.q[0] < root < curve.q[-1] for root in roots) == number
    assert len(curve.events) == min(number, 1)
    assert all(np.abs(np.subtract(roots, event.q)).min() < SOLVED for event in curve.events)
    assert curve.complete == (number <= 1)


def test_a_coefficient_that_jumps_has_no_zero_and_its_cusp_is_not_converged():
    curve = doya_folds(0.0, 0.0, 4.0, scalar(0.0, jump=1.0, at=4.1), p_span=(-1.0, 1.0))
    (event,) = curve.events
    assert (event.kind, event.converged) == ("CP", False)
    assert event.q == pytest.approx(4.1, abs=1e-9)
    assert 0.05 < event.residual < 0.2  # q - 5 = -0.9 as a share of q + 5 = 9.1
    assert "not converged" in repr(event)


def meeting_family(p, q):
    """x' = -(1 + p) x + x y + r x³, y' = (1 + q) y + x², r the input."""

    def step(x, u):
        return jnp.stack([-(1 + p) * x[0] + x[0] * x[1] + u * x[0] ** 3, (1 + q) * x[1] + x[0] ** 2])

    return step


@pytest.mark.parametrize(("cubic", "degenerate"), [(0.0, []), (1.0, [1.0])])
def test_a_fold_met_on_a_flip_curve_is_no_degenerate_flip(cubic, degenerate):
    # The cubic coefficient, r - 1/q, passes infinity where q = 0 and the second multiplier is 1.
    spans = {"p_span": (-1.0, 1.0), "q_span": (-2.5, 1.5), "max_points": 401}
    curve = flip_curve(meeting_family, jnp.array([1e-3, 1e-3]), 0.01, -0.63, u=jnp.asarray(cubic), **spans)
    assert curve.ended == ("q_span", "q_span")
    np.testing.assert_allclose([event.q for event in curve.events], degenerate, rtol=0, atol=SOLVED)


@pytest.mark.parametrize("q0", [0.0, 1e-14, -1e-14])
@pytest.mark.parametrize(("cubic", "degenerate"), [(0.0, []), (1.0, [1.0])])
def test_a_start_where_a_fold_is_met_makes_no_flip_degenerate(q0, cubic, degenerate):
    spans = {"p_span": (-1.0, 1.0), "q_span": (-2.5, 1.5), "max_points": 401}
    curve = flip_curve(meeting_family, jnp.zeros(2), 0.0, q0, u=jnp.asarray(cubic), **spans)
    assert curve.ended == ("q_span", "q_span")
    np.testing.assert_allclose([event.q for event in curve.events], degenerate, rtol=0, atol=SOLVED)


@pytest.mark.parametrize("second_weight", [False, True])
def test_pasemann_s_folds_in_two_parameters_are_scipy_s(second_weight):
    u = pasemann(second_weight)
    (b1, x1), (other, _) = reference.BISTABLE_MODULE["folds"]
    x0 = np.append([x1, 5 / (1 + np.exp(-x1)) + 3], np.zeros(8))
    curve = network_folds(u, x0, b1, 0.0, (-6.0, 6.0), (-4.0, 3.0))
    assert curve.start == "converged"
    assert curve.residual.max() < 1e-13
    crossing = curve.p[curve.q == 0.0]
    np.testing.assert_allclose(crossing, b1, rtol=0, atol=1e-13 * 100)
    verify(u, curve)
    cusps = [event for event in curve.events if event.kind == "CP"]
    assert all(event.converged and event.residual < SOLVED for event in cusps)
    for cusp in cusps:  # there both parameters turn back
        near = np.argsort(np.hypot(curve.p - cusp.p, curve.q - cusp.q))[:2].min()
        steps = np.stack([np.diff(curve.p), np.diff(curve.q)], 1)
        assert steps[near - 1] @ steps[near + 1] < 0
    assert other < b1


def verify(u, curve):
    """Residual, multiplier and an independent solve at points all along a curve of network folds."""
    for row in range(len(curve)):
        residual, jacobian = critical(u, curve.x[row], curve.p[row], curve.q[row])
        assert np.abs(residual).max() < 1e-12
        # The nearest multiplier is off by the residual over its condition number; a double one by the root of that.
        assert np.linalg.svd(jacobian - np.eye(10))[1][-1] < 1e-12
    for row in np.linspace(1, len(curve) - 2, 7).astype(int):
        solution, left = scipy_fold(u, curve.x[row], curve.p[row], curve.q[row])
        if left < 1e-13:  # at fixed q the fold is singular where q turns back
            np.testing.assert_allclose(solution[-1], curve.p[row], rtol=0, atol=1e-9)


def test_a_random_network_s_folds_hold_point_by_point():
    u, rng = tanh_network(), np.random.default_rng(0)
    starts = (scipy_fold(u, rng.normal(size=10), 0.3 * rng.normal(), 2.0) for _ in range(100))
    start = next(z for z, left in starts if left < 1e-12)
    curve = network_folds(u, start[:-1], start[-1], 2.0, (-6.0, 6.0), (1.0, 3.0))
    assert curve.start == "converged"
    assert len(curve) > 20
    assert "step too small" not in curve.ended
    verify(u, curve)
    for event in curve.events:
        assert event.converged
        assert event.residual < SOLVED


def test_the_neimark_sacker_curve_of_a_rotation_is_a_circle():
    curve = circles([0.0, 0.0], 0.6, 0.75, delayed=False)  # multipliers p ± iq at the origin
    assert curve.ended == ("closed curve", "closed curve")
    assert np.abs(np.hypot(curve.p, curve.q) - 1).max() < ROUNDED
    assert (curve.p[0], curve.q[0]) == (curve.p[-1], curve.q[-1])
    np.testing.assert_allclose(np.cos(curve.angle), curve.p, atol=ROUNDED)
    around = np.unwrap(np.arctan2(curve.q, curve.p))
    assert abs(abs(around[-1] - around[0]) - 2 * np.pi) < 1e-9


@pytest.mark.parametrize("max_angle", [0.1, 0.9])
def test_no_step_turns_the_tangent_by_more_than_it_may(max_angle):
    # The circle in units of the spans: 4 for p and q, and 2 for cos θ = p.
    curve = circles([0.0, 0.0], 0.6, 0.75, delayed=False, max_step=10.0, max_angle=max_angle)
    assert curve.ended == ("closed curve", "closed curve")
    turns = np.abs(np.diff(np.unwrap(np.arctan2(curve.p / 4, -curve.q * np.hypot(1 / 2, 1 / 4)))))
    assert max_angle / 4 < turns.max() <= max_angle * (1 + 1e-5)  # θ may pass its ends by 5e-7


def test_the_neimark_sacker_curve_of_the_delayed_logistic_ends_at_a_resonance():
    # x' = p x (1 - q x - (1 - q) y), y' = x: at the fixed point 1 - 1/p the multipliers' product is (p - 1)(1 - q) = 1
    # and their sum 2 cos θ = 1 - (p - 1) q: 1/(1 - q) = 4 from -2 on.
    curve = circles([0.5, 0.5], 2.0, 0.01, delayed=True, p_span=(1.0, 6.0), q_span=(-3.0, 0.9))
    assert np.abs((curve.p - 1) * (1 - curve.q) - 1).max() < 10 * ROUNDED
    np.testing.assert_allclose(2 * np.cos(curve.angle), 1 - (curve.p - 1) * curve.q, atol=10 * ROUNDED)
    assert curve.ended == ("q_span", "1:2 resonance")
    assert abs(curve.p[-1] - 5.0) < 1e-8 or abs(curve.q[-1] - 0.75) < 1e-8
    assert curve.events == ()


def hopf(x0, p0, q0, u, p_span, q_span):
    return hopf_curve(field_family, jnp.array(x0), p0, q0, p_span=p_span, q_span=q_span, u=u, max_points=401)


def test_beer_s_oscillator_is_born_at_a_weight_of_four():
    # Rates -1 + q/4 ± i p/4 at the centre-crossing equilibrium.
    curve = hopf([2.5, 1.5], 1.0, 4.1, BEER, (0.5, 2.0), (2.0, 6.0))
    np.testing.assert_allclose(curve.q, 4.0, rtol=0, atol=ROUNDED)
    np.testing.assert_allclose(curve.angle, curve.p / 4, rtol=0, atol=ROUNDED)
    assert curve.ended == ("p_span", "p_span")


def test_a_hopf_curve_ends_at_the_bogdanov_takens_point():
    curve = hopf([0.0, 0.0], 0.0, -0.5, BOGDANOV, (-1.0, 1.0), (-1.0, 1.0))  # p = 0, q = -ω² ≤ 0
    assert curve.ended == ("q_span", "Bogdanov-Takens")
    np.testing.assert_allclose(curve.p, 0, atol=ROUNDED)
    np.testing.assert_allclose(curve.q, -(curve.angle**2), atol=ROUNDED)
    assert abs(curve.q[-1]) < 1e-9


def test_a_bogdanov_takens_point_is_no_cusp():
    curve = fold_curve(
        bogdanov_family,
        jnp.array([0.4, 0.0]),
        0.16,
        -0.8,
        p_span=(-1.0, 1.0),
        q_span=(-1.0, 1.0),
        time="continuous",
        max_points=401,
    )
    np.testing.assert_allclose(4 * curve.p, curve.q**2, atol=ROUNDED)
    assert curve.ended == ("q_span", "q_span")
    assert curve.events == ()


def test_curves_of_many_starts_at_once_in_float32():
    w = np.array([4.5, 6.0, 6.0], np.float32)
    q_span = np.array([3.0, 3.0, 6.0], np.float32), np.array([6.5, 6.5, 6.0], np.float32)  # the last is empty
    x = np.array([[reference.DOYA_FOLDS[float(w)][0][1]] for w in w], np.float32)
    b = np.array([reference.DOYA_FOLDS[float(w)][0][0] for w in w], np.float32)

    def family(p, q):
        return lambda x, u: jax.nn.sigmoid(q * x + p)

    @jax.jit
    @jax.vmap
    def folds(x, b, w, q_span):
        return fold_curve(family, x, b, w, p_span=(-3.5, 0.0), q_span=q_span, max_points=101)

    curves = jax.tree.map(np.asarray, folds(x, b, w, q_span))
    assert curves.p.dtype == jnp.float32
    assert curves.p.shape == (3, 101)
    assert (curves.start[-1], *curves.ended[-1]) == (2, arclength.NO_START, arclength.NO_START)
    assert np.isnan(curves.p[-1]).all()
    curves = jax.tree.map(lambda leaf: leaf[:2], curves)
    assert (curves.events.kind[:, 0] == 0).all()
    assert (curves.events.kind[:, 1:] == -1).all()
    # A hundred roundings of numbers near 4; x stands under a root at the cusp, b and w do not.
    np.testing.assert_allclose(curves.events.q[:, 0], 4.0, atol=5e-5)
    np.testing.assert_allclose(curves.events.p[:, 0], -2.0, atol=5e-5)
    inside = np.isfinite(curves.p)
    assert inside.sum(1).min() > 10
    product = curves.q * curves.x[..., 0] * (1 - curves.x[..., 0])
    np.testing.assert_allclose(product[inside], 1, atol=2e-5)
    assert "padded" in repr(curves)
    assert "indices" in repr(curves.events)


def test_a_fold_moves_with_a_weight_by_minus_its_state():
    def position(w, b, x):
        return fold_position(lambda b, w: DoyaNeuron(w=w, b=b), w, jnp.stack([x + 0.01]), b + 0.02)

    derivatives = jax.jit(lambda *at: (position(*at), jax.grad(position)(*at), jax.grad(jax.grad(position))(*at)))
    for w, folds in reference.DOYA_FOLDS.items():
        for b, x in folds:
            found, first, second = derivatives(*map(jnp.asarray, (w, b, x)))
            np.testing.assert_allclose([found, first], [b, -x], rtol=0, atol=10 * ROUNDED)
            # d²b/dw² = -dx/dw, and x(1-x) = 1/w: dx/dw = -1/(w²(1 - 2x)), whose condition near the cusp is 36.
            np.testing.assert_allclose(second, 1 / (w**2 * (1 - 2 * x)), rtol=1e-9)


@pytest.mark.parametrize("time", ["discrete", "continuous"])
def test_a_fold_moves_with_the_input_against_it(time):
    def family(p, theta):  # x + G or G, with G = p + θx² + u: G_x = 0 at x = 0, and there p = -u
        return lambda x, u: x * (time == "discrete") + p + theta * x**2 + u

    def position(u):
        return fold_position(family, 1.5, jnp.array([0.1]), -0.2, u, time=time)

    found = jax.jit(jax.value_and_grad(position))(jnp.asarray(0.25))
    np.testing.assert_allclose(found, (-0.25, -1.0), rtol=0, atol=ROUNDED)


def test_a_fold_moves_with_every_weight_as_finite_differences_say():
    (b1, x1), _ = reference.BISTABLE_MODULE["folds"]
    x0 = jnp.array([x1, 5 / (1 + np.exp(-x1)) + 3])
    weights = np.array([[7.0, -4.0], [5.0, 0.0]])

    def family(b1, w):
        return PascanuRNN(w, None, jnp.stack([b1, 3.0]))

    position = jax.jit(lambda w: fold_position(family, w, x0, b1))
    slopes_of = jax.jit(jax.grad(lambda w: fold_position(family, w, x0, b1)))
    slopes = np.asarray(slopes_of(weights))
    assert abs(float(position(weights)) - b1) < ROUNDED
    # Central differences over h = 1e-5 are off by h² |p'''|/6, 1e-11 or so, and by 1e-15/h of rounding.
    for place in np.ndindex(2, 2):
        nudge = np.zeros((2, 2))
        nudge[place] = 1e-5
        ahead, behind = float(position(weights + nudge)), float(position(weights - nudge))
        assert abs((ahead - behind) / 2e-5 - slopes[place]) < 1e-9
    assert np.isnan(position(np.zeros((2, 2))))
    assert np.isnan(slopes_of(np.zeros((2, 2)))).all()


def test_a_model_may_be_what_the_fold_depends_on():
    (b, x), _ = reference.DOYA_FOLDS[5.0]

    def family(p, model):
        return lambda x, u: model(x, u) + p

    model = PascanuRNN(jnp.array([[5.0]]), None, jnp.array([0.25]))  # b = p + 1/4, and 5 σ(x) + b has Doya's folds
    start = jnp.array([np.log(x / (1 - x))])
    gradient = jax.jit(jax.grad(lambda model: fold_position(family, model, start, b - 0.25)))(model)
    np.testing.assert_allclose(gradient.b, [-1.0], atol=ROUNDED)
    np.testing.assert_allclose(gradient.w_rec, [[-x]], atol=ROUNDED)


SINGLE = {name: jax.tree.map(np.float32, value) for name, value in (("x0", np.ones(1)), ("u", scalar()))}
MISUSE = {
    "x0": ({"x0": np.zeros((1, 1))}, "x0 must be a float array"),
    "p0": ({"p0": np.inf}, "p0 must be finite"),
    "span": ({"q_span": (3.0,)}, "q_span must be a pair"),
    "empty": ({"p_span": (0.0, 0.0), "p0": 0.0}, "p_span must be .least, largest."),
    "rounded": ({**SINGLE, "p_span": (-2.3 - 1e-8, -2.3 + 1e-8)}, "p_span must be .*the first below .* in float32 too"),
    "rounded too": ({**SINGLE, "q_span": (5.0, 5.0 + 1e-8)}, "q_span must be .*the first below .* in float32 too"),
    "outside": ({"q_span": (6.0, 7.0)}, "q_span must contain q0 = 5"),
    "points": ({"max_points": 2}, "max_points must be"),
    "events": ({"max_events": 0}, "max_events must be"),
    "step": ({"max_step": 0.0}, "max_step must be positive"),
    "time": ({"time": "slow"}, "time must be one of"),
    "map": ({"family": lambda p, q: lambda x, u: jnp.zeros(2)}, "family\\(p0, q0\\) must map"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_refused(case, unchecked):
    wrong, complaint = MISUSE[case]
    right = {"family": scalar_family, "x0": np.array([0.3]), "p0": -2.3, "q0": 5.0, "u": scalar()}
    options = right | {"p_span": (-3.0, 1.0), "q_span": (3.0, 6.0)} | wrong
    place = [options.pop(name) for name in ("family", "x0", "p0", "q0")]
    with pytest.raises(ValueError, match=complaint):
        fold_curve(*place, **options)


def test_misuse_of_the_others_is_refused(unchecked):
    with pytest.raises(ValueError, match="at least two units"):
        neimark_sacker_curve(scalar_family, jnp.zeros(1), 0.0, 0.0, p_span=(-1.0, 1.0), q_span=(-1.0, 1.0))
    with pytest.raises(ValueError, match="time must be one of"):
        fold_position(scalar_family, 5.0, jnp.zeros(1), 0.0, time="slow")
