"""Dense blocks of H, G or R between chosen parameters, by unit vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor

from ..compiler import compile_joint, door_check, linearized
from ..emit.linearized import build_primal
from ..errors import InputError
from ..losses import Loss
from ..options import Options
from ..passes.graph import Input, JointGraph
from ..sources import Model, as_module
from .pullback import apply_for, at_once, detached

Names = Sequence[str] | str | None


def dense_block(
    model: Model,
    data: tuple[Any, Any],
    *,
    rows: Names = None,
    columns: Names = None,
    product: Literal["hvp", "ggn", "residual"] = "hvp",
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    random: Literal["off", "error"] = "off",
    memory: int = 1 << 31,
    block: int | None = None,
) -> Tensor:
    """A dense block of the Hessian H (`"hvp"`), of G (`"ggn"`) or of R = H - G (`"residual"`) of a batch.

    Parameters
    ----------
    model, loss, bn, random : as for `bnrewrite.transform`.
    data : `(input, target)`: the batch, rather than an example.
    rows, columns : parameters by name or glob pattern; `rows=None` means all that require grad, `columns=None` the same
        as `rows`. `rows="input"` is the block by the model's input.
    memory : bytes that the block may take.
    block : how many products are made at a time; by default as many as fit into 256 MB.

    Returns
    -------
    Tensor (R, C): the entries of the parameters, one parameter after the other in the order of `named_parameters()`.
    It takes a product for each row or for each column, whichever are fewer.

    Raises
    ------
    InputError : a name that fits no parameter, or a block larger than `memory`.
    CaptureError, UnsupportedOp : as `transform`.
    """
    model = as_module(model)
    own = dict(model.named_parameters())
    _chosen(own, rows, "rows")
    _chosen(own, columns, "columns")
    options = Options(loss, bn, _wrt(rows, columns), (product,), None, random, dynamic_batch=False)
    joint = compile_joint(model, data, options)
    shapes: dict[str, list[int]] = joint.meta["parameters"]  # type: ignore[assignment]
    down = _chosen(shapes, rows, "rows")
    across = down if columns is None else _chosen(shapes, columns, "columns")
    height, width = (sum(math.prod(shapes[name]) for name in names) for names in (down, across))
    bytes_taken = 8 * height * width
    if bytes_taken > memory:
        raise InputError(
            f"a block of {height:,} x {width:,} takes up to {bytes_taken:,} bytes, and memory={memory:,}: choose fewer "
            "rows or columns, or give more memory."
        )
    if height < width:  # the matrix is symmetric
        return _block(joint, data, across, down, block).T.contiguous()
    return _block(joint, data, down, across, block)


def _wrt(rows: Names, columns: Names) -> Names:
    """What to differentiate by: rows and columns together."""
    if columns is None or rows is None or rows == columns:
        return rows
    if "input" in (rows, columns):
        raise InputError("a block by the model's input has rows='input' and no other columns.")
    return [*_listed(rows), *_listed(columns)]


def _listed(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _chosen(shapes: Mapping[str, Any], names: Names, which: str) -> list[str]:
    """The parameters that `names` stands for, in order."""
    if names is None or names == "input":
        return list(shapes)
    patterns = _listed(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise InputError(
                f"{which}: no parameter matches {pattern!r}. The first are {', '.join([*shapes][:4])}."
            )
    return [name for name in shapes if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _block(
    joint: JointGraph, data: tuple[Any, Any], down: Sequence[str], across: Sequence[str], block: int | None
) -> Tensor:
    """One product with a unit vector for each column."""
    parts = linearized(joint, "most")
    residuals = build_primal(parts.primal, door_check(joint))(*detached(data))[2]
    vals = {entry.name.removeprefix("v."): val for entry, val in _vectors(joint)}
    units = [(name, i) for name in across for i in range(vals[name].numel())]
    height = sum(vals[name].numel() for name in down)
    count = at_once(sum(val.numel() for val in vals.values()), len(units), block)
    apply = apply_for(parts.apply, count)
    found = torch.empty(height, len(units), dtype=vals[down[0]].dtype, device=vals[down[0]].device)
    for start in range(0, len(units), count):
        some = units[start : start + count]
        v = {
            name: torch.zeros(count, *val.shape, dtype=val.dtype, device=val.device)
            for name, val in vals.items()
        }
        for k, (name, i) in enumerate(some):
            v[name][k].view(-1)[i] = 1.0
        products = apply(residuals, v)
        rows = torch.cat([products[name].flatten(1) for name in down], dim=1)
        found[:, start : start + len(some)] = rows[: len(some)].T
    return found


def _vectors(joint: JointGraph) -> list[tuple[Input, Tensor]]:
    """The directions that a graph takes, with tensors of their shapes and types."""
    placeholders = (node for node in joint.graph.nodes if node.op == "placeholder")
    pairs = zip(joint.inputs, placeholders, strict=True)
    return [(entry, node.meta["val"]) for entry, node in pairs if entry.kind == "vector"]
