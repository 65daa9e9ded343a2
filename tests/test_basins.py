"""Basins hold what flows to their attractor, and the border between two of them is the saddle's stable manifold."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import basins
from rnn_dynamics.models import DoyaNeuron
from rnn_dynamics.models.reference import Henon, Logistic, bistable_module
from tests import reference

BOX = jnp.array([[-8.0, 8.0], [-6.0, 12.0]])


def skewed(x, u):
    """Eigenvalues ½ and 2 in one triangle, bent: the stable manifold is y = -(4/7) x² exactly."""
    return jnp.array([0.5 * x[0], 2 * x[1] + x[0] ** 2])


def flipped(x, u):
    """The same with eigenvalue -½: points on the manifold jump from side to side."""
    return jnp.array([-0.5 * x[0], 2 * x[1] + x[0] ** 2])


def bent(l, x, u):
    """Eigenvalues l and 2: the stable manifold is y = -x² / (2 - l²) exactly."""
    return jnp.array([l * x[0], 2 * x[1] + x[0] ** 2])


def tiny(x, u):
    """The flipped one, a million times smaller."""
    return 1e-6 * flipped(1e6 * x, u)


def halves(x, u):
    """x goes to 1 or to -1/2, as its sign says, and z is halved."""
    return jnp.stack([jnp.where(x[0] > 0, 1.0, -0.5), x[1] / 2])


@pytest.fixture(scope="module")
def module():
    network = bistable_module(0.4)
    # its saddle, found by iterating towards it along the difference of two orbits is no use: Newton's method by hand
    saddle = jnp.array([0.11, 5.6])
    for _ in range(20):
        saddle = saddle - jnp.linalg.solve(network.jacobian(saddle) - jnp.eye(2), network(saddle) - saddle)
    return network, saddle, basins.boundary(network, saddle, box=BOX, spacing=0.1)


def test_orbits_settle_on_their_side_of_the_unstable_point():
    x = jnp.linspace(0.0, 1.0, 102)[:, None]  # no start on the boundary, ½
    found = basins.basins(DoyaNeuron(5.0, -2.5), x)
    np.testing.assert_array_equal(found.label, np.asarray(x[:, 0] > 0.5).astype(int))
    low, _, high = reference.DOYA_EQUILIBRIA[-2.5]
    np.testing.assert_allclose(found.attractors, [[[low]], [[high]]], rtol=0, atol=1e-13)
    assert set(found.status) == {"settled"}


def test_a_cycle_is_one_attractor_wherever_on_it_an_orbit_ends():
    x = jnp.linspace(0.05, 0.95, 40)[:, None]
    found = basins.basins(Logistic(3.2), x)
    assert len(found.attractors) == 1
    # closed form: x± = (r + 1 ± √((r - 3)(r + 1))) / 2r
    exact = (4.2 + np.array([-1, 1]) * np.sqrt(0.2 * 4.2)) / 6.4
    np.testing.assert_allclose(np.sort(found.attractors[0][:, 0]), exact, rtol=0, atol=1e-12)
    assert "periods: 2" in repr(found)


@pytest.mark.parametrize(("tol", "settled"), [(None, [0, 1]), (7e-5, [0, 1, 2]), (1e-4, range(4)), (0.5, range(4))])
def test_an_orbit_has_settled_where_it_closes_to_the_tolerance(tol, settled):
    # From z = 1/2, step 12 closes to 2⁻¹³ = 1.22e-4: less than 7e-5 (1 + 1), more than 7e-5 (1 + 1/2).
    starts = jnp.array([[1.0, 0.0], [-0.5, 0.0], [1.0, 0.5], [-0.5, 0.5]])
    found = basins.basins(halves, starts, num_steps=11, tol=tol)
    assert found.status.tolist() == ["settled" if i in settled else "unsettled" for i in range(4)]
    assert found.label.tolist() == [i % 2 if i in settled else -1 for i in range(4)]


@pytest.mark.parametrize(("first", "tol", "number"), [(1.0, 0.5, 2), (1.0, 0.6, 1), (-0.5, 0.6, 2), (-0.5, 1.1, 1)])
def test_attractors_nearer_than_the_root_of_the_tolerance_are_one(first, tol, number):
    # They are 3/2 apart; √tol times 2, or times 3/2, as x = 1 or x = -1/2 comes first.
    starts = jnp.array([[first, 0.0], [0.5 - first, 0.0], [first, 0.0], [first, 0.0]])
    found = basins.basins(halves, starts, num_steps=11, tol=tol)
    assert found.label.tolist() == [0, number - 1, 0, 0]
    assert [points.tolist() for points in found.attractors] == [[[x, 0.0]] for x in (first, 0.5 - first)[:number]]


def test_a_start_on_a_repelling_point_has_no_attractor():  # of x², 0 attracts and 1, of multiplier 2, repels
    found = basins.basins(lambda x, u: x**2, jnp.array([[2.0], [0.5], [1.0]]))
    assert found.label.tolist() == [-1, 0, -1]
    assert found.status.tolist() == ["diverged", "settled", "on a repeller"]
    assert [points.tolist() for points in found.attractors] == [[[0.0]]]


def test_chaos_and_divergence_are_said():
    found = basins.basins(Henon(), jnp.array([[0.1, 0.1], [5.0, 5.0]]), num_steps=500)
    assert found.status.tolist() == ["unsettled", "diverged"]
    assert found.label.tolist() == [-1, -1]
    assert found.attractors == ()


@pytest.mark.parametrize(("step", "size"), [(skewed, 1.0), (flipped, 1.0), (tiny, 1e-6)])
def test_the_stable_manifold_is_the_closed_forms_and_as_dense_as_asked(step, size):
    box = size * jnp.array([[-3.0, 3.0], [-9.0, 9.0]])
    found = basins.boundary(step, jnp.zeros(2), box=box, spacing=0.02 * size)
    assert found.ended == ("left the box", "left the box")
    for branch, side in zip(found.branches, np.sign([b[1, 0] for b in found.branches]), strict=True):
        branch = branch / size
        # the first stretch is 6e-7 long, and off by 4/7 (6e-7)² = 2e-13; along the manifold errors across it halve
        np.testing.assert_allclose(branch[:, 1], -4 / 7 * branch[:, 0] ** 2, rtol=0, atol=1e-11)
        assert (np.diff(side * branch[:, 0]) > 0).all()
        assert abs(branch[-1, 0]) > 3
        inside = np.abs(branch[:-1, 0]) < 3
        assert np.linalg.norm(np.diff(branch, axis=0), axis=1)[inside].max() <= 0.02


SQUARE = jnp.array([[-1.0, 1.0], [-1.0, 1.0]])


@pytest.mark.parametrize("l", [0.99, -0.99, 0.999, 1e-3, -1e-3, 1e-6, -1e-6, 1e-9, -1e-9])
def test_the_stable_manifold_is_the_closed_forms_however_fast_the_saddle_attracts(l):
    found = basins.boundary(equinox.Partial(bent, jnp.asarray(l)), jnp.zeros(2), box=SQUARE, spacing=0.05)
    assert found.ended == ("left the box", "left the box")
    for branch, side in zip(found.branches, (found.branches[0][1, 0], found.branches[1][1, 0]), strict=True):
        # straight up to 2 ε^0.45 = 1.8e-7, and so off by (1.8e-7)² / (2 - l²) <= 3.3e-14; rounding is ten times less
        np.testing.assert_allclose(branch[:, 1], -(branch[:, 0] ** 2) / (2 - l**2), rtol=0, atol=5e-14)
        assert (np.diff(np.sign(side) * branch[:, 0]) > 0).all()
        assert np.abs(branch[-1]).max() > 1
        assert np.linalg.norm(np.diff(branch, axis=0), axis=1)[:-1].max() <= 0.05
    assert found.branches[0][1, 0] * found.branches[1][1, 0] < 0


def test_a_branch_without_room_is_shorter_and_not_coarser():
    found = basins.boundary(
        equinox.Partial(bent, jnp.asarray(-0.5)), jnp.zeros(2), box=SQUARE, spacing=1e-3, max_points=1000
    )
    assert found.ended == ("max_points", "max_points")
    for branch in found.branches:
        assert len(branch) <= 1000
        assert np.linalg.norm(np.diff(branch, axis=0), axis=1).max() <= 1e-3
        assert 0.01 < np.abs(branch[-1, 0]) < 1


def test_a_branch_ends_on_the_fold_and_does_not_jump_to_another_piece():
    # x' = g(x) = 0.6 x - 0.2 x³ and y' = x'² + 2 (y - x²): the stable manifold is y = x² as far as g rises, to x = 1.
    # What maps to x' > g(1) is beyond x = -2, on another piece of y = x².
    def folded(x, u):
        g = 0.6 * x[0] - 0.2 * x[0] ** 3
        return jnp.array([g, g**2 + 2 * (x[1] - x[0] ** 2)])

    found = basins.boundary(folded, jnp.zeros(2), box=4 * SQUARE, spacing=0.05)
    assert found.ended == ("no preimage", "no preimage")
    for branch in found.branches:
        side = np.sign(branch[1, 0])
        # straight up to 8 ε^0.45 = 7e-7, and so off by 5e-13; F(y) = P(λt) holds to 1000 ε times box and state, 2e-12
        np.testing.assert_allclose(branch[:, 1], branch[:, 0] ** 2, rtol=0, atol=3e-12)
        assert np.linalg.norm(np.diff(branch, axis=0), axis=1).max() <= 0.05
        # which at the top of g, where g'' = -1.2, leaves √(2 · 2e-12 / 1.2) = 2e-6 of freedom to x
        np.testing.assert_allclose(side * branch[-1, 0], 1, rtol=0, atol=3e-6)
        assert np.diff(side * branch[:, 0]).min() > -3e-6


def test_orbits_on_the_boundary_reach_the_saddle(module):
    network, saddle, found = module
    for branch in found.branches:
        x, nearest = jnp.asarray(branch[1:]), np.full(len(branch) - 1, np.inf)
        for _ in range(60):
            nearest = np.minimum(nearest, np.abs(np.asarray(x - saddle)).max(axis=1))
            x = jax.vmap(network)(x)
        # off the manifold by 1e-12, which the unstable multiplier, below 2, amplifies while the stable one, 0.2, brings
        # the orbit within 1e-8 in about 12 steps
        assert nearest.max() < 1e-7


def test_the_boundary_parts_the_two_basins(module):
    network, _, found = module
    upper = next(branch for branch in found.branches if branch[-1, 1] > 11)
    assert upper[-1, 1] > 12
    middle = upper[np.searchsorted(upper[:, 1], 8.0)]
    across = jnp.asarray(middle + np.array([[-1e-6, 0.0], [1e-6, 0.0]]))
    assert basins.basins(network, across).label.tolist() == [0, 1]


def test_the_boundary_ends_where_the_map_folds_the_plane():
    # x' = x²/2 has no preimage of negative numbers: from the saddle (0, 0) of multiplier 0 nothing can be traced; from
    # (2, 0), multipliers 2 and ½, the stable manifold is x = 2, y free
    found = basins.boundary(
        lambda x, u: jnp.array([x[0] ** 2 / 2, jnp.tanh(x[1]) / 2]), jnp.array([2.0, 0.0]), box=BOX, spacing=0.1
    )
    for branch in found.branches:  # y' reaches ±½ only; its preimage at infinity
        np.testing.assert_allclose(branch[:, 0], 2, rtol=0, atol=1e-12)
        assert abs(branch[-1, 1]) > 5.9
    assert {np.sign(branch[-1, 1]) for branch in found.branches} == {-1, 1}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: basins.basins(skewed, jnp.zeros((0, 2))), "starts must hold at least one"),
        (lambda: basins.basins(skewed, jnp.zeros(2)), r"starts must be a float array of shape \(s, n\)"),
        (lambda: basins.basins(skewed, jnp.zeros((1, 2)), max_period=0), "max_period.*0"),
        (lambda: basins.basins(skewed, jnp.zeros((1, 2)), num_steps=-1), "num_steps.*-1"),
        (lambda: basins.basins(skewed, jnp.zeros((1, 2)), tol=0.0), "tol must be positive"),
        (lambda: jax.jit(lambda x: basins.basins(skewed, x).label)(jnp.zeros((1, 2))), "known numbers, as basins runs"),
        (lambda: basins.boundary(skewed, jnp.zeros(3), box=BOX, spacing=0.1), r"saddle.*\(2,\)"),
        (lambda: basins.boundary(skewed, jnp.zeros(2), box=BOX[:, ::-1], spacing=0.1), "lowest below its highest"),
        (lambda: basins.boundary(skewed, jnp.zeros(2), box=BOX, spacing=0.0), "spacing must be positive"),
        (lambda: basins.boundary(skewed, jnp.zeros(2), box=BOX, spacing=0.1, max_points=9), "max_points.*9"),
        (lambda: basins.boundary(skewed, jnp.ones(2), box=BOX, spacing=0.1), "saddle must be a fixed point"),
        (lambda: basins.boundary(skewed, jnp.zeros(2), box=BOX + 20, spacing=0.1), "box must hold the saddle"),
        (lambda: basins.boundary(lambda x, u: x / 2, jnp.zeros(2), box=BOX, spacing=0.1), "one multiplier inside"),
        (
            lambda: basins.boundary(equinox.Partial(bent, jnp.zeros(())), jnp.zeros(2), box=BOX, spacing=0.1),
            "one multiplier inside",
        ),
        (
            lambda: basins.boundary(equinox.Partial(bent, jnp.asarray(1e-14)), jnp.zeros(2), box=BOX, spacing=0.1),
            "no multiplier so near 0 at a spacing of 1.0e-01",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
