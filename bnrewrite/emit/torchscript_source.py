"""Expressions of TorchScript: how one call of an FX graph, its arguments and its types are written."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import InputError, UnsupportedOp
from ..passes.graph import place

ANY = -1
"""A size that may be anything, in a list of sizes."""

_OPERATORS: dict[Any, str] = {
    operator.add: "{} + {}",
    operator.sub: "{} - {}",
    operator.mul: "{} * {}",
    operator.truediv: "{} / {}",
    operator.floordiv: "{} // {}",
    operator.mod: "{} % {}",
    operator.pow: "{} ** {}",
    operator.neg: "-{}",
    operator.abs: "abs({})",
    operator.eq: "{} == {}",
    operator.ne: "{} != {}",
    operator.lt: "{} < {}",
    operator.le: "{} <= {}",
    operator.gt: "{} > {}",
    operator.ge: "{} >= {}",
    operator.and_: "{} and {}",
    operator.or_: "{} or {}",
    operator.not_: "not {}",
    torch.sym_not: "not {}",
    torch.sym_sqrt: "math.sqrt({})",
    torch.sym_max: "max({}, {})",
    torch.sym_min: "min({}, {})",
    torch.sym_float: "float({})",
    torch.sym_int: "int({})",
    torch.sym_ite: "{1} if {0} else {2}",
    math.floor: "math.floor({})",
    math.ceil: "math.ceil({})",
    math.trunc: "int({})",
    torch.ops.aten.sym_size.int: "{}.size({})",
    torch.ops.aten.sym_stride.int: "{}.stride({})",
    torch.ops.aten.sym_numel.default: "{}.numel()",
}
"""Python arithmetic on sizes and numbers."""


def call(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    """The expression for a node that calls an ATen operation or computes with sizes.

    Raises `UnsupportedOp` where TorchScript has no word for it.
    """
    op = node.target
    if op in _OPERATORS:
        return _OPERATORS[op].format(*(argument(value, names) for value in node.args))
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        raise UnsupportedOp(op, place(node), "TorchScript cannot express it: export to ONNX or .pt2 instead.")
    schema = {entry.name: str(entry.type) for entry in op._schema.arguments}
    try:
        parts = [
            argument(value, names, wanted) for value, wanted in zip(node.args, schema.values(), strict=False)
        ]
        parts += [f"{key}={argument(value, names, schema[key])}" for key, value in node.kwargs.items()]
    except InputError as error:
        raise UnsupportedOp(op, place(node), f"TorchScript cannot express it: {error}") from error
    return f"torch.ops.aten.{op._schema.name.removeprefix('aten::')}({', '.join(parts)})"


def argument(value: Any, names: Mapping[fx.Node, str], wanted: str = "") -> str:
    """`value` as TorchScript text of the type `wanted`, in the words of PyTorch's schemas (`List[int]`)."""
    wanted = _inner(wanted, "Optional") or wanted
    if isinstance(value, (list, tuple)):
        entry = _inner(wanted, "List")
        text = f"[{', '.join(argument(part, names, entry) for part in value)}]"
        # TorchScript takes the type of a list from its first entry.
        return f"torch.jit.annotate({wanted}, {text})" if not value or entry.startswith("Optional") else text
    if isinstance(value, fx.Node):
        is_size = isinstance(value.meta.get("val"), torch.SymInt)
        return f"float({names[value]})" if wanted == "float" and is_size else names[value]
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return repr(float(value)) if wanted == "float" else repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    raise InputError(f"a value of type {type(value).__name__} cannot be written in TorchScript.")


def _inner(wanted: str, container: str) -> str:
    return wanted[len(container) + 1 : -1] if wanted.startswith(f"{container}[") else ""


def type_of(value: Any, name: str) -> str:
    """The TorchScript type of an argument called `name`; InputError where there is none.

    Tensors, numbers, tuples, lists of one type and dicts of one type by string, nested as one likes.
    """
    if isinstance(value, Tensor):
        return "Tensor"
    if type(value) in (bool, int, float, str):
        return type(value).__name__
    if type(value) is tuple and value:
        return f"Tuple[{', '.join(type_of(part, f'{name}[{i}]') for i, part in enumerate(value))}]"
    if type(value) is list and value:
        return f"List[{_one_type([type_of(part, f'{name}[{i}]') for i, part in enumerate(value)], name)}]"
    if type(value) is dict and value and all(isinstance(key, str) for key in value):
        entries = [type_of(part, f"{name}['{key}']") for key, part in value.items()]
        return f"Dict[str, {_one_type(entries, name)}]"
    raise InputError(
        f"{name} is of type {type(value).__name__}, which has no type in TorchScript: use tensors, tuples, lists, or "
        "dicts with strings as keys, or export to .pt2 instead."
    )


def _one_type(types: list[str], name: str) -> str:
    if len(set(types)) > 1:
        raise InputError(
            f"{name} holds entries of several types ({', '.join(sorted(set(types)))}), which TorchScript's lists and "
            "dicts cannot: use a tuple, or export to .pt2 instead."
        )
    return types[0]


def quoted(text: str) -> str:
    """A string literal."""
    return json.dumps(text, ensure_ascii=False)
