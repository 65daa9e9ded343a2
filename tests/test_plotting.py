"""Drawing computes nothing, means the same everywhere, and complains in words."""

import math

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rnn_dynamics import bifurcation, plotting
from rnn_dynamics.diagnosis import Report
from rnn_dynamics.models.reference import Logistic


@pytest.fixture
def ax():
    with plotting.style():
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def test_stable_pieces_are_solid_and_unstable_ones_dashed_without_a_gap(ax):
    x = np.linspace(0, 1, 11)
    stable = x < 0.45
    plotting.draw_branch(ax, x, x, stable)
    solid, dashed = ax.lines
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert solid.get_color() != dashed.get_color()
    drawn = [np.isfinite(line.get_ydata()) for line in (solid, dashed)]
    assert (drawn[0] | drawn[1]).all()
    assert (drawn[0] & drawn[1]).sum() == 1  # they meet in one point


def test_a_path_shows_where_it_starts_and_ends(ax):
    line, start, end = plotting.draw_path(ax, np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 5.0]), kind="clipped")
    assert start.get_xydata().tolist() == [[0.0, 3.0]]
    assert end.get_xydata().tolist() == [[2.0, 5.0]]
    assert line.get_color() == plotting.COLOURS["clipped"]


def test_a_centred_map_is_white_at_zero(ax):
    mesh = plotting.draw_loss_map(
        ax, np.arange(3.0), np.arange(2.0), np.array([[-1, 0], [0, 5], [2, 2.0]]), halfrange=5.0
    )
    assert mesh.norm(0.0) == 0.5


def test_arrows_show_the_sign_of_the_change(ax):
    plotting.draw_flow(ax, np.array([0.0, 1.0]), np.array([0.0]), np.array([[-7.0], [0.1]]))
    assert ax.collections[0].V.tolist() == [-1.0, 1.0]


def test_a_bound_is_a_straight_line_in_decades_even_if_it_is_zero(ax):
    plotting.draw_bounds(ax, np.array([1, 10]), [0.1, 1.0, 10.0, 0.0])
    heights = [line.get_ydata().tolist() for line in ax.lines]
    assert heights[:3] == [[-1, -10], [0, 0], [1, 10]]
    assert np.isfinite(heights[3]).all()


def report(rate, saturated=None):
    log_norms = jnp.asarray(np.arange(11.0) * -rate + 2.0)
    return Report(log_norms, rate, rate, 0.1, saturated, None, "vanishing", "vanishing: " + "for a long reason " * 20)


def test_a_report_shows_the_gradient_against_the_lag_and_each_units_saturation():
    with plotting.style():
        figure = plt.figure()
        plotting.draw_report(figure, report(-math.log(10), jnp.array([0.1, 0.9, 0.5])))
        gradient, saturation = figure.axes
        curve, slope = gradient.lines
        np.testing.assert_allclose(curve.get_ydata(), -np.arange(11.0), rtol=0, atol=1e-14)  # a decade a step
        np.testing.assert_allclose(slope.get_ydata(), curve.get_ydata(), rtol=0, atol=1e-14)
        np.testing.assert_allclose([bar.get_height() for bar in saturation.patches], [0.9, 0.5, 0.1])
        plt.close(figure)


def test_a_report_of_a_vanished_or_diverged_gradient_can_be_drawn():
    with plotting.style():
        for log_norms in (jnp.full(4, jnp.nan), jnp.array([-jnp.inf, -jnp.inf, 0.0])):
            figure = plt.figure()
            plotting.draw_report(figure, Report(log_norms, math.nan, -1.0, 0.1, None, None, "diverged", "diverged"))
            figure.canvas.draw()
            assert len(figure.axes) == 1
            plt.close(figure)


def test_every_colour_has_one_meaning_and_no_two_look_alike():
    codes = list(plotting.COLOURS.values())
    rgb = np.array([mpl.colors.to_rgb(code) for code in codes])
    gaps = np.linalg.norm(rgb[:, None] - rgb, axis=-1)[np.triu_indices(len(codes), 1)]
    assert gaps.min() > 0.2  # of √3 from black to white


def test_a_diagram_is_drawn_with_its_cycles_and_special_points(ax):
    found = bifurcation.diagram(Logistic, (2.5, 3.4), jnp.array([[0.6]]), num_doublings=1, num_values=3)
    plotting.draw_diagram(ax, found)
    lines = {line.get_label() for line in ax.lines}
    assert {"stable fixed point or cycle", "unstable fixed point or cycle", "flip"} <= lines
    flip = next(line for line in ax.lines if line.get_label() == "flip")
    # r = 3, x = 2/3 in closed form, where the cycle of two points begins
    assert any(np.allclose(point, (3, 2 / 3), rtol=0, atol=1e-9) for point in flip.get_xydata())
    drawn = sum(orbit.shape[1] for orbit in found.orbits)
    assert len(ax.lines) == 2 * drawn + len({event.kind for event in found.events})


def test_a_scatter_of_each_kind_has_its_own_colour_and_marker(ax):
    for kind in ("first", "second", "third"):
        plotting.draw_scatter(ax, np.arange(2.0), np.ones((3, 2)), kind=kind)
    assert [line.get_color() for line in ax.lines] == [plotting.COLOURS[k] for k in ("first", "second", "third")]
    assert len({line.get_marker() for line in ax.lines}) == 3


def test_the_style_ends_with_its_block():
    before = mpl.rcParams["axes.labelsize"]
    with plotting.style():
        assert mpl.rcParams["axes.spines.top"] is False
    assert mpl.rcParams["axes.labelsize"] == before


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ax: plotting.draw_branch(ax, np.ones(2), np.ones(3), np.ones(3)), r"\(2,\), \(3,\)"),
        (lambda ax: plotting.draw_orbits(ax, np.ones(1), np.ones((1, 1)), kind="left"), "kind.*'left'"),
        (lambda ax: plotting.draw_path(ax, np.ones(1), np.ones(1), kind="fast"), "kind.*'fast'"),
        (lambda ax: plotting.draw_curve(ax, np.ones(1), np.ones(1), kind="LP"), "kind.*'LP'"),
        (lambda ax: plotting.draw_scatter(ax, np.ones(1), np.ones((1, 1)), kind="^"), "kind.*'\\^'"),
        (lambda ax: plotting.draw_spectrum(ax, np.ones(1), kind="fourth"), "kind.*'fourth'"),
        (lambda ax: plotting.draw_events(ax, ["XX"], [0.0], [0.0]), "kind.*'XX'"),
    ],
)
def test_misuse_is_named(ax, call, message):
    with pytest.raises(ValueError, match=message):
        call(ax)
