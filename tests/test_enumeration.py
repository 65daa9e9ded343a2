"""Enumeration: as many fixed points as theory says, each within the radius that is said to be proved, and no other."""

import itertools
from fractions import Fraction

import equinox
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics import activations
from rnn_dynamics.activations import Activation
from rnn_dynamics.fixed_points import canonical, certify, cycles, find, intervals
from rnn_dynamics.fixed_points.enumeration import enumerate as enumerate_
from rnn_dynamics.models import CTRNN, DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.models.reference import Henon, bistable_module, chaotic_module, oscillator
from tests import reference

EPS = np.finfo(float).eps


def network(w, b=0.0, activation=activations.tanh):
    w = np.asarray(w, dtype=float)
    return PascanuRNN(w, None, np.broadcast_to(np.asarray(b, dtype=float), len(w)), activation)


def random_network(seed, n, gain, bias=0.5):
    rng = np.random.default_rng(seed)
    return network(rng.standard_normal((n, n)) * gain / np.sqrt(n), bias * rng.standard_normal(n))


def states(points):
    return np.asarray(points.x)


def solution(w, b, start):
    """The zero of wσ(y) + b - y near `start`, to 40 digits, as the state σ(y)."""
    with mpmath.workdps(40):
        w, b = mpmath.mpf(w), mpmath.mpf(b)
        return 1 / (1 + mpmath.exp(-mpmath.findroot(lambda y: w / (1 + mpmath.exp(-y)) + b - y, start)))


@pytest.mark.parametrize(
    "enclosure", [intervals.enclosure_of(activations.tanh), intervals.enclosure_of(activations.sigmoid)]
)
def test_an_activation_and_its_remainder_stay_in_their_enclosures(enclosure):  # against 40 digits
    rng = np.random.default_rng(0)
    lo = rng.normal(size=400) * rng.choice([1e-6, 0.1, 1, 5, 30], 400)
    hi = lo + rng.choice([0, 1e-9, 1e-5, 1e-2, 1, 4], 400) * rng.uniform(size=400)
    slope = canonical.slope_of(_scalar(enclosure), lo, hi)
    (low, high), rest, slopes = enclosure.image(lo, hi), enclosure.remainder(lo, hi, slope), enclosure.slopes(lo, hi)
    with mpmath.workdps(100):  # 1 - s² cancels 30 digits of them
        for i in range(400):
            for share in (0, *rng.uniform(size=3), 1):
                z = mpmath.mpf(lo[i]) + mpmath.mpf(share) * (mpmath.mpf(hi[i]) - mpmath.mpf(lo[i]))
                s = mpmath.tanh(z) if enclosure.least < 0 else 1 / (1 + mpmath.exp(-z))
                steep = 1 - s**2 if enclosure.least < 0 else s * (1 - s)
                assert low[i] <= s <= high[i]
                assert abs(s - mpmath.mpf(slope[i]) * z - mpmath.mpf(rest.mid[i])) <= rest.rad[i]
                assert slopes[0][i] <= steep <= slopes[1][i]


def _scalar(enclosure):
    zero = intervals.Ball.point(np.zeros(1))
    return canonical.Canonical(intervals.Ball.point(np.eye(1)), zero, enclosure, False, zero, "discrete")


def test_bounds_on_products_hold_against_exact_sums():
    rng = np.random.default_rng(1)
    a, x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 8, shape) for shape in ((40, 60), (60,)))
    with mpmath.workdps(60):
        exact = [mpmath.fsum(mpmath.mpf(p) * mpmath.mpf(q) for p, q in zip(row, x, strict=True)) for row in a]
        for ball in (intervals.exact_dot(a, x), intervals.product(*map(intervals.Ball.point, (a, x[:, None])))):
            mid, rad = ball.mid.ravel(), ball.rad.ravel()
            assert all(abs(e - mpmath.mpf(m)) <= r for e, m, r in zip(exact, mid, rad, strict=True))
    sharp = intervals.exact_dot(a, x)
    assert (sharp.rad <= 2 * EPS * np.abs(sharp.mid) + 1e-25 * (np.abs(a) @ np.abs(x))).all()


def test_a_neurons_fixed_points_are_those_of_the_closed_form():
    rng = np.random.default_rng(0)
    cases = [(float(w), float(b)) for w, b in zip(rng.uniform(-12, 14, 60), rng.uniform(-16, 8, 60), strict=True)]
    cases += [
        (w, b + sign * d) for w in (4.5, 8.0) for b, _ in DoyaNeuron.folds(w) for sign in (-1, 1) for d in (1e-3, 1e-11)
    ]
    for w, b in cases:
        neuron = DoyaNeuron(w=w, b=float(b))
        points = enumerate_(neuron)
        assert points.complete
        assert len(points) == len(neuron.equilibria())
        for x, radius in zip(states(points)[:, 0], points.radius, strict=True):
            assert abs(mpmath.mpf(x) - solution(w, float(b), mpmath.log(x) - mpmath.log1p(-x))) <= radius


@pytest.mark.parametrize("b", reference.DOYA_EQUILIBRIA)
def test_a_neurons_published_fixed_points_and_multipliers_come_back(b):
    points = enumerate_(DoyaNeuron(w=5.0, b=b))
    np.testing.assert_allclose(states(points)[:, 0], reference.DOYA_EQUILIBRIA[b], rtol=0, atol=1e-14)
    np.testing.assert_allclose(points.multipliers[:, 0].real, reference.DOYA_MULTIPLIERS[b], rtol=0, atol=1e-13)
    assert list(points.stable) == [m < 1 for m in reference.DOYA_MULTIPLIERS[b]]


@pytest.mark.parametrize("n", [2, 3])
def test_the_cyclic_networks_have_three_fixed_points(n):  # h' = tanh(h · W), W[i, :] = -roll(linspace(-1, 1, n), -i)
    w = -np.stack([np.roll(np.linspace(-1, 1, n), -i) for i in range(n)])
    points = enumerate_(ElmanRNN(w.T, None, np.zeros(n)))
    assert points.complete
    assert len(points) == 3
    if n == 2:
        outer = reference.LATCH_STATES[2.0][1]  # both units see ±2 times themselves: a = 2 tanh a
        np.testing.assert_allclose(states(points), [[-outer, outer], [0, 0], [outer, -outer]], atol=1e-14)
    else:
        np.testing.assert_allclose(points.multipliers[[0, 2], 0], -1.0064061706, atol=1e-10)  # by a flip
        assert not points.stable.any()


@pytest.mark.parametrize("n", [1, 2, 6])
def test_decoupled_bistable_units_have_every_combination_of_their_states(n):  # 3ⁿ of them
    outer = reference.LATCH_STATES[2.0][0]
    points = enumerate_(network(2 * np.eye(n)))
    assert points.complete
    combinations = np.stack(np.meshgrid(*[(-outer, 0.0, outer)] * n, indexing="ij"), -1).reshape(-1, n)
    np.testing.assert_allclose(states(points), combinations, rtol=0, atol=1e-13)
    assert points.stable.sum() == 2**n


def test_pasemanns_modules_have_one_and_three_fixed_points():
    points = enumerate_(chaotic_module())
    np.testing.assert_allclose(states(points), [reference.CHAOTIC_MODULE["fixed_point"]], atol=1e-8)
    np.testing.assert_allclose(points.multipliers[0].real, reference.CHAOTIC_MODULE["multipliers"], atol=1e-8)
    (upper, _), (lower, _) = reference.BISTABLE_MODULE["folds"]
    for b1, count in ((lower - 1e-6, 1), (lower + 1e-6, 3), (upper - 1e-6, 3), (upper + 1e-6, 1)):
        points = enumerate_(bistable_module(b1))
        assert points.complete
        assert len(points) == count


@pytest.mark.parametrize(
    ("w", "b", "activation", "elsewhere"),
    [
        ([[5.0]], [reference.DOYA_FOLDS[5.0][0][0]], activations.sigmoid, 1),  # a fold: two in one
        ([[4.0]], [-2.0], activations.sigmoid, 0),  # the cusp: three in one
        ([[1.0]], [0.0], activations.tanh, 0),  # the pitchfork
        (np.diag([1.0, 2.0, 1.0]), [0.0, 0.0, 0.0], activations.tanh, 0),
        ([[0.0, -1.0], [1.0, 0.0]], [0.0, 0.0], activations.identity, 1),  # a rotation has one
        ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], activations.identity, 0),  # all states
        (np.eye(2) - 2.0**27, [0.0, 0.0], activations.identity, 0),  # a line of them, and large numbers
    ],
)
def test_a_bifurcation_point_is_left_undecided_and_nothing_else_is(w, b, activation, elsewhere):
    points = enumerate_(network(w, b, activation))
    assert len(points) == elsewhere
    assert points.complete == (np.shape(w) == (2, 2) and elsewhere == 1)
    assert len(points.undecided) <= 3
    lo, hi = points.undecided[:, 0, :, 0], points.undecided[:, 0, :, 1]
    assert (lo <= hi).all()
    if activation is activations.sigmoid:
        fold = reference.DOYA_FOLDS[5.0][0][1] if elsewhere else 0.5
        x = 5.0 * fold + b[0] if elsewhere else 0.0
        assert lo[0, 0] <= x <= hi[0, 0]
        assert hi[0, 0] - lo[0, 0] < (1e-6 if elsewhere else 1e-3)  # √ε and ε^(1/3), with a factor


def test_no_fixed_point_that_a_search_finds_is_missing():
    starts = jnp.asarray(np.random.default_rng(0).uniform(-6, 6, (500, 3)))
    for seed in range(8):
        model = random_network(seed, 3, [1.5, 3.0, 6.0][seed % 3])
        proved, found = enumerate_(model), find(model, starts)
        assert proved.complete
        distance = np.abs(states(proved)[:, None] - states(found)).max(-1)
        assert (distance.min(0) <= 1e-9).all()
        assert len(found) <= len(proved)
        assert (distance.min(1) <= 1e-9).mean() >= 0.5  # which no such search promises


def test_all_forms_of_a_network_have_the_same_fixed_points():
    rng = np.random.default_rng(3)
    w, b, push = 2.5 * rng.standard_normal((2, 2)), rng.standard_normal(2), np.array([[0.3], [-0.2]])
    u = jnp.array([0.7])
    pre = enumerate_(PascanuRNN(w, push, b, activations.tanh), u)
    post = enumerate_(ElmanRNN(w, push, b, activations.tanh, leak=0.3), u)
    field = enumerate_(CTRNN(w, jnp.asarray(b), 2.0, activations.tanh), jnp.asarray(push @ np.asarray(u)))
    order = np.lexsort(np.tanh(states(pre)).T[::-1])
    np.testing.assert_allclose(np.tanh(states(pre))[order], states(post), atol=1e-13)
    np.testing.assert_allclose(states(pre) - b, states(field), atol=1e-13)
    assert (field.residual < 1e-13).all()
    neuron = DoyaNeuron(w=5.0, b=-2.5, epsilon=0.3, w_in=0.1)
    np.testing.assert_allclose(
        neuron(enumerate_(neuron, jnp.array(0.5)).x[1], jnp.array(0.5)),
        enumerate_(neuron, jnp.array(0.5)).x[1],
        atol=1e-14,
    )


@pytest.mark.parametrize("w", reference.PASCANU_TWO_CYCLES)
def test_a_units_published_two_cycle_is_its_only_one(w):
    *pair, multiplier = reference.PASCANU_TWO_CYCLES[w]
    for model in (PascanuRNN([[w]], None, [-w / 2], activations.sigmoid), DoyaNeuron(w=w, b=-w / 2)):
        points = enumerate_(model, period=2)
        assert points.complete
        cycle = np.asarray(points.points)[0, :, 0]
        cycle = 1 / (1 + np.exp(-cycle)) if isinstance(model, PascanuRNN) else cycle
        np.testing.assert_allclose(cycle, pair, rtol=0, atol=1e-14)
        np.testing.assert_allclose(points.multipliers[:, 0].real, [multiplier], rtol=0, atol=1e-13)
        assert len(enumerate_(model, period=3)) == len(enumerate_(model, period=4)) == 0  # a decreasing map has none


def test_each_cycle_that_a_search_finds_is_enumerated_once():
    model = chaotic_module()
    points = enumerate_(model, period=5)
    found = cycles(model, jnp.asarray(np.random.default_rng(0).uniform(-10, 5, (50, 2))), 5)
    assert points.complete
    assert len(points) == len(found) == 2
    np.testing.assert_allclose(np.sort(states(points), 0), np.sort(np.asarray(found.x), 0), rtol=0, atol=1e-9)
    assert "cycles of period 5" in repr(points)


def test_cycles_of_a_leaky_network_close():
    model = ElmanRNN(np.array([[-6.0, 2.0], [2.0, -5.0]]), None, np.array([0.3, 0.1]), leak=0.7)
    points = enumerate_(model, period=2)
    assert points.complete
    assert len(points) == 4
    for cycle in points.points:
        np.testing.assert_allclose(model(cycle[0]), cycle[1], rtol=0, atol=1e-14)
        np.testing.assert_allclose(model(cycle[1]), cycle[0], rtol=0, atol=1e-14)
        assert float(jnp.abs(cycle[0] - cycle[1]).max()) > 1e-3
    assert points[1:].points.shape == (3, 2, 2)
    assert enumerate_(DoyaNeuron(w=-16.0, b=8.0, epsilon=0.4), period=2).undecided.shape == (1, 2, 1, 2)  # a flip


def test_an_equilibrium_of_a_field_is_classified_as_one():
    points = enumerate_(oscillator())
    np.testing.assert_allclose(states(points), [reference.OSCILLATOR["equilibrium"]], atol=1e-13)
    assert list(points.kind) == ["unstable focus"]


def test_a_relu_network_is_solved_region_by_region():  # x = W relu(x) + b by hand
    competing = network([[0.0, -2.0], [-2.0, 0.0]], [1.0, 1.0], activations.relu)
    points = enumerate_(competing)
    np.testing.assert_allclose(states(points), [[-1, 1], [1 / 3, 1 / 3], [1, -1]], atol=1e-14)
    assert points.complete
    assert list(points.kind) == ["stable node", "unstable node", "stable node"]  # ±2
    silent = enumerate_(network(np.random.default_rng(0).standard_normal((10, 10)), 0.0, activations.relu))
    np.testing.assert_array_equal(states(silent), np.zeros((1, 10)))  # on the border of all regions, and once there
    assert silent.complete
    ray = enumerate_(network([[1.0]], 0.0, activations.relu))
    np.testing.assert_array_equal(ray.undecided, [[[[0.0, np.inf]]]])


def beside_a_fold(w, b, side):
    """The fixed points of Doya's neuron next to its lower (-1) or upper (1) fold, to 40 digits: none or two.

    With y = w x + b they are at about y₀ ± √(2 (b - b₀)/b''), where b = y - w σ(y) and b'' = 2 x₀ - 1.
    """
    with mpmath.workdps(40):
        w, b = mpmath.mpf(w), mpmath.mpf(b)
        x = (1 + side * mpmath.sqrt(1 - 4 / w)) / 2
        y = mpmath.log(x / (1 - x))
        square = 2 * (b - y + w * x) / (2 * x - 1)
        return [solution(w, b, y + sign * mpmath.sqrt(square)) for sign in (-1, 1)] if square > 0 else []


@pytest.mark.parametrize("w", [5.0, 8.0])
@pytest.mark.parametrize("d", [0.0, 1e-14, 1e-13, 1e-12])
def test_beside_a_fold_each_fixed_point_is_proved_or_in_a_box_that_says_perhaps(w, d):
    for ((b, x), side), sign in itertools.product(zip(DoyaNeuron.folds(w), (-1, 1), strict=True), (-1, 1)):
        points, true = enumerate_(DoyaNeuron(w=w, b=float(b) + sign * d)), beside_a_fold(w, float(b) + sign * d, side)
        proved = [*zip(states(points)[:, 0].tolist(), points.radius.tolist(), strict=True)]
        boxes = points.undecided[:, 0, 0].tolist()
        for each in true:
            assert any(abs(each - p) <= r for p, r in proved) or any(low <= each <= high for low, high in boxes)
        number = sum(abs(p - float(x)) < 1e-4 for p, _ in proved)
        assert number == len(true) if points.complete else number <= 1
        assert len(boxes) == (not points.complete)
        assert all(high - low < 1e-6 for low, high in boxes)
        assert all(point.complete == points.complete for point in points)
        assert points.complete or d < 1e-12  # there the two are 3e-7 apart
        assert not points.complete or d > 0


def exact_relu_points(w, b):
    """The fixed points of x = W relu(x) + b in fractions, region by region, in ascending order."""
    n, found = len(b), []
    for on in itertools.product((0, 1), repeat=n):
        rows = [[Fraction(int(i == j)) - Fraction(w[i, j]) * on[j] for j in range(n)] for i in range(n)]
        rows = [[*row, Fraction(last)] for row, last in zip(rows, b, strict=True)]
        for i in range(n):  # Gauss and Jordan's elimination; no pivot of random numbers is 0
            rows[i] = [entry / rows[i][i] for entry in rows[i]]
            for j in set(range(n)) - {i}:
                rows[j] = [p - rows[j][i] * q for p, q in zip(rows[j], rows[i], strict=True)]
        x = [row[-1] for row in rows]
        if [entry > 0 for entry in x] == [side == 1 for side in on]:
            found.append(x)
    return sorted(found)


@pytest.mark.parametrize("least", [1e-3, 1e-6])
@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_points_of_a_relu_network_are_the_exact_ones_within_their_radii(seed, along, least):
    # Where all units are on, (I - W) v is as short as this, and I - W is known to ε. One point is there: along v, where
    # the inverse is what is least known, or not, where it is its product with b.
    rng = np.random.default_rng(seed)
    v, x = (each / np.linalg.norm(each) for each in rng.uniform(0.1, 1, (2, 3)))
    rest, other = rng.normal(size=(3, 3)), rng.normal(size=3)
    matrix = rest - np.outer(rest @ v - least * other, v)
    model = network(np.eye(3) - matrix, matrix @ (v if along else x), activations.relu)
    w, b = (np.asarray(each).tolist() for each in (model.w_rec, model.b))
    points, exact = enumerate_(model), exact_relu_points(np.asarray(w), b)
    assert points.complete
    assert len(points) == len(exact) >= 1
    for x, radius, true in zip(states(points), points.radius, exact, strict=True):
        error = max(abs(Fraction(p) - q) for p, q in zip(x.tolist(), true, strict=True))
        assert error <= Fraction(radius)
        assert radius <= 1e-13 / least  # some hundred roundings
        for off in (0.0, 1e-9, 1e-3 * least):
            at = x + off * rng.uniform(-1, 1, 3)
            error = max(abs(Fraction(p) - q) for p, q in zip(at.tolist(), true, strict=True))
            certificate = certify(model, jnp.asarray(at))
            assert error <= Fraction(certificate.radius)


@pytest.mark.parametrize(("leak", "dtype"), [(1e-3, jnp.float32), (1e-7, jnp.float64)])
def test_a_slow_units_points_are_classified_by_how_closely_they_are_proved(leak, dtype):
    # multipliers 1 + leak (2 tanh'(2x) - 1): 1 + leak at 0, and 1 - 0.83 leak where tanh' < 1/2
    points = enumerate_(ElmanRNN(jnp.array([[2.0]], dtype), None, jnp.zeros(1, dtype), leak=leak))
    assert points.kind.tolist() == ["stable node", "unstable node", "stable node"]


def test_a_float32_network_is_proved_as_its_float32_numbers_are():
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_network(4, 3, 4.0))
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), single)
    points, exact = enumerate_(single), enumerate_(double)
    assert points.x.dtype == jnp.float32
    assert len(points) == len(exact)
    distance = np.abs(states(points).astype(float) - states(exact)).max(1)
    assert (distance <= points.radius + exact.radius).all()
    assert (points.radius <= np.finfo(np.float32).eps * (1 + np.abs(states(exact)).max(1))).all()


def test_radii_are_proved_and_small():
    model = random_network(1, 5, 4.0)
    points = enumerate_(model)
    assert points.complete
    assert (points.radius < 1e-12).all()  # a hundred roundings of numbers near 5
    w, b = np.asarray(model.w_rec), np.asarray(model.b)
    with mpmath.workdps(40):
        exact_w, exact_b = mpmath.matrix(w.tolist()), mpmath.matrix(b.tolist())
        for x, radius in zip(states(points), points.radius, strict=True):
            z = mpmath.matrix(x.tolist())
            for _ in range(3):
                s = z.apply(mpmath.tanh)
                slope = mpmath.diag([1 - entry**2 for entry in s])
                z -= mpmath.lu_solve(mpmath.eye(5) - exact_w * slope, z - exact_w * s - exact_b)
            assert max(abs(p - mpmath.mpf(q)) for p, q in zip(z, x.tolist(), strict=True)) <= radius


def test_a_search_that_stops_early_says_where_it_did_not_look():
    model = random_network(0, 8, 12.0)
    points = enumerate_(model, max_boxes=50)
    assert not points.complete
    everything = enumerate_(model)
    assert everything.complete
    for x in states(everything):
        near = (np.abs(states(points) - x).max(-1) <= 1e-9).any()
        assert near or ((points.undecided[:, 0, :, 0] <= x) & (x <= points.undecided[:, 0, :, 1])).all(-1).any()


def test_points_can_be_selected_and_print_what_is_proved():
    points = enumerate_(DoyaNeuron(w=5.0, b=-2.5))
    stable = points[points.stable]
    assert len(stable) == 2
    assert len(stable.radius) == 2
    assert len(points[0]) == 1
    assert [len(point) for point in points] == [1, 1, 1]
    assert "3 points, 2 stable" in repr(points)
    assert "no other" in repr(points)
    assert "undecided" in repr(enumerate_(network([[1.0]])))


@pytest.mark.usefixtures("unchecked")
def test_misuse_is_named():
    softsign = Activation("softsign", lambda z: z / (1 + jnp.abs(z)), slope=1.0, curvature=2.0)
    with pytest.raises(ValueError, match=r"network .*CTRNN.*softsign"):
        enumerate_(network([[1.0]], activation=softsign))
    with pytest.raises(ValueError, match=r"network .*Henon"):
        enumerate_(Henon())
    with pytest.raises(ValueError, match="max_boxes"):
        enumerate_(network([[1.0]]), max_boxes=0)
    with pytest.raises(ValueError, match="max_boxes"):
        enumerate_(network(np.eye(4), activation=activations.relu), max_boxes=15)
    for model, period in ((network([[1.0]]), 0), (oscillator(), 2)):
        with pytest.raises(ValueError, match="period"):
            enumerate_(model, period=period)
    with pytest.raises(ValueError, match="u must be None"):
        enumerate_(network([[1.0]]), jnp.ones(1))
    with pytest.raises(ValueError, match="finite"):
        enumerate_(DoyaNeuron(w=5.0, b=0.0, w_in=1.0), jnp.array(jnp.nan))
    with pytest.raises(ValueError, match="traced"):
        equinox.filter_jit(lambda b: enumerate_(DoyaNeuron(w=5.0, b=b)).x)(jnp.array(0.0))
