"""The two graphs that the passes work on, and what belongs to each of their inputs.

A `CapturedGraph` computes the loss of a model; a `JointGraph` computes loss, gradient and products. Both are flat:
every parameter, buffer, constant, model input, target and direction is a placeholder, and every call is an ATen
overload (or Python arithmetic on symbolic sizes). Every node carries `meta["val"]`, a FakeTensor (or SymInt) whose
batch axis is symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal

import torch
from torch import fx

InputKind = Literal["parameter", "buffer", "constant", "input", "target", "vector"]


@dataclass(frozen=True)
class Input:
    """One placeholder: the name a user knows it by, what it is, and its tensor where the model owns one."""

    name: str
    kind: InputKind
    tensor: torch.Tensor | None = None
    path: tuple[int | str, ...] = ()
    """Keys that lead from the caller's argument to this tensor, where the argument is a tuple or a dict."""

    @property
    def owned(self) -> bool:
        """Whether the model holds this value (parameter, buffer, constant) rather than the caller."""
        return self.kind in ("parameter", "buffer", "constant")

    @property
    def requires_grad(self) -> bool:
        """Whether the model trains this value."""
        return self.tensor is not None and self.tensor.requires_grad


@dataclass
class JointGraph:
    """Loss, gradient and products as one flat graph.

    `graph`: placeholders in the order of `inputs`; one output node whose arguments are in the order of `outputs`.
    `outputs`: `"loss"`, `"grad.<parameter>"`, `"hvp.<parameter>"`, `"ggn.<parameter>"`, `"residual.<parameter>"`; of
    the first part of a linearized graph also `"residual.<i>"`, the tensors saved for the second (see `is_saved`).
    A graph of the model without its loss has `"output"` and `"pullback.<parameter>"` instead.
    A node that belongs to a spliced site has `meta["site"]` (module path) and `meta["role"]` (`y`, `y_dot`, `x_bar`,
    `x_bar_dot`, ...).
    """

    graph: fx.Graph
    inputs: list[Input]
    outputs: list[str]
    meta: dict[str, object] = field(default_factory=dict)


@dataclass
class CapturedGraph:
    """The loss of a model as one flat functional graph.

    `graph`: placeholders in the order of `inputs`; one output node with the scalar loss. Of every node,
    `meta["module"]` is the path of the module it ran in, `meta["where"]` the user's source line, `meta["in_loss"]`
    whether it belongs to the loss rather than the model. A `meta["site"]` is the module path of a BatchNorm.
    """

    graph: fx.Graph
    inputs: list[Input]
    meta: dict[str, object] = field(default_factory=dict)


def is_saved(output: str) -> bool:
    """Whether an output is a tensor that the first part of a linearized graph saves (`residual.<i>`); what has the name
    of a parameter behind it is the product R v."""
    kind, _, name = output.partition(".")
    return kind == "residual" and name.isdecimal()


def val(node: Any) -> Any:
    """The traced value of `node`: a tensor with symbolic sizes, or a size."""
    return node.meta.get("val")


def whole(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function`, of tensors and lists of them, as one node of a graph: FX traces a pickled GraphModule again, and
    would look inside."""

    @wraps(function)
    def node(*args: Any) -> Any:
        for arg in args:
            for leaf in arg if isinstance(arg, list) else (arg,):
                if isinstance(leaf, fx.Proxy):
                    return leaf.tracer.create_proxy("call_function", node, args, {})
        return function(*args)

    return node


def place(node: fx.Node) -> str:
    """Where a node comes from, for messages: module path and source line, as far as they are known."""
    module, line = node.meta.get("module") or "", node.meta.get("where") or ""
    named = f"module '{module}'" if module else "the model's own forward"
    return f"{named} ({line})" if line else named
