"""Every figure stands by its numbers: the committed arrays bear out what the figure claims, and the scripts run."""

import hashlib
import importlib
import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from scipy.special import expit

from rnn_dynamics import files

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("fig_*.py"))


@pytest.fixture(scope="module", autouse=True)
def _scripts_importable():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


def arrays(name: str) -> dict[str, np.ndarray]:
    return files.load(FIGURES / name).arrays


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_committed_figure_was_made_by_the_committed_script(name):
    stem = name.removeprefix("fig_")
    record = json.loads((FIGURES / f"{stem}.json").read_text())
    assert record["source"]["sha256"] == hashlib.sha256((ROOT / "scripts" / f"{name}.py").read_bytes()).hexdigest()
    assert record["settings"] == json.loads(json.dumps(importlib.import_module(name).FULL))
    assert all((FIGURES / f"{stem}.{kind}").stat().st_size > 5_000 for kind in ("png", "pdf"))


def test_the_quick_version_writes_all_four_files_and_from_the_same_arrays_the_same_bytes(tmp_path, monkeypatch):
    # CI draws all of them twice, and compares
    name = "fig_bengio_latching"
    figure, script = importlib.import_module("_figure"), importlib.import_module(name)
    stem = figure.stem(script)
    figure.make(script, tmp_path / "once", quick=True)
    computed = files.load(tmp_path / "once" / stem).arrays
    monkeypatch.setattr(script, "compute", lambda **settings: computed)
    figure.make(script, tmp_path / "again", quick=True)
    written = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert written == [f"{stem}.{kind}" for kind in ("json", "npz", "pdf", "png")]
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert not mpl.pyplot.get_fignums()


def test_the_gallery_shows_every_figure_and_every_claim_has_a_test_here():
    gallery = (FIGURES / "README.md").read_text()
    for name in SCRIPTS:
        assert f"{name.removeprefix('fig_')}.png" in gallery
        assert f"arrays({name.removeprefix('fig_')!r})".replace("'", '"') in Path(__file__).read_text()
    shown = set(re.findall(r"\((\w+)\.png\)", gallery))
    assert shown == {path.stem for path in FIGURES.glob("*.png")} == {name.removeprefix("fig_") for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_panels_have_letters_and_colours_come_from_the_common_table(name):
    source = (ROOT / "scripts" / f"{name}.py").read_text()
    assert "plotting.label_panels(" in source
    assert not re.search(r"#[0-9A-Fa-f]{6}", source)


# fig_pascanu_bifurcation. Folds: x = (1 ± √(1-4/w))/2, b = ln(x/(1-x)) - w x, to 50 digits with mpmath.
B1, B2 = -2.344389661369312, -2.655610338630688


def test_pascanu_bifurcation_the_folds_are_at_b1_and_b2():
    folds = arrays("pascanu_bifurcation")["folds"]
    np.testing.assert_allclose(folds[:, 0], [B1, B2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(folds[:, 1], [0.276393202250021, 0.723606797749979], rtol=0, atol=1e-12)


def test_pascanu_bifurcation_there_are_one_three_and_one_fixed_points():
    data = arrays("pascanu_bifurcation")
    np.testing.assert_array_equal(data["counts"], np.where((data["biases"] > B2) & (data["biases"] < B1), 3, 1))


def test_pascanu_bifurcation_every_point_drawn_is_a_fixed_point_and_dashed_where_unstable():
    data = arrays("pascanu_bifurcation")
    x, b = data["branch_x"], data["branch_b"]
    np.testing.assert_allclose(expit(5 * x + b), x, rtol=0, atol=1e-14)  # a few roundings of numbers below 3
    np.testing.assert_array_equal(data["branch_stable"], 5 * x * (1 - x) < 1)


def test_pascanu_bifurcation_the_sweeps_jump_at_the_folds_and_enclose_a_loop():
    data = arrays("pascanu_bifurcation")
    b, up, down = data["biases"], data["sweep_up"], data["sweep_down"]
    for states, fold in ((up, B1), (down, B2)):
        jump = np.abs(np.diff(states)).argmax()
        assert abs(states[jump + 1] - states[jump]) > 0.4
        # beside the fold 2,000 steps may be too few to leave the ghost: π/√(0.2·1.118|δb|) steps, δb < 1.2e-5
        assert b[jump] - 1.2e-5 <= fold <= b[jump + 1] + 1.2e-5
    inside = (b > B2 + 0.01) & (b < B1 - 0.01)
    assert (down[inside] - up[inside] > 0.4).all()
    # off the folds by more than the grid, both have settled on the same point: multipliers below 0.9, 2,000 steps
    outside = (b < B2 - 0.01) | (b > B1 + 0.01)
    np.testing.assert_allclose(up[outside], down[outside], rtol=0, atol=1e-14)


def test_pascanu_bifurcation_arrows_point_towards_stable_and_away_from_unstable_points():
    data = arrays("pascanu_bifurcation")
    b, x = np.meshgrid(data["flow_b"], data["flow_x"], indexing="ij")
    np.testing.assert_allclose(data["flow"], expit(5 * x + b) - x, rtol=0, atol=1e-15)


# fig_doya_time


def test_doya_time_orbits_settle_on_their_side_of_the_boundary():
    data = arrays("doya_time")
    low, boundary, high = data["equilibria"]
    assert boundary == pytest.approx(0.5, abs=1e-14)
    # papers: x = 0.144794108256064814 and 0.855205891743935186 at w = 5, b = -2.5
    np.testing.assert_allclose([low, high], [0.144794108256064814, 0.855205891743935186], rtol=0, atol=1e-14)
    end = data["flow"][:, -1]
    np.testing.assert_array_equal(end > 0.5, data["starts"] > 0.5)
    # the start nearest the boundary leaves it as e^{t/4}; the others have long arrived, up to e^{-0.38 t}
    settled = np.abs(data["starts"] - 0.5) > 0.1
    np.testing.assert_allclose(end[settled], np.where(data["starts"] > 0.5, high, low)[settled], rtol=0, atol=5e-3)


def test_doya_time_the_map_converges_to_the_ode_with_order_one():
    data = arrays("doya_time")
    orders = np.log2(data["errors"][:-1] / data["errors"][1:])
    np.testing.assert_allclose(orders, 1, atol=0.05)  # the next term is O(ε), itself halved each time:
    assert abs(orders[-1] - 1) < 0.002


# fig_wikipedia_sensitivity


def test_wikipedia_sensitivity_the_settled_gradient_is_the_closed_form():
    data = arrays("wikipedia_sensitivity")
    for name in ("low", "high"):
        slope, formula = data[f"{name}_slope"], data[f"{name}_formula"]
        known = np.isfinite(formula)
        assert known.mean() > 0.9
        # a state off its fixed point by δ < 1e-13/(1-μ) has a slope off by T |f''| slope δ/(1-μ), and 1/(1-μ) is
        # slope/(x(1-x)) < 10 slope: less than 1000 · 1.2 · 100 · 1e-13 · slope³
        np.testing.assert_allclose(slope[known], formula[known], rtol=0, atol=1e-8 * formula[known].max() ** 3)
    middle = np.argmin(np.abs(data["biases"] + 2.5))
    # papers: dx/db = .325132682609312433 at b = -2.5, on both outer branches
    assert data["low_slope"][middle] == pytest.approx(0.325132682609312433, abs=1e-12)
    assert data["high_slope"][middle] == pytest.approx(0.325132682609312433, abs=1e-12)


def test_wikipedia_sensitivity_explodes_at_the_boundary_and_vanishes_away_from_it():
    data = arrays("wikipedia_sensitivity")
    b, x = np.argmin(np.abs(data["biases"] + 2.5)), np.argmin(np.abs(data["states"] - 0.5))
    # papers: at b = -2.5, x = 1/2 exactly: (1 + ε/4)^200 and that less 1
    assert data["to_state"][b, x] == pytest.approx(139.56389402335403, rel=1e-12)
    assert data["to_bias"][b, x] == pytest.approx(138.56389402335403, rel=1e-12)
    assert np.abs(data["to_state"][[0, -1]]).max() < 1e-2
    assert np.median(np.abs(data["to_state"])) < 1e-3
    assert np.abs(data["to_bias"]).min() > 0.01  # the bias is never forgotten


# fig_wikipedia_wall


def test_wikipedia_wall_the_loss_jumps_where_the_basin_changes():
    data = arrays("wikipedia_wall")
    b, loss = data["biases"], data["loss_1000"]
    # papers, ε = 0.1, T = 1000, x_0 = 0.5
    for bias, value in ((-2.0, 0.0065231081703553), (-2.4, 0.00071139936046661), (-2.5, 0.126025),
                        (-2.501, 0.504853209006045), (-2.6, 0.542685739888651), (-3.0, 0.625310488970095)):  # fmt: skip
        assert loss[np.argmin(np.abs(b - bias))] == pytest.approx(value, abs=1e-9 if bias != -2.5 else 1e-6)
    assert loss[b > -2.5].max() < 0.01
    assert loss[b < -2.5 - 1e-9].min() > 0.5


def test_wikipedia_wall_clipping_keeps_the_descent_that_is_thrown_off_without():
    data = arrays("wikipedia_wall")
    assert data["plain_norm"].max() > 2
    assert data["plain_b"].max() > -1
    assert np.abs(np.diff(data["clipped_b"])).max() <= 0.1 + 1e-12  # rate × max_norm
    assert data["clipped_loss"][-1] < 1e-6 < 1e-2 < data["plain_loss"][-1]


# fig_pascanu_divergence


def test_pascanu_divergence_two_close_states_end_at_different_attractors():
    data = arrays("pascanu_divergence")
    gap = data["above"] - data["below"]
    assert gap[0] == pytest.approx(1e-3, rel=1e-9)
    assert data["below"][-1] < -1 < 1 < data["above"][-1]


def test_pascanu_divergence_the_product_of_jacobians_foretells_the_distance_while_it_is_small():
    data = arrays("pascanu_divergence")
    gap = data["above"] - data["below"]
    predicted = gap[0] * np.exp(data["log_product"])
    small = np.flatnonzero(gap[1:] < 0.03)
    assert len(small) > 10
    # second order: relative error at most Σ |f''|/(2|f'|) gap over steps that grow geometrically by 1.25: < 5 gap
    np.testing.assert_allclose(predicted[small], gap[1:][small], rtol=5 * 0.03)


def test_pascanu_divergence_every_step_is_the_autonomous_map_and_then_the_input():
    data = arrays("pascanu_divergence")
    for name in ("below", "above"):
        image = 5 * expit(data[name][:-1]) - 2.5
        np.testing.assert_allclose(data[f"{name}_image"], image, rtol=0, atol=1e-14)
        np.testing.assert_allclose(data[name][1:], image + data["inputs"], rtol=0, atol=1e-14)
        near = np.abs(data[name][:-1]) < 1.7  # between the two attractors F̃ moves away from 0
        assert (np.abs(image[near]) > np.abs(data[name][:-1][near])).all()


def test_pascanu_error_surface_has_the_published_kind_of_values():
    data = arrays("pascanu_error_surface")
    # mpmath, 50 digits: (w, b): E, dE/dw, dE/db
    table = {
        (4, -2): (0.016736632938222792, -1.044529405, -1.787904154),
        (5, -2): (0.055585494119594193, 0.0379183435, 0.04052119139),
        (5, -2.5): (0.024088868813358221, 0.08631166948, 0.1009250176),
        (6, -3): (0.052569235088877511, 0.0462363954, 0.04975508398),
        (4, -3): (0.41038460627359065, -0.005473307268, -0.09216289443),
        (6, -3.5): (0.44068753737774986, None, None),
    }  # fmt: skip
    script = importlib.import_module("fig_pascanu_error_surface")
    for (w, b), (value, *slopes) in table.items():
        assert float(script.error(np.array([w, b], dtype=float))) == pytest.approx(value, abs=1e-10)
        i, j = np.argmin(np.abs(data["weights"] - w)), np.argmin(np.abs(data["biases"] - b))
        if np.isclose(data["weights"][i], w, atol=1e-12) and np.isclose(data["biases"][j], b, atol=1e-12):
            assert data["surface"][i, j] == pytest.approx(value, abs=1e-10)
            if slopes[0] is not None:
                np.testing.assert_allclose(data["gradient"][i, j], slopes, rtol=2e-9)


def test_pascanu_error_surface_has_its_wall_where_the_start_is_an_unstable_fixed_point():
    data = arrays("pascanu_error_surface")
    np.testing.assert_allclose(data["wall"], 0.5 - 0.62245933120185456464 * data["weights"], rtol=0, atol=1e-14)
    for w in (5.0, 6.0):
        row = data["surface"][np.argmin(np.abs(data["weights"] - w))]
        wall = 0.5 - expit(0.5) * w
        cell = data["biases"][1] - data["biases"][0]
        steepest = np.abs(np.diff(row)).argmax()
        assert data["biases"][steepest] - cell <= wall <= data["biases"][steepest + 1] + cell
        assert abs(np.diff(row)[steepest]) > 0.2


def test_pascanu_error_surface_descent_is_thrown_off_and_the_rescaled_one_follows_the_wall():
    data = arrays("pascanu_error_surface")
    for number in (0, 1):
        plain, clipped = data[f"plain_{number}"], data[f"clipped_{number}"]
        assert np.linalg.norm(np.diff(plain, axis=0), axis=1).max() > 0.5
        assert np.linalg.norm(np.diff(clipped, axis=0), axis=1).max() <= 0.1 * 0.5 + 1e-12  # rate × max_norm
        assert data[f"clipped_{number}_error"].min() < 0.02
    script = importlib.import_module("fig_pascanu_error_surface")
    for number, inside in ((0, False), (1, True)):
        w, b = data[f"plain_{number}"].T
        (low_w, high_w), (low_b, high_b) = script.W_SPAN, script.B_SPAN
        assert ((w > low_w) & (w < high_w) & (b > low_b) & (b < high_b)).all() == inside


# fig_pascanu_jacobian_products


def test_pascanu_jacobian_products_no_singular_value_exceeds_a_certified_bound():
    data = arrays("pascanu_jacobian_products")
    for name in ("sigmoid_0", "sigmoid_1", "sigmoid_2", "tanh_0", "tanh_1", "tanh_2", "counterexample"):
        growth, (norm, *_) = data[f"{name}_growth"], data[f"{name}_rates"]
        lags = np.arange(1, len(growth) + 1)
        assert (growth[:, 0] <= lags * np.log(norm) + 1e-10).all()  # 60 products, 1e-14 each, by condition 1e2


def test_pascanu_jacobian_products_vanish_below_the_bound_and_explode_above():
    data = arrays("pascanu_jacobian_products")
    for name in ("sigmoid", "tanh"):
        lags = len(data[f"{name}_0_growth"])
        assert data[f"{name}_0_rates"][0] == pytest.approx(0.7, rel=1e-12)  # γ‖W‖₂ of 0.7 Q/γ, Q orthogonal
        assert data[f"{name}_0_growth"][-1, 0] <= lags * np.log(0.7) + 1e-10
        assert data[f"{name}_1_growth"][-1, 0] < 0
        assert data[f"{name}_2_growth"][-1, 0] > np.log(1e3)
        for number in range(3):  # W is D Q D⁻¹ times a factor, Q orthogonal
            _, _, scaled, radius = data[f"{name}_{number}_rates"]
            assert scaled == pytest.approx(radius, rel=1e-12)


def test_pascanu_jacobian_products_a_small_spectral_radius_does_not_make_gradients_vanish():
    data = arrays("pascanu_jacobian_products")
    growth = data["counterexample_growth"][:, 0]
    *certified, textbook = data["counterexample_rates"]
    assert textbook == pytest.approx(0.4, rel=1e-12)  # W² = -0.16 I
    assert min(certified) > 1
    assert certified[1] == pytest.approx(certified[2], rel=1e-12)  # one line in the picture
    # the pattern D = (1, 0) makes each Jacobian [[1.2, 0], [-0.8, 0]]: the product's norm is √(1.2² + 0.8²) 1.2^{t-1}
    lags = np.arange(len(growth))
    np.testing.assert_allclose(growth, np.log(np.hypot(1.2, 0.8)) + lags * np.log(1.2), rtol=0, atol=1e-8)
    lower, upper = data["joint"]
    assert 1.2 - 1e-12 <= lower <= upper <= min(certified) + 1e-12


def test_pascanu_jacobian_products_note_3_vanishes_or_explodes_at_one_spectral_radius():
    data = arrays("pascanu_jacobian_products")
    for number, slope in enumerate((0.8, 0.7)):
        even = data[f"note_{number}"][1::2]  # (W D)^{2N} = (2 c²)^N I
        expected = np.arange(1, len(even) + 1) * np.log(2 * slope**2)
        np.testing.assert_allclose(even, np.stack([expected, expected], axis=1), rtol=1e-12)


# fig_lyapunov_transition


def test_lyapunov_transition_is_at_gain_one():
    data = arrays("lyapunov_transition")
    gains = data["gains"]
    for n in (100, 200, 400):
        largest = data[f"largest_{n}"].mean(axis=0)
        # below g = 1 the origin attracts: λ₁ = ln(g ρ), and ρ of a Gaussian matrix is 1 + O(n^-1/2) (Geman 1986)
        below = gains < 0.95
        np.testing.assert_allclose(largest[below], np.log(gains[below]), rtol=0, atol=1.5 / np.sqrt(n))
    chaotic = data["largest_400"][:, gains > 1.15]
    assert (chaotic > 0).all()
    assert (np.diff(chaotic.mean(axis=0)) > 0).all()


def test_lyapunov_transition_small_networks_turn_chaotic_later_and_large_ones_come_close_to_the_limit():
    data = arrays("lyapunov_transition")
    gains = data["gains"]
    small, large = (data[f"largest_{n}"].mean(axis=0) for n in (100, 400))
    assert (small[(gains > 1.05) & (gains < 1.35)] < 0).all()
    assert (small[gains > 1.45] > 0).all()
    assert (small[gains > 1.05] < large[gains > 1.05]).all()
    below = gains < 0.95
    assert (np.abs(large - np.log(gains))[below] < np.abs(small - np.log(gains))[below]).all()


def test_lyapunov_transition_the_spectrum_keeps_its_shape():
    data = arrays("lyapunov_transition")
    index = {n: (np.arange(n) + 0.5) / n for n in (50, 100, 200)}
    largest = data["spectrum_200"]
    assert (np.diff(largest) <= 0).all()
    for n in (50, 100):
        # up to i/n = 0.8 the spectrum falls by less than 15 times i/n: a place more or less in the order makes 15/n
        gap = np.abs(data[f"spectrum_{n}"] - np.interp(index[n], index[200], largest))
        assert gap[index[n] < 0.8].max() < 15 / n
        assert data[f"spectrum_error_{n}"].max() < 0.1  # of a range of 12


def test_lyapunov_transition_input_suppresses_chaos():
    data = arrays("lyapunov_transition")
    assert (data["driven"][:, 0] > 0).all()
    assert (data["driven"][:, -1] < 0).all()


# fig_gradient_exponent


def test_gradient_exponent_the_slope_of_the_log_norms_is_the_largest_exponent():
    data = arrays("gradient_exponent")
    for name in ("stable", "critical", "chaotic"):
        log_norms = data[f"{name}_log_norms"]
        steps = len(log_norms) - 1
        slope = (log_norms[0] - log_norms[-1]) / steps
        # the two differ by what alignment costs at the ends, a few nats over 400 steps
        assert slope == pytest.approx(float(data[f"{name}_exponent"]), abs=5 / steps)
    assert data["stable_exponent"] < -0.2 < data["critical_exponent"] < 0.02 < data["chaotic_exponent"]


def test_gradient_exponent_the_contributions_have_their_published_values():
    data = arrays("gradient_exponent")
    # mpmath, 50 digits: (w, b) = (3, -1.5), (5, -2.5), (5, -2.61)
    for number, terms, total in (
        (0, {1: -7.00204792422e-8, 25: -7.52543148119e-5, 50: -0.0999999661845}, -0.399999616141631),
        (1, {1: 7.37731772765e-11, 25: 2.39669278215e-7, 50: 0.0384379107288}, 0.100925017636868),
        (2, {1: 0.00873929421266, 25: 0.000476281853407, 50: 0.0324778838463}, 0.2218531622),
    ):
        found = data[f"terms_{number}"]
        np.testing.assert_allclose([found[k - 1] for k in terms], list(terms.values()), rtol=5e-12)
        assert found.sum() == pytest.approx(float(data[f"total_{number}"]), rel=1e-12)
        assert found.sum() == pytest.approx(total, rel=1e-9)


# fig_bengio_latching


def test_bengio_latching_an_input_flips_the_neuron_if_and_only_if_it_exceeds_the_threshold():
    data = arrays("bengio_latching")
    w, held = data["weights"], data["durations"].tolist()
    # papers: h* = w r - artanh r, and its values at 1.25, 2, 2.5 and 3
    for weight, value in (
        (1.25, 0.077805169315344),
        (2.0, 0.53283997535355),
        (2.5, 0.90477313865593),
        (3.0, 1.3032739080026),
    ):
        at = np.argmin(np.abs(w - weight))
        assert w[at] == pytest.approx(weight, abs=1e-12)
        assert data["critical"][at] == pytest.approx(value, abs=1e-13)
    excess = data["thresholds"] - data["critical"]
    assert (np.diff(excess, axis=0) < 0).all()  # the longer, the weaker an input will do
    # a fold's ghost delays an orbit by π/√(r δ) steps at most, r the curvature w tanh″/2 there: δ < π²/(r T²)
    longest = np.argmax(held)
    assert (excess[longest] > 0).all()
    assert (excess[longest] < np.pi**2 / (np.sqrt(1 - 1 / w) * held[longest] ** 2)).all()


def test_bengio_latching_noise_below_the_threshold_never_flips_and_the_gradient_vanishes():
    data = arrays("bengio_latching")
    weak, strong, pulsed = data["states"]
    assert np.abs(data["inputs"][:2]).max() < 0.53283997535355
    assert weak.max() < 0
    assert strong.max() < 0
    assert pulsed[99] < 0 < pulsed[-1]
    # latched, |a| > artanh r and a step's slope w (1 - tanh² a) < 1; here well below
    steps = np.diff(data["log_gradients"][:2], axis=1)
    assert steps.max() < 0
    assert data["log_gradients"][:, -1].max() < -100 * np.log(10)


# fig_bistable_module


def test_bistable_module_folds_where_published_and_the_sweeps_jump_there():
    data = arrays("bistable_module")
    assert data["fold_kinds"].tolist() == ["LP", "LP"]
    # papers (mpmath): b1 = 1.14473047276181 at x = -1.48011111649246, -0.227671731131306 at x = 1.56331800461038
    folds = [[1.14473047276181, -1.48011111649246], [-0.227671731131306, 1.56331800461038]]
    np.testing.assert_allclose(data["folds"], folds, rtol=0, atol=1e-10)
    values = data["values"]
    for sweep, (fold, _) in zip(("up", "down"), folds, strict=True):
        jump = np.abs(np.diff(data[sweep])).argmax()
        assert abs(data[sweep][jump + 1] - data[sweep][jump]) > 2
        # the last value before the fold is up to 0.0025 away; beside it a ghost may hold the state for 1,000 steps
        assert values[jump] - 0.0025 <= fold <= values[jump + 1] + 0.0025


def test_bistable_module_the_saddles_manifold_parts_the_basins():
    data = arrays("bistable_module")
    x, y = data["axis_x"], data["axis_y"]
    for number in range(3):
        assert data[f"settled_{number}"].all()
        assert len(data[f"attractors_{number}"]) == 2
        upper, border = data[f"upper_{number}"], data[f"border_{number}"]
        np.testing.assert_array_less(np.linalg.norm(np.diff(border, axis=0), axis=1)[1:-1], 0.06)
        # at every height the border crosses once; left of it all states go to the lower attractor, right to the upper
        inside = (border[:, 1] > y[0]) & (border[:, 1] < y[-1]) & (np.abs(border[:, 0]) < x[-1])
        rows = np.interp(y, *border[inside][np.argsort(border[inside][:, 1])].T[::-1], left=np.nan, right=np.nan)
        known = np.isfinite(rows)
        cell = 2 * (x[1] - x[0])
        slope = np.abs(np.gradient(rows, y)) * (y[1] - y[0])
        for j in np.flatnonzero(known & (slope < 0.2)):
            np.testing.assert_array_equal(upper[x > rows[j] + cell + slope[j], j], True)
            np.testing.assert_array_equal(upper[x < rows[j] - cell - slope[j], j], False)


# fig_beer_oscillator


def test_beer_oscillator_has_its_period_extent_and_eigenvalues():
    data = arrays("beer_oscillator")
    # papers (DOP853, 1e-13): period 28.9999079, y1 and y2 between these; eigenvalues 1/8 ± i/4 in closed form
    assert data["period"] == pytest.approx(28.9999079, abs=1e-7)
    bounds = [[1.2938468530613, 0.2938468530613], [4.2061531410609, 3.2061531410609]]
    # between two of 1,001 samples, 0.029 apart, a parabola of curvature below 1 is off by (0.0145)²/2 at most
    np.testing.assert_allclose([data["cycle"].min(axis=0), data["cycle"].max(axis=0)], bounds, rtol=0, atol=1.1e-4)
    np.testing.assert_allclose(data["cycle"][-1], data["cycle"][0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(np.sort_complex(data["eigenvalues"]), [0.125 - 0.25j, 0.125 + 0.25j], atol=1e-14)


def test_beer_oscillator_the_cycle_lives_between_two_hopf_points():
    data = arrays("beer_oscillator")
    hopf = data["event_kinds"] == "H"
    assert hopf.sum() == 2
    for c, y in zip(data["event_p"][hopf], data["event_x"][hopf], strict=True):
        s = expit(y - np.array([2.75, 1.75]))
        slope = s * (1 - s)
        # papers: Σ w_ii σ'_i = 2, det > 0
        assert 4.5 * slope.sum() == pytest.approx(2.0, abs=1e-10)
        assert (4.5 * slope[0] - 1) * (4.5 * slope[1] - 1) + c**2 * slope.prod() > 0
    first, last = np.sort(data["event_p"][hopf])
    p, stable = data["branch_p"], data["branch_stable"]
    assert not stable[(p > first) & (p < last)].any()
    assert stable[(p < last + 0.1) & (p > last)].all()
    assert ((data["couplings"] > first) & (data["couplings"] < last)).all()  # every cycle drawn


def test_beer_oscillator_the_cycle_grows_out_of_its_hopf_points_as_the_square_root_of_the_distance():
    data = arrays("beer_oscillator")
    assert (data["hopf_coefficients"] < 0).all()  # both supercritical
    first, last = np.sort(data["event_p"][data["event_kinds"] == "H"])
    swing = np.ptp(data["extremes"][:, :, 0], axis=1)
    assert swing.min() > 0.1
    for distance, size in ((data["couplings"] - first, swing), (last - data["couplings"][::-1], swing[::-1])):
        assert distance[0] < 0.0011
        # swing² = k δ (1 + O(δ)), and the last term is below a tenth at the second point, δ = 0.004
        power = np.log(size[1] / size[0]) / np.log(distance[1] / distance[0])
        assert power == pytest.approx(0.5, abs=0.1 / (2 * np.log(4)))


# fig_pasemann_diagram


def test_pasemann_diagram_holds_the_published_flips_and_proves_its_fixed_points():
    data = arrays("pasemann_diagram")
    assert data["periods"].tolist() == [1, 2, 4, 4]
    assert data["proved"].all()
    assert set(data["event_kinds"]) == {"PD"}
    # papers (mpmath): the flips of the fixed point
    np.testing.assert_allclose(data["event_p"][[0, -1]], [-7.15660484331351, 21.1566048433135], rtol=0, atol=1e-10)
    assert data["event_residual"].max() < 1e-10
    # the 2-cycle lives from the one to the other
    np.testing.assert_allclose([data["p_1"].min(), data["p_1"].max()], data["event_p"][[0, -1]], rtol=0, atol=1e-9)


def test_pasemann_diagram_every_cycle_drawn_is_one_and_is_stable_where_the_attractor_has_its_period():
    data = arrays("pasemann_diagram")
    for number, period in enumerate(data["periods"]):
        x, p = data[f"orbit_{number}"], data[f"p_{number}"]
        assert x.shape == (len(p), period)
        # x_{t+1} = b1 - 20 σ(x_t) + 6 σ(y_t), y_t = 3 - 6 σ(x_{t-1}); twenty roundings of numbers below 25, and what
        # the slopes, below 5 each, make of errors at 1e-15
        after, before = np.roll(x, -1, axis=1), np.roll(x, 1, axis=1)
        image = p[:, None] - 20 * expit(x) + 6 * expit(3 - 6 * expit(before))
        np.testing.assert_allclose(image, after, rtol=0, atol=1e-11)
    exponent, period = data["exponent"], data["period"]
    for number, q in enumerate(data["periods"]):
        stable = data[f"stable_{number}"]
        p = data[f"p_{number}"]
        for b1 in p[1:-1][stable[:-2] & stable[1:-1] & stable[2:]]:
            at = np.argmin(np.abs(data["values"] - b1))
            if abs(exponent[at]) > 0.05:  # not beside a flip, where orbits take long to settle
                assert period[at] == q


def test_pasemann_diagram_chaos_lies_inside_the_cascades():
    data = arrays("pasemann_diagram")
    chaotic = data["values"][data["exponent"] > 0.05]
    flips = np.sort(data["event_p"])
    left, right = chaotic[chaotic < 7], chaotic[chaotic > 7]
    assert flips[2] < left.min() < left.max() < flips[3]  # from the 4-cycle's loss of stability to its return
    assert flips[-5] < right.min() < right.max() < flips[-3]
    assert data["exponent"].max() > 0.3


# fig_network_branches


def test_network_branches_every_special_point_solves_its_defining_equations():
    data = arrays("network_branches")
    assert {"LP", "PD", "NS"} == set(data["kinds"])
    for kind, p, x in zip(data["kinds"], data["event_p"], data["event_x"], strict=True):
        # computed anew with NumPy: 50 terms below 2 in each component
        np.testing.assert_allclose(data["w"] @ np.tanh(x) + p * data["direction"], x, rtol=0, atol=1e-13)
        values = np.linalg.eigvals(data["w"] * (1 - np.tanh(x) ** 2))
        on_circle = {"LP": [1], "PD": [-1], "NS": np.exp(1j * np.angle(values))}[str(kind)]
        gaps = np.abs(values - on_circle)
        critical = values[gaps.argmin()]
        # an eigenvalue of condition up to 1e3 is known to 1e3 ε ‖J‖
        assert gaps.min() < 1e-9
        assert (abs(critical.imag) > 1e-6) == (kind == "NS")


def test_network_branches_are_as_symmetric_as_the_network():
    data = arrays("network_branches")
    events = [
        (kind, *row)
        for kind, row in zip(data["kinds"], np.column_stack([data["event_p"], data["event_x"]]), strict=True)
    ]
    for kind, *row in events:
        mirrored = -np.array(row)
        assert any(kind == other and np.abs(mirrored - rest).max() < 1e-8 for other, *rest in events)


def test_network_branches_change_stability_at_special_points_alone():
    data = arrays("network_branches")
    for number in range(int(data["num_branches"])):
        leading, stable = data[f"leading_{number}"], data[f"stable_{number}"]
        special = np.abs(leading - 1) < 1e-9
        np.testing.assert_array_equal(stable[~special], leading[~special] < 1)
        changes = np.flatnonzero(np.diff(stable))
        assert (special[changes] | special[changes + 1]).all()


# fig_doya_plane


def test_doya_plane_the_curves_are_the_closed_forms():
    data = arrays("doya_plane")
    for name, value in (("fold", 1.0), ("flip", -1.0)):
        w, b, x = data[name].T
        np.testing.assert_allclose(w * x * (1 - x), value, rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.log(x / (1 - x)) - w * x, b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(data["cusps"], [[4.0, -2.0, 0.5]], rtol=0, atol=1e-10)
    assert data["fold"][:, 0].max() == 12.0
    assert data["flip"][:, 0].min() == -12.0
    assert abs(data["flip"][:, 0].max() + 4) < 1e-3  # papers: flips need w ≤ -4


def test_doya_plane_the_attractors_are_as_the_closed_forms_say():
    data = arrays("doya_plane")
    for i, w in enumerate(data["ws"]):
        expected, period, edges = np.ones(len(data["bs"])), np.ones(len(data["bs"])), []
        if abs(w) > 4:
            x = (1 + np.array([-1, 1]) * np.sqrt(1 - 4 / abs(w))) / 2
            edges = np.sort(np.log(x / (1 - x)) - w * x)
            inside = (data["bs"] > edges[0]) & (data["bs"] < edges[1])
            expected[inside], period[inside] = (2, 1) if w > 0 else (0, 2)
        # beside a bifurcation orbits need more than the 20,000 steps they have
        clear = np.all([np.abs(data["bs"] - edge) > 0.05 for edge in edges] or [np.ones(len(data["bs"]), bool)], axis=0)
        clear &= np.abs(np.abs(w) - 4) > 0.05
        np.testing.assert_array_equal(data["num_stable"][i][clear], expected[clear])
        np.testing.assert_array_equal(data["period"][i][clear], period[clear])
    assert data["exponent"].max() < 0.02  # never chaos: at ε = 1 the map is monotone


# fig_pasemann_attractor


def test_pasemann_attractor_has_its_published_exponents_dimension_and_extent():
    data = arrays("pasemann_attractor")
    # 2e6 steps, computed independently: 0.2305 ± 0.0003, -3.3595 ± 0.0005, dimension 1.0686
    spread = np.hypot(data["standard_error"], [0.0003, 0.0005])
    assert (np.abs(data["exponents"] - [0.2305, -3.3595]) < data["standard_error"] + [0.0003, 0.0005]).all()
    assert float(data["dimension"]) == pytest.approx(1.0686, abs=3 * spread[0] / 3.3595 + 5e-5)
    low, high = data["points"].min(axis=0), data["points"].max(axis=0)
    assert (low >= [-13.67016 - 1e-5, -2.20527 - 1e-5]).all()
    assert (high <= [1.87943 + 1e-5, 2.99999 + 1e-5]).all()
    np.testing.assert_allclose([low, high], [[-13.67016, -2.20527], [1.87943, 2.99999]], atol=0.01)
    np.testing.assert_allclose(data["points"].mean(axis=0), [-3.3844, 1.2984], atol=0.05)


# fig_pascanu_regulariser


def test_pascanu_regulariser_pushes_toward_gradients_that_keep_their_length():
    data = arrays("pascanu_regulariser")
    gains, growth, slope = data["gains"], data["growth"].mean(axis=0), data["omega_slope"].mean(axis=0)
    edge, turn = (np.interp(0, values, gains) for values in (growth, slope))
    assert abs(edge - turn) < 0.3
    assert (slope[growth < -0.2] < 0).all()
    assert (slope[growth > 0.05] > 0).all()
    for name in ("omega", "squared"):
        assert abs(gains[data[name].mean(axis=0).argmin()] - edge) < 0.5
