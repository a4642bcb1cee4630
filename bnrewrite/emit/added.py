"""Additions of two terms that one function can add up."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import fx


def added(graph: fx.Graph, terms: Container[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """Every sum of two of `terms` that nothing else reads, with these. A sum that becomes one of `terms` on the way is
    a term of a later sum."""
    for node in graph.nodes:
        if node.target is not torch.ops.aten.add.Tensor or node.kwargs or len(node.args) > 2:
            continue
        a, b = node.args
        are_terms = (
            isinstance(a, fx.Node) and isinstance(b, fx.Node) and a is not b and a in terms and b in terms
        )
        if are_terms and len(a.users) == len(b.users) == 1:
            yield node, a, b
