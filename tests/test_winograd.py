"""Convolutions of 3 x 3 by Winograd's filtering: the same numbers as PyTorch's, and put where a graph has them."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import direction, relative_error, truth
from test_eager import results, traced
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.emit import directions, winograd
from bnrewrite.emit.winograd import TileConvolutions, functions

aten = torch.ops.aten


def t(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def images(*shape: int) -> Tensor:
    return t(*shape).contiguous(memory_format=torch.channels_last)


def convolution(x: Tensor, w: Tensor, padding: int, b: Tensor | None = None) -> Tensor:
    return aten.convolution(x, w, b, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1)


def adjoint(y_bar: Tensor, x: Tensor, w: Tensor, padding: int, place: int) -> Tensor:
    mask = [i == place for i in range(3)]
    return aten.convolution_backward(
        y_bar, x, w, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )[place]


# Functions ---------------------------------------------------------------------------------------------------------

SIZES = {
    "odd": (3, 33, 40, 5, 7, 1),
    "without padding": (2, 32, 35, 6, 9, 0),
    "wide padding": (2, 34, 32, 3, 4, 2),
    "one pixel": (5, 32, 32, 1, 1, 1),
    "three by three, without padding": (2, 7, 5, 3, 3, 0),
    "few channels": (2, 1, 3, 8, 8, 1),
    "blocks of tiles": (7, 40, 33, 16, 12, 1),
    "large filters": (2, 150, 170, 4, 4, 1),
    "large filters and blocks of tiles": (3, 170, 150, 17, 13, 1),
    "large filters and rounds of tiles": (2, 170, 150, 33, 34, 1),
}
"""N, C, K, H, W, padding; filters of more than 3 MB are large (16 x 150 x 170 numbers of 8 bytes), and tiles of more
than 12 MB come in rounds."""


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_functions(name: str, terms: int, threads: int, only_c: None) -> None:
    """A convolution and both adjoints, summed over terms, in both types."""
    n, c, k, h, v, p = SIZES[name]
    x = [images(n, c, h, v) for _ in range(terms)]
    w = [t(k, c, 3, 3) for _ in range(terms)]
    y_bar = [images(n, k, h + 2 * p - 2, v + 2 * p - 2) for _ in range(terms)]
    expected = (
        sum(convolution(a, b, p) for a, b in zip(x, w, strict=True)),
        sum(adjoint(a, x[0], b, p, 0) for a, b in zip(y_bar, w, strict=True)),
        sum(adjoint(b, a, w[0], p, 1) for a, b in zip(x, y_bar, strict=True)),
    )
    for dtype, limit in ((torch.float64, 4e-15), (torch.float32, 1e-6)):
        # A rounding is 1e-16 or 6e-8; both sides make some dozens, of sums of up to 4,000 terms here.
        xs, ws, ys = ([part.to(dtype) for part in parts] for parts in (x, w, y_bar))
        found = winograd.value(xs, ws, p), winograd.data(ys, ws, p), winograd.weight(xs, ys, p)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and a.dtype == dtype
            assert (a.double() - b).norm() <= limit * b.norm()
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[1].is_contiguous(memory_format=torch.channels_last) and found[2].is_contiguous()


@pytest.mark.parametrize("flag", ["-DNARROW", "-DPLAIN"])
def test_other_machines(flag: str, monkeypatch: pytest.MonkeyPatch, only_c: None) -> None:
    """What a processor without AVX-512 runs, and what a compiler without shuffles of vectors makes."""
    monkeypatch.setenv("CC", f"cc {flag}")
    functions.library.cache_clear()
    try:
        for name in ("odd", "blocks of tiles", "large filters"):
            n, c, k, h, v, p = SIZES[name]
            x, w, y_bar = images(n, c, h, v), t(k, c, 3, 3), images(n, k, h, v)
            torch.testing.assert_close(winograd.value([x], [w], p), convolution(x, w, p))
            torch.testing.assert_close(winograd.data([y_bar], [w], p), adjoint(y_bar, x, w, p, 0))
            torch.testing.assert_close(winograd.weight([x], [y_bar], p), adjoint(y_bar, x, w, p, 1))
    finally:
        functions.library.cache_clear()


def test_any_order_of_axes_and_memory_that_is_given(only_c: None) -> None:
    """Whatever the strides; the gradient of a weight is written where it is wanted, and nothing beside it."""
    x, w, y_bar = t(2, 33, 6, 5), t(40, 33, 3, 3), t(2, 40, 6, 5)
    turned = [a.transpose(2, 3).contiguous().transpose(2, 3) if a.dim() == 4 else a for a in (x, w, y_bar)]
    expected = convolution(x, w, 1), adjoint(y_bar, x, w, 1, 0), adjoint(y_bar, x, w, 1, 1)
    for a, b, c in ((x, w, y_bar), turned):
        memory = torch.full((3, *w.shape), 7.0, dtype=torch.float64)
        found = (
            winograd.value([a], [b], 1),
            winograd.data([c], [b], 1),
            winograd.weight_into(memory[1], [a], [c], 1),
        )
        for p, q in zip(found, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        assert torch.equal(memory[1], found[2]) and bool((memory[0] == 7).all() and (memory[2] == 7).all())


def test_working_memory_is_used_again_and_shared_by_threads_of_python(only_c: None) -> None:
    """Small after large after small; four threads at a time."""
    from concurrent.futures import ThreadPoolExecutor

    def check(seed: int) -> float:
        g = torch.Generator().manual_seed(seed)
        c, h = (40, 3) if seed % 2 else (64, 20)
        x = torch.randn(3, c, h, h, generator=g, dtype=torch.float64)
        w = torch.randn(48, c, 3, 3, generator=g, dtype=torch.float64)
        y = winograd.value([x], [w], 1)
        w_bar = winograd.weight([x], [y], 1)
        return max(
            float((y - convolution(x, w, 1)).norm() / y.norm()),
            float((w_bar - adjoint(y, x, w, 1, 1)).norm() / w_bar.norm()),
        )

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(check, range(24))) < 2e-15


def test_what_is_no_plain_number_runs_on_pytorchs_operations() -> None:
    """Autograd, vmap, half precision, and no images at all."""
    x, w, y_bar = images(2, 32, 4, 4), t(32, 32, 3, 3), images(2, 32, 4, 4)
    recorded = [p.clone().requires_grad_() for p in (x, w, y_bar)]
    a, b, c = recorded
    for found, expected in (
        (winograd.value([a, a], [b, b], 1), 2 * convolution(a, b, 1)),
        (winograd.data([c], [b], 1), adjoint(c, a, b, 1, 0)),
        (winograd.weight([a], [c], 1), adjoint(c, a, b, 1, 1)),
    ):
        direction = torch.randn_like(found)
        got = torch.autograd.grad(found, recorded, direction, allow_unused=True)
        want = torch.autograd.grad(expected, recorded, direction, allow_unused=True)
        torch.testing.assert_close(found, expected)
        for p, q in zip(got, want, strict=True):
            assert (p is None) == (q is None)
            torch.testing.assert_close(p, q)
    with torch.no_grad():
        mapped = torch.func.vmap(lambda v: winograd.value([x], [v], 1))(torch.stack([w, 2 * w]))
        torch.testing.assert_close(mapped[1], 2 * convolution(x, w, 1))
        half = winograd.value([x.bfloat16()], [w.bfloat16()], 1)
        assert half.dtype == torch.bfloat16
        assert winograd.value([x[:0]], [w], 1).shape == (0, 32, 4, 4)
        assert not winograd.weight([x[:0]], [y_bar[:0]], 1).any()


# The pass ----------------------------------------------------------------------------------------------------------


def tiled(function: Callable[..., Any], *inputs: Tensor) -> Counter[str]:
    """How often each function is called after the pass; that results are the same is checked."""
    graph = traced(function, *inputs)
    expected = results(graph, *inputs)
    TileConvolutions()(graph)
    graph.lint()
    for found, result in zip(results(graph, *inputs), expected, strict=True):
        torch.testing.assert_close(found, result, rtol=1e-12, atol=1e-12)
    return Counter(getattr(n.target, "__name__", "") for n in graph.nodes if n.op == "call_function")


def test_two_that_are_added_are_one_call() -> None:
    """Of all three kinds, a bias with them; unless something else reads one, or their shapes differ."""
    x, u, w, z = t(2, 32, 5, 5), t(2, 32, 5, 5), t(40, 32, 3, 3), t(40, 32, 3, 3)
    y, b = t(2, 40, 5, 5), t(40)
    found = tiled(
        lambda x, u, w, z, y, b: [
            convolution(x, w, 1, b) + convolution(u, z, 1),
            adjoint(y, x, w, 1, 0) + adjoint(y * 2, x, z, 1, 0),
            adjoint(y, x, w, 1, 1) + adjoint(y, u, w, 1, 1),
        ],
        x, u, w, z, y, b,
    )  # fmt: skip
    assert (found["value"], found["data"], found["weight"], found["add.Tensor"]) == (1, 1, 1, 1)
    found = tiled(lambda x, w, z: [(p := convolution(x, w, 1)) + convolution(x, z, 1), p.relu()], x, w, z)
    assert (found["value"], found["add.Tensor"]) == (2, 1)
    found = tiled(lambda x, w: [(p := convolution(x, w, 1)) + p], x, w)
    assert (found["value"], found["add.Tensor"]) == (1, 1)
    wide, v = t(2, 40, 5, 5), t(40, 40, 3, 3)
    found = tiled(lambda x, w, y, v: [convolution(x, w, 1) + convolution(y, v, 1)], x, w, wide, v)
    assert (found["value"], found["add.Tensor"]) == (2, 1)
    found = tiled(lambda x, w, z, b: [convolution(x, w, 1, b) + convolution(x, z, 1, 2 * b)], x, w, z, b)
    assert (found["value"], found["add.Tensor"]) == (2, 3)


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "dilation", "groups"),
    [
        ((40, 32, 3, 3), 2, 1, 1, 1),
        ((40, 32, 3, 3), 1, 1, 2, 1),
        ((40, 32, 3, 3), 1, 3, 1, 1),
        ((40, 32, 5, 5), 1, 2, 1, 1),
        ((40, 32, 3, 1), 1, 0, 1, 1),
        ((40, 31, 3, 3), 1, 1, 1, 1),
        ((64, 32, 3, 3), 1, 1, 1, 2),
    ],
)
def test_others_stay(shape: Any, stride: int, padding: int, dilation: int, groups: int) -> None:
    found = tiled(
        lambda x, w: [aten.convolution(x, w, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups)],
        t(2, shape[1] * groups, 7, 7), t(*shape),
    )  # fmt: skip
    assert found["convolution.default"] == 1 and not found["value"]


# Networks ----------------------------------------------------------------------------------------------------------


def network() -> tuple[nn.Module, Tensor, Tensor]:
    """Two convolutions in a residual block and one with a bias, on odd images: some tiles are half beside them."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 32, 3, padding=1)
            self.conv1, self.norm1 = nn.Conv2d(32, 36, 3, padding=1, bias=False), nn.BatchNorm2d(36)
            self.conv2, self.norm2 = nn.Conv2d(36, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
            self.last = nn.Conv2d(32, 33, 3)
            self.head = nn.Linear(33, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = torch.tanh(self.norm2(self.conv2(torch.tanh(self.norm1(self.conv1(x))))) + x)
            return self.head(self.last(x).tanh().mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block().double(), t(6, 3, 7, 5), torch.arange(6) % 4


def test_a_network(only_c: None) -> None:
    """Against double backward at another batch: in one call, in two parts, converted, copied and pickled."""
    model, x, y = network()
    v, other = direction(model), t(4, 3, 7, 5)
    loss, grad, hvp = truth(model, other, y[:4], v)
    gm = bnrewrite.transform(model, (x, y), fuse=True)
    calls = Counter(n.target for n in gm.graph.nodes if n.target in winograd.FUNCTIONS)
    assert calls == {winograd.value: 6, winograd.data: 6, winograd.weight: 6}
    file = io.BytesIO()
    torch.save(gm, file)
    file.seek(0)
    for module in (gm, copy.deepcopy(gm), torch.load(file, weights_only=False)):
        found = module(other, y[:4], v)
        assert abs(found[0] - loss) < 1e-13 * abs(loss)
        assert relative_error(found[1], grad) < 1e-12 and relative_error(found[2], hvp) < 1e-12
    primal, apply = bnrewrite.linearize(model, (x, y), fuse=True)
    assert relative_error(apply(primal(other, y[:4])[2], v), hvp) < 1e-12
    single = gm.float()(other.float(), y[:4], {name: part.float() for name, part in v.items()})
    assert relative_error(single[2], hvp) < 1e-5  # no kinks: PyTorch's own error is 1e-6


def test_directions_are_written_into_one_tensor(only_c: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "CACHE", 1)
    monkeypatch.setattr(directions, "LARGE", 1)
    model, x, y = network()
    v = {name: torch.stack([part, 2 * part, -part]) for name, part in direction(model).items()}
    gm = bnrewrite.transform(model, (x, y), vectors=3, fuse=True)
    inner = gm.bnrewrite_directions.module  # type: ignore[union-attr]
    assert isinstance(inner, fx.GraphModule)
    assert sum(n.target is winograd.weight_into for n in inner.graph.nodes) == 3
    file = io.BytesIO()
    torch.save(gm, file)
    file.seek(0)
    for module in (gm, torch.load(file, weights_only=False)):
        found = module(x, y, v)[2]
        for i, scale in enumerate((1, 2, -1)):
            expected = truth(model, x, y, {name: scale * part[0] for name, part in v.items()})[2]
            assert relative_error({name: part[i] for name, part in found.items()}, expected) < 1e-12
