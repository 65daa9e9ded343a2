import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap

from rnn_dynamics.models import PascanuRNN
from rnn_dynamics.sweeps import sweep

EPS = 2.0**-52


def square_and_more(point):
    """Whole numbers in floats: exact, so that nothing has to be forgiven."""
    x, matrix = point["x"], point["matrix"]
    return {"square": x * x, "trace": (matrix @ matrix).trace(), "count": point["k"] + 1}


def whole_points(num_points):
    counts = np.arange(num_points)
    return {"x": counts.astype(float), "matrix": counts[:, None, None] % 3 + np.eye(2), "k": counts}


@pytest.mark.parametrize("num_points", [1, 6, 7])
@pytest.mark.parametrize("chunk", [1, 2, 3, 100, None])
def test_each_point_gets_its_own_result_whatever_the_chunk(num_points, chunk):
    results = sweep(square_and_more, whole_points(num_points), chunk=chunk)
    k = np.arange(num_points)
    m = k % 3  # trace of (m J + I)², J the matrix of ones: eigenvalues 2m + 1 and 1
    np.testing.assert_array_equal(results["square"], k**2)
    np.testing.assert_array_equal(results["trace"], (2 * m + 1) ** 2 + 1)
    np.testing.assert_array_equal(results["count"], k + 1)
    assert jnp.issubdtype(results["count"].dtype, jnp.integer)


def test_no_points_give_no_results():
    results = sweep(square_and_more, whole_points(0))
    assert results["square"].shape == (0,)


@pytest.mark.parametrize("num_cores", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 2])
def test_cores_take_shares_that_change_nothing(num_cores, chunk, monkeypatch):
    monkeypatch.setattr("rnn_dynamics._compile.num_cores", lambda: num_cores)
    results = sweep(square_and_more, whole_points(7), chunk=chunk)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(results))
    np.testing.assert_array_equal(results["square"], np.arange(7) ** 2)
    np.testing.assert_array_equal(results["count"], np.arange(7) + 1)


@pytest.mark.parametrize("chunk", [1, 64])
def test_batches_of_lapack_s_are_left_to_one_core(chunk, monkeypatch):
    # On several cores at once those of 64 would never end.
    monkeypatch.setattr("rnn_dynamics._compile.num_cores", lambda: 2)
    matrices = np.random.default_rng(0).standard_normal((128, 3, 3))
    found = sweep(lambda matrix: jnp.linalg.solve(matrix, jnp.ones(3)), matrices, chunk=chunk)
    np.testing.assert_allclose(np.einsum("pij,pj->pi", matrices, found), 1, atol=1e-10)


@pytest.mark.parametrize(
    ("num_points", "chunk", "side_by_side"), [(10, 4, {4}), (9, 4, {3}), (3, 4, {3}), (5, 1, set())]
)
def test_at_most_a_chunk_of_points_run_side_by_side_and_all_chunks_are_equal(
    num_points, chunk, side_by_side, monkeypatch
):
    monkeypatch.setattr("rnn_dynamics._compile.num_cores", lambda: 1)
    sizes = []

    @custom_vmap
    def identity(x):
        return x

    @identity.def_vmap
    def _(axis_size, in_batched, x):
        sizes.append(axis_size)
        return x, in_batched[0]

    np.testing.assert_array_equal(sweep(identity, np.arange(num_points), chunk=chunk), np.arange(num_points))
    assert set(sizes) == side_by_side


def end_of_orbit(a):
    """x_20 of x' = a x + 1 from 0, which is (a²⁰ - 1) / (a - 1)."""
    return jax.lax.fori_loop(0, 20, lambda _, x: a * x + 1, jnp.zeros_like(a))


def test_an_orbit_ends_where_the_closed_form_says_and_its_gradient_too():
    a = np.linspace(0.1, 0.9, 11)
    value, slope = sweep(jax.value_and_grad(end_of_orbit), a, chunk=4)
    # 20 steps, each good to an ulp of x < 10 and none of them expanding; the closed form cancels at most 10-fold.
    exact = (a**20 - 1) / (a - 1)
    np.testing.assert_allclose(value, exact, rtol=60 * EPS)
    np.testing.assert_allclose(slope, (20 * a**19 - exact) / (a - 1), rtol=600 * EPS)  # divides by 1 - a once more


def test_a_model_is_a_function_whose_weights_may_change_without_compiling_again():
    num_traces = 0

    def network(gain):
        return PascanuRNN(gain * np.eye(2), None, np.ones(2))

    class Counting(PascanuRNN):
        def __call__(self, x, u=None):
            nonlocal num_traces
            num_traces += 1
            return super().__call__(x, u)

    starts, after = jnp.zeros((5, 2)), []
    for gain in (1.0, 2.0, 3.0):
        model = network(gain)
        counting = Counting(model.w_rec, model.w_in, model.b)
        np.testing.assert_array_equal(sweep(counting, starts, chunk=2), np.full((5, 2), gain / 2 + 1))
        after.append(num_traces)
    assert after == after[:1] * 3


def test_seeds_are_points():
    keys = jax.random.split(jax.random.key(0), 5)
    drawn = sweep(lambda key: jax.random.normal(key, (2,)), keys, chunk=2)
    np.testing.assert_array_equal(drawn, jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys))
    made = sweep(jax.random.key, jnp.arange(5), chunk=2)
    np.testing.assert_array_equal(
        jax.random.key_data(made), jax.random.key_data(jax.vmap(jax.random.key)(np.arange(5)))
    )


def test_float32_stays_float32():
    assert sweep(lambda x: 2 * x, np.ones(3, np.float32)).dtype == jnp.float32


def test_it_works_inside_jit_vmap_and_grad():
    a = np.linspace(0.1, 0.9, 7)

    def total(scale):
        return sweep(lambda point: scale * point**2, a, chunk=3).sum()

    exact = (a**2).sum()
    for value in (jax.jit(total)(2.0), jax.vmap(total)(jnp.array([2.0]))[0], 2 * jax.grad(total)(1.0)):
        assert value == pytest.approx(2 * exact, rel=10 * EPS)  # a sum of 7 products


def test_one_device_may_be_named():
    np.testing.assert_array_equal(
        sweep(square_and_more, whole_points(5), devices=jax.devices()[:1])["square"], np.arange(5) ** 2
    )


def test_two_devices_share_the_points():
    program = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from rnn_dynamics.models import PascanuRNN
from rnn_dynamics.sweeps import sweep
assert jax.device_count() == 2
square = lambda point: {"square": point[0] ** 2, "sum": point.sum()}
for num_points, chunk in ((8, None), (7, 2), (1, 2), (0, None)):
    points = np.stack([np.arange(num_points), np.ones(num_points)], axis=-1) * 1.0
    for placed in (points, jax.device_put(points, jax.devices()[1])):
        results = sweep(square, placed, chunk=chunk)
        np.testing.assert_array_equal(results["square"], np.arange(num_points) ** 2)
        np.testing.assert_array_equal(results["sum"], np.arange(num_points) + 1)
where = lambda results: results["sum"].sharding.device_set
points = jnp.ones((6, 2))
assert where(sweep(square, points)) == set(jax.devices())
assert where(sweep(square, points, devices=jax.devices()[1:])) == {jax.devices()[1]}
network = PascanuRNN(jnp.eye(2), None, jnp.ones(2))
np.testing.assert_array_equal(sweep(network, 0 * points), np.full((6, 2), 1.5))
assert where(jax.jit(lambda points: sweep(square, points))(points)) == {jax.devices()[0]}
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3.0, jnp.ones(2)), {}, "function must be callable; got float"),
        ((jnp.sin, None), {}, r"points must be arrays with one leading axis in common; got shapes \[\]"),
        ((jnp.sin, 1.0), {}, r"points must be .* got shapes \[\(\)\]"),
        ((jnp.sin, (jnp.ones(2), jnp.ones(3))), {}, r"points must be .* got shapes \[\(2,\), \(3,\)\]"),
        ((jnp.sin, np.array(["a", "b"])), {}, "points must be arrays of numbers or keys; got array"),
        ((jnp.sin, jnp.ones(2)), {"chunk": 0}, "chunk must be a whole number, at least 1; got 0"),
        ((jnp.sin, jnp.ones(2)), {"chunk": 1.5}, "chunk must be a whole number, at least 1; got 1.5"),
        ((jnp.sin, jnp.ones(2)), {"devices": []}, "devices must be one or more.*; got none"),
        ((jnp.sin, jnp.ones(2)), {"devices": "cpu"}, r"devices must be .* of jax.devices\(\)"),
        ((jnp.sin, jnp.ones(2)), {"devices": 2 * jax.devices()}, "devices must be .* all different"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_misuse_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(*arguments, **options)


def test_devices_are_the_callers_business_inside_his_jit():
    with pytest.raises(ValueError, match=r"devices must be None inside a caller's jit"):
        jax.jit(lambda points: sweep(jnp.sin, points, devices=jax.devices()))(jnp.ones(3))
