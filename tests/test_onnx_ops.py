"""Every lowering, in onnxruntime and in the reference evaluator, in float32 and float64, at batch sizes with which it
was not traced, against eager PyTorch; and what the lowerings cost in nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from onnx_cases import CASES
from onnx_cases.direct import DIRECT
from onnx_harness import (
    TRACED_WITH,
    Case,
    assert_close,
    call_eagerly,
    lower_function,
    one_call,
    promised_types,
    run,
    run_reference,
    trace,
)

from bnrewrite.emit import decompose, onnx_ops
from bnrewrite.emit.onnx import lower
from bnrewrite.emit.onnx_ops import LOWERINGS
from bnrewrite.errors import InputError, UnsupportedOp
from bnrewrite.passes.graph import JointGraph

aten = torch.ops.aten
DTYPES = {"float32": torch.float32, "float64": torch.float64}
X = torch.randn(TRACED_WITH, 4)
# The others have tables of cases of their own.
FAMILIES = {
    *("activation", "creation", "elementary", "indexing", "linear", "logic", "padding"),
    *("pointwise", "rearrange", "reduction", "shape", "sizes", "special", "table"),
}


@cache
def traced(case: Case, dtype: str) -> JointGraph:
    """The graph of a case, traced once for all tests."""
    return trace(case.function, case.tensors(TRACED_WITH, DTYPES[dtype]))


def name_of(target: object) -> str:
    """The same in every process: parallel workers compare the names of their tests."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else target.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lowering(case: Case, dtype: str) -> None:
    joint = traced(case, dtype)
    model = lower(joint)
    for n in (5, 8):
        inputs = case.tensors(n, DTYPES[dtype])
        assert_close(run(model, inputs), case, inputs, promised_types(model))
    if case.reference:
        assert_close(run_reference(model, inputs), case, inputs, promised_types(model))
    for opset in (17, 21):
        other = lower(joint, opset=opset)
        assert_close(run(other, inputs), case, inputs, promised_types(other))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("target", "args", "kwargs"), DIRECT, ids=lambda part: name_of(part) if callable(part) else ""
)
def test_one_call(target: Any, args: Any, kwargs: Any, dtype: str) -> None:
    joint, specs = one_call(target, args, kwargs, DTYPES[dtype])
    model = lower(joint)
    n = 6
    inputs = [spec.tensor(n, DTYPES[dtype], seed) for seed, spec in enumerate(specs)]

    def eager(*tensors: torch.Tensor) -> Any:
        given = {id(spec): tensor for spec, tensor in zip(specs, tensors, strict=True)}
        return call_eagerly(target, args, kwargs, given, n)

    assert_close(run(model, inputs), Case(str(target), eager, tuple(specs)), inputs, promised_types(model))


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


# Read at run time only by checks of the traced program, which a file does not hold.
WITHOUT_VALUE = {
    *(aten._assert_async.default, aten._assert_async.msg, aten._assert_scalar.default),
    *(aten._assert_tensor_metadata.default, aten.sym_constrain_range.default),
    aten.sym_constrain_range_for_size.default,
}


def test_every_lowering_has_a_case() -> None:
    called = {node.target for case in CASES for node in traced(case, "float32").graph.nodes}
    covered = called | {target for target, _, _ in DIRECT} | WITHOUT_VALUE | set(map(_op, REFUSED))
    ours = {target for target, f in LOWERINGS.items() if f.__module__.rpartition(".")[2] in FAMILIES}
    assert sorted(str(target) for target in ours - covered) == []


def _op(name: str) -> Any:
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


# --- accuracy of the functions that we write ourselves ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "exact"),
    [(torch.erf, scipy.special.erf), (torch.erfc, scipy.special.erfc)],
    ids=["erf", "erfc"],
)
def test_error_function_is_relatively_accurate(
    function: Callable[..., Any], exact: Callable[..., Any]
) -> None:
    x = torch.cat([torch.linspace(-6, 6, 24_001), torch.logspace(-300, 0, 301)]).double()
    x = torch.cat([x, torch.linspace(6, 26, 2001).double()])
    (got,) = run(lower_function(function, [torch.randn(TRACED_WITH).double()]), [x])
    wanted = exact(x.numpy())
    assert np.max(np.abs(got - wanted) / np.maximum(np.abs(wanted), 1e-305)) < 2e-15


# --- what a lowering costs -------------------------------------------------------------------------------------------

LEAN = {
    "a view is one Reshape": (lambda x: x.view(x.shape[0], 2, 2), ["Reshape"]),
    "a view to the same shape is nothing": (lambda x: x.view(x.shape[0], 4) + 1, ["Add"]),
    "a transposed operand is a flag": (lambda x: x.t() @ x, ["Gemm"]),
    "linear with bias is one Gemm": (lambda x: F.linear(x, torch.ones(3, 4), torch.ones(3)), ["Gemm"]),
    "scaled addmm is one Gemm": (lambda x: torch.addmm(x, x, torch.ones(4, 4), beta=0.5, alpha=2), ["Gemm"]),
    "two views to two symbolic sizes": (
        lambda x: (x[:, None] + x[None]).view(x.shape[0], x.shape[0], 2, 2),
        ["Add", "Reshape", "Unsqueeze", "Unsqueeze"],
    ),
    "the square is a product": (lambda x: x**2, ["Mul"]),
    "equal nodes are one": (lambda x: (x.exp() + x.exp()) * x.exp(), ["Add", "Exp", "Mul"]),
    "the batch size is read once": (
        lambda x: x / x.shape[0] + x * x.shape[0],
        ["Add", "Cast", "Div", "Mul", "Shape", "Squeeze"],
    ),
    "a cast to the same type is nothing": (lambda x: x.to(torch.float32) + 1, ["Add"]),
    "copies are nothing": (lambda x: x.clone().contiguous().detach() + 1, ["Add"]),
    "an expanded dimension needs no shape": (lambda x: x[:, None].expand(-1, 3, -1), ["Expand", "Unsqueeze"]),
    "unused results are dropped": (lambda x: x.max(1)[0], ["ReduceMax"]),
    "ones that change places move nothing": (lambda x: x[:, None].permute(1, 0, 2), ["Reshape", "Unsqueeze"]),
    "a full slice is nothing": (lambda x: x[:, :] + 1, ["Add"]),
    "a number for each channel is repeated for few pixels": (
        lambda x: x.view(x.shape[0], 2, 2) * torch.ones(2, 1),
        ["Expand", "Mul", "Reshape"],
    ),
    "a number for each sample is not": (lambda x: x * x.sum(1, keepdim=True), ["Mul", "ReduceSum"]),
    "padding with zeros": (lambda x: F.pad(x, (1, 1)), ["Pad"]),
    "a negative pad is a slice": (lambda x: F.pad(x, (-1, -1)), ["Slice"]),
}


@pytest.mark.parametrize("name", LEAN)
def test_lean(name: str) -> None:
    function, expected = LEAN[name]
    model = lower_function(function, [X])
    assert sorted(node.op_type for node in model.graph.node) == expected


def test_erf_keeps_its_operator_in_float32() -> None:
    assert [node.op_type for node in lower_function(torch.erf, [X]).graph.node] == ["Erf"]


def test_only_standard_operators() -> None:
    for case in CASES[::10]:
        model = lower(traced(case, "float64"))
        assert {node.domain for node in model.graph.node} <= {""}
        for node in model.graph.node:
            assert onnx.defs.has(node.op_type)


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "aten.erfinv.default": (torch.erfinv, "It has no ONNX lowering"),
    "aten.as_strided.default": (lambda x: x.as_strided((2, 2), (1, 2)), "have no strides"),
    "aten.add_.Tensor": (lambda x: x.clone().add_(x), "It has no ONNX lowering"),
    "aten.view.dtype": (lambda x: x.view(torch.int32), "the bits of one type"),
    "aten.scatter_reduce.two": (
        lambda x: x.scatter_reduce(0, x.long(), x, "mean"),
        "sum, prod, amax and amin",
    ),
    "aten.embedding_dense_backward.default": (
        lambda x: aten.embedding_dense_backward(x, x[:, 0].long(), 3, -1, True),
        "scale_grad_by_freq",
    ),
}


@pytest.mark.parametrize("op", REFUSED)
def test_refusal(op: str) -> None:
    function, reason = REFUSED[op]
    with pytest.raises(UnsupportedOp, match=reason) as caught:
        lower_function(function, [X.abs()])
    assert caught.value.op == op


def test_refusal_names_the_place() -> None:
    joint = trace(lambda x: torch.erfinv(x), [X])
    call = next(node for node in joint.graph.nodes if node.op == "call_function")
    call.meta.update(module="layer1.0.act", stack_trace='  File "model.py", line 7, in forward\n    y = f(x)')
    with pytest.raises(UnsupportedOp) as caught:
        lower(joint)
    assert caught.value.where == "module 'layer1.0.act' (File \"model.py\", line 7, in forward)"
    call.meta.update(site="layer1.0.bn", where="net.py:3")
    with pytest.raises(UnsupportedOp) as caught:
        lower(joint)
    assert caught.value.where == "module 'layer1.0.bn' (net.py:3)"


def test_refuses_types_that_the_runtime_lacks() -> None:
    with pytest.raises(InputError, match=r"no torch\.bfloat16; convert the model"):
        lower_function(torch.exp, [X.bfloat16()])


def test_refuses_bitwise_integers_before_opset_18() -> None:
    with pytest.raises(UnsupportedOp, match="from opset 18 on"):
        lower_function(lambda x: x.long() & 3, [X], opset=17)


# --- decompositions --------------------------------------------------------------------------------------------------


def test_a_decomposition_may_make_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(x: Any) -> Any:
        return x * torch.tensor([2.0, 2.0, 2.0, 2.0])

    monkeypatch.setattr(decompose, "get_decompositions", lambda ops: dict.fromkeys(ops, doubled))
    joint = trace(lambda x: torch.erfinv(x + 1) + 1, [X])
    before = str(joint.graph)
    model = lower(joint)
    np.testing.assert_allclose(run(model, [X[:3]])[0], (X[:3] + 1) * 2 + 1, rtol=1e-6)
    assert [tensor.name for tensor in model.graph.initializer if tensor.dims == [4]] == ["constant.constant"]
    assert str(joint.graph) == before
    assert len(joint.inputs) == 1


@pytest.mark.parametrize(
    "unfit",
    [
        lambda x: x * int(x.shape[0]),  # would fix the batch size
        lambda x: x * x.sum().item(),  # asks for data
    ],
    ids=["asks for a size", "asks for data"],
)
def test_an_unfit_decomposition_is_a_refusal(unfit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompose, "get_decompositions", lambda ops: dict.fromkeys(ops, unfit))
    with pytest.raises(UnsupportedOp, match=r"aten\.erfinv\.default"):
        lower_function(torch.erfinv, [X])


def test_a_target_has_one_lowering() -> None:
    with pytest.raises(ValueError, match=r"two lowerings for aten\.exp\.default"):
        onnx_ops.table.lowering(aten.exp.default)(lambda b, node, x: x)
