"""Certificates: what is certified is true to forty digits, and what is not true is never certified."""

import itertools
import operator

import equinox
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from rnn_dynamics import activations
from rnn_dynamics.activations import Activation
from rnn_dynamics.fixed_points import canonical, certify, find, rigorous
from rnn_dynamics.models import CTRNN, DoyaNeuron, ElmanRNN, PascanuRNN
from rnn_dynamics.models.reference import Henon, bistable_module, oscillator
from rnn_dynamics.simulate import final_state
from tests import reference

EPS = np.finfo(float).eps
SOFT = Activation("soft", lambda z: jnp.tanh(z), slope=1.0, curvature=0.77)  # not known to be tanh


def network(seed, n, gain, activation=activations.tanh):
    rng = np.random.default_rng(seed)
    w, b = rng.standard_normal((n, n)) * gain / np.sqrt(n), 0.5 * rng.standard_normal(n)
    return PascanuRNN(w, None, b, activation)


def fixed_point(model):
    """Of a Pascanu network of tanh units, by Newton's method in NumPy."""
    w, b = np.asarray(model.w_rec, dtype=float), np.asarray(model.b, dtype=float)
    x = b.copy()
    for _ in range(50):
        s = np.tanh(x)
        g = x - w @ s - b
        if np.abs(g).max() < 1e-14 * len(x):
            break
        x = x - np.linalg.solve(np.eye(len(x)) - w * (1 - s**2), g)
    assert np.abs(x - w @ np.tanh(x) - b).max() < 1e-12
    return x


def digits(w, b, x):
    """The fixed point x = W tanh x + b near x, to 40 digits."""
    with mpmath.workdps(40):
        w, b, z = (mpmath.matrix(np.asarray(each, dtype=float).tolist()) for each in (w, b, x))
        for _ in range(6):
            s = z.apply(mpmath.tanh)
            slope = mpmath.diag([1 - entry**2 for entry in s])
            z -= mpmath.lu_solve(mpmath.eye(len(z)) - w * slope, z - w * s - b)
        return list(z)


def distance(exact, x):
    with mpmath.workdps(40):
        return max(abs(p - mpmath.mpf(float(q))) for p, q in zip(exact, x, strict=True))


@pytest.mark.parametrize("activation", [activations.tanh, SOFT], ids=["known", "unknown"])
def test_the_true_fixed_point_is_within_the_radius_of_wrong_points_too(activation):
    model = network(0, 4, 3.0, activation)
    x = fixed_point(model)
    exact = digits(model.w_rec, model.b, x)
    rng = np.random.default_rng(1)
    certified = []
    for size in (0, *10.0 ** np.arange(-16, 1)):
        wrong = x + size * rng.uniform(-1, 1, 4)
        certificate = certify(model, jnp.asarray(wrong))
        certified.append(certificate.status == "certified")
        assert certificate.radius >= distance(exact, wrong)
        if certified[-1]:
            assert certificate.radius <= 3 * distance(exact, wrong) + 1e-13  # 1e-13: a hundred roundings of x and σ
    assert all(certified[:12])  # up to an error of 1e-5
    assert not certified[-1]


def test_an_inclusion_holds_the_fixed_point_and_not_its_mirror_image():
    model = network(0, 4, 3.0)
    x = fixed_point(model)
    exact = digits(model.w_rec, model.b, x)
    off = x + np.random.default_rng(2).uniform(-1, 1, (9, 4)) * 10.0 ** -np.arange(3, 12)[:, None]
    lo, hi, proved = canonical.inclusion(canonical.canonical(model, None), off)
    assert proved.all()
    with mpmath.workdps(40):
        for least, most in zip(lo, hi, strict=True):
            assert all(mpmath.mpf(p) <= e <= mpmath.mpf(q) for p, e, q in zip(least, exact, most, strict=True))
    errors = np.abs(off - x).max(1)
    assert (hi - lo).max() < 1e-3
    assert ((hi - lo).max(1) < 1e3 * errors**2 + 1e-12).all()  # Newton's step: what is left is quadratic


@pytest.mark.parametrize("b", reference.DOYA_EQUILIBRIA)
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_published_fixed_points_are_certified(b, epsilon):
    for x in reference.DOYA_EQUILIBRIA[b]:
        certificate = certify(DoyaNeuron(w=5.0, b=b, epsilon=epsilon), jnp.array([x]))
        assert certificate.status == "certified"
        assert certificate.radius < 1e-13


@pytest.mark.parametrize(
    ("step", "x"),
    [
        (lambda x, u: x + (x - 1) ** 2, [1.0]),
        (lambda x, u: x + (x - 1) ** 2, [1.0 + 1e-9]),
        (lambda x, u: x + (x - 1) ** 2 + 1e-15, [1.0]),  # none at all
        (lambda x, u: jnp.tanh(x), [0.0]),
        (PascanuRNN(jnp.eye(1), None, jnp.zeros(1), activations.tanh), [0.0]),
        (DoyaNeuron(w=4.0, b=-2.0), [0.5]),
        (DoyaNeuron(w=5.0, b=reference.DOYA_FOLDS[5.0][0][0]), [reference.DOYA_FOLDS[5.0][0][1]]),
        (bistable_module(reference.BISTABLE_MODULE["folds"][0][0]), [-1.48011111649246, 5.9262]),
        (lambda x, u: x, [0.3]),
        (ElmanRNN(jnp.eye(2), None, jnp.zeros(2), activations.identity), [0.3, 0.2]),
        (ElmanRNN(jnp.eye(2) - 2.0**27, None, jnp.zeros(2)), [0.0, 0.0]),  # I - W is 2²⁷ of a singular matrix
    ],
)
def test_a_multiple_root_is_never_certified(step, x):
    certificate = certify(step, jnp.array(x))
    assert certificate.status == "not certified"
    assert certificate.radius == np.inf
    assert certificate.reason


@pytest.mark.parametrize(
    ("step", "x", "word"),
    [
        (lambda x, u: x / 2 + jnp.sign(x), 0.0, "jump"),  # G changes its sign at 0 and has no zero
        (lambda x, u: jnp.where(x > 0.5, 0.2, 0.8) + 0 * x, 0.5, "branches"),
        (lambda x, u: x + jnp.floor(x + 0.5) - 0.5, 0.0, "floor"),
        (lambda x, u: jnp.cos(x) + 1e-3, 0.7390851332151607, ""),
        (lambda x, u: 1 / (x - x), 0.0, ""),
        (lambda x, u: jnp.log(x - 2), 1.0, ""),
        (lambda x, u: jnp.sqrt(x), 0.0, ""),
        (lambda x, u: x * jnp.nan, 0.5, ""),
        (lambda x, u: 1e200 * (x**3 - 1), 2.0, ""),
    ],
)
def test_where_no_fixed_point_is_near_none_is_certified(step, x, word):
    certificate = certify(step, jnp.array([x]))
    if certificate.status == "certified":  # then one is there, but only so near
        assert certificate.radius >= 5e-4
    assert word in certificate.reason


@pytest.mark.parametrize("function", [jax.nn.softplus, lambda x: -jax.nn.log_sigmoid(-x)])
def test_asking_whether_a_number_is_nan_is_no_branch(function):  # as JAX does in both, by x != x
    b = np.log(0.75)  # x = log(1 + e^{x + b}) at x = -log(1 - e^b) = log 4
    certificate = certify(lambda x, u: function(x + b), jnp.array([np.log(4.0)]))
    with mpmath.workdps(40):
        error = abs(-mpmath.log(1 - mpmath.exp(mpmath.mpf(float(b)))) - mpmath.mpf(float(np.log(4.0))))
        assert error <= certificate.radius < 1e-14
    assert certify(lambda x, u: function(x + b), jnp.array([1.5])).radius >= 1.5 - np.log(4.0)
    assert "branches" in certify(lambda x, u: jnp.where(x != u, x / 2, 0.3), jnp.zeros(1), jnp.zeros(1)).reason


def test_a_declared_derivative_proves_nothing():  # x' = x²/2 + ½ has a double root at 1, whatever JAX is told
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (square(*primals), 0 * tangents[0]))
    step = lambda x, u: square(x) / 2 + 0.5  # noqa: E731
    assert certify(step, jnp.ones(1)).status == "not certified"
    assert (
        certify(lambda x, u: x + jax.lax.stop_gradient(jnp.cos(x) - x), jnp.array([0.7390851332151607])).radius < 1e-15
    )


def test_a_corner_is_certified_only_where_it_does_no_harm():
    w = jnp.array([[0.5, 0.2], [0.1, 0.3]])
    touching = PascanuRNN(w, None, jnp.zeros(2), activations.relu)
    assert certify(touching, jnp.zeros(2)).status == "certified"  # both sides contract: one fixed point, on the corner
    assert "corner" in certify(lambda x, u: touching(x), jnp.zeros(2)).reason
    away = PascanuRNN(w, None, jnp.ones(2), activations.relu)
    x = jnp.linalg.solve(jnp.eye(2) - w, jnp.ones(2))
    for step in (away, lambda x, u: away(x)):
        assert certify(step, x).radius < 1e-14
    assert certify(PascanuRNN(jnp.eye(1), None, jnp.zeros(1), activations.relu), jnp.ones(1)).status == "not certified"


def test_a_large_network_is_certified():
    model = network(2, 512, 1.5)
    x = fixed_point(model)
    certificate = certify(model, jnp.asarray(x))
    assert certificate.status == "certified"
    assert certificate.radius < 1e-10  # 512 roundings of σ, through an inverse of norm 100
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    assert certify(single, jnp.asarray(x, jnp.float32)).radius < 1e-5


def test_float32_points_are_certified_for_the_float32_parameters():
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network(3, 5, 1.0))
    x = jnp.asarray(fixed_point(single), jnp.float32)
    exact = digits(single.w_rec, single.b, np.asarray(x))
    custom = PascanuRNN(single.w_rec, None, single.b, SOFT)
    for step in (single, custom, lambda x, u: single(x)):
        certificate = certify(step, x)
        assert distance(exact, x) <= certificate.radius < 1e-6


def gated(x, u):
    """A cell with most of what a map is made of: gates, products, shifts, a loop."""
    w = jnp.asarray(np.random.default_rng(4).standard_normal((9, 3)) * 0.4)
    z, r, h = jnp.split(w @ x, 3)
    z, r = jax.nn.sigmoid(z), jax.nn.sigmoid(r + 0.1)
    new = jnp.tanh(h * r + jnp.array([0.3, -0.1, 0.2])) + 0.01 * jnp.roll(x, 1) - 0.1 * jnp.exp(-jnp.abs(x - 5.0)).sum()
    return jax.lax.fori_loop(
        0, 2, lambda _, y: y + 0.1 * jnp.maximum(y, -7.0) ** 2 / jnp.sqrt(4.0 + y @ y), (1 - z) * new + z * x
    )


def test_a_cell_made_of_many_operations_is_certified():
    found = find(gated, jnp.zeros((1, 3)))
    assert certify(gated, found.x[0]).radius < 1e-14
    off = found.x[0] + 1e-6
    assert 0.9e-6 < certify(gated, off).radius < 1e-5


@pytest.mark.parametrize(
    "name", ["exp2", "expm1", "log", "log1p", "sin", "tan", "sinh", "cosh", "arcsinh", "arctan", "sqrt"]
)
def test_the_intervals_hold_the_value_and_the_derivative(name):
    function = getattr(jnp, name)
    x = 0.7
    step = lambda x: jnp.stack([function(x[0]), jax.lax.erf(x[0]) / x[1], x[1] ** x[0] - jax.lax.rsqrt(x[1])])[:2]  # noqa: E731
    trace = jax.make_jaxpr(step)(jnp.ones(2))
    value, jacobian = rigorous.value_and_jacobian(trace, [rigorous.flint.arb(x), rigorous.flint.arb(1.3)])
    there = jnp.array([x, 1.3])
    np.testing.assert_allclose([float(entry.mid()) for entry in value.entries()], step(there), rtol=4 * EPS)
    slopes = np.reshape([float(entry.mid()) for entry in jacobian.entries()], (2, 2))
    np.testing.assert_allclose(slopes, jax.jacfwd(step)(there), rtol=1e-14, atol=1e-16)


def test_a_map_that_hands_a_state_on_as_it_is_is_certified():
    delayed = lambda x, u: jnp.stack([1.5 * x[0] * (1 - x[1]), x[0]])  # noqa: E731
    for x in (1 / 3, 0.0):
        assert certify(delayed, jnp.full(2, x)).radius < 1e-15
    assert certify(delayed, jnp.full(2, 0.32)).radius >= 1 / 3 - 0.32


OPERATIONS = {  # each with its value by mpmath, at a point away from corners
    "neg": (jax.lax.neg, lambda x: -x, 0.7),
    "tanh": (jax.lax.tanh, mpmath.tanh, 0.7),
    "logistic": (jax.lax.logistic, lambda x: 1 / (1 + mpmath.exp(-x)), 0.7),
    "exp": (jax.lax.exp, mpmath.exp, 0.7),
    "exp2": (jax.lax.exp2, lambda x: mpmath.power(2, x), 0.7),
    "expm1": (jax.lax.expm1, mpmath.expm1, 0.7),
    "log": (jax.lax.log, mpmath.log, 0.7),
    "log1p": (jax.lax.log1p, mpmath.log1p, 0.7),
    "sqrt": (jax.lax.sqrt, mpmath.sqrt, 0.7),
    "rsqrt": (jax.lax.rsqrt, lambda x: 1 / mpmath.sqrt(x), 0.7),
    "square": (jax.lax.square, lambda x: x * x, 0.7),
    "sin": (jax.lax.sin, mpmath.sin, 0.7),
    "cos": (jax.lax.cos, mpmath.cos, 0.7),
    "tan": (jax.lax.tan, mpmath.tan, 0.7),
    "sinh": (jax.lax.sinh, mpmath.sinh, 0.7),
    "cosh": (jax.lax.cosh, mpmath.cosh, 0.7),
    "asinh": (jax.lax.asinh, mpmath.asinh, 0.7),
    "atan": (jax.lax.atan, mpmath.atan, 0.7),
    "erf": (jax.lax.erf, mpmath.erf, 0.7),
    "erfc": (jax.lax.erfc, mpmath.erfc, 0.7),
    "abs": (jax.lax.abs, abs, -0.7),
    "sign": (jax.lax.sign, mpmath.sign, -0.7),
    "integer_pow": (lambda x: jax.lax.integer_pow(x, 3), lambda x: x**3, -0.7),
    "integer_pow, below 0": (lambda x: jax.lax.integer_pow(x, -2), lambda x: x**-2, -0.7),
    "clamp": (lambda x: jax.lax.clamp(-1.0, x, 1.0), lambda x: x, 0.7),
    "clamp, below": (lambda x: jax.lax.clamp(-1.0, x, 1.0), lambda x: -1, -1.7),
    "clamp, above": (lambda x: jax.lax.clamp(-1.0, x, 1.0), lambda x: 1, 1.7),
    "add_any": (jax.grad(lambda x: x * jnp.sin(x)), lambda x: mpmath.sin(x) + x * mpmath.cos(x), 0.7),
    "add": (jax.lax.add, lambda a, b: a + b, 0.7, 1.3),
    "sub": (jax.lax.sub, lambda a, b: a - b, 0.7, 1.3),
    "mul": (jax.lax.mul, lambda a, b: a * b, 0.7, 1.3),
    "div": (jax.lax.div, lambda a, b: a / b, 0.7, 1.3),
    "pow": (jax.lax.pow, mpmath.power, 0.7, 1.3),
    "max": (jax.lax.max, max, 0.7, 1.3),
    "max, other": (jax.lax.max, max, 1.3, 0.7),
    "min": (jax.lax.min, min, 0.7, 1.3),
    "min, other": (jax.lax.min, min, 1.3, 0.7),
}


def test_every_operation_of_the_tables_is_among_them():
    assert {*rigorous._UNARY, *rigorous._BINARY} <= {name.partition(",")[0] for name in OPERATIONS}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_its_value_and_the_slopes_of_its_chords(name):
    operation, exact, *point = OPERATIONS[name]
    # As many results as numbers, of which the first counts.
    trace = jax.make_jaxpr(lambda x: jnp.stack([operation(*x), *x[1:]]))(np.array(point))
    assert f" {name.partition(',')[0]}" in str(trace)
    with rigorous.flint.ctx.workprec(300), mpmath.workprec(300):
        point, h = [*map(rigorous.flint.arb, point)], rigorous.flint.arb(2) ** -60
        value, jacobian = rigorous.value_and_jacobian(trace, point)
        error = mpmath.mpf(value[0, 0].str(80, radius=False)) - exact(*(mpmath.mpf(float(x)) for x in point))
        assert abs(error) < 1e-75  # 300 bits are 90 digits
        for i in range(len(point)):
            nudged = [[x + sign * h * (i == j) for j, x in enumerate(point)] for sign in (1, -1)]
            ahead, behind = (rigorous.value_and_jacobian(trace, place)[0][0, 0] for place in nudged)
            # The chord's slope is off by h²/6 times the third derivative, and h² is 8e-37.
            assert abs((ahead - behind) / (2 * h) - jacobian[0, i]) < 1e-34


@pytest.mark.parametrize("name", ["gt", "lt", "ge", "le", "eq", "ne"])
def test_a_comparison_is_made_where_all_numbers_in_the_boxes_agree(name):
    compare, here = getattr(jax.lax, name), getattr(operator, name)
    trace = jax.make_jaxpr(lambda x: jnp.where(compare(x[0], x[1]), x, -x))(np.ones(2))
    boxes = [(1, 1), (2, 2), (0.75, 1.25), (1.5, 2.5), (2.25, 4), (5, 6)]  # points, and boxes that overlap or do not
    for a, b in itertools.product(boxes, repeat=2):
        outcomes = {here(p, q) for p, q in itertools.product(np.linspace(*a, 5), np.linspace(*b, 5))}
        box = [rigorous.flint.arb((low + high) / 2, (high - low) / 2) for low, high in (a, b)]
        if len(outcomes) > 1:
            with pytest.raises(rigorous.CannotEvaluate, match=f"two branches .{name}."):
                rigorous.value_and_jacobian(trace, box)
        else:
            _, jacobian = rigorous.value_and_jacobian(trace, box)
            assert jacobian[0, 0] == (1 if outcomes == {True} else -1)


@pytest.mark.parametrize(("reverse", "y", "slopes"), [(True, [19, 6], [6, 3, 0, 1]), (False, [4, 21], [1, 0, 5, 4])])
def test_a_scan_runs_either_way(reverse, y, slopes):
    def once(carry, x):
        return carry * x + 1, carry * x + 1

    trace = jax.make_jaxpr(lambda x: jax.lax.scan(once, 1.0, x, reverse=reverse)[1])(np.ones(2))
    there = rigorous.value_and_jacobian(trace, [rigorous.flint.arb(3), rigorous.flint.arb(5)])
    # From the end 5 + 1 and 3 (5 + 1) + 1, from the beginning 3 + 1 and 5 (3 + 1) + 1.
    assert [[*map(float, each.entries())] for each in there] == [y, slopes]


AT_REST = {
    "square": lambda x: 0.5 * x + x**2,
    "cube": lambda x: 1.3 * x - x**3,
    "inverse square": lambda x: 0.5 * x + (2.0 - x) ** -2 - 0.25 * (1 + x),
    "arctan": lambda x: 0.5 * jnp.arctan(x),
    "arcsinh": lambda x: 0.5 * jnp.arcsinh(x),
    "tan": lambda x: 0.5 * jnp.tan(x),
    "erf": lambda x: 0.5 * jax.lax.erf(x),
    "gelu": lambda x: 0.5 * jax.nn.gelu(x),
    "exact gelu": lambda x: 0.5 * jax.nn.gelu(x, approximate=False),
    "a bell": lambda x: 0.5 * x * jnp.exp(-(x**2)),
}


@pytest.mark.parametrize("name", AT_REST)
def test_a_unit_at_rest_is_certified_at_zero(name):
    step = AT_REST[name]
    assert certify(lambda x, u: step(x), jnp.zeros(1)).radius < 1e-16
    # In a box round 0 the intervals hold the value and the derivative at each of its points.
    radius, trace = 0.1, jax.make_jaxpr(step)(jnp.zeros(1))
    value, slope = rigorous.value_and_jacobian(trace, [rigorous.flint.arb(0, radius)])
    points = np.linspace(-radius, radius, 21)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(step)))(points)
    for enclosure, inside in ((value, values), (slope, slopes)):
        low, high = (float(end) for end in (enclosure[0, 0].lower(), enclosure[0, 0].upper()))
        assert low - EPS <= inside.min() <= inside.max() <= high + EPS
        assert high - low < 1.0


def test_a_map_that_draws_random_numbers_is_not_certified():
    noisy = lambda x, u: 0.5 * x + 0.1 * jax.random.normal(jax.random.key(0), x.shape)  # noqa: E731
    assert certify(noisy, jnp.zeros(1)).reason == "the map draws random numbers"


def test_an_unstable_cycle_is_certified_as_a_fixed_point_of_the_iterate():
    x = jnp.array(reference.HENON_TWO_CYCLE)
    twice = lambda x, u: final_state(Henon(), x, num_steps=2)  # noqa: E731
    assert certify(twice, x).radius < 1e-8
    assert certify(Henon(), x).radius > 0.3  # the fixed point, at 0.631


def test_an_equilibrium_of_a_field_is_certified_as_one():
    x = jnp.array(reference.OSCILLATOR["equilibrium"])
    assert certify(oscillator(), x, time="continuous").radius < 1e-12
    assert certify(lambda x, u: oscillator()(x), x, time="continuous").radius < 1e-14
    assert certify(oscillator(), x).status == "not certified"  # as a map it does something else
    driven = CTRNN(jnp.eye(1), jnp.zeros(1), 3.0)
    still = find(driven, jnp.zeros((1, 1)), jnp.array([0.2]), time="continuous").x[0]
    assert certify(driven, still, jnp.array([0.2]), time="continuous").radius < 1e-14


def test_the_two_proofs_agree():
    for seed in range(6):
        model = network(seed, 3, 0.9)
        x = jnp.asarray(fixed_point(model)) + 1e-7
        in_numpy, in_arb = certify(model, x), certify(lambda x, u, model=model: model(x), x)
        assert in_numpy.status == in_arb.status == "certified"
        assert in_numpy.radius == pytest.approx(1e-7, rel=1e-3)
        assert in_arb.radius >= 1e-7 * (1 - 1e-6)


def test_certificates_print_what_they_say():
    assert repr(certify(DoyaNeuron(w=5.0, b=-2.5), jnp.array([0.5]))).startswith("Certificate(certified: radius ")
    assert "not known" in repr(certify(lambda x, u: jnp.sort(x) / 2, jnp.zeros(3)))


@pytest.mark.usefixtures("unchecked")
def test_misuse_is_named(monkeypatch):
    neuron = DoyaNeuron(w=5.0, b=-2.5)
    with pytest.raises(ValueError, match="x must be finite"):
        certify(neuron, jnp.array([jnp.nan]))
    with pytest.raises(ValueError, match="x must be a float array"):
        certify(neuron, jnp.array(0.5))
    with pytest.raises(ValueError, match="time"):
        certify(neuron, jnp.array([0.5]), time="both")
    with pytest.raises(ValueError, match="step must map"):
        certify(lambda x, u: x[:1], jnp.ones(2))
    with pytest.raises(ValueError, match="traced"):
        equinox.filter_jit(lambda x: certify(neuron, x).radius)(jnp.array([0.5]))
    monkeypatch.setattr(rigorous, "flint", None)
    assert certify(neuron, jnp.array([0.5])).status == "certified"
    with pytest.raises(ImportError, match=r"rnn_dynamics\[certify\]"):
        certify(lambda x, u: jnp.cos(x), jnp.ones(1))
