"""What TorchScript does with sizes, lists and other plain values, done as Python does it, symbolic sizes included."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _same(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> None:
    return None


def _divided(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return a // b
    if rounding_mode == "trunc":
        return int(a / b)
    return a / b


def _sliced(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return values[start:end:step]


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _extended(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if alpha == 1 else a + b * alpha


def _sizes(x: Tensor, dim: int | None = None) -> Any:
    return list(x.shape) if dim is None else x.shape[dim]


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: choose(*values)


def _dict(*pairs: Any) -> dict[Any, Any]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


ABOUT: dict[str, Callable[..., Any]] = {
    "size": _sizes,
    "sym_size": _sizes,
    "shape": _sizes,
    "dim": lambda x: x.dim(),
    "numel": lambda x: x.numel(),
    "is_floating_point": lambda x: x.is_floating_point(),
    "is_complex": lambda x: x.is_complex(),
    "device": lambda x: x.device,
    "dtype": lambda x: x.dtype,
    "layout": lambda x: x.layout,
    "is_cuda": lambda x: x.is_cuda,
    "type": lambda device: device.type,
    "is_grad_enabled": torch.is_grad_enabled,
    "is_nested": lambda x: x.is_nested,
    "requires_grad": lambda x: x.requires_grad,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "unchecked_cast": _same,
    "unchecked_unwrap_optional": _same,
    "_unwrap_optional": _same,
    "Uninitialized": _nothing,
    "NumToTensor": _same,
    "TupleConstruct": lambda *values: values,
    "TupleIndex": operator.getitem,
    "ListConstruct": lambda *values: list(values),
    "DictConstruct": _dict,
    "warn": _nothing,
    "Print": _nothing,
}
"""Whatever the inputs are, tensors too."""

NUMBERS: dict[str, Callable[..., Any]] = {
    "add": _extended,
    "add_": _extended,
    "sub": lambda a, b, alpha=1: a - b * alpha,
    "rsub": lambda a, b, alpha=1: b - a * alpha,
    "mul": operator.mul,
    "div": _divided,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "sqrt": math.sqrt,
    "floor": math.floor,
    "ceil": math.ceil,
    "min": _extreme(min),
    "max": _extreme(max),
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "to": _same,
    "detach": _same,
}
"""Arithmetic: on numbers, and on the tensors without axes that tracing makes of them."""

VALUES: dict[str, Callable[..., Any]] = {
    **NUMBERS,
    "Int": _same,
    "IntImplicit": _same,
    "ScalarImplicit": _same,
    "item": _same,
    "Float": lambda a: a if isinstance(a, torch.SymInt) else float(a),
    "FloatImplicit": _same,
    "Bool": bool,
    "str": str,
    "__not__": operator.not_,
    "__and__": lambda a, b: a and b,
    "__or__": lambda a, b: a or b,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__range_length": lambda low, high, step: len(range(low, high, step)),
    "__derive_index": lambda index, start, step: start + index * step,
    "len": len,
    "list": list,
    "slice": _sliced,
    "append": _append,
    "keys": lambda d: list(d.keys()),
    "values": lambda d: list(d.values()),
    "items": lambda d: list(d.items()),
    "format": lambda text, *values: text.format(*values),
    "percentFormat": lambda text, *values: text % values,
    "tensor": lambda data, dtype=None, device=None, requires_grad=False: torch.tensor(data, dtype=dtype),
    "dtype": _same,
}
"""Where no input is a tensor itself."""
