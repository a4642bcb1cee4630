"""Every source of a model against double backward on the module that it was made from, at another batch size too."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import direction, relative_error, truth
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.cli import main
from bnrewrite.errors import BnrewriteError, CaptureError, FileError, InputError, UnsupportedOp
from bnrewrite.sources import as_module
from bnrewrite.sources.loading import load_source

EXACT = 1e-11
DYNAMIC = {0: torch.export.Dim.AUTO}


class Net(nn.Module):
    """BatchNorm with and without anything of its own, dropout, sizes in arithmetic, a tied and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.4)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.unused = nn.Linear(2, 2)
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.scale = 2.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        n, c, h, w = x.shape
        x = self.drop(x.view(n, c, -1).sum(-1) / (h * w))
        for _ in range(2):
            x = torch.tanh(self.a(x)) * self.scale
        return self.b(self.plain(x)) + x.size(0)


class Flow(nn.Module):
    """What scripting keeps of Python: loops, branches on sizes, lists, optional arguments, a BatchNorm's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.bn = nn.BatchNorm1d(4, momentum=None)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        found: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            if x.shape[0] > 1 and x.dim() == 2:
                found.append(torch.relu(x))
        a, b = torch.cat(found, 1).chunk(2, 1)
        if gate is not None:
            a = a * gate
        steps = 0
        while steps < 2:
            b = b + a / x.size(0)
            steps += 1
        return self.bn(a * b).reshape(x.shape[0], 2, -1).sum(-1)


def reloaded(module: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def program(model: nn.Module, *args: Tensor, dynamic: bool = True) -> torch.export.ExportedProgram:
    shapes = tuple(DYNAMIC for _ in args) if dynamic else None
    return torch.export.export(model, args, dynamic_shapes=shapes, strict=False)


def traced(model: nn.Module, *args: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, args, check_trace=False)


MAKE: dict[str, Callable[..., Any]] = {
    "scripted": lambda model, *args: torch.jit.script(model),
    "traced": traced,
    "traced-file": lambda model, *args: reloaded(traced(model, *args)),
    "exported": program,
    "decomposed": lambda model, *args: program(model, *args).run_decompositions(),
}


def data(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (batch,), generator=generator)


def error(model: nn.Module, gm: fx.GraphModule, x: Any, y: Tensor) -> float:
    """The larger one of gradient and product; `model` is the module that the source was made from."""
    known = gm.meta.get("bnrewrite", {}).get("parameters")  # none yet, where it is lazy
    v = {name: part for name, part in direction(model).items() if known is None or name in known}
    loss, grad, hvp = truth(model, x, y, v)
    found = gm(x, y, v)
    torch.testing.assert_close(found[0], loss)
    return max(relative_error(found[1], grad), relative_error(found[2], hvp))


@pytest.mark.filterwarnings("ignore:random numbers")
@pytest.mark.parametrize("kind", ["scripted", "traced-file", "exported", "decomposed"])
def test_source(kind: str) -> None:
    torch.manual_seed(0)
    model = Net().double()
    model.plain.eval()
    source = MAKE[kind](model, data(5)[0])
    before = copy.deepcopy(model.state_dict())
    for bn in {"traced-file": (None, "batch"), "decomposed": (None, "running")}.get(kind, (None,)):
        gm = bnrewrite.transform(source, data(5), bn=bn)
        names = [name for name, _ in model.named_parameters()]
        assert list(gm.meta["bnrewrite"]["parameters"]) == names
        twin = copy.deepcopy(model)
        if bn is not None:
            twin.bn.training = twin.plain.training = bn == "batch"
        assert max(error(twin, gm, *data(batch)) for batch in (5, 8)) < EXACT
        assert [site["module"] for site in gm.meta["bnrewrite"]["sites"]] == ["bn", "plain"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["scripted", "traced-file"])
def test_source_in_evaluation_mode(kind: str) -> None:
    torch.manual_seed(0)
    model = Net().double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        gm = bnrewrite.transform(MAKE[kind](model, data(5)[0]), data(5))
    assert error(model, gm, *data(7)) < EXACT
    assert {site["statistics"] for site in gm.meta["bnrewrite"]["sites"]} == {"running"}


def test_scripted_control_flow_on_sizes() -> None:
    torch.manual_seed(0)
    model = Flow().double()
    x, gate, y = (torch.randn(5, 4).double(), torch.rand(5, 4).double(), torch.randint(2, (5,)))
    source = reloaded(torch.jit.script(model))
    for input in (x, {"gate": gate, "x": x}):
        gm = bnrewrite.transform(source, (input, y))
        assert error(model, gm, input, y) < EXACT
    assert gm.meta["bnrewrite"]["dynamic_batch"]


def test_parameters_are_shared_with_the_source() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    exported, loaded = program(model, x), reloaded(torch.jit.script(model))
    of_program, of_file = (bnrewrite.transform(source, (x, y)) for source in (exported, loaded))
    with torch.no_grad():
        for parameter in (*exported.parameters(), *loaded.parameters()):
            parameter.mul_(1.5)  # the program's are the model's own
    assert error(model, of_program, x, y) < EXACT
    assert error(model, of_file, x, y) < EXACT


def test_a_scripted_part_of_a_module_and_a_scripted_loss() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model = nn.Sequential(part, nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    mixed = nn.Sequential(reloaded(torch.jit.script(part)), *model[1:])
    children = list(mixed.children())
    gm = bnrewrite.transform(mixed, (x, y), loss=torch.jit.script(nn.CrossEntropyLoss()))
    assert error(model, gm, x, y) < EXACT
    assert list(mixed.children()) == children
    assert [site["module"] for site in gm.meta["bnrewrite"]["sites"]] == ["0.1"]


@pytest.mark.parametrize("kind", ["scripted", "traced-file", "decomposed"])
def test_dropout_is_switched_off_with_a_warning(kind: str) -> None:
    source = MAKE[kind](nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(18, 4)).double(), data(5)[0])
    place = (
        "dropout" if kind == "traced-file" else "1"
    )  # a traced file keeps no names of modules without weights
    with pytest.warns(UserWarning, match=f"random numbers are switched off: '{place}' act"):
        bnrewrite.transform(source, data(5))
    with pytest.raises(CaptureError, match=f"module '{place}' draws random numbers .* random='error'"):
        bnrewrite.transform(source, data(5), random="error")


def test_a_program_of_one_batch_size_keeps_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    source = program(model, x, dynamic=False)
    with pytest.warns(UserWarning, match="serves batch size 5 only: the exported program does not serve"):
        gm = bnrewrite.transform(source, (x, y))
    assert error(model, gm, x, y) < EXACT
    with pytest.raises(CaptureError, match=r"does not serve such inputs .*== 5.*dynamic batch axis"):
        bnrewrite.transform(source, (x[:4], y[:4]), dynamic_batch=False)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return x


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: int = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x


class Checked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("three axes, please")
        return x


class Backend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_mkldnn else 2 * x


@pytest.mark.parametrize(
    ("part", "kind", "message"),
    [
        (Branch, CaptureError, r"data-dependent control flow at .*test_sources.py:\d+: "),
        (Counter, CaptureError, "sets its attribute 'calls'"),
        (Checked, InputError, r"refuses its input at .*test_sources.py:\d+: .*three axes, please"),
        (Backend, UnsupportedOp, "no support for the operation prim::is_mkldnn"),
    ],
)
def test_what_a_scripted_module_may_not_do(
    part: type[nn.Module], kind: type[BnrewriteError], message: str
) -> None:
    source = torch.jit.script(nn.Sequential(nn.Linear(3, 2), part()))
    with pytest.raises(kind, match=message):
        bnrewrite.transform(source, (torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)))


def test_what_is_no_model() -> None:
    with pytest.raises(
        InputError, match=r"model must be an nn.Module, a torch.export.ExportedProgram, .* not dict"
    ):
        bnrewrite.transform({}, (torch.zeros(2, 2), torch.zeros(2, 2)))  # type: ignore[arg-type]


# Lazily ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_without_an_example_the_first_call_captures(small: nn.Module) -> None:
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    eager, lazy = bnrewrite.transform(small, (x, y)), bnrewrite.transform(small)
    assert isinstance(lazy, fx.GraphModule)
    waiting = [lazy, copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))]
    for gm in waiting:
        assert error(small, gm, x, y) < EXACT
        assert gm.code == eager.code
        assert gm.meta["bnrewrite"] == eager.meta["bnrewrite"]
        for again in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
            assert error(small, again, x[:3], y[:3]) < EXACT
    assert lazy.get_parameter("0.weight") is small[0].weight
    assert waiting[1].get_parameter("0.weight") is not small[0].weight


def test_a_lazy_module_can_be_converted_before_its_first_call(small: nn.Module) -> None:
    lazy = bnrewrite.transform(small, loss="mse").to(torch.float32)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    assert lazy(x, y, direction(small))[2]["0.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrt": ["3.*", "nope"]}, "no parameter matches 'nope'"),
        ({"bn": "eval"}, "bn must be one of"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"vectors": 0}, "vectors must be the number"),
    ],
)
def test_arguments_of_a_lazy_module_are_checked_at_once(
    small: nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bnrewrite.transform(small, **options)


def test_a_lazy_module_that_cannot_be_captured_stays_lazy(small: nn.Module) -> None:
    lazy = bnrewrite.transform(small)
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    with pytest.raises(CaptureError, match="could not be captured"):
        lazy(x[:, :2], y, direction(small))
    assert error(small, lazy, x, y) < EXACT


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exported", "traced"])
def test_command_line_takes_the_file_of_a_model(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    source = MAKE[kind](model, torch.randn(6, 4))
    file = str(tmp_path / ("model.pt2" if kind == "exported" else "model.pt"))
    torch.export.save(source, file) if kind == "exported" else torch.jit.save(source, file)
    target = str(tmp_path / "curvature.onnx")
    assert main(["export", "--onnx", file, "-o", target, "--input", "4", "--batch", "5"]) == 0
    assert "act as in evaluation mode" in capfd.readouterr().err
    assert main(["verify", target, "--model", file]) == 0
    assert bnrewrite.verify(target, source).passed
    assert main(["inspect", file, "--input", "4"]) == 0
    assert "batch_norm" in capfd.readouterr().out


class Told:
    """Its pickle prints when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("EXECUTED",)


@pytest.mark.parametrize("name", ["model.pt2", "model.pt"])
@pytest.mark.parametrize("content", ["state dict", "pickle", "text"])
def test_files_that_hold_no_model(name: str, content: str, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / name
    if content == "text":
        path.write_text("no model")
    else:
        torch.save(Told() if content == "pickle" else nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(FileError, match=f"{name}' cannot be read as a"):
        load_source(str(path))
    assert capfd.readouterr() == ("", "")


def test_pickled_objects_in_an_archive_are_not_loaded(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "model.pt2"
    torch.export.save(program(nn.Linear(2, 2), torch.randn(3, 2)), path)
    assert list(dict(load_source(str(path)).named_parameters())) == ["weight", "bias"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/constants/opaque_obj_0", pickle.dumps(Told()))
    with pytest.raises(FileError, match=r"holds pickled objects .*opaque_obj_0"):
        load_source(str(path))


# The example -------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """The first input has no batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, table: Tensor, index: Tensor) -> Tensor:
        return self.bn(self.fc(table[index]))


def test_the_batch_axis_is_that_of_most_tensors() -> None:
    torch.manual_seed(0)
    model, table = Table().double(), torch.randn(9, 4).double()
    gm = bnrewrite.transform(model, ((table, torch.randint(9, (5,))), torch.randint(4, (5,))))
    assert gm.meta["bnrewrite"]["dynamic_batch"]
    assert error(model, gm, (table, torch.randint(9, (7,))), torch.randint(4, (7,))) < EXACT


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, target: Tensor, shift: Tensor) -> Tensor:
        return F.cross_entropy(self.bn(self.fc(x + shift)), target)


def test_a_model_that_returns_its_loss_takes_a_dict() -> None:
    torch.manual_seed(0)
    model, v = OwnLoss().double(), direction(OwnLoss().double())
    x, y = {"shift": torch.randn(5, 3).double(), "x": torch.randn(5, 3).double()}, torch.randint(4, (5,))
    gm = bnrewrite.transform(model, (x, y), loss=None)
    _, grad, hvp = truth(model, x, y, v, None)
    found = gm(x, y, v)
    assert max(relative_error(found[1], grad), relative_error(found[2], hvp)) < EXACT


def test_as_module_leaves_plain_modules_alone(small: nn.Module) -> None:
    assert as_module(small) is small
    gm = fx.symbolic_trace(small)
    assert as_module(gm) is gm


def test_a_module_of_an_exported_program_is_not_changed(small: nn.Module) -> None:
    x, y = torch.randn(5, 3).double(), torch.randint(2, (5,))
    source = program(small, x).module()
    code, modules = source.code, [type(module) for module in source.modules()]
    assert error(small, bnrewrite.transform(source, (x, y)), x[:3], y[:3]) < EXACT
    assert source.code == code
    assert [type(module) for module in source.modules()] == modules
