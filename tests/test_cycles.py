"""Cycles: as many as theory counts, each once and of prime period, with multipliers right relative to themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics.fixed_points import Cycles, cycles, find
from rnn_dynamics.models.pascanu import PascanuRNN
from rnn_dynamics.models.reference import Logistic
from tests import reference

EPS = np.finfo(float).eps
UNIT = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (256, 1)))
PLANE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 2)) * np.array([1.3, 0.4]))


def planar(z, u):
    """Every map of two units here, A z + W max(0, z) + h + q z₀², its numbers the input."""
    return u["a"] @ z + u["w"] @ jax.nn.relu(z) + u["h"] + u["q"] * z[0] ** 2


def plane(a, *, w=((0, 0), (0, 0)), h=(0, 0), q=(0, 0)):
    return {name: jnp.asarray(value, float) for name, value in zip("awhq", (a, w, h, q), strict=True)}


def henon(a=1.4, b=0.3):
    return plane([[0, 1], [b, 0]], h=[1, 0], q=[-a, 0])


def piecewise_linear(a1):
    """Of `reference.PIECEWISE_LINEAR`."""
    w = [[0, -0.64375], [0.52505308, 0]]
    return plane(np.diag([a1, 0.96461297]), w=w, h=[0.37298253, -0.97931491])


def orbits(u, points):
    """What the planar map makes of every state of every cycle."""
    return jax.vmap(jax.vmap(lambda x: planar(x, u)))(points)


@pytest.mark.parametrize(("period", "number"), [(3, 2), (4, 3), (6, 9)])
def test_the_logistic_map_has_all_its_cycles_and_each_once(period, number):
    # At r = 4, x = sin²θ doubles θ: f^p has 2^p fixed points, and Möbius inversion counts the cycles of prime period.
    found = cycles(Logistic(4.0), UNIT, period)
    assert len(found) == number
    assert found.points.shape == (number, period, 1)
    theta = np.arange(2**period)[:, None] * np.pi * np.stack([1 / (2**period - 1), 1 / (2**period + 1)])
    known = np.unique(np.round(np.sin(theta[theta <= np.pi / 2 * (1 + EPS)]) ** 2, 12))
    # |(f^p)'| = 2^p along the cycle, so a state is as good as a few roundings.
    assert np.abs(np.asarray(found.points).reshape(-1, 1) - known).min(1).max() < 1e-12 + 100 * EPS
    np.testing.assert_allclose(np.abs(found.multipliers[:, 0]), 2.0**period, rtol=1000 * EPS)
    assert not found.stable.any()
    assert (np.asarray(found.x[:, 0]) == np.asarray(found.points).max((1, 2))).all()


@pytest.mark.parametrize("w", reference.PASCANU_TWO_CYCLES)
def test_pascanus_unit_has_its_stable_two_cycle(w):
    upper, lower, multiplier = reference.PASCANU_TWO_CYCLES[w]
    unit = PascanuRNN(jnp.array([[w]]), None, jnp.array([-w / 2]))
    found = cycles(unit, jnp.array([[-1.0], [0.1], [3.0]]), 2)
    assert len(found) == 1
    # 1 - multiplier > 0.38; a state is w S - w/2, of size 1 to 4.
    np.testing.assert_allclose(jax.nn.sigmoid(found.points[0, :, 0]), [upper, lower], atol=10 * EPS)
    np.testing.assert_allclose(found.multipliers[0], [multiplier], rtol=100 * EPS)
    assert found.kind.tolist() == ["stable node"]


def test_henons_two_cycle_is_the_published_one():
    found = cycles(planar, PLANE, 2, henon())
    assert len(found) == 1
    np.testing.assert_allclose(found.x, [reference.HENON_TWO_CYCLE], atol=5e-11)  # the digits given
    assert found.kind.tolist() == ["saddle"]


def test_the_small_multiplier_of_a_contracting_cycle_is_right_relative_to_itself():
    found = cycles(planar, PLANE, 16, henon(b=1e-3))  # every step contracts areas by 1000
    assert len(found) > 0
    np.testing.assert_allclose(np.prod(found.multipliers, 1), 1e-48, rtol=1e-10, atol=0)


def test_a_cycle_of_sixty_four_steps_is_found_though_errors_grow_by_more_than_the_digits_there_are():
    found = cycles(Logistic(4.0), UNIT[:16], 64)
    assert len(found) > 0
    # 2^64 = 2e19: no orbit stays near, no iterate can be formed. Errors shrink backwards: |s_k| d_k ≤ d_{k+1} + r, with
    # the residual and its three roundings in r; a factor 4 - 8x is off by 8d, and by as many roundings.
    slopes = np.abs(4 - 8 * np.asarray(found.points[..., 0]))
    for multiplier, slope, residual in zip(np.abs(found.multipliers[:, 0]), slopes, found.residual, strict=True):
        off, relative = 0.0, []
        for s in [*slope[::-1], *slope[::-1]]:
            off = (off + residual + 3 * EPS) / s
            relative.append((8 * off + 8 * EPS) / s)
        np.testing.assert_allclose(multiplier, 2.0**64, rtol=sum(relative[64:]))
    assert (found.residual <= 100 * EPS * 2).all()


def test_both_sixteen_cycles_of_the_piecewise_linear_network_are_found():
    system = reference.PIECEWISE_LINEAR[16]
    starts = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (64, 2)))
    found = cycles(planar, starts, 16, piecewise_linear(system["a1"]))
    assert len(found) == 2
    (stable,) = found[found.stable]
    np.testing.assert_allclose(stable.x[0], system["point"], atol=1e-7)  # the digits given
    np.testing.assert_allclose(np.abs(stable.multipliers[0]), system["multipliers"] * 2, atol=1e-7)
    (other,) = found[~found.stable]
    assert other.kind.tolist() == ["saddle"]
    # It is a cycle of the linear pieces it runs through: solved as one linear system of them, in NumPy.
    a, w = np.diag([system["a1"], 0.96461297]), np.array([[0, -0.64375], [0.52505308, 0]])
    matrices = [a + w * (np.asarray(z) > 0) for z in other.points[0]]
    whole = np.eye(32)
    for i, matrix in enumerate(matrices):
        after = (i + 1) % 16
        whole[2 * after : 2 * after + 2, 2 * i : 2 * i + 2] -= matrix
    solution = np.linalg.solve(whole, np.tile([0.37298253, -0.97931491], 16)).reshape(16, 2)
    np.testing.assert_allclose(other.points[0], solution, atol=1e-12)
    product = np.linalg.multi_dot(matrices[::-1])
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(product)), np.sort(other.multipliers[0]), rtol=1e-10)


def test_a_piecewise_linear_network_at_rest_has_no_two_cycle():
    system = reference.PIECEWISE_LINEAR[1]
    u = piecewise_linear(system["a1"])
    starts = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (64, 2)))
    (rest,) = cycles(planar, starts, 1, u)
    np.testing.assert_allclose(rest.x[0], system["point"], atol=1e-7)
    np.testing.assert_allclose(np.abs(rest.multipliers[0]), system["multipliers"], atol=1e-7)
    found = cycles(planar, starts[:32], 2, u, restarts=1, seed=3)
    assert len(found) == 0
    assert found.status.shape == found.reached.shape == (64,)
    assert "shorter" in found.status
    assert found.points.shape == (0, 2, 2)


def test_period_one_is_the_search_for_fixed_points():
    ours, theirs = cycles(planar, PLANE, 1, henon()), find(planar, PLANE, henon())
    order, other = np.argsort(ours.x[:, 0]), np.argsort(theirs.x[:, 0])
    np.testing.assert_allclose(ours.x[order], theirs.x[other], atol=20 * EPS)
    np.testing.assert_allclose(ours.multipliers[order], theirs.multipliers[other], rtol=100 * EPS)
    assert ours.kind[order].tolist() == theirs.kind[other].tolist()
    np.testing.assert_allclose(ours.jacobian[order], theirs.jacobian[other], atol=100 * EPS)


def test_points_are_cycles_and_a_start_that_reaches_none_says_why():
    found = cycles(planar, PLANE, 2, henon())
    assert isinstance(found, Cycles)
    following = np.roll(found.points, -1, axis=1)
    miss = np.abs(orbits(henon(), found.points) - following).max((1, 2))
    np.testing.assert_allclose(miss, found.residual, atol=2 * EPS)
    assert (found.points[:, 0] == found.x).all()
    assert set(found.status) <= {"converged", "shorter", "max_steps", "singular"}
    assert ((found.reached >= 0) == (found.status == "converged")).all()
    assert found[0].points.shape == (1, 2, 2)
    assert repr(found).startswith("Cycles(1 points, 0 stable, residual at most ")


def test_an_orbit_that_overflows_has_diverged_and_every_state_of_a_quarter_turn_is_on_a_cycle():
    blown = cycles(Logistic(4.0), jnp.full((256, 1), -1e200), 6)
    assert blown.status.tolist() == ["diverged"] * 256  # x is squared six times
    assert (blown.start_residual == np.inf).all()
    assert len(cycles(Logistic(4.0), jnp.full((128, 1), -1e200), 6, restarts=1)) == 0
    turn = plane([[0, -1], [1, 0]])
    every = cycles(planar, PLANE[:4], 4, turn)  # every state but 0 is on a cycle: each start is on its own
    assert every.status.tolist() == ["converged"] * 4
    assert len(every) == 4
    assert set(every.kind) == {"marginal"}


def test_single_precision_and_inputs_are_kept():
    found = cycles(
        lambda x, u: u["r"] * x * (1 - x), jnp.array([[0.4], [0.6]], jnp.float32), 2, {"r": jnp.float32(3.2)}
    )
    assert len(found) == 1
    assert found.points.dtype == found.residual.dtype == jnp.float32
    r = 3.2
    known = (r + 1 + np.array([1, -1]) * ((r - 3) * (r + 1)) ** 0.5) / (2 * r)
    np.testing.assert_allclose(found.points[0, :, 0], known, atol=10 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(found.multipliers[0].real, [4 + 2 * r - r**2], atol=50 * np.finfo(np.float32).eps)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"starts": jnp.zeros(2)}, "starts must be a float array of shape \\(s, n\\)"),
        ({"starts": jnp.zeros((0, 1))}, "starts must hold at least one start"),
        ({"period": 0}, "period must be a whole number, at least 1"),
        ({"period": 2.0}, "period must be a whole number"),
        ({"restarts": -1}, "restarts must be a whole number, at least 0"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"max_steps": 0}, "max_steps must be a whole number, at least 1"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"unique_tol": np.nan}, "unique_tol must be finite"),
        ({"tol": [1e-3]}, r"tol must be a float array of shape \(\)"),
        ({"step": lambda x, u: jnp.zeros(3)}, "step must map"),
    ],
)
def test_cycles_refuses_wrong_arguments(changed, message):
    arguments = {"step": lambda x, u: jnp.cos(x), "starts": jnp.zeros((1, 1)), "period": 2} | changed
    step, starts, period = (arguments.pop(name) for name in ("step", "starts", "period"))
    with pytest.raises(ValueError, match=message):
        cycles(step, starts, period, **arguments)
