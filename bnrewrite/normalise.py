"""Bring a captured graph into the form that the rules expect: every BatchNorm one `aten.batch_norm` node, located.

Export leaves BatchNorm in different operations, by version, mode and backend. Each is rewritten to the operation that
a user knows, `aten.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn)`, marked with
its site. `prove_none_missed` then looks for any node that still normalises a batch by another name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .errors import CaptureError, InputError
from .passes.graph import CapturedGraph, place
from .passes.simplify import DropAssertions, DropDeadCode
from .rules.batch_norm import OVERLOAD, elements_per_channel

aten = torch.ops.aten

Canonical = tuple[Any, Any, Any, Any, Any, bool, float, float]
"""x, gamma, beta, running_mean, running_var, training, momentum, eps."""

FORMS: dict[torch._ops.OpOverload, Callable[..., Canonical]] = {
    aten._native_batch_norm_legit_functional.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten._native_batch_norm_legit.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten._native_batch_norm_legit.no_stats: lambda x, g, b, t, mom, e: (x, g, b, None, None, t, mom, e),
    aten._native_batch_norm_legit_no_training.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, False, mom, e),
    aten.native_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten.cudnn_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten.miopen_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten._batch_norm_with_update.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, True, mom, e),
    aten._batch_norm_with_update_functional.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, True, mom, e),
    aten._batch_norm_no_update.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, False, mom, e),
}
"""Every operation that export may leave for a BatchNorm; output 0 of each is y."""


def normalise(captured: CapturedGraph, bn: str | None) -> None:
    """Rewrite and locate every BatchNorm of `captured`, in place, and list the sites in its meta.

    `bn` overrides the statistics of every site: `"batch"`, `"running"`, or `None` for each module's own.
    """
    graph = captured.graph
    DropAssertions()(graph)
    DropDeadCode()(graph)  # running statistics that would have been updated
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in FORMS:
            _rewrite(graph, node)
    prove_none_missed(graph)
    captured.meta["sites"] = [_site(node, bn) for node in graph.nodes if node.target is OVERLOAD]
    graph.lint()


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    others = [u for u in node.users if not (u.target is operator.getitem and u.args[1] == 0)]
    if others:
        raise CaptureError(f"the statistics of a BatchNorm are used as values, in {place(others[0])}: not supported.")
    x, gamma, beta, mean, var, training, momentum, eps = FORMS[node.target](*node.args)  # type: ignore[index]
    with graph.inserting_before(node):
        canonical = graph.call_function(OVERLOAD, (x, gamma, beta, mean, var, training, momentum, eps, False))
    for user in list(node.users):
        canonical.meta = dict(user.meta)
        user.replace_all_uses_with(canonical)
        graph.erase_node(user)
    graph.erase_node(node)


def prove_none_missed(graph: fx.Graph) -> None:
    """Raise if a node still is a BatchNorm under another name."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is not OVERLOAD and "batch_norm" in str(node.target):
            raise CaptureError(f"{node.target} in {place(node)} is a form of BatchNorm that is not known here.")


def _site(node: fx.Node, bn: str | None) -> dict[str, Any]:
    x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn = node.args
    if bn is not None:
        training = bn == "batch"
    if not training and (running_mean is None or running_var is None):
        raise InputError(f"bn='running' asks for running statistics, but the BatchNorm in {place(node)} keeps none.")
    node.args = (x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn)
    shape = x.meta["val"].shape  # type: ignore[union-attr]
    count = elements_per_channel(shape)
    if training and isinstance(count, int) and count == 1:
        raise InputError(
            f"the BatchNorm in {place(node)} has a single element per channel (input of shape {list(shape)}): its "
            "variance is zero and nothing can be learned from it. Use a batch of at least 2."
        )
    name = node.meta["module"] or "batch_norm"
    node.meta["site"] = name
    return {
        "module": name,
        "where": node.meta["where"],
        "shape": ["N" if isinstance(size, torch.SymInt) else int(size) for size in shape],
        "statistics": "batch" if training else "running",
        "affine": gamma is not None,
        "eps": eps,
        "per_sample": None if count is None else _per_sample(shape),
        "spliced": ["y", "y_dot", "x_bar", "x_bar_dot"],
    }


def _per_sample(shape: Any) -> int | None:
    """Elements of a channel within one sample; `None` where that size is symbolic too."""
    sizes = [size for axis, size in enumerate(shape) if axis > 1]
    if any(isinstance(size, torch.SymInt) for size in sizes):
        return None
    count = 1
    for size in sizes:
        count *= int(size)
    return count
