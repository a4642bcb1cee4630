"""What each kind of operation does to samples, against what moves when the elements of one sample are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from structure_cases import columns
from torch import Tensor

from bnrewrite.structure.marks import by_perturbation
from bnrewrite.structure.spans import Call, Operand
from bnrewrite.structure.table import depends

aten = torch.ops.aten

N = 3


def batch(*shape: int, axis: int = 0) -> Operand:
    """Random numbers whose batch is one of their axes."""
    value = torch.randn(*shape, dtype=torch.float64)
    return Operand(value, columns(value, f"axis {axis}", N).float() + 1)


def free(value: Tensor, certain: bool = False) -> Operand:
    return Operand(value, torch.zeros(value.shape), certain)


def folded(*shape: int) -> Operand:
    """N x k along the first axis."""
    value = torch.randn(*shape, dtype=torch.float64)
    return Operand(value, columns(value, f"axis 0 as N x {shape[0] // N}", N).float() + 1)


def chosen(high: int, *shape: int, axis: int = 0) -> Operand:
    """Random indices below `high`."""
    value = torch.randint(high, shape)
    return Operand(value, columns(value, f"axis {axis}", N).float() + 1)


def weight(*shape: int) -> Operand:
    return free(torch.randn(*shape, dtype=torch.float64))


MASK = free(torch.eye(N, dtype=torch.bool), certain=True)

# Operation, arguments, and whether it mixes.
OPERATIONS: dict[str, tuple[Any, Callable[[], Sequence[Any]], bool]] = {
    "mul by zero": (aten.mul.Tensor, lambda: (batch(N, N), free(torch.eye(N).double(), True)), False),
    "outer product": (aten.mul.Tensor, lambda: (batch(N, 1), batch(1, N, axis=1)), True),
    "its diagonal": (aten.where.self, lambda: (MASK, batch(N, N), free(torch.zeros(N, N), True)), False),
    "masked_fill": (aten.masked_fill.Scalar, lambda: (batch(N, N), MASK, 0.0), False),
    "glu": (aten.glu.default, lambda: (batch(4, N, axis=1), 0), False),
    "glu over samples": (aten.glu.default, lambda: (folded(2 * N, 2), 0), True),
    "cat": (aten.cat.default, lambda: ([batch(N, 2), weight(N, 2)], 1), False),
    "stack": (aten.stack.default, lambda: ([batch(N, 2), batch(N, 2)], 0), False),
    "pad": (aten.constant_pad_nd.default, lambda: (batch(N, 2), [1, 1], 7.0), False),
    "reflect": (aten.reflection_pad1d.default, lambda: (batch(2, N, 4, axis=1), [1, 1]), False),
    "tril": (aten.tril.default, lambda: (batch(N, 2),), False),
    "as_strided": (aten.as_strided.default, lambda: (batch(N, 2), [2, N], [1, 2]), False),
    "pixel_shuffle": (aten.pixel_shuffle.default, lambda: (batch(N, 4, 2, 2), 2), False),
    "sum": (aten.sum.dim_IntList, lambda: (batch(2, N, 2, axis=1), [0, -1]), False),
    "sum over samples": (aten.sum.dim_IntList, lambda: (batch(2, N, 2, axis=1), [0, 1]), True),
    "var_mean": (aten.var_mean.correction, lambda: (batch(N, 4), [1]), False),
    "max": (aten.max.dim, lambda: (batch(N, 4), 1), False),
    "topk": (aten.topk.default, lambda: (batch(4, N, axis=1), 2, 0), False),
    "topk of samples": (aten.topk.default, lambda: (batch(N, 4), 2, 0), True),
    "layer_norm": (aten.native_layer_norm.default, lambda: (batch(N, 4), [4], weight(4), weight(4), 1e-5), False),
    "group_norm": (aten.group_norm.default, lambda: (batch(N, 4, 3), 2, weight(4), weight(4), 1e-5), False),
    "own scales": (aten.layer_norm.default, lambda: (batch(N, N, 4), [N, 4], batch(N, 4), None, 1e-5), True),
    "batch_norm": (
        aten.batch_norm.default, lambda: (batch(N, 2, 3), None, None, None, None, True, 0.1, 1e-5, False), True,
    ),
    "batch norm of folded channels": (
        aten.batch_norm.default,
        lambda: (batch(1, N, 4, axis=1), None, None, None, None, True, 0.1, 1e-5, False), False,
    ),
    "huber": (aten.huber_loss.default, lambda: (batch(N, 2), batch(N, 2), 0), False),
    "huber, summed": (aten.huber_loss.default, lambda: (batch(N, 2), batch(N, 2), 2), True),
    "nll": (aten.nll_loss_nd.default, lambda: (batch(N, 4, 2), chosen(4, N, 2), None, 0, -100), False),
    "inverse": (aten.linalg_inv.default, lambda: (batch(N, 2, 2),), False),
    "attention": (
        aten.scaled_dot_product_attention.default, lambda: (batch(N, 2, 4, 3), batch(N, 2, 5, 3), batch(N, 2, 5, 3)),
        False,
    ),
    "attention across": (
        aten.scaled_dot_product_attention.default,
        lambda: (batch(2, N, 4, axis=1), batch(2, N, 4, axis=1), batch(2, N, 4, axis=1)), True,
    ),
    "distances": (aten._cdist_forward.default, lambda: (batch(N, 2, 3), batch(N, 4, 3), 2.0, None), False),
    "distances of samples": (aten._cdist_forward.default, lambda: (batch(N, 3), batch(N, 3), 2.0, None), True),
    "gather": (aten.gather.default, lambda: (batch(N, 4), 1, chosen(4, N, 2)), False),
    "gather samples": (aten.gather.default, lambda: (batch(N, 4), 0, chosen(N, N, 4)), True),
    "gather by a table": (aten.gather.default, lambda: (batch(N, 4), 1, free(torch.randint(4, (N, 2)))), False),
    "index_select": (aten.index_select.default, lambda: (weight(5, 2), 0, chosen(5, N)), False),
    "embedding": (aten.embedding.default, lambda: (weight(5, 2), chosen(5, N, 4)), False),
    "x[n, i_n]": (aten.index.Tensor, lambda: (batch(N, 4, 2), [free(torch.arange(N)), chosen(4, N)]), False),
    "x[:, i_n]": (aten.index.Tensor, lambda: (batch(N, 4), [None, chosen(4, N)]), True),
    "table[i_n, j_n]": (aten.index.Tensor, lambda: (weight(4, 4, 2), [chosen(4, N, 1), chosen(4, N, 3)]), False),
    "x[perm]": (aten.index.Tensor, lambda: (batch(N, 2), [free(torch.randperm(N))]), False),
    "one-hot": (
        aten.scatter.value, lambda: (free(torch.zeros(N, 4).double()), 1, chosen(4, N, 1), 1.0), False,
    ),
    "scatter_add": (
        aten.scatter_add.default, lambda: (weight(N, 4), 1, chosen(4, N, 2), batch(N, 2)), False,
    ),
    "pooled by index": (
        aten.index_add.default,
        lambda: (weight(2, 2), 0, free(torch.tensor([0, 0, 1])), batch(N, 2)), True,
    ),
    "index_put": (
        aten.index_put.default, lambda: (batch(N, 4), [None, free(torch.tensor([1, 3]))], batch(N, 2)), False,
    ),
    "addmm": (aten.addmm.default, lambda: (weight(4), batch(N, 2), weight(2, 4)), False),
    "bmm": (aten.bmm.default, lambda: (batch(N, 2, 3), batch(N, 3, 2)), False),
    "gram": (aten.mm.default, lambda: (batch(N, 2), batch(2, N, axis=1)), True),
    "mm with certain zeros": (aten.mm.default, lambda: (free(torch.eye(N).double(), True), batch(N, 2)), False),
    "convolution": (
        aten.convolution.default,
        lambda: (batch(N, 2, 4), weight(4, 2, 3), None, [1], [1], [1], False, [0], 1), False,
    ),
    "grouped by sample": (
        aten.convolution.default,
        lambda: (batch(1, 2 * N, 4, axis=1), batch(4 * N, 2, 3), None, [1], [1], [1], False, [0], N), False,
    ),
    "samples side by side": (
        aten.convolution.default,
        lambda: (batch(1, 1, N, axis=2), weight(1, 1, 3), None, [1], [1], [1], False, [0], 1), True,
    ),
    "transposed": (
        aten.convolution.default,
        lambda: (batch(N, 2, 4), weight(2, 4, 3), None, [2], [0], [1], True, [0], 1), False,
    ),
    "max_pool": (aten.max_pool1d.default, lambda: (batch(2, N, 4, axis=1), [2]), False),
    "max_pool of samples": (aten.max_pool1d.default, lambda: (batch(2, 1, N, axis=2), [2]), True),
    "upsample": (aten.upsample_bicubic2d.default, lambda: (batch(N, 1, 3, 3), [5, 5], False), False),
    "col2im": (aten.col2im.default, lambda: (batch(N, 4, 4), [3, 3], [2, 2], [1, 1], [0, 0], [1, 1]), False),
    "fft": (aten._fft_r2c.default, lambda: (batch(N, 4), [1], 0, True), False),
    "fft of samples": (aten._fft_r2c.default, lambda: (batch(N, 4), [0], 0, True), True),
}  # fmt: skip

WITHOUT_RULE = {"fft", "fft of samples"}


def observed(call: Call) -> Tensor:
    """(samples, elements of the first result): what moves when all elements of one sample are replaced, at random."""
    meets = torch.zeros(N, call.results[0].numel(), dtype=torch.bool)
    for _ in range(6):
        fresh = {o: _replaced(o, torch.ones_like(o.owner)) for o in call.operands}
        before = call.run(fresh.__getitem__)[0]
        for n in range(N):
            other = {o: _replaced(o, o.owner == n + 1, value) for o, value in fresh.items()}
            after = call.run(other.__getitem__)[0]
            meets[n] |= (~torch.isclose(after, before, rtol=1e-9, atol=1e-11)).reshape(-1)
    return meets


def _replaced(operand: Operand, where: Tensor, base: Tensor | None = None) -> Tensor:
    value = operand.value if base is None else base
    if not operand.owned:
        return value
    if value.is_floating_point():
        other = 2 * torch.randn_like(value)
    else:
        other = torch.randint(int(operand.value.max()) + 1, value.shape)
    return torch.where(where.bool(), other, value)


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_operation(name: str) -> None:
    """The rule's answer is what is observed: which sample owns each element, where nothing mixes."""
    op, arguments, mixes = OPERATIONS[name]
    torch.manual_seed(1)
    args = tuple(arguments())
    with torch.no_grad():
        plain = torch.utils._pytree.tree_map_only(Operand, lambda o: o.value, args)
        call = Call(op, args, {}, op(*plain), N)
        (span, *_), decided = depends(call)
        meets = observed(call)
        (asked, *_) = by_perturbation(call) or [None]
    assert decided == ("perturbation" if name in WITHOUT_RULE else "rule")
    assert bool(span.mixed.any()) is mixes
    assert bool((meets.sum(0) > 1).any()) is mixes
    owner = meets.float().argmax(0) + 1.0
    alone = meets.sum(0) == 1
    if not mixes:
        assert torch.equal(span.owner.reshape(-1)[alone], owner[alone])
        assert bool(span.owner.reshape(-1)[~alone].any()) in (False, name in MAY_BE_FLAT)
    assert asked is not None and bool(asked.mixed.any()) is mixes, (
        "the operation asked numerically says the same"
    )


MAY_BE_FLAT = {"x[n, i_n]", "one-hot", "scatter_add", "nll", "max"}
"""Elements that a random index seldom hits."""
