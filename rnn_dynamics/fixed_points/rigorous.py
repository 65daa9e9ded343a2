"""A map that JAX can trace, and its Jacobian, evaluated in Arb's intervals: nothing is lost to rounding.

Row 6 of the layer table: imports nothing of the package; it needs python-flint, the extra `certify`. Next: `proofs`.

The Jacobian is taken here, by forward differentiation of the map's operations, and not from JAX: a rule that its
author declared (`jax.custom_jvp`, `stop_gradient`) need not be the derivative. An operation that chooses (a comparison,
max, abs) must choose alike in the whole box, so what has been evaluated is smooth there.
"""

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import lazy_loader
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

flint: Any = lazy_loader.load("flint") if find_spec("flint") else None
"""python-flint, loaded on first use; None where it is not installed."""

__all__ = ["CannotEvaluate", "value_and_jacobian"]

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"} | {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
_MOVES = frozenset(
    (
        *("broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "dynamic_update_slice", "expand_dims", "gather"),
        *("pad", "reshape", "rev", "select_n", "slice", "split", "squeeze", "stack", "transpose"),
    )
)
_SAME = frozenset(("convert_element_type", "stop_gradient", "optimization_barrier"))


class CannotEvaluate(Exception):  # noqa: N818
    """Says which operation stands in the way."""


class _Dual(NamedTuple):
    """Intervals (...), and their derivatives (..., n), None of a constant."""

    value: np.ndarray
    tangent: np.ndarray | None


def value_and_jacobian(trace: ClosedJaxpr, box: list) -> tuple[Any, Any]:
    """All values of a function (n,) -> (n,) on a box of n intervals, and all its derivatives.

    Args:
        trace: The function, as `jax.make_jaxpr` sees it.
        box: n `arb`s.

    Returns:
        Two `arb_mat`s, (n, 1) and (n, n).

    Raises:
        CannotEvaluate: an operation that is not known here, or that chooses differently within the box.
    """
    n = len(box)
    x = _Dual(_array(box, (n,)), _array([flint.arb(i == j) for i in range(n) for j in range(n)], (n, n)))
    value, tangent = _dual(*_run(trace.jaxpr, trace.consts, [x]))
    tangent = _zeros((n, n)) if tangent is None else tangent
    return flint.arb_mat(n, 1, list(value.flat)), flint.arb_mat(n, n, list(tangent.flat))


def _run(jaxpr, consts, arguments):
    """The outputs of a jaxpr: concrete arrays of integers and booleans, and duals of the rest."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(_read, consts), *arguments), strict=True))

    def read(atom):
        return _read(atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation, operands):
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = params[_CALLS[name]]
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
    if name == "scan":
        return _scan(params, operands)
    if name in _SAME:
        return [_convert(operand, equation.outvars[0].aval.dtype) for operand in operands]
    if not any(isinstance(operand, _Dual) for operand in operands):
        return _concretely(equation, operands)
    if name in _MOVES:
        return _move(equation, operands)
    if name in _COMPARISONS:
        return [_compare(name, *operands)]
    if name == "dot_general":
        return [_dot(*operands, *params["dimension_numbers"])]
    if name == "reduce_sum":
        return [_on_both(lambda array, axes=tuple(params["axes"]): array.sum(axes), operands[0])]
    if name == "integer_pow":
        power = params["y"]
        return [_unary(lambda x: _whole(x, power), lambda x, _: power * _whole(x, power - 1), operands[0])]
    if name == "clamp":
        low, x, high = operands
        return [_binary(_BINARY["min"], _binary(_BINARY["max"], x, low), high)]
    if name in _UNARY:
        function, derivative = _UNARY[name]
        return [_unary(function, derivative, operands[0])]
    if name in _BINARY:
        return [_binary(_BINARY[name], *operands)]
    raise CannotEvaluate(f"the operation {name} of the map is not known to interval arithmetic")


def _scan(params, operands):
    """Unrolled."""
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry, xs = np.split(_objects(operands), [num_consts, num_consts + num_carry])
    carry, outputs, steps = list(carry), [], range(params["length"])
    for t in reversed(steps) if params["reverse"] else steps:
        slices = [_on_both(lambda array, t=t: array[t], x) for x in xs]
        result = _run(params["jaxpr"].jaxpr, params["jaxpr"].consts, [*consts, *carry, *slices])
        carry = result[:num_carry]
        outputs.append(result[num_carry:])
    outputs = outputs[::-1] if params["reverse"] else outputs
    return [*carry, *(_stack(column) for column in zip(*outputs, strict=True))]


def _stack(column):
    if not isinstance(column[0], _Dual):
        return np.stack(column)
    constant = all(entry.tangent is None for entry in column)
    n = next((entry.tangent.shape[-1] for entry in column if entry.tangent is not None), 0)
    tangents = [_zeros((*entry.value.shape, n)) if entry.tangent is None else entry.tangent for entry in column]
    return _Dual(np.stack([entry.value for entry in column]), None if constant else np.stack(tangents))


def _concretely(equation, operands):
    result = equation.primitive.bind(*map(np.asarray, operands), **equation.params)
    return [_read(each) for each in (result if equation.primitive.multiple_results else [result])]


def _move(equation, operands):
    """An operation that only moves entries: done to their numbers, and then to them."""
    duals = [operand for operand in operands if isinstance(operand, _Dual)]
    starts = iter(np.cumsum([0, *(dual.value.size for dual in duals)]))
    numbers = [
        np.arange(operand.value.size, dtype=np.int32).reshape(operand.value.shape) + np.int32(next(starts))
        if isinstance(operand, _Dual)
        else operand
        for operand in operands
    ]
    moved = equation.primitive.bind(*numbers, **equation.params)
    n = next((dual.tangent.shape[-1] for dual in duals if dual.tangent is not None), None)
    values = np.concatenate([dual.value.ravel() for dual in duals])
    tangents = None
    if n is not None:
        parts = (_zeros((*dual.value.shape, n)) if dual.tangent is None else dual.tangent for dual in duals)
        tangents = np.concatenate([part.reshape(-1, n) for part in parts])
    results = []
    for index in map(np.asarray, moved if equation.primitive.multiple_results else [moved]):
        if index.size and not (index.min() >= 0 and index.max() < len(values)):
            raise CannotEvaluate(f"the operation {equation.primitive.name} of the map reaches outside of its array")
        results.append(_Dual(_objects_of(values[index]), None if tangents is None else tangents[index]))
    return results


def _compare(name, a, b):
    holds, fails = _COMPARISONS[name]
    same = a is b  # one variable, as in x != x, which is how JAX asks whether x is NaN

    def one(a, b):
        if same and a.is_finite():
            return name in ("eq", "ge", "le")
        if holds(a, b):
            return True
        if fails(a, b):
            return False
        raise CannotEvaluate(f"the map chooses between two branches ({name}), and not alike in the whole box")

    return np.asarray(np.frompyfunc(one, 2, 1)(_dual(a).value, _dual(b).value), dtype=bool)


def _dot(a, b, contracted, batched):
    if any(batched):
        raise CannotEvaluate("a batched product of matrices (dot_general) is not known to interval arithmetic")
    a, b = _dual(a), _dual(b)
    left = [axis for axis in range(a.value.ndim) if axis not in contracted[0]]
    right = [axis for axis in range(b.value.ndim) if axis not in contracted[1]]
    shape = *(a.value.shape[axis] for axis in left), *(b.value.shape[axis] for axis in right)
    size = int(np.prod([a.value.shape[axis] for axis in contracted[0]], dtype=int))
    first = a.value.transpose(*left, *contracted[0]).reshape(-1, size)
    second = b.value.transpose(*contracted[1], *right).reshape(size, -1)
    value = _product(first, second).reshape(shape)
    tangents = []
    if a.tangent is not None:
        n = a.tangent.shape[-1]
        moved = a.tangent.transpose(*left, a.value.ndim, *contracted[0]).reshape(-1, size)
        product = _product(moved, second).reshape(len(first), n, second.shape[1])
        tangents.append(product.transpose(0, 2, 1).reshape(*shape, n))
    if b.tangent is not None:
        n = b.tangent.shape[-1]
        moved = b.tangent.transpose(*contracted[1], *right, b.value.ndim).reshape(size, -1)
        tangents.append(_product(first, moved).reshape(*shape, n))
    return _Dual(value, sum(tangents[1:], tangents[0]) if tangents else None)


def _product(a, b):
    if not a.shape[1]:
        return _zeros((len(a), b.shape[1]))
    first, second = (flint.arb_mat(len(each), each.shape[1], list(each.flat)) for each in (a, b))
    return _array((first * second).entries(), (len(a), b.shape[1]))


def _unary(function, derivative, x):
    x = _dual(x)
    value = np.frompyfunc(function, 1, 1)(x.value)
    if x.tangent is None:
        return _Dual(_objects_of(value), None)
    slope = np.frompyfunc(derivative, 2, 1)(x.value, value)
    return _Dual(_objects_of(value), _objects_of(slope)[..., None] * x.tangent)


def _binary(rule, a, b):
    """`rule` gives the value and both partial derivatives."""
    a, b = _dual(a), _dual(b)
    value, by_a, by_b = map(_objects_of, np.frompyfunc(rule, 2, 3)(a.value, b.value))
    parts = ((by_a, a.tangent), (by_b, b.tangent))
    tangents = [slope[..., None] * tangent for slope, tangent in parts if tangent is not None]
    return _Dual(value, sum(tangents[1:], tangents[0]) if tangents else None)


def _on_both(function, x):
    if not isinstance(x, _Dual):
        return function(x)
    return _Dual(_objects_of(function(x.value)), None if x.tangent is None else function(x.tangent))


def _convert(operand, dtype):
    if np.issubdtype(dtype, np.floating):
        return _dual(operand)
    if isinstance(operand, _Dual):
        raise CannotEvaluate(f"the map turns its state into {dtype}")
    return np.asarray(operand).astype(dtype)


def _read(value):
    """A constant: floats as exact intervals, the rest as it is."""
    if jax.numpy.issubdtype(getattr(value, "dtype", np.dtype(float)), jax.dtypes.prng_key):
        raise CannotEvaluate("the map draws random numbers")
    array = np.asarray(value)
    return _dual(array) if jax.numpy.issubdtype(array.dtype, jax.numpy.floating) else array


def _dual(value):
    if isinstance(value, _Dual):
        return value
    array = np.asarray(value)
    number = int if np.issubdtype(array.dtype, np.integer) or array.dtype == bool else float
    return _Dual(_array([flint.arb(number(entry)) for entry in array.flat], array.shape), None)


def _array(entries, shape):
    array = np.empty(len(entries), object)
    array[:] = entries
    return array.reshape(shape)


def _objects(values):
    return _array(list(values), (len(values),))


def _objects_of(value):
    return value if isinstance(value, np.ndarray) else _array([value], ())


def _zeros(shape):
    return _array([flint.arb(0)] * int(np.prod(shape)), shape)


def _sign(x):
    if x > 0:
        return flint.arb(1)
    if x < 0:
        return flint.arb(-1)
    raise CannotEvaluate("the map has a corner or a jump (abs, sign) within the box")


def _larger(a, b, of_larger):
    if a > b:
        first = of_larger
    elif a < b:
        first = not of_larger
    else:
        raise CannotEvaluate("the map has a corner (max, min) within the box")
    return (a, flint.arb(1), flint.arb(0)) if first else (b, flint.arb(0), flint.arb(1))


def _whole(x, power):
    """A whole power: that of python-flint is NaN where x holds 0."""
    result = math.prod([x] * abs(power), start=flint.arb(1))
    return result if power >= 0 else 1 / result


def _gauss(x):
    return 2 * (-x * x).exp() / flint.arb.const_sqrt_pi()


def _power(a, b):
    if not a > 0:
        raise CannotEvaluate("the map takes a power of what is not surely positive")
    value = a**b
    return value, b * value / a, value * a.log()


def _logistic(x):
    return 1 / (1 + (-x).exp())


_COMPARISONS = {
    "gt": (lambda a, b: a > b, lambda a, b: a <= b),
    "lt": (lambda a, b: a < b, lambda a, b: a >= b),
    "ge": (lambda a, b: a >= b, lambda a, b: a < b),
    "le": (lambda a, b: a <= b, lambda a, b: a > b),
    "eq": (lambda a, b: a == b, lambda a, b: a != b),
    "ne": (lambda a, b: a != b, lambda a, b: a == b),
}
_UNARY = {
    "neg": (lambda x: -x, lambda *_: flint.arb(-1)),
    "tanh": (lambda x: x.tanh(), lambda x, _: _whole(x.sech(), 2)),
    "logistic": (_logistic, lambda x, y: y * _logistic(-x)),
    "exp": (lambda x: x.exp(), lambda _, y: y),
    "exp2": (lambda x: flint.arb(2) ** x, lambda _, y: y * flint.arb.const_log2()),
    "expm1": (lambda x: x.expm1(), lambda _, y: y + 1),
    "log": (lambda x: x.log(), lambda x, _: 1 / x),
    "log1p": (lambda x: x.log1p(), lambda x, _: 1 / (1 + x)),
    "sqrt": (lambda x: x.sqrt(), lambda _, y: 1 / (2 * y)),
    "rsqrt": (lambda x: x.rsqrt(), lambda x, y: -y / (2 * x)),
    "square": (lambda x: x * x, lambda x, _: 2 * x),
    "sin": (lambda x: x.sin(), lambda x, _: x.cos()),
    "cos": (lambda x: x.cos(), lambda x, _: -x.sin()),
    "tan": (lambda x: x.tan(), lambda _, y: 1 + y * y),
    "sinh": (lambda x: x.sinh(), lambda x, _: x.cosh()),
    "cosh": (lambda x: x.cosh(), lambda x, _: x.sinh()),
    "asinh": (lambda x: x.asinh(), lambda x, _: (1 + x * x).rsqrt()),
    "atan": (lambda x: x.atan(), lambda x, _: 1 / (1 + x * x)),
    "erf": (lambda x: x.erf(), lambda x, _: _gauss(x)),
    "erfc": (lambda x: x.erfc(), lambda x, _: -_gauss(x)),
    "abs": (lambda x: x * _sign(x), lambda x, _: _sign(x)),
    "sign": (_sign, lambda *_: flint.arb(0)),
}
_BINARY = {
    "add": lambda a, b: (a + b, flint.arb(1), flint.arb(1)),
    "add_any": lambda a, b: (a + b, flint.arb(1), flint.arb(1)),
    "sub": lambda a, b: (a - b, flint.arb(1), flint.arb(-1)),
    "mul": lambda a, b: (a * b, b, a),
    "div": lambda a, b: (a / b, 1 / b, -a / (b * b)),
    "pow": _power,
    "max": lambda a, b: _larger(a, b, True),
    "min": lambda a, b: _larger(a, b, False),
}
