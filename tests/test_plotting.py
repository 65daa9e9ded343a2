"""Drawing computes nothing, means the same everywhere, and complains in words."""

import math

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rnn_dynamics import bifurcation, plotting
from rnn_dynamics.bifurcation import Diagram
from rnn_dynamics.bounds import Bounds
from rnn_dynamics.continuation import Branch, Event
from rnn_dynamics.diagnosis import Report
from rnn_dynamics.models.reference import Logistic


@pytest.fixture
def ax():
    with plotting.style():
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def look(line):
    """What tells an artist from its neighbours."""
    return line.get_label(), line.get_color(), line.get_marker(), line.get_linestyle()


def bars(ax):
    """Of each set of error bars, their lower and their upper ends."""
    return [np.stack(container.lines[2][0].get_segments())[:, :, 1].T.tolist() for container in ax.containers]


def test_stable_pieces_are_solid_and_unstable_ones_dashed_without_a_gap(ax):
    x = np.linspace(0, 1, 11)
    stable = x < 0.45
    plotting.draw_branch(ax, x, x, stable)
    solid, dashed = ax.lines
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert (solid.get_color(), dashed.get_color()) == (plotting.COLOURS["stable"], plotting.COLOURS["unstable"])
    drawn = [np.isfinite(line.get_ydata()) for line in (solid, dashed)]
    assert (drawn[0] | drawn[1]).all()
    assert (drawn[0] & drawn[1]).sum() == 1  # they meet in one point


def test_a_path_shows_where_it_starts_and_ends(ax):
    line, start, end = plotting.draw_path(
        ax, np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 5.0]), kind="clipped", label="gone"
    )
    assert line.get_xydata().tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert start.get_xydata().tolist() == [[0.0, 3.0]]
    assert end.get_xydata().tolist() == [[2.0, 5.0]]
    assert look(line) == ("gone", plotting.COLOURS["clipped"], ".", "-")
    assert [mark.get_marker() for mark in (start, end)] == ["o", "*"]
    assert {mark.get_color() for mark in (start, end)} == {plotting.COLOURS["clipped"]}
    assert start.get_markerfacecolor() == "white"
    line = plotting.draw_path(ax, np.zeros(2), np.ones(2), kind="plain")[0]
    assert look(line)[1:] == (plotting.COLOURS["plain"], ".", "--")


def test_a_map_has_its_first_axis_across_and_is_white_at_zero_if_centred(ax):
    values = np.array([[-1, 0], [0, 5], [2, 2.0]])
    mesh = plotting.draw_loss_map(ax, np.arange(3.0), np.arange(2.0), values, halfrange=10.0)
    assert mesh.get_array().tolist() == [[-1, 0, 2], [0, 5, 2]]  # by rows, from below
    assert [float(mesh.norm(value)) for value in (-10.0, 0.0, 10.0)] == [0, 0.5, 1]
    low, _, high = mesh.cmap([0.0, 0.5, 1.0])
    assert low[2] > low[0]
    assert high[0] > high[2]  # blue below, red above
    spanned = plotting.draw_loss_map(ax, np.arange(3.0), np.arange(2.0), values, span=(0.0, None))
    assert [float(spanned.norm(value)) for value in (0.0, 5.0)] == [0, 1]


def test_arrows_show_the_sign_of_the_change_at_its_place(ax):
    plotting.draw_flow(ax, np.array([0.0, 1.0]), np.array([3.0, 4.0]), np.array([[-7.0, 2.0], [0.1, 0.0]]))
    arrows = ax.collections[0]
    np.testing.assert_array_equal(arrows.get_offsets(), [[0, 3], [0, 4], [1, 3], [1, 4]])
    assert arrows.V.tolist() == [-1.0, 1.0, 1.0, 0.0]
    assert not arrows.U.any()


def test_a_basin_has_the_shade_of_its_attractor_and_none_is_white(ax):
    plotting.draw_basins(ax, np.arange(2.0), np.arange(2.0), np.array([[-1, 0], [1, 2]]))
    mesh = ax.collections[0]
    assert mesh.get_array().tolist() == [[-1, 1], [0, 2]]
    shades = mesh.to_rgba(np.array([-1, 0, 1, 2]))
    assert shades[0].tolist() == [1, 1, 1, 1]
    assert len(np.unique(shades, axis=0)) == 4


@pytest.mark.parametrize(("kind", "marker"), [("up", "^"), ("down", "v"), ("stable", ".")])
def test_every_state_kept_is_a_dot_at_its_parameter(ax, kind, marker):
    plotting.draw_orbits(ax, np.array([1.0, 2.0]), np.array([[3.0, 4.0], [5.0, 6.0]]), kind=kind, label="kept")
    (dots,) = ax.lines
    assert dots.get_xydata().tolist() == [[1, 3], [1, 4], [2, 5], [2, 6]]
    assert look(dots) == ("kept", plotting.COLOURS[kind], marker, "None")


def test_dust_is_pale_and_its_legend_is_not(ax):
    plotting.draw_orbits(ax, np.array([1.0]), np.array([[3.0, 4.0]]), kind="flow", label="chaos")
    dust, key = ax.lines
    assert (dust.get_marker(), dust.get_color(), dust.get_alpha()) == (",", plotting.COLOURS["flow"], 0.35)
    assert ax.get_legend_handles_labels() == ([key], ["chaos"])
    assert (key.get_color(), len(key.get_xdata())) == (plotting.COLOURS["flow"], 0)


KINDS = {
    "LP": ("fold", "fold", "o"),
    "PD": ("flip", "flip", "s"),
    "NS": ("Neimark-Sacker", "Neimark-Sacker", "D"),
    "H": ("Hopf", "Hopf", "D"),
    "BP": ("branch point", "branch point", "P"),
    "BC": ("border collision", "border collision", "X"),
    "CP": ("cusp", "fold", "*"),  # where two folds meet
    "GPD": ("degenerate flip", "fold", "*"),
}


def test_special_points_have_the_name_colour_and_marker_of_their_kind(ax):
    places = np.arange(9.0)
    plotting.draw_events(ax, [*KINDS, "LP"], places, places + 10)
    assert [look(line) for line in ax.lines] == [
        (name, plotting.COLOURS[colour], marker, "None") for name, colour, marker in KINDS.values()
    ]
    for line, where in zip(ax.lines, [[0, 8], *[[i] for i in range(1, 8)]], strict=True):
        assert line.get_xydata().tolist() == [[i, i + 10] for i in where]


def test_a_fold_is_marked_and_its_bias_named(ax):
    plotting.draw_folds(ax, np.array([[-2.3, 0.3], [-2.7, 0.7]]))
    dots, *uprights = ax.lines
    assert dots.get_xydata().tolist() == [[-2.3, 0.3], [-2.7, 0.7]]
    assert (dots.get_color(), dots.get_marker()) == (plotting.COLOURS["fold"], "o")
    assert [line.get_xdata() for line in uprights] == [[-2.3, -2.3], [-2.7, -2.7]]
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("$b_1$", (-2.3, 1)), ("$b_2$", (-2.7, 1))]
    plotting.draw_folds(ax, np.array([[-2.3, 0.3]]), names=False)
    assert len(ax.texts) == 2


@pytest.mark.parametrize(("kind", "line"), [("fold", "-"), ("flip", "--"), ("Neimark-Sacker", "-."), ("Hopf", "-.")])
def test_a_curve_has_the_colour_of_its_points_and_a_line_of_its_own(ax, kind, line):
    plotting.draw_curve(ax, np.array([1.0, 2.0]), np.array([3.0, 4.0]), kind=kind)
    (curve,) = ax.lines
    assert curve.get_xydata().tolist() == [[1, 3], [2, 4]]
    assert look(curve) == (kind, plotting.COLOURS[kind], "None", line)


def test_growth_is_drawn_in_decades_the_largest_above_a_band_of_the_rest(ax):
    decades = np.array([[1.0, 0.0, -1.0], [3.0, 1.0, -4.0]])
    plotting.draw_growth(ax, np.array([1, 2]), decades * math.log(10))
    *rest, largest = ax.lines
    for line, column in zip((largest, *rest), decades.T, strict=True):
        np.testing.assert_allclose(line.get_ydata(), column, rtol=0, atol=1e-14)
    assert [line.get_label()[:9] for line in (largest, rest[0])] == [r"$\sigma_1", r"$\sigma_2"]
    assert largest.get_linewidth() > 2 * rest[0].get_linewidth()
    lag, height = ax.collections[0].get_paths()[0].vertices.T
    for number, (highest, _, lowest) in enumerate(decades, start=1):
        edge = height[lag == number]
        np.testing.assert_allclose([edge.min(), edge.max()], [lowest, highest], rtol=0, atol=1e-14)
    assert {line.get_color() for line in ax.lines} == {plotting.COLOURS["first"]}


def test_a_bound_is_a_straight_line_in_decades_even_if_it_is_zero(ax):
    plotting.draw_bounds(ax, np.array([1, 10]), [0.1, 1.0, 10.0, 0.0])
    heights = [line.get_ydata().tolist() for line in ax.lines]
    assert heights[:3] == [[-1, -10], [0, 0], [1, 10]]
    assert np.isfinite(heights[3]).all()
    bound = plotting.COLOURS["bound"]
    assert [(line.get_linestyle(), line.get_color()) for line in ax.lines] == [
        ("-", bound), ("-.", bound), ("--", bound), (":", "black")
    ]  # fmt: skip
    assert [line.get_label() for line in ax.lines] == [
        r"$\gamma\Vert W\Vert_2$",
        r"$\gamma\rho(|W|)$",
        r"$\gamma\min_D\Vert DWD^{-1}\Vert_2$",
        r"$\gamma\rho(W)$: no bound",
    ]


def report(rate, saturated=None, bounds=None, exponent=0.0):
    log_norms = jnp.asarray(np.arange(11.0) * -rate + 2.0)
    sentence = "vanishing: " + "for a long reason " * 20
    return Report(log_norms, rate, exponent, 0.1, saturated, bounds, "vanishing", sentence)


def test_a_report_shows_the_gradient_against_the_lag_and_each_units_saturation():
    certified = Bounds(*jnp.array([0.25, 8.0, 0.8, 7.0, 4.0]), jnp.ones(3), jnp.array(0.1))  # the rate: a decade a step
    with plotting.style():
        figure = plt.figure()
        plotting.draw_report(figure, report(-math.log(10) / 2, jnp.array([0.1, 0.9, 0.5]), certified, 2 * math.log(10)))
        gradient, saturation = figure.axes
        for line, decades, colour, stroke, label in zip(
            gradient.lines,
            (-0.5, 2.0, -1.0),
            ("first", "second", "bound"),
            ("-", "--", "-."),
            (r"$\Vert\partial E/\partial x_{T-k}\Vert$", r"$e^{\lambda_1 k}$", "certified bound"),
            strict=True,
        ):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(11))
            np.testing.assert_allclose(line.get_ydata(), decades * np.arange(11.0), rtol=0, atol=1e-14)
            assert look(line) == (label, plotting.COLOURS[colour], "None", stroke)
        low, high = gradient.get_ylim()  # the gradient's own -5 ... 0, with room
        assert -8 < low < -5
        assert 0 < high < 3
        np.testing.assert_allclose([bar.get_height() for bar in saturation.patches], [0.9, 0.5, 0.1])
        np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in saturation.patches], [0, 1, 2])
        assert figure.get_suptitle().startswith("vanishing: for a long reason for")
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


def test_of_a_diagram_the_component_asked_for_is_drawn(ax):
    p, x = np.array([0.0, 1.0]), np.array([[1.0, 10.0], [2.0, 20.0]])
    event = Event("PD", 0.5, np.array([1.5, 15.0]), np.array([-1.0, 0.5j]), 0.0, True)
    branch = Branch(
        p, x, np.zeros((2, 2), complex), np.array([True, False]), np.zeros(2), (event,), ("p_span", "p_span"),
        "converged", 0.0, True,
    )  # fmt: skip
    for number, shown in enumerate(([1, 2, 1.5], [10, 20, 15])):
        plotting.draw_diagram(ax, branch, component=number)
        solid, dashed, flip = ax.lines[-3:]
        assert solid.get_ydata().tolist() == shown[:2]  # as far as the unstable point
        assert dashed.get_ydata()[1] == shown[1]
        assert flip.get_xydata().tolist() == [[0.5, shown[2]]]
    # Of a cycle every phase, and one legend for all branches.
    cycle = np.stack([x, -x], axis=1)
    both = Diagram((branch, branch), (2, 1), (cycle, x[:, None]), (event,), np.zeros(1), np.ones(1, bool))
    before = len(ax.lines)
    plotting.draw_diagram(ax, both, component=1)
    lines = ax.lines[before:]
    assert [line.get_ydata()[-1] for line in lines] == [20, -20, 20, -20, 20, 20, 15]
    labels = [line.get_label() for line in lines if not line.get_label().startswith("_")]
    assert labels == ["stable fixed point or cycle", "unstable fixed point or cycle", "flip"]


SERIES = (("first", "o"), ("second", "s"), ("third", "^"))


def test_a_scatter_of_each_kind_has_its_own_colour_and_marker(ax):
    # Three samples: at 0 their mean is 2 and their standard deviation √(2/3); at 1, 7 and none.
    for kind, _ in SERIES:
        plotting.draw_scatter(ax, np.arange(2.0), np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]]), kind=kind, label=kind)
    assert [look(line)[1:] for line in ax.lines] == [(plotting.COLOURS[k], mark, "None") for k, mark in SERIES]
    assert [container.get_label() for container in ax.containers] == ["first", "second", "third"]
    assert ax.lines[0].get_xydata().tolist() == [[0, 2], [1, 7]]
    deviation = math.sqrt(2 / 3)
    np.testing.assert_allclose(bars(ax), [[[2 - deviation, 7], [2 + deviation, 7]]] * 3, rtol=1e-15)
    assert {tuple(container.lines[2][0].get_color()[0]) for container in ax.containers} == {
        mpl.colors.to_rgba(plotting.COLOURS[kind]) for kind, _ in SERIES
    }


def test_a_spectrum_lies_over_the_middles_of_as_many_parts_of_1_with_its_errors(ax):
    exponents, errors = np.array([0.5, 0.0, -1.0, -2.0]), np.array([0.25, 0.125, 0.5, 1.0])
    for kind, _ in SERIES:
        plotting.draw_spectrum(ax, exponents, errors, kind=kind, label=kind)
    assert [look(line)[1:] for line in ax.lines] == [(plotting.COLOURS[k], mark, "None") for k, mark in SERIES]
    assert [container.get_label() for container in ax.containers] == ["first", "second", "third"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata().T, [[0.125, 0.375, 0.625, 0.875], exponents])
    assert bars(ax) == [[(exponents - errors).tolist(), (exponents + errors).tolist()]] * 3


def test_panels_have_letters_before_their_titles_and_a_key_stands_below():
    figure, axes = plt.subplots(1, 2)
    axes[1].set_title("right", loc="left")
    plotting.label_panels(axes)
    assert [panel.get_title(loc="left").split() for panel in axes] == [["a"], ["b", "right"]]
    axes[0].plot([0, 1], label="one")
    axes[0].plot([1, 0], label="other")
    plotting.key_below(axes[0], columns=2, drop=0.5)
    figure.canvas.draw()
    key = axes[0].get_legend()
    assert [text.get_text() for text in key.get_texts()] == ["one", "other"]
    assert key.get_window_extent().y1 < axes[0].get_window_extent().y0
    assert len({text.get_window_extent().y0 for text in key.get_texts()}) == 1  # side by side
    plt.close(figure)


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
