"""A model and its loss on one batch: the output z = f(w), the loss as a function of z, and J^T u for cotangents u of z.

    grad = J^T dl/dz        G = J^T H_L J,  H_L = d2l/dz2

One graph holds the model, forward once and then back for as many cotangents as wanted; another holds the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .. import losses
from ..capture import example_of
from ..compiler import captured_of, classes_of, door_check, linearized, rule_of
from ..emit.directions import build_apply_directions
from ..emit.graph_module import build
from ..emit.linearized import build_output
from ..errors import CaptureError, InputError
from ..options import Options
from ..passes.differentiate import active_nodes, differentiate, pull_back
from ..passes.graph import CapturedGraph, JointGraph
from ..passes.simplify import SIMPLIFY
from ..passes.split import OUTPUT, model_outputs, split
from ..sources import Model, as_module

Parts = dict[str, Tensor]
Cotangents = Callable[[int, int], Tensor]
"""(start, stop) -> cotangents start to stop, (stop - start, *z.shape)."""

BLOCK_BYTES = 1 << 28
"""What the results of one block of cotangents may take where the caller names no size."""
MOST_AT_ONCE = 64


class Pullback:
    """`output`: z; `slope`: dl/dz; `shapes`, `dtypes`: of what is differentiated by; `sites`: the BatchNorms.

    The loss is taken in float64, as z may be close to its target, and so is `slope`. `exact_target`: the target in that
    type; `criterion`: the loss as a module.
    """

    def __init__(self, model: Model, data: tuple[Any, Any], options: Options) -> None:
        module, criterion = as_module(model), losses.resolve(options.loss)
        assert criterion is not None
        example = example_of(data)
        losses.check_target(criterion, example.target)
        captured, names = captured_of(module, data, as_module(criterion), options)
        of_model, of_loss = split(captured, _output(captured, names))
        self.sites: list[dict[str, Any]] = captured.meta["sites"]  # type: ignore[assignment]
        tensors = {entry.name: node.meta["val"] for node, entry in _inputs(of_model)}
        self.shapes: dict[str, torch.Size] = {name: torch.Size(tensors[name].shape) for name in names}
        self.dtypes: dict[str, torch.dtype] = {name: tensors[name].dtype for name in names}

        joint = _described(pull_back(of_model, rule_of, names), captured)
        self._parts = linearized(joint, "most")
        self._built: dict[int, fx.GraphModule] = {}
        input, target = detached(data)
        found = build_output(self._parts.primal, door_check(joint))(input, target)
        self.output: Tensor = found[0]
        self._residuals: tuple[Tensor, ...] = found[1]

        joint = _described(differentiate(of_loss, rule_of, [OUTPUT], ("hvp",)), captured)
        self._loss = copy.deepcopy(build(joint, door_check(joint))).double()
        self.criterion: nn.Module = copy.deepcopy(criterion).double()
        self.exact_target: Any = pytree.tree_map(_double, target)
        self.slope: Tensor = self._evaluated(torch.zeros_like(self.output))[0]

    def loss_hessian(self, u: Tensor) -> Tensor:
        """H_L u in float64 for u of the shape of z."""
        return self._evaluated(u)[1]

    def _evaluated(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """dl/dz and H_L u."""
        _, slope, product = self._loss(self.output.double(), self.exact_target, {OUTPUT: u.double()})
        return slope[OUTPUT], product[OUTPUT]

    @property
    def size(self) -> int:
        """D, the number of entries that are differentiated by."""
        return sum(shape.numel() for shape in self.shapes.values())

    def blocks(
        self, cotangents: Cotangents, count: int, block: int | None = None
    ) -> Iterator[tuple[range, Parts]]:
        """J^T u for `count` cotangents: their numbers, and {name: (K, *shape)}, `block` at a time."""
        size = at_once(max(self.size, self.output.numel()), count, block)
        if count == 0:
            return
        apply = self._apply(size)
        for start in range(0, count, size):
            stop = min(start + size, count)
            u = cotangents(start, stop).to(self.output.dtype)
            if stop - start < size:  # the others of the last call are zero
                u = torch.cat([u, u.new_zeros(size - len(u), *u.shape[1:])])
            found = apply(self._residuals, {OUTPUT: u})
            yield range(start, stop), {name: part[: stop - start] for name, part in found.items()}

    def _apply(self, size: int) -> fx.GraphModule:
        if size not in self._built:
            self._built[size] = apply_for(self._parts.apply, size)
        return self._built[size]


def _described(joint: JointGraph, captured: CapturedGraph) -> JointGraph:
    """A lean joint graph whose one vector is of the model's output, with the metadata that emitters read."""
    SIMPLIFY.run(joint.graph, "joint-")
    shape = next(node.meta["val"].shape for node, entry in _inputs(joint) if entry.kind == "vector")
    joint.meta |= {"parameters": {OUTPUT: list(shape)}, "vectors": None, "classes": classes_of(captured)}
    return joint


def batch_options(loss: losses.Loss, bn: Any, wrt: Any, random: Any) -> Options:
    """For a graph that serves one batch."""
    if loss is None:
        raise InputError(
            "this needs to know where the model ends and the loss begins: pass the loss rather than loss=None."
        )
    return Options(loss, bn, wrt, ("ggn",), None, random, dynamic_batch=False)


def detached(data: tuple[Any, Any]) -> Any:
    """The batch, which autograd need not follow."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, data)


def at_once(size: int, count: int, block: int | None) -> int:
    """How many of `count` directions to take at a time, where each gives `size` numbers: `block`, or a power of two,
    which the graph for several directions divides evenly."""
    if block is not None:
        if type(block) is not int or block < 1:
            raise InputError(f"block must be None or a whole number of at least 1, not {block!r}.")
        return min(block, count)
    fitting = BLOCK_BYTES // (8 * max(size, 1))
    return 1 << (max(1, min(count, fitting, MOST_AT_ONCE)).bit_length() - 1)


def apply_for(apply: JointGraph, count: int) -> fx.GraphModule:
    """`apply(residuals, v)` for `count` directions at a time, from the second part of a linearized graph of one."""
    several = replace(apply, meta=apply.meta | {"vectors": count})
    return build_apply_directions(several, door_check(several))


def _output(captured: CapturedGraph, names: list[str]) -> fx.Node:
    """The one tensor that the loss reads of the model."""
    found = model_outputs(captured)
    by_name = {entry.name: node for node, entry in _inputs(captured)}
    active = active_nodes(captured.graph, [by_name[name] for name in names])
    if not active.intersection(found):
        raise InputError("the loss does not depend on what to differentiate by: choose other parameters.")
    if len(found) > 1:
        raise CaptureError(
            f"the loss reads {len(found)} values of the model ({', '.join(node.name for node in found)}): "
            "this needs a model that hands one tensor to its loss."
        )
    return found[0]


def _inputs(graph: CapturedGraph | JointGraph) -> Iterator[tuple[fx.Node, Any]]:
    placeholders = (node for node in graph.graph.nodes if node.op == "placeholder")
    return zip(placeholders, graph.inputs, strict=True)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
