"""A joint graph as a TorchScript module for libtorch: `forward(input, target, v) -> (loss, grad, *products)`.

TorchScript source is written from the GraphModule, one assignment a node, and compiled by PyTorch. Parameters, buffers
and constants stay under their own names; sizes are read from the tensors at every call, so that any batch will do. The
interpreter frees every value at its last use.
"""

from __future__ import annotations

import math  # noqa: F401  (the source that is compiled here uses it)
import operator
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from ..files import written_whole
from ..passes.graph import JointGraph
from .graph_module import CHECK, CheckCall
from .torchscript_source import ANY, argument, call, quoted, type_of

DOOR = """
def bnrewrite_entry(self, v: Dict[str, Tensor], name: str, shape: List[int]) -> Tensor:
    if name not in v:
        raise ValueError("v has no entry for '{}': give one tensor for each parameter.".format(name))
    return self.bnrewrite_shaped(v[name], "v['{}']".format(name), shape)

def bnrewrite_shaped(self, x: Tensor, name: str, shape: List[int]) -> Tensor:
    given = list(x.size())
    fits = len(given) == len(shape)
    if fits:
        for i in range(len(shape)):
            fits = fits and (shape[i] == -1 or shape[i] == given[i])
    if not fits:
        raise ValueError("{} has shape {}, the graph needs {} (-1: any size).".format(name, given, shape))
    return x

def bnrewrite_classes(self, target: Tensor, count: int, ignored: Optional[int]) -> Tensor:
    if not target.is_cuda:
        wrong = torch.logical_or(target < 0, target >= count)
        if ignored is not None:
            wrong = torch.logical_and(wrong, target != ignored)
        if bool(wrong.any()):
            raise ValueError("target holds a class outside of 0 to {}.".format(count - 1))
    return target
"""
"""What `CheckCall` does for the GraphModule, in TorchScript."""


def script(
    module: fx.GraphModule, joint: JointGraph, check: CheckCall, example: tuple[Any, Any]
) -> torch.jit.ScriptModule:
    """Compile `module`, the GraphModule of `joint`, into a TorchScript module that shares its parameters.

    `example` is `(input, target)` as the caller nests it: tensors, tuples, lists and dicts become the types of the
    arguments.

    Raises `UnsupportedOp` for a node and `InputError` for an argument that TorchScript cannot express.
    """
    source = "\n".join([*_source(module, joint, check, example), ""])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(_owner(module))
        scripted.define(DOOR)
        scripted.define(source)
    return scripted


def save(scripted: torch.jit.ScriptModule, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write `scripted`, with `metadata` as extra files, whole or not at all; FileError where that fails."""
    with written_whole(path) as temporary, temporary.open("wb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(scripted, stream, _extra_files=dict(metadata))


def _owner(module: fx.GraphModule) -> nn.Module:
    """The tensors of `module` under their names, and nothing else."""
    # A class of its own: modules of one class and the same tensors would share one type, and with it their methods.
    root: nn.Module = type("Curvature", (nn.Module,), {})()

    def home(name: str) -> tuple[nn.Module, str]:
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        return place, last

    for name, parameter in module.named_parameters(remove_duplicate=False):
        place, last = home(name)
        place.register_parameter(last, parameter)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        place, last = home(name)
        place.register_buffer(last, buffer)
    return root


def _source(
    module: fx.GraphModule, joint: JointGraph, check: CheckCall, example: tuple[Any, Any]
) -> Iterator[str]:
    """The lines of `forward`."""
    graph = module.graph
    names = _variables(graph)
    types = [type_of(value, root) for root, value in zip(("input", "target"), example, strict=True)]
    output = graph.output_node().args[0]
    assert isinstance(output, tuple)
    results = ", ".join(["Tensor"] + ["Dict[str, Tensor]"] * (len(output) - 1))
    arguments = f"input: {types[0]}, target: {types[1]}, v: Dict[str, Tensor]"
    yield f"def forward(self, {arguments}) -> Tuple[{results}]:"
    yield from (f"    {line}" for line in _door(joint, check))
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node.target == CHECK:
            continue
        yield f"    {names[node]} = {_expression(node, names, check)}"
    yield f"    return ({', '.join(_literal(part, names) for part in output)},)"


def _door(joint: JointGraph, check: CheckCall) -> Iterator[str]:
    """Statements that refuse wrong shapes, batches that BatchNorm cannot live with, and classes out of range."""
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    for node, entry in zip(placeholders, joint.inputs, strict=True):
        if entry.kind not in ("input", "target"):
            continue
        value = _accessed((entry.kind, *entry.path))
        sizes = [ANY if isinstance(size, torch.SymInt) else int(size) for size in node.meta["val"].shape]
        shape = repr(sizes) if sizes else "torch.jit.annotate(List[int], [])"
        yield f"self.bnrewrite_shaped({value}, {quoted(entry.name)}, {shape})"
        if entry.kind == "target" and check.classes is not None and not node.meta["val"].is_floating_point():
            count, ignored = check.classes
            yield f"self.bnrewrite_classes({value}, {count}, {ignored})"
    if check.batch is not None:
        for name, least in check.min_batch.items():
            text = f"the BatchNorm in module '{name}' needs a batch of at least {least}."
            yield f"if {_accessed(check.batch)}.size(0) < {least}:"
            yield f"    raise ValueError({quoted(text)})"
    names = "torch.jit.annotate(List[str], [" + ", ".join(map(quoted, check.shapes)) + "])"
    yield "for name in v:"
    yield f"    if name not in {names}:"
    yield "        raise ValueError(\"v has an entry that this graph does not know: '{}'.\".format(name))"


def _accessed(path: tuple[int | str, ...]) -> str:
    """An argument of `forward`, and the keys that lead from it to a tensor."""
    root, *keys = path
    return f"{root}" + "".join(f"[{quoted(key) if isinstance(key, str) else key}]" for key in keys)


_RESERVED = {"self", "torch", "Tensor", "Dict", "List", "Tuple", "Optional", "input", "target", "v", "name"}


def _variables(graph: fx.Graph) -> dict[fx.Node, str]:
    """A TorchScript variable for every node."""
    taken, names = set(_RESERVED), {}
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = str(node.target)
            continue
        name = node.name
        while name in taken:
            name += "_"
        taken.add(name)
        names[node] = name
    return names


def _expression(node: fx.Node, names: dict[fx.Node, str], check: CheckCall) -> str:
    if node.op == "get_attr":
        value = "self"
        for part in str(node.target).split("."):
            value = f"getattr({value}, {quoted(part)})"
        return value
    if node.target is operator.getitem:
        base, key = node.args
        assert isinstance(base, fx.Node)
        if base.target == CHECK:
            shape = [ANY if size == "N" else size for size in check.shapes[str(key)]]
            sizes = repr(shape) if shape else "torch.jit.annotate(List[int], [])"
            return f"self.bnrewrite_entry(v, {quoted(str(key))}, {sizes})"
        return f"{names[base]}[{quoted(key) if isinstance(key, str) else key}]"
    if node.target is getattr:
        base, key = node.args
        return f"{argument(base, names)}.{key}"
    return call(node, names)


def _literal(part: Any, names: dict[fx.Node, str]) -> str:
    """One entry of the result: a tensor or a dict of tensors."""
    if isinstance(part, fx.Node):
        return names[part]
    return "{" + ", ".join(f"{quoted(name)}: {names[node]}" for name, node in part.items()) + "}"
