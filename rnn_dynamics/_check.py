"""What a public function asks of its arguments before it does any work: one way to check, one way to complain.

Row 0 of the layer table: imports nothing of the package. Every complaint is a `ValueError` that names the argument,
what is allowed and what came. Shapes and dtypes are checked always; values only where they are known (a value inside
a caller's `jit`, `vmap` or `grad` is not).
"""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any

import equinox
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

__all__ = [
    "apart",
    "are_apart",
    "at_least_single",
    "count",
    "derivatives",
    "finite",
    "first_state",
    "floats",
    "inputs",
    "instance",
    "is_float_array",
    "known",
    "loss",
    "member",
    "next_state",
    "number",
    "numbers",
    "on_host",
    "option",
    "positive",
    "span",
    "starts",
    "state",
    "trajectory",
    "untraced",
    "within",
    "word",
]


def known(value: Any) -> bool:
    """Whether a value can be looked at now: it is not a tracer of some `jit`, `vmap` or `grad`, nor only a shape."""
    return not isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct)


def is_float_array(leaf: Any) -> bool:
    """Whether a leaf of a pytree is a parameter that gradients are taken in: an array of floats, and not complex."""
    return equinox.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def finite(name: str, value: Any) -> None:
    """Raises if an array that can be looked at holds NaN or infinity."""
    if known(value) and not np.isfinite(value).all():
        bad = int(np.sum(~np.isfinite(value)))
        raise ValueError(f"{name} must be finite; got {bad} NaN or infinite of {jnp.size(value)} values")


def on_host(name: str, **arguments: PyTree) -> None:
    """Raises if function `name`, which runs on the host, is called in a caller's `jit`, or on traced arguments."""
    untraced(name, **arguments)
    if not known(jnp.zeros(())):
        raise ValueError(f"{name} must be called outside of jit, as it runs on the host; got a call inside")


def untraced(name: str, **arguments: PyTree) -> None:
    """Raises if function `name`, which runs on the host, is called on traced arguments."""
    traced = [key for key, value in arguments.items() if not all(map(known, jax.tree.leaves(value)))]
    if traced:
        which = " and ".join(traced)
        raise ValueError(f"{which} must be known numbers, as {name} runs on the host; got traced ones")


def floats(name: str, value: Any, *shape: int | str, check_finite: bool = True) -> Float[Array, "..."]:
    """`value` as a float array of this shape: a number fixes a size, a letter names one (the same each time)."""
    array = _as_array(name, value)
    sizes: dict[str, int] = {}
    fits = len(shape) == array.ndim and all(
        size == (want if isinstance(want, int) else sizes.setdefault(want, size))
        for want, size in zip(shape, array.shape, strict=True)
    )
    if not fits or not jnp.issubdtype(array.dtype, jnp.floating):
        wanted = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} must be a float array of shape {wanted}; got {array.dtype} of shape {array.shape}")
    if check_finite:
        finite(name, array)
    return array


def number(name: str, value: Any) -> Float[Array, ""]:
    """`value` as a finite real scalar; integers of Python and NumPy become floats (and stay weakly typed)."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError as error:
            raise ValueError(f"{name} must be finite; got an integer beyond the floats") from error
    return floats(name, value)


def numbers(values: list) -> Float[np.ndarray, " k"] | Float[Array, " k"]:
    """Checked numbers as one array, made without JAX where all are known: one compilation, whatever they came as."""
    return np.array([float(value) for value in values]) if all(map(known, values)) else jnp.stack(values)


def positive(name: str, value: Any) -> Float[Array, ""]:
    """`value` as a finite real scalar above 0."""
    value = number(name, value)
    within(name, value, "be positive", lambda v: v > 0)
    return value


def span(
    name: str, value: Any, inside: tuple[str, Any] | None = None, *, convert: Callable[[str, Any], Any] = number
) -> tuple[Any, Any]:
    """`value` as a pair (least, largest) of numbers; it must contain the one `inside`, given with its name, if any."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} must be a pair (least, largest); got {value!r}")
    low, high = (convert(name, end) for end in value)
    if known(low) and known(high):
        came = f"({float(low):g}, {float(high):g})"
        if not float(low) < float(high):
            raise ValueError(f"{name} must be (least, largest), the first below the second; got {came}")
        if inside and known(inside[1]) and not float(low) <= float(inside[1]) <= float(high):
            raise ValueError(f"{name} must contain {inside[0]} = {float(inside[1]):g}; got {came}")
    return low, high


def are_apart(low: Any, high: Any, dtype: Any) -> bool:
    """Whether the ends of a span, if they are known, are two numbers in this dtype as well."""
    with np.errstate(over="ignore"):
        return not (known(low) and known(high)) or bool(np.asarray(low, dtype) < np.asarray(high, dtype))


def apart(name: str, low: Any, high: Any, dtype: Any) -> tuple[Any, Any]:
    """The ends of a span; raises unless they are."""
    if not are_apart(low, high, dtype):
        came = f"({float(low)!r}, {float(high)!r})"
        raise ValueError(f"{name} must be (least, largest), the first below the second in {dtype} too; got {came}")
    return low, high


def state(name: str, value: Any) -> Float[Array, " n"]:
    """`value` as one state: a finite float array of shape (n,)."""
    array = floats(name, value, "n")
    if array.size == 0:
        raise ValueError(f"{name} must hold at least one unit; got shape (0,)")
    return array


def starts(value: Any) -> Float[Array, "s n"]:
    """`value` as states to start from: a finite float array of shape (s, n), neither of them 0."""
    array = floats("starts", value, "s", "n")
    if array.size == 0:
        raise ValueError(f"starts must hold at least one start of at least one unit; got shape {array.shape}")
    return array


def at_least_single(x0: Float[Array, " n"]) -> None:
    """Raises for a state of less than float32, for which LAPACK has nothing."""
    if jnp.finfo(x0.dtype).bits < 32:
        raise ValueError(f"x0 must be float32 or float64, as there is no QR of others; got {x0.dtype}")


def count(name: str, value: Any, *, least: int = 0) -> int:
    """`value` as a whole number, at least `least`."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool) or whole < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {_on_one_line(repr(value))}")
    return whole


def option(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises unless `value` is one of the allowed words."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def instance(name: str, value: Any, kind: type) -> None:
    """Raises unless `value` is an object of this class."""
    if not isinstance(value, kind):
        where = "" if kind.__module__ == "builtins" else f" (see {kind.__module__})"
        raise ValueError(f"{name} must be of type {kind.__name__}{where}; got {type(value).__name__}")


def word(name: str, value: Any, test: Callable, yes: str, no: str, *, instead: str) -> str | np.ndarray:
    """What a result says of itself: one of two words by a test of a number, or an array of them after `vmap`."""
    if not known(value):
        raise ValueError(f"{name} must be read where its numbers are known; inside jit, vmap and grad use {instead}")
    words = np.where(test(np.asarray(value)), yes, no)
    return words if words.ndim else str(words)


def within(name: str, value: Any, allowed: str, test: Callable[[np.ndarray], Any]) -> None:
    """Raises unless every number that can be looked at passes `test`; `allowed` goes on after "name must".

    The test gets a NumPy array: inside a caller's `jit`, JAX turns even a comparison of known numbers into a tracer.
    """
    if known(value) and not np.all(test(np.asarray(value))):
        with np.printoptions(threshold=8, edgeitems=2):
            raise ValueError(f"{name} must {allowed}; got {_on_one_line(str(np.asarray(value)))}")


def inputs(value: PyTree, num_steps: int | None) -> int:
    """The number of steps that `inputs` and `num_steps` ask for; they must agree, and one of them must be given."""
    lengths = set()
    for leaf in jax.tree.leaves(value):
        array = _as_array("inputs", leaf)
        if array.ndim == 0:
            hint = "num_steps gives a number of steps" if leaf is value else "each leaf of a pytree must have one"
            raise ValueError(f"inputs must have a leading time axis; got a scalar ({hint})")
        if jnp.issubdtype(array.dtype, jnp.inexact):
            finite("inputs", array)
        lengths.add(array.shape[0])
    if len(lengths) > 1:
        raise ValueError(f"inputs must have one leading time axis; its leaves have lengths {sorted(lengths)}")
    if num_steps is not None:
        num_steps = count("num_steps", num_steps)
        if lengths and lengths != {num_steps}:
            raise ValueError(f"inputs must be {num_steps} steps long, as num_steps says; got {lengths.pop()}")
        return num_steps
    if not lengths:
        raise ValueError("inputs or num_steps must be given; got neither")
    return lengths.pop()


def trajectory(xs: Any, inputs_: PyTree) -> Float[Array, "S n"]:
    """`xs` as the states x_0 ... x_T of an orbit that `inputs_`, if any, drove: T steps of them."""
    xs = floats("xs", xs, "T+1", "n")
    if len(xs) == 0:
        raise ValueError(f"xs must hold at least the initial state; got shape {xs.shape}")
    inputs(inputs_, len(xs) - 1)
    return xs


def loss(function: Callable, argument: PyTree) -> None:
    """Raises unless the loss gives a float scalar at this argument; only shapes are looked at."""
    if not callable(function):
        raise ValueError(f"loss must be a function; got {type(function).__name__}")
    image = equinox.filter_eval_shape(function, argument)
    if getattr(image, "shape", None) != () or not jnp.issubdtype(image.dtype, jnp.floating):
        came = f"{image.dtype} of shape {image.shape}" if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"loss must return a float scalar; it returned {came}")


def next_state(step: Callable, x: Float[Array, " n"], u: PyTree = None, *, name: str = "step") -> Float[Array, " n"]:
    """`x` in the dtype the map works in, the wider of its own and its image's; raises if the map changes its shape.

    Only shapes are looked at: `u` may hold `jax.ShapeDtypeStruct`s. `name` is what the caller calls the map.
    """
    if not callable(step):
        raise ValueError(f"{name} must be a function (x, u) -> x; got {type(step).__name__}")
    try:
        image = jax.eval_shape(step, x, u)
    except TypeError as error:
        if "positional argument" not in str(error):
            raise
        raise ValueError(f"{name} must be a function (x, u) -> x; called so it raised: {error}") from error
    if not hasattr(image, "shape") or image.shape != x.shape or not jnp.issubdtype(image.dtype, jnp.floating):
        came = f"{image.dtype} of shape {image.shape}" if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"{name} must map a float state of shape {x.shape} to one like it; it returned {came}")
    x = x.astype(jnp.promote_types(x.dtype, image.dtype))
    image = jax.eval_shape(step, x, u)
    if image.dtype != x.dtype:
        raise ValueError(f"{name} must return its state's dtype {x.dtype}; it returned {image.dtype}")
    return x


def member(family: Callable, *parameters: Any, name: str) -> Callable:
    """The map that a family has at these parameters, for `next_state` to check; `name` is what it calls it."""
    if not callable(family):
        raise ValueError(f"family must be a function, and {name} a map (x, u) -> x; got {type(family).__name__}")

    def step(x, u):
        try:
            map_ = family(*parameters)
        except (TypeError, ValueError) as error:
            message = str(error).partition("\n")[0]
            raise ValueError(
                f"family must be a function, and {name} a map (x, u) -> x; it raised: {message}"
            ) from error
        if not callable(map_):
            came = "an array" if isinstance(map_, jax.Array) else type(map_).__name__
            raise ValueError(f"family must return a map (x, u) -> x; {name} returned {came}")
        return map_(x, u)

    return step


@contextlib.contextmanager
def derivatives() -> Iterator[None]:
    """Says of a step which derivatives, taken in this block, it has not, and how one made of a flow would have them."""
    try:
        yield
    except (TypeError, ValueError) as error:
        for said, mode, function in (
            ("apply forward-mode autodiff (jvp) to a custom_vjp", "forward", "jax.jvp"),
            ("Reverse-mode differentiation does not work", "reverse", "jax.vjp"),
        ):
            if said in str(error):
                has = f"as flows.integrate has with mode={mode!r}"
                raise ValueError(f"step must have derivatives in {mode} mode ({function}), {has}") from error
        raise


def first_state(step: Callable, x0: Float[Array, " n"], inputs: PyTree, *, name: str = "step") -> Float[Array, " n"]:
    """`next_state` at the first of `inputs`, which have a leading time axis, perhaps of length 0."""
    u = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    try:
        return next_state(step, x0, u, name=name)
    except ValueError as error:
        if str(error).startswith("u must"):  # what the map says of its input
            raise ValueError(f"inputs must hold at every time what the map takes: {error}") from error
        raise


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _as_array(name: str, value: Any) -> Array:
    try:
        # JAX compiles a program for every new shape of NumPy array that it is given, unless it is told to copy it.
        return jax.device_put(value, may_alias=False) if isinstance(value, np.ndarray) else jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last from a tensor of torch that gradients flow to
        kind = type(value).__name__ if not isinstance(value, np.ndarray) else f"{value.dtype} array"
        raise ValueError(f"{name} must be an array of numbers; got {kind}") from error
