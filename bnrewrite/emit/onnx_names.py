"""Names for the nodes and values of an ONNX file, from module paths and quantities."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx

from .builder import Builder


class Names:
    """What the nodes and values of the file are called, and whose they are.

    A quantity is (module path, captured node, letter); the captured node is said only where a module has several.
    """

    def __init__(self, graph: fx.Graph) -> None:
        quantities = {node.meta["quantity"][:2] for node in graph.nodes if "quantity" in node.meta}
        self._operations = Counter(module for module, _ in quantities)

    def quantity(self, node: fx.Node) -> str:
        """`<module path>.<letter>`, or nothing where `node` is only a step on the way to a quantity."""
        if "quantity" not in node.meta:
            return ""
        module, source, letter = node.meta["quantity"]
        parts = [module, letter] if self._operations[module] == 1 else [module, source, letter]
        return ".".join(part for part in parts if part)

    def prefix(self, node: fx.Node) -> str:
        """The beginning of the names of all nodes that `node` becomes."""
        site, module = node.meta.get("site"), node.meta.get("module")
        if site is not None:
            return ".".join(part for part in (site, node.meta.get("role") or node.name) if part)
        return self.quantity(node) or (f"{module}.{node.name}" if module else node.name)

    def metadata(self, node: fx.Node) -> dict[str, str]:
        """What the nodes of a spliced site say about themselves."""
        site, role = node.meta.get("site"), node.meta.get("role")
        return {
            f"bnrewrite.{key}": str(text)
            for key, text in (("site", site), ("role", role))
            if text is not None
        }

    def of_values(self, b: Builder, env: dict[fx.Node, Any]) -> dict[str, str]:
        """{value: the quantity that it is}, for values that a node of the file computes."""
        found: dict[str, str] = {}
        for node, value in env.items():
            name = self.quantity(node)
            if name and type(value) is str and b.producer(value) is not None and value not in found:
                found[value] = b.unique(name)
        return found
