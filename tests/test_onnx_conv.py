"""Convolution, pooling and resizing as ONNX, in onnxruntime, against eager PyTorch in float64.

Every case is traced at one batch size and run at two others, in both precisions. Bars: float64 within 1e-13 of the
oracle, over the whole tensor; float32 within three times the error of PyTorch's own float32, or within a few roundings
of the same sums over absolute values (so that a sum which cancels is not measured by what is left of it).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_harness import TRACED_WITH, N, trace
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from bnrewrite.emit.onnx import lower
from bnrewrite.errors import UnsupportedOp
from bnrewrite.passes.graph import Input, JointGraph

aten = torch.ops.aten

FLOAT64_BAR = 1e-13
# Sums here have at most some thousand terms, and the products of im2col add them in another order than PyTorch.
FLOAT32_ROUNDINGS = 8
BATCHES = (1, 6)


@dataclass(frozen=True)
class Case:
    """A function of tensors, linear in each of them, and their shapes (N: the batch)."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    call: tuple[Any, Callable[..., Sequence[Any]]] | None = None
    """An operation and its arguments from the tensors: the graph is this one call, which tracing would decompose."""
    whole_numbers: bool = False
    """Whether to run with many equal values, too."""

    def tensors(self, n: int) -> list[Tensor]:
        """Inputs at batch size n, in float64; those without a batch axis are the same for every n."""
        values = []
        for i, shape in enumerate(self.shapes):
            generator = torch.Generator().manual_seed(100 * i + (n if N in shape else 0))
            values.append(torch.randn(sized(shape, n), generator=generator, dtype=torch.float64))
        return values

    def joint(self, dtype: torch.dtype) -> JointGraph:
        """The graph to lower."""
        if self.call is None:
            return trace(self.function, [t.to(dtype) for t in self.tensors(TRACED_WITH)])
        graph = fx.Graph()
        nodes = []
        for i, shape in enumerate(self.shapes):
            nodes.append(graph.placeholder(f"i{i}"))
            nodes[-1].meta["val"] = fake(shape, dtype)
        op, arguments = self.call
        examples = [torch.empty(sized(shape, TRACED_WITH), dtype=dtype) for shape in self.shapes]
        results = op(*arguments(*examples))
        call = graph.call_function(op, tuple(arguments(*nodes)))
        call.meta["val"] = tree_map(lambda t: fake((N, *t.shape[1:]), t.dtype), results)
        outputs = [call]
        if isinstance(results, tuple):
            outputs = [graph.call_function(operator.getitem, (call, i)) for i in range(len(results))]
            for node, value in zip(outputs, call.meta["val"], strict=True):
                node.meta["val"] = value
        graph.output(tuple(outputs))
        inputs = [Input(node.name, "input") for node in nodes]
        return JointGraph(graph, inputs, [f"o{i}" for i in range(len(outputs))])


def sized(shape: Sequence[int], n: int) -> list[int]:
    return [n if d == N else d for d in shape]


@cache
def symbolic_batch() -> Tensor:
    """A FakeTensor of one axis, the batch."""
    joint = trace(lambda x: x + 1, [torch.ones(TRACED_WITH)])
    return next(iter(joint.graph.nodes)).meta["val"]


def fake(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A FakeTensor with the one symbolic batch axis."""
    batch = symbolic_batch()
    return batch.new_empty([batch.shape[0] if d == N else d for d in shape], dtype=dtype)


def with_parameters(joint: JointGraph, tensors: dict[int, Tensor]) -> JointGraph:
    """The graph with some of its inputs as parameters of the model, which become constants."""
    inputs = [
        Input(entry.name, "parameter", tensors[i]) if i in tensors else entry
        for i, entry in enumerate(joint.inputs)
    ]
    return replace(joint, inputs=inputs)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check(case: Case, joint: JointGraph, dtype: torch.dtype, opset: int = 18) -> None:
    """Every output at every batch size against the oracle."""
    ort = session(lower(joint, opset=opset))
    names = [entry.name for entry in ort.get_inputs()]
    for n in BATCHES:
        for round_ in [lambda t: t, torch.round] if case.whole_numbers else [lambda t: t]:
            inputs = [round_(t).to(dtype) for t in case.tensors(n)]
            feed = {f"i{i}": t.numpy() for i, t in enumerate(inputs) if f"i{i}" in names}
            results = [torch.from_numpy(value) for value in ort.run(None, feed)]
            compare(f"{case.name}, batch {n}", case.function, inputs, results)


def compare(name: str, function: Callable[..., Any], inputs: list[Tensor], results: list[Tensor]) -> None:
    """Results against the function itself, by the bars above."""
    oracle = as_list(function(*(t.double() for t in inputs)))
    torch_own = as_list(function(*inputs))
    magnitudes = as_list(function(*(t.double().abs() for t in inputs)))
    assert len(results) == len(oracle)
    for i, (got, truth, own, magnitude) in enumerate(
        zip(results, oracle, torch_own, magnitudes, strict=True)
    ):
        where = f"{name}, output {i}"
        assert got.shape == truth.shape, f"{where}: shape {tuple(got.shape)}, not {tuple(truth.shape)}"
        assert got.dtype == own.dtype, f"{where}: type {got.dtype}, not {own.dtype}"
        if not truth.is_floating_point():
            assert torch.equal(got, truth), f"{where}: {int((got != truth).sum())} indices differ"
            continue
        error = float((got.double() - truth).norm())
        if got.dtype == torch.float64:
            allowed = FLOAT64_BAR * float(truth.norm())
        else:
            rounding = FLOAT32_ROUNDINGS * torch.finfo(got.dtype).eps * float(magnitude.norm())
            allowed = max(3 * float((own.double() - truth).norm()), rounding)
        assert error <= allowed, f"{where}: error {error:.3g}, allowed {allowed:.3g}"


def as_list(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def meta(function: Callable[..., Tensor], *shapes: Sequence[int]) -> tuple[int, ...]:
    """Shape of a result at batch size N."""
    result = function(*(torch.empty(sized(s, 2), device="meta") for s in shapes))
    return (N, *result.shape[1:])


def direct(
    name: str, op: Any, arguments: Callable[..., Sequence[Any]], *shapes: tuple[int, ...], **options: bool
) -> Case:
    """One call of an operation."""
    return Case(name, lambda *tensors: op(*arguments(*tensors)), shapes, (op, arguments), **options)


# --- convolution -----------------------------------------------------------------------------------------------------


def convolution_case(
    name: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: Any = 0,
    bias: bool = True,
) -> Case:
    """y and, for a y_bar of its own, x_bar, w_bar and bias_bar. x: [channels, *image], w as PyTorch has it."""
    axes = len(w) - 2
    window = [
        [v] * axes if isinstance(v, int) else list(v) for v in (stride, padding, dilation, output_padding)
    ]
    geometry = (*window[:3], transposed, window[3], groups)
    filters = w[1] * groups if transposed else w[0]

    def function(x: Tensor, w: Tensor, y_bar: Tensor, *b: Tensor) -> tuple[Tensor, ...]:
        y = aten.convolution(x, w, b[0] if b else None, *geometry)
        return y, *aten.convolution_backward(y_bar, x, w, [filters], *geometry, [True] * 3)

    image = (N, *x)
    y = meta(lambda x, w: aten.convolution(x, w, None, *geometry), image, w)
    shapes = (image, w, y, (filters,)) if bias else (image, w, y)
    return Case(name, function, shapes)


_CONVOLUTIONS: list[tuple[Any, ...]] = [
    ("3x3", (6, 8, 9), (4, 6, 3, 3), 1, 1),
    ("3x3 without padding", (6, 8, 9), (4, 6, 3, 3)),
    ("a quarter of the filters", (64, 6, 5), (16, 64, 3, 2), 1, (1, 0), (1, 2)),
    ("a quarter of the filters, few positions", (64, 3, 4), (16, 64, 2, 3), 1, 1),
    ("wide weights, one product of the batch", (16, 6, 6), (24, 16, 3, 3), 1, 1),
    ("3x3 stride 2, even rest", (6, 8, 8), (4, 6, 3, 3), 2, 1),
    ("3x3 stride 2, odd image", (6, 9, 7), (4, 6, 3, 3), 2, 1),
    ("1x1", (6, 5, 7), (4, 6, 1, 1)),
    ("1x1 stride 2", (6, 8, 9), (4, 6, 1, 1), 2),
    ("1x1 stride 3 and padding", (6, 8, 9), (4, 6, 1, 1), 3, 1),
    ("stride beyond the kernel", (6, 11, 14), (4, 6, 2, 3), (3, 5), (0, 1)),
    ("asymmetric", (6, 11, 10), (4, 6, 3, 5), (1, 2), (2, 0)),
    ("dilation", (6, 11, 10), (4, 6, 3, 2), 1, (2, 1), (2, 3)),
    ("dilation and stride", (6, 15, 14), (4, 6, 3, 3), (2, 3), (2, 3), (2, 3)),
    ("dilation that is the stride", (6, 15, 14), (4, 6, 3, 2), 2, 1, 2),
    ("padding beyond the kernel", (4, 5, 6), (5, 4, 2, 2), 1, 3),
    ("padding beyond the kernel, stride 2", (4, 5, 6), (5, 4, 2, 2), 2, 3),
    ("kernel beyond the image", (4, 2, 3), (5, 4, 5, 5), 1, 2),
    ("kernel of the image", (4, 4, 5), (6, 4, 4, 5)),
    ("image of 2x2", (8, 2, 2), (5, 8, 3, 3), 1, 1),
    ("image of 2x2, stride 2 and dilation", (8, 2, 2), (5, 8, 2, 3), (2, 1), (1, 2), (2, 1)),
    ("image of 1x3", (8, 1, 3), (5, 8, 3, 3), 1, (1, 0)),
    ("image of 4x4 to 2x2", (8, 4, 4), (5, 8, 3, 3), 2, 1),
    ("image of 3x3, 1x1 stride 2", (8, 3, 3), (5, 8, 1, 1), 2),
    ("windows that see padding only", (3, 1, 4), (2, 3, 2, 1), (1, 1), (2, 0), (4, 1)),
    ("patches", (3, 16, 24), (8, 3, 8, 8), 8),
    ("patches with a rest", (3, 9, 11), (8, 3, 2, 3), (2, 3)),
    ("patches with padding", (3, 9, 11), (8, 3, 4, 4), 4, 1),
    ("7x7 stride 2", (3, 17, 18), (6, 3, 7, 7), 2, 3),
    ("9x9: axis by axis", (3, 12, 14), (6, 3, 9, 9), 1, 4),
    ("groups", (6, 8, 9), (9, 2, 3, 3), (2, 1), 1, 1, 3),
    ("groups 1x1", (6, 8, 9), (9, 2, 1, 1), 1, 0, 1, 3),
    ("groups, wide weights", (32, 3, 4), (32, 16, 3, 3), 1, 1, 1, 2),
    ("groups with dilation", (6, 8, 9), (4, 3, 3, 2), 1, 1, (1, 3), 2),
    ("depthwise", (6, 11, 10), (6, 1, 3, 3), 1, 1, 1, 6),
    ("depthwise narrow", (6, 5, 7), (6, 1, 3, 3), 1, 1, 1, 6),
    ("depthwise 2x2", (6, 2, 2), (6, 1, 5, 3), 1, (2, 1), 1, 6),
    ("depthwise stride 2", (6, 8, 9), (6, 1, 3, 3), 2, 1, 1, 6),
    ("depthwise wide", (6, 5, 21), (6, 1, 3, 3), 1, 1, 1, 6),
    ("depthwise wide stride 2, rest", (6, 7, 42), (6, 1, 3, 3), 2, 0, 1, 6),
    ("depthwise wide stride 2, padding", (6, 7, 41), (6, 1, 5, 3), (1, 2), (2, 1), (2, 1), 6),
    ("depthwise dilation", (4, 9, 8), (4, 1, 3, 2), (1, 2), (2, 3), (2, 3), 4),
    ("depthwise multiplier", (6, 8, 9), (12, 1, 3, 3), (1, 2), 1, 1, 6),
    ("depthwise 1x1", (4, 5, 3), (4, 1, 1, 1), 1, 0, 1, 4),
    ("transposed", (6, 5, 4), (6, 4, 3, 3), 2, 1, 1, 1, True, 1),
    ("transposed stride 1", (6, 5, 4), (6, 4, 3, 2), 1, 1, 1, 1, True),
    ("transposed, groups, output padding", (6, 5, 4), (6, 2, 3, 2), (2, 3), (1, 0), 1, 3, True, (1, 2)),
    ("transposed, output padding of a stride", (6, 5, 4), (6, 2, 3, 2), (1, 2), (1, 0), 3, 1, True, 2),
    ("transposed, stride beyond the kernel", (4, 3, 4), (4, 2, 2, 2), (3, 4), 0, 1, 1, True, (2, 0)),
    ("transposed, image of 2x2", (5, 2, 2), (5, 4, 3, 3), 2, 1, 1, 1, True, 1),
    ("transposed, doubling", (4, 5, 3), (4, 3, 2, 2), 2, 0, 1, 1, True),
    ("transposed depthwise", (4, 5, 3), (4, 1, 4, 4), 2, 1, 1, 4, True),
    ("transposed, padding beyond the kernel", (3, 9, 8), (3, 2, 2, 3), 1, (3, 2), 1, 1, True),
    ("1-d", (4, 15), (5, 4, 3), 2, 1),
    ("1-d depthwise", (4, 15), (4, 1, 3), 1, 1, 1, 4),
    ("1-d transposed", (4, 15), (4, 3, 3), 2, 1, 2, 1, True, 1),
    ("3-d", (4, 5, 6, 7), (6, 2, 3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 2, 1), 2),
    ("3-d depthwise", (3, 4, 5, 6), (3, 1, 3, 3, 3), 1, 1, 1, 3),
    ("3-d transposed", (4, 3, 2, 3), (4, 2, 3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 2, 1), 2, True, (1, 0, 0)),
]
CONVOLUTIONS = [
    *(convolution_case(*row) for row in _CONVOLUTIONS),
    convolution_case("no bias", (6, 5, 7), (4, 6, 3, 3), 2, 1, bias=False),
    convolution_case("no bias, transposed", (6, 5, 4), (6, 4, 3, 3), 2, 1, transposed=True, bias=False),
    convolution_case("no bias, image of 2x2", (8, 2, 2), (5, 8, 3, 3), 1, 1, bias=False),
]


# --- pooling ---------------------------------------------------------------------------------------------------------


def max_pool_case(name: str, x: tuple[int, ...], *window: Any) -> Case:
    """y, indices and, in two and three dimensions, x_bar. `window`: kernel, stride, padding, dilation, ceil_mode."""
    axes = len(window[0])
    pool = getattr(aten, f"max_pool{axes}d_with_indices").default
    y = meta(lambda x: pool(x, *window)[0], x)
    if axes == 1:
        return direct(name, pool, lambda x: (x, *window), x, whole_numbers=True)
    backward = getattr(aten, f"max_pool{axes}d_with_indices_backward").default

    def function(x: Tensor, y_bar: Tensor) -> tuple[Tensor, ...]:
        values, indices = pool(x, *window)
        return values, indices, backward(y_bar, x, *window, indices)

    return Case(name, function, (x, y), whole_numbers=True)


def average_case(name: str, x: tuple[int, ...], *window: Any) -> Case:
    """y and x_bar. `window`: kernel, stride, padding, ceil_mode, count_include_pad, divisor_override."""
    axes = len(window[0])
    pool = getattr(aten, f"avg_pool{axes}d").default
    if axes == 1:
        return direct(name, pool, lambda x: (x, *window), x)
    backward = getattr(aten, f"avg_pool{axes}d_backward").default
    y = meta(lambda x: pool(x, *window), x)
    return Case(name, lambda x, y_bar: (pool(x, *window), backward(y_bar, x, *window)), (x, y))


def adaptive_case(name: str, x: tuple[int, ...], size: list[int]) -> Case:
    """Average and its x_bar, maximum, its indices and its x_bar."""
    axes = len(size)
    average = getattr(aten, f"_adaptive_avg_pool{axes}d").default
    average_backward = getattr(aten, f"_adaptive_avg_pool{axes}d_backward").default
    maximum = getattr(aten, f"adaptive_max_pool{axes}d").default
    maximum_backward = getattr(aten, f"adaptive_max_pool{axes}d_backward").default

    def function(x: Tensor, y_bar: Tensor) -> tuple[Tensor, ...]:
        values, indices = maximum(x, size)
        x_bars = average_backward(y_bar, x), maximum_backward(y_bar, x, indices)
        return average(x, size), values, indices, *x_bars

    return Case(name, function, (x, (*x[: -len(size)], *size)), whole_numbers=True)


_PLANES, _PLANE, _VOLUMES = (N, 3, 9, 10), (N, 9, 10), (N, 2, 5, 6, 7)
_MAXIMA: list[tuple[Any, ...]] = [
    ("max 3x3 stride 2", _PLANES, [3, 3], [2, 2], [1, 1], [1, 1], False),
    ("max without stride", _PLANES, [2, 2], [], [0, 0], [1, 1], False),
    ("max ceil", _PLANES, [3, 2], [2, 3], [1, 1], [1, 1], True),
    ("max ceil, stride beyond the kernel", _PLANES, [2, 2], [3, 4], [1, 0], [1, 1], True),
    ("max ceil, last window would start in the padding", _PLANES, [2, 3], [2, 3], [1, 1], [1, 1], True),
    ("max dilation", _PLANES, [3, 2], [1, 2], [1, 1], [2, 3], False),
    ("max dilation, ceil", _PLANES, [2, 2], [3, 2], [1, 1], [4, 5], True),
    ("max of windows as large as the image", _PLANES, [9, 10], [1, 1], [4, 5], [1, 1], False),
    ("max without a batch axis", _PLANE, [3, 3], [2, 2], [1, 1], [1, 1], True),
    ("max 1-d", (N, 3, 11), [3], [2], [1], [1], True),
    ("max 3-d", _VOLUMES, [3, 2, 2], [2, 1, 2], [1, 0, 1], [1, 2, 1], True),
]
_AVERAGES: list[tuple[Any, ...]] = [
    ("average", _PLANES, [3, 3], [2, 2], [1, 1], False, True, None),
    ("average of pixels only", _PLANES, [3, 2], [2, 1], [1, 1], False, False, None),
    ("average ceil", _PLANES, [3, 3], [2, 2], [1, 1], True, True, None),
    ("average ceil, of pixels only", _PLANES, [3, 3], [2, 2], [1, 1], True, False, None),
    ("average ceil, stride beyond the kernel", _PLANES, [2, 2], [3, 4], [1, 0], True, True, None),
    ("average of tiles", _PLANES, [3, 5], [], [0, 0], False, True, None),
    ("average of tiles with a rest", _PLANES, [2, 4], [], [0, 0], False, True, None),
    ("average with a divisor", _PLANES, [3, 2], [1, 3], [0, 1], True, False, 5),
    ("average of tiles with a divisor", _PLANES, [3, 5], [3, 5], [0, 0], False, True, 4),
    ("average without a batch axis", _PLANE, [3, 3], [2, 2], [1, 1], True, False, None),
    ("average of tiles without a batch axis", _PLANE, [3, 5], [], [0, 0], False, True, None),
    ("average 1-d", (N, 3, 10), [3], [2], [1], True, True),
    ("average 3-d", _VOLUMES, [2, 3, 2], [2, 1, 3], [1, 1, 0], True, True, None),
    ("average of tiles 3-d", (N, 2, 4, 6, 3), [2, 3, 1], [], [0, 0, 0], False, True, None),
]
_ADAPTIVE: list[tuple[Any, ...]] = [
    ("adaptive global", _PLANES, [1, 1]),
    ("adaptive divisible", _PLANES, [3, 5]),
    ("adaptive 9 -> 4, 10 -> 7", _PLANES, [4, 7]),
    ("adaptive 9 -> 3, 10 -> 3", _PLANES, [3, 3]),
    ("adaptive to more pixels", _PLANES, [12, 4]),
    ("adaptive without a batch axis", _PLANE, [4, 5]),
    ("adaptive divisible without a batch axis", _PLANE, [3, 2]),
    ("adaptive 3-d", _VOLUMES, [2, 3, 7]),
    ("adaptive divisible 3-d", (N, 2, 4, 6, 3), [2, 3, 1]),
]
POOLINGS = [
    *(max_pool_case(*row) for row in _MAXIMA),
    *(average_case(*row) for row in _AVERAGES),
    *(adaptive_case(*row) for row in _ADAPTIVE),
    direct("adaptive average 1-d", aten.adaptive_avg_pool1d.default, lambda x: (x, [3]), (N, 3, 7)),
    direct("adaptive average 2-d", aten.adaptive_avg_pool2d.default, lambda x: (x, [3, 2]), _PLANES),
    direct("adaptive average 3-d", aten.adaptive_avg_pool3d.default, lambda x: (x, [3, 2, 1]), _VOLUMES),
    direct(
        "adaptive max 1-d",
        aten.adaptive_max_pool1d.default,
        lambda x: (x, [3]),
        (N, 3, 7),
        whole_numbers=True,
    ),
    direct("max alone 1-d", aten.max_pool1d.default, lambda x: (x, [3], [2], [1], [2]), (N, 3, 11)),
    direct("max alone 2-d", aten.max_pool2d.default, lambda x: (x, [3, 2], [2, 1], 1, [1, 2], True), _PLANES),
    direct("max alone 3-d", aten.max_pool3d.default, lambda x: (x, [2, 3, 1], [], [1, 0, 0]), _VOLUMES),
    Case(
        "indices alone", lambda x: aten.max_pool2d_with_indices(x, [2, 2])[1], (_PLANES,), whole_numbers=True
    ),
]


# --- resizing --------------------------------------------------------------------------------------------------------

_IMAGES = {1: (N, 3, 7), 2: (N, 3, 6, 7), 3: (N, 2, 4, 5, 3)}
_SIZES: dict[int, list[list[int]]] = {
    1: [[14], [5], [1], [20]],
    2: [[12, 21], [9, 7], [3, 2], [1, 1]],
    3: [[8, 10, 9], [3, 7, 5]],
}
_SCALED: dict[int, tuple[list[int], list[float]]] = {
    1: ([16], [2.3]),
    2: ([13, 16], [2.2, 2.3]),
    3: ([9, 11, 6], [2.3, 2.3, 2.1]),
}
_NEAREST = [
    (f"{kind}{axes}d", axes) for axes in (1, 2, 3) for kind in ("upsample_nearest", "_upsample_nearest_exact")
]
_SMOOTH = [
    ("upsample_linear1d", 1),
    ("upsample_bilinear2d", 2),
    ("upsample_trilinear3d", 3),
    ("upsample_bicubic2d", 2),
    ("_upsample_bilinear2d_aa", 2),
    ("_upsample_bicubic2d_aa", 2),
]


@dataclass(frozen=True)
class Resize:
    """One interpolation between two sizes."""

    op: str
    axes: int
    size: list[int]
    align: tuple[bool, ...]
    scales: list[float] | None = None

    def __str__(self) -> str:
        align = ", corners aligned" if self.align == (True,) else ""
        return f"{self.op} to {self.size}{align}{', scaled' if self.scales else ''}"

    @property
    def settings(self) -> tuple[Any, ...]:
        return (*self.align, *(self.scales or [None] * self.axes))

    @property
    def image(self) -> tuple[int, ...]:
        return _IMAGES[self.axes]

    @property
    def result(self) -> tuple[int, ...]:
        return (*self.image[:2], *self.size)

    @property
    def vec(self) -> tuple[Any, ...]:
        """The arguments of the overload `vec` after x."""
        return (None, *self.align, self.scales) if self.scales else (self.size, *self.align, None)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(aten, self.op).default(x, self.size, *self.settings)

    def adjoint(self, y_bar: Tensor, x: Tensor) -> Tensor:
        """The transposed map, from the forward one on unit images.

        PyTorch's own is not it everywhere: that of upsample_nearest3d (2.13) ignores the scale of the last axis.
        """
        image = x.shape[2:]
        units = torch.eye(image.numel(), dtype=x.dtype).reshape(-1, 1, *image)
        rows = self.forward(units).reshape(image.numel(), -1)
        return (y_bar.flatten(2) @ rows.T).reshape(x.shape)


RESIZES = [
    Resize(op, axes, size, align, scales)
    for op, axes in (*_NEAREST, *_SMOOTH)
    for align in ([()] if (op, axes) in _NEAREST else [(False,), (True,)])
    for size, scales in [*((size, None) for size in _SIZES[axes]), _SCALED[axes]]
]


def upsampling(resize: Resize) -> Case:
    op = getattr(aten, resize.op)
    return direct(str(resize), op.default, lambda x: (x, resize.size, *resize.settings), resize.image)


def upsampling_vec(resize: Resize) -> Case:
    return direct(f"{resize}, vec", getattr(aten, resize.op).vec, lambda x: (x, *resize.vec), resize.image)


def upsampling_adjoint(resize: Resize) -> Case:
    op = getattr(aten, f"{resize.op}_backward").default
    input_size = sized(resize.image, TRACED_WITH)

    def arguments(y_bar: Any, x: Any) -> tuple[Any, ...]:
        return (y_bar, resize.size, input_size, *resize.settings)

    return Case(f"{resize}, adjoint", resize.adjoint, (resize.result, resize.image), (op, arguments))


def interpolate(**options: Any) -> Case:
    """As tracing decomposes it."""
    return Case(f"interpolate {options}", lambda x: F.interpolate(x, **options), (_IMAGES[2],))


def unfold(**options: Any) -> Case:
    """F.unfold, and F.fold of columns of that shape."""
    image = (N, 3, 8, 9)
    columns = meta(lambda x: F.unfold(x, **options), image)

    def both(x: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return F.unfold(x, **options), F.fold(cols, image[2:], **options)

    return Case(f"unfold {options}", both, (image, columns))


RESIZINGS = [
    *(upsampling(resize) for resize in RESIZES),
    *(upsampling_adjoint(resize) for resize in RESIZES),
    *(upsampling_vec(resize) for resize in RESIZES if resize.scales),
    interpolate(scale_factor=2.5, mode="nearest"),
    interpolate(scale_factor=1.7, mode="bilinear"),
    interpolate(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    interpolate(size=(4, 5), mode="bilinear", antialias=True),
    interpolate(scale_factor=(1.3, 0.6), mode="bicubic"),
    interpolate(size=(4, 5), mode="area"),
    unfold(kernel_size=3),
    unfold(kernel_size=(2, 3), dilation=(2, 1), padding=(1, 2), stride=(2, 1)),
    unfold(kernel_size=(2, 3), stride=(2, 3)),
    unfold(kernel_size=(3, 2), stride=2, dilation=2, padding=1),
]


# --- tests -----------------------------------------------------------------------------------------------------------

_PLAIN = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
both_precisions = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@both_precisions
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_convolution(case: Case, dtype: torch.dtype) -> None:
    joint = case.joint(dtype)
    check(case, joint, dtype)
    _, w, _, *bias = (t.to(dtype) for t in case.tensors(TRACED_WITH))
    check(case, with_parameters(joint, {1: w} | ({3: bias[0]} if bias else {})), dtype)


@both_precisions
@pytest.mark.parametrize("case", [*POOLINGS, *RESIZINGS], ids=lambda case: case.name)
def test_pooling_and_resizing(case: Case, dtype: torch.dtype) -> None:
    check(case, case.joint(dtype), dtype)


@both_precisions
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(
    "case",
    [
        convolution_case("convolution", (6, 8, 9), (4, 6, 3, 3), 2, 1),
        convolution_case("depthwise", (6, 8, 9), (6, 1, 3, 3), 1, 1, 1, 6),
        convolution_case("transposed", (6, 5, 4), (6, 2, 3, 2), (2, 3), (1, 0), 1, 3, True, (1, 2)),
        max_pool_case("max", (N, 3, 9, 10), [3, 2], [2, 3], [1, 1], [1, 1], True),
        average_case("average", (N, 3, 9, 10), [3, 3], [2, 2], [1, 1], True, False, None),
        adaptive_case("adaptive global", (N, 3, 9, 10), [1, 1]),
        adaptive_case("adaptive", (N, 3, 9, 10), [4, 7]),
        upsampling(Resize("upsample_nearest2d", 2, [12, 14], ())),
    ],
    ids=lambda case: case.name,
)
def test_other_opsets(case: Case, opset: int, dtype: torch.dtype) -> None:
    check(case, case.joint(dtype), dtype, opset)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Any convolution that PyTorch accepts."""
    axes = draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    groups, group_in, group_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 3), each(0, 3)
    image, transposed = each(1, 12 if axes < 3 else 5), draw(st.booleans())
    spread = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    extra = [0] * axes
    if transposed:
        extra = [min(e, max(s, d) - 1) for e, s, d in zip(each(0, 2), stride, dilation, strict=True)]
        edges = zip(image, stride, padding, spread, extra, strict=True)
        assume(all((n - 1) * s - 2 * p + f + e + 1 > 0 for n, s, p, f, e in edges))
    else:
        assume(all(n + 2 * p > f for n, p, f in zip(image, padding, spread, strict=True)))
    x = (groups * group_in, *image)
    w = (groups * (group_in if transposed else group_out), group_out if transposed else group_in, *kernel)
    name = f"x {x} w {w} stride {stride} padding {padding} dilation {dilation} {groups} groups, {transposed} {extra}"
    return convolution_case(name, x, w, stride, padding, dilation, groups, transposed, extra)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions())
def test_any_convolution(case: Case) -> None:
    for dtype in DTYPES.values():
        check(case, case.joint(dtype), dtype)


def op_types(joint: JointGraph) -> list[str]:
    return [node.op_type for node in lower(joint).graph.node]


def test_unread_results_are_not_computed() -> None:
    shapes = ((N, 4, 8, 8), (N, 6, 8, 8), (4, 6, 3, 3))

    def one_of(index: int) -> list[str]:
        def function(y_bar: Tensor, x: Tensor, w: Tensor) -> Tensor:
            return aten.convolution_backward(y_bar, x, w, [4], *_PLAIN, [True] * 3)[index]

        return op_types(Case("one", function, shapes).joint(torch.float32))

    assert one_of(0) == ["Transpose", "Slice", "Conv"]
    assert "Conv" not in one_of(1)
    assert one_of(2) == ["ReduceSum"]
    pooled = Case("max", lambda x: aten.max_pool2d_with_indices(x, [2, 2])[0], ((N, 3, 8, 8),))
    assert op_types(pooled.joint(torch.float32)) == ["MaxPool"]


def test_shape_classes() -> None:
    """The forms that were measured to be fastest are the ones chosen (float32)."""

    def products(x: tuple[int, ...], w: tuple[int, ...], *window: Any, constant: bool = False) -> list[str]:
        case = convolution_case("shapes", x, w, *window, bias=False)
        joint = case.joint(torch.float32)
        if constant:
            joint = with_parameters(joint, {1: torch.ones(w)})
        kinds = ("Conv", "ConvTranspose", "MatMul", "ReduceSum")
        return [op for op in op_types(joint) if op in kinds][:-1]  # the last one is bias_bar

    assert products((8, 32, 32), (8, 8, 3, 3), 1, 1) == ["Conv", "Conv", "MatMul", "ReduceSum"]
    assert products((8, 32, 32), (8, 8, 3, 3), 2, 1)[:2] == ["Conv", "ConvTranspose"]
    assert products((64, 16, 16), (64, 64, 3, 3), 1, 1) == ["Conv", "Conv", "MatMul"]
    assert products((64, 8, 8), (64, 64, 3, 3), 1, 1) == ["MatMul"] * 3
    assert products((64, 8, 8), (64, 64, 3, 3), 1, 1, constant=True) == ["Conv", "Conv", "MatMul"]
    assert products((64, 16, 16), (64, 64, 3, 3), 2, 1) == ["MatMul", "MatMul", "ReduceSum", "MatMul"]
    assert products((64, 2, 2), (64, 64, 3, 3), 1, 1) == ["MatMul"] * 3
    assert products((64, 2, 2), (64, 64, 3, 3), 1, 1, constant=True) == ["MatMul"] * 3
    assert products((64, 4, 4), (64, 64, 3, 3), 1, 1, constant=True) == ["Conv", "Conv", "MatMul"]
    assert products((8, 8, 8), (8, 1, 3, 3), 1, 1, 1, 8, constant=True)[:2] == ["Conv", "Conv"]
    assert "Conv" not in products((8, 8, 8), (8, 1, 3, 3), 1, 1, 1, 8)


@pytest.mark.parametrize(("filters", "gathered"), [(16, 16), (128, 128)])
def test_the_smaller_side_is_gathered(filters: int, gathered: int) -> None:
    """For the gradient of a weight with few filters the windows of their images: nine times 16 channels, not 128."""

    def w_bar(y_bar: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return aten.convolution_backward(y_bar, x, w, [filters], *_PLAIN, [False, True, False])[1]

    case = Case("w_bar", w_bar, ((N, filters, 8, 8), (N, 128, 8, 8), (filters, 128, 3, 3)))
    graph = onnx.shape_inference.infer_shapes(lower(case.joint(torch.float32))).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info
    }
    assert [shapes[node.output[0]][1:] for node in graph.node if node.op_type == "Gather"] == [
        [64 * 9, gathered]
    ]


@pytest.mark.parametrize(
    ("op", "arguments", "shapes", "message"),
    [
        (
            aten.convolution.default,
            lambda x, w: (x, w, None, *_PLAIN),
            ((2, 4, 8, 8), (N, 4, 3, 3)),
            "channels",
        ),
        (aten.max_pool2d_with_indices.default, lambda x: (x, [2, 2]), ((2, N, 6),), "image sizes"),
        (aten._adaptive_avg_pool2d.default, lambda x: (x, [2, 2]), ((2, 3, N, 6),), "image sizes"),
        (aten.upsample_linear1d.default, lambda x: (x, [4], False), ((2, 3, N),), "static sizes"),
        (aten.im2col.default, lambda x: (x, [2, 2], [1, 1], [0, 0], [1, 1]), ((N, 5, 6),), "image sizes"),
    ],
    ids=["convolution", "max", "average", "resize", "unfold"],
)
def test_only_the_batch_may_be_symbolic(
    op: Any, arguments: Callable[..., Sequence[Any]], shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    with pytest.raises(UnsupportedOp, match=f"{message}.*only the batch may be symbolic"):
        lower(direct("refused", op, arguments, *shapes).joint(torch.float32))
