"""Matrix products in C: the same numbers as PyTorch's, and put where a graph has large ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import direction, relative_error, truth
from test_eager import results, traced
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.emit import directions, products
from bnrewrite.emit.products import SumProducts, functions, summing


def t(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


# Functions ---------------------------------------------------------------------------------------------------------

SIZES = {
    "one number": (1, 1, 1),
    "a row and a column": (1, 9, 40),
    "odd": (7, 13, 5),
    "a part of a panel": (25, 37, 17),
    "whole panels": (24, 64, 48),
    "deep": (13, 34, 600),
    "tall": (230, 33, 20),
    "wide": (5, 1100, 19),
    "large": (130, 530, 300),
}
"""M, N, D. More than 256 terms come in parts, as do more than 96 rows and 512 columns (256 in float64)."""


def layouts(x: Tensor) -> list[Tensor]:
    """`x` by rows, by columns, with a gap after each, and with gaps everywhere."""
    rows, columns = x.shape
    wide, tall, apart = t(rows, columns + 3).to(x), t(rows + 3, columns).to(x), t(2 * rows, 3 * columns).to(x)
    turned = tall.t().contiguous().t()
    views = [wide[:, :columns], turned[:rows], apart[::2, ::3]]
    return [x, x.t().contiguous().t(), *(view.copy_(x) for view in views)]


@pytest.mark.parametrize("name", SIZES)
def test_sums(name: str, threads: int, only_c: None) -> None:
    """Sums of one and of three products in both types, factors in every layout."""
    m, n, d = SIZES[name]
    a, b = [t(m, d) for _ in range(3)], [t(d, n) for _ in range(3)]
    for dtype, limit in ((torch.float64, 2e-15), (torch.float32, 1e-6)):  # some roundings: 1e-16 or 6e-8 each
        left, right = ([x.to(dtype) for x in factors] for factors in (a, b))
        for p, q in zip(layouts(left[0]), layouts(right[0]), strict=True):
            for first, second in ((p, right[0]), (left[0], q)):
                assert torch.equal(first, left[0]) and torch.equal(second, right[0])
                found = products.product([first], [second])
                assert found.is_contiguous() and found.dtype == dtype
                assert (found.double() - a[0] @ b[0]).norm() <= limit * (a[0] @ b[0]).norm()
        total = sum(x @ y for x, y in zip(a, b, strict=True))
        assert (products.product(left, right).double() - total).norm() <= limit * total.norm()


@pytest.mark.parametrize("flag", ["-DNARROW", "-DPLAIN"])
def test_other_machines(flag: str, monkeypatch: pytest.MonkeyPatch, only_c: None) -> None:
    """What a processor without AVX-512 runs, and what a compiler without shuffles of vectors makes."""
    monkeypatch.setenv("CC", f"cc {flag}")
    functions.library.cache_clear()
    try:
        for m, n, d in SIZES.values():
            a, b = t(m, d), t(d, n)
            torch.testing.assert_close(products.product([a], [b]), a @ b)
            b = b.t().contiguous().t()
            single = products.product([a.float()], [b.float()]).double()
            assert (single - a @ b).norm() <= 1e-6 * (a @ b).norm()
    finally:
        functions.library.cache_clear()


def test_memory_that_is_given(only_c: None) -> None:
    """Nothing beside it is written, whatever its shape."""
    a, b = t(33, 21), t(21, 70)
    memory = torch.full((3, 11, 3, 70), 7.0, dtype=torch.float64)
    found = products.product_into(memory[1], [a], [b])
    torch.testing.assert_close(found, a @ b)
    assert torch.equal(memory[1].view(33, 70), found)
    assert bool((memory[0] == 7).all() and (memory[2] == 7).all())


def test_what_is_not_a_number(only_c: None) -> None:
    """NaN and infinity reach the numbers that PyTorch lets them reach, and no others."""
    a, b = t(30, 40), t(40, 50)
    a[3, 5], b[7, 49] = float("nan"), float("inf")
    torch.testing.assert_close(products.product([a], [b]), a @ b, equal_nan=True)


def test_what_is_no_plain_number_runs_on_pytorchs_operations() -> None:
    """Autograd, vmap, half precision, and matrices without rows or terms."""
    a, b = t(6, 5).requires_grad_(), t(5, 4).requires_grad_()
    found = products.product([a, 2 * a], [b, b])
    torch.testing.assert_close(found, 3 * a @ b)
    for p, q in zip(*(torch.autograd.grad(y.sum(), (a, b)) for y in (found, 3 * a @ b)), strict=True):
        torch.testing.assert_close(p, q)
    with torch.no_grad():
        mapped = torch.func.vmap(lambda x: products.product([x], [b]))(torch.stack([a, 2 * a]))
        torch.testing.assert_close(mapped[1], 2 * a @ b)
        assert products.product([a.bfloat16()], [b.bfloat16()]).dtype == torch.bfloat16
        assert products.product([a[:0]], [b]).shape == (0, 4)
        assert not products.product([a[:, :0]], [b[:0]]).any()
        memory = torch.ones(6, 4, dtype=torch.float64)
        assert not products.product_into(memory, [a[:, :0]], [b[:0]]).any() and not memory.any()


# The pass ----------------------------------------------------------------------------------------------------------


def summed(function: Callable[..., Any], *inputs: Tensor) -> Counter[str]:
    """How often each function is called after the pass; that results are the same is checked."""
    graph = traced(function, *inputs)
    expected = results(graph, *inputs)
    SumProducts(1)(graph)
    graph.lint()
    for found, result in zip(results(graph, *inputs), expected, strict=True):
        torch.testing.assert_close(found, result, rtol=1e-12, atol=1e-12)
    return Counter(getattr(n.target, "__name__", "") for n in graph.nodes if n.op == "call_function")


def test_two_that_are_added_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of them too; unless something else reads one, or their shapes differ."""
    monkeypatch.setattr(summing, "LARGE", 1)
    a, b, c, d = t(4, 6), t(6, 32), t(4, 6), t(6, 32)
    found = summed(lambda a, b, c, d: [a.mm(b) + c.mm(d)], a, b, c, d)
    assert found == {"product": 1}
    found = summed(lambda a, b, c, d: [(a.mm(b) + c.mm(d)) + (a.mm(d) + c.mm(b))], a, b, c, d)
    assert found == {"product": 1}
    found = summed(lambda a, b, c, d: [(p := a.mm(b)) + c.mm(d), p.tanh()], a, b, c, d)
    assert found == {"product": 2, "add.Tensor": 1, "tanh.default": 1}
    found = summed(lambda a, b: [(p := a.mm(b)) + p], a, b)
    assert found == {"product": 1, "add.Tensor": 1}
    found = summed(lambda a, b, c, d: [a.mm(b) + c.mm(d)], a, b, t(4, 7), t(7, 32))
    assert found == {"product": 2, "add.Tensor": 1}
    found = summed(lambda a, b, c: [torch.add(a.mm(b), c.mm(b), alpha=2)], a, b, c)
    assert found == {"product": 2, "add.Tensor": 1}


def test_small_and_ragged_products_stay() -> None:
    """At 2^22 multiplications a product is large; few columns that do not fill their panels are PyTorch's."""
    large = (t(256, 256), t(256, 64))
    assert summed(lambda a, b: [a.mm(b)], *large) == {"product": 1}
    assert summed(lambda a, b: [a.mm(b)], large[0][1:], large[1]) == {"mm.default": 1}
    assert summed(lambda a, b: [a.mm(b)], t(256, 256), t(256, 80)) == {"mm.default": 1}
    assert summed(lambda a, b: [a.mm(b)], t(256, 256), t(256, 257)) == {"product": 1}
    assert summed(lambda a, b: [a.mm(b)], t(4096, 4096)[:, :0], t(0, 64)) == {"mm.default": 1}


# Networks ----------------------------------------------------------------------------------------------------------


def network() -> tuple[nn.Module, Tensor, Tensor]:
    """A bottleneck of pointwise convolutions, one with a bias and one with a stride, and a linear layer."""

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64)
            self.conv2, self.norm2 = nn.Conv2d(64, 32, 1), nn.BatchNorm2d(32)
            self.short = nn.Conv2d(32, 64, 1, stride=2, bias=False)
            self.head = nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            x = x + torch.tanh(self.norm2(self.conv2(torch.tanh(self.norm1(self.conv1(x))))))
            return self.head(self.short(x).tanh().mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bottleneck().double(), t(6, 32, 7, 5), torch.arange(6) % 32


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summing, "LARGE", 1)


def test_a_network(only_c: None, all_large: None) -> None:
    """Against double backward at another batch, in one call and in two parts, in both types."""
    model, x, y = network()
    v, other = direction(model), t(4, 32, 7, 5)
    loss, grad, hvp = truth(model, other, y[:4], v)
    gm = bnrewrite.transform(model, (x, y), fuse=True)
    calls = Counter(n.target for n in gm.graph.nodes)
    # A layer has value, tangent, adjoint, its tangent, gradient, its tangent. conv1 has no adjoints, the values of
    # conv2 and head are additions to their biases, and of a stride the adjoint's two terms are added among zeros.
    assert calls[products.product] == 4 + 5 + 7 + 5 and not calls[torch.ops.aten.mm.default]
    found = gm(other, y[:4], v)
    assert abs(found[0] - loss) < 1e-13 * abs(loss)
    assert relative_error(found[1], grad) < 1e-12 and relative_error(found[2], hvp) < 1e-12
    primal, apply = bnrewrite.linearize(model, (x, y), fuse=True)
    assert relative_error(apply(primal(other, y[:4])[2], v), hvp) < 1e-12
    single = gm.float()(other.float(), y[:4], {name: part.float() for name, part in v.items()})
    assert relative_error(single[2], hvp) < 1e-5  # no kinks


def test_directions_are_written_into_one_tensor(
    only_c: None, all_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "CACHE", 1)
    monkeypatch.setattr(directions, "LARGE", 1)
    model, x, y = network()
    v = {name: torch.stack([part, 2 * part, -part]) for name, part in direction(model).items()}
    gm = bnrewrite.transform(model, (x, y), vectors=3, fuse=True)
    inner = gm.bnrewrite_directions.module  # type: ignore[union-attr]
    assert isinstance(inner, fx.GraphModule)
    assert sum(n.target is products.product_into for n in inner.graph.nodes) >= 3
    found = gm(x, y, v)[2]
    for i, scale in enumerate((1, 2, -1)):
        expected = truth(model, x, y, {name: scale * part[0] for name, part in v.items()})[2]
        assert relative_error({name: part[i] for name, part in found.items()}, expected) < 1e-12
