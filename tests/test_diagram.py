"""One call finds every branch: disconnected ones, those that switch at branch points, and cascades of flips."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from jaxtyping import Array, Float

from rnn_dynamics import activations
from rnn_dynamics.bifurcation import Diagram, Iterate, diagram, diagrams
from rnn_dynamics.continuation import Event
from rnn_dynamics.fixed_points import enumerate as enumerate_
from rnn_dynamics.models import PascanuRNN
from rnn_dynamics.models.reference import Logistic, bistable_module
from tests import reference
from tests.families import HENON, Circuit, doya, pair, planar_family, scalar_family, unit


class Networks(equinox.Module):
    """Networks z' = (w₀ + p w₁) tanh(z) + b₀ + p b₁: one compilation serves all of one size."""

    w: Float[Array, "2 n n"]
    b: Float[Array, "2 n"]

    def __call__(self, p):
        return PascanuRNN(self.w[0] + p * self.w[1], None, self.b[0] + p * self.b[1], activations.tanh)


def neuron(w, p_span, starts):
    """Doya's neuron over its bias."""
    return diagram(scalar_family, p_span, jnp.asarray(starts), u=doya(w), max_points=801)


def kinds(found):
    return [event.kind for event in found.events]


def parameters(found, kind):
    return np.array([float(event.p) for event in found.events if event.kind == kind])


@pytest.fixture(scope="module")
def logistic():
    return diagram(Logistic, (0.5, 3.56), jnp.array([[0.1], [0.6]]), num_doublings=2, num_values=9)


def test_the_logistic_maps_cascade_is_followed_from_the_branch_point_to_period_four(logistic):
    assert logistic.periods == (1, 1, 2, 4)
    assert kinds(logistic) == ["BP", "PD", "PD", "PD"]
    # papers: r = 1; 3, 3.449489742783 (= 1 + √6), 3.544090359552
    np.testing.assert_allclose(parameters(logistic, "BP"), 1.0, rtol=0, atol=1e-10)
    exact = [3.0, 1 + np.sqrt(6), 3.544090359552]
    np.testing.assert_allclose(parameters(logistic, "PD"), exact, rtol=0, atol=1e-10)


def test_every_point_of_every_branch_is_a_point_of_its_cycle_and_of_no_shorter_one(logistic):
    for branch, period, orbit in zip(logistic.branches, logistic.periods, logistic.orbits, strict=True):
        assert orbit.shape == (len(branch), period, 1)
        image = orbit
        for _ in range(period):
            image = np.asarray(branch.p)[:, None, None] * image * (1 - image)
        # fixed to 100 ε of the iterate, whose slope is below 10
        np.testing.assert_allclose(image, orbit, rtol=0, atol=1e-12)
        if period > 1:
            apart = np.abs(orbit[:, 0] - orbit[:, period // 2]).max(axis=1)
            assert apart[1:-1].min() > 1e-3  # but for the flip it begins at
    assert all(np.ptp(branch.p) > 0.1 for branch in logistic.branches)


def test_a_cycle_is_stable_from_its_flip_to_the_next(logistic):
    two = logistic.branches[2]
    inside = (two.p > 3.001) & (two.p < 1 + np.sqrt(6) - 0.001)
    np.testing.assert_array_equal(two.stable[inside], True)
    np.testing.assert_array_equal(two.stable[two.p > 1 + np.sqrt(6) + 0.001], False)
    # multiplier of the 2-cycle: 4 + 2r - r²
    np.testing.assert_allclose(two.multipliers[inside, 0].real, (4 + 2 * two.p - two.p**2)[inside], atol=1e-9)


@pytest.mark.parametrize("w", [4.5, 5.0, 8.0])
def test_doyas_folds_are_found_from_generic_starts(w):
    found = neuron(w, (-6.0, -1.0), np.linspace(0.0, 1.0, 5)[:, None])
    assert found.periods == (1,)
    np.testing.assert_allclose(parameters(found, "LP"), sorted(b for b, _ in reference.DOYA_FOLDS[w]), atol=1e-13)


def test_a_bubble_of_two_cycles_opens_and_closes_at_doyas_flips():
    found = neuron(-6.0, (-1.0, 7.0), [[0.5]])
    assert found.periods == (1, 2)
    flips = [b for b, _ in reference.PASCANU_FLIPS[-6.0]]
    np.testing.assert_allclose(parameters(found, "PD"), sorted(flips), rtol=0, atol=1e-10)
    two = found.branches[1]
    assert len(set(np.sign(np.diff(two.p)))) == 1  # from the one to the other
    assert two.ended == ("flip", "flip")
    np.testing.assert_allclose(np.sort(two.p[[0, -1]]), sorted(flips), rtol=0, atol=1e-10)
    assert two.stable[1:-1].all()


def test_a_fold_of_two_cycles_is_there_once_whatever_their_phase():
    # x' = -p x + b x² + c x³. On a 2-cycle x, y with s = x + y the difference of its equations gives
    # x y = q - p/c, q = s² + (b s + 1)/c; their sum is linear in p. The flip is at s = 0, and p(s) has a maximum.
    b, c, s = 1.0, -0.3, np.linspace(0.7, 0.9, 200_001)
    q = s**2 + (b * s + 1) / c
    fold = ((b * s**2 + c * s**3 - (2 * b + 3 * c * s) * q - s) / (s - (2 * b + 3 * c * s) / c)).max()
    terms = {(1, 1): -1.0, (2, 0): b, (3, 0): c}
    found = diagram(scalar_family, (0.5, 1.5), jnp.zeros((1, 1)), u=unit(terms), num_doublings=1, max_points=801)
    two = found.branches[1]
    # the grid, 1e-6 wide, misses the maximum by some 1e-12
    assert [event.kind for event in two.events].count("LP") == 1
    np.testing.assert_allclose(parameters(found, "LP"), fold, rtol=0, atol=1e-10)
    assert (two.p == two.p.max()).sum() == 1
    assert "flip" in two.ended


@pytest.mark.parametrize(("size", "width"), [(1e-6, 1.0), (1.0, 1e-8), (1e6, 1e8)])
def test_a_diagram_is_the_same_in_other_units(size, width):
    # x' = x + (p/w - 1)(p/w - 2) x - x³/s²: where the product is positive, arms x = ± s √ of it
    terms = {(1, 0): 3.0, (1, 1): -3 / width, (1, 2): width**-2, (3, 0): -(size**-2)}
    options = {"u": unit(terms), "num_doublings": 0, "max_points": 801}
    found = diagram(scalar_family, (0.5 * width, 2.4 * width), jnp.zeros((1, 1)), **options)
    np.testing.assert_allclose(parameters(found, "BP") / width, [1, 2], rtol=0, atol=1e-9)
    assert len(found.branches) == 3
    for arm in found.branches[1:]:
        p = arm.p / width
        # the defect, below 100 ε of a unit, moves x² by twice that over x: near a branch point by its root
        np.testing.assert_allclose((arm.x[:, 0] / size) ** 2, (p - 1) * (p - 2), rtol=0, atol=1e-9)
        assert np.ptp(np.sign(arm.x[:, 0])) == 2


def test_a_diagram_in_float32_stays_there():
    def family(p):
        return lambda x, u: jax.nn.sigmoid(5 * x + p).astype(jnp.float32)

    found = diagram(family, (-3.0, -2.0), jnp.array([[0.0], [1.0]], jnp.float32))
    assert found.periods == (1,)
    # an event's residual is at most ε^0.65 = 3e-5, and a fold's slope in p is σ' = 1/5
    folds = sorted(b for b, _ in reference.DOYA_FOLDS[5.0])
    np.testing.assert_allclose(parameters(found, "LP"), folds, rtol=0, atol=1.5e-4)
    assert {each.dtype for each in (found.branches[0].x, found.orbits[0])} == {np.dtype(np.float32)}


def test_all_arms_of_a_ring_of_three_are_found_where_two_multipliers_are_1():
    def ring(p):
        return lambda x, u: jnp.tanh(p * (x - 0.3 * (jnp.roll(x, 1) + jnp.roll(x, -1))))

    found = diagram(ring, (0.5, 1.5), jnp.zeros((1, 3)), num_values=3)
    np.testing.assert_allclose(parameters(found, "BP"), 1 / 1.3, rtol=0, atol=1e-9)
    ends = np.concatenate([branch.x[branch.p == 1.5] for branch in found.branches])
    # (a, -a, 0) with a = tanh(1.95 a), and another kind: the symmetries make six of each
    a = float(scipy.optimize.brentq(lambda a: np.tanh(1.95 * a) - a, 0.5, 1.0))
    images = [sign * np.roll(x, turn) for x in ends for turn in range(3) for sign in (1, -1)]
    gaps = [np.abs(ends - image).max(axis=1).min() for image in [np.array([a, -a, 0.0]), *images]]
    assert len(ends) == 13
    assert max(gaps) < 1e-12
    assert min(np.sort(np.abs(ends - x).max(axis=1))[1] for x in ends) > 0.1  # no two are one


def test_a_special_point_that_did_not_converge_has_a_question_mark():
    fold = Event("LP", 0.5, np.zeros(1), np.ones(1, complex), 1.0, False)
    assert "LP 0.5?" in repr(Diagram((), (), (), (fold,), np.zeros(1), np.zeros(1, bool)))


def test_henons_points_fold_flip_and_escape_at_infinity():
    found = diagram(planar_family, (-0.3, 1.4), jnp.array([[0.6, 0.2], [-1.1, -0.3]]), u=HENON, num_doublings=0)
    # papers: fold a = -0.1225, flip 0.3675. At a = 0 the map is linear, with one fixed point: the other, of the
    # parabola a x² + 0.7 x - 1 = 0, comes back from the other end of the line.
    np.testing.assert_allclose(parameters(found, "LP"), -0.1225, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parameters(found, "PD"), 0.3675, rtol=0, atol=1e-12)
    assert found.periods == (1, 1)
    assert [branch.ended[0] for branch in found.branches] == ["diverged", "diverged"]
    assert all(np.abs(branch.p[0]) < 1e-4 for branch in found.branches)


def test_branches_that_never_meet_are_all_found_and_proved_all():
    # two bistable units, not coupled: nine branches of products of states, folding in pairs
    family = Networks(jnp.stack([2 * jnp.eye(2), jnp.zeros((2, 2))]), jnp.array([[0.0, 0.0], [1.0, 0.0]]))
    found = diagram(family, (-1.0, 1.0), jnp.array([[0.1, 0.1]]))
    assert found.proved.all()
    # h* = 0.53283997535355 (papers): each of the three states of the second unit carries a curve with two folds
    np.testing.assert_allclose(np.abs(parameters(found, "LP")), 0.53283997535355, rtol=0, atol=1e-10)
    assert len(parameters(found, "LP")) == 6
    assert found.periods == (1, 1, 1)


@pytest.mark.parametrize("case", ["a symmetric pair, at its pitchforks", "a fold just beside a value looked at"])
def test_every_branch_is_drawn_once_as_many_cross_as_there_are_fixed_points(case):
    if "pair" in case:
        w, b, span, starts = np.array([[1.0, 0.2], [0.2, 1.0]]), np.zeros(2), (0.5, 2.5), [[0.1, 0.2], [1.0, -1.0]]
    else:  # at 1.24963, and there is a row of its branch at 1.25
        rng = np.random.default_rng(11)
        w, b, span = rng.normal(size=(2, 2)), 0.3 * rng.normal(size=2), (0.2, 3.0)
        starts = rng.normal(size=(10, 2))
    family = Networks(jnp.stack([jnp.zeros((2, 2)), w]), jnp.stack([b, jnp.zeros(2)]))
    found = diagram(family, span, jnp.asarray(starts), num_doublings=0)
    for p in np.linspace(*span, 6)[1:-1] + 0.0137:  # not a row of a branch
        proved = enumerate_(family(jnp.asarray(p)))
        assert proved.complete
        assert sum((np.diff(np.sign(branch.p - p)) != 0).sum() for branch in found.branches) == len(proved)


def test_a_branch_is_known_though_the_state_has_another_size_than_its_unit():
    # x' = p x + W (σ(x) - 1/2): a pitchfork at p = 1 - (largest eigenvalue of W)/4, and arms that grow for ever. That
    # W σ(0) is taken away makes the map round as if its length were ε.
    rng = np.random.default_rng(12)
    w = 3 * rng.normal(size=(2, 2))
    w = (w + w.T) / 2
    terms = pair(c=(-w.sum(axis=1) / 2, (0, 0)), a=(np.zeros((2, 2)), np.eye(2)), w=w)
    found = diagram(planar_family, (-1.0, 0.9), jnp.asarray(rng.normal(size=(2, 2))), u=terms, num_doublings=0)
    assert found.periods == (1, 1)
    np.testing.assert_allclose(parameters(found, "BP"), 1 - np.linalg.eigvalsh(w)[-1] / 4, rtol=0, atol=1e-9)


def test_a_fields_equilibria_fold_where_its_maps_fixed_points_do():
    # Doya's neuron, beside a unit that rests at 0.
    field = Circuit(jnp.zeros((2, 2, 2)).at[0, 0, 0].set(5.0), jnp.array([[0.0, 0.0], [1.0, 0.0]]))
    found = diagram(field, (-3.0, -2.0), jnp.array([[0.5, 0.0], [4.5, 0.0]]), time="continuous")
    np.testing.assert_allclose(parameters(found, "LP"), sorted(b for b, _ in reference.DOYA_FOLDS[5.0]), atol=1e-13)


def pitchfork(w):
    """With z = y + θ, z' = ((4 + p)/2) tanh(z/2) - z in the first unit: beside z = 0, of the rate p/4, two arms from
    p = 0 on. The second is at rest at y = w/2, its rate is w/4 - 1."""
    weights = jnp.zeros((2, 2, 2)).at[:, 0, 0].set(jnp.array([4.0, 1.0])).at[0, 1, 1].set(w)
    return Circuit(weights, jnp.array([[-2.0, -w / 2], [-0.5, 0.0]]))


def trunk_and_arms(found, w):
    """The z of the first unit on both branches, which are all that there is."""
    assert kinds(found) == ["BP"]
    assert found.events[0].p == pytest.approx(0, abs=1e-10)
    assert found.periods == (1, 1)
    trunk, arms = (branch.x[:, 0] - branch.p / 2 - 2 for branch in found.branches)
    np.testing.assert_allclose(trunk, 0, atol=1e-12)
    np.testing.assert_allclose((found.branches[1].p + 4) / 2 * np.tanh(arms / 2), arms, rtol=0, atol=1e-12)
    assert np.sign(arms[[0, -1]]).tolist() in ([-1, 1], [1, -1])
    assert all(np.abs(branch.x[:, 1] - w / 2).max() < 1e-12 for branch in found.branches)
    return found.branches


def test_a_fields_pitchfork_has_all_its_arms_and_is_where_no_proof_is():
    found = diagram(pitchfork(-8.0), (-1.0, 1.0), jnp.array([[2.0, -4.0], [2.1, -4.0]]), time="continuous")
    trunk, arms = trunk_and_arms(found, -8.0)
    np.testing.assert_array_equal(trunk.stable[abs(trunk.p) > 1e-6], trunk.p[abs(trunk.p) > 1e-6] < 0)
    assert arms.stable[arms.p > 1e-6].all()
    assert arms.stable[np.argmin(arms.p)]  # the vertex is as stable as what follows
    np.testing.assert_array_equal(found.proved, found.values != 0)  # at 0 three equilibria are one
    assert "proved complete at 16 of 17 values" in repr(found)


def test_where_nothing_is_proved_a_fields_arms_are_found_from_its_branch_point(monkeypatch):
    # The other rate is 1, which of a map would be critical.
    monkeypatch.setattr(diagrams, "_enumerated", lambda *_: None)
    found = diagram(pitchfork(8.0), (-1.0, 1.0), jnp.array([[2.0, 4.0], [2.1, 4.0]]), time="continuous", num_values=2)
    branches = trunk_and_arms(found, 8.0)
    assert not found.proved.any()
    assert not any(branch.stable.any() for branch in branches)


def test_what_is_proved_of_a_map_is_not_said_of_the_field_of_the_same_form():
    one = PascanuRNN(jnp.eye(1) / 2, None, jnp.ones(1), activations.tanh)
    known = [diagrams._enumerated(one, None, time) for time in ("discrete", "continuous")]
    assert [proof is not None and proof.complete for proof in known] == [True, False]


def test_the_iterate_has_the_product_of_the_jacobians():
    step, x = Iterate(bistable_module(0.3), 3), jnp.array([0.5, 4.0])
    np.testing.assert_allclose(step.jacobian(x), jax.jacfwd(step)(x), rtol=0, atol=1e-13)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_span": (1.0, 1.0)}, "p_span must be .least, largest., the first below"),
        ({"p_span": (1.0, 1.0 + 1e-8), "starts": jnp.zeros((1, 1), jnp.float32)}, "p_span must be .* in float32 too"),
        ({"p_span": 3.0}, "p_span must be a pair"),
        ({"starts": jnp.zeros(1)}, r"starts must be a float array of shape \(s, n\)"),
        ({"num_values": 1}, "num_values.*1"),
        ({"num_doublings": -1}, "num_doublings.*-1"),
        ({"time": "later"}, "time.*'later'"),
        ({"starts": jnp.zeros((0, 1))}, "starts must hold at least one"),
        ({"family": lambda p: p * jnp.ones(1)}, "family must return a map"),
    ],
)
def test_misuse_is_named(change, message):
    arguments = {"p_span": (0.0, 1.0), "starts": jnp.zeros((1, 1))} | change
    with pytest.raises(ValueError, match=message):
        diagram(arguments.pop("family", Logistic), arguments.pop("p_span"), arguments.pop("starts"), **arguments)


@pytest.mark.usefixtures("unchecked")
def test_inside_jit_it_says_that_it_runs_on_the_host():
    with pytest.raises(ValueError, match="starts must be known numbers, as diagram runs on the host"):
        jax.jit(lambda x: diagram(Logistic, (0.0, 1.0), x).values)(jnp.zeros((1, 1)))
