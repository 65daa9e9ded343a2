"""Continuation: branches go where closed forms say, special points are where they are, and every end is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rnn_dynamics.continuation import arclength, linear, trace
from tests import reference
from tests.families import HENON, Circuit, doya, logistic, pair, pascanu, planar_family, quadratic, scalar_family, unit

EPS = np.finfo(float).eps
SOLVED = 1e-10
"""What the residual and the test function of a special point may be."""


CIRCLE = unit({(1, 0): 1.0, (0, 0): 0.25, (2, 0): -0.25, (0, 2): -0.25})
VERTICAL = unit({(1, 0): 1.0, (0, 1): 1.0})
CONSTANT = unit({(0, 0): 0.1875, (2, 0): 1.0})
EVERYTHING = unit({(1, 0): 1.0})
CORNER = unit({(0, 1): 1.0}, a=2.0)
BEND = unit({(0, 1): 1.0}, a=-1.5)
SHIFT = unit({(0, 0): 1.0, (1, 0): 1.0})
NOT_A_NUMBER = unit({(0, 0): np.nan})
LINE = unit({(0, 0): 1.0, (1, 0): 0.5})
PARABOLA = unit({(0, 0): -0.5, (0, 1): 0.5, (1, 0): 1.0, (2, 0): -0.5})
POLE = unit({(0, 0): 0.25, (1, 0): 1.0, (1, 1): -0.25})
PITCHFORK = unit({(1, 0): 1.0, (1, 1): 1.0, (3, 0): -1.0})


def scalar(u, x0, p0, span, **options):
    return trace(scalar_family, jnp.array([x0]), p0, p_span=span, u=u, max_points=801, **options)


NOTHING = ((0, 0), (0, 0))
BISTABLE = pair(c=((0, 3), (1, 0)), w=((7, -4), (5, 0)))
CHAOTIC = pair(c=((0, 3), (1, 0)), w=((-20, 6), (-6, 0)))
DELAYED = pair(a=(((0, 0), (1, 0)), ((1, 0), (0, 0))), q=quadratic({(1, 0, 0, 1): -1}))  # (r x (1 - y), x)
SADDLE = pair(c=((0.1, 0.1), (0, 0)), a=(((1.5, 0), (0, 0.5)), ((1, 0), (0, 0))))
APART = pair(c=((4.25568, 6), (2, 2)), w=((8, 0), (0, -12)))


def planar(u, x0, p0, span, **options):
    return trace(planar_family, jnp.array(x0), p0, p_span=span, u=u, **options)


def oscillator():
    """Beer's, over the coupling of its units."""
    weights = [np.diag([4.5, 4.5]), [[0.0, 1.0], [-1.0, 0.0]]]
    return Circuit(jnp.array(weights), jnp.array([reference.OSCILLATOR["theta"], [0.0, 0.0]]))


def kinds(branch):
    return [event.kind for event in branch.events]


def solved(branch):
    """Every row is a fixed point to rounding, and every special point is where its defining system says."""
    size = 1 + np.abs(branch.x).max(1)
    assert np.all(branch.residual <= 1e-12 * size)
    assert all(event.converged and event.residual <= SOLVED for event in branch.events)
    return True


@pytest.mark.parametrize("p0", [-13.0, -25.0])
def test_a_branch_may_begin_at_a_state_far_smaller_than_it_becomes(p0):
    branch = scalar(doya(5.0), np.exp(p0), p0, (p0, 0.0))  # x = σ(5x + b) ≈ e^b
    assert solved(branch)
    assert branch.ended == ("p_span", "p_span")
    assert [event.p for event in branch.events] == pytest.approx([b for b, _ in reference.DOYA_FOLDS[5.0]], abs=1e-13)


@pytest.mark.parametrize("s", [1e-10, 1e-6, 1e3, 1e9])
def test_the_unit_of_the_state_decides_nothing(s):
    # x/s = y: y' = y + (y - y³ + p)/4, with folds at y = ∓1/√3.
    branch = scalar(unit({(1, 0): 1.25, (0, 1): s / 4, (3, 0): -0.25 / s**2}), -1.2 * s, -0.528, (-0.6, 0.6))
    assert kinds(branch) == ["LP", "LP"]
    assert branch.ended == ("p_span", "p_span")
    np.testing.assert_allclose([event.p for event in branch.events], np.array([2, -2]) / 27**0.5, rtol=1e-14)
    np.testing.assert_allclose([event.x[0] / s for event in branch.events], np.array([-1, 1]) / 3**0.5, rtol=1e-7)


@pytest.mark.parametrize("w", reference.DOYA_FOLDS)
def test_doyas_folds_are_the_closed_form_to_the_last_bits(w):
    # At ε = 1 the map's own rounding, half an ulp of σ, moves the fold's bias by about one ulp and its state, where
    # the test function's slope is w(1-2x), by a few.
    branch = scalar(doya(w), 0.01, -8.0, (-8.0, 0.0))
    assert solved(branch)
    assert kinds(branch) == ["LP", "LP"]
    assert branch.ended == ("p_span", "p_span")
    for event, (b, x) in zip(branch.events, reference.DOYA_FOLDS[w], strict=True):
        assert abs(event.p - b) <= np.spacing(abs(b))
        assert abs(event.x[0] - x) <= 4 * EPS / (1 - 4 / w) ** 0.5


HAIRPIN = unit({(0, 0): -1.0, (0, 1): 1.0, (1, 0): 3.0, (2, 0): -1.0})
"""x' = x + p - (x - 1)²: p = (x - 1)², a fold at 0. Its four terms, 3 at most, round p by some 10 ulps of 1."""


@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_over_however_narrow_a_span_a_fold_is_followed_round(width, share):
    p0 = share * width
    branch = scalar(HAIRPIN, 1 + p0**0.5, p0, (-width, width))
    assert branch.ended == ("p_span", "p_span")
    assert (branch.p[0], branch.p[-1]) == (width, width)
    assert kinds(branch) == ["LP"]
    assert branch.events[0].converged
    assert abs(branch.events[0].p) <= 20 * EPS
    assert abs(branch.events[0].x[0] - 1) <= 10 * EPS  # 3 - 2x = 1
    np.testing.assert_allclose((branch.x[:, 0] - 1) ** 2, branch.p, rtol=0, atol=20 * EPS)


@pytest.mark.parametrize("width", [1e-6, 1e-9])
def test_a_start_on_a_fold_finds_it_over_a_narrow_span(width):
    for b, x in reference.DOYA_FOLDS[5.0]:
        branch = scalar(doya(5.0), x, b, (b - width, b + width))
        assert solved(branch)
        assert branch.ended == ("p_span", "p_span")
        assert kinds(branch) == ["LP"]
        assert abs(branch.events[0].p - b) <= 2 * np.spacing(abs(b))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_over_a_span_that_is_rounding_nothing_is_said_to_be_found(share):
    width = 1e-17  # the map moves by less than half an ulp of x
    branch = scalar(HAIRPIN, 1 + (share * width) ** 0.5, share * width, (-width, width))
    assert not any(event.converged for event in branch.events)
    assert all(abs(event.p) <= width for event in branch.events)


def test_folds_do_not_depend_on_the_time_step():
    # G = ε(σ - x) is known to half an ulp of x, so the bias to 1/ε times as much over ∂σ/∂b = 1/w.
    branch = scalar(doya(5.0, 0.1), 0.01, -8.0, (-8.0, 0.0))
    assert solved(branch)
    for event, (b, _) in zip(branch.events, reference.DOYA_FOLDS[5.0], strict=True):
        assert abs(event.p - b) <= 10 * 5 * EPS


def test_the_cusp_is_no_pair_of_folds():
    branch = scalar(doya(4.0), 0.01, -8.0, (-8.0, 0.0))
    assert solved(branch)
    assert kinds(branch) == []
    assert branch.stable.all()


def test_the_curve_is_the_closed_form_and_its_middle_is_unstable():
    branch = scalar(doya(5.0), 0.01, -8.0, (-8.0, 0.0))
    x = branch.x[:, 0]
    np.testing.assert_allclose(branch.p, np.log(x / (1 - x)) - 5 * x, rtol=0, atol=1e-10)
    assert branch.p[0] == -8.0
    assert branch.p[-1] == 0.0
    np.testing.assert_array_equal(branch.stable, 5 * x * (1 - x) < 1)
    np.testing.assert_allclose(branch.multipliers[:, 0], 5 * x * (1 - x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("epsilon", "w"), reference.DOYA_FLIPS)
def test_damped_neurons_flip_where_the_closed_form_says(epsilon, w):
    branch = scalar(doya(w, epsilon), 0.01, -8.0, (-8.0, 60.0))
    assert solved(branch)
    assert kinds(branch) == ["PD", "PD"]
    for event, (b, x) in zip(branch.events, reference.DOYA_FLIPS[epsilon, w], strict=True):
        assert event.p == pytest.approx(b, rel=1e-13)
        assert event.x[0] == pytest.approx(x, rel=1e-13)


@pytest.mark.parametrize("w", reference.PASCANU_FLIPS)
def test_pascanus_unit_flips_where_the_closed_form_says(w):
    branch = scalar(pascanu(w), -8.0, -8.0, (-8.0, 15.0))
    assert solved(branch)
    assert kinds(branch) == ["PD", "PD"]
    for event, (b, _) in zip(branch.events, reference.PASCANU_FLIPS[w], strict=True):
        assert event.p == pytest.approx(b, rel=1e-13, abs=1e-14)


def test_the_logistic_map_exchanges_stability_at_1_and_doubles_its_period_at_3():
    branch = scalar(logistic(1), 0.6, 2.5, (0.5, 3.5))
    assert solved(branch)
    assert [(event.kind, round(float(event.p), 12)) for event in branch.events] == [("BP", 1.0), ("PD", 3.0)]
    assert kinds(scalar(logistic(1), 0.0, 0.5, (0.5, 3.5))) == ["BP"]


@pytest.mark.parametrize(
    ("times", "start", "r", "doubling"),
    [(2, 0.85, 3.3, 3.449489742783), (4, 0.875, 3.5, 3.544090359552), (8, 0.8817, 3.56, 3.564407266095)],
)
def test_the_cascade_goes_on_where_it_is_known_to(times, start, r, doubling):
    # May (1976); the first is 1 + √6.
    branch = scalar(logistic(times), start, r, (r - 0.005, 3.58), max_step=0.02)
    assert solved(branch)
    assert any(event.kind == "PD" and abs(event.p - doubling) < 1e-12 for event in branch.events)


def test_the_window_of_period_three_opens_at_1_plus_root_8():
    branch = scalar(logistic(3), 0.957, 3.84, (3.8, 3.845))
    fold = next(event for event in branch.events if event.kind == "LP")
    assert solved(branch)
    assert fold.p == pytest.approx(1 + 8**0.5, rel=1e-14)


def test_henons_fixed_points_fold_and_flip_at_the_published_values():
    branch = planar(HENON, [0.6, 0.2], 0.2, (-1.0, 1.4))
    assert solved(branch)
    assert [(event.kind, round(float(event.p), 13)) for event in branch.events] == [("LP", -0.1225), ("PD", 0.3675)]
    assert branch.ended == ("diverged", "p_span")  # the other fixed point goes to infinity as a → 0


def test_the_bistable_module_folds_twice_and_has_no_neimark_sacker_point():
    branch = planar(BISTABLE, [-8.0, 3.0], -5.0, (-5.0, 5.0))
    assert solved(branch)
    assert kinds(branch) == ["LP", "LP"]
    for event, (b, x) in zip(branch.events, reference.BISTABLE_MODULE["folds"], strict=True):
        assert event.p == pytest.approx(b, abs=2e-14)
        assert event.x[0] == pytest.approx(x, abs=2e-13)


def test_the_chaotic_module_flips_twice():
    branch = planar(CHAOTIC, [-1.28, 1.69], -2.0, (-10.0, 25.0))
    assert solved(branch)
    assert kinds(branch) == ["PD", "PD"]
    np.testing.assert_allclose([event.p for event in branch.events], reference.CHAOTIC_MODULE["flips"], rtol=1e-14)


def test_the_delayed_logistic_map_has_its_neimark_sacker_point_at_2():
    # At x = 1 - 1/r the multipliers solve λ² - λ + r - 1 = 0: a pair of modulus √(r - 1), e^{±iπ/3} at r = 2.
    branch = planar(DELAYED, [0.4, 0.4], 1.7, (0.5, 2.5))
    assert solved(branch)
    assert kinds(branch) == ["BP", "NS"]
    assert branch.events[1].p == pytest.approx(2.0, abs=1e-14)
    np.testing.assert_allclose(branch.events[1].multipliers, np.exp([1j * np.pi / 3, -1j * np.pi / 3]), atol=1e-13)


def test_a_neutral_saddle_is_no_bifurcation():
    # λ = 1.5 + p and 1/2: their product passes 1 at p = 1/2, both real.
    assert kinds(planar(SADDLE, [-0.1, 0.2], 0.0, (0.0, 2.0))) == []


def test_beers_oscillator_begins_at_a_hopf_point():
    # With D = diag σ', Hopf: 4.5 (d1 + d2) = 2 with positive determinant.
    branch = trace(oscillator(), jnp.array([2.75, 1.75]), 1.0, p_span=(-3.0, 3.0), time="continuous")
    assert solved(branch)
    assert kinds(branch).count("H") == 2
    for event in branch.events:
        d = scipy.special.expit(event.x + reference.OSCILLATOR["theta"])
        d = d * (1 - d)
        if event.kind == "H":
            assert 4.5 * d.sum() == pytest.approx(2.0, abs=1e-12)
            np.testing.assert_allclose(event.multipliers.real, 0, atol=1e-12)
        else:
            assert (1 - 4.5 * d[0]) * (1 - 4.5 * d[1]) + event.p**2 * d[0] * d[1] == pytest.approx(0, abs=1e-12)
    start = np.argmin(np.abs(branch.p - 1.0) + np.abs(branch.x[:, 0] - 2.75))
    assert branch.multipliers[start, 0] == pytest.approx(reference.OSCILLATOR["eigenvalue"], abs=1e-12)


def test_a_closed_curve_comes_back_to_its_start():
    branch = scalar(CIRCLE, 1.0, 0.0, (-2.0, 2.0))
    assert solved(branch)
    assert branch.ended == ("closed curve", "closed curve")
    assert kinds(branch) == ["LP", "LP"]
    np.testing.assert_allclose([event.p for event in branch.events], [1, -1], atol=1e-15)
    assert (branch.p[0], branch.x[0, 0]) == (branch.p[-1], branch.x[-1, 0])


@pytest.mark.parametrize("p0", [1.0, -1.0])
def test_a_closed_curve_begun_at_one_of_its_folds_has_both(p0):
    branch = scalar(CIRCLE, 0.0, p0, (-2.0, 2.0))
    assert branch.ended == ("closed curve", "closed curve")
    assert kinds(branch) == ["LP", "LP"]
    np.testing.assert_allclose([event.p for event in branch.events], [p0, -p0], atol=1e-15)


def test_a_circle_that_the_span_cuts_ends_on_its_borders():
    branch = scalar(CIRCLE, 1.0, 0.0, (-0.5, 0.5))
    assert branch.ended == ("p_span", "p_span")
    assert (branch.p[0], branch.p[-1]) == (-0.5, 0.5)


def test_a_vertical_branch_is_followed_and_has_no_folds():
    branch = scalar(VERTICAL, 0.5, 0.0, (-1.0, 1.0))
    assert kinds(branch) == []
    assert set(branch.ended) == {"diverged"}
    assert np.all(branch.p == 0)


def test_a_family_that_does_not_depend_on_its_parameter_is_a_straight_line():
    branch = scalar(CONSTANT, 0.3, 0.0, (-1.0, 1.0))
    assert branch.ended == ("p_span", "p_span")
    assert kinds(branch) == []
    np.testing.assert_allclose(branch.x, 0.25, rtol=1e-14)  # of x = 3/16 + x²


def test_where_every_point_is_fixed_there_is_no_curve_to_follow():
    assert scalar(EVERYTHING, 0.5, 0.0, (-1.0, 1.0)).ended == ("step too small", "step too small")


def test_a_corner_at_which_a_branch_turns_back_is_a_border_collision():
    # x = 2 max(x, 0) + p: x = p for x < 0 and x = -p for x > 0, both for p < 0.
    branch = scalar(CORNER, -1.0, -1.0, (-2.0, 2.0))
    assert kinds(branch) == ["BC"]
    assert branch.ended == ("p_span", "p_span")
    assert (branch.p[0], branch.p[-1]) == (-2.0, -2.0)
    assert abs(branch.events[0].p) < 1e-12
    assert branch.events[0].converged


def test_a_corner_that_flips_the_stability_is_a_border_collision_not_a_flip():
    # x = p - 1.5 max(x, 0): the multiplier jumps from 0 to -1.5 without passing -1.
    branch = scalar(BEND, -1.0, -1.0, (-1.0, 1.0))
    assert kinds(branch) == ["BC"]
    assert abs(branch.events[0].p) < 1e-12


def test_a_pole_is_left_behind_as_diverged():
    assert scalar(POLE, 1.0, 1.0, (-1.0, 1.0)).ended == ("diverged", "p_span")


def test_on_a_pitchforks_bent_branch_the_vertex_is_a_branch_point():
    branch = scalar(PITCHFORK, 1.0, 1.0, (-1.0, 1.0))
    assert kinds(branch) == ["BP"]
    assert branch.events[0].converged
    assert abs(branch.events[0].p) < 1e-10


def test_a_start_on_a_branch_point_does_not_hide_it():
    branch = scalar(logistic(1), 0.0, 1.0, (0.5, 2.0))
    assert kinds(branch) == ["BP"]
    assert branch.events[0].p == 1.0


TWINS = pair(a=(np.zeros((2, 2)), np.eye(2)), q=quadratic({(1, 0, 0, 0): -1, (1, 1, 1, 1): -1}))
"""Two logistic maps that do not know of each other: every multiplier is double."""


def test_two_real_multipliers_that_cross_together_are_no_rotation():
    branch = planar(TWINS, [0.5, 0.5], 2.0, (2.0, 3.3))
    assert kinds(branch) == ["PD"]
    assert solved(branch)
    assert branch.events[0].p == pytest.approx(3, abs=1e-12)
    # At 0 the whole matrix [G_x G_p] vanishes with them: no system is regular there, but the branch is straight.
    origin = planar(TWINS, [0.0, 0.0], 0.5, (0.5, 2.0))
    assert solved(origin)
    assert kinds(origin) == ["BP"]
    assert origin.events[0].p == pytest.approx(1, abs=100 * EPS)


def symmetric(g):
    return lambda x, u: g * u[0] @ jnp.tanh(x) + u[1]


def all_to_all(own, other):
    return np.full((4, 4), other) + (own - other) * np.eye(4)


THREE = all_to_all(1.6, -0.48) * np.pad(np.ones((3, 3)), (0, 1))
FOUR = all_to_all(0.22, -0.175)


@pytest.mark.parametrize(("w", "b", "places"), [(THREE, 0.2, [0.3, 1.36]), (FOUR, 0.3, [0.17])])
def test_multipliers_that_symmetry_makes_equal_cross_1_where_the_closed_form_says(w, b, places):
    # With n units alike: g (d + (n-1)a) tanh x + b = x, and g (d - a) / cosh² x = 1 for n - 1 multipliers.
    n = np.count_nonzero(w[0])
    branch = trace(symmetric, jnp.asarray(np.full(4, b / 2)), 0.2, p_span=(0.2, 3.0), u=(w, np.full(4, b)))
    assert solved(branch)
    assert kinds(branch) == ["BP"] * len(places)
    for event, place in zip(branch.events, places, strict=True):

        def rest(x, d=w[0, 0], a=w[0, 1]):
            return (d + (n - 1) * a) / (d - a) * np.sinh(x) * np.cosh(x) + b - x

        x = scipy.optimize.brentq(rest, place - 0.1, place + 0.1, xtol=1e-15)
        # The equations' own rounding, over their slopes, which are of the order of 1/10.
        assert event.p == pytest.approx(np.cosh(x) ** 2 / (w[0, 0] - w[0, 1]), abs=100 * EPS)
        # Of the points beside it, whose equations are as singular as 1e-3.
        np.testing.assert_allclose(event.x[:n], x, rtol=0, atol=1e4 * EPS)


def test_where_branches_of_less_symmetry_meet_is_found_on_each_of_them():
    # At 0, g (d - a) = 1. Branches turn back there on which one more multiplier is 1 + O(x⁴). They are even in x, and
    # read off at points 0.015 apart: to 0.015⁶ in p, but for a factor of about 1/10, to rounding over 0.015⁴ in x.
    w = all_to_all(1.56654877, -1.8473248) * np.pad(np.ones((3, 3)), (0, 1))
    for start, p0 in (([-0.8, 0.4, 0.4, 0.0], 0.4), ([0.6, -0.3, -0.3, 0.0], 0.33), ([1.0, 1.0, -2.0, 0.0], 1.0)):
        branch = trace(symmetric, jnp.asarray(np.array(start)), p0, p_span=(0.2, 3.0), u=(w, np.zeros(4)))
        vertices = [event for event in branch.events if event.p < 0.3]
        assert [event.kind for event in vertices] == ["BP"]
        assert all(event.converged for event in vertices)
        assert vertices[0].p == pytest.approx(1 / (w[0, 0] - w[0, 1]), abs=1e-12)
        np.testing.assert_allclose(vertices[0].x, 0, atol=1e-7)


def test_a_start_away_from_the_branch_is_corrected_and_one_beyond_the_fold_is_moved():
    assert scalar(PARABOLA, 3.0, 2.0, (-1.0, 3.0)).start == "converged"
    moved = scalar(PARABOLA, 0.3, 0.0, (-1.0, 3.0))  # x² = p - 1 has no points at p = 0
    assert moved.start == "moved"
    assert kinds(moved) == ["LP"]
    assert moved.events[0].p == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(("u", "residual"), [(SHIFT, 1.0), (NOT_A_NUMBER, np.inf)])
def test_no_branch_is_said_to_be_none(u, residual):
    branch = scalar(u, 0.5, 0.0, (-1.0, 1.0))
    assert (branch.start, len(branch), branch.events) == ("none", 0, ())
    assert branch.start_residual == residual
    assert "none found" in repr(branch)


def test_a_fixed_point_beyond_the_span_is_none_and_its_residual_is_not_reported():
    (_, _), (b, _) = reference.DOYA_FOLDS[5.0]
    branch = scalar(doya(5.0), 0.05, 0.0, (b, 0.0))  # Newton's method fails at 0, and with p free finds p below b
    assert branch.start == "none"
    assert branch.start_residual > 0.1


def test_a_branch_that_is_cut_short_says_so():
    branch = scalar(doya(5.0), 0.01, -8.0, (-8.0, 1e6), max_step=1e-6)
    assert branch.ended == ("p_span", "max_points")
    assert len(branch) == 401


@pytest.mark.parametrize("max_angle", [0.05, 0.3, 1.0])
def test_no_step_turns_the_tangent_by_more_than_it_may(max_angle):
    # On x² + p² = 1, of weights 1 and 1/16: in (x, p/4) an ellipse, along (-p, x/4).
    branch = scalar(CIRCLE, 1.0, 0.0, (-2.0, 2.0), max_step=10.0, max_angle=max_angle)
    assert branch.ended == ("closed curve", "closed curve")
    turns = np.abs(np.diff(np.unwrap(np.arctan2(branch.x[:, 0] / 4, -branch.p))))
    assert max_angle / 4 < turns.max() <= max_angle * (1 + 1e-9)


def short(u, x0, p0, span, max_points, **options):
    return trace(scalar_family, jnp.array([x0]), p0, p_span=span, u=u, max_points=max_points, max_events=1, **options)


@pytest.mark.parametrize("max_points", [9, 10])
def test_a_branch_has_no_more_points_than_asked_half_of_them_on_each_side(max_points):
    branch = short(LINE, 2.0, 0.0, (-1.0, 1.0), max_points)
    assert (len(branch), branch.p[4], branch.ended) == (9, 0.0, ("max_points", "max_points"))
    branch = short(LINE, 2.0, -1.0, (-1.0, 1.0), max_points)
    assert (len(branch), branch.p[0], branch.ended) == (5, -1.0, ("p_span", "max_points"))


@pytest.mark.parametrize(("first_step", "num_folds"), [(0.1, 2), (0.01, 0)])
def test_more_special_points_than_asked_for_are_told_not_listed(first_step, num_folds):
    # From the middle of Doya's branch both folds are as far in every direction, by its symmetry.
    branch = short(doya(5.0), 0.5, -2.5, (-3.0, -2.0), 9, first_step=first_step, max_angle=1.0)
    ((high, _), (low, _)) = reference.DOYA_FOLDS[5.0]
    assert ((branch.x[[0, -1], 0] - 0.5) ** 2 > 1 / 20).tolist() == [num_folds == 2] * 2  # of folds 1/4 - 1/w
    assert branch.complete == (num_folds == 0)
    assert len(branch.events) == min(num_folds, 1)
    assert all(event.p == pytest.approx(low if branch.x[0] > 0.5 else high, abs=1e-14) for event in branch.events)


def test_as_many_special_points_as_asked_for_are_all():
    branch = short(HAIRPIN, 1.1, 0.01, (-1.0, 1.0), 9, first_step=0.1, max_angle=1.0)
    assert branch.x[:, 0].min() < 1 < branch.x[:, 0].max()
    assert kinds(branch) == ["LP"]
    assert branch.complete


def test_three_special_points_within_one_step_are_all_found():
    # Two units apart from each other, each in closed form: the first folds at p = -3.59500, the second flips at
    # -3.59571 and 3.59571. The branch passes the flip, turns at the fold and passes the flip again, going back.
    branch = planar(APART, [4.27 - 12, -10.0], -6.0, (-6.0, 6.0), max_step=0.5, max_angle=1.0)
    assert solved(branch)
    assert kinds(branch) == ["PD", "LP", "PD", "LP", "PD", "PD"]
    (low, _), (high, _) = reference.DOYA_FOLDS[8.0]
    sigma = (1 - (1 - 4 / 12) ** 0.5) / 2
    flip = (np.log(sigma / (1 - sigma)) + 12 * sigma - 6) / 2
    expected = [flip, (low - 4.25568) / 2, flip, (high - 4.25568) / 2, flip, -flip]
    np.testing.assert_allclose([event.p for event in branch.events], expected, rtol=1e-13)
    first = [np.hypot(*(event.x - branch.events[1].x)) for event in branch.events[:3]]
    assert max(first) < np.hypot(*np.diff(branch.x, axis=0).T).max()


WEIGHTS = [5.0, 8.0, 4.0]
WIDTHS = [0.0, -1.0, 1e-180, 1e120]


@pytest.fixture(scope="module")
def together():
    """Branches of three neurons, and of x' = x/2 + 1 over spans of all widths, at once: no span is known before."""
    lanes = [(doya(w), 0.01, -8.0, -8.0, 0.0) for w in WEIGHTS] + [(LINE, 1.0, 0.0, -w, w) for w in WIDTHS]
    lanes = jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
    return jax.tree.map(np.asarray, jax.vmap(lambda u, x0, p0, low, high: scalar(u, x0, p0, (low, high)))(*lanes))


def test_many_curves_at_once_are_the_curves_one_by_one(together):
    for lane, w in enumerate(WEIGHTS):
        alone = scalar(doya(w), 0.01, -8.0, (-8.0, 0.0))
        rows = ~np.isnan(together.p[lane])
        assert rows.sum() == len(alone)
        np.testing.assert_allclose(together.x[lane][rows], alone.x, rtol=0, atol=1e-12)
        found = together.events.kind[lane] >= 0
        np.testing.assert_allclose(together.events.p[lane][found], [e.p for e in alone.events], rtol=0, atol=1e-14)


def test_a_span_of_any_width_has_an_end_and_an_empty_one_no_branch(together):
    for lane, width in enumerate(WIDTHS, start=len(WEIGHTS)):
        rows = ~np.isnan(together.p[lane])
        if width > 0:
            assert (together.start[lane], *together.ended[lane]) == (0, arclength.P_SPAN, arclength.P_SPAN)
            assert together.p[lane][rows][[0, -1]].tolist() == [-width, width]
            np.testing.assert_array_equal(together.x[lane][rows], 2)
        else:  # where its ends are known this is misuse
            assert (together.start[lane], *together.ended[lane]) == (2, arclength.NO_START, arclength.NO_START)
            assert not rows.any()


def test_where_lengths_overflow_a_curve_ends():
    box, lengths = (-jnp.ones(2), jnp.ones(2)), (arclength.Steps(), 3, jnp.asarray(True))

    @jax.jit
    def ended(slope, weights):
        curve = arclength.follow_in_units(lambda y: slope * y[:1], jnp.zeros(2), weights, 1, *box, *lengths)
        return curve[0].ended

    assert ended(1.0, jnp.ones(2)).tolist() == [arclength.MAX_POINTS] * 2
    assert ended(1.0, jnp.array([1.0, jnp.inf])).tolist() == [arclength.TOO_SMALL] * 2  # of a span of no width
    assert ended(0.0, jnp.array([0.0, 1.0])).tolist() == [arclength.TOO_SMALL] * 2  # of a state too large


def test_every_special_point_of_a_random_network_solves_its_system_anew():
    n = 50
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(n, n)) * 1.6 / n**0.5, rng.normal(size=n)
    branch = trace(lambda b: lambda x, u: jnp.tanh(w @ x + b * v), jnp.zeros(n), 0.0, p_span=(-3.0, 3.0))
    assert solved(branch)
    assert branch.ended == ("p_span", "p_span")
    assert branch.complete
    assert {"LP", "PD", "NS"} <= set(kinds(branch))
    # The map is odd in (x, b), so special points come in mirror pairs: one missed on either side would show.
    places = np.array([event.p for event in branch.events])
    np.testing.assert_allclose(np.sort(places), np.sort(-places), rtol=0, atol=1e-11)
    for event in branch.events[: len(places) // 2]:
        _solve_anew(w, v, event)


def _solve_anew(w, v, event):
    """Moore-Spence's system, by SciPy from a perturbed start: real parts and imaginary parts of (J - μ) q = 0."""
    n = len(v)
    target = {"LP": 1.0, "PD": -1.0}.get(event.kind)
    if target is None:
        on_circle = event.multipliers[np.argmin(np.abs(np.abs(event.multipliers) - 1) + (event.multipliers.imag <= 0))]
    else:
        on_circle = target

    def jacobian(x):
        return (1 - x**2)[:, None] * w

    q0 = np.linalg.svd(jacobian(event.x) - on_circle * np.eye(n))[2][-1].conj()

    def system(z):
        x, p, q = z[:n], z[n], z[n + 1 : 2 * n + 1] + 1j * z[2 * n + 1 : 3 * n + 1]
        mu = on_circle if target is not None else np.exp(1j * z[-1])
        rest = (jacobian(np.tanh(w @ x + p * v)) - mu * np.eye(n)) @ q
        norm = q0.conj() @ q - 1
        last = [norm.real, norm.imag] if target is None else [norm.real]
        return np.concatenate([np.tanh(w @ x + p * v) - x, rest.real, rest.imag, last])

    z = np.concatenate([event.x, [event.p], q0.real, q0.imag, [np.angle(on_circle)] if target is None else []])
    rng = np.random.default_rng(1)
    anew = scipy.optimize.root(system, z + 1e-7 * rng.normal(size=len(z)), method="hybr", options={"xtol": 1e-14})
    assert np.abs(anew.fun).max() < 1e-11
    assert anew.x[n] == pytest.approx(float(event.p), abs=1e-9)
    np.testing.assert_allclose(anew.x[:n], event.x, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"p0": 5.0}, r"p_span must contain p0 = 5; got \(-1, 1\)"),
        ({"p_span": (1.0, -1.0)}, "p_span must"),
        ({"p_span": (0.0, 0.0)}, "p_span must be .least, largest., the first below"),
        ({"p_span": 3.0}, "p_span must be a pair"),
        ({"p_span": (0.0, np.nan)}, "p_span must be finite"),
        ({"x0": jnp.array([jnp.nan])}, "x0 must be finite"),
        ({"x0": jnp.zeros((2, 2))}, "x0 must be a float array"),
        ({"time": "both"}, "time must be one of"),
        ({"max_points": 2}, "max_points must be a whole number, at least 3"),
        ({"max_events": 0}, "max_events must be"),
        ({"max_step": -1.0}, "max_step must be positive"),
        ({"max_angle": 0.0}, "max_angle must be positive"),
    ],
)
def test_misuse_is_named(change, says):
    arguments = {"x0": jnp.array([0.5]), "p0": 0.0, "p_span": (-1.0, 1.0), **change}
    x0, p0 = arguments.pop("x0"), arguments.pop("p0")
    with pytest.raises(ValueError, match=says):
        trace(lambda p: lambda x, u: x * p, x0, p0, **arguments)


def test_a_family_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"family\(p0\) must map"):
        trace(lambda p: lambda x, u: jnp.zeros(3), jnp.array([0.5]), 0.0, p_span=(-1.0, 1.0))


def single(u, x0, p0, span):
    u = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf, u)
    return trace(scalar_family, jnp.array([x0], jnp.float32), p0, p_span=span, u=u, max_points=801)


def test_in_single_precision_the_folds_are_right_to_single_precision():
    branch = single(doya(5.0), 0.01, -4.0, (-4.0, -1.0))
    assert branch.x.dtype == np.float32
    assert kinds(branch) == ["LP", "LP"]
    for event, (b, _) in zip(branch.events, reference.DOYA_FOLDS[5.0], strict=True):
        assert event.converged
        assert event.p == pytest.approx(b, rel=10 * float(np.finfo(np.float32).eps))


@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4])  # x moves by 0.1 to 0.01, and is known to √eps = 3e-4 at the fold
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_in_single_precision_a_fold_is_followed_round_over_a_narrow_span(width, share):
    p0, eps = share * width, float(np.finfo(np.float32).eps)
    branch = single(HAIRPIN, 1 + p0**0.5, p0, (-width, width))
    assert branch.ended == ("p_span", "p_span")
    assert kinds(branch) == ["LP"]
    assert branch.events[0].converged
    assert abs(branch.events[0].p) <= 20 * eps
    for b, x in reference.DOYA_FOLDS[5.0]:
        branch = single(doya(5.0), x, b, (b - width, b + width))
        assert branch.ended == ("p_span", "p_span")
        assert kinds(branch) == ["LP"]
        assert branch.events[0].p == pytest.approx(b, abs=20 * eps)


def test_a_span_that_is_one_number_in_single_precision_is_refused():
    span = (-2.34 - 1e-8, -2.34 + 1e-8)
    with pytest.raises(ValueError, match=r"p_span must be .least, largest., .* in float32 too; got .-2\.34000001, "):
        single(doya(5.0), 0.9, -2.34, span)

    def in_double_precision(x):
        return trace(lambda p: lambda x, u: p * x + jnp.ones(1), x, -2.34, p_span=span).p

    assert jax.eval_shape(in_double_precision, jnp.ones(1, jnp.float32)).dtype == jnp.float64  # there it is two


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_bordered_systems_and_their_adjoints_are_solved_with_one_factorisation(size):
    generator = np.random.default_rng(size)
    matrix, right, left = (
        generator.standard_normal(shape) + 1j * generator.standard_normal(shape) for shape in ((size, size), size, size)
    )
    x, y, w = map(np.asarray, jax.jit(linear.solve_both)(matrix, [right, 2j * right], left))
    tol = 100 * size * EPS * np.linalg.cond(matrix)  # elimination with partial pivoting: Higham (2002), chapter 9
    np.testing.assert_allclose(matrix @ x, right, rtol=0, atol=tol * np.abs(right).max())
    np.testing.assert_allclose(y, 2j * x, rtol=0, atol=tol * np.abs(x).max())
    np.testing.assert_allclose(matrix.conj().T @ w, left, rtol=0, atol=tol * np.abs(left).max())
    solution, sign = map(np.asarray, jax.jit(linear.solve_with_sign)(matrix.real, right.real))
    np.testing.assert_allclose(matrix.real @ solution, right.real, rtol=0, atol=tol * np.abs(right).max())
    assert sign == np.linalg.slogdet(matrix.real)[0]
