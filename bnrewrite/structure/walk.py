"""One walk over the captured graph: every operation is run on a few samples and asked what its result depends on.

Each operation is judged by itself: its operands' elements belong to samples, and the question is whether an element of
the result depends on more than one of them. Where it does, the operation mixes, and the result's elements are given
to samples again by their place, so that what comes after it is judged on its own. At the border between model and loss
the elements of the model's outputs belong to the components F_n by their place.

The same run is made a second time with the samples in another order. Where an operation that keeps samples apart does
not give the same in that order, it does not do the same to each of them.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..errors import CaptureError, UnsupportedOp
from ..passes.graph import place
from .aggregates import Aggregate, reduces_linearly, stays_linear
from .alike import size_of, treats_alike
from .axes import LOSSES, REDUCTIONS, ROW_LOSSES, parts_of_loss
from .layout import by_place, describe, in_order, pattern
from .running import evaluate, runnable
from .seen import Judged, Kind, Seen
from .spans import Call, Operand, Span, name_of
from .table import CREATE, Decided, depends

READ = frozenset({"item", "_local_scalar_dense"})
"""Operations that make a plain number of a tensor, whose dependence cannot be followed: it is taken to be of all."""


@dataclass
class Walk:
    """The walk itself. `order`: the other order of the samples; `samples`: N."""

    samples: int
    order: Tensor
    in_loss: frozenset[fx.Node]
    grows: bool
    """Whether the graph serves any batch size."""
    env: dict[fx.Node, Any] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)
    fed_back: set[fx.Node] = field(default_factory=set)
    """Reductions whose result enters single samples again, or leaves the model."""
    displaced: set[fx.Node] = field(default_factory=set)
    """Operations that moved samples, and these were not put back before others or the loss met them."""
    in_place: bool = True
    """Whether every component of the model's outputs is where its sample is."""
    components: dict[fx.Node, Any] = field(default_factory=dict)

    def run(self, graph: fx.Graph, inputs: dict[fx.Node, Seen]) -> Seen:
        """Judge every operation of `graph`; returns what is known of the loss."""
        last_use = {source: node for node in graph.nodes for source in node.all_input_nodes}
        for node in graph.nodes:
            if node.op == "placeholder":
                self.env[node] = inputs[node]
            elif node.op == "output":
                return self.env[node.args[0]]
            else:
                self.env[node] = self._step(node)
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    self.env.pop(source, None)
                    self.components.pop(source, None)
        raise AssertionError("the graph has no output")

    def _step(self, node: fx.Node) -> Any:
        if node.op != "call_function":
            raise UnsupportedOp(node.op, place(node), "Write it with PyTorch's own operations.")
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self._read(source, node))
        operands = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Seen)]
        value = self._evaluated(node, *_values((args, kwargs), "value"))
        reordered = self._evaluated(node, *_values((args, kwargs), "reordered"))
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            if name_of(node.target) in READ and any(seen.live for seen in operands):
                self.fed_back.add(node)
                self.judged.append(Judged(node, "reduces", "", "assumed"))
            return value  # arithmetic on sizes
        if node.target is operator.getitem:  # one of several results
            results, number = cast(Any, args)
            return results[number]
        return self._judge(node, args, kwargs, operands, value, reordered)

    def _evaluated(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        try:
            return evaluate(runnable(node.target), args, kwargs)
        except Exception as error:
            raise CaptureError(
                f"{node.target} in {place(node)} cannot be run on {self.samples} samples: {error}. Give an example "
                "whose values it takes."
            ) from error

    def _read(self, source: fx.Node, reader: fx.Node) -> Any:
        """What `reader` sees of `source`: across the border to the loss, components by their place."""
        if reader not in self.in_loss or source in self.in_loss:
            return self.env[source]
        if source not in self.components:
            self.components[source] = pytree.tree_map_only(
                Seen, lambda seen: self._component(source, seen), self.env[source]
            )
        return self.components[source]

    def _component(self, source: fx.Node, seen: Seen) -> Seen:
        if not seen.live:
            return seen
        self.fed_back |= seen.sources
        if not seen.owned:  # a value of no sample is no component
            return replace(seen, aggregate="nonlinear", sources=frozenset(), breaks=frozenset({source}))
        owner = by_place(seen.owner, self.samples)
        same = torch.equal(owner, seen.owner)
        self.in_place &= same
        self.displaced |= seen.moved
        alike = seen.alike and same
        return replace(
            seen, owner=owner, aggregate=None, sources=frozenset(), breaks=frozenset(), alike=alike
        )

    def _judge(
        self, node: fx.Node, args: Any, kwargs: Any, operands: list[Seen], value: Any, reordered: Any
    ) -> Any:
        made = {id(seen): Operand(seen.value, seen.owner, seen.certain) for seen in operands}
        args, kwargs = pytree.tree_map_only(Seen, lambda seen: made[id(seen)], (args, kwargs))
        call = Call(runnable(node.target), args, kwargs, value, self.samples)
        live = [seen for seen in operands if seen.live]
        spans, decided = depends(call) if any(seen.owned for seen in live) else _untouched(call)
        owners, kind = self._owners(node, call, spans, operands)
        common = self._common(node, call, operands, [made[id(seen)] for seen in live], live, kind)
        own = replace(common, aggregate=None, sources=frozenset(), breaks=frozenset())
        results = [
            replace(
                own if bool(o.any()) else common,
                value=v,
                reordered=r,
                owner=o,
                moved=frozenset() if in_order(o, self.samples) else common.moved,
            )
            for v, r, o in zip(call.results, _tensors(reordered), owners, strict=True)
        ]
        if any(seen.owned for seen in results):
            self.fed_back |= common.sources
        if kind == "mixes" and sum(seen.owned for seen in live) > 1:
            self.displaced |= common.moved
        numbers = [seen for seen in results if seen.value.is_floating_point()] or results  # and no indices
        before = bool(live) and all(seen.alike for seen in live)
        after = before and all(treats_alike(seen, self.order) for seen in numbers)
        # Where cancellation leaves rounding only (the mean of what was normalised), nothing is said of what follows.
        size = max((size_of(seen.value) for seen in live), default=0.0)
        unlike = before and not after and not all(treats_alike(seen, self.order, size) for seen in numbers)
        unlike = unlike and kind in ("apart", "reduces")
        self.judged.append(Judged(node, kind, describe(results[0].owner, self.samples), decided, unlike))
        given = iter([replace(seen, alike=after or not live) for seen in results])
        return pytree.tree_map_only(Tensor, lambda _: next(given), value)

    def _owners(
        self, node: fx.Node, call: Call, spans: list[Span], operands: list[Seen]
    ) -> tuple[list[Tensor], Kind]:
        """Owners of the results, and what the operation is."""
        live = [seen for seen in operands if seen.live]
        if not live:
            from_target = any(seen.from_target for seen in operands)
            return [span.owner for span in spans], "target" if from_target else "free"
        if not any(seen.owned for seen in live):
            return [span.owner for span in spans], "aggregate"
        vals = [val for val in pytree.tree_leaves(node.meta.get("val")) if isinstance(val, Tensor)]
        owners: list[Tensor] = []
        kinds: set[Kind] = set()
        for number, (span, result) in enumerate(zip(spans, call.results, strict=True)):
            mixed = span.mixed
            if not bool(mixed.any()):
                owners.append(span.owner)
                calm = in_order(span.owner, self.samples) or not _ordered(call, self.samples)
                kinds.add("apart" if calm else "permutes")
                continue
            places = self._places(call, result, vals[number] if number < len(vals) else None)
            kinds.add("reduces" if places is None else "mixes")
            owners.append(torch.where(mixed, 0.0 if places is None else places, span.owner))
        if call.name in LOSSES and bool(parts_of_loss(call).mixed.any()):
            kinds.add("mixes")
        ranked: tuple[Kind, ...] = ("mixes", "reduces", "permutes", "apart")
        return owners, next(kind for kind in ranked if kind in kinds)

    def _places(self, call: Call, result: Tensor, val: Any) -> Tensor | None:
        """Owners by their place of a result that mixes samples: as in an operand of the same shape, else along the axis
        that stands for the batch; None where there is none."""
        owned = [operand for operand in call.operands if operand.owned]
        for operand in owned:
            if operand.owner.shape == result.shape:
                return operand.owner
        patterns = [found[1] for operand in owned if (found := pattern(operand.owner)) is not None]
        axis = self._batch_axis(call, result, val)
        if axis is None:
            return None
        size = result.shape[axis]
        along = next((found for found in patterns if len(found) == size), None)
        if along is None:
            along = torch.arange(size, device=result.device) % self.samples + 1.0
        return along.view(-1, *[1] * (result.dim() - axis - 1)).expand(result.shape)

    def _batch_axis(self, call: Call, result: Tensor, val: Any) -> int | None:
        """The first axis of a result that grows with the batch; where the graph serves one batch only, the first axis
        of what is no reduction, if it is as long as the first operand's."""
        if self.grows:
            sizes = val.shape if isinstance(val, Tensor) else ()
            return next((a for a, size in enumerate(sizes) if isinstance(size, torch.SymInt)), None)
        first = next(operand for operand in call.operands if operand.owned)
        found = pattern(first.owner)
        same = found is not None and found[0] == 0 and result.dim() > 0 and len(found[1]) == len(result)
        return 0 if same and call.name not in REDUCTIONS else None

    def _common(
        self,
        node: fx.Node,
        call: Call,
        operands: list[Seen],
        leaves: list[Operand],
        live: list[Seen],
        kind: Kind,
    ) -> Seen:
        """What all results of an operation have in common."""
        sources = frozenset().union(*(seen.sources for seen in live))
        breaks = frozenset().union(*(seen.breaks for seen in live))
        aggregate: Aggregate | None = None
        if live:
            aggregates = [seen.aggregate for seen in live if seen.aggregate is not None]
            reduces = any(seen.owned for seen in live)
            linear = reduces_linearly(call, leaves) if reduces else stays_linear(call, leaves)
            aggregate = "linear" if linear and "nonlinear" not in aggregates else "nonlinear"
            if not linear and "nonlinear" not in aggregates:
                breaks = breaks | {node}
            if kind == "reduces":
                sources = sources | {node}
        factor = any(seen.target_factor for seen in live) or (
            bool(live)
            and any(seen.from_target and not seen.live and seen.value.dim() == 0 for seen in operands)
        )
        if call.name in ROW_LOSSES and call["weight"] is not None and call["reduction"] == 1:
            factor = factor or bool(live)
        empty = torch.empty(0)
        return Seen(
            value=empty,
            reordered=empty,
            owner=empty,
            certain=not live and (call.name in CREATE or all(seen.certain for seen in operands)),
            from_target=not live and any(seen.from_target for seen in operands),
            aggregate=aggregate,
            sources=sources,
            breaks=breaks,
            moved=frozenset().union(*(seen.moved for seen in live), {node} if kind == "permutes" else set()),
            target_factor=factor,
        )


def _values(tree: Any, part: str) -> Any:
    return pytree.tree_map_only(Seen, lambda seen: getattr(seen, part), tree)


def _untouched(call: Call) -> tuple[list[Span], Decided]:
    return [Span.free(result) for result in call.results], "rule"


def _ordered(call: Call, samples: int) -> bool:
    return all(in_order(operand.owner, samples) for operand in call.operands)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
