"""`fuse=True`: C functions that say what PyTorch's operations say, put where no value waits for itself."""

from __future__ import annotations

import copy
import io
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import direction, relative_error, truth
from small_networks import data, network
from test_eager import traced
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.emit import compiling
from bnrewrite.emit.eager.memory import ReuseMemory
from bnrewrite.emit.fused import Kernel, fuse, library
from bnrewrite.emit.fused.c_source import RUN, SMALL
from bnrewrite.emit.fused.operations import EXPRESSIONS
from bnrewrite.errors import InputError
from bnrewrite.passes.graph import JointGraph

aten = torch.ops.aten

FORMS = {"planes": False, "rows": True}


def t(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def fused(function: Callable[..., Any], inputs: list[Tensor], reordered: bool = False) -> fx.GraphModule:
    """`function`, which takes and returns tensors, traced on `inputs` and with kernels."""
    graph = traced(function, *inputs)
    joint, kernels = fuse(JointGraph(graph, [], [], {}), reordered)
    joint.graph.lint()
    return fx.GraphModule(dict(kernels), joint.graph)


def operations(module: fx.GraphModule) -> Counter[str]:
    return Counter(str(n.target) for n in module.graph.nodes if str(n.target).startswith("aten."))


@pytest.fixture
def only_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that steps aside is an error."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a region ran as a graph")

    monkeypatch.setattr(Kernel, "aside", refuse)


# One operation -----------------------------------------------------------------------------------------------------

SPECIAL = torch.tensor(
    [0.0, -0.0, 1.0, -1.0, 6.0, 1e-30, float("inf"), -float("inf"), float("nan"), 3.0, -3.0, 0.5]
)

CALLS: dict[Any, Callable[[Tensor, Tensor], Any]] = {
    aten.add.Scalar: lambda x, y: aten.add.Scalar(x, 0.3),
    aten.sub.Scalar: lambda x, y: aten.sub.Scalar(x, -0.3),
    aten.rsub.Scalar: lambda x, y: aten.rsub.Scalar(x, 0.3),
    aten.mul.Scalar: lambda x, y: aten.mul.Scalar(x, 0.3),
    aten.div.Scalar: lambda x, y: aten.div.Scalar(x, 0.3),
    aten.threshold_backward.default: lambda x, y: aten.threshold_backward(x, y, 0),
    aten.hardtanh.default: lambda x, y: aten.hardtanh.default(x, -1.0, 6.0),
    aten.hardtanh_backward.default: lambda x, y: aten.hardtanh_backward(x, y, -1.0, 6.0),
}
"""Those that are not called with one or two tensors."""


def call(op: Any) -> Callable[[Tensor, Tensor], Tensor]:
    if op in CALLS:
        return CALLS[op]
    return op if EXPRESSIONS[op].__code__.co_argcount == 2 else lambda x, y: op(x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", EXPRESSIONS, ids=str)
def test_every_operation(op: Any, form: str, only_kernels: None) -> None:
    """In both types, infinities and NaN included; as exact as its type allows."""
    x, y = torch.meshgrid(SPECIAL, SPECIAL, indexing="ij")
    for dtype in (torch.float64, torch.float32):
        # Two operations, so that there is something to fuse; the second changes nothing.
        module = fused(
            lambda x, y: [call(op)(x, y) * 1.0], [t(2, 3, 4, 3, dtype=dtype) for _ in "xy"], FORMS[form]
        )
        assert not operations(module)
        args = [v.reshape(2, 3, 8, 3).to(dtype) for v in (x, y)]
        (found,), expected = module(*args), call(op)(*args)
        limit = 8 * torch.finfo(dtype).eps  # libm and PyTorch each allow themselves a few units
        torch.testing.assert_close(found, expected, rtol=limit, atol=0, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(5, 7, 3, 2), (2, 3, 1, 1), (3, 2, 70, 41), (1, 5, 9, 9)])
def test_what_is_read_along_with_images(
    shape: tuple[int, ...], form: str, threads: int, only_kernels: None
) -> None:
    """Channels in both shapes, values of a sample and a channel, numbers, sums and means; (3, 2, 70, 41) is more than
    one thread's share and more than one run of a sum."""
    n, c, h, w = shape
    assert SMALL < 3 * 2 * 70 * 41 and 16 * RUN < 3 * 70 * 41

    def function(x: Tensor, y: Tensor, k: Tensor, b: Tensor, s: Tensor) -> list[Tensor]:
        z = (x - k) * y + b.reshape(1, c, 1, 1) + s
        total = z.sum([0, 2, 3], keepdim=True)
        again = (z - z.mean([0, 2, 3], keepdim=True)) * total / 7 + s.expand(n, c, h, w)
        return [again.relu(), total.reshape(c), (again * y).sum([0, 2, 3])]

    inputs = [t(*shape), t(*shape), t(1, c, 1, 1), t(c), t(n, c, 1, 1)]
    module = fused(function, inputs, FORMS[form])
    assert not operations(module) and sum(isinstance(m, Kernel) for m in module.children()) == 1
    order = torch.channels_last if form == "rows" else torch.contiguous_format
    turned = [v.transpose(-1, -2).contiguous().transpose(-1, -2) if v.dim() == 4 else v for v in inputs]
    for given in (inputs, [v.contiguous(memory_format=order) if v.dim() == 4 else v for v in inputs], turned):
        for found, expected in zip(module(*given), function(*inputs), strict=True):
            # A sum of 8,610 terms is off by 1e-12, and multiplied by what may be 50.
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    image = module(*inputs)[0]
    assert image.is_contiguous(memory_format=order)


def test_numbers_that_are_none(only_kernels: None) -> None:
    x = SPECIAL.double().reshape(3, 1, 2, 2)
    module = fused(
        lambda x: [aten.hardtanh.default(x * 2.0, 0.0, float("inf")) * float("nan")], [t(3, 1, 2, 2)]
    )
    assert bool(module(x)[0].isnan().all())
    module = fused(lambda x: [aten.hardtanh.default(x * 2.0, -float("inf"), 1.0) - 1e-30], [t(3, 1, 2, 2)])
    torch.testing.assert_close(module(x)[0], aten.hardtanh.default(x * 2, -float("inf"), 1.0), equal_nan=True)


def test_sums_of_single_precision_lose_no_more_than_a_rounding() -> None:
    """A quarter of a million numbers around one, to a channel; one after the other they would lose 1e-5."""
    x = torch.rand(16, 4, 128, 128) + 0.5
    for reordered in (False, True):
        module = fused(lambda x: [(x * 1.0).sum([0, 2, 3])], [x], reordered)
        exact = x.double().sum([0, 2, 3])
        assert ((module(x)[0] - exact) / exact).abs().max() < 2e-7


# Programs ------------------------------------------------------------------------------------------------------------


def program(seed: int) -> Callable[..., list[Tensor]]:
    """Sixty operations, each on what came before: images of two frames, channels, totals, and what no kernel takes."""

    def run(x: Tensor, y: Tensor, p: Tensor, k: Tensor) -> list[Tensor]:
        draw = random.Random(seed)
        images, small, channels = [x, y], [p], [k]
        for _ in range(60):
            a, b, c = draw.choice(images), draw.choice(images[-4:]), draw.choice(channels[-3:])
            q = draw.choice(small[-3:])
            step = draw.randrange(13)
            if step < 3:
                images.append([a * c, a - b, a * 0.5 + c][step])
            elif step < 5:
                images.append([a.relu() - b, torch.sigmoid(a) * b][step - 3])
            elif step == 5:
                channels.append((a * b).mean([0, 2, 3], keepdim=True))
            elif step == 6:
                channels.append(c * a.sum([0, 2, 3], keepdim=True) / 50 - 0.5)
            elif step == 7:
                channels.append(c.tanh() + 1.0)  # no kernel
            elif step == 8:
                small.append(torch.nn.functional.avg_pool2d(a, 2) - q)
            elif step == 9:
                small.append(q * c + q.relu())
            elif step == 10:
                images.append(torch.cumsum(a, 3) / 4)  # no kernel
            elif step == 11:
                channels.append(q.sum([0, 2, 3]).reshape(1, -1, 1, 1) / 20)
            else:
                images.append(b - q.mean([2, 3], keepdim=True))
        return [*images[-3:], *small[-2:], *channels[-3:]]

    return run


WAITING = 27
"""A program some of whose groups would wait for each other, through operations from before they began."""


@pytest.mark.parametrize("seed", [*range(int(os.environ.get("BNREWRITE_NETWORKS", 7))), WAITING])
def test_random_programs(seed: int, only_kernels: None) -> None:
    function, inputs = program(seed), [t(3, 4, 6, 6), t(3, 4, 6, 6), t(3, 4, 3, 3), t(1, 4, 1, 1)]
    module = fused(function, inputs, bool(seed % 2))
    kernels = sum(isinstance(m, Kernel) for m in module.children())
    assert 0 < kernels < 16
    for found, expected in zip(module(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-11, atol=1e-11 * (1 + float(expected.abs().max()))
        )


def test_no_group_waits_for_itself() -> None:
    """Both products could join the sum but for the operation between them; and a value far down stays there."""

    def function(x: Tensor, w: Tensor) -> list[Tensor]:
        a = x * 2.0 + 1.0
        b = torch.cumsum(a, 3)
        return [a * b + b]

    module = fused(function, [t(2, 3, 4, 4), t(3, 3, 1, 1)])
    assert sum(isinstance(m, Kernel) for m in module.children()) == 2

    def far(x: Tensor, w: Tensor) -> list[Tensor]:
        y = x
        for _ in range(8):
            y = torch.nn.functional.conv2d(y, w)
        return [y, (x * 2.0 + 1.0).relu() * y]

    module = fused(far, [t(2, 3, 4, 4), t(3, 3, 1, 1)])
    order = [n.op if n.op == "call_module" else str(n.target) for n in module.graph.nodes]
    assert order.index("call_module") > order.index("aten.convolution.default")


def test_images_of_nothing_but_spread_values() -> None:
    """Nothing that is read says how large they are."""
    function = lambda s: [(s.expand(2, 3, 4, 5) * 2.0).relu()]  # noqa: E731
    module, s = fused(function, [t(2, 3, 1, 1)]), t(2, 3, 1, 1)
    torch.testing.assert_close(module(s)[0], function(s)[0])


# Networks ------------------------------------------------------------------------------------------------------------


class Excited(nn.Module):
    """SiLU and squeeze-and-excitation, on volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.squeeze = nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1)
        self.axes, self.last = [2, 3, 4], nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm(self.first(x)))
        x = x * torch.sigmoid(self.squeeze(x.mean(self.axes, keepdim=True)))
        return self.last(x.mean(self.axes))


def case(name: str, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "images":
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(0, 6),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
        ).double()  # fmt: skip
        generator = torch.Generator().manual_seed(batch)
        return (
            model,
            torch.randn(batch, 2, 7, 7, generator=generator, dtype=torch.float64),
            torch.arange(batch) % 10,
        )
    if name == "volume":
        torch.manual_seed(0)
        model = Excited().double()
        shape = (2, 5, 5, 4)
        generator = torch.Generator().manual_seed(batch)
        return (
            model,
            torch.randn(batch, *shape, generator=generator, dtype=torch.float64),
            torch.arange(batch) % 10,
        )
    return network(name), *data(name, batch)


@pytest.mark.parametrize("name", ["tiny", "images", "volume"])
def test_networks(name: str, only_kernels: None) -> None:
    """Against double backward at another batch, in one call, in two parts, and for several directions."""
    model, x, y = case(name, 6)
    _, other, target = case(name, 9)
    v = direction(model)
    loss, grad, hvp = truth(model, other, target, v)
    gm = bnrewrite.transform(model, (x, y), fuse=True)
    plain = bnrewrite.transform(model, (x, y))
    assert sum(operations(gm).values()) < 0.62 * sum(operations(plain).values())
    found = gm(other, target, v)
    assert abs(found[0] - loss) < 1e-12 * abs(loss)
    assert relative_error(found[1], grad) < 1e-11 and relative_error(found[2], hvp) < 1e-11
    primal, apply = bnrewrite.linearize(model, (x, y), fuse=True, products=("hvp", "ggn"))
    _, grad_again, residuals = primal(other, target)
    assert relative_error(grad_again, grad) < 1e-11
    products = apply(residuals, v)
    assert relative_error(products[0], hvp) < 1e-11
    assert relative_error(products[1], truth(model, other, target, v, product="ggn")[2]) < 1e-11
    if name == "tiny":
        stacked = {key: torch.stack([part, 2 * part]) for key, part in v.items()}
        several = bnrewrite.transform(model, (x, y), fuse=True, vectors=2)(other, target, stacked)[2]
        assert relative_error({key: part[1] / 2 for key, part in several.items()}, hvp) < 1e-11


@pytest.fixture(scope="module")
def block() -> tuple[nn.Module, Tensor, Tensor, Any, fx.GraphModule]:
    model, (x, y) = network("mobile_block"), data("mobile_block", 6)
    v = direction(model)
    return model, x, y, v, bnrewrite.transform(model, (x, y), fuse=True)


def test_any_order_of_axes_and_nothing_overwritten(block: Any) -> None:
    model, x, y, v, gm = block
    kept = {name: part.clone() for name, part in (v | dict(model.named_parameters()) | {"": x}).items()}
    expected = truth(model, x, y, v)[2]
    turned = {
        name: p.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p for name, p in v.items()
    }
    for image in (
        x,
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        for w in (v, turned):
            assert relative_error(gm(image, y, w)[2], expected) < 1e-12
    for name, part in (v | dict(model.named_parameters()) | {"": x}).items():
        assert torch.equal(part, kept[name])


def test_copied_pickled_converted_and_after_a_step(block: Any) -> None:
    _, x, y, v, gm = block
    expected = gm(x, y, v)[2]
    file = io.BytesIO()
    torch.save(gm, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for module in (copy.deepcopy(gm), again):
        assert relative_error(module(x, y, v)[2], expected) < 1e-14
        assert module.graph.lint() is None and "bnrewrite_kernel_0" in module.code
    single = copy.deepcopy(gm).float()
    found = single(x.float(), y, {name: part.float() for name, part in v.items()})[2]
    assert {part.dtype for part in found.values()} == {torch.float32}
    assert relative_error(found, expected) < 1e-4
    model, (x, y) = network("tiny"), data("tiny", 6)
    v, gm = direction(model), bnrewrite.transform(model, (x, y), fuse=True)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < 1e-12


def test_where_a_kernel_steps_aside(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd, `torch.func`, another type: the operations run one by one, with the same results."""
    _, x, y, v, gm = block
    aside: list[int] = []
    plain = Kernel.aside
    monkeypatch.setattr(Kernel, "aside", lambda self, *args: (aside.append(1), plain(self, *args))[1])
    expected = gm(x, y, v)[2]
    assert not aside
    recorded = {name: part.clone().requires_grad_() for name, part in v.items()}
    found = gm(x, y, recorded)[2]
    assert aside and relative_error(found, expected) < 1e-12
    total = sum((part * v[name]).sum() for name, part in found.items())
    back = torch.autograd.grad(total, list(recorded.values()))  # H is symmetric: H v again
    assert relative_error(dict(zip(v, back, strict=True)), expected) < 1e-10
    aside.clear()
    low = copy.deepcopy(gm).bfloat16()(x.bfloat16(), y, {name: p.bfloat16() for name, p in v.items()})[2]
    assert aside and all(part.dtype == torch.bfloat16 for part in low.values())
    aside.clear()
    module, (a, b) = (
        fused(lambda x, y: [(x * y + 1.0) * x], [t(2, 3, 4, 3), t(2, 3, 4, 3)]),
        (t(2, 3, 4, 3), t(2, 3, 4, 3)),
    )
    slope = torch.func.jvp(lambda x: module(x, b)[0], (a,), (a,))[1]
    torch.testing.assert_close(slope, (2 * a * b + 1) * a)
    torch.testing.assert_close(torch.func.functionalize(lambda x: module(x, b)[0])(a), (a * b + 1) * a)
    assert len(aside) == 2 and module(a[:0], b[:0])[0].shape == (0, 3, 4, 3)
    model, (x, y) = network("tiny"), data("tiny", 6)
    v, gm = direction(model), bnrewrite.transform(model, (x, y), fuse=True)
    mapped = torch.func.vmap(lambda w: gm(x, y, w)[2])({name: torch.stack([p, -p]) for name, p in v.items()})
    assert (
        aside
        and relative_error({name: -p[1] for name, p in mapped.items()}, truth(model, x, y, v)[2]) < 1e-11
    )


def overwriting(function: Callable[..., Any], *inputs: Tensor) -> list[Any]:
    """What each kernel takes; that results are the same with and without autograd is checked."""
    module = fused(lambda *x: function(*(part.tanh() for part in x)), list(inputs))
    kernels = {name: child for name, child in module.named_children() if isinstance(child, Kernel)}
    before = copy.deepcopy(module)
    expected = before(*inputs)
    ReuseMemory(kernels)(module.graph)
    module.recompile()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for found, result in zip(module(*inputs), expected, strict=True):
                torch.testing.assert_close(found, result, rtol=1e-14, atol=1e-14)
    return [n.kwargs.get("taken", ()) for n in module.graph.nodes if n.op == "call_module"]


def test_results_in_the_memory_of_images(only_kernels: None) -> None:
    """Where no later pass, no other operation and no caller reads the image, and of each image once."""
    x, y = t(3, 2, 5, 4), t(3, 2, 5, 4)

    def mean(x: Tensor) -> Tensor:
        return x.mean((0, 2, 3), keepdim=True)

    def centred(x: Tensor) -> list[Tensor]:
        return [(x + 1.0) * x, x - mean(x)]

    ((place, image),) = overwriting(lambda x: [x - mean(x)], x)[0]
    assert (place, image) == (0, 0)
    taken = overwriting(centred, x)[0]  # the first result is stored before the last pass reads x
    assert len(taken) == 1
    assert len(overwriting(lambda x, y: [x * y + 1.0, x * y - 1.0], x, y)[0]) == 2
    assert overwriting(lambda x, y: [x * y + 1.0, x], x, y) == [((0, 1),)]
    assert overwriting(lambda x: [x * 2.0 + 1.0, x.reshape(3, 40)], x) == [()]
    module = fused(lambda x: [x * 2.0 + 1.0], [x])
    (kernel,) = (child for child in module.children() if isinstance(child, Kernel))
    kept = x.clone()
    (apart,) = kernel(x, taken=((0, 0),))  # autograd may have kept x
    assert torch.equal(x, kept) and apart.data_ptr() != x.data_ptr()
    with torch.no_grad():
        (over,) = kernel(x, taken=((0, 0),))
    assert over.data_ptr() == x.data_ptr() and torch.equal(over, apart)


def test_autograd_finds_what_it_has_kept(block: Any) -> None:
    """Where it watches one argument, kernels of the others overwrite nothing that it wants again."""
    model, x, y, v, gm = block
    assert any(n.kwargs.get("taken") for n in gm.graph.nodes if n.op == "call_module")
    hvp = gm(x, y, v)[2]
    for function in (lambda w: gm(x, y, w)[2], torch.no_grad()(lambda w: gm(x, y, w)[2])):
        assert relative_error(torch.func.jvp(function, (v,), (v,))[1], hvp) < 1e-12
    _, back = torch.func.vjp(lambda w: gm(x, y, w)[2], v)
    assert relative_error(back(v)[0], hvp) < 1e-12  # H is symmetric
    watched = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gm(watched, y, v)[0], watched)
    again = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(again), y), again)
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-14)


# Compiling -----------------------------------------------------------------------------------------------------------


def test_each_distinct_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as deep, the same kernels; a second graph compiles nothing."""

    def deep(blocks: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            *(m for _ in range(blocks) for m in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())),
            nn.Flatten(), nn.Linear(48, 10),
        ).double()  # fmt: skip

    x, y = t(6, 3, 4, 4), torch.arange(6)
    kernels = []
    for blocks in (3, 6):
        gm = bnrewrite.transform(deep(blocks), (x, y), fuse=True)
        kernels.append({(m.region, m.form) for m in gm.children() if isinstance(m, Kernel)})
        monkeypatch.setattr(library, "_functions", None)
    assert kernels[0] == kernels[1] and len(kernels[0]) > 4


def test_what_a_system_has_not_is_tried_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that compiles but does not load gives way to the next choice of flags."""
    tried: list[str] = []
    whole = compiling.ctypes.CDLL

    def cdll(path: str) -> Any:
        tried.append(path)
        if path.endswith(".0.so"):
            raise OSError("undefined symbol: _ZGVdN8v_expf")
        return whole(path)

    monkeypatch.setattr(compiling.ctypes, "CDLL", cdll)
    number, x = random.random(), t(2, 3, 4, 4)
    module = fused(lambda x: [torch.exp(x * number)], [t(2, 3, 4, 4)])
    torch.testing.assert_close(module(x)[0], torch.exp(x * number))
    assert [path[-5:] for path in tried] == [".0.so", ".1.so"]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def new() -> fx.GraphModule:
        number = random.random()
        return fused(lambda x: [x * number + 1.0], [t(2, 3, 4, 4)])

    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match=r"there is no C compiler \(no-such-compiler\): install one"):
        new()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(InputError, match=r"the C compiler false failed: .*leave fuse=True out"):
        new()
    monkeypatch.setenv("CC", "cc -DNOTHING")
    assert new()(t(2, 3, 4, 4))[0].shape == (2, 3, 4, 4)


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(InputError, match="fuse"):
        bnrewrite.transform(network("tiny"), data("tiny", 4), fuse="yes")  # type: ignore[arg-type]


def test_files_hold_no_kernels(tmp_path: Any) -> None:
    model, example = network("tiny"), data("tiny", 4)
    for export in (bnrewrite.export_onnx, bnrewrite.export_pt2, bnrewrite.export_torchscript):
        with pytest.raises(InputError, match="fuse=True is for the GraphModules"):
            export(model, tmp_path / "c.onnx", example, fuse=True)
