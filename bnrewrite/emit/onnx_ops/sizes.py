"""Symbolic sizes: reading them off tensors, and Python's arithmetic on them.

A SymInt is a `Size` (int64, shape [1]), a SymFloat a `Real` (float64, shape [1]), a SymBool a `Flag` (bool, shape [1]).
Where all operands are plain numbers the result is one too. Equal expressions are computed once: `onnx.py` looks an
expression up before it calls a lowering here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Flag, Real, Size
from .table import arg_vals, axis, cast, dims, lowering

aten = torch.ops.aten

Number = int | float | Size | Real
_INT, _REAL, _BOOL = torch.int64, torch.float64, torch.bool


def _is_real(x: Any) -> bool:
    return isinstance(x, (float, Real))


def _value(b: Builder, x: Any, dtype: torch.dtype) -> str:
    """A number of any kind as a value of shape [1] and type `dtype`."""
    if not isinstance(x, str):
        return b.const([x], {_INT: np.int64, _REAL: np.float64, _BOOL: np.bool_}[dtype])
    return cast(b, x, {Size: _INT, Real: _REAL, Flag: _BOOL}[type(x)], dtype)


def _arithmetic(b: Builder, op_type: str, x: Any, y: Any, **attributes: Any) -> Any:
    """One ONNX operator on two numbers, in float64 if either is real."""
    dtype = _REAL if _is_real(x) or _is_real(y) else _INT
    result = b.op(op_type, _value(b, x, dtype), _value(b, y, dtype), **attributes)
    return Real(result) if dtype == _REAL else Size(result)


def multiply(b: Builder, x: Any, y: Any) -> Any:
    """x y."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x * y
    if any(not isinstance(a, str) and not isinstance(a, float) and a == 1 for a in (x, y)):
        return x if isinstance(x, str) else y
    return _arithmetic(b, "Mul", x, y)


def plus(b: Builder, x: Any, y: Any) -> Any:
    """x + y."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x + y
    return _arithmetic(b, "Add", x, y)


def subtract(b: Builder, x: Any, y: Any) -> Any:
    """x - y."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x - y
    return _arithmetic(b, "Sub", x, y)


def product(b: Builder, sizes: Sequence[int | Size]) -> int | Size:
    """The product of sizes; plain numbers are multiplied in Python."""
    known = math.prod(s for s in sizes if not isinstance(s, Size))
    return reduce(lambda x, y: multiply(b, x, y), [s for s in sizes if isinstance(s, Size)], known)


def modulo(b: Builder, x: Any, y: Any) -> Any:
    """x mod y with the sign of y; ONNX's Mod on integers is Python's."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x % y
    if _is_real(x) or _is_real(y):
        return subtract(b, x, multiply(b, y, floor(b, divide(b, x, y))))
    return _arithmetic(b, "Mod", x, y)


def floor_divide(b: Builder, x: Any, y: Any) -> Any:
    """floor(x / y); ONNX's Div on integers truncates, so what does not divide is taken off first."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x // y
    if _is_real(x) or _is_real(y):
        return Real(b.op("Floor", divide(b, x, y)))
    return _arithmetic(b, "Div", subtract(b, x, modulo(b, x, y)), y)


def divide(b: Builder, x: Any, y: Any) -> Any:
    """x / y, real."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x / y
    return Real(b.op("Div", _value(b, x, _REAL), _value(b, y, _REAL)))


def power(b: Builder, x: Any, y: Any) -> Any:
    """x ** y; an integer power of a size is one."""
    if not isinstance(x, str) and not isinstance(y, str):
        return x**y
    return _arithmetic(b, "Pow", x, y)


def negate(b: Builder, x: Any) -> Any:
    """-x."""
    return type(x)(b.op("Neg", x)) if isinstance(x, str) else -x


def absolute(b: Builder, x: Any) -> Any:
    """|x|."""
    return type(x)(b.op("Abs", x)) if isinstance(x, str) else abs(x)


def floor(b: Builder, x: Any) -> Any:
    """The largest integer not above x."""
    return (
        to_int(b, Real(b.op("Floor", x)))
        if isinstance(x, Real)
        else x
        if isinstance(x, str)
        else math.floor(x)
    )


def ceil(b: Builder, x: Any) -> Any:
    """The smallest integer not below x."""
    return (
        to_int(b, Real(b.op("Ceil", x))) if isinstance(x, Real) else x if isinstance(x, str) else math.ceil(x)
    )


def to_int(b: Builder, x: Any) -> Any:
    """int(x): towards zero."""
    return Size(_value(b, x, _INT)) if isinstance(x, str) else int(x)


def to_real(b: Builder, x: Any) -> Any:
    """float(x)."""
    return Real(_value(b, x, _REAL)) if isinstance(x, str) else float(x)


def square_root(b: Builder, x: Any) -> Any:
    """sqrt(x)."""
    return Real(b.op("Sqrt", _value(b, x, _REAL))) if isinstance(x, str) else math.sqrt(x)


def larger(b: Builder, x: Any, y: Any) -> Any:
    """max(x, y)."""
    return _arithmetic(b, "Max", x, y) if isinstance(x, str) or isinstance(y, str) else max(x, y)


def smaller(b: Builder, x: Any, y: Any) -> Any:
    """min(x, y)."""
    return _arithmetic(b, "Min", x, y) if isinstance(x, str) or isinstance(y, str) else min(x, y)


def _comparison(op_type: str, python: Callable[[Any, Any], bool]) -> Callable[[Builder, Any, Any], Any]:
    def compare(b: Builder, x: Any, y: Any) -> Any:
        if not isinstance(x, str) and not isinstance(y, str):
            return python(x, y)
        dtype = _REAL if _is_real(x) or _is_real(y) else _INT
        return Flag(b.op(op_type, _value(b, x, dtype), _value(b, y, dtype)))

    return compare


_equal = _comparison("Equal", operator.eq)


def _not_equal(b: Builder, x: Any, y: Any) -> Any:
    return negation(b, _equal(b, x, y))


def negation(b: Builder, x: Any) -> Any:
    """not x."""
    return Flag(b.op("Not", x)) if isinstance(x, str) else not x


_ARITHMETIC: dict[Any, Callable[..., Any]] = {
    operator.add: plus,
    operator.sub: subtract,
    operator.mul: multiply,
    operator.floordiv: floor_divide,
    operator.truediv: divide,
    operator.mod: modulo,
    operator.pow: power,
    operator.neg: negate,
    operator.abs: absolute,
    operator.eq: _equal,
    operator.ne: _not_equal,
    operator.lt: _comparison("Less", operator.lt),
    operator.le: _comparison("LessOrEqual", operator.le),
    operator.gt: _comparison("Greater", operator.gt),
    operator.ge: _comparison("GreaterOrEqual", operator.ge),
    pow: power,
    math.floor: floor,
    math.ceil: ceil,
    math.trunc: to_int,
    torch.sym_max: larger,
    torch.sym_min: smaller,
    torch.sym_int: to_int,
    torch.sym_float: to_real,
    torch.sym_not: negation,
    torch.sym_sqrt: square_root,
}


@lowering(*_ARITHMETIC)
def arithmetic(b: Builder, node: fx.Node, *operands: Number) -> Any:
    """Python's arithmetic on sizes."""
    return _ARITHMETIC[node.target](b, *operands)


@lowering(aten.sym_size.int)
def sym_size(b: Builder, node: fx.Node, x: str, dim: int) -> int | Size:
    """One dimension of a tensor."""
    x_val = arg_vals(node)[0]
    return dims(b, x, x_val)[axis(dim, x_val.dim())]


@lowering(aten.sym_numel.default)
def sym_numel(b: Builder, node: fx.Node, x: str) -> int | Size:
    """Number of elements of a tensor."""
    return product(b, dims(b, x, arg_vals(node)[0]))


@lowering(aten.sym_stride.int)
def sym_stride(b: Builder, node: fx.Node, x: str, dim: int) -> int | Size:
    """Stride of a contiguous tensor along `dim` (ONNX values have no other layout)."""
    x_val = arg_vals(node)[0]
    return product(b, dims(b, x, x_val)[axis(dim, x_val.dim()) + 1 :])


@lowering(
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
def no_value(b: Builder, node: fx.Node, *args: Any, **kwargs: Any) -> None:
    """Checks of the traced program; a graph of values has none."""
    return
