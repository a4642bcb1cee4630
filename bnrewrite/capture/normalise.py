"""Bring a captured graph into the form that the rules expect: every BatchNorm one `aten.batch_norm` node, located.

Export leaves BatchNorm in different operations, by version, mode and backend. Each is rewritten to the operation that
a user knows, `aten.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn)`, marked with
its site. `prove_none_missed` then looks for any node that still normalises a batch by another name.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..errors import CaptureError, InputError
from ..passes.graph import CapturedGraph, place
from ..passes.simplify import DropAssertions, DropDeadCode
from ..rules.batch_norm import OVERLOAD
from ..sources.batch_norm_forms import FORMS

aten = torch.ops.aten

FRESH = frozenset({"conv1d", "conv2d", "conv3d", "batch_norm", "linear", "add", "sub", "mul", "div", "cat"})
"""Operations whose result shares memory with nothing else."""


def make_functional(graph: fx.Graph) -> None:
    """Before: an exported training graph. After: the in-place operations of everyday networks (`relu_` after a
    BatchNorm, `+=` of a shortcut) are ordinary ones.

    Export's own functionalisation does the same for every case, but takes a slow path for each such call. Only what
    is plainly safe is rewritten: the tensor is fresh and nobody has looked at it through a view.
    """
    fresh: set[fx.Node] = set()
    for node in list(graph.nodes):
        op = node.target
        if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload):
            continue
        name = op._schema.name.removeprefix("aten::")
        if name in FRESH:
            fresh.add(node)
        functional = (
            getattr(getattr(aten, name[:-1], None), op._overloadname, None) if name.endswith("_") else None
        )
        if functional is None or node.args[0] not in fresh or _viewed(node.args[0]):
            continue
        with graph.inserting_before(node):
            replaced = graph.call_function(functional, node.args, node.kwargs)
        replaced.meta = dict(node.meta)
        fresh.add(replaced)
        changed = node.args[0]
        node.replace_all_uses_with(replaced)
        graph.erase_node(node)
        changed.replace_all_uses_with(replaced, delete_user_cb=lambda user, since=replaced: user > since)


def _viewed(node: Any) -> bool:
    """Whether an operation that may return its input's memory reads `node`."""
    return any(
        not isinstance(user.target, torch._ops.OpOverload)
        or "dropout" in str(user.target)
        or any(
            result.alias_info is not None and not result.alias_info.is_write
            for result in user.target._schema.returns
        )
        for user in node.users
    )


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
    x, gamma, beta, mean, var, training, momentum, eps = FORMS[node.target](*node.args)  # type: ignore[index]
    with graph.inserting_before(node):
        canonical = graph.call_function(OVERLOAD, (x, gamma, beta, mean, var, training, momentum, eps, False))
    canonical.meta = dict(node.meta, val=node.meta["val"][0])
    # Outputs: y, mean and 1 / deviation of the batch, and, where they are tracked, the new running statistics.
    stand_ins: dict[Any, Any] = {0: canonical, 3: mean, 4: var}
    for user in list(node.users):
        stand_in = stand_ins.get(user.args[1]) if user.target is operator.getitem else None
        if not isinstance(stand_in, fx.Node) or (stand_in is not canonical and not _only_statistics(user)):
            raise CaptureError(
                f"the statistics of a BatchNorm are used as values, in {place(user)}: not supported."
            )
        user.replace_all_uses_with(stand_in)
        graph.erase_node(user)
    graph.erase_node(node)


def _only_statistics(updated: fx.Node) -> bool:
    """Whether updated running statistics go nowhere but into the next call of the same module, which uses the batch's
    own statistics or, in evaluation mode, has updated nothing."""
    return all(user.target in FORMS and updated in user.args[3:5] for user in updated.users)


def prove_none_missed(graph: fx.Graph) -> None:
    """Raise if a node still is a BatchNorm under another name."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is not OVERLOAD and "batch_norm" in str(node.target):
            raise CaptureError(
                f"{node.target} in {place(node)} is a form of BatchNorm that is not known here."
            )


def _site(node: fx.Node, bn: str | None) -> dict[str, Any]:
    x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn = node.args
    if bn is not None:
        training = bn == "batch"
    if not training and (running_mean is None or running_var is None):
        raise InputError(
            f"bn='running' asks for running statistics, but the BatchNorm in {place(node)} keeps none."
        )
    node.args = (x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn)
    shape = x.meta["val"].shape  # type: ignore[union-attr]
    name = node.meta["module"] or "batch_norm"
    node.meta["site"] = name
    return {
        "module": name,
        "where": node.meta["where"],
        "shape": ["N" if isinstance(size, torch.SymInt) else int(size) for size in shape],
        "statistics": "batch" if training else "running",
        "affine": gamma is not None,
        "eps": eps,
        "per_sample": _per_sample(shape),
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
