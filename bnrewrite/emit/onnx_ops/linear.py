"""Matrix products.

A product of matrices whose operand is a transposed matrix is one Gemm with that operand's flag set: nothing is moved,
and the transposition dies if nobody else reads it. Gemm's alpha and beta are float32 attributes: what float32 does not
hold exactly is multiplied outside. Gemm has no integer kernel: integer matrices go through MatMul.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..builder import Builder
from .pointwise import scaled
from .table import arg_vals, exact_in_float32, lowering, squeeze, transpose, unsqueeze, val

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


def affine(b: Builder, c: str, x: str, y: str, like: torch.Tensor, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y for two matrices; c broadcasts."""
    dtype = like.dtype
    if beta == 0:
        return scaled(b, matrix_product(b, x, y, dtype), alpha, like)
    if not dtype.is_floating_point or not exact_in_float32(alpha) or not exact_in_float32(beta):
        product = scaled(b, matrix_product(b, x, y, dtype), alpha, like)
        return b.op("Add", scaled(b, c, beta, like), product)
    (x, trans_x), (y, trans_y) = untransposed(b, x), untransposed(b, y)
    attributes = {"transA": trans_x, "transB": trans_y, "alpha": float(alpha), "beta": float(beta)}
    return b.op("Gemm", x, y, c, **_said(attributes))


@lowering(aten.mm.default)
def mm(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """x @ y."""
    return matrix_product(b, x, y, val(node).dtype)


@lowering(aten.bmm.default, aten.mv.default, aten.dot.default, aten.vdot.default, aten.matmul.default)
def matmul(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """x @ y, batched or of vectors."""
    return _matmul(b, node, x, y)


def _matmul(b: Builder, node: fx.Node, x: str, y: str, first: int = 0) -> str:
    """x @ y by NumPy's rules, which are PyTorch's; `first` is the position of x among the arguments of `node`.

    A vector goes through as a matrix: onnxruntime 1.31 fuses a transposition into the product, also with a vector,
    and then computes something else.
    """
    ranks = [value.dim() for value in arg_vals(node)[first : first + 2]]
    x = unsqueeze(b, x, [0]) if ranks[0] == 1 else x
    y = unsqueeze(b, y, [1]) if ranks[1] == 1 else y
    product = b.op("MatMul", x, y)
    gone = [-2] * (ranks[0] == 1) + [-1] * (ranks[1] == 1)
    return squeeze(b, product, gone) if gone else product


@lowering(aten.addmm.default)
def addmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y."""
    return affine(b, c, x, y, val(node), beta, alpha)


@lowering(aten.baddbmm.default, aten.addmv.default)
def baddbmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x @ y, batched or times a vector."""
    like = val(node)
    product = scaled(b, _matmul(b, node, x, y, 1), alpha, like)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, like), product)


@lowering(aten.addbmm.default)
def addbmm(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha sum_i x_i @ y_i."""
    like = val(node)
    product = scaled(b, b.reduce("ReduceSum", b.op("MatMul", x, y), [0], False), alpha, like)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, like), product)


@lowering(aten.addr.default)
def addr(b: Builder, node: fx.Node, c: str, x: str, y: str, *, beta: Any, alpha: Any) -> str:
    """beta c + alpha x y^T for two vectors."""
    like = val(node)
    product = scaled(b, b.op("Mul", unsqueeze(b, x, [1]), unsqueeze(b, y, [0])), alpha, like)
    return product if beta == 0 else b.op("Add", scaled(b, c, beta, like), product)


@lowering(aten.linear.default)
def linear(b: Builder, node: fx.Node, x: str, weight: str, bias: str | None) -> str:
    """x @ weight^T + bias."""
    x_val, weight_val = arg_vals(node)[:2]
    dtype = val(node).dtype
    if weight_val.dim() == 1:
        product = _matmul(b, node, x, weight)
    elif x_val.dim() == 1:
        product = squeeze(
            b, matrix_product(b, unsqueeze(b, x, [0]), transpose(b, weight, [1, 0]), dtype), [0]
        )
    elif x_val.dim() == 2:
        turned = transpose(b, weight, [1, 0])
        if bias is not None:
            return affine(b, bias, x, turned, val(node), 1, 1)
        return matrix_product(b, x, turned, dtype)
    else:
        product = b.op("MatMul", x, transpose(b, weight, [1, 0]))
    return product if bias is None else b.op("Add", product, bias)
