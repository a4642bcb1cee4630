"""Tracing: what is recorded serves other sizes, and lean or not it computes what the function computes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from rule_harness import BATCH
from rule_tracing import symbolic, symbolic_mode
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from bnrewrite.passes import tracing

OTHER = BATCH + 3


def _run(graph: fx.Graph, *tensors: Tensor) -> list[Tensor]:
    return list(fx.Interpreter(fx.GraphModule({}, graph)).run(*tensors))


FUNCTIONS: dict[str, Callable[..., Sequence[Tensor]]] = {
    "a size": lambda x: [x.reshape(x.shape[0] * 6)],
    "arithmetic of sizes": lambda x: [x.new_ones([2 * x.shape[0] + 3, x.shape[0] // 2]), x / x.numel()],
    "true division": lambda x: [x * (1 / x.shape[0])],
    "several results": lambda x: [torch.max(x, 1).values, *torch.split(x, [1, 2], 1)],
    "the argument itself": lambda x: [x, x.detach()],
    "composite": lambda x: [torch.nn.functional.softplus(x), torch.einsum("nc,nd->cd", x, x)],
    "a size of a result": lambda x: [x.flatten(), x.flatten().new_ones([x.flatten().shape[0] + 1])],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_graph_serves_other_sizes(name: str) -> None:
    function = FUNCTIONS[name]
    graph = tracing.record(function, [symbolic(torch.randn(BATCH, 6 if "size" in name else 3).double())])
    assert not symbolic_mode().shape_env.replacements, "the size was fixed"  # type: ignore[union-attr]
    x = torch.randn(OTHER, 6 if "size" in name else 3).double()
    for found, expected in zip(_run(graph, x), function(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(node.meta.get("val") is not None for node in graph.nodes if node.op != "output")


def test_a_size_is_written_down_once_and_only_where_it_is_needed() -> None:
    def function(x: Tensor) -> list[Tensor]:
        unused = x.shape[0] * 17
        assert unused
        return [x.reshape(x.shape[0] * 6), x.reshape(x.shape[0] * 6) + 1]

    graph = tracing.record(function, [symbolic(torch.randn(BATCH, 6))])
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.aten.sym_size.int) == targets.count(operator.mul) == 1


def test_a_size_that_no_tensor_tells_is_traced_by_make_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is known from a product only, so that a multiple of it is not to be had from sizes at hand."""
    known = symbolic(torch.randn(BATCH, 6))
    with symbolic_mode(), enable_python_dispatcher():
        x = known.new_ones([known.shape[0] * 6])
    called: list[Any] = []
    plain = tracing.make_fx
    monkeypatch.setattr(tracing, "make_fx", lambda f: called.append(f) or plain(f))
    graph = tracing.record(lambda t: [t.new_ones([t.shape[0] // 3])], [x])
    assert called
    assert _run(graph, torch.randn(OTHER * 6))[0].shape == (OTHER * 2,)


def test_a_tensor_from_elsewhere_is_refused() -> None:
    with symbolic_mode():
        kept = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"passes\.rule\.State"):
        tracing.record(lambda x: [x + kept], [symbolic(torch.randn(BATCH, 3))])
