"""A TorchScript module, scripted or traced, as an `nn.Module` that runs its graph operation by operation.

TorchScript's own interpreter turns sizes into plain integers, so that nothing captured through it serves another
batch. Here sizes stay what the tracer makes of them, and conditions on them are decided as in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError, InputError, UnsupportedOp
from .part import Flags, Part, flag_of, part_at
from .python_ops import ABOUT, NUMBERS, VALUES
from .torchscript_graph import Block, Step, read

COUNTER = "num_batches_tracked"
"""Batches that a BatchNorm has seen: decides only on the momentum of running statistics, which nothing here uses."""

AS_PYTHON: dict[str, type] = {
    "Bool": bool,
    "Float": float,
    "FloatImplicit": float,
    "Int": int,
    "IntImplicit": int,
}


class Shared:
    """What all copies of a module have in common: the source."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class ScriptPart(Part):
    """A submodule of a TorchScript module: shares its parameters and buffers, and has its own mode."""

    def __init__(self, source: torch.jit.ScriptModule, known: dict[Any, nn.Parameter]) -> None:
        super().__init__()
        self._plain = Shared(source)
        self.training = source.training
        for name, tensor in source.named_parameters(recurse=False, remove_duplicate=False):
            self.register_parameter(name, _parameter(tensor, known))
        for name, buffer in source.named_buffers(recurse=False, remove_duplicate=False):
            self.register_buffer(name, buffer)
        for name, child in source.named_children():
            self.add_module(name, ScriptPart(child, known))  # type: ignore[arg-type]

    def attribute(self, name: str) -> Any:
        """What the graph calls by `name`: a submodule, a tensor, the mode, or a plain value."""
        if name == COUNTER:
            return 1
        if name == "training" or any(name in own for own in (self._modules, self._parameters, self._buffers)):
            return getattr(self, name)
        return getattr(self._plain.source, name)


def _parameter(tensor: Tensor, known: dict[Any, nn.Parameter]) -> nn.Parameter:
    """The parameter that shares memory with `tensor`; one for all names of a tied parameter."""
    key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)
    if key not in known:
        if not isinstance(tensor, nn.Parameter):  # as loaded modules have them
            tensor = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        known[key] = tensor
    return known[key]


class Scripted(ScriptPart):
    """The whole module: its `forward` is that of the source."""

    def __init__(self, source: torch.jit.ScriptModule) -> None:
        super().__init__(source, {})
        self.original_name = source.original_name
        self._signature = Shared(source.forward.schema.arguments[1:])  # type: ignore[attr-defined]
        self._graph = Shared(self._switchable(read(source)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        block: Block = self._graph.source
        given = [self, *self._bind(args, kwargs)]
        results = self._run(block, dict(zip(block.inputs, given, strict=True)))
        return results[0] if len(results) == 1 else tuple(results)

    def _bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
        arguments = self._signature.source
        names = [argument.name for argument in arguments]
        surplus = [*map(str, range(len(names), len(args))), *(kwargs.keys() - set(names[len(args) :]))]
        if surplus:
            raise TypeError(f"forward takes {', '.join(names)}: there is no place for argument {surplus[0]}")
        for position, argument in enumerate(arguments):
            if position < len(args):
                yield args[position]
            elif argument.name in kwargs:
                yield kwargs[argument.name]
            elif argument.has_default_value():
                yield argument.default_value
            else:
                raise TypeError(f"forward needs its argument '{argument.name}'")

    def _switchable(self, block: Block) -> Block:
        """`block` with a part for every step. A traced module holds the mode of each BatchNorm and dropout as a
        constant: it becomes the mode of that part."""
        steps = block.every()
        constants = {step.outputs[0]: step.value for step in steps if step.kind == "prim::Constant"}
        return self._placed(block, constants, Flags(self))

    def _placed(self, block: Block, constants: dict[str, Any], flags: Flags) -> Block:
        steps = []
        for step in block.steps:
            path = step.path
            flag = None if step.op is None else flag_of(step.op, [constants.get(n) for n in step.inputs], {})
            if step.op is not None and flag is not None:
                path = flags.place(step.op, path, flag)
            elif part_at(self, path) is None:
                path = ""
            inner = tuple(self._placed(inner, constants, flags) for inner in step.blocks)
            steps.append(replace(step, path=path, switched=flag is not None, blocks=inner))
        return replace(block, steps=tuple(steps))

    # Running ---------------------------------------------------------------------------------------------------------

    def _run(self, block: Block, values: dict[str, Any]) -> list[Any]:
        for step in block.steps:
            results = self._results(step, [values[name] for name in step.inputs], values)
            values.update(zip(step.outputs, results, strict=True))
        return [values[name] for name in block.outputs]

    def _results(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        match step.kind:
            case "prim::Constant":
                return (step.value,)
            case "prim::GetAttr":
                return (inputs[0].attribute(step.value),)
            case "prim::SetAttr":
                if step.value != COUNTER:
                    raise CaptureError(
                        f"the TorchScript module sets its attribute '{step.value}': what one call leaves behind "
                        "for the next has no place in a graph. Export the model instead."
                    )
                return ()
            case "prim::If":
                return self._run(step.blocks[not _decided(inputs[0], bool, step)], values)
            case "prim::Loop":
                return self._loop(step, inputs, values)
            case "prim::RaiseException":
                raise InputError(f"the model refuses its input at {step.where}: {inputs[0]}")
            case "prim::ListUnpack" | "prim::TupleUnpack":
                return list(inputs[0])
        result = self._call(step, inputs)
        return (result,) if len(step.outputs) == 1 else () if not step.outputs else tuple(result)

    def _loop(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
        count, go_on, *carried = inputs
        (body,) = step.blocks
        passes = 0
        while passes < count and _decided(go_on, bool, step):
            values.update(zip(body.inputs, [passes, *carried], strict=True))
            go_on, *carried = self._run(body, values)
            passes += 1
        return carried

    def _call(self, step: Step, inputs: list[Any]) -> Any:
        name = step.name
        if name in ABOUT:
            return ABOUT[name](*inputs)
        if name in AS_PYTHON and isinstance(inputs[0], Tensor):
            return _decided(inputs[0], AS_PYTHON[name], step)
        if name in NUMBERS and not any(
            isinstance(v, Tensor) and i not in step.scalars for i, v in enumerate(inputs)
        ):
            inputs = [value.item() if isinstance(value, Tensor) else value for value in inputs]
        collection = bool(inputs) and isinstance(inputs[0], list | tuple | dict | str)
        if name in VALUES and (collection or not any(isinstance(value, Tensor) for value in inputs)):
            return VALUES[name](*inputs)
        if step.op is None:
            raise UnsupportedOp(
                step.kind,
                step.where or "an unknown line of the TorchScript module",
                "Trace or export the model instead.",
            )
        count = len(inputs) - len(step.keywords)
        keywords = dict(zip(step.keywords, inputs[count:], strict=True))
        count = min(count, len(step.op._schema.arguments))
        if not step.path:
            return step.op(*inputs[:count], **keywords)
        return self.get_submodule(step.path)(step.op, step.switched, *inputs[:count], **keywords)


def _decided(condition: Any, kind: type, step: Step) -> Any:
    """`condition` as a Python value; under a tracer a tensor has none."""
    if not isinstance(condition, Tensor):
        return condition if isinstance(condition, torch.SymInt) and kind is not bool else kind(condition)
    try:
        return kind(condition)
    except Exception as error:  # the tracer's own, of several kinds
        raise CaptureError(
            f"data-dependent control flow at {step.where}: the path through the model depends on the values of a "
            "tensor, which one graph cannot hold. Replace the branch by torch.where or arithmetic."
        ) from error
