"""TorchScript files: the same numbers where there is no bnrewrite, at any batch size, and clear refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_files import CASES, check_results, run_fresh, write_calls
from reference import direction, relative_error, truth
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.emit.torchscript_source import argument, call, type_of
from bnrewrite.errors import FileError, InputError, UnsupportedOp
from bnrewrite.models import MODELS


def test_files_in_a_fresh_process(tmp_path: Path) -> None:
    cases = {name: make() for name, make in CASES.items()}
    paths = {name: tmp_path / f"{number}.pt" for number, name in enumerate(cases)}
    calls = {}
    for name, case in cases.items():
        bnrewrite.export_torchscript(case.model, paths[name], case.batches[0], loss=case.loss, **case.options)
        calls[name] = write_calls(case, paths[name])
    run_fresh(list(paths.values()))
    for name, case in cases.items():
        check_results(case, paths[name], calls[name])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, dict[str, Any]]:
    """A network, its file as loaded, and the file's metadata."""
    path = tmp_path_factory.mktemp("torchscript") / "mlp.pt"
    model = MODELS["mlp_bn"].build_small(dtype=torch.float64)
    bnrewrite.export_torchscript(model, path, MODELS["mlp_bn"].example(4, dtype=torch.float64))
    extra = {"bnrewrite": ""}
    return model, torch.jit.load(path, _extra_files=extra), json.loads(extra["bnrewrite"])


def test_types_names_and_metadata(loaded) -> None:
    model, scripted, meta = loaded
    assert str(scripted.forward.schema).split("->")[1] == " ((Tensor, Dict(str, Tensor), Dict(str, Tensor)))"
    assert list(scripted.state_dict()) == [name for name, _ in model.named_parameters()]
    assert meta["version"] == bnrewrite.__version__ and meta["products"] == ["hvp"]


def test_conversion_and_new_weights(loaded) -> None:
    """What the graph creates follows the type of the parameters; a loaded state dict is what the next call uses."""
    model, scripted, _ = loaded
    x, y = MODELS["mlp_bn"].example(6, dtype=torch.float64)
    v = direction(model)
    other = MODELS["mlp_bn"].build_small(dtype=torch.float64, seed=5)
    single = copy.deepcopy(scripted)
    single.load_state_dict(other.state_dict(), strict=False)
    single = single.float()
    loss, _, hvp = single(x.float(), y, {name: part.float() for name, part in v.items()})
    assert loss.dtype == torch.float32 and all(t.dtype == torch.float32 for t in hvp.values())
    assert relative_error(hvp, truth(other, x, y, v)[2]) < 1e-4


def _change(v: dict[str, Tensor], name: str, part: Tensor | None) -> dict[str, Tensor]:
    return {key: t for key, t in v.items() if key != name} | ({} if part is None else {name: part})


WRONG = {
    "missing": (lambda x, y, v: (x, y, _change(v, "layers.1.bias", None)), "v has no entry for 'layers.1.bias'"),
    "surplus": (lambda x, y, v: (x, y, _change(v, "w", x)), "does not know: 'w'"),
    "scalar": (lambda x, y, v: (x, y, _change(v, "layers.1.bias", x.sum())), r"v\['layers.1.bias'\] has shape \[\]"),
    "input": (lambda x, y, v: (x[:, :-1], y, v), r"input has shape \[6, 63\], the graph needs \[-1, 64\]"),
    "one sample": (lambda x, y, v: (x[:1], y[:1], v), "module 'layers.1' needs a batch of at least 2"),
    "class": (lambda x, y, v: (x, y + 9, v), "target holds a class outside of 0 to 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(loaded, case: str) -> None:
    model, scripted, _ = loaded
    spoil, message = WRONG[case]
    x, y = MODELS["mlp_bn"].example(6, dtype=torch.float64)
    ignored = y.clone()
    ignored[0] = -100
    scripted(x, ignored, direction(model))  # nothing is wrong with this
    with pytest.raises(torch.jit.Error, match=message):
        scripted(*spoil(x, y, direction(model)))


class Table(nn.Module):
    """The first input has one row whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, table: Tensor, x: Tensor) -> Tensor:
        return self.norm(self.lin(x + table))


def test_the_batch_is_not_always_the_first_input(tmp_path: Path) -> None:
    model = Table().double()
    table, x, y = torch.randn(1, 4).double(), torch.randn(5, 4).double(), torch.tensor([0, 2, 1, 1, 0])
    bnrewrite.export_torchscript(model, tmp_path / "c.pt", ((table, x), y))
    scripted, v = torch.jit.load(tmp_path / "c.pt"), direction(model)
    found = scripted((table, x[:3]), y[:3], v)[2]
    assert relative_error(found, truth(model, (table, x[:3]), y[:3], v)[2]) < 1e-10
    with pytest.raises(torch.jit.Error, match="module 'norm' needs a batch of at least 2"):
        scripted((table, x[:1]), y[:1], v)
    with pytest.raises(bnrewrite.errors.InputError, match="module 'norm' needs a batch of at least 2"):
        bnrewrite.transform(model, ((table, x), y))((table, x[:1]), y[:1], v)


def test_several_directions(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    bnrewrite.export_torchscript(model, tmp_path / "k.pt", (x[:3], y[:3]), vectors=2)
    several = [direction(model, seed) for seed in (1, 2)]
    stacked = {name: torch.stack([v[name] for v in several]) for name in several[0]}
    found = torch.jit.load(tmp_path / "k.pt")(x, y, stacked)[2]
    for i, v in enumerate(several):
        assert relative_error({n: part[i] for n, part in found.items()}, truth(model, x, y, v)[2]) < 1e-10


# What TorchScript cannot express -------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, parts: Any) -> Tensor:
        return self.fc(parts["x"]) * parts["more"][0]


def test_refused_arguments(tmp_path: Path) -> None:
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    example = (({"x": x, "more": (torch.ones(5, 3),)},), y)
    with pytest.raises(
        InputError, match=r"input\[0\] holds entries of several types \(Tensor, Tuple\[Tensor\]\)"
    ):
        bnrewrite.export_torchscript(Odd(), tmp_path / "odd.pt", example)
    with pytest.raises(InputError, match="is of type NoneType, which has no type in TorchScript"):
        type_of((x, None), "input")
    with pytest.raises(FileError, match="there is no directory"):
        bnrewrite.export_torchscript(nn.Linear(4, 3), tmp_path / "none" / "odd.pt", (x, y))
    assert list(tmp_path.iterdir()) == []


def test_refused_operations() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    with pytest.raises(UnsupportedOp, match=r"TorchScript cannot express it: export to ONNX or \.pt2"):
        call(graph.call_function(torch.sin, (x,)), {x: "x"})
    with pytest.raises(UnsupportedOp, match="a value of type complex cannot be written"):
        call(graph.call_function(torch.ops.aten.mul.Tensor, (x, 1j)), {x: "x"})


def test_arguments_are_written_in_the_type_of_the_schema() -> None:
    node = fx.Graph().placeholder("x")
    assert argument([], {}, "List[int]") == "torch.jit.annotate(List[int], [])"
    assert argument([None, node], {node: "x"}, "List[Optional[Tensor]]") == (
        "torch.jit.annotate(List[Optional[Tensor]], [None, x])"
    )
    assert argument([1, 2.5], {}, "Optional[List[float]]") == "[1.0, 2.5]"
    assert argument(float("-inf"), {}) == 'float("-inf")'
    assert argument(torch.float64, {}, "Optional[int]") == "torch.float64"
