"""One door for all sources of a model: what is a plain module already goes through as it is."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from ..errors import InputError
from .aten_graph import switchable
from .torchscript import Scripted

Model = nn.Module | ExportedProgram
"""An `nn.Module` (TorchScript modules and GraphModules are modules too) or an exported program."""


def as_module(source: Model) -> nn.Module:
    """`source` as an `nn.Module` with its own `named_parameters()`, which share memory with it.

    Every BatchNorm and dropout of a graph belongs to a submodule whose `training` decides on it, as in a module that a
    user writes. Switching it changes the returned module alone, unless the source is a plain module.

    Raises `InputError` for what is no model.
    """
    if isinstance(source, ExportedProgram):
        return switchable(source.module())
    if isinstance(source, torch.jit.ScriptModule):
        return Scripted(source)
    if isinstance(source, fx.GraphModule) and _holds_aten(source):
        shared = [*source.parameters(), *source.buffers()]
        return switchable(copy.deepcopy(source, {id(tensor): tensor for tensor in shared}))
    if isinstance(source, nn.Module):
        return _opened(source, {})
    raise InputError(
        "model must be an nn.Module, a torch.export.ExportedProgram, a TorchScript module or a GraphModule, not "
        f"{type(source).__name__}."
    )


def _opened(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """`module`, or a shallow copy of it where TorchScript modules stand inside: they run step by step there."""
    if not any(isinstance(inner, torch.jit.ScriptModule) for inner in module.modules()):
        return module
    if id(module) not in known:
        if isinstance(module, torch.jit.ScriptModule):
            known[id(module)] = Scripted(module)
        else:
            known[id(module)] = copied = copy.copy(module)
            children = {n: c if c is None else _opened(c, known) for n, c in module._modules.items()}
            copied.__dict__["_modules"] = children
    return known[id(module)]


def _holds_aten(module: fx.GraphModule) -> bool:
    """Whether operations stand in the graph as the dispatcher knows them, rather than as calls of modules."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
