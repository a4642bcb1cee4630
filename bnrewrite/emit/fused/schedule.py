"""Groups of a graph in an order in which each is computed whole, after all that it reads."""

from __future__ import annotations

import heapq

import networkx
from torch import fx


def acyclic(graph: fx.Graph, groups: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """The groups without the smaller ones of those that wait for each other."""
    while True:
        number = {node: i for i, group in enumerate(groups) for node in group}
        waits = networkx.DiGraph()
        for node in graph.nodes:
            end = number.get(node, node)
            waits.add_edges_from(
                (start, end) for s in node.all_input_nodes if (start := number.get(s, s)) != end
            )
        circles = [c for c in networkx.strongly_connected_components(waits) if len(c) > 1]
        if not circles:
            return groups
        wrong = {
            min((i for i in circle if isinstance(i, int)), key=lambda i: len(groups[i])) for circle in circles
        }
        groups = [group for i, group in enumerate(groups) if i not in wrong]


def scheduled(graph: fx.Graph, groups: list[list[fx.Node]]) -> list[fx.Node | list[fx.Node]]:
    """Nodes and groups in an order in which each comes after what it reads, as near to the graph's own as can be."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    unit: dict[fx.Node, int] = {}
    units: list[fx.Node | list[fx.Node]] = []
    for group in groups:
        unit.update(dict.fromkeys(group, len(units)))
        units.append(group)
    for node in graph.nodes:
        if node not in unit:
            unit[node] = len(units)
            units.append(node)
    members = [[u] if isinstance(u, fx.Node) else u for u in units]
    waits = [
        {unit[source] for node in nodes for source in node.all_input_nodes} - {i}
        for i, nodes in enumerate(members)
    ]
    readers: list[list[int]] = [[] for _ in units]
    for i, sources in enumerate(waits):
        for source in sources:
            readers[source].append(i)
    left = [len(sources) for sources in waits]
    last = [max(place[node] for node in nodes) for nodes in members]
    ready = [(last[i], i) for i in range(len(units)) if not left[i]]
    heapq.heapify(ready)
    found = []
    while ready:
        _, i = heapq.heappop(ready)
        found.append(units[i])
        for reader in readers[i]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, (last[reader], reader))
    assert len(found) == len(units), "a group waits for itself"
    return found
