"""Orbit diagrams against closed forms, against the same loop run to its end, and at every size a chunk can have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import bifurcation, simulate
from rnn_dynamics.bifurcation import orbit_diagram
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.reference import Henon, Logistic, bistable_module
from tests import reference

EPS = np.finfo(float).eps
FOREVER = 10**9  # steps: half a minute of the fastest loop, unless an orbit that has closed skips them


def doya(b):
    return DoyaNeuron(w=5.0, b=b)


def slow_doya(b):
    return DoyaNeuron(w=5.0, b=b, epsilon=0.1)


def deaf(family):
    """The same family, but it takes inputs and ignores them: then every step of the transient is run."""
    return lambda p: lambda x, u: family(p)(x, None)


# What it returns.


@pytest.mark.parametrize(
    ("family", "values", "x0"),
    [
        (doya, np.linspace(-3, -2, 64), [0.5]),  # one to three fixed points, slow beside the folds
        (slow_doya, np.linspace(-3, -2, 64), [0.5]),
        (lambda b: DoyaNeuron(w=-5.0, b=b), np.linspace(-1, 6, 64), [0.4]),  # fixed points and 2-cycles
        (Logistic, np.linspace(2.8, 3.56, 64), [0.3]),  # periods 1, 2, 4, 8
        (Logistic, np.array([2.5, 3.2, 3.5, 3.55]), [0.3]),  # the same, all soon closed: what is kept repeats too
        (Logistic, np.linspace(2.8, 4.0, 64), [0.3]),  # and chaos beside them
        (lambda a: Henon(a=a), np.linspace(0.1, 1.4, 64), [0.1, 0.1]),
    ],
    ids=["neuron", "slow neuron", "inhibited neuron", "logistic", "logistic, closed", "logistic to chaos", "henon"],
)
def test_leaving_out_the_laps_of_closed_orbits_changes_no_bit(family, values, x0):
    values, x0 = jnp.asarray(values), jnp.array(x0)
    short = orbit_diagram(family, values, x0, num_kept=20, num_transient=1003)
    full = orbit_diagram(deaf(family), values, x0, num_kept=20, num_transient=1003, inputs=jnp.zeros(1023))
    assert (short == full).all()


def test_an_orbit_is_that_of_the_map():
    values = jnp.linspace(-3, -2, 5)
    kept = orbit_diagram(doya, values, jnp.array([0.3]), num_kept=4, num_transient=3)
    for b, orbit in zip(values, kept, strict=True):
        # Vector and scalar code may round σ differently: 7 steps of at most 1.25 eps each, stretched by at most 1.25.
        np.testing.assert_allclose(
            orbit, simulate.trajectory(doya(b), jnp.array([0.3]), num_steps=7)[4:], rtol=7 * 4 * 1.25**8 * EPS
        )


@pytest.mark.parametrize("family", [doya, slow_doya])
def test_orbits_settle_on_the_stable_equilibria_of_the_closed_form(family):
    biases = list(reference.DOYA_EQUILIBRIA)
    for x0, branch in ((0.0, 0), (1.0, -1)):
        kept = orbit_diagram(family, jnp.array(biases), jnp.array([x0]), num_kept=3, num_transient=FOREVER)
        for b, orbit in zip(biases, kept, strict=True):
            # An iteration stalls within eps over 1 - multiplier, which is at least 0.23 ε.
            np.testing.assert_allclose(orbit, reference.DOYA_EQUILIBRIA[b][branch], atol=2 * EPS / 0.023)


@pytest.mark.parametrize("x0", [0.3, 0.7])
def test_the_logistic_map_doubles_its_period(x0):
    # May (1976): periods 2, 4, 8, 16 from r = 3, 1 + √6 = 3.4495, 3.5441, 3.5644 on; no further than 3.5688.
    values = jnp.array([2.5, 3.2, 3.5, 3.55, 3.566])
    kept = orbit_diagram(Logistic, values, jnp.array([x0]), num_kept=32, num_transient=FOREVER)[..., 0]
    for period, orbit in zip((1, 2, 4, 8, 16), np.asarray(kept), strict=True):
        assert len(np.unique(orbit.round(9))) == period  # at r = 2.5 rounding turns between two neighbouring floats
        np.testing.assert_allclose(orbit[period:], orbit[:-period], rtol=10 * EPS)
    np.testing.assert_allclose(kept[0], 0.6, atol=2 * EPS)  # 1 - 1/r
    pair = (4.2 + np.array([-1, 1]) * (0.2 * 4.2) ** 0.5) / 6.4  # (r + 1 ± √((r-3)(r+1)))/2r
    np.testing.assert_allclose(np.sort(kept[1, :2]), pair, atol=10 * EPS)  # the pair's multiplier is 0.16


def test_chaos_stays_between_the_images_of_the_maximum():
    r = np.linspace(3.6, 4.0, 50)
    kept = orbit_diagram(Logistic, jnp.asarray(r), jnp.array([0.3]), num_kept=500, num_transient=100)[..., 0]
    assert (kept <= (r / 4)[:, None] * (1 + 2 * EPS)).all()  # F(1/2)
    assert (kept >= (r * r / 4 * (1 - r / 4))[:, None] - 4 * EPS).all()  # F(F(1/2))
    assert len(np.unique(kept[-1])) > 490


def test_a_network_of_two_units_settles_on_its_stable_states():
    (right, _), (left, _) = reference.BISTABLE_MODULE["folds"]
    values = jnp.array([left - 0.1, left + 0.1, right - 0.1, right + 0.1])
    low, high = (
        orbit_diagram(bistable_module, values, jnp.array(x0), num_kept=1, num_transient=FOREVER)[:, 0]
        for x0 in ([-6.0, 3.0], [8.0, 8.0])
    )
    assert (np.abs(low - high).max(-1) > 0.5).tolist() == [False, True, True, False]
    for x0 in (low, high):
        image = jax.vmap(lambda b, x: bistable_module(b)(x))(values, x0)
        np.testing.assert_allclose(image, x0, atol=20 * EPS)  # a few roundings of numbers up to 8


# Sweeps.

SWEPT = np.linspace(-2.75, -2.25, 501)
"""Biases in steps of a thousandth, over both folds of w = 5."""


def sweep(direction, values=SWEPT, x0=0.5):
    """Where the neuron is at each bias."""
    kept = orbit_diagram(doya, jnp.asarray(values), jnp.array([x0]), num_kept=1, num_transient=5000, sweep=direction)
    return np.asarray(kept)[:, 0, 0]


def test_turned_up_and_down_the_neuron_jumps_at_the_two_folds():
    # The slowest passage, at 6e-5 beyond a fold, takes 6.64/√6e-5 = 860 steps: each value has time to settle.
    b, (last_up, last_down) = SWEPT, sorted(b for b, _ in reference.DOYA_FOLDS[5.0])[::-1]
    up, down, fresh = sweep("up"), sweep("down"), sweep("fresh")
    assert (up[b < last_up] < 0.5).all()
    assert (up[b > last_up] > 0.5).all()
    assert (down[b < last_down] < 0.5).all()
    assert (down[b > last_down] > 0.5).all()
    # Where there is one state all agree, up to where an orbit stalls: within eps over 1 - multiplier, and the
    # multiplier of a state that far from its own fold is at most 0.55.
    outside = (b < last_down) | (b > last_up)
    np.testing.assert_allclose(up[outside], fresh[outside], atol=4 * EPS)
    np.testing.assert_allclose(down[outside], fresh[outside], atol=4 * EPS)
    assert (down - up)[~outside].min() > 0.4  # hysteresis


def test_values_keep_the_order_in_which_they_were_given():
    order = np.random.default_rng(0).permutation(len(SWEPT))
    for direction in ("fresh", "up", "down"):
        np.testing.assert_allclose(sweep(direction, SWEPT[order]), sweep(direction)[order], rtol=4 * EPS)


def test_a_sweep_starts_each_value_where_the_one_before_ended():
    values, x0 = jnp.array([-2.4, -2.6, -2.5]), jnp.array([0.3])
    kept = orbit_diagram(slow_doya, values, x0, num_kept=2, num_transient=3, sweep="up")
    x = x0
    for i in (1, 2, 0):
        orbit = simulate.trajectory(slow_doya(values[i]), x, num_steps=5)
        np.testing.assert_allclose(kept[i], orbit[4:], rtol=20 * EPS)
        x = orbit[-1]


def test_a_sweep_that_keeps_nothing_has_the_right_shape():
    for direction in ("fresh", "up", "down"):
        kept = orbit_diagram(doya, jnp.zeros(3), jnp.array([0.5]), num_kept=0, num_transient=4, sweep=direction)
        assert kept.shape == (3, 0, 1)


# Sizes.


@pytest.mark.parametrize("number", [1, 2, *(bifurcation.orbits._CHUNK + extra for extra in (-1, 0, 1)), 4096, 5001])
def test_every_value_has_its_orbit_whatever_the_chunks(number):
    values = np.linspace(0.5, 2.0, number)
    kept = np.asarray(orbit_diagram(Logistic, jnp.asarray(values), jnp.array([0.2, 0.4]), num_kept=3, num_transient=18))
    assert kept.shape == (number, 3, 2)
    x = np.tile([0.2, 0.4], (number, 1))
    for t in range(21):
        x = values[:, None] * x * (1 - x)
        if t >= 18:  # contracting (slope at most 1.6 in the first steps): a few roundings
            np.testing.assert_allclose(kept[:, t - 18], x, rtol=100 * EPS)


def test_no_values_have_no_orbits():
    assert orbit_diagram(doya, jnp.zeros(0), jnp.array([0.5]), num_kept=2, num_transient=4).shape == (0, 2, 1)


def test_without_a_transient_the_first_step_comes_first():
    values = jnp.array([0.5, 2.0])
    kept = orbit_diagram(Logistic, values, jnp.array([0.5]), num_kept=1, num_transient=0)
    assert kept[:, 0, 0].tolist() == [0.125, 0.5]


# Inputs, precision, failure.


@pytest.mark.parametrize("direction", ["fresh", "up"])
def test_inputs_drive_every_orbit_from_the_first_step_of_the_transient_on(direction):
    rng = np.random.default_rng(0)
    inputs = {"push": jnp.asarray(0.1 * rng.standard_normal((12, 1))), "unused": jnp.arange(12)}
    family = lambda b: lambda x, u: DoyaNeuron(w=5.0, b=b, w_in=1.0)(x, u["push"])  # noqa: E731
    values, x0 = jnp.array([-2.7, -2.5, -2.3]), jnp.array([0.4])
    kept = orbit_diagram(family, values, x0, num_kept=5, num_transient=7, inputs=inputs, sweep=direction)
    for i, b in enumerate(values):
        orbit = simulate.trajectory(family(b), x0, inputs)
        np.testing.assert_allclose(kept[i], orbit[8:], rtol=12 * 4 * 1.25**12 * EPS)  # as above, 12 steps
        x0 = orbit[-1] if direction == "up" else x0


def test_inputs_of_no_length_fit_no_steps():
    family = lambda b: lambda x, u: x * b + u  # noqa: E731
    kept = orbit_diagram(family, jnp.ones(2), jnp.ones(1), num_kept=0, num_transient=0, inputs=jnp.zeros((0, 1)))
    assert kept.shape == (2, 0, 1)


def test_single_precision_stays_single():
    values = jnp.array(list(reference.DOYA_EQUILIBRIA), jnp.float32)
    kept = orbit_diagram(doya, values, jnp.zeros(1, jnp.float32), num_kept=2, num_transient=FOREVER)
    assert kept.dtype == jnp.float32
    expected = [[[points[0]]] * 2 for points in reference.DOYA_EQUILIBRIA.values()]
    np.testing.assert_allclose(kept, expected, atol=4 * np.finfo(np.float32).eps / 0.23)


def test_the_state_is_promoted_to_the_dtype_of_the_map():
    kept = orbit_diagram(Logistic, jnp.array([2.5]), jnp.array([0.3], jnp.float32), num_kept=1, num_transient=500)
    assert kept.dtype == jnp.float64
    np.testing.assert_allclose(kept, [[[0.6]]], atol=4 * EPS)


def test_orbits_that_leave_the_numbers_say_so_and_hold_up_nobody():
    family = lambda p: lambda x, u: p * x * x - jnp.where(p > 1.5, x, 0)  # noqa: E731
    # From 3: p = 1/4: x²/4 → 0; p = 1: x² → ∞; p = 2: 2x² - x = ∞ - ∞ at last.
    values = jnp.array([0.25, 1.0, 2.0])
    for direction in ("fresh", "up"):
        kept = orbit_diagram(family, values, jnp.array([3.0]), num_kept=2, num_transient=FOREVER, sweep=direction)
        assert kept[0].tolist() == [[0.0], [0.0]]
        if direction == "fresh":
            assert kept[1].tolist() == [[np.inf], [np.inf]]
            assert np.isnan(kept[2]).all()


# Inside a caller's transformations.


def test_jit_and_vmap_give_the_same_diagram():
    values = jnp.linspace(-3, -2, 40)
    run = lambda x0: orbit_diagram(doya, values, x0, num_kept=2, num_transient=300)  # noqa: E731
    starts = jnp.array([[0.0], [0.5], [1.0]])
    many = jax.vmap(run)(starts)
    for start, diagram in zip(starts, many, strict=True):
        np.testing.assert_allclose(diagram, run(start), rtol=1e3 * EPS)  # compiled anew: rounding, slow beside folds
        np.testing.assert_allclose(diagram, jax.jit(run)(start), rtol=1e3 * EPS)


def test_a_settled_state_has_its_forward_derivative_and_none_in_reverse():
    def settled(b):
        return orbit_diagram(doya, b[None], jnp.array([0.0]), num_kept=1, num_transient=2000)[0, 0, 0]

    for b, slopes in reference.DOYA_BIAS_SENSITIVITY.items():
        _, slope = jax.jvp(settled, (jnp.array(b),), (jnp.ones(()),))
        np.testing.assert_allclose(slope, slopes[0], rtol=1e-12)  # what is left when the state has closed: t λ^t
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(settled)(jnp.array(-2.5))


# Misuse.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": jnp.zeros((2, 1))}, "values must be a float array of shape \\(P,\\)"),
        ({"values": jnp.array([1, 2])}, "values must be a float array"),
        ({"values": jnp.array([np.nan])}, "values must be finite"),
        ({"x0": jnp.zeros(())}, "x0 must be a float array of shape \\(n,\\)"),
        ({"x0": jnp.zeros(0)}, "x0 must hold at least one unit"),
        ({"x0": jnp.array([np.inf])}, "x0 must be finite"),
        ({"num_kept": -1}, "num_kept must be a whole number, at least 0"),
        ({"num_transient": 1.5}, "num_transient must be a whole number"),
        ({"sweep": "sideways"}, "sweep must be one of 'fresh', 'up', 'down'"),
        ({"inputs": jnp.zeros(7)}, "inputs must be 6 steps long"),
        ({"inputs": jnp.full(6, np.nan)}, "inputs must be finite"),
        ({"family": lambda p: lambda x, u: x[0]}, r"family\(values\[0\]\) must map"),
        ({"family": lambda p: lambda x, u: x[0], "sweep": "up"}, r"family\(values\[0\]\) must map"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    arguments = {
        "family": doya,
        "values": jnp.zeros(2),
        "x0": jnp.zeros(1),
        "num_kept": 2,
        "num_transient": 4,
    } | changed
    family, values, x0 = (arguments.pop(name) for name in ("family", "values", "x0"))
    with pytest.raises(ValueError, match=message):
        orbit_diagram(family, values, x0, **arguments)
