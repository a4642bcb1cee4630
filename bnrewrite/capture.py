"""Every kind of source becomes one normalised graph. The only file that knows torch.export.

    model, loss  --torch.export-->  training graph  --decompose what has no rule-->  functional ATen graph
                 --normalise-->     CapturedGraph: every BatchNorm one `aten.batch_norm` node with a site

The user's model is borrowed: a few attributes are set while it is captured and put back whatever happens.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from .errors import CaptureError, InputError
from .normalise import make_functional, normalise
from .passes.graph import CapturedGraph, Input

MODEL = "model"
"""Name of the user's model inside the wrapper that is exported."""


class LossOf(nn.Module):
    """What is exported: (input, target) -> loss."""

    def __init__(self, model: nn.Module, loss: nn.Module | None) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss

    def forward(self, input: Any, target: Any) -> Tensor:
        if self.loss_fn is None:
            return self.model(*_positional(input), target)
        if isinstance(input, dict):
            return self.loss_fn(self.model(**input), target)
        return self.loss_fn(self.model(*_positional(input)), target)


def _positional(input: Any) -> tuple[Any, ...]:
    return tuple(input) if isinstance(input, (tuple, list)) else (input,)


@dataclass(frozen=True)
class Example:
    """Example data of the caller: `(input, target)`, and the batch size they agree on."""

    input: Any
    target: Any

    @property
    def leaves(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves((self.input, self.target)) if isinstance(leaf, Tensor)]

    @property
    def batch(self) -> int | None:
        sizes = [leaf.shape[0] for leaf in self.leaves if leaf.dim() > 0]
        return sizes[0] if sizes else None

    def has_batch_axis(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == self.batch

    def resized(self, batch: int) -> Example:
        """The same rows, repeated to another batch size."""

        def resize(leaf: Any) -> Any:
            if not self.has_batch_axis(leaf):
                return leaf
            return leaf.detach()[torch.arange(batch, device=leaf.device) % leaf.shape[0]]

        return Example(pytree.tree_map(resize, self.input), pytree.tree_map(resize, self.target))


def example_of(example_inputs: Any) -> Example:
    """Check the shape of `example_inputs`, not yet their contents."""
    if not isinstance(example_inputs, (tuple, list)) or len(example_inputs) != 2:
        raise InputError("example_inputs must be a pair (input, target); several model inputs go into a tuple or dict.")
    example = Example(*example_inputs)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(example.input)):
        raise InputError("example_inputs has no tensor among the model's inputs.")
    if example.batch == 0:
        raise InputError("example_inputs has an empty batch: give at least one sample.")
    return example


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
    switched_off: list[str] = []
    with _borrowed(model) as borrowed:
        wrapper = LossOf(model, loss)
        program, is_dynamic = _export(wrapper, example, dynamic_batch)
        while drawing := random_nodes(program.graph):
            names = _owners(model, drawing, random, switched_off)
            for name, warn in names.items():
                borrowed.evaluate(model.get_submodule(name))
                switched_off += [name] if warn else []
            program, is_dynamic = _export(wrapper, example, dynamic_batch)
        _check_loss(program)
        program = _decompose(program, keep)
    if switched_off:
        listed = ", ".join(f"'{name or type(model).__name__}'" for name in switched_off)
        warnings.warn(
            f"random numbers are switched off: {listed} act as in evaluation mode (BatchNorm keeps its own mode). "
            "Pass random='error' to refuse such models instead.",
            stacklevel=4,
        )
    graph, inputs = _flatten(program, model, loss)
    captured = CapturedGraph(
        graph,
        inputs,
        {
            "random_off": switched_off,
            "dynamic_batch": is_dynamic,
            "batch": example.batch,
            "parameter_order": [name for name, _ in model.named_parameters()],
        },
    )
    normalise(captured, bn)
    return captured


# Borrowing ---------------------------------------------------------------------------------------------------


class _Borrowed:
    """Attributes set on the user's modules for the time of a capture."""

    def __init__(self) -> None:
        self._undo: list[tuple[nn.Module, str, Any]] = []

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        self._undo.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def evaluate(self, module: nn.Module) -> None:
        """Evaluation mode for this module alone, not for its children."""
        self.set(module, "training", False)

    def restore(self) -> None:
        for module, name, value in reversed(self._undo):
            setattr(module, name, value)


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[_Borrowed]:
    borrowed = _Borrowed()
    try:
        for module in model.modules():
            # The batch counter decides only the momentum of the running statistics, which nothing here uses;
            # with momentum=None it would be read as a number, which cannot be captured.
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.num_batches_tracked is not None:
                borrowed.set(module, "num_batches_tracked", None)
        yield borrowed
    finally:
        borrowed.restore()


# Export ------------------------------------------------------------------------------------------------------


def _export(wrapper: LossOf, example: Example, dynamic_batch: bool) -> tuple[ExportedProgram, bool]:
    """The training program, and whether its batch axis is symbolic."""
    if dynamic_batch and example.batch is not None:
        try:
            program = _export_once(wrapper, example.resized(_batch_to_trace_with(wrapper, example)), True)
            if _is_dynamic(program):
                return program, True
            reason = "the model's forward needs one fixed batch size"
        except CaptureError as error:
            reason = str(error)
        program = _export_once(wrapper, example, False)  # raises what is wrong with the model itself
        warnings.warn(
            f"the graph serves batch size {example.batch} only: {reason} "
            "Pass dynamic_batch=False to say that this is wanted.",
            stacklevel=5,
        )
        return program, False
    return _export_once(wrapper, example, False), False


def _batch_to_trace_with(wrapper: nn.Module, example: Example) -> int:
    """A batch size that equals no other size, so that no comparison mistakes one for the other."""
    taken = {size for p in wrapper.parameters() for size in p.shape}
    taken |= {size for leaf in example.leaves for size in leaf.shape[1:]}
    return next(p for p in (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61) if p not in taken)


def _export_once(wrapper: LossOf, example: Example, dynamic: bool) -> ExportedProgram:
    arguments = (example.input, example.target)
    shapes = None
    if dynamic:
        shapes = pytree.tree_map(lambda leaf: {0: Dim.AUTO} if example.has_batch_axis(leaf) else None, arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(wrapper, arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # the user's own forward runs here: whatever it raises is reported with its place
        if "more than 1 value per channel" in str(error):
            raise InputError(_single_element(error, wrapper.model)) from error
        raise CaptureError(_explain(error)) from error


def _decompose(program: ExportedProgram, keep: Collection[torch._ops.OpOverload]) -> ExportedProgram:
    """Functional ATen operations only, those of `keep` left whole."""
    table = torch.export.default_decompositions()
    for overload in keep:
        table.pop(overload, None)
    make_functional(program.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return program.run_decompositions(table)


def _explain(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
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


def _single_element(error: Exception, model: nn.Module) -> str:
    """Which BatchNorm refused a batch with one element per channel."""
    names = {id(module): name for name, module in model.named_modules()}
    owners = [names.get(id(frame.f_locals.get("self"))) for frame, _ in traceback.walk_tb(error.__traceback__)]
    name = next((name for name in reversed(owners) if name is not None), "")
    return (
        f"the BatchNorm in module '{name}' has a single element per channel: its variance is zero and nothing can be "
        "learned from it. Use a batch of at least 2."
    )


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    return filename.startswith("<") or "torch" in parts or Path(filename).name in ("capture.py", "contextlib.py")


def _is_dynamic(program: ExportedProgram) -> bool:
    return any(
        isinstance(size, torch.SymInt)
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)
        for size in node.meta["val"].shape
    )


# Random numbers ----------------------------------------------------------------------------------------------


def random_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The calls that draw random numbers."""
    return [node for node in graph.nodes if node.op == "call_function" and _draws(node)]


def _draws(node: fx.Node) -> bool:
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in op.tags:
        return False
    arguments = _named_arguments(node)
    # Dropout and RReLU outside training, attention without dropout: the random branch is not taken.
    return arguments.get("train", arguments.get("training", True)) is not False and arguments.get("dropout_p") != 0.0


def _named_arguments(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | given | dict(node.kwargs)


def _owners(
    model: nn.Module, drawing: Sequence[fx.Node], random: str, already: Sequence[str]
) -> dict[str, bool]:
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


def _loss_outputs(program: ExportedProgram) -> list[fx.Node]:
    """What the exported wrapper returns, without the buffers it updates."""
    results = program.graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    return [r for r, s in zip(results, specs, strict=True) if s.kind == OutputKind.USER_OUTPUT]  # type: ignore[arg-type,misc]


def _check_loss(program: ExportedProgram) -> None:
    """One floating-point number must come out. Asked of the training program: decomposition records a wrong shape for
    an unreduced cross entropy."""
    vals = [node.meta["val"] for node in _loss_outputs(program) if isinstance(node, fx.Node)]
    if len(vals) != 1 or vals[0].dim() != 0 or not vals[0].is_floating_point():
        found = ", ".join(f"{str(val.dtype).removeprefix('torch.')} {_shape(val)}" for val in vals) or "no tensor"
        raise CaptureError(
            f"the loss must be one floating-point number, but what came out is {found}: use a loss with reduction "
            "'mean' or 'sum'."
        )


def _shape(val: Tensor) -> str:
    return "[" + ", ".join("N" if isinstance(size, torch.SymInt) else str(size) for size in val.shape) + "]"


# Flattening --------------------------------------------------------------------------------------------------


def _flatten(program: ExportedProgram, model: nn.Module, loss: nn.Module | None) -> tuple[fx.Graph, list[Input]]:
    """The program's graph with one output, the loss, and what each placeholder is."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.graph, copied)
    outputs = _loss_outputs(program)
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
    for node, spec in zip([n for n in graph.nodes if n.op == "placeholder"], program.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            root, path = next(user_names)
            entry = Input(".".join([root, *map(str, path)]), root, path=path)
        elif spec.kind == InputKind.PARAMETER:
            tensor = program.state_dict[spec.target]
            own = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            entry = Input(names.get(id(own), f"loss.{spec.target}"), "parameter", own)
        else:
            name = str(spec.target).removeprefix(f"{MODEL}.")
            found = program.state_dict.get(spec.target)
            found = program.constants[spec.target] if found is None else found  # type: ignore[index]
            entry = Input(name, "buffer" if spec.kind == InputKind.BUFFER else "constant", found)
        if entry.name in first:  # a shared tensor: one placeholder serves every use
            node.replace_all_uses_with(first[entry.name])
            graph.erase_node(node)
            continue
        first[entry.name] = node
        inputs.append(entry)
    return inputs


def _parameter_names(model: nn.Module) -> dict[int, str]:
    """First name of every parameter by identity."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _user_paths(program: ExportedProgram) -> list[tuple[Literal["input", "target"], tuple[int | str, ...]]]:
    """Root argument and path inside it of every user placeholder, in order."""
    args, _ = program.example_inputs  # type: ignore[misc]
    found: list[tuple[Literal["input", "target"], tuple[int | str, ...]]] = []
    roots: tuple[Literal["input", "target"], ...] = ("input", "target")
    for root, value in zip(roots, args, strict=True):
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            found.append((root, tuple(getattr(key, "idx", getattr(key, "key", key)) for key in path)))
    return found


# Provenance --------------------------------------------------------------------------------------------------


def _stack(node: fx.Node) -> list[str]:
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def in_loss(node: fx.Node) -> bool:
    """Whether the node ran outside the user's model."""
    return node.op == "call_function" and not any(p == MODEL or p.startswith(f"{MODEL}.") for p in _stack(node))


def module_path(node: fx.Node) -> str | None:
    """Path, in the user's model, of the innermost module the node ran in; `None` outside the model."""
    paths = [p for p in _stack(node) if p == MODEL or p.startswith(f"{MODEL}.")]
    return paths[-1].removeprefix(MODEL).removeprefix(".").split("@")[0] if paths else None


def source_line(node: fx.Node) -> str:
    """`file:line` of the user's code that made the node; empty where it is not known."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    found = [line for line in lines if line.startswith("File ")]
    own = [line for line in found if not _is_library(line.split('"')[1])] or found
    if not own:
        return ""
    _, filename, rest = own[-1].split('"', 2)
    number = rest.split("line ")[1].split(",")[0]
    return f"{filename}:{number}"
