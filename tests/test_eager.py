"""Passes for execution operation by operation: the same numbers, no value overwritten that somebody still reads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from reference import relative_error, truth
from small_networks import data, network
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.compiler import compile_joint
from bnrewrite.emit import convolutions
from bnrewrite.emit.eager import eager
from bnrewrite.emit.eager.channel_sums import FuseChannelSums
from bnrewrite.emit.eager.element_products import FuseProducts
from bnrewrite.emit.eager.matrix_products import AddBeforeViews, FuseMatrixProducts, ShareFactors
from bnrewrite.emit.eager.memory import ReuseMemory
from bnrewrite.models import MODELS
from bnrewrite.options import Options
from bnrewrite.passes.graph import JointGraph
from bnrewrite.passes.pipeline import Pass
from bnrewrite.passes.rematerialize import rematerialize
from bnrewrite.passes.simplify import size_of
from bnrewrite.passes.tracing import record

aten = torch.ops.aten


def t(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def traced(function: Callable[..., Any], *inputs: Tensor) -> fx.Graph:
    graph = record(function, list(inputs))
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # as a GraphModule has it
    return graph


def results(graph: fx.Graph, *inputs: Tensor) -> list[Tensor]:
    return list(fx.Interpreter(nn.Module(), graph=graph).run(*inputs))


def after(function: Callable[..., Any], inputs: list[Tensor], *passes: Pass) -> Counter[str]:
    """Counts of the operations after `passes`; that results are the same and the inputs as they were is checked."""
    graph = traced(function, *inputs)
    expected = [r.clone() for r in results(graph, *inputs)]
    kept = [x.clone() for x in inputs]
    for step in passes:
        step(graph)
        graph.lint()
    for found, result in zip(results(graph, *inputs), expected, strict=True):
        assert (found - result).abs().max() <= 1e-13 * (1 + result.abs().max())
    assert all(torch.equal(x, before) for x, before in zip(inputs, kept, strict=True))
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_function")


# Element by element ------------------------------------------------------------------------------------------------


def test_a_product_that_is_added_is_part_of_the_addition() -> None:
    channel, x, y = t(1, 3, 1, 1), t(2, 3, 4, 4), t(2, 3, 4, 4)
    assert after(lambda k, x, y: [k * x + y], [channel, x, y], FuseProducts()) == {"aten.addcmul.default": 1}
    assert after(lambda k, x, y: [y - k * x], [channel, x, y], FuseProducts()) == {"aten.addcmul.default": 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda k, x, y: [x * y + k],  # what is added is smaller than the result
        lambda k, x, y: [(p := x * y) + y, p],  # the product is read elsewhere
        lambda k, x, y: [(p := x * y) + p],
        lambda k, x, y: [x * 2 + y],
        lambda k, x, y: [k * x - y],
        lambda k, x, y: [torch.add(y, k * x, alpha=2)],
    ],
)
def test_where_it_is_not(function: Callable[..., Any]) -> None:
    assert (
        after(function, [t(1, 3, 1, 1), t(2, 3, 4, 4), t(2, 3, 4, 4)], FuseProducts())["aten.addcmul.default"]
        == 0
    )


def test_types_are_not_mixed() -> None:
    inputs = [t(3), t(3).float(), t(3)]
    assert after(lambda a, b, c: [a * b + c], inputs, FuseProducts())["aten.addcmul.default"] == 0


def test_a_result_takes_the_memory_of_an_operand_that_nothing_reads_again() -> None:
    x, y = t(2, 3), t(2, 3)
    assert after(lambda x, y: [(x * y) + y], [x, y], ReuseMemory())["aten.add_.Tensor"] == 1
    assert after(lambda x, y: [y + (x * y)], [x, y], ReuseMemory())["aten.add_.Tensor"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: [x + y],  # inputs are the caller's
        lambda x, y: [(p := x * y), p + y],  # results too
        lambda x, y: [(p := x * y) + y, p.sum()],
        lambda x, y: [(p := x * y) + p],
        lambda x, y: [(v := (p := x * y).t(), p + y)[1], v.sum()],  # a view is read later
        lambda x, y: [y - x * y],
        lambda x, y: [(x * y)[:1] + y],  # a smaller operand
        lambda x, y: [x.reshape(2, 3) + y],
        lambda x, y: [x[:1].expand(2, 3) + y],
    ],
)
def test_and_of_no_other(function: Callable[..., Any]) -> None:
    found = after(function, [t(2, 3), t(2, 3)], ReuseMemory())
    assert not [name for name in found if "_." in name and name.startswith(("aten.add_", "aten.sub_"))]


def test_a_factor_of_one_term_stays_with_it() -> None:
    function = lambda x, y: [torch.add(x, x * y, alpha=3)]  # noqa: E731
    assert after(function, [t(2, 3), t(2, 3)], ReuseMemory())["aten.add_.Tensor"] == 0


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed: int) -> None:
    """Forty operations, each on what came before, views among them; every pass in the order of `eager`."""
    draw = random.Random(seed)

    def program(*inputs: Tensor) -> list[Tensor]:
        known = list(inputs)
        for _ in range(40):
            a, b, c = (draw.choice(known[-8:]) for _ in range(3))
            known.append(
                draw.choice(
                    [
                        lambda a, b, c: a + b,
                        lambda a, b, c: torch.add(a, b * c, alpha=3) / 4,
                        lambda a, b, c: torch.sub(a * b, c, alpha=2) / 4,
                        lambda a, b, c: a - b,
                        lambda a, b, c: a * b,
                        lambda a, b, c: a * b + c,
                        lambda a, b, c: c - a * b,
                        lambda a, b, c: a / (1 + b * b),
                        lambda a, b, c: a.mm(b) / 4 + c,
                        lambda a, b, c: (a.mm(b) + c.mm(b)) / 8,
                        lambda a, b, c: a.t().mm(b).t() / 4 + c.t().mm(b).t() / 4,
                        lambda a, b, c: a.t(),
                        lambda a, b, c: a.reshape(2, 8).reshape(4, 4) + b.reshape(2, 8).reshape(4, 4),
                        lambda a, b, c: (a * b).sum([0]) * c,
                        lambda a, b, c: (a * b).sum([0]) + b.sum([0]) + c,
                        lambda a, b, c: a.sum([0], keepdim=True) + b,
                        lambda a, b, c: a.tanh(),
                    ]
                )(a, b, c)
            )
        return [*draw.sample(known[len(inputs) :], 3), known[-1]]

    state = draw.getstate()

    def again(*inputs: Tensor) -> list[Tensor]:
        draw.setstate(state)
        return program(*inputs)

    passes = [FuseChannelSums(True), AddBeforeViews(), FuseMatrixProducts(1), ShareFactors(1), FuseProducts()]
    torch.manual_seed(seed)
    after(again, [t(4, 4) for _ in range(3)], *passes, ReuseMemory())


# Sums and matrix products ------------------------------------------------------------------------------------------


def images(*shape: int) -> Tensor:
    return t(*shape).contiguous(memory_format=torch.channels_last)


def test_sums_over_channels_are_one_kernel() -> None:
    axes = [0, 2, 3]

    def sums(x: Tensor, y: Tensor) -> list[Tensor]:
        return [(x * y).sum(axes, keepdim=True), y.sum(axes, keepdim=True), (x * x).sum(axes)]

    found = after(sums, [images(4, 3, 5, 5), images(4, 3, 5, 5)], FuseChannelSums(True))
    assert found["aten.native_layer_norm_backward.default"] == 2
    assert found["aten.sum.dim_IntList"] == found["aten.mul.Tensor"] == 0
    kept = after(sums, [t(4, 3, 5, 5), t(4, 3, 5, 5)], FuseChannelSums(False))
    assert kept["aten.native_layer_norm_backward.default"] == 0
    rows = after(lambda x, y: [x.sum([0]), (x * y).sum([0])], [t(6, 3), t(6, 3)], FuseChannelSums(False))
    assert rows["aten.native_layer_norm_backward.default"] == 1 and rows["aten.sum.dim_IntList"] == 0


def test_matrix_products_are_joined() -> None:
    a, b, c, d, wide = t(8, 2), t(2, 9), t(8, 2), t(2, 9), t(8, 9)
    join, reuse = FuseMatrixProducts(1), ReuseMemory()
    assert after(lambda a, b, c, d: [a.mm(b) + c.mm(d)], [a, b, c, d], join)["aten.mm.default"] == 1
    small = after(lambda a, b, c, d: [a.t().mm(c) + b.mm(d.t())], [a, b, c, d], join, reuse)
    assert small["aten.mm.default"] == 1 and small["aten.addmm_.default"] == 1
    assert after(lambda a, b, w: [w + a.mm(b)], [a, b, wide], join)["aten.addmm.default"] == 1
    shared = after(lambda a, c, w: [a.t().mm(w), c.t().mm(w)], [a, c, t(8, 90)], ShareFactors(1))
    assert shared["aten.mm.default"] == 2  # the results are as large as the factor
    shared = after(lambda a, c, w: [a.mm(w), c.mm(w)], [t(2, 50), t(3, 50), t(50, 20)], ShareFactors(1))
    assert shared["aten.mm.default"] == 1


def test_products_of_products_share_factors_too() -> None:
    function = lambda a, c, v, w: [a.mm(v).mm(w), c.mm(v).mm(w)]  # noqa: E731
    found = after(function, [t(2, 50), t(3, 50), t(50, 50), t(50, 50)], ShareFactors(1), ReuseMemory())
    assert found["aten.mm.default"] == 2

    class Straight(nn.Sequential):
        """No bias, no activation: one product's result is the next one's factor."""

    model = Straight(nn.Linear(90, 90, bias=False), nn.Linear(90, 90, bias=False)).double()
    x, y = t(2, 90), torch.tensor([3, 5])
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    gm = bnrewrite.transform(model, (x, y))
    assert "split_with_sizes" in gm.code
    expected = truth(model, x, y, v)
    assert relative_error(gm(x, y, v)[2], expected[2]) < 1e-12


CONVOLUTIONS = [
    ((3, 4, 5, 6), (7, 4, 1, 1), (1, 1), (0, 0)),
    ((3, 4, 5, 6), (7, 4, 1, 1), (2, 2), (0, 0)),
    ((3, 4, 5, 7), (7, 4, 1, 1), (3, 2), (0, 0)),
    ((3, 4, 5, 6), (7, 4, 1, 1), (1, 1), (1, 1)),
    ((3, 4, 5, 6), (7, 4, 3, 3), (1, 1), (1, 1)),
    ((3, 4, 6, 7), (2, 4, 3, 3), (2, 2), (1, 1)),
    ((3, 4, 6, 7), (2, 4, 2, 4), (2, 1), (0, 3)),
    ((2, 1, 1, 1), (2, 1, 5, 5), (1, 1), (2, 2)),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding"), CONVOLUTIONS)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_convolutions_as_matrix_products(
    x_shape: Any, w_shape: Any, stride: Any, padding: Any, order: torch.memory_format
) -> None:
    """Value and both adjoints against PyTorch's own, in both orders of the axes."""
    x, w, b = t(*x_shape).contiguous(memory_format=order), t(*w_shape), t(w_shape[0])
    geometry = (list(stride), list(padding), [1, 1], False, [0, 0], 1)
    y = aten.convolution(x, w, b, *geometry)
    y_bar = t(*y.shape).contiguous(memory_format=order)
    x_bar, w_bar, _ = aten.convolution_backward(y_bar, x, w, None, *geometry, [True, True, False])
    found = [
        (convolutions.value(x, w, b, stride, padding, y.shape[2:]), y),
        (convolutions.data(y_bar, x, w, stride, padding), x_bar),
        (convolutions.data_in_order(y_bar, x, w, stride, padding), x_bar),
        (convolutions.weight(y_bar, x, w, stride, padding), w_bar),
    ]
    for result, expected in found:
        assert result.shape == expected.shape
        assert (result - expected).abs().max() < 1e-12


@pytest.mark.parametrize("image", [(1, 1), (2, 2), (2, 5), (3, 7), (8, 8)])
@pytest.mark.parametrize(
    ("size", "padding"), [((3, 3), (1, 1)), ((5, 5), (2, 2)), ((4, 7), (2, 3)), ((5, 3), (4, 0))]
)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("groups", [1, 4])
def test_filters_without_taps_that_see_padding(
    image: Any, size: Any, padding: Any, stride: Any, groups: int
) -> None:
    """Value and both adjoints against PyTorch's own; no tap too many or too few."""
    if any(n + 2 * p < k for n, p, k in zip(image, padding, size, strict=True)):
        return
    x, w, b = t(3, 4, *image), t(4, 4 // groups, *size), t(4)
    geometry = (list(stride), list(padding), [1, 1], False, [0, 0], groups)
    y = aten.convolution(x, w, b, *geometry)
    y_bar = t(*y.shape)
    x_bar, w_bar, _ = aten.convolution_backward(y_bar, x, w, None, *geometry, [True, True, False])
    taps = convolutions.taps_used(image, size, stride, padding)
    seen = w_bar.abs().sum((0, 1)) > 0
    if taps is None:
        assert bool(seen.all()) or stride != (1, 1)
        return
    part = seen[slice(*taps[0]), slice(*taps[1])]
    assert bool(part.all()) or stride != (1, 1)
    assert int(seen.sum()) == int(part.sum())
    given = (list(stride), list(padding), groups, taps)
    assert (convolutions.cropped_value(x, w, b, *given) - y).abs().max() < 1e-12
    assert (convolutions.cropped_data(y_bar, x, w, *given) - x_bar).abs().max() < 1e-12
    assert (convolutions.cropped_weight(y_bar, x, w, *given) - w_bar).abs().max() < 1e-12


def test_some_filters_have_such_taps() -> None:
    assert convolutions.taps_used((2, 2), (5, 5), (1, 1), (2, 2)) == ((1, 4), (1, 4))
    assert convolutions.taps_used((1, 1), (3, 3), (1, 1), (1, 1)) == ((1, 2), (1, 2))
    assert convolutions.taps_used((4, 4), (5, 5), (1, 1), (2, 2)) is None


@pytest.mark.parametrize(("filters", "lowered"), [(4 * 72, True), (4 * 72 - 1, False)])
def test_gradients_larger_than_their_factors_are_matrix_products(filters: int, lowered: bool) -> None:
    """Eighteen images of 2 x 2 pixels are 72 rows, too many for the convolution itself."""
    model = nn.Sequential(
        nn.Conv2d(2, filters, 3, padding=1), nn.Flatten(), nn.Linear(4 * filters, 3)
    ).double()
    x, y = t(18, 2, 2, 2), torch.randint(3, (18,))
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    gm = bnrewrite.transform(model, (x, y))
    _, grad, expected = truth(model, x, y, v)
    found = gm(x, y, v)
    assert relative_error(found[1], grad) < 1e-12 and relative_error(found[2], expected) < 1e-12
    assert ("convolution_backward" in gm.code) is not lowered and "aten.convolution.default" in gm.code


# Whole graphs ------------------------------------------------------------------------------------------------------


def joint_of(name: str, batch: int = 8) -> JointGraph:
    model = MODELS[name].build_small().double()
    return compile_joint(model, MODELS[name].example(batch, dtype=torch.float64), Options())


def peak(graph: fx.Graph, batch: int) -> int:
    """Elements alive at once, where every tensor has memory of its own and is freed after its last use."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    alive = most = 0
    freed: dict[int, int] = {}
    for node, i in place.items():
        val = node.meta.get("val")
        if node.op == "call_function" and isinstance(val, Tensor):
            size = size_of(val, batch)
            alive += size
            last = max((place[user] for user in node.users), default=i)
            freed[last] = freed.get(last, 0) + size
        most = max(most, alive)
        alive -= freed.pop(i, 0)
    return most


def test_what_is_cheap_is_computed_again() -> None:
    joint = joint_of("resnet8_digits")
    again = rematerialize(joint, 8, Fraction(1, 1000))
    again.graph.lint()
    assert peak(again.graph, 8) < 0.95 * peak(joint.graph, 8)
    heavy = ("convolution", "mm", "sum", "mean")
    before, now = (
        Counter(str(n.target) for n in j.graph.nodes if any(word in str(n.target) for word in heavy))
        for j in (joint, again)
    )
    assert before == now
    inputs = [like(node.meta["val"]) for node in joint.graph.nodes if node.op == "placeholder"]
    for found, expected in zip(results(again.graph, *inputs), results(joint.graph, *inputs), strict=True):
        assert torch.equal(found, expected)


def like(val: Tensor) -> Tensor:
    """A tensor of that type and shape, for a batch of 8."""
    shape = [size if isinstance(size, int) else 8 for size in val.shape]
    return t(*shape) if val.is_floating_point() else torch.zeros(shape, dtype=val.dtype)


def test_eager_leaves_its_graph_alone() -> None:
    joint = joint_of("resnet8_digits")
    before = str(joint.graph)
    assert str(eager(joint, True)[0].graph) != before
    assert str(joint.graph) == before


@pytest.mark.parametrize("name", ["resnet8_digits", "mobile_block"])
def test_any_order_of_axes(name: str) -> None:
    """Images that come with their channels last give the same, contiguous; no argument is written to."""
    model, (x, y) = network(name), data(name, 6)
    gm = bnrewrite.transform(model, (x, y))
    assert "sym_numel" not in gm.code  # torch.compile takes no sizes from it
    v = {n: torch.randn(p.shape, dtype=torch.float64) for n, p in model.named_parameters()}
    kept = {n: part.clone() for n, part in (v | dict(model.named_parameters()) | {"": x}).items()}
    expected = gm(x, y, v)[2]
    turned = gm(x.contiguous(memory_format=torch.channels_last), y, v)[2]
    assert relative_error(turned, expected) < 1e-12
    assert all(part.is_contiguous() for part in turned.values())
    assert all(torch.equal(kept[n], p) for n, p in model.named_parameters()) and torch.equal(kept[""], x)
