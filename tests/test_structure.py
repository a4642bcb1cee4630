"""What mixes samples, against what float64 says: does output m move with input n, operation by operation too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pages import ROOT
from structure_cases import (
    LOSSES,
    NETWORKS,
    SHAPES,
    C,
    D,
    Everything,
    Of,
    columns,
    contrastive,
    fixed_batch,
    of_all,
)
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

import bnrewrite
from bnrewrite import StructureReport, analyze, losses
from bnrewrite.capture import capture
from bnrewrite.errors import InputError
from bnrewrite.models import example_for, lenet5
from bnrewrite.passes.graph import CapturedGraph
from bnrewrite.report.structures import MOST, figure, parts_of
from bnrewrite.structure.running import evaluate, runnable

aten = torch.ops.aten

Dependence = Callable[[Tensor], Tensor]


BATCH = 6
Y = torch.arange(BATCH) % C


@cache
def built() -> tuple[Everything, dict[str, Tensor]]:
    """All networks and their inputs, float64."""
    torch.manual_seed(0)
    model = Everything().double()
    return model, {name: torch.randn(BATCH, *shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """One network and its input."""
    model, inputs = built()
    return model.parts[list(NETWORKS).index(name)], inputs[NETWORKS[name].input]


@cache
def analysed() -> tuple[StructureReport, CapturedGraph]:
    """The report of all networks, and the graph that it is about."""
    model, inputs = built()
    graphs: list[CapturedGraph] = []

    def kept(*arguments: Any, **options: Any) -> CapturedGraph:
        graphs.append(capture(*arguments, **options))
        return graphs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnrewrite.structure.analysis.capture", kept)
        report = analyze(model, (inputs, Y), loss=of_all)
    return report, graphs[0]


def report_of_all() -> StructureReport:
    return analysed()[0]


@cache
def report_of(name: str) -> StructureReport:
    """The report of one network alone."""
    model, x = network(name)
    return analyze(model, (x, Y))


def inside(name: str, entries: Sequence[Any]) -> list[Any]:
    """The entries of the large report that are of one network."""
    path = f"parts.{list(NETWORKS).index(name)}"
    return [entry for entry in entries if f"{entry.module}.".startswith(f"{path}.")]


def blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(m, n): whether component m of the result has a derivative by sample n that is not zero."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    flat = jacobian.reshape(jacobian.shape[0], -1, len(x), x[0].numel())
    return flat.abs().amax((1, 3)) > 1e-12


# Whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_what_mixes_is_named_and_nothing_else(name: str) -> None:
    """The names are the expected ones; and there are none exactly where the Jacobian has no block between samples."""
    found = inside(name, report_of_all().mixing)
    start = len(f"parts.{list(NETWORKS).index(name)}.")
    assert tuple((entry.module[start:], entry.how) for entry in found) == NETWORKS[name].mixing
    apart = torch.equal(blocks(*network(name)), torch.eye(BATCH, dtype=torch.bool))
    assert apart is not bool(found)


def test_nothing_was_guessed() -> None:
    report = report_of_all()
    assert {node.decided for node in report.nodes} == {"rule"}
    assert not report.model_simd and report.loss_structure == "simd+reduction"
    assert not any(entry.in_loss for entry in report.mixing)


def test_samples_that_are_not_treated_alike_are_named() -> None:
    unlike = report_of_all().unlike
    assert [entry.operation for entry in inside("by place", unlike)] == ["add"]
    assert {entry.module.split(".")[1] for entry in unlike} == {
        str(list(NETWORKS).index(name)) for name in ("by place", "neighbours by slices")
    }
    report = report_of("by place")
    assert not report.model_simd and not report.mixing and report.exists("per_sample_gradients")


def test_rolled_output_is_not_simd_until_it_is_rolled_back() -> None:
    assert report_of("rolled and rolled back").model_simd
    assert not report_of("rolled").model_simd


def test_entries_say_where() -> None:
    (entry,) = inside("cnn, batch statistics", report_of_all().mixing)
    assert (entry.kind, entry.operation, entry.in_loss) == ("BatchNorm2d", "batch_norm", False)
    (entry,) = inside("cumulative", report_of_all().mixing)
    assert (entry.kind, entry.operation) == ("Of", "cumsum")
    assert "structure_cases.py" in entry.where


def test_where_the_batch_lies() -> None:
    def layouts(name: str) -> set[str]:
        return {node.batch for node in inside(name, report_of_all().nodes) if node.kind == "apart"}

    assert layouts("mlp") == {"axis 0"}
    assert "axis 0 as N x 3" in layouts("video")
    assert {"axis 0 as 2 x N", "axis 1"} <= layouts("two views of a batch")
    assert "axis 1" in layouts("transposed")
    assert {"axis 1 as N x 2", "axis 0 as N x 4"} <= layouts("own filters")


def test_fixed_batch() -> None:
    """Where the graph serves one batch size only, that one is walked over; here it has more samples than planes."""
    model = nn.Sequential(Of(fixed_batch), nn.BatchNorm1d(C))
    with pytest.warns(UserWarning, match="serves batch size 12 only"):
        report = analyze(model, (torch.randn(12, D), torch.arange(12) % C))
    assert report.samples == 12 and report.loss_structure == "simd+reduction"
    assert [(entry.module, entry.how) for entry in report.mixing] == [("1", "batch statistics")]
    with pytest.warns(UserWarning, match="serves batch size 12 only"):
        report = analyze(model, (torch.randn(12, D), torch.arange(12) % C), loss=contrastive)
    assert report.loss_structure == "reduction"
    assert [entry.operation for entry in report.mixing if entry.in_loss] == ["mm"]
    assert {node.decided for node in report.nodes} == {"rule"}


def test_bn_argument_overrides_the_mode() -> None:
    model, x = network("cnn, running statistics")
    assert [entry.module for entry in analyze(model, (x, Y), bn="batch").mixing] == ["1"]


# Every operation of a model ----------------------------------------------------------------------------------------


def test_every_operation_against_its_own_jacobian() -> None:
    """Each node's class, from its Jacobian by each operand and where the report says that the batch lies in both."""
    report, captured = analysed()
    inputs = built()[1]
    found = {node.name: node for node in report.nodes}
    entries = iter(captured.inputs)
    values: dict[fx.Node, Any] = {}
    layouts: dict[fx.Node, str] = {}
    checked: Counter[str] = Counter()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            entry = next(entries)
            given = {"input": lambda e: inputs[e.path[0]], "target": lambda e: Y}
            values[node] = given[entry.kind](entry) if entry.tensor is None else entry.tensor.detach()
            layouts[node] = "axis 0" if entry.kind == "input" else ""
        elif node.op == "call_function":
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = evaluate(runnable(node.target), args, kwargs)
            layouts[node] = found[node.name].batch if node.name in found else ""
            if node.name in found and isinstance(values[node], Tensor) and values[node].is_floating_point():
                kind = found[node.name].kind
                assert agrees(node, kind, values, layouts), (node, kind)
                checked[kind] += 1
    assert checked["apart"] > 80 and checked["mixes"] > 8
    assert set(checked) == {"free", "target", "apart", "permutes", "mixes", "reduces", "aggregate"} - {
        "target"
    }


def agrees(node: fx.Node, kind: str, values: dict[fx.Node, Any], layouts: dict[fx.Node, str]) -> bool:
    """Whether the class of a node is what its Jacobian shows."""
    result = values[node]
    across = shared = False
    for source in node.all_input_nodes:
        operand = values[source]
        if not isinstance(operand, Tensor) or not operand.is_floating_point() or not layouts[source]:
            continue
        if "spread" in (layouts[source], layouts[node]):  # out of order: whole models are checked
            return True

        def moved(replaced: Tensor, source: fx.Node = source) -> Tensor:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: replaced if n is source else values[n])
            return runnable(node.target)(*args, **kwargs)

        jacobian = torch.autograd.functional.jacobian(moved, operand).reshape(result.numel(), operand.numel())
        rows, entries = (jacobian.abs() > 1e-14).nonzero().T
        own, other = (
            columns(*pair, BATCH).reshape(-1)
            for pair in ((operand, layouts[source]), (result, layouts[node]))
        )
        across |= bool(((other[rows] != own[entries]) & (other[rows] >= 0)).any())
        shared |= bool((other[rows] < 0).any())
    if kind in ("apart", "free", "aggregate"):
        return not across and not shared
    return shared if kind == "reduces" else across


# Losses ------------------------------------------------------------------------------------------------------------


@cache
def with_loss(name: str) -> StructureReport:
    """The report of a linear layer with one of the losses."""
    return analyze(nn.Linear(D, C), (torch.randn(BATCH, D), target_of(name)), loss=LOSSES[name].loss)


def target_of(name: str) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(BATCH, C) if LOSSES[name].floating else Y


@pytest.mark.parametrize("name", LOSSES)
def test_loss_structure(name: str) -> None:
    """SIMD + reduction is additive in the components: no second derivative across two of them."""
    case, report, y = LOSSES[name], with_loss(name), target_of(name)
    assert report.loss_structure == case.structure
    assert tuple((entry.operation, entry.how) for entry in report.mixing) == case.breaks
    assert all(entry.in_loss for entry in report.mixing)
    assert all("structure_cases.py" in entry.where for entry in report.mixing)
    assert report.target_factor is case.target_factor
    assert report.model_simd
    criterion = losses.resolve(case.loss)
    assert criterion is not None
    hessian = torch.autograd.functional.hessian(lambda output: criterion(output, y), torch.randn(6, C))
    across = hessian.abs().amax((1, 3)) > 1e-6
    additive = torch.equal(across & ~torch.eye(6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool))
    assert additive is (case.structure == "simd+reduction")
    for quantity in ("per_sample_gradients", "per_component_gradients", "per_component_ggn", "ggn_diagonal"):
        assert report.exists(quantity) is additive
    assert report.exists("individual_losses") is (case.structure != "none")
    assert report.exists("ggn") and report.exists("ggn_low_rank") and report.exists("hvp")


class OwnLoss(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.body(x), y)


def test_model_that_returns_its_loss() -> None:
    example = (torch.randn(6, D), torch.arange(6) % C)
    report = analyze(OwnLoss(nn.Linear(D, C)), example, loss=None)
    assert report.model_simd and report.loss_structure == "simd+reduction"
    assert report.exists("per_sample_gradients") and not report.exists("ggn")
    report = analyze(OwnLoss(nn.Linear(D, C), nn.BatchNorm1d(C)), example, loss=None)
    assert [entry.module for entry in report.mixing] == ["body.1"]
    assert not report.model_simd and not report.exists("per_sample_gradients")


# What the quantities claim -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "mlp, batch norm"])
def test_quantities_are_what_they_claim(name: str) -> None:
    """Gradients of components sum to the gradient; G is a sum of N matrices of rank C, its diagonal one of squares of
    s_nc pulled back; whether they belong to single samples shows when another sample changes."""
    (model, x), y = network(name), Y
    parameters = dict(model.named_parameters())

    def output(weights: dict[str, Tensor], x: Tensor = x) -> Tensor:
        return torch.func.functional_call(model, weights, (x,))

    def loss(z: Tensor) -> Tensor:
        return nn.functional.cross_entropy(z, y, reduction="sum")

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients (N, D) and square roots of the GGN (N, C, D) of the components, with all else held."""
        jacobian = torch.func.jacrev(lambda w: output(w, x))(parameters)
        flat = torch.cat([part.reshape(len(x), C, -1) for part in jacobian.values()], -1)
        z = output(parameters, x).detach().requires_grad_()
        (dz,) = torch.autograd.grad(loss(z), z)
        p = z.softmax(1)
        hessians = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        values, vectors = torch.linalg.eigh(hessians.detach())
        roots = vectors * values.clamp(min=0).sqrt()[:, None]
        return torch.einsum("ncd,nc->nd", flat, dz), torch.einsum("ncd,nck->nkd", flat, roots)

    gradients, roots = parts(x)
    truth = torch.autograd.grad(loss(output(parameters)), list(parameters.values()))
    assert torch.allclose(gradients.sum(0), torch.cat([part.reshape(-1) for part in truth]), atol=1e-12)
    g = torch.einsum("nkd,nke->de", roots, roots)
    assert int(torch.linalg.matrix_rank(g, rtol=1e-10)) <= len(x) * C
    v = {key: torch.randn_like(part) for key, part in parameters.items()}
    gm = bnrewrite.transform(model, (x, y), loss=nn.CrossEntropyLoss(reduction="sum"), products=("ggn",))
    ours = torch.cat([part.reshape(-1) for part in gm(x, y, v)[2].values()])
    assert torch.allclose(g @ torch.cat([part.reshape(-1) for part in v.values()]), ours, atol=1e-10)
    other = torch.cat([x[:1], torch.randn_like(x[1:])])  # the first sample among others
    moves = not torch.allclose(parts(other)[0][0], gradients[0], atol=1e-10)
    assert report_of(name).exists("per_sample_gradients") is not moves
    assert report_of(name).exists("per_component_gradients") and report_of(name).exists("ggn_diagonal")


def test_parameters_after_the_last_mixing_can_go_back_at_once() -> None:
    model, x = network("cnn, batch statistics")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not report_of("cnn, batch statistics").exists("one_pass_for_all_samples")
    report = analyze(model, (x, Y), wrt=["5.*"])
    assert report.exists("one_pass_for_all_samples") and not report.exists("per_sample_gradients")
    assert model.training, "the model is not changed"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Operations without a rule -----------------------------------------------------------------------------------------


@torch.library.custom_op("bnrewrite_tests::centre", mutates_args=())
def centre(x: Tensor) -> Tensor:
    """An operation that nobody knows."""
    return x - x.mean(0)


@centre.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bnrewrite_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """Keeps samples apart, but refuses other values than its own."""
    if not torch.equal(x, x.clamp(-1, 1)):
        raise ValueError("out of range")
    return 2 * x


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Uses(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.first, self.op = nn.Linear(D, C), op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.first(x).tanh())


def test_unknown_operations_are_asked_or_taken_to_mix() -> None:
    example = (torch.randn(6, D), torch.arange(6) % C)
    report = analyze(Uses(centre), example)
    assert [(entry.operation, entry.how) for entry in report.mixing] == [("centre", "samples")]
    assert [node.decided for node in report.nodes if node.operation == "centre"] == ["perturbation"]
    report = analyze(Uses(doubled), example)
    assert [(entry.operation, entry.how) for entry in report.mixing] == [("doubled", "not proved otherwise")]
    assert "doubled (assumed) x 1" in str(report)


# The report --------------------------------------------------------------------------------------------------------


def test_report_as_text_and_json() -> None:
    report = report_of("mlp, batch norm")
    text = str(report)
    assert "mixes samples in 2 places" in text and "SIMD + reduction" in text
    assert "BatchNorm1d" in text and "batch statistics" in text
    assert all(name in text for name in report.quantities)
    loaded = json.loads(report.to_json())
    assert loaded == report.to_dict()
    assert loaded["mixing"][0]["module"] == "1" and loaded["quantities"]["hvp"]["exists"] is True
    with pytest.raises(InputError, match="no quantity is called 'nothing'; there are gradient"):
        report.exists("nothing")


def test_page_shows_what_is_printed() -> None:
    page = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    report = analyze(lenet5(), example_for("lenet5"))
    assert f"```\n{report}\n```" in page


def test_batch_of_one_is_refused_where_no_other_is_served() -> None:
    x, y = torch.randn(1, D), torch.zeros(1, dtype=torch.int64)
    fixed = nn.Sequential(nn.Unflatten(0, (1, 1)), nn.Flatten(0, 1), nn.Linear(D, C))
    with (
        pytest.warns(match="serves batch size 1 only"),
        pytest.raises(InputError, match="give a batch of at least two"),
    ):
        analyze(fixed, (x, y))


# Pictures ----------------------------------------------------------------------------------------------------------


def long_model(blocks: int = 3, layers: int = 4) -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(
            *(m for _ in range(layers) for m in (nn.Linear(D, D), nn.BatchNorm1d(D), nn.Tanh()))
        )

    return nn.Sequential(*(block() for _ in range(blocks)), nn.Linear(D, C))


def test_long_models_are_grouped_by_module() -> None:
    report = analyze(long_model(), (torch.randn(6, D), torch.arange(6) % C)).to_dict()
    parts = parts_of(report)
    assert [part.modules for part in parts] == [("0",), ("1",), ("2",), ("3",)]
    assert [len(part.mixing) for part in parts] == [4, 4, 4, 0]
    deep = nn.Sequential(long_model(1, 12))
    parts = parts_of(analyze(deep, (torch.randn(6, D), torch.arange(6) % C)).to_dict())
    assert 4 <= len(parts) <= MOST and sum(len(part.mixing) for part in parts) == 12


@pytest.mark.parametrize("loss", ["cross entropy", "contrastive", "root"])
def test_pictures_of_losses(loss: str) -> None:
    structure, drawn = LOSSES[loss].structure, texts(with_loss(loss))
    assert {"$x_{1}$", "$f$", "$F_{N}$", "$L$"} <= drawn
    assert ("$\\ell$" in drawn) is (structure == "simd+reduction")
    assert ("R" in drawn) is (structure != "none")


def test_picture_of_a_model_that_mixes(tmp_path: Path) -> None:
    report = report_of("mlp, batch norm")
    assert {"$f^{(1)}$", "1", "BatchNorm1d mixes samples", "$f^{(2)}$", "4", "$\\ell$"} <= texts(report)
    report.draw(tmp_path / "structure.svg")
    assert (tmp_path / "structure.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        report.draw(tmp_path / "structure.pdf")


def texts(report: StructureReport) -> set[str]:
    """All that is written in a picture; no two texts lie on each other, none is cut off."""
    picture = figure(report.to_dict())
    FigureCanvasAgg(picture).draw()
    found = [text for text in picture.findobj(Text) if text.get_text()]
    boxes = [text.get_window_extent() for text in found]
    for one, other in combinations(boxes, 2):
        both = one.intersection(one, other)
        assert both is None or min(both.width, both.height) < 2
    assert all(
        picture.bbox.contains(box.x0, box.y0) and picture.bbox.contains(box.x1, box.y1) for box in boxes
    )
    return {text.get_text() for text in found}
