"""A module of a captured model: holds the parameters of its name, and its mode decides on what is computed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

FLAGS = ("train", "training")
PROBABILITY = "dropout_p"


class Part(nn.Module):
    """Runs single operations in the name of one module, so that whoever traces it sees where they belong."""

    draws = False
    """Whether it draws random numbers while it trains."""

    def forward(self, op: torch._ops.OpOverload, switched: bool, *args: Any, **kwargs: Any) -> Any:
        """`op(*args, **kwargs)`; where it is `switched`, `training` of this module is its training flag."""
        if not switched:
            return op(*args, **kwargs)
        flag, probability = _position(op, FLAGS), _position(op, (PROBABILITY,))
        if flag is not None:
            args = (*args[:flag], self.training, *args[flag + 1 :])
        elif not self.training and probability is not None:
            args, kwargs = args[:probability], {**kwargs, **_named(op, args, probability), PROBABILITY: 0.0}
        if op is torch.ops.aten.native_dropout.default and not self.training:
            return args[0], torch.ones_like(args[0], dtype=torch.bool)
        return op(*args, **kwargs)


def flag_of(op: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool | None:
    """Whether this call trains, where the operation can do both; `None` where that makes no difference or is no
    constant."""
    flag, probability = _position(op, FLAGS), _position(op, (PROBABILITY,))
    if flag is not None and flag < len(args):
        return args[flag] if isinstance(args[flag], bool) else None
    given = kwargs.get(PROBABILITY, 0.0)
    if probability is not None and probability < len(args):
        given = args[probability]
    return True if isinstance(given, float) and given > 0 else None


def _named(op: torch._ops.OpOverload, args: Sequence[Any], start: int) -> dict[str, Any]:
    """The positional arguments from `start` on, by name."""
    return {op._schema.arguments[i].name: args[i] for i in range(start, len(args))}


def _position(op: torch._ops.OpOverload, names: Sequence[str]) -> int | None:
    return next((i for i, a in enumerate(op._schema.arguments) if a.name in names), None)


def part_at(root: nn.Module, path: str) -> Part | None:
    """The part at `path`, made where nothing stands there; `None` where something else does."""
    module = root
    for name in path.split(".") if path else ():
        if name not in module._modules:
            if hasattr(module, name) or (not name.isidentifier() and not name.isdigit()):
                return None
            module.add_module(name, Part().train(module.training))
        child = module._modules[name]
        if child is None:
            return None
        module = child
    return module if isinstance(module, Part) else None


def free_name(root: nn.Module, wish: str) -> str:
    """`wish`, or `wish_1`, ...: an attribute that `root` does not have."""
    number = 0
    while hasattr(root, wish if not number else f"{wish}_{number}"):
        number += 1
    return wish if not number else f"{wish}_{number}"


class Flags:
    """Gives every call with a constant training flag a part whose mode is that flag."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._set: dict[str, bool] = {}

    def place(self, op: torch._ops.OpOverload, path: str, flag: bool) -> str:
        """Path of the part that decides on this call: `path`, or a new one where that one is no part or decides
        otherwise already."""
        part = part_at(self.root, path) if path else None
        if part is None or self._set.get(path, flag) != flag:
            path = free_name(self.root, op._schema.name.removeprefix("aten::").lstrip("_"))
            part = part_at(self.root, path)
        assert part is not None
        part.training = self._set[path] = flag
        part.draws = part.draws or torch.Tag.nondeterministic_seeded in op.tags
        return path
