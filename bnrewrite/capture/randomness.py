"""Random numbers in a captured graph: who draws them, and whether evaluation mode switches them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from ..errors import CaptureError
from .provenance import in_loss, module_path, source_line


def training_dropouts(model: nn.Module) -> dict[str, nn.modules.dropout._DropoutNd]:
    """The dropout modules of PyTorch in training mode, those with probability zero too: most models have no other
    random modules, and need not be captured twice."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training
    }


def dropout_paths(graph: fx.Graph) -> set[str | None]:
    """Paths of the modules whose dropout is part of the graph."""
    return {module_path(n) for n in graph.nodes if n.op == "call_function" and "dropout" in str(n.target)}


def random_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The calls that draw random numbers."""
    return [node for node in graph.nodes if node.op == "call_function" and _draws(node)]


def _draws(node: fx.Node) -> bool:
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in op.tags:
        return False
    arguments = _named_arguments(node)
    # Dropout and RReLU outside training, attention without dropout: the random branch is not taken.
    return (
        arguments.get("train", arguments.get("training", True)) is not False
        and arguments.get("dropout_p") != 0.0
    )


def _named_arguments(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | given | dict(node.kwargs)


def owners(model: nn.Module, drawing: Sequence[fx.Node], random: str) -> dict[str, bool]:
    """Module path of each owner, and whether it is worth a warning (a probability of zero is not)."""
    owners: dict[str, bool] = {}
    for node in drawing:
        path, where = module_path(node), source_line(node)
        place = f"module '{path}'" if path else "the forward of the model itself"
        if random == "error":
            raise CaptureError(
                f"{place} draws random numbers ({node.target} at {where}) and random='error' was asked for: "
                "switch it off, or pass random='off'."
            )
        if in_loss(node) or not model.get_submodule(path or "").training:
            raise CaptureError(
                f"{node.target} at {where} draws random numbers that evaluation mode does not switch off: a loss that "
                "changes from call to call has no Hessian. Take it out, or pass the random tensor as an input."
            )
        owners[path or ""] = owners.get(path or "", False) or _named_arguments(node).get("p") != 0.0
    return owners
