"""An exported program as one flat graph: its inputs told apart, its only output the loss."""

from __future__ import annotations

from typing import Any, Literal

from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..passes.graph import Input, place
from .provenance import MODEL, in_loss, module_path, source_line


def loss_outputs(program: ExportedProgram) -> list[fx.Node]:
    """What the exported wrapper returns, without the buffers it updates."""
    results = program.graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    return [r for r, s in zip(results, specs, strict=True) if s.kind == OutputKind.USER_OUTPUT]


def flatten(
    program: ExportedProgram, model: nn.Module, loss: nn.Module | None
) -> tuple[fx.Graph, list[Input]]:
    """The program's graph with one output, the loss, and what each placeholder is."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.graph, copied)
    outputs = loss_outputs(program)
    graph.output(copied[outputs[0]])
    for node in graph.nodes:
        node.meta["module"] = module_path(node) or ""
        node.meta["where"] = source_line(node)
        node.meta["in_loss"] = loss is not None and in_loss(node)
    return graph, _inputs(program, model, graph)


def _inputs(program: ExportedProgram, model: nn.Module, graph: fx.Graph) -> list[Input]:
    names = _parameter_names(model)
    user_names = iter(_user_paths(program))
    inputs: list[Input] = []
    first: dict[str, fx.Node] = {}
    for node, spec in zip(
        [n for n in graph.nodes if n.op == "placeholder"], program.graph_signature.input_specs, strict=True
    ):
        if spec.kind == InputKind.TOKEN:
            raise _has_effects(graph)
        if spec.kind == InputKind.USER_INPUT:
            root, path = next(user_names)
            entry = Input(".".join([root, *map(str, path)]), root, path=path)
        elif spec.kind == InputKind.PARAMETER:
            tensor = program.state_dict[spec.target]
            own = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            # A parameter of the loss module is none of the model's: a constant here.
            known = id(own) in names
            entry = (
                Input(names[id(own)], "parameter", own)
                if known
                else Input(str(spec.target), "buffer", own.detach())
            )
        else:
            name = str(spec.target).removeprefix(f"{MODEL}.")
            found = program.state_dict.get(spec.target)
            found = program.constants[spec.target] if found is None else found
            entry = Input(name, "buffer" if spec.kind == InputKind.BUFFER else "constant", found)
        if entry.name in first:  # a shared tensor: one placeholder serves every use
            node.replace_all_uses_with(first[entry.name])
            graph.erase_node(node)
            continue
        first[entry.name] = node
        inputs.append(entry)
    return inputs


def _has_effects(graph: fx.Graph) -> CaptureError:
    """Export puts such operations in order by tokens."""
    ordered = next(node for node in graph.nodes if "with_effects" in str(node.target))
    return CaptureError(
        f"{ordered.args[1]} in {place(ordered)} acts on more than its result, which a graph of plain functions cannot "
        "hold: write the model without it. (Solvers and factorisations of torch.linalg check for errors that way.)"
    )


def _parameter_names(model: nn.Module) -> dict[int, str]:
    """First name of every parameter by identity."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _user_paths(program: ExportedProgram) -> list[tuple[Literal["input", "target"], tuple[int | str, ...]]]:
    """Root argument and path inside it of every user placeholder, in order."""
    args, _ = program.example_inputs
    found: list[tuple[Literal["input", "target"], tuple[int | str, ...]]] = []
    roots: tuple[Literal["input", "target"], ...] = ("input", "target")
    for root, value in zip(roots, args, strict=True):
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            found.append((root, tuple(_key(entry) for entry in path)))
    return found


def _key(entry: Any) -> int | str:
    """Index or key of one step into a tuple or a dict."""
    return getattr(entry, "idx", getattr(entry, "key", str(entry)))
