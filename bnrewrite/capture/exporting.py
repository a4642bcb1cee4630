"""Every kind of source becomes one normalised graph. The only file that knows torch.export.

    model, loss  --torch.export-->  training graph  --decompose what has no rule-->  functional ATen graph
                 --normalise-->     CapturedGraph: every BatchNorm one `aten.batch_norm` node with a site

The user's model is borrowed: a few attributes are set while it is captured and put back whatever happens.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from ..errors import CaptureError, InputError, UnsupportedOp
from ..passes.graph import CapturedGraph
from .borrowing import borrow
from .decompositions import decompositions
from .example import Example, example_of
from .flattening import flatten, loss_outputs
from .normalise import make_functional, normalise
from .provenance import is_library
from .randomness import dropout_paths, owners, random_nodes, training_dropouts


class LossOf(nn.Module):
    """What is exported: (input, target) -> loss."""

    def __init__(self, model: nn.Module, loss: nn.Module | None) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss

    def forward(self, input: Any, target: Any) -> Tensor:
        if self.loss_fn is None and isinstance(input, dict):
            return self.model(**input, target=target)
        if self.loss_fn is None:
            return self.model(*_positional(input), target)
        if isinstance(input, dict):
            return self.loss_fn(self.model(**input), target)
        return self.loss_fn(self.model(*_positional(input)), target)


def _positional(input: Any) -> tuple[Any, ...]:
    return tuple(input) if isinstance(input, (tuple, list)) else (input,)


def capture(
    model: nn.Module,
    example_inputs: Any,
    loss: nn.Module | None,
    *,
    keep: Collection[torch._ops.OpOverload],
    bn: str | None = None,
    random: str = "off",
    dynamic_batch: bool = True,
) -> CapturedGraph:
    """The loss of `model` as a flat functional graph in which the operations of `keep` are left whole.

    `bn`, `random` and `dynamic_batch` as in `bnrewrite.transform`.

    Raises `CaptureError` where the model cannot be captured, `InputError` for wrong arguments.
    """
    example = example_of(example_inputs)
    _refuse_uninitialised(model)
    with borrow(model) as borrowed:
        wrapper = LossOf(model, loss)
        dropouts = training_dropouts(model) if random == "off" else {}
        for module in dropouts.values():
            borrowed.evaluate(module)
        program, is_dynamic = _export(wrapper, example, dynamic_batch)
        found = dropout_paths(program.graph)
        switched_off = [name for name, module in dropouts.items() if module.p > 0 and name in found]
        while drawing := random_nodes(program.graph):
            names = owners(model, drawing, random)
            for name, warn in names.items():
                borrowed.evaluate(model.get_submodule(name))
                switched_off += [name] if warn else []
            program, is_dynamic = _export(wrapper, example, is_dynamic)
        _check_loss(program)
        program = _decompose(program, keep)
    if switched_off:
        listed = ", ".join(f"'{name or _class(model)}'" for name in switched_off)
        warnings.warn(
            f"random numbers are switched off: {listed} act as in evaluation mode (BatchNorm keeps its own mode). "
            "Pass random='error' to refuse such models instead.",
            stacklevel=5,
        )
    graph, inputs = flatten(program, model, loss)
    captured = CapturedGraph(
        graph,
        inputs,
        {
            "random_off": switched_off,
            "dynamic_batch": is_dynamic,
            "batch": example.batch,
        },
    )
    normalise(captured, bn)
    return captured


def _refuse_uninitialised(model: nn.Module) -> None:
    """Lazy modules learn their sizes from a first run, which would change the user's model."""
    for name, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in (*module.parameters(False), *module.buffers(False))):
            raise InputError(
                f"module '{name}' ({type(module).__name__}) has no sizes yet: run the model once on an input, so "
                "that it learns them."
            )


def _class(model: nn.Module) -> str:
    return str(getattr(model, "original_name", type(model).__name__))


def _export(wrapper: LossOf, example: Example, dynamic_batch: bool) -> tuple[ExportedProgram, bool]:
    """The training program, and whether its batch axis is symbolic."""
    if dynamic_batch and example.batch is not None:
        try:
            program = _export_once(wrapper, example.distinct(wrapper.parameters()), True)
            if _is_dynamic(program):
                return program, True
            reason = "the model's forward needs one fixed batch size"
        except CaptureError as error:
            reason = str(error)
        program = _export_once(wrapper, example, False)  # raises what is wrong with the model itself
        warnings.warn(
            f"the graph serves batch size {example.batch} only: {reason} "
            "Pass dynamic_batch=False to say that this is wanted.",
            stacklevel=6,
        )
        return program, False
    return _export_once(wrapper, example, False), False


def _export_once(wrapper: LossOf, example: Example, dynamic: bool) -> ExportedProgram:
    arguments = (example.input, example.target)
    shapes = None
    if dynamic:
        shapes = pytree.tree_map(
            lambda leaf: {0: Dim.AUTO} if example.has_batch_axis(leaf) else None, arguments
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(wrapper, arguments, dynamic_shapes=shapes, strict=False)
    except (CaptureError, InputError, UnsupportedOp):  # of a source that is run here
        raise
    except (
        Exception
    ) as error:  # the user's own forward runs here: whatever it raises is reported with its place
        if "more than 1 value per channel" in str(error):
            raise InputError(_single_element(error, wrapper.model)) from error
        if "Guard failed" in str(error):
            raise CaptureError(_outside_program(error)) from error
        raise CaptureError(_explain(error)) from error


def _decompose(program: ExportedProgram, keep: Collection[torch._ops.OpOverload]) -> ExportedProgram:
    """Functional ATen operations only, those of `keep` left whole."""
    make_functional(program.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return program.run_decompositions(decompositions(keep))


def _explain(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_library(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    kind = type(error).__name__
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    if "DataDependent" in kind or "data-dependent" in first:
        return (
            f"data-dependent control flow{where}: the path through the model depends on the values of a tensor, which "
            f"one graph cannot hold. Replace the branch by torch.where or arithmetic. ({first})"
        )
    return f"the model could not be captured{where}: {kind}: {first}"


def _outside_program(error: Exception) -> str:
    """An exported program was called with sizes that it was not made for."""
    first = str(error).strip().splitlines()[0]
    return (
        f"the exported program does not serve such inputs ({first}): give examples of the sizes that it was exported "
        "with, or export it with a dynamic batch axis."
    )


def _single_element(error: Exception, model: nn.Module) -> str:
    """Which BatchNorm refused a batch with one element per channel."""
    names = {id(module): name for name, module in model.named_modules()}
    owners = [
        names.get(id(frame.f_locals.get("self"))) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    name = next((name for name in reversed(owners) if name is not None), "")
    return (
        f"the BatchNorm in module '{name}' has a single element per channel: its variance is zero and nothing can be "
        "learned from it. Use a batch of at least 2."
    )


def _is_dynamic(program: ExportedProgram) -> bool:
    return any(
        isinstance(size, torch.SymInt)
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)
        for size in node.meta["val"].shape
    )


def _check_loss(program: ExportedProgram) -> None:
    """One floating-point number must come out. Asked of the training program: decomposition records a wrong shape for
    an unreduced cross entropy."""
    vals = [node.meta["val"] for node in loss_outputs(program) if isinstance(node, fx.Node)]
    if len(vals) != 1 or vals[0].dim() != 0 or not vals[0].is_floating_point():
        found = (
            ", ".join(f"{str(val.dtype).removeprefix('torch.')} {_shape(val)}" for val in vals) or "no tensor"
        )
        raise CaptureError(
            f"the loss must be one floating-point number, but what came out is {found}: use a loss with reduction "
            "'mean' or 'sum'."
        )


def _shape(val: Tensor) -> str:
    return "[" + ", ".join("N" if isinstance(size, torch.SymInt) else str(size) for size in val.shape) + "]"
