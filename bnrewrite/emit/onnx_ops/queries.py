"""What a lowering asks about the graph around it: which values never change, and which results anybody reads."""

from __future__ import annotations

import operator

from torch import fx

from ..builder import Builder


def is_constant(b: Builder, x: str) -> bool:
    """Whether `x` depends on initializers only, so that a runtime computes it once, when it loads the model."""
    initializers = {tensor.name for tensor in b.initializers}
    seen: set[str] = {""}
    todo = [x]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        node = b.producer(name)
        if node is not None:
            todo.extend(node.input)
        elif name not in initializers:
            return False
    return True


def is_read(node: fx.Node, index: int) -> bool:
    """Whether anybody reads output `index` of `node`."""
    return any(
        user.target is not operator.getitem or (user.args[1] == index and user.users) for user in node.users
    )
