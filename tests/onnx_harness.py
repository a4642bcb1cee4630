"""Traces a small function with a symbolic batch axis, lowers it, and runs the file: what the ONNX tests share.

The oracle is the function itself, run eagerly in float64 on the same numbers. Every result must have the type and
shape that tracing promised, and differ from the oracle by at most `ulps` roundings of its type, taken at the largest
magnitude in it; integers and truth values must be equal.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from bnrewrite.emit.onnx import lower
from bnrewrite.passes.graph import Input, JointGraph

N = -1
"""Stands for the batch size in the shape of a case."""
TRACED_WITH = 13
"""The batch size of the example; no other dimension has it, and no test runs with it."""


@dataclass(frozen=True)
class Spec:
    """One input: how to draw it, and its shape."""

    draw: Callable[[torch.Generator, Sequence[int]], Tensor]
    shape: tuple[int, ...]

    def tensor(self, n: int, dtype: torch.dtype, seed: int) -> Tensor:
        """The input at batch size n; floats come in `dtype`."""
        values = self.draw(torch.Generator().manual_seed(seed), [n if d == N else d for d in self.shape])
        return values.to(dtype) if values.is_floating_point() else values


def normal(*shape: int, scale: float = 1.0) -> Spec:
    """Standard normal numbers times `scale`."""
    return Spec(lambda g, s: torch.randn(s, generator=g, dtype=torch.float64) * scale, shape)


def uniform(*shape: int, low: float = 0.1, high: float = 3.0) -> Spec:
    """Numbers between `low` and `high`."""
    return Spec(lambda g, s: torch.rand(s, generator=g, dtype=torch.float64) * (high - low) + low, shape)


def integers(*shape: int, low: int = 0, high: int = 5) -> Spec:
    """Integers from `low` below `high`."""
    return Spec(lambda g, s: torch.randint(low, high, list(s), generator=g), shape)


def truths(*shape: int) -> Spec:
    """Truth values."""
    return Spec(lambda g, s: torch.rand(s, generator=g) > 0.5, shape)


def grid(*values: float) -> Spec:
    """Given numbers, the same at every batch size."""
    return Spec(lambda g, s: torch.tensor(values, dtype=torch.float64), (len(values),))


@dataclass(frozen=True)
class Case:
    """A function of tensors and what it is called with."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Spec, ...]
    ulps: float = 16
    reference: bool = True  # whether the ONNX project's evaluator implements what the case needs

    def tensors(self, n: int, dtype: torch.dtype) -> list[Tensor]:
        """All inputs at batch size n."""
        return [spec.tensor(n, dtype, seed) for seed, spec in enumerate(self.inputs)]


def into(cases: list[Case]) -> Callable[..., None]:
    """A function that adds a row to `cases`."""

    def case(
        name: str, function: Callable[..., Any], *inputs: Spec, ulps: float = 16, reference: bool = True
    ) -> None:
        cases.append(Case(name, function, inputs, ulps, reference))

    return case


X, Y, V = normal(N, 4), normal(N, 4), normal(4)
IMAGE = normal(N, 3, 4, 6)
K, B = integers(N, 4, low=-4), truths(N, 4)


class _Inputs(torch.nn.Module):
    """Asks nothing of its inputs, so that exporting it leaves their batch axes free."""

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return [t.clone() for t in tensors]


def trace(function: Callable[..., Any], example: Sequence[Tensor]) -> JointGraph:
    """`function` as a flat graph whose inputs are `i0`, `i1`, ... and whose outputs are `o0`, `o1`, ..."""
    axes = tuple({0: torch.export.Dim.AUTO} if t.dim() and t.shape[0] == TRACED_WITH else {} for t in example)
    program = torch.export.export(_Inputs(), tuple(example), dynamic_shapes=(axes,), strict=False)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    with values[0].fake_mode, enable_python_dispatcher(), torch.no_grad():
        graph = make_fx(lambda *tensors: function(*tensors))(*values).graph
    results = graph.output_node().args[0]
    count = len(results) if isinstance(results, (list, tuple)) else 1
    inputs = [Input(f"i{i}", "input") for i in range(len(example))]
    return JointGraph(graph, inputs, [f"o{i}" for i in range(count)])


class _Size:
    """Stands for the batch size among the arguments of a call."""


SIZE = _Size()


def one_call(
    target: Any, args: Sequence[Any], kwargs: dict[str, Any], dtype: torch.dtype
) -> tuple[JointGraph, list[Spec]]:
    """A graph of one call, not traced: its inputs are the `Spec`s among the arguments, its outputs all its results.

    A number that is returned becomes a 0-d tensor.
    """
    specs = list(dict.fromkeys(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Spec)))
    if not any(N in spec.shape for spec in specs):
        specs.insert(0, X)  # something must have the batch axis
    graph = trace(
        lambda *tensors: tensors, [s.tensor(TRACED_WITH, dtype, i) for i, s in enumerate(specs)]
    ).graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    graph.erase_node(graph.output_node())
    with placeholders[0].meta["val"].fake_mode, enable_python_dispatcher(), torch.no_grad():

        def call(function: Any, *a: Any, **k: Any) -> fx.Node:
            node = graph.call_function(function, a, k)
            node.meta["val"] = function(
                *map_arg(a, lambda n: n.meta["val"]), **map_arg(k, lambda n: n.meta["val"])
            )
            return node

        batched = next(node for node, spec in zip(placeholders, specs, strict=True) if N in spec.shape)
        size = call(torch.ops.aten.sym_size.int, batched, 0)
        given = {id(spec): node for spec, node in zip(specs, placeholders, strict=True)} | {id(SIZE): size}
        args, kwargs = tree_map(lambda leaf: given.get(id(leaf), leaf), (list(args), kwargs))
        results = [call(target, *args, **kwargs)]
        if isinstance(results[0].meta["val"], (list, tuple)):
            results = [call(operator.getitem, results[0], i) for i in range(len(results[0].meta["val"]))]
        elif not isinstance(results[0].meta["val"], Tensor):
            kind = {torch.SymBool: torch.bool, bool: torch.bool, torch.SymFloat: torch.float64}
            number = {"dtype": kind.get(type(results[0].meta["val"]), torch.int64)}
            results = [call(torch.ops.aten.scalar_tensor.default, results[0], **number)]
    graph.output(tuple(results))
    inputs = [Input(f"i{i}", "input") for i in range(len(specs))]
    return JointGraph(graph, inputs, [f"o{i}" for i in range(len(results))]), specs


def call_eagerly(
    target: Any, args: Sequence[Any], kwargs: dict[str, Any], inputs: dict[int, Tensor], n: int
) -> Any:
    """The same call on tensors; `inputs` by the identity of their `Spec`."""
    leaf_of = inputs | {id(SIZE): n}
    args, kwargs = tree_map(lambda leaf: leaf_of.get(id(leaf), leaf), (list(args), kwargs))
    result = target(*args, **kwargs)
    return result if isinstance(result, (Tensor, list, tuple)) else torch.tensor(result)


def lower_function(
    function: Callable[..., Any], example: Sequence[Tensor], **options: Any
) -> onnx.ModelProto:
    """Trace and lower in one go."""
    return lower(trace(function, example), **options)


def run(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """The model in onnxruntime's CPU provider, optimised as by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed(inputs))


def run_reference(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """The model in the ONNX project's own evaluator: a second reading of the standard."""
    return ReferenceEvaluator(model).run(None, feed(inputs))


def feed(inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Inputs by name."""
    return {f"i{i}": t.numpy() for i, t in enumerate(inputs)}


def expected(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The oracle: the function in eager PyTorch, floats in float64."""
    results = case.function(*(t.double() if t.is_floating_point() else t for t in inputs))
    return list(results) if isinstance(results, (list, tuple)) else [results]


def promised_types(model: onnx.ModelProto) -> list[np.dtype]:
    """Types of the outputs as the file declares them."""
    to_numpy = onnx.helper.tensor_dtype_to_np_dtype
    return [to_numpy(output.type.tensor_type.elem_type) for output in model.graph.output]


def assert_close(
    got: Sequence[np.ndarray], case: Case, inputs: Sequence[Tensor], types: Sequence[np.dtype]
) -> None:
    """Every output against the oracle."""
    oracle = expected(case, inputs)
    assert len(got) == len(oracle)
    for i, (value, wanted, dtype) in enumerate(zip(got, oracle, types, strict=True)):
        reference = wanted.numpy()
        where = f"{case.name}, output {i}"
        assert value.shape == reference.shape, f"{where}: shape {value.shape}, not {reference.shape}"
        assert value.dtype == dtype, f"{where}: type {value.dtype}, not {dtype}"
        if not wanted.is_floating_point():
            np.testing.assert_array_equal(value, reference, where)
            continue
        finite = np.isfinite(reference)
        np.testing.assert_array_equal(value[~finite], reference[~finite], where)
        scale = np.abs(reference[finite]).max(initial=np.finfo(dtype).tiny)
        error = np.abs(value[finite].astype(np.float64) - reference[finite]).max(initial=0) / scale
        allowed = case.ulps * np.finfo(dtype).eps
        assert error <= allowed, f"{where}: error {error / np.finfo(dtype).eps:.3g} ulps of {dtype}"
