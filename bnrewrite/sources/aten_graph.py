"""A graph of ATen operations (an exported program's module) as a module whose parts can be switched."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from .batch_norm_forms import FORMS
from .part import Flags, Part, flag_of, part_at

aten = torch.ops.aten


def switchable(module: fx.GraphModule) -> fx.GraphModule:
    """`module`, changed in place: every operation is called through the part of the module that it came from."""
    graph = module.graph
    for name in ("train", "eval"):  # an exported program's refuse: its graph had one mode only
        module.__dict__.pop(name, None)
    _adopt(module)
    _whole_batch_norms(graph)
    flags = Flags(module)
    for node in list(graph.nodes):
        op = node.target
        if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
            continue
        path = _owner(node)
        flag = flag_of(op, node.args, node.kwargs)
        if flag is not None:
            path = flags.place(op, path, flag)
        if path and part_at(module, path) is not None:
            node.op, node.target, node.args = "call_module", path, (op, flag is not None, *node.args)
    module.recompile()
    return module


def _adopt(module: nn.Module) -> None:
    """Every submodule that only holds parameters becomes a part, with the same parameters."""
    for name, child in list(module.named_children()):
        _adopt(child)
        if type(child) is nn.Module:
            part = Part().train(child.training)
            part._parameters, part._buffers, part._modules = child._parameters, child._buffers, child._modules
            setattr(module, name, part)


def _whole_batch_norms(graph: fx.Graph) -> None:
    """After: no BatchNorm that decomposition took apart, nor the updates of statistics that it left behind."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in FORMS:
            continue
        x, gamma, beta, mean, var, training, momentum, eps = FORMS[node.target](*node.args)
        if any(user.target is not operator.getitem or user.args[1] in (1, 2) for user in node.users):
            continue  # the statistics are used: capture says so
        with graph.inserting_before(node):
            whole = graph.call_function(
                aten.batch_norm.default, (x, gamma, beta, mean, var, training, momentum, eps, False)
            )
        whole.meta = dict(node.meta)
        for user in list(node.users):
            user.replace_all_uses_with({0: whole, 3: mean, 4: var}[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is aten.copy_.default and node.args[0] is node.args[1] and not node.users:
            graph.erase_node(node)


def _owner(node: fx.Node) -> str:
    """Path of the module that `node` came from: that of its parameters, or the one it was recorded in."""
    tensors = [a for a in node.all_input_nodes if a.op == "get_attr"]
    if tensors and "." in str(tensors[0].target):
        return str(tensors[0].target).rpartition(".")[0]
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return paths[-1].split("@")[0] if paths else ""
