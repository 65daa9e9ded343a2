"""Normal forms: coefficients against closed forms, other formulas and orbits; directions against the branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics.continuation import Event, branch_directions, flip_direction, normal_form
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.reference import Henon, Logistic
from tests import reference

W = 5.0


def at(kind, p, x, dtype=float):
    """An event known in closed form: the coefficients need no continuation."""
    x = np.asarray(x, dtype)
    return Event(kind, float(p), x, np.full(len(x), np.nan, complex), 0.0, True)


def doya(b):
    return DoyaNeuron(w=W, b=b)


def henon(a):
    return Henon(a=a, b=0.3)


def delayed_logistic(r):
    return lambda x, u: jnp.stack([r * x[0] * (1 - x[1]), x[0]])


def test_doyas_folds_have_the_curvature_of_the_closed_form():
    # F_xx / 2 = w(1-2x)/2 and F_b = 1/w.
    (b1, x1), (b2, x2) = reference.DOYA_FOLDS[W]
    for (b, x), sign in (((b1, x1), 1), ((b2, x2), -1)):
        form = normal_form(doya, at("LP", b, [x]))
        assert form.coefficient == pytest.approx(sign * reference.DOYA_FOLD_CURVATURE, rel=1e-13)
        assert form.parameter == pytest.approx(1 / W, rel=1e-13)
        assert form.verdict == "fold"


def test_a_cusp_is_a_degenerate_fold_with_a_cubic_term():
    # At w = 4, x = 1/2: F_xx = 0 and F_xxx = 64 σ''' (0) = -64/8.
    w, b, x = reference.DOYA_CUSP
    form = normal_form(lambda b: DoyaNeuron(w=w, b=b), at("LP", b, [x]))
    assert form.verdict == "degenerate"
    assert form.coefficient == pytest.approx(0, abs=1e-15)
    assert form.cubic == pytest.approx(-8 / 6, rel=1e-13)


def test_the_logistic_flip_is_supercritical_with_coefficient_9():
    # (f''/2)² + f'''/6 at r = 3, x = 2/3, where f'' = -6.
    form = normal_form(Logistic, at("PD", 3.0, [2 / 3]))
    assert form.coefficient == pytest.approx(9.0, rel=1e-13)
    assert form.verdict == "supercritical"


def test_a_flip_with_the_opposite_cubic_term_is_subcritical():
    form = normal_form(lambda p: lambda x, u: -(1 + p) * x - x**3, at("PD", 0.0, [0.0]))
    assert form.coefficient == pytest.approx(-1.0, rel=1e-14)
    assert form.verdict == "subcritical"


def test_henons_flip_agrees_with_the_cycle_born_there():
    # The 2-cycle of the Hénon map is known: x₁ + x₂ = (1-b)/a, x₁ x₂ = ((1-b)²/a - 1)/a, for a > 3(1-b)²/4.
    a0 = 0.3675
    x = (-0.7 + np.sqrt(0.49 + 4 * a0)) / (2 * a0)
    event = at("PD", a0, [x, 0.3 * x])
    assert normal_form(henon, event).verdict == "supercritical"
    cycle = jax.tree.map(np.asarray, flip_direction(henon, event))
    s = 1e-3
    a = a0 + s**2 * cycle.parameter
    half = np.sqrt((0.7 / a) ** 2 - 4 * (0.49 / a - 1) / a) / 2
    truth = 0.7 / (2 * a) + np.array([half, -half])
    points = [x + sign * s * cycle.first[0] + s**2 * cycle.second[0] for sign in (1, -1)]
    np.testing.assert_allclose(np.sort(points), np.sort(truth), rtol=0, atol=100 * s**3)


def test_the_predicted_cycle_is_a_cycle_up_to_higher_order():
    # With one unit v spans everything, so the terms in s³ are right too: the error is of the fourth order.
    cycle = jax.tree.map(np.asarray, flip_direction(Logistic, at("PD", 3.0, [2 / 3])))
    errors = []
    for s in (1e-2, 1e-3):
        first, second = (2 / 3 + sign * s * cycle.first + s**2 * cycle.second for sign in (1, -1))
        came = Logistic(3 + s**2 * cycle.parameter)(jnp.asarray(first))
        errors.append(abs(came.item() - second.item()))
    assert errors[0] / errors[1] == pytest.approx(1e4, rel=0.1)


def guckenheimer_holmes(A, quadratic, v, theta):
    """The coefficient a of ρ' = ρ + aρ³ for a quadratic map, in real coordinates (Guckenheimer, Holmes 1983, 3.5)."""
    T = np.column_stack([2 * v.real, -2 * v.imag])
    np.testing.assert_allclose(
        np.linalg.solve(T, A @ T), [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]], atol=1e-14
    )

    def second(i, j):
        f, g = np.linalg.solve(T, quadratic(T[:, i], T[:, j]))
        return f, g

    (fxx, gxx), (fxy, gxy), (fyy, gyy) = second(0, 0), second(0, 1), second(1, 1)
    xi20 = ((fxx - fyy + 2 * gxy) + 1j * (gxx - gyy - 2 * fxy)) / 8
    xi11 = ((fxx + fyy) + 1j * (gxx + gyy)) / 4
    xi02 = ((fxx - fyy - 2 * gxy) + 1j * (gxx - gyy + 2 * fxy)) / 8
    mu = np.exp(1j * theta)
    resonant = ((1 - 2 * mu) * mu.conj() ** 2 / (1 - mu) * xi11 * xi20).real
    return -resonant - abs(xi11) ** 2 / 2 - abs(xi02) ** 2


def test_the_delayed_logistic_maps_circle_is_born_stable():
    # At r = 2, x = 1/2: A = [[1, -1], [1, 0]], θ = π/3, B(v, w) = (-2 (v₁w₂ + v₂w₁), 0).
    form = normal_form(delayed_logistic, at("NS", 2.0, [0.5, 0.5]))
    expected = guckenheimer_holmes(
        np.array([[1.0, -1.0], [1.0, 0.0]]),
        lambda v, w: np.array([-2 * (v[0] * w[1] + v[1] * w[0]), 0.0]),
        np.asarray(form.right),
        np.pi / 3,
    )
    assert form.coefficient == pytest.approx(expected, rel=1e-12)
    assert form.verdict == "supercritical"
    # The circle's radius, where |λ| = √(r - 1) grows by half of r - 2: ρ² = (r - 2) / (-2a).
    rate = 1e-3
    step = jax.jit(lambda x: delayed_logistic(2 + rate)(x, None))
    x = jax.lax.fori_loop(0, 20_000, lambda _, x: step(x), jnp.array([0.51, 0.5]))
    orbit = jax.lax.scan(lambda x, _: (step(x), x), x, length=5_000)[1]
    radius = np.abs((np.asarray(orbit) - (1 - 1 / (2 + rate))) @ np.asarray(form.left).conj())
    assert np.sqrt(np.mean(radius**2)) == pytest.approx(np.sqrt(rate / (-2 * expected)), rel=0.02)


def test_the_normal_form_of_a_normal_form_is_itself():
    # z' = z (e^{iθ} (1 + p) + c |z|²): a = Re(c e^{-iθ}), and for v of length 1, ∝ (1, -i), |z|² = 2ρ².
    theta, c = 1.0, -0.5 + 0.3j

    def family(p):
        def step(x, u):
            z = x[0] + 1j * x[1]
            z = z * (jnp.exp(1j * theta) * (1 + p) + c * (x @ x))
            return jnp.stack([z.real, z.imag])

        return step

    form = normal_form(family, at("NS", 0.0, [0.0, 0.0]))
    assert form.coefficient == pytest.approx(2 * (c * np.exp(-1j * theta)).real, rel=1e-13)


def test_a_strong_resonance_is_named():
    theta = 2 * np.pi / 3
    turn = jnp.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    assert normal_form(lambda p: lambda x, u: turn @ x - x**3, at("NS", 0.0, [0.0, 0.0])).verdict == "strong resonance"


PRECISIONS = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def in_units(r):
    """(r x (1 - y/K), x), which flips and turns, and a fold of x + (r - x²/K), each of K = u."""
    return lambda x, u: jnp.stack([r * x[0] * (1 - x[1] / u), x[0]])


def logistic_in_units(r):
    return lambda x, u: r * x * (1 - x / u)


def fold_in_units(r):
    return lambda x, u: x + r - x**2 / u


def test_the_cycle_born_at_a_flip_has_the_size_that_the_input_gives_it():
    cycle = flip_direction(logistic_in_units, at("PD", 3.0, [2 / 3 * 4]), jnp.array(4.0))
    assert cycle.parameter == pytest.approx(9 / 4**2, rel=1e-13)  # r = 3 + 9 (s/K)²


@PRECISIONS
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3, 1e6])
def test_the_unit_of_the_state_changes_no_verdict(unit, dtype):
    # In units of K coefficients of ξ² are 1/K, of ξ³ 1/K² times what they are in units of 1.
    unit, tol = dtype(unit), float(1e3 * np.finfo(dtype).eps)
    flip = normal_form(logistic_in_units, at("PD", 3.0, [2 / 3 * unit], dtype), unit)
    turn = normal_form(in_units, at("NS", 2.0, [unit / 2, unit / 2], dtype), unit)
    fold = normal_form(fold_in_units, at("LP", 0.0, [0.0], dtype), unit)
    assert [form.verdict for form in (flip, turn, fold)] == ["supercritical", "supercritical", "fold"]
    assert flip.coefficient * unit * unit == pytest.approx(9, rel=tol)
    assert turn.coefficient * unit * unit == pytest.approx(-1, rel=tol)
    assert fold.coefficient * unit == pytest.approx(-1, rel=tol)


def turned(family):
    """The same dynamics in coordinates x = 0.3 + u[0] Q z, in which nothing is a round number."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]

    def step(p, x, u):
        Q = jnp.asarray(q, x.dtype)
        return Q @ family(p, Q.T @ (x / u[0] - 0.3), u[1]) * u[0] + 0.3 * u[0]

    return lambda p: lambda x, u: step(p, x, u)


def cusp(p, z, c):
    return jnp.stack([p + z[0] + c * z[0] ** 2 - z[0] ** 3 + z[0] * z[1], z[1] / 2])


def flips(p, z, c):
    return jnp.stack([-(1 + p) * z[0] + z[0] ** 2 + (c - 1) * z[0] ** 3, z[1] / 2 + z[0] * z[1]])


def turns(p, z, c):
    """Multipliers e^{±i}, and a quadratic term: c is the cubic that makes up for it."""
    rotation = jnp.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]], z.dtype)
    return rotation @ ((1 + p) * z + jnp.stack([0 * z[0], z[0] ** 2]) + c * z * (z @ z))


cusp_family, flip_family, turn_family = map(turned, (cusp, flips, turns))


@PRECISIONS
@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_coefficient_that_vanishes_but_for_rounding_is_degenerate_and_one_of_a_tenth_is_not(unit, dtype):
    unit, x = dtype(unit), np.full(2, 0.3 * unit)

    def verdict(family, kind, c):
        form = normal_form(family, at(kind, 0.0, x, dtype), (unit, dtype(c)))
        return form.coefficient, form.verdict

    assert [verdict(cusp_family, "LP", c)[1] for c in (0, 0.1)] == ["degenerate", "fold"]
    assert [verdict(flip_family, "PD", c)[1] for c in (0, 0.1)] == ["degenerate", "supercritical"]
    # The coefficient is linear in c: where it vanishes follows from its values at 0 and 1.
    at_0, at_1 = (float(verdict(turn_family, "NS", c)[0]) for c in (0, 1))
    balance = at_0 / (at_0 - at_1)
    found = [verdict(turn_family, "NS", balance + more)[1] for more in (0, -0.1)]
    assert found == ["degenerate", "supercritical"]


def hopf(p):
    """dz/dt = (p + iω) z + s z |z|² + Q[x, x]/2: (ω, s, Q) the input."""

    def field(x, u):
        omega, sign, q = u
        return jnp.stack([p * x[0] - omega * x[1], omega * x[0] + p * x[1]]) + sign * x * (x @ x) + (q @ x) @ x / 2

    return field


def symmetric(xx, xy, yy):
    """Second derivatives of one unit."""
    return [[xx, xy], [xy, yy]]


BENT = [symmetric(1.0, 0.5, 0.6), symmetric(-0.4, 0.8, 0.2)]


@pytest.mark.parametrize("omega", [2.0, np.pi / 2, 2 * np.pi / 3])  # at e^{iω} of order 4 and 3 a map would resonate
@pytest.mark.parametrize("q", [np.zeros((2, 2, 2)), BENT])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_hopf_normal_form_is_the_first_lyapunov_coefficient(omega, q, sign):
    # dr/dt = a r³ (Guckenheimer, Holmes 1983, equation 3.4.11), of whose third derivatives 16 s is left; and
    # r² = 2ρ² for v of length 1, ∝ (1, -i): ωℓ₁ = 2a.
    ((fxx, fxy), (_, fyy)), ((gxx, gxy), (_, gyy)) = q
    bends = fxy * (fxx + fyy) - gxy * (gxx + gyy) - fxx * gxx + fyy * gyy
    a = sign + bends / (16 * omega)
    u = jax.tree.map(jnp.asarray, (omega, float(sign), np.asarray(q)))
    form = normal_form(hopf, at("H", 0.0, [0.0, 0.0]), u, time="continuous")
    assert form.coefficient == pytest.approx(2 * a / omega, rel=1e-13)
    assert form.verdict == {-1: "supercritical", 1: "subcritical"}[sign]


def own(x, time):
    """What a map adds to a field's velocity for the same equilibria and coefficients: the state itself."""
    return x * (time == "discrete")


TIMES = pytest.mark.parametrize("time", ["discrete", "continuous"])


@TIMES
def test_a_folds_cubic_term_holds_what_a_unit_slaved_to_it_gives_back(time):
    # On the centre manifold y = h x² + ..., where h/2 = 1.1: dx/dt = p + u x² + (0.2 + 0.7 h) x³ + ...
    def family(p):
        def step(x, u):
            bend, slave = u * x[0] ** 2 + 0.7 * x[0] * x[1] + 0.2 * x[0] ** 3, 1.1 * x[0] ** 2 - x[1] / 2
            return own(x, time) + jnp.stack([p + bend, slave])

        return step

    form = normal_form(family, at("LP", 0.0, [0.0, 0.0]), jnp.array(0.3), time=time)
    assert (form.coefficient, form.cubic, form.parameter) == pytest.approx((0.3, 0.2 + 0.7 * 2.2, 1), rel=1e-14)
    assert form.verdict == "fold"


def test_a_flips_cubic_term_holds_what_a_unit_slaved_to_it_gives_back():
    # On the centre manifold y = h x² + ..., where h/2 = 1.1: x' = -x + 0.3 x² + b x³ + ..., and c = 0.3² + b.
    def family(p):
        def step(x, u):
            bend, slave = 0.3 * x[0] ** 2 + 0.7 * x[0] * x[1] + 0.2 * x[0] ** 3, 1.1 * x[0] ** 2 + x[1] / 2
            return jnp.stack([-(1 + p) * x[0] + bend, slave])

        return step

    form = normal_form(family, at("PD", 0.0, [0.0, 0.0]))
    assert form.coefficient == pytest.approx(0.3**2 + 0.2 + 0.7 * 2.2, rel=1e-14)


@pytest.mark.parametrize("kind", ["NS", "H"])
def test_a_rotations_cubic_term_holds_what_a_unit_slaved_to_it_gives_back(kind):
    # s is slaved to d₁|z|² + d₂ Re z²: on the centre manifold s = h₁|z|² + Re(h₂ z²), and (k₁z + k₂z̄) s turns with z
    # in (k₁h₁ + k₂h₂/2) z|z|², of which |z|² = 2ρ² for v of length 1.
    (k1, k2), (d1, d2), omega = (0.7, -0.4), (0.9, 1.3), 1.0
    rotation = np.array([[np.cos(omega), -np.sin(omega)], [np.sin(omega), np.cos(omega)]])

    def family(p):
        def step(x, u):
            z, s = x[:2], x[2]
            moved = s * jnp.stack([(k1 + k2) * z[0], (k1 - k2) * z[1]])
            slave = d1 * (z @ z) + d2 * (z[0] ** 2 - z[1] ** 2)
            if kind == "NS":
                return jnp.append(rotation @ (z + moved), s / 2 + slave)
            return jnp.append(omega * jnp.stack([-z[1], z[0]]) + moved, slave - s / 2)

        return step

    form = normal_form(family, at(kind, 0.0, [0.0] * 3), time="discrete" if kind == "NS" else "continuous")
    turns = np.exp(2j * omega) - 1 / 2 if kind == "NS" else 2j * omega + 1 / 2
    h1, h2 = d1 / (1 / 2), d2 / turns
    assert form.coefficient == pytest.approx(2 * (k1 * h1 + k2 * h2.real / 2), rel=1e-13)


def test_two_branches_cross_in_the_directions_of_their_tangents():
    # G = (x - p)(x + 2p) in the first unit, the second slaved to it.
    def family(p):
        return lambda x, u: jnp.stack([x[0] + (x[0] - p) * (x[0] + 2 * p), x[0] / 2])

    tangents = branch_directions(family, at("BP", 0.0, [0.0, 0.0]))
    expected = np.array([[-2, -1, 1], [1, 0.5, 1]]) / np.linalg.norm([[-2, -1, 1], [1, 0.5, 1]], axis=1, keepdims=True)
    np.testing.assert_allclose(tangents, expected, atol=1e-14)


@TIMES
@pytest.mark.parametrize(("u", "other"), [([1.0, 0.0], [2, 2, 1]), ([0.0, 1.0], [1, 1, 0])])
def test_a_branch_crosses_a_pitchfork_at_right_angles_and_others_aslant(u, other, time):
    # 2 p x = u₀ x² + u₁ x³ and y = x: x = 0, and p = u₀ x/2 + u₁ x²/2. The steepest comes last.
    def family(p):
        def step(x, u):
            return own(x, time) + jnp.stack([2 * p * x[0] - u[0] * x[0] ** 2 - u[1] * x[0] ** 3, x[0] - x[1]])

        return step

    tangents = branch_directions(family, at("BP", 0.0, [0.0, 0.0]), jnp.array(u), time=time)
    np.testing.assert_allclose(tangents, [other / np.linalg.norm(other), [0, 0, 1]], rtol=0, atol=1e-14)


def test_at_an_isolated_point_no_branches_cross():
    tangents = branch_directions(lambda p: lambda x, u: x + x**2 + p**2, at("BP", 0.0, [0.0]))
    assert np.isnan(tangents).all()


@pytest.mark.usefixtures("unchecked")
def test_misuse_is_named():
    flip = at("PD", 3.0, [2 / 3])
    with pytest.raises(ValueError, match=r"event\.kind must be one of 'BP'; got 'PD'"):
        branch_directions(Logistic, flip)
    with pytest.raises(ValueError, match=r"event\.kind must be one of 'PD'"):
        flip_direction(Logistic, at("BP", 1.0, [0.0]))
    with pytest.raises(ValueError, match=r"event\.kind must be one of 'LP', 'PD', 'NS', 'H'; got 'BC'"):
        normal_form(Logistic, at("BC", 1.0, [0.0]))
    with pytest.raises(ValueError, match="event must be of type Event"):
        normal_form(Logistic, (3.0, 2 / 3))
    with pytest.raises(ValueError, match="time must be one of"):
        normal_form(Logistic, flip, time="both")
