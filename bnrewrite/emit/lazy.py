"""A GraphModule without an example: it captures the model at its first call, and is an ordinary one from then on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import fx, nn

Compile = Callable[[nn.Module, tuple[Any, Any], Any], fx.GraphModule]
"""(model, (input, target), options) -> the finished module."""

PENDING = "bnrewrite_pending"
"""Attribute name of the module that stands for the graph until the first call."""


class _Capture(nn.Module):
    """The only node of the graph before the first call: puts the finished module in the place of `owner`."""

    def __init__(self, model: nn.Module, options: Any, compile: Compile) -> None:
        super().__init__()
        self.model, self.options, self.compile_with = model, options, compile
        self.owner: list[nn.Module] = []  # in a list: no child

    def forward(self, input: Any, target: Any, v: Any) -> Any:
        finished = self.compile_with(self.model, (input, target), self.options)
        (owner,) = self.owner
        mode = owner.training
        owner.__class__ = finished.__class__
        owner.__dict__.clear()
        owner.__dict__.update(finished.__dict__)
        owner.train(mode)
        return finished(input, target, v)


class PendingModule(fx.GraphModule):
    """What `transform(model)` returns; the model's parameters are already its own, so that it can be moved."""

    def __init__(self, model: nn.Module, options: Any, compile: Compile) -> None:
        graph = fx.Graph()
        arguments = tuple(graph.placeholder(name) for name in ("input", "target", "v"))
        graph.output(graph.call_module(PENDING, arguments))
        capture = _Capture(model, options, compile)
        super().__init__({PENDING: capture}, graph)
        capture.owner.append(self)
        self._arguments = (model, options, compile)

    def __reduce__(self) -> tuple[Any, ...]:
        return PendingModule, self.__dict__["_arguments"]

    def __deepcopy__(self, memo: dict[int, Any]) -> PendingModule:
        model, options, compile = self.__dict__["_arguments"]
        return PendingModule(copy.deepcopy(model, memo), options, compile)
