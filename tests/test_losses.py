"""Every loss of PyTorch with all its options: H v and G v against double backward, and files of them.

The losses of a family share one graph, which costs one capture: each has an affine layer of its own before it and a
tensor of the targets, and the graph's loss is their sum. Their gradients and products are apart and compared apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, nn
from torch.nn import functional as F

import bnrewrite
from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.graph_module import build
from bnrewrite.emit.onnx import lower
from bnrewrite.options import Options

EXACT = 1e-12  # one layer and a loss: a few hundred roundings
CLASSES = 4
PRODUCTS = ("hvp", "ggn")
Target = Callable[[torch.Generator, int, tuple[int, ...]], Tensor]


def classes(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(CLASSES, (n, *shape[1:]), generator=g)


def numbers(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(n, *shape, generator=g, dtype=torch.float64)


def counts(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(5, (n, *shape), generator=g).double()


def probabilities(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return numbers(g, n, shape).softmax(1)


def signs(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(2, (n, *shape), generator=g).double() * 2 - 1


def labels(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return (signs(g, n, shape) + 1) / 2


def one_sign(g: torch.Generator, n: int, shape: tuple[int, ...]) -> Tensor:
    return signs(g, n, ())


class On(nn.Module):
    """A loss of something computed from the output; `parts` splits it into several arguments."""

    def __init__(self, loss: nn.Module, first: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.loss, self.first = loss, first

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        found = self.first(z)
        return self.loss(*found, y) if isinstance(found, tuple) else self.loss(found, y)  # type: ignore[no-any-return]


class Untargeted(nn.Module):
    """Three embeddings in the output, and no target at all but its size."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        anchor, near, far = z.chunk(3, 1)
        return self.loss(anchor, near + y, far)  # type: ignore[no-any-return]


class BinaryCrossEntropy(nn.Module):
    """From primitives: PyTorch's second derivative adds 1e-12 to denominators that its first does not."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.weight, self.reduction = weight, reduction

    def forward(self, p: Tensor, y: Tensor) -> Tensor:
        losses = -(y * p.log() + (1 - y) * (1 - p).log()) * (1 if self.weight is None else self.weight)
        return losses.mean() if self.reduction == "mean" else losses.sum()


class MultiMargin(nn.Module):
    """From primitives: PyTorch has no second derivative."""

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.p, self.margin, self.weight = p, margin, weight

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        own, others = z.gather(1, y[:, None]), torch.arange(CLASSES) != y[:, None]
        short = (self.margin - own + z).relu() ** self.p * others
        scale = 1 if self.weight is None else self.weight[y][:, None]
        return (short * scale).sum(1).mean() / CLASSES


@dataclass(frozen=True)
class Row:
    """`reference` is the same loss for the truth, where PyTorch's own has no exact second derivative."""

    loss: nn.Module
    target: Target
    shape: tuple[int, ...] = (CLASSES,)
    reference: nn.Module | None = None


def log_softmax(z: Tensor) -> Tensor:
    return F.log_softmax(z, 1)


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
KINDS = ("mean", "sum")
SIGNAL, IMAGE = (CLASSES, 3), (CLASSES, 2, 3)


def cross_entropy() -> list[Row]:
    """Weight, ignored class and smoothing, each with each, for indices and probabilities; `sum` where they all meet."""
    loss = nn.CrossEntropyLoss
    indices = [
        Row(loss(weight, ignore_index=ignored, label_smoothing=smooth), classes)
        for weight, ignored, smooth in product((None, WEIGHT), (-100, 1), (0.0, 0.1))
    ]
    soft = [
        Row(loss(weight, label_smoothing=s), probabilities)
        for weight, s in product((None, WEIGHT), (0.0, 0.1))
    ]
    total = [
        Row(loss(reduction="sum"), classes),
        Row(loss(WEIGHT, reduction="sum", ignore_index=1, label_smoothing=0.1), classes),
        Row(loss(WEIGHT, reduction="sum", label_smoothing=0.1), probabilities),
    ]
    return indices + soft + total


def segmentation() -> list[Row]:
    return [
        Row(nn.CrossEntropyLoss(), classes, SIGNAL),
        Row(nn.CrossEntropyLoss(WEIGHT, ignore_index=2, label_smoothing=0.2), classes, IMAGE),
        Row(nn.CrossEntropyLoss(WEIGHT, ignore_index=2, reduction="sum"), classes, IMAGE),
        Row(nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2), probabilities, IMAGE),
        Row(On(nn.NLLLoss(WEIGHT, ignore_index=0), log_softmax), classes, IMAGE),
        Row(On(nn.NLLLoss(reduction="sum"), log_softmax), classes, SIGNAL),
    ]


def likelihoods() -> list[Row]:
    def positive(z: Tensor) -> Tensor:
        return z.exp() + 0.1

    return [
        Row(On(nn.NLLLoss(), log_softmax), classes),
        *(
            Row(On(nn.NLLLoss(WEIGHT, ignore_index=1, reduction=kind), log_softmax), classes)
            for kind in KINDS
        ),
        *(
            Row(On(nn.KLDivLoss(reduction=kind), log_softmax), probabilities)
            for kind in (*KINDS, "batchmean")
        ),
        Row(On(nn.KLDivLoss(reduction="sum", log_target=True), log_softmax), numbers),
        Row(nn.PoissonNLLLoss(), counts),
        Row(nn.PoissonNLLLoss(full=True, reduction="sum"), counts),
        Row(On(nn.PoissonNLLLoss(log_input=False), positive), counts),
    ]


def regression() -> list[Row]:
    return [
        *(Row(nn.MSELoss(reduction=kind), numbers, shape) for kind, shape in product(KINDS, ((CLASSES,), IMAGE))),
        *(Row(nn.L1Loss(reduction=kind), numbers) for kind in KINDS),
        *(Row(nn.SmoothL1Loss(reduction=kind, beta=beta), numbers) for kind, beta in product(KINDS, (1.0, 0.3, 0.0))),
        *(Row(nn.HuberLoss(reduction=kind, delta=delta), numbers) for kind, delta in product(KINDS, (1.0, 0.3))),
    ]  # fmt: skip


def binary() -> list[Row]:
    loss, per_pixel = nn.BCEWithLogitsLoss, WEIGHT.reshape(CLASSES, 1, 1)
    return [
        *(
            Row(loss(weight, reduction=kind, pos_weight=positive), numbers)
            for kind, weight, positive in product(KINDS, (None, WEIGHT), (None, 2 * WEIGHT))
        ),
        Row(loss(pos_weight=per_pixel), labels, IMAGE),
        *(
            Row(On(own, torch.sigmoid), numbers, reference=On(reference, torch.sigmoid))
            for own, reference in (
                (nn.BCELoss(WEIGHT), BinaryCrossEntropy(WEIGHT)),
                (nn.BCELoss(reduction="sum"), BinaryCrossEntropy(reduction="sum")),
            )
        ),
        Row(nn.SoftMarginLoss(), signs),
        Row(nn.SoftMarginLoss(reduction="sum"), signs),
        Row(nn.MultiLabelSoftMarginLoss(), labels),
        Row(nn.MultiLabelSoftMarginLoss(WEIGHT, reduction="sum"), labels),
    ]  # fmt: skip


def margins() -> list[Row]:
    def halves(z: Tensor) -> tuple[Tensor, ...]:
        return z.chunk(2, 1)

    return [
        Row(nn.HingeEmbeddingLoss(margin=0.7), signs),
        Row(nn.HingeEmbeddingLoss(reduction="sum"), signs),
        Row(On(nn.CosineEmbeddingLoss(), halves), one_sign),
        Row(On(nn.CosineEmbeddingLoss(margin=0.2, reduction="sum"), halves), one_sign),
        Row(On(nn.MarginRankingLoss(margin=0.3), lambda z: (z[:, 0], z[:, 1])), one_sign),
        Row(Untargeted(nn.TripletMarginLoss()), lambda g, n, shape: numbers(g, n, (2,)), (6,)),
        Row(Untargeted(nn.TripletMarginLoss(margin=2.0, p=3, swap=True)), lambda g, n, s: numbers(g, n, (2,)), (6,)),
        Row(Untargeted(nn.TripletMarginWithDistanceLoss(margin=0.5)), lambda g, n, s: numbers(g, n, (2,)), (6,)),
        Row(nn.MultiMarginLoss(), classes, reference=MultiMargin()),
        Row(nn.MultiMarginLoss(2, 0.7, WEIGHT), classes, reference=MultiMargin(2, 0.7, WEIGHT)),
    ]  # fmt: skip


FAMILIES: dict[str, Callable[[], list[Row]]] = {
    f.__name__: f for f in (cross_entropy, segmentation, likelihoods, regression, binary, margins)
}


class Heads(nn.Module):
    """An affine layer and a curved function before each loss."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, int(torch.tensor(row.shape).prod())) for row in rows)
        self.shapes = [row.shape for row in rows]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = [torch.tanh(layer(x)) * 2 for layer in self.layers]
        return tuple(z.reshape(-1, *shape) for z, shape in zip(outputs, self.shapes, strict=True))


class Total(nn.Module):
    def __init__(self, losses: list[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        return torch.stack(
            [loss(z, y) for loss, z, y in zip(self.losses, outputs, targets, strict=True)]
        ).sum()


def data(rows: list[Row], n: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    g = torch.Generator().manual_seed(n)
    return numbers(g, n, (3,)) * 4 - 2, tuple(row.target(g, n, row.shape) for row in rows)


@pytest.mark.filterwarnings(
    "ignore:reduction. 'mean' divides the total loss:UserWarning"
)  # KLDivLoss means it
@pytest.mark.parametrize("family", FAMILIES)
def test_losses(family: str) -> None:
    rows = FAMILIES[family]()
    torch.manual_seed(0)
    model, loss = Heads(rows).double(), Total([row.loss for row in rows]).double()
    exact = Total([row.reference or row.loss for row in rows])
    joint = compile_joint(model, data(rows, 6), Options(loss, products=PRODUCTS))
    x, y = data(rows, 5)
    v = direction(model)
    results = dict(zip(("loss", "grad", *PRODUCTS), build(joint, door_check(joint))(x, y, v), strict=True))
    session = onnxruntime.InferenceSession(lower(joint, metadata={}).SerializeToString())
    feed = {
        "input": x,
        **{f"target.{i}": part for i, part in enumerate(y)},
        **{f"v.{n}": p for n, p in v.items()},
    }
    outputs = session.run(None, {name: part.numpy() for name, part in feed.items()})
    file = dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))
    for product_ in PRODUCTS:
        true_loss, grad, expected = truth(model, x, y, v, exact, product_)
        assert float(results["loss"]) == pytest.approx(float(true_loss), rel=EXACT)
        for index, row in enumerate(rows):
            names = [f"layers.{index}.{part}" for part in ("weight", "bias")]
            for kind, reference in (("grad", grad), (product_, expected)):
                own = {name: reference[name] for name in names}
                assert relative_error({n: results[kind][n] for n in names}, own) < EXACT, (kind, row)
                assert relative_error({n: file[f"{kind}.{n}"] for n in names}, own) < EXACT, (kind, row)


def test_names_and_callables() -> None:
    """The four names are the functions of their names, and a callable is a loss too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, CLASSES), nn.LogSoftmax(1)).double()
    x = numbers(torch.Generator().manual_seed(0), 6, (3,))
    named: list[tuple[Any, Callable[..., Tensor], Target]] = [
        ("cross_entropy", F.cross_entropy, classes),
        ("nll", F.nll_loss, classes),
        ("mse", F.mse_loss, numbers),
        ("bce_with_logits", F.binary_cross_entropy_with_logits, numbers),
        (F.poisson_nll_loss, F.poisson_nll_loss, counts),
    ]
    for loss, function, target in named:
        y = target(torch.Generator().manual_seed(1), 6, (CLASSES,))
        v = direction(model)
        found = bnrewrite.transform(model, (x, y), loss=loss)(x, y, v)
        _, grad, hvp = truth(model, x, y, v, function)
        assert relative_error(found[1], grad) < EXACT and relative_error(found[2], hvp) < EXACT
