"""The compiler: a model and a loss in, one graph of loss, gradient and curvature products out.

model, loss  --capture-->  captured graph  --differentiate-->  joint graph  --simplify-->  lean joint graph
             --emit-->     torch.fx.GraphModule | ONNX file
             --linearize-->  primal | apply  --emit-->  two of either
"""

from __future__ import annotations

import gc
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from . import __version__, losses
from .capture import capture, example_of
from .emit.directions import build_apply_directions, build_directions
from .emit.graph_module import CheckCall, build
from .emit.lazy import PendingModule
from .emit.linearized import build_apply, build_primal
from .errors import InputError, UnsupportedOp
from .losses import Loss
from .options import Options, check_choice, check_memory
from .passes.block import block
from .passes.constants import fold_constants
from .passes.differentiate import differentiate
from .passes.fixed_sizes import fixing_node
from .passes.graph import CapturedGraph, JointGraph, place
from .passes.linearize import Linearized, Memory
from .passes.linearize import linearize as cut
from .passes.rule import Rule
from .passes.simplify import SIMPLIFY
from .rules.derived import Derived
from .rules.table import RULES
from .sources import Model, as_module


def transform(
    model: Model,
    example_inputs: tuple[Any, Any] | None = None,
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    products: Sequence[str] = ("hvp",),
    vectors: int | None = None,
    random: Literal["off", "error"] = "off",
    dynamic_batch: bool = True,
    fuse: bool = False,
) -> fx.GraphModule:
    """Compile `model` and `loss` into a graph of loss, gradient and curvature products.

    Parameters
    ----------
    model : the network, in any mode, as `nn.Module`, `torch.export.ExportedProgram`, TorchScript module (scripted or
        traced) or `torch.fx.GraphModule`; it is not changed.
    example_inputs : `(input, target)`. For several model inputs `input` is a tuple (`model(*input)`) or a dict
        (`model(**input)`). Only shapes and types are used. Left out, the model is captured at the first call.
    loss : `"cross_entropy"`, `"mse"`, `"bce_with_logits"`, `"nll"`, an `nn.Module`, a callable
        `(output, target) -> scalar`, or `None` where `model(input, target)` (`model(**input, target=target)` where
        `input` is a dict) returns the loss itself.
    bn : statistics of every BatchNorm: `"batch"`, `"running"`, or `None` for what each module's own mode says.
    wrt : parameters to differentiate by: names or glob patterns; `None` for all that require grad.
    products : any of `"hvp"` (H v), `"ggn"` (Gauss-Newton product G v) and `"residual"` (R v = H v - G v, the model's
        own curvature, without a difference being taken), in the order of the results.
    vectors : `None` for one direction; K for K of them: every `v[name]` and every product has a leading axis K, while
        loss and gradient are computed once.
    random : `"off"`: modules that draw random numbers act as in evaluation mode, with a warning; `"error"`: refuse.
    dynamic_batch : whether the graph serves any batch size.
    fuse : compile what stands between convolutions into C functions, and compute convolutions of 3 x 3 by Winograd's
        filtering (Lavin and Gray, 2015) and large matrix products in C, on the CPU, which takes a C compiler and some
        seconds. The graph gives the same numbers up to rounding; on another device it runs as without.

    Returns
    -------
    GraphModule `gm` with `loss, grad, *products = gm(input, target, v)`; `v`, `grad` and each product are dicts of
    tensors by parameter name. Parameters are shared with `model`. `gm.meta["bnrewrite"]` describes the graph.

    Raises
    ------
    CaptureError, InputError, UnsupportedOp : each with a sentence that says what is wrong, where, and what to do.
    """
    options = Options(loss, bn, wrt, products, vectors, random, dynamic_batch, fuse)
    if example_inputs is None:
        module = as_module(model)
        losses.resolve(loss)
        options.check_names([name for name, _ in module.named_parameters()])
        return PendingModule(module, options, _compiled)
    return _compiled(model, example_inputs, options)


def _compiled(model: Model, example_inputs: tuple[Any, Any], options: Options) -> fx.GraphModule:
    joint = compile_joint(model, example_inputs, options)
    if options.vectors is None:
        return build(joint, door_check(joint))
    return build_directions(linearized(joint, "most"), door_check(joint))


def linearize(
    model: Model,
    example_inputs: tuple[Any, Any],
    *,
    memory: Memory = None,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    products: Sequence[str] = ("hvp",),
    vectors: int | None = None,
    random: Literal["off", "error"] = "off",
    dynamic_batch: bool = True,
    fuse: bool = False,
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Compile `model` and `loss` into two graphs: what is done once for a point, and what for every direction.

    Every call of `apply` saves the forward and the backward pass, which `primal` has done. What `primal` hands on is
    decided on the graph, by a minimum cut: bytes saved against work done again in every call of `apply`. Convolutions,
    matrix products and reductions are never done again.

    Parameters
    ----------
    memory : `"least"` saves as few bytes as can be, and repeats element-wise chains for it; `"most"` repeats nothing;
        `None` weighs one against the other; a number of bytes, at the example's batch size, repeats as little as
        staying within it takes.
    model, example_inputs, loss, bn, wrt, products, vectors, random, dynamic_batch, fuse : as for `transform`.

    Returns
    -------
    GraphModules `primal, apply`: `loss, grad, residuals = primal(input, target)`, `hvp = apply(residuals, v)`; with
    several products `apply` returns a tuple of dicts, in the order of `products`. `residuals` is a tuple of tensors,
    some of which may be `input` or `target` themselves. Parameters of both are shared with `model`: after a step of an
    optimizer call `primal` again. `meta["bnrewrite"]` of both says `part`, `residuals` (type and shape of each) and
    `residual_bytes`, at the example's batch size.

    Raises
    ------
    CaptureError, InputError, UnsupportedOp : as `transform`; `InputError` also where `memory` is less than it takes.
    """
    check_memory(memory)
    joint = compile_joint(
        model, example_inputs, Options(loss, bn, wrt, products, vectors, random, dynamic_batch, fuse)
    )
    parts = linearized(joint, memory)
    check = door_check(joint)
    apply = build_apply(parts.apply, check) if vectors is None else build_apply_directions(parts.apply, check)
    return build_primal(parts.primal, check), apply


def linearized(joint: JointGraph, memory: Memory) -> Linearized:
    """The two parts of the joint graph, which say of themselves what they are."""
    parts = cut(joint, joint.meta["batch"], memory)  # type: ignore[arg-type]
    placeholders = (node for node in parts.apply.graph.nodes if node.op == "placeholder")
    residuals = [
        _described(node.meta["val"])
        for node, entry in zip(placeholders, parts.apply.inputs, strict=True)
        if entry.kind == "input"
    ]
    common = {"residuals": residuals, "residual_bytes": parts.residual_bytes}
    parts.primal.meta |= {"part": "primal", **common}
    parts.apply.meta |= {"part": "apply", **common}
    return parts


def _described(val: torch.Tensor) -> list[Any]:
    """[type, shape]; a size that depends on the batch is an expression of "N"."""
    sizes = [size if isinstance(size, int) else _in_letters(size) for size in val.shape]
    return [str(val.dtype).removeprefix("torch."), sizes]


def _in_letters(size: torch.SymInt) -> str:
    expression = size.node.expr
    letters = "|".join(map(str, expression.free_symbols))
    return re.sub(rf"\b({letters})\b", "N", str(expression))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles: it looks at every node of the growing graphs again and again (a fifth of the
    time of DenseNet-121) and finds next to nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def compile_joint(model: Model, example_inputs: tuple[Any, Any], options: Options) -> JointGraph:
    """The lean joint graph of one direction that every emitter starts from."""
    model = as_module(model)
    criterion = losses.resolve(options.loss)
    criterion = None if criterion is None else as_module(criterion)
    losses.check_target(criterion, example_of(example_inputs).target)
    try:
        captured, joint = _differentiated(model, example_inputs, criterion, options)
        fixing = fixing_node(joint.graph) if captured.meta["dynamic_batch"] else None
        reason = fixing and f"{_named(fixing)} reads it as a number."
    except UnsupportedOp as error:
        if not options.dynamic_batch:
            raise
        reason = str(error)
    if reason:
        fixed = replace(options, dynamic_batch=False)
        captured, joint = _differentiated(model, example_inputs, criterion, fixed)
        warnings.warn(
            f"the graph serves batch size {captured.meta['batch']} only: {reason} "
            "Pass dynamic_batch=False to say that this is wanted.",
            stacklevel=4,
        )
    parameters = {
        entry.name.removeprefix("v."): _shape_of(joint, entry.name)
        for entry in joint.inputs
        if entry.kind == "vector"
    }
    joint.meta |= {
        "version": __version__,
        "loss": losses.describe(options.loss),
        "bn": options.bn,
        "products": list(options.products),
        "vectors": options.vectors,
        "parameters": parameters,
        "classes": classes_of(captured),
    }
    if options.fuse:
        joint.meta["fuse"] = True
    door_check(joint).check_target(example_of(example_inputs).target)
    return joint


def compile_blocked(model: Model, example_inputs: tuple[Any, Any], options: Options) -> JointGraph:
    """The same with every operation over all directions at once, where there are several; for files."""
    if options.fuse:
        raise InputError(
            "fuse=True is for the GraphModules of transform and linearize: a file holds no C functions."
        )
    joint = compile_joint(model, example_inputs, options)
    if options.vectors is not None:
        joint = block(joint, options.vectors)
        SIMPLIFY.run(joint.graph, "block-")
    return joint


def _differentiated(
    model: nn.Module, example_inputs: tuple[Any, Any], criterion: nn.Module | None, options: Options
) -> tuple[CapturedGraph, JointGraph]:
    """The captured graph and the joint graph of one direction."""
    captured, names = captured_of(model, example_inputs, criterion, options)
    joint = differentiate(captured, rule_of, names, options.products)
    SIMPLIFY.run(joint.graph, "joint-")
    return captured, joint


def captured_of(
    model: nn.Module, example_inputs: tuple[Any, Any], criterion: nn.Module | None, options: Options
) -> tuple[CapturedGraph, list[str]]:
    """The captured graph, and the names of what to differentiate by."""
    captured = capture(
        model,
        example_inputs,
        criterion,
        keep=RULES.keys(),
        bn=options.bn,
        random=options.random,
        dynamic_batch=options.dynamic_batch,
    )
    return captured, options.select(captured.inputs, [name for name, _ in model.named_parameters()])


def _named(fixing: fx.Node) -> str:
    return "an operation" if fixing.op == "placeholder" else f"{fixing.target} in {place(fixing)}"


def rule_of(node: fx.Node) -> Rule:
    """The hand-written rule of a node, or one derived from PyTorch's own derivative."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        raise UnsupportedOp(op, place(node), "Write it with PyTorch's own operations.")
    vals = pytree.tree_leaves([n.meta.get("val") for n in (node, *node.all_input_nodes)])
    if any(isinstance(val, torch.Tensor) and val.is_complex() for val in vals):
        raise UnsupportedOp(
            op, place(node), "Complex numbers have no rules here: write it with real numbers."
        )
    return RULES[op] if op in RULES else Derived(op, place(node))


def _shape_of(joint: JointGraph, name: str) -> list[Any]:
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    position = next(i for i, entry in enumerate(joint.inputs) if entry.name == name)
    shape = placeholders[position].meta["val"].shape
    return [int(size) if isinstance(size, int) else "N" for size in shape]


def classes_of(captured: CapturedGraph) -> tuple[int, int | None] | None:
    """Number of classes and ignored class, where the loss takes class indices."""
    aten = torch.ops.aten
    for node in captured.graph.nodes:
        if node.target in (
            aten.cross_entropy_loss.default,
            aten.nll_loss_nd.default,
            aten.nll_loss_forward.default,
        ):
            scores, target = node.args[:2]
            if target.meta["val"].is_floating_point():
                return None
            shape = scores.meta["val"].shape
            return int(shape[1] if len(shape) > 1 else shape[0]), node.args[4] if len(node.args) > 4 else -100
    return None


def door_check(joint: JointGraph) -> CheckCall:
    lead = [] if joint.meta["vectors"] is None else [joint.meta["vectors"]]
    shapes = {name: [*lead, *shape] for name, shape in joint.meta["parameters"].items()}  # type: ignore[attr-defined]
    sites: list[dict[str, Any]] = joint.meta["sites"]  # type: ignore[assignment]
    single = {s["module"]: 2 for s in sites if s["statistics"] == "batch" and s["per_sample"] == 1}
    return CheckCall(shapes, single, joint.meta["classes"], _batch(joint))  # type: ignore[arg-type]


def _batch(joint: JointGraph) -> tuple[int | str, ...] | None:
    """Where a call shows its batch size: the first input, or else target, with a symbolic first axis."""
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    for kind in ("input", "target"):
        for node, entry in zip(placeholders, joint.inputs, strict=True):
            val = node.meta["val"]
            if entry.kind == kind and val.dim() > 0 and isinstance(val.shape[0], torch.SymInt):
                return (kind, *entry.path)
    return None


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, Any],
    *,
    opset: int = 18,
    params: Literal["initializers", "inputs"] = "initializers",
    linearize: bool = False,
    memory: Memory = None,
    **options: Any,
) -> list[Path]:
    """Write loss, gradient and products of `model` as one self-contained ONNX file, or as two; returns their paths.

    `options` are those of `transform`. Inputs are `input`, `target` and `v.<parameter>`; outputs `loss`,
    `grad.<parameter>`, `hvp.<parameter>`, `ggn.<parameter>`, `residual.<parameter>`; parameters are initializers under
    their own names, or graph inputs with `params="inputs"`. The batch axis is symbolic (`N`). Only standard operators
    of `opset` are used.

    With `linearize=True`, `curvature.onnx` becomes `curvature.primal.onnx` (from `input` and `target` to `loss`,
    `grad.*` and `residual.<i>`) and `curvature.apply.onnx` (from `residual.<i>` and `v.*` to the products); a number
    behind `residual.` is a tensor handed over, a parameter's name the product R v. `memory` is that of `linearize`. The
    metadata of both name the `part` and the `pair` that they belong to.
    Files appear whole or not at all.
    """
    from .emit.onnx import lower
    from .emit.onnx_file import fingerprint, pair_paths, save, save_all

    check_choice("params", params, ("initializers", "inputs"))
    check_memory(memory)
    if memory is not None and not linearize:
        raise InputError("memory= says what is saved between primal and apply: pass linearize=True too.")
    joint = compile_blocked(model, example_inputs, Options(**options))
    fold_constants(joint)
    if not linearize:
        save(lower(joint, opset=opset, params=params, metadata=_metadata(joint)), path)
        return [Path(path)]
    parts = linearized(joint, memory)
    protos = [lower(part, opset=opset, params=params) for part in (parts.primal, parts.apply)]
    pair = fingerprint(protos)
    for proto, part in zip(protos, (parts.primal, parts.apply), strict=True):
        part.meta["pair"] = pair
        proto.metadata_props.add(key="bnrewrite", value=_metadata(part)["bnrewrite"])
    files = pair_paths(path)
    save_all(dict(zip(files, protos, strict=True)))
    return list(files)


def _metadata(joint: JointGraph) -> dict[str, str]:
    return {"bnrewrite": json.dumps(joint.meta)}


def export_torchscript(
    model: Model, path: str | os.PathLike[str], example_inputs: tuple[Any, Any], **options: Any
) -> None:
    """Write loss, gradient and products of `model` as a TorchScript file, for libtorch and `torch.jit.load`.

    `options` are those of `transform`. `forward(input, target, v: Dict[str, Tensor])` returns
    `(loss, grad, *products)`, dicts of tensors by parameter name but for the loss; `input` is a tensor, or typed as the
    example nests it. Parameters keep their names in the state dict. The extra file `bnrewrite` holds the metadata as
    JSON. Raises `UnsupportedOp` and `InputError` for what TorchScript cannot express.
    The file appears whole or not at all.
    """
    from .emit.torchscript import save, script

    joint = compile_blocked(model, example_inputs, Options(**options))
    check = door_check(joint)
    scripted = script(build(joint, check), joint, check, (example_inputs[0], example_inputs[1]))
    save(scripted, path, {"bnrewrite": json.dumps(_description(joint))})


def export_pt2(
    model: Model, path: str | os.PathLike[str], example_inputs: tuple[Any, Any], **options: Any
) -> None:
    """Write loss, gradient and products of `model` as a `torch.export` archive.

    `options` are those of `transform`. `torch.export.load(path).module()(input, target, v)` returns
    `(loss, grad, *products)`, dicts of tensors by parameter name but for the loss; the batch axis is dynamic (at least
    2). Parameters keep their names in the state dict. The extra file `bnrewrite` holds the metadata as JSON.
    The file appears whole or not at all.
    """
    from .emit.pt2 import program, save

    joint = compile_blocked(model, example_inputs, Options(**options))
    example = example_of(example_inputs)
    if joint.meta["dynamic_batch"]:
        example = example.distinct(entry.tensor for entry in joint.inputs if entry.tensor is not None)
    exported = program(build(joint, door_check(joint)), joint, (example.input, example.target))
    save(exported, path, {"bnrewrite": json.dumps(_description(joint))})


def _description(joint: JointGraph) -> dict[str, Any]:
    """What a file that only PyTorch can read says of itself: the metadata, type and operations of the graph."""
    calls = [node for node in joint.graph.nodes if node.op == "call_function"]
    placeholders = (node for node in joint.graph.nodes if node.op == "placeholder")
    vals = [n.meta["val"] for n, e in zip(placeholders, joint.inputs, strict=True) if e.kind == "vector"]
    return joint.meta | {
        "dtype": str(vals[0].dtype).removeprefix("torch."),
        "nodes": dict(Counter(getattr(n.target, "__name__", str(n.target)) for n in calls).most_common()),
    }
