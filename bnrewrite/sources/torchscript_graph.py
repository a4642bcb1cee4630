"""A TorchScript graph read once into plain Python: steps with the names of the values they take and give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UnsupportedOp

ALIASES = {"_convolution": "convolution"}
"""Operations that tracing writes down with settings of a backend after the arguments of the public one."""

_TORCH = str(Path(torch.__file__).parent)
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)|(?P<traced>\S+)\((?P<number>\d+)\): ')


@dataclass(frozen=True)
class Step:
    """One node: `outputs = kind(inputs)`, with names for the values.

    `value`: of a constant, or the name of an attribute. `op`: the operation of the dispatcher, if it is one;
    `keywords`: names of its last inputs. `path`: the module it belongs to, empty where that is not known; `switched`:
    whether the mode of that module is its training flag. `scalars`: positions of the inputs that are constants without
    axes.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    value: Any = None
    op: torch._ops.OpOverload | None = None
    keywords: tuple[str, ...] = ()
    path: str = ""
    where: str = ""
    switched: bool = False
    scalars: frozenset[int] = frozenset()
    blocks: tuple[Block, ...] = ()

    @property
    def name(self) -> str:
        return self.kind.partition("::")[2]


@dataclass(frozen=True)
class Block:
    """Steps in order, and the names of what goes in and comes out."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def every(self) -> Iterator[Step]:
        """All steps, inner blocks included, in order."""
        for step in self.steps:
            yield step
            for block in step.blocks:
                yield from block.every()


def read(module: torch.jit.ScriptModule) -> Block:
    """The `forward` of `module` with everything that it calls; its first input is the module itself."""
    graph = module.inlined_graph
    return _Reader(next(iter(graph.inputs())).debugName()).block(graph)


class _Reader:
    def __init__(self, root: str) -> None:
        self._modules = {root: ""}
        """Paths of the values that are modules."""
        self._owners: dict[str, str] = {}
        """Of the values that are attributes of a module: its path."""
        self._scalars: set[str] = set()
        """Constants without axes: tracing writes the numbers of a program so."""

    def block(self, block: Any) -> Block:
        inputs = tuple(value.debugName() for value in block.inputs())
        steps = tuple(self._step(node) for node in block.nodes())
        return Block(inputs, steps, tuple(value.debugName() for value in block.outputs()))

    def _step(self, node: Any) -> Step:
        kind = node.kind()
        step = Step(
            kind,
            tuple(value.debugName() for value in node.inputs()),
            tuple(value.debugName() for value in node.outputs()),
            where=_where(node),
        )
        if kind == "prim::Constant":
            value = node.output().toIValue()
            if isinstance(value, torch.Tensor) and value.dim() == 0:
                self._scalars.add(step.outputs[0])
            return replace(step, value=value)
        if kind in ("prim::GetAttr", "prim::SetAttr"):
            return self._attribute(replace(step, value=node.s("name")))
        if kind in ("prim::CallMethod", "prim::CallFunction"):  # what inlining leaves: recursion, interfaces
            raise UnsupportedOp(kind, step.where or "the TorchScript module", "Trace the module instead.")
        blocks = tuple(self.block(block) for block in node.blocks())
        if (
            kind in ("prim::If", "aten::__not__") and step.inputs[0] in self._owners
        ):  # `p if self.training else 0`
            self._owners.update(dict.fromkeys(step.outputs, self._owners[step.inputs[0]]))
        scalars = frozenset(i for i, name in enumerate(step.inputs) if name in self._scalars)
        op = _overload(node)
        keywords = () if op is None else tuple(a.name for a in op._schema.arguments if a.kwarg_only)
        path = self._path(node, step)
        return replace(step, blocks=blocks, op=op, keywords=keywords, path=path, scalars=scalars)

    def _attribute(self, step: Step) -> Step:
        path = self._modules.get(step.inputs[0])
        if path is not None and step.outputs:
            name, value = step.outputs[0], str(step.value)
            self._owners[name] = path
            self._modules[name] = f"{path}.{value}".removeprefix(".")
        return step

    def _path(self, node: Any, step: Step) -> str:
        if scope := node.scopeName():  # written by torch.jit.trace
            return str(scope.rpartition("/")[2].partition(".")[2])
        return next((self._owners[name] for name in step.inputs if name in self._owners), "")


def _overload(node: Any) -> torch._ops.OpOverload | None:
    schema = node.schema() if node.kind().startswith("aten::") else ""
    name, _, overload = schema.partition("(")[0].removeprefix("aten::").partition(".")
    if name in ALIASES:
        name, overload = ALIASES[name], ""
    packet = getattr(torch.ops.aten, name, None) if name else None
    return getattr(packet, overload or "default", None)


def _where(node: Any) -> str:
    found = [(m["file"] or m["traced"], m["line"] or m["number"]) for m in _LINE.finditer(node.sourceRange())]
    found = [pair for pair in found if not pair[0].startswith("code/")] or found  # inside a saved file
    own = [pair for pair in found if not pair[0].startswith(_TORCH)] or found
    return f"{own[0][0]}:{own[0][1]}" if own else ""
