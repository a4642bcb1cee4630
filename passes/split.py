"""Split: the graph of a loss, cut where the model ends and the loss begins.

Before: a captured graph, each node of the loss marked `in_loss`; it is left as it is. After: two captured graphs, one
from the model's inputs to its output, one from that output and the target to the loss.
"""

from __future__ import annotations

from torch import fx

from .graph import CapturedGraph, Input
from .simplify import DropDeadCode

OUTPUT = "output"
"""Name of the model's output as an input of the loss."""


def model_outputs(captured: CapturedGraph) -> list[fx.Node]:
    """What the loss reads of the model: every value that the model computes, or its inputs as they are."""
    placeholders = (node for node in captured.graph.nodes if node.op == "placeholder")
    own = {
        node
        for node, e in zip(placeholders, captured.inputs, strict=True)
        if e.kind in ("input", "parameter")
    }
    own |= {n for n in captured.graph.nodes if n.op == "call_function" and not n.meta["in_loss"]}

    def is_read(node: fx.Node) -> bool:
        return any(user.meta.get("in_loss") or user.op == "output" for user in node.users)

    return [node for node in captured.graph.nodes if node in own and is_read(node)]


def split(captured: CapturedGraph, output: fx.Node) -> tuple[CapturedGraph, CapturedGraph]:
    """(model, loss); `output` is the only entry of `model_outputs`."""
    model = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    model.graph_copy(captured.graph, copied)
    model.output(copied[output])
    loss = fx.Graph()
    door = loss.placeholder(OUTPUT)
    door.meta["val"] = output.meta["val"]
    loss.output(loss.graph_copy(captured.graph, {output: door}))
    for part in (model, loss):
        DropDeadCode()(part)
    inputs = _drop_inputs(loss, captured, output)
    meta = dict(captured.meta)
    return CapturedGraph(model, captured.inputs, meta), CapturedGraph(loss, inputs, meta)


def _drop_inputs(loss: fx.Graph, captured: CapturedGraph, output: fx.Node) -> list[Input]:
    """The inputs of the loss, without those of the model."""
    sources = [node for node in captured.graph.nodes if node.op == "placeholder"]
    entries = [e for node, e in zip(sources, captured.inputs, strict=True) if node is not output]
    doors = [node for node in loss.nodes if node.op == "placeholder"][1:]
    kept = [Input(OUTPUT, "input")]
    for door, entry in zip(doors, entries, strict=True):
        if entry.kind in ("input", "parameter"):
            loss.erase_node(door)
        else:
            kept.append(entry)
    return kept
