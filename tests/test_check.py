import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_dynamics import _check

pytestmark = pytest.mark.usefixtures("unchecked")


def test_a_tracer_is_unknown_and_an_array_inside_a_jit_is_known():
    captured, seen = jnp.ones(2), []
    jax.jit(lambda x: seen.append((_check.known(x), _check.known(captured))) or x)(captured)
    assert seen == [(False, True)]
    assert _check.known(1.0)
    assert _check.known(np.ones(2))


def test_floats_are_taken_as_they_are():
    for value in (jnp.ones((2, 3)), np.ones((2, 3)), [[1.0, 1.0, 1.0]] * 2):
        came = _check.floats("a", value, 2, "n")
        assert isinstance(came, jax.Array)
        assert (came.shape, came.dtype) == ((2, 3), jnp.float64)
    assert _check.floats("a", np.ones(2, np.float32), "n").dtype == jnp.float32
    assert jnp.isnan(_check.floats("a", jnp.nan, check_finite=False))


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (np.ones((2, 3)), ("n", "n"), r"a must be a float array of shape \(n, n\); got float64 of shape \(2, 3\)"),
        (np.ones((2, 3)), (2, 2), r"a must be a float array of shape \(2, 2\); got float64 of shape \(2, 3\)"),
        (np.ones((2, 3)), ("n",), r"a must be a float array of shape \(n,\); got float64 of shape \(2, 3\)"),
        (np.ones(2), (), r"a must be a float array of shape \(\); got float64 of shape \(2,\)"),
        (np.array([1, 2]), ("n",), r"a must be a float array of shape \(n,\); got int64 of shape \(2,\)"),
        (np.array([True]), ("n",), "a must be a float array .* got bool"),
        (np.array([1j]), ("n",), "a must be a float array .* got complex128"),
        ([[1.0], [1.0, 2.0]], ("n", "n"), "a must be an array of numbers; got list"),
        (np.array([None]), ("n",), "a must be an array of numbers; got object array"),
        ({}, ("n",), "a must be an array of numbers; got dict"),
        (None, ("n",), "a must be an array of numbers; got NoneType"),
        ([1.0, float("nan"), float("inf")], ("n",), "a must be finite; got 2 NaN or infinite of 3 values"),
    ],
)
def test_what_is_no_such_array_is_refused(value, shape, message):
    with pytest.raises(ValueError, match=message):
        _check.floats("a", value, *shape)


def test_python_numbers_stay_weak_and_arrays_strong():
    assert _check.number("p", 2).weak_type
    assert _check.number("p", 2.0).weak_type
    assert not _check.number("p", np.float32(2)).weak_type
    assert (jnp.ones(1, jnp.float32) * _check.number("p", 2)).dtype == jnp.float32


@pytest.mark.parametrize("value", [True, None, "2", 2j, np.ones(1), jnp.array(2), float("nan"), 10**400])
def test_what_is_no_finite_real_number_is_refused(value):
    with pytest.raises(ValueError, match="p must be"):
        _check.number("p", value)


def test_numpys_integers_are_numbers_too():
    assert _check.number("p", np.int64(2)) == 2.0


@pytest.mark.parametrize("value", [0, 3, np.int32(3), jnp.array(3), np.array(3)])
def test_whole_numbers_are_counts(value):
    assert _check.count("n", value) == int(value)
    assert type(_check.count("n", value)) is int


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, np.array([1, 2])])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match="n must be a whole number, at least 0; got "):
        _check.count("n", value)


def test_a_traced_count_is_refused():
    with pytest.raises(ValueError, match="n must be a whole number, at least 1; got "):
        jax.jit(lambda n: _check.count("n", n, least=1))(3)


def test_values_are_checked_where_they_are_known_even_inside_a_jit():
    captured = jnp.array([0.5, 2.0])

    def checked(x):
        _check.within("x", x, "lie in (0, 1)", lambda v: (v > 0) & (v < 1))
        return x

    assert checked(captured[:1]) == 0.5
    np.testing.assert_array_equal(jax.jit(checked)(captured), captured)
    for call in (lambda: checked(captured), lambda: jax.jit(lambda y: y + checked(captured))(1.0)):
        with pytest.raises(ValueError, match=r"x must lie in \(0, 1\); got \[0\.5 2\. \]"):
            call()
    with pytest.raises(ValueError, match=r"x must lie in \(0, 1\); got nan"):
        checked(jnp.nan)


def test_kinds_and_options_are_named():
    _check.instance("a", 1, int)
    with pytest.raises(ValueError, match="a must be of type int; got str"):
        _check.instance("a", "1", int)
    _check.option("kind", "a", ("a", "b"))
    with pytest.raises(ValueError, match="kind must be one of 'a', 'b'; got 'c'"):
        _check.option("kind", "c", ("a", "b"))


def test_the_first_state_needs_shapes_alone():
    for inputs in (jnp.ones((3, 2)), jnp.ones((0, 2)), None):
        x = _check.first_state(lambda x, u: x * (1.0 if u is None else u.sum()), jnp.ones(2, jnp.float32), inputs)
        assert x.dtype == (jnp.float32 if inputs is None else jnp.float64)
    with pytest.raises(
        ValueError, match=r"field must map a float state of shape \(2,\) to one like it; it returned int"
    ):
        _check.first_state(lambda x, _: x.astype(int), jnp.ones(2), None, name="field")
    with pytest.raises(ValueError, match="step must return its state's dtype float64; it returned float32"):
        _check.next_state(lambda x, _: x.astype(jnp.float32), jnp.ones(2))
    with pytest.raises(ValueError, match=r"step must be a function \(x, u\) -> x; called so it raised: .*takes 1 pos"):
        _check.next_state(lambda x: x, jnp.ones(2))
    with pytest.raises(ValueError, match=r"step must be a function \(x, u\) -> x; got int"):
        _check.next_state(3, jnp.ones(2))


def test_a_state_may_be_large_or_small_but_not_empty():
    assert _check.state("x", [1.0]).shape == (1,)
    with pytest.raises(ValueError, match=r"x must hold at least one unit; got shape \(0,\)"):
        _check.state("x", np.ones(0))
