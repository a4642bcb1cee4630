"""Matrix products.

A product of matrices whose operand is a transposed matrix is one Gemm with that operand's flag set: nothing is moved,
and the transposition dies if nobody else reads it. Gemm's alpha and beta are float32 attributes: what float32 does not
hold exactly is multiplied outside. Gemm has no integer kernel: integer matrices go through MatMul.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder
from .pointwise import scaled
from .table import arg_vals, lowering, squeeze, transpose, unsqueeze, val

aten = torch.ops.aten


def untransposed(b: Builder, x: str) -> tuple[str, int]:
    """`x` as (matrix, flag): the matrix behind a transposition and 1, or itself and 0."""
    node = b.producer(x)
    if node is None or node.op_type != "Transpose" or list(node.attribute[0].ints) != [1, 0]:
        return x, 0
    return node.input[0], 1


def matrix_product(b: Builder, x: str, y: str, dtype: torch.dtype) -> str:
    """x @ y for two matrices."""
    if not dtype.is_floating_point:
        return b.op("MatMul", x, y)
    (x, trans_x), (y, trans_y) = untransposed(b, x), untransposed(b, y)
    if not trans_x and not trans_y:
        return b.op("MatMul", x, y)
    return b.op("Gemm", x, y, **_said({"transA": trans_x, "transB": trans_y}))


def _said(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of Gemm that differ from their defaults."""
    defaults = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    return {name: value for name, value in attributes.items() if value != defaults[name]}


def _exact_in_float32(value: Any) -> bool:
    return isinstance(value, (int, float)) and float(np.float32(value)) == float(value)


def affine(b: Builder, c: str, x: str, y: str, dtype: torch.dtype, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y for two matrices; c broadcasts."""
    if beta == 0:
        return scaled(b, matrix_product(b, x, y, dtype), alpha, dtype)
    if not dtype.is_floating_point or not _exact_in_float32(alpha) or not _exact_in_float32(beta):
        product = scaled(b, matrix_product(b, x, y, dtype), alpha, dtype)
        return b.op("Add", scaled(b, c, beta, dtype), product)
    (x, trans_x), (y, trans_y) = untransposed(b, x), untransposed(b, y)
    attributes = {"transA": trans_x, "transB": trans_y, "alpha": float(alpha), "beta": float(beta)}
    return b.op("Gemm", x, y, c, **_said(attributes))


@lowering(aten.mm.default)
def mm(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """x @ y."""
    return matrix_product(b, x, y, val(node).dtype)


@lowering(aten.bmm.default, aten.mv.default, aten.dot.default, aten.vdot.default, aten.matmul.default)
def matmul(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """x @ y, batched or of vectors: ONNX's MatMul has NumPy's rules, which are PyTorch's."""
    return b.op("MatMul", x, y)


@lowering(aten.addmm.default)
def addmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y."""
    return affine(b, c, x, y, val(node).dtype, beta, alpha)


@lowering(aten.baddbmm.default, aten.addmv.default)
def baddbmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y, batched or times a vector."""
    dtype = val(node).dtype
    product = scaled(b, b.op("MatMul", x, y), alpha, dtype)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, dtype), product)


@lowering(aten.addbmm.default)
def addbmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha sum_i x_i @ y_i."""
    dtype = val(node).dtype
    product = scaled(b, b.reduce("ReduceSum", b.op("MatMul", x, y), [0], False), alpha, dtype)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, dtype), product)


@lowering(aten.addr.default)
def addr(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x y^T for two vectors."""
    dtype = val(node).dtype
    product = scaled(b, b.op("Mul", unsqueeze(b, x, [1]), unsqueeze(b, y, [0])), alpha, dtype)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, dtype), product)


@lowering(aten.linear.default)
def linear(b: Builder, node: fx.Node, x: str, weight: str, bias: str | None) -> str:
    """x @ weight^T + bias."""
    x_val, weight_val = arg_vals(node)[:2]
    dtype = val(node).dtype
    if weight_val.dim() == 1:
        product = b.op("MatMul", x, weight)
    elif x_val.dim() == 1:
        product = squeeze(
            b, matrix_product(b, unsqueeze(b, x, [0]), transpose(b, weight, [1, 0]), dtype), [0]
        )
    elif x_val.dim() == 2:
        turned = transpose(b, weight, [1, 0])
        if bias is not None:
            return affine(b, bias, x, turned, dtype, 1, 1)
        return matrix_product(b, x, turned, dtype)
    else:
        product = b.op("MatMul", x, transpose(b, weight, [1, 0]))
    return product if bias is None else b.op("Add", product, bias)
