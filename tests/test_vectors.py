"""`vectors=K`: every operation over a leading axis K, and whole graphs against K calls of the graph for one vector."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth
from small_networks import data, network
from torch import Tensor, nn

import bnrewrite
from bnrewrite.compiler import compile_blocked, compile_joint
from bnrewrite.emit import directions
from bnrewrite.emit.directions import DIRECTION
from bnrewrite.emit.into import copied_into, product_into, sum_into
from bnrewrite.emit.onnx import lower
from bnrewrite.models import MODELS
from bnrewrite.options import Options
from bnrewrite.passes.widen import TABLE, one_by_one, widening

aten = torch.ops.aten
K, N = 3, 4
Parts = dict[str, Tensor]


class Wide:
    """A tensor argument that has the axis K, of this sample shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def t(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def conv(
    x: Any, w: Any, b: Any, stride: int, pad: int, groups: int, transposed: bool = False
) -> tuple[Any, ...]:
    return (aten.convolution.default, x, w, b, [stride] * 2, [pad] * 2, [1, 1], transposed, [0, 0], groups)


def back(y_bar: Any, x: Any, w: Any, groups: int, which: int, transposed: bool = False) -> tuple[Any, ...]:
    mask = [which == 0, which == 1, False]
    geometry = ([2, 2], [1, 1], [1, 1], transposed, [0, 0], groups)
    return (aten.convolution_backward.default, y_bar, x, w, None, *geometry, mask)


INDEX = torch.tensor([[0, 2], [1, 1]])
CASES: dict[str, tuple[Any, ...]] = {
    "same rank": (aten.mul.Tensor, Wide(N, 3), t(N, 3)),
    "lower rank": (aten.add.Tensor, Wide(3), t(N, 3), 2),
    "per channel": (aten.mul.Tensor, t(N, 3, 2, 2), Wide(3, 1, 1)),
    "a number": (aten.mul.Tensor, Wide(), t(N, 3)),
    "where": (aten.where.self, t(N, 3) > 0, Wide(N, 3), t()),
    "mask": (aten.threshold_backward.default, Wide(N, 3), t(N, 3), 0),
    "sum of some": (aten.sum.dim_IntList, Wide(N, 3, 2), [0, -1], True),
    "sum of all": (aten.sum.dim_IntList, Wide(N, 3), None),
    "sum of a number": (aten.sum.dim_IntList, Wide(), []),
    "sum": (aten.sum.default, Wide(N, 3)),
    "mean": (aten.mean.default, Wide(N, 3)),
    "sum of nothing more": (aten.sum.default, Wide()),
    "sum in another type": (aten.sum.default, Wide(N, 3), torch.float32),
    "mean of a number": (aten.mean.dim, Wide(), []),
    "mean of some": (aten.mean.dim, Wide(N, 3), [-1]),
    "flip a number": (aten.flip.default, Wide(), []),
    "cumsum": (aten.cumsum.default, Wide(N, 3), 1),
    "flip": (aten.flip.default, Wide(N, 3), [0, -1]),
    "roll": (aten.roll.default, Wide(N, 3), [1, 2], [0, 1]),
    "roll all": (aten.roll.default, Wide(N, 3), [1]),
    "mask with a number": (aten.masked_fill.Scalar, Wide(N, 3), t(N, 3) > 0, 2.0),
    "mask with a tensor": (aten.masked_fill.Tensor, Wide(N, 3), t(3) > 0, t()),
    "type": (aten._to_copy.default, Wide(3), torch.float32),
    "clone": (aten.clone.default, Wide(3)),
    "detach": (aten.detach.default, Wide(3)),
    "alias": (aten.alias.default, Wide(3)),
    "zeros": (aten.zeros_like.default, Wide(3)),
    "ones": (aten.ones_like.default, Wide(3)),
    "reshape": (aten.reshape.default, Wide(N, 6), [N, 2, -1]),
    "unsafe view": (aten._unsafe_view.default, Wide(N, 6), [N, 2, -1]),
    "view": (aten.view.default, Wide(N, 6), [N, 2, -1]),
    "expand": (aten.expand.default, Wide(3, 1), [N, 3, 2]),
    "repeat": (aten.repeat.default, Wide(3), [2, 2]),
    "permute": (aten.permute.default, Wide(N, 3, 2), [2, 0, -2]),
    "transpose": (aten.transpose.int, Wide(N, 3, 2), 0, -1),
    "t": (aten.t.default, Wide(N, 3)),
    "t of a vector": (aten.t.default, Wide(3)),
    "select": (aten.select.int, Wide(N, 3), 1, 2),
    "slice": (aten.slice.Tensor, Wide(N, 3), 0, 1, 3),
    "slice_scatter": (aten.slice_scatter.default, t(N, 3), Wide(2, 3), 0, 1, 3),
    "select_scatter": (aten.select_scatter.default, Wide(N, 3), t(3), 0, 1),
    "unsqueeze": (aten.unsqueeze.default, Wide(N, 3), 0),
    "unsqueeze last": (aten.unsqueeze.default, Wide(N, 3), -1),
    "squeeze": (aten.squeeze.dims, Wide(N, 1, 3, 1), [1, -1]),
    "squeeze one": (aten.squeeze.dim, Wide(N, 1, 3), 1),
    "split evenly": (aten.split.Tensor, Wide(N, 4), 2, 1),
    "split": (aten.split_with_sizes.default, Wide(N, 3), [1, 2], 1),
    "unbind": (aten.unbind.int, Wide(2, 3), 0),
    "cat": (aten.cat.default, [Wide(N, 3), t(N, 2)], 1),
    "stack": (aten.stack.default, [t(N, 3), Wide(N, 3)], 0),
    "diagonal": (aten.diagonal.default, Wide(3, 3), 1, 0, 1),
    "pad": (aten.constant_pad_nd.default, Wide(N, 3), [1, 2], 0),
    "gather": (aten.gather.default, Wide(3, 3), 1, INDEX),
    "scatter a number": (aten.scatter.value, Wide(3, 3), 1, INDEX, 0.0),
    "scatter anew": (aten.scatter.src, t(3, 3), 0, INDEX, Wide(2, 2)),
    "scatter": (aten.scatter_add.default, t(3, 3), 1, INDEX, Wide(2, 2)),
    "index_select": (aten.index_select.default, Wide(N, 3), 0, INDEX[0]),
    "index first": (aten.index.Tensor, Wide(N, 3), [INDEX]),
    "index in the middle": (aten.index.Tensor, Wide(2, 3, 4), [None, INDEX]),
    "index apart": (aten.index.Tensor, Wide(3, 2, 3), [INDEX, None, INDEX]),
    "index two": (aten.index.Tensor, Wide(2, 3, 3), [None, INDEX, INDEX[0]]),
    "index with a mask": (aten.index.Tensor, Wide(3), [torch.tensor([True, False, True])]),
    "index_put": (aten.index_put.default, t(3, 2), [INDEX[0]], Wide(2, 2), True),
    "embedding": (aten.embedding.default, Wide(5, 3), INDEX),
    "mm left": (aten.mm.default, Wide(N, 3), t(3, 2)),
    "mm right": (aten.mm.default, t(N, 3), Wide(3, 2)),
    "addmm": (aten.addmm.default, Wide(2), Wide(N, 3), t(3, 2)),
    "addmm fixed sum": (aten.addmm.default, t(2), t(N, 3), Wide(3, 2)),
    "bmm left": (aten.bmm.default, Wide(2, N, 3), t(2, 3, 2)),
    "bmm right": (aten.bmm.default, t(2, N, 3), Wide(2, 3, 2)),
    "softmax": (aten._softmax_backward_data.default, Wide(N, 3), t(N, 3), 1, torch.float64),
    "log_softmax": (aten._log_softmax_backward_data.default, Wide(N, 3), t(N, 3), -1, torch.float64),
    "conv x": conv(Wide(N, 4, 5, 5), t(6, 2, 3, 3), None, 2, 1, 2),
    "conv x and bias": conv(Wide(N, 4, 5, 5), t(6, 4, 3, 3), Wide(6), 1, 0, 1),
    "conv w": conv(t(N, 4, 5, 5), Wide(6, 2, 3, 3), t(6), 2, 1, 2),
    "conv depthwise": conv(t(N, 4, 5, 5), Wide(4, 1, 3, 3), Wide(4), 1, 1, 4),
    "conv transposed x": conv(Wide(N, 4, 5, 5), t(4, 3, 3, 3), None, 2, 1, 2, True),
    "conv transposed w": conv(t(N, 4, 5, 5), Wide(4, 3, 3, 3), None, 2, 1, 2, True),
    "x_bar of y_bar": back(Wide(N, 6, 3, 3), t(N, 4, 5, 5), t(6, 2, 3, 3), 2, 0),
    "x_bar of w": back(t(N, 6, 3, 3), t(N, 4, 5, 5), Wide(6, 2, 3, 3), 2, 0),
    "w_bar of y_bar": back(Wide(N, 6, 3, 3), t(N, 4, 5, 5), t(6, 2, 3, 3), 2, 1),
    "w_bar of x": back(t(N, 6, 3, 3), Wide(N, 4, 5, 5), t(6, 2, 3, 3), 2, 1),
    "depthwise w_bar of x": back(t(N, 4, 3, 3), Wide(N, 4, 5, 5), t(4, 1, 3, 3), 4, 1),
    "transposed x_bar of y_bar": back(Wide(N, 6, 9, 9), t(N, 4, 5, 5), t(4, 3, 3, 3), 2, 0, True),
    "transposed x_bar of w": back(t(N, 6, 9, 9), t(N, 4, 5, 5), Wide(4, 3, 3, 3), 2, 0, True),
    "transposed w_bar of y_bar": back(Wide(N, 6, 9, 9), t(N, 4, 5, 5), t(4, 3, 3, 3), 2, 1, True),
    "transposed w_bar of x": back(t(N, 6, 9, 9), Wide(N, 4, 5, 5), t(4, 3, 3, 3), 2, 1, True),
    "pooling of one image": (aten.avg_pool2d.default, Wide(2, 4, 4), [2, 2]),
    "shuffle": (aten.pixel_shuffle.default, Wide(N, 4, 2, 2), 2),
    "unshuffle": (aten.pixel_unshuffle.default, Wide(N, 1, 4, 4), 2),
    "no function of its own": (aten.cross.default, Wide(N, 3), t(N, 3)),
}  # fmt: skip


def image_cases(axes: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every operation on images with so many axes."""
    suffix = f"{axes}d"
    small, large, pads = (2,) * axes, (4,) * axes, [1] * (2 * axes)
    image, padded, sizes = Wide(N, 2, *large), Wide(N, 2, *[6] * axes), [6] * axes
    for kind in ("reflection_pad", "replication_pad"):
        yield kind, (kind + suffix, image, pads)
        yield f"{kind} back", (f"{kind}{suffix}_backward", padded, t(N, 2, *large), pads)
    for kind in ("upsample_nearest", "_upsample_nearest_exact"):
        yield kind, (kind + suffix, image, sizes)
    linear = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[axes]
    for kind in linear:
        yield kind, (f"upsample_{kind}{suffix}", image, sizes, True)
        if axes == 2:
            yield f"{kind} smoothed", (f"_upsample_{kind}{suffix}_aa", image, [3, 3], False)
    window = [2] * axes
    yield "avg_pool", (f"avg_pool{suffix}", image, window)
    if axes > 1:
        flat = [0] * axes
        yield "adaptive", (f"_adaptive_avg_pool{suffix}", image, window)
        yield "adaptive back", (f"_adaptive_avg_pool{suffix}_backward", Wide(N, 2, *small), t(N, 2, *large))
        back = (Wide(N, 2, *small), t(N, 2, *large), window, window, flat)
        yield "avg_pool back", (f"avg_pool{suffix}_backward", *back, False, True, None)
        chosen = torch.randint(0, 4**axes, (N, 2, *small))
        yield "max_pool back", (f"max_pool{suffix}_with_indices_backward", *back, [1] * axes, False, chosen)


for dimension in (1, 2, 3):
    for title, (operation, *rest) in image_cases(dimension):
        CASES[f"{title}, {dimension}-d images"] = (getattr(aten, operation).default, *rest)


def filled(args: tuple[Any, ...], op: Any) -> tuple[list[Any], list[Any]]:
    """All arguments in schema order with tensors for `Wide`, and which of them are wide."""

    def tensor(arg: Any) -> Any:
        return (
            [tensor(a) for a in arg]
            if isinstance(arg, list)
            else t(K, *arg.shape)
            if isinstance(arg, Wide)
            else arg
        )

    def wide(arg: Any) -> Any:
        return (
            [wide(a) for a in arg] if isinstance(arg, list) and not is_static(arg) else isinstance(arg, Wide)
        )

    def is_static(arg: list[Any]) -> bool:
        return not any(isinstance(a, (Wide, Tensor)) for a in arg)

    rest = [entry.default_value for entry in op._schema.arguments[len(args) :]]
    args = (*args, *rest)
    return [tensor(arg) for arg in args], [wide(arg) for arg in args]


@pytest.mark.parametrize("name", CASES)
def test_widened_operation(name: str) -> None:
    """As one call or as K, the same numbers, up to the order of summation."""
    op, *given = CASES[name]
    args, wide = filled(tuple(given), op)
    widened = widening(op, args, wide)
    assert (widened is one_by_one) == (name in ONE_BY_ONE)
    found, expected = widened(op, args, wide, K), one_by_one(op, args, wide, K)
    if isinstance(found, Tensor):
        found, expected = [found], [expected]
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


ONE_BY_ONE = {
    "sum of a number", "mean of a number", "flip a number", "roll all", "index with a mask", "index_put",
    "pooling of one image", "no function of its own"
}  # fmt: skip


def test_every_operation_has_a_case() -> None:
    assert set(TABLE) <= {operation for operation, *_ in CASES.values()}


def block_of(model: nn.Module, count: int) -> dict[str, Tensor]:
    single = [direction(model, seed) for seed in range(count)]
    return {name: torch.stack([v[name] for v in single]) for name in single[0]}


@pytest.mark.parametrize(("count", "products"), [(1, ("hvp", "ggn")), (3, ("residual", "hvp"))])
def test_a_block_is_that_many_products(count: int, products: tuple[str, str]) -> None:
    """Against double backward, at another batch size, as graph and as file, two products."""
    name = "tiny" if count == 1 else "mobile_block"
    model, example, (x, y) = network(name), data(name, 6), data(name, 5)
    gm = bnrewrite.transform(model, example, vectors=count, products=products)
    joint = compile_blocked(model, example, Options(vectors=count, products=products))
    session = onnxruntime.InferenceSession(lower(joint).SerializeToString())
    v = block_of(model, count)
    _, grad, *found = gm(x, y, v)
    feed = {"input": x, "target": y, **{f"v.{name}": part for name, part in v.items()}}
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {n: a.numpy() for n, a in feed.items()}), strict=True))
    assert session.get_inputs()[2].shape[0] == count
    for k in range(count):
        for product, parts in zip(products, found, strict=True):
            one = {name: part[k] for name, part in v.items()}
            _, true_grad, expected = truth(model, x, y, one, product=product)
            assert relative_error(grad, true_grad) < 1e-11
            assert relative_error({name: part[k] for name, part in parts.items()}, expected) < 1e-11
            assert relative_error({name: outputs[f"{product}.{name}"][k] for name in v}, expected) < 1e-11


def convolutions(graph: torch.fx.Graph) -> int:
    return sum("convolution" in str(node.target) for node in graph.nodes)


def test_the_primal_work_is_done_once() -> None:
    """A file for three directions has as many convolutions as one for one; a graph has them once in the module that it
    calls for as many directions at a time as the cache holds, and those of loss and gradient as they were."""
    model = MODELS["resnet8_digits"].build_small()
    example = MODELS["resnet8_digits"].example(6)
    one = convolutions(compile_joint(model, example, Options()).graph)
    assert convolutions(compile_blocked(model, example, Options(vectors=3)).graph) == one
    example = MODELS["resnet8_digits"].example(
        99
    )  # enough for convolutions to be faster than matrix products
    one = convolutions(bnrewrite.transform(model, example).graph)
    several = bnrewrite.transform(model, example, vectors=3)
    assert convolutions(several.graph) + convolutions(getattr(several, DIRECTION).module.graph) == one


@pytest.mark.parametrize(("cache", "calls"), [(1, 6), (1 << 40, 1), (None, 2)])
def test_any_number_of_directions_at_a_time(
    cache: int | None, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same products whatever one call of the module computes."""
    model, (x, y) = network("mobile_block"), data("mobile_block", 6)
    v = {name: torch.randn(6, *p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    several = at_a_time(cache, monkeypatch, lambda: bnrewrite.transform(model, (x, y), vectors=6))
    module = getattr(several, DIRECTION)
    assert module.count / module.size == calls
    same_as_double_backward(several(x, y, v)[2], model, x, y, v)


def test_blocks_from_residuals_converted_and_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = network("mobile_block"), data("mobile_block", 6)
    v = {name: torch.randn(6, *p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    primal, apply = at_a_time(None, monkeypatch, lambda: bnrewrite.linearize(model, (x, y), vectors=6))
    residuals = primal(x, y)[2]
    found = apply(residuals, v)
    same_as_double_backward(found, model, x, y, v)
    torch.testing.assert_close(pickle.loads(pickle.dumps(apply))(residuals, v), found)
    converted = apply.float()([r.float() if r.is_floating_point() else r for r in residuals], floats(v))
    assert relative_error(converted, found) < 1e-4


@pytest.mark.parametrize(
    ("batch", "written"), [(6, {product_into, copied_into}), (99, {sum_into, product_into})]
)
def test_products_are_written_where_they_are_wanted(
    batch: int, written: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into one tensor of all directions, also when restored or converted; joined afterwards where autograd records or a
    function is transformed."""
    monkeypatch.setattr(directions, "CACHE", 1)
    monkeypatch.setattr(directions, "LARGE", 1)
    entry = MODELS["resnet8_digits"]
    model, (x, y) = entry.build_small(dtype=torch.float64), entry.example(batch, dtype=torch.float64)
    v = block_of(model, 2)
    primal, apply = bnrewrite.linearize(model, (x, y), vectors=2)
    residuals = primal(x, y)[2]
    found = apply(residuals, v)
    same_as_double_backward(found, model, x, y, v)
    assert all(part.is_contiguous() for part in found.values())
    targets = {node.target for node in getattr(apply, DIRECTION).module.graph.nodes}
    assert written <= targets
    again = apply(residuals, {name: 2 * part for name, part in v.items()})
    same_as_double_backward(found, model, x, y, v)  # not overwritten
    torch.testing.assert_close(pickle.loads(pickle.dumps(apply))(residuals, v), found)
    _, derived = torch.func.jvp(lambda u: apply(residuals, u), (v,), (v,))  # linear: its own derivative
    torch.testing.assert_close(derived, found)
    recorded = apply(residuals, {name: part.requires_grad_() for name, part in v.items()})
    assert all(part.requires_grad for part in recorded.values())
    for name, part in found.items():
        torch.testing.assert_close(again[name], 2 * part)
        torch.testing.assert_close(recorded[name], part)
    single = apply.float()([r.float() if r.is_floating_point() else r for r in residuals], floats(v))
    assert relative_error(single, found) < 1e-4 and {part.dtype for part in single.values()} == {
        torch.float32
    }


class Twins(nn.Module):
    """Two layers whose gradients and products are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", ["cross_entropy", lambda z, y: z.sum()], ids=["the same", "zero"])
def test_products_that_are_one_are_written_for_each(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "CACHE", 1)
    monkeypatch.setattr(directions, "LARGE", 1)
    monkeypatch.setattr(torch, "empty_like", lambda x, **options: torch.full_like(x, torch.nan, **options))
    model, x, y = Twins().double(), t(5, 3), torch.tensor([0, 1, 2, 3, 0])
    gm, v = bnrewrite.transform(model, (x, y), loss=loss, vectors=2), block_of(model, 2)
    one = bnrewrite.transform(model, (x, y), loss=loss)
    found = gm(x, y, v)[2]
    for k in range(2):
        expected = one(x, y, {name: part[k] for name, part in v.items()})[2]
        torch.testing.assert_close({name: part[k] for name, part in found.items()}, dict(expected))


def at_a_time(cache: int | None, monkeypatch: pytest.MonkeyPatch, made: Callable[[], Any]) -> Any:
    """What `made` makes with a cache of that many bytes; None: for three directions at a time."""
    if cache is None:
        monkeypatch.setattr(directions, "_at_once", lambda apply, count: 3)
    else:
        monkeypatch.setattr(directions, "CACHE", cache)
    return made()


def same_as_double_backward(found: Parts, model: nn.Module, x: Tensor, y: Tensor, v: Parts) -> None:
    for k in range(len(next(iter(v.values())))):
        _, _, expected = truth(model, x, y, {name: part[k] for name, part in v.items()})
        assert relative_error({name: found[name][k] for name in v}, expected) < 1e-11


def floats(v: Parts) -> Parts:
    return {name: part.float() for name, part in v.items()}


def test_products_that_do_not_depend_on_the_direction_have_the_axis_too() -> None:
    model = nn.Linear(3, 2).double()
    gm = bnrewrite.transform(model, (t(4, 3), t(4, 2)), loss=lambda z, target: (z * target).sum(), vectors=2)
    _, _, hvp = gm(t(5, 3), t(5, 2), block_of(model, 2))
    assert {name: list(part.shape) for name, part in hvp.items()} == {"weight": [2, 2, 3], "bias": [2, 2]}
    assert all(not part.any() for part in hvp.values())


def test_wrong_arguments() -> None:
    model = nn.Linear(3, 2)
    example = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    for wrong in (0, -1, 2.0, "2", True):
        with pytest.raises(bnrewrite.errors.InputError, match="vectors must be the number of directions"):
            bnrewrite.transform(model, example, vectors=wrong)  # type: ignore[arg-type]
    gm = bnrewrite.transform(model, example, vectors=2)
    with pytest.raises(
        bnrewrite.errors.InputError, match=r"has shape \[2, 3\], but this graph takes \[2, 2, 3\]"
    ):
        gm(*example, direction(model))


def test_verify_and_the_runtime_take_such_files(tmp_path: Path) -> None:
    model, example = MODELS["mlp_bn"].build_small(), MODELS["mlp_bn"].example()
    bnrewrite.export_onnx(model, tmp_path / "block.onnx", example, vectors=2)
    bnrewrite.export_onnx(model, tmp_path / "one.onnx", example)
    assert bnrewrite.verify(tmp_path / "block.onnx", model, example).passed
    data = tuple(part.numpy() for part in example)
    v = {name: part.numpy() for name, part in direction(model).items()}
    one, block = (bnrewrite.runtime.open(tmp_path / name, data).hvp(v) for name in ("one.onnx", "block.onnx"))
    for name in v:
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(block[name]), rtol=1e-4, atol=1e-5)
