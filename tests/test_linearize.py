"""A linearized graph: primal and apply together are exact, apply repeats nothing dear, residuals fit their budget."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from exported_files import CASES, Case
from onnx.reference import ReferenceEvaluator
from reference import direction, relative_error, truth
from small_networks import data, network
from torch import Tensor, fx, nn

import bnrewrite
from bnrewrite.cli import commands
from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.linearized import build_apply, build_primal
from bnrewrite.errors import FileError, InputError
from bnrewrite.options import Options
from bnrewrite.passes.graph import JointGraph
from bnrewrite.passes.linearize import can_be_repeated, linearize

BAR = 1e-11  # float64; the networks here are shallow
SAME = 1e-14  # the same operations in the same order: only a sum of two products may round in another way
DEAR = ("convolution", "mm", "bmm", "sum", "mean", "max_pool2d", "_log_softmax", "gather", "scatter_add")
"""Operations that are never done twice."""


NAMES = ("mlp_bn", "resnet8_digits", "mobile_block")


@pytest.fixture(scope="module")
def joints() -> dict[str, JointGraph]:
    """Joint graphs of networks with the weights of `network`: compiled once, cut in many ways."""
    options = Options(products=("ggn", "hvp"))
    return {name: compile_joint(network(name), data(name, 6), options) for name in NAMES}


def together(primal: fx.GraphModule, apply: fx.GraphModule, x: Any, y: Any, v: Any) -> tuple[Any, ...]:
    """(loss, gradient, products)."""
    loss, grad, residuals = primal(x, y)
    products = apply(residuals, v)
    return loss, grad, *(products if isinstance(products, tuple) else (products,))


# Exactness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_both_products_at_another_batch_size(joints: dict[str, JointGraph], name: str) -> None:
    model, joint = network(name), joints[name]
    (x, y), v = data(name, 5), direction(model)
    expected = truth(model, x, y, v)
    expected_ggn = truth(model, x, y, v, product="ggn")[2]
    for memory in ("least", None, "most"):
        parts, check = linearize(joint, 6, memory), door_check(joint)
        primal, apply = build_primal(parts.primal, check), build_apply(parts.apply, check)
        loss, grad, ggn, hvp = together(primal, apply, x, y, v)
        assert abs(float(loss - expected[0])) <= BAR * abs(float(expected[0]))
        assert relative_error(grad, expected[1]) < BAR
        assert relative_error(hvp, expected[2]) < BAR
        assert relative_error(ggn, expected_ggn) < BAR
        assert [list(part) for part in (grad, ggn, hvp)] == [list(v)] * 3


def test_one_point_serves_many_directions() -> None:
    model = network("tiny")
    (x, y), (primal, apply) = data("tiny", 7), bnrewrite.linearize(model, data("tiny", 6))
    _, _, residuals = primal(x, y)
    for seed in (1, 2):
        v = direction(model, seed)
        assert relative_error(apply(residuals, v), truth(model, x, y, v)[2]) < BAR


def test_several_directions_at_once() -> None:
    model = network("tiny")
    primal, apply = bnrewrite.linearize(model, data("tiny", 6), vectors=3)
    (x, y), vs = data("tiny", 5), [direction(model, seed) for seed in range(3)]
    products = apply(primal(x, y)[2], {name: torch.stack([v[name] for v in vs]) for name in vs[0]})
    for k, v in enumerate(vs):
        found = {name: product[k] for name, product in products.items()}
        assert relative_error(found, truth(model, x, y, v)[2]) < BAR


def test_chosen_parameters() -> None:
    model = network("mobile_block")
    primal, apply = bnrewrite.linearize(model, data("mobile_block", 6), wrt=["0.*", "4.weight"])
    (x, y), whole = data("mobile_block", 5), direction(model)
    v = {name: whole[name] for name in apply.meta["bnrewrite"]["parameters"]}
    assert 0 < len(v) < len(whole)
    _, grad, hvp = together(primal, apply, x, y, v)
    expected = truth(model, x, y, v)
    assert relative_error(grad, expected[1]) < BAR and relative_error(hvp, expected[2]) < BAR


def test_running_statistics() -> None:
    model = network("mobile_block")
    primal, apply = bnrewrite.linearize(model, data("mobile_block", 6), bn="running")
    (x, y), v = data("mobile_block", 1), direction(model)
    assert relative_error(together(primal, apply, x, y, v)[2], truth(model.eval(), x, y, v)[2]) < BAR


@pytest.mark.parametrize("name", ["by the input", "tuple", "dict"])
def test_other_arguments_give_what_the_whole_graph_gives(name: str) -> None:
    """Several inputs, a direction for the input, sizes of the batch in arithmetic."""
    case: Case = CASES[name]()
    whole = bnrewrite.transform(case.model, case.batches[0], loss=case.loss, **case.options)
    parts = bnrewrite.linearize(case.model, case.batches[0], loss=case.loss, **case.options)
    for x, y in case.batches:
        v = case.directions((x, y))
        found, expected = together(*parts, x, y, v), whole(x, y, v)
        assert relative_error({"": found[0]}, {"": expected[0]}) < SAME
        for part, reference in zip(found[1:], expected[1:], strict=True):
            assert relative_error(part, reference) < SAME


# The cut -------------------------------------------------------------------------------------------------------------


def calls(joint: JointGraph) -> Counter[str]:
    """How often each of the dear operations is called."""
    names = (str(n.target) for n in joint.graph.nodes if n.op == "call_function")
    kinds = (next((kind for kind in DEAR if name.startswith(f"aten.{kind}")), "") for name in names)
    return Counter(kind for kind in kinds if kind)


def directed(joint: JointGraph) -> set[fx.Node]:
    """The nodes that depend on a direction."""
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    found = {n for n, entry in zip(placeholders, joint.inputs, strict=True) if entry.kind == "vector"}
    for node in joint.graph.nodes:
        if found.intersection(node.all_input_nodes):
            found.add(node)
    return found


@pytest.mark.parametrize("memory", ["least", None, "most", 1 << 40])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_dear_is_done_twice(joints: dict[str, JointGraph], name: str, memory: Any) -> None:
    joint = joints[name]
    parts = linearize(joint, 6, memory)
    assert calls(parts.primal) + calls(parts.apply) == calls(joint)
    assert not any(entry.kind == "vector" for entry in parts.primal.inputs)
    assert {entry.kind for entry in parts.apply.inputs} <= {
        "input",
        "parameter",
        "buffer",
        "constant",
        "vector",
    }
    own = directed(parts.apply)
    again = [n for n in parts.apply.graph.nodes if n.op == "call_function" and n not in own]
    assert all(can_be_repeated(n) or isinstance(n.meta["val"], torch.SymInt) for n in again)
    assert any(name.startswith("convolution") for name in calls(parts.apply)) or name == "mlp_bn"


def test_more_memory_less_work(joints: dict[str, JointGraph]) -> None:
    for joint in joints.values():
        least, balanced, most = (linearize(joint, 6, memory) for memory in ("least", None, "most"))
        assert least.residual_bytes < balanced.residual_bytes <= most.residual_bytes
        work = [len(parts.apply.graph.nodes) - len(parts.apply.inputs) for parts in (least, balanced, most)]
        assert work[0] > work[1] >= work[2]
        views = [
            n for n in most.apply.graph.nodes if n.op == "call_function" and n not in directed(most.apply)
        ]
        assert all(n.target.is_view for n in views if isinstance(n.meta["val"], Tensor))


def test_a_budget_is_kept(joints: dict[str, JointGraph]) -> None:
    joint = joints["mobile_block"]
    least, most = (linearize(joint, 6, memory).residual_bytes for memory in ("least", "most"))
    sizes = [linearize(joint, 6, least + (most - least) * k // 4).residual_bytes for k in range(5)]
    assert sizes == sorted(sizes) and sizes[0] == least and sizes[-1] == most
    assert all(size <= least + (most - least) * k // 4 for k, size in enumerate(sizes))
    assert len(set(sizes)) >= 4  # a budget is made use of
    assert linearize(joint, 6, most * 2).residual_bytes == most
    with pytest.raises(InputError, match=f"memory={least - 1} is too little: .* take at least {least} bytes"):
        linearize(joint, 6, least - 1)


def test_the_bytes_are_those_of_the_tensors(setting) -> None:
    _, primal, apply, *_ = setting
    residuals = primal(*data("resnet8_digits", 6))[2]
    meta = apply.meta["bnrewrite"]
    assert (
        sum(r.nbytes for r in residuals)
        == meta["residual_bytes"]
        == primal.meta["bnrewrite"]["residual_bytes"]
    )
    described = [[str(r.dtype)[6:], ["N" if s == 6 else s for s in r.shape]] for r in residuals]
    assert meta["residuals"] == primal.meta["bnrewrite"]["residuals"] == described
    assert meta["part"] == "apply" and primal.meta["bnrewrite"]["part"] == "primal"


def test_a_size_that_no_residual_tells() -> None:
    """The product by the bias of a linear layer reads nothing of the batch but its size: a tensor is saved for that."""
    model, g = nn.Linear(3, 2).double(), torch.Generator().manual_seed(0)
    (x, y), (x2, y2) = (
        (torch.randn(n, 3, generator=g).double(), torch.randn(n, 2, generator=g).double()) for n in (6, 4)
    )
    primal, apply = bnrewrite.linearize(model, (x, y), loss="mse", wrt="bias", memory="least")
    assert ["float64", ["N", 2]] in primal.meta["bnrewrite"]["residuals"]
    v = {"bias": torch.tensor([1.0, -2.0]).double()}
    assert relative_error(together(primal, apply, x2, y2, v)[2], truth(model, x2, y2, v, loss="mse")[2]) < BAR


class Diamond(nn.Module):
    """One large tensor of which two element-wise chains are read: the cut saves it, and not the chains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 64), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.second(torch.sin(z) * torch.exp(-z.square()))


def test_the_cut_of_a_small_graph_by_hand() -> None:
    model = Diamond().double()
    primal, _ = bnrewrite.linearize(model, (torch.ones(6, 4).double(), torch.zeros(6).long()), memory="least")
    shapes = Counter(tuple(shape) for _, shape in primal.meta["bnrewrite"]["residuals"])
    # z itself and the adjoint of the product; nothing else of that size.
    assert shapes["N", 64] == 2
    assert shapes["N", 4] == 1  # the input, for the weight's derivative


# As modules ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting() -> tuple[nn.Module, fx.GraphModule, fx.GraphModule, Tensor, Tensor, dict[str, Tensor]]:
    model = network("resnet8_digits")
    return (
        model,
        *bnrewrite.linearize(model, data("resnet8_digits", 6)),
        *data("resnet8_digits", 5),
        direction(model),
    )


def test_parameters_are_shared(setting) -> None:
    model, primal, apply, x, y, v = setting
    own = dict(model.named_parameters())
    for part in (primal, apply):
        assert dict(part.named_parameters())
        assert all(parameter is own[name] for name, parameter in part.named_parameters())
    kept = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    try:
        assert relative_error(together(primal, apply, x, y, v)[2], truth(model, x, y, v)[2]) < BAR
    finally:
        model.load_state_dict(kept)
        optimizer.zero_grad()


def test_copies_and_pickles_compute_the_same(setting) -> None:
    _, primal, apply, x, y, v = setting
    expected = together(primal, apply, x, y, v)[2]
    for copied in (copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))):
        parts = copied(primal), copied(apply)
        assert all(torch.equal(t, expected[n]) for n, t in together(*parts, x, y, v)[2].items())
        assert [part.meta["bnrewrite"] for part in parts] == [p.meta["bnrewrite"] for p in (primal, apply)]
        assert [n.name for n in parts[1].graph.nodes] == [n.name for n in apply.graph.nodes]


def test_conversion_to_float32(setting) -> None:
    model, primal, apply, x, y, v = setting
    single = copy.deepcopy(primal).float(), copy.deepcopy(apply).float()
    found = together(*single, x.float(), y, {name: part.float() for name, part in v.items()})
    assert all(t.dtype == torch.float32 for part in found[1:] for t in part.values())
    assert relative_error(found[2], truth(model, x, y, v)[2]) < 1e-4


def test_nodes_keep_their_names_and_sites(setting) -> None:
    _, primal, apply, *_ = setting
    sites = {site["module"] for site in apply.meta["bnrewrite"]["sites"]}
    for part, letters in ((primal, ("y", "x_bar")), (apply, ("y_dot", "x_bar_dot", "gamma_bar_dot"))):
        assert {n.meta["site"] for n in part.graph.nodes if "site" in n.meta} == sites
        for letter in letters:
            assert any(n.name.endswith(f"bn1_{letter}") for n in part.graph.nodes), letter


def test_wrong_arguments(setting) -> None:
    model, primal, apply, x, y, v = setting
    residuals = primal(x, y)[2]
    with pytest.raises(InputError, match=f"residuals has {len(residuals) - 1} tensors, but this graph takes"):
        apply(residuals[:-1], v)
    with pytest.raises(InputError, match="residuals must be the third result of primal"):
        apply(None, v)
    with pytest.raises(
        InputError, match=r"residual 0 has shape \[2\], but this graph takes \[any, 1, 8, 8\]"
    ):
        apply((torch.ones(2), *residuals[1:]), v)
    with pytest.raises(InputError, match=r"v has no entry for 'fc.bias'"):
        apply(residuals, {name: part for name, part in v.items() if name != "fc.bias"})
    with pytest.raises(InputError, match="target holds class 12"):
        primal(x, y * 0 + 12)
    for memory in ("all", -1, 2.5, True):
        with pytest.raises(InputError, match="memory must be 'least', 'most', None or a number of bytes"):
            bnrewrite.linearize(model, (x, y), memory=memory)
    with pytest.raises(InputError, match="memory=1 is too little"):
        bnrewrite.linearize(network("tiny"), data("tiny", 6), memory=1)


# Files ---------------------------------------------------------------------------------------------------------------


def run_pair(
    folder: Path, given: Mapping[str, Any], v: Mapping[str, Tensor], load: Any
) -> dict[str, np.ndarray]:
    """All outputs of both files."""
    found: dict[str, np.ndarray] = {}
    feeds = {name: t.detach().numpy() for name, t in given.items()}
    feeds |= {f"v.{name}": t.numpy() for name, t in v.items()}
    for part in ("primal", "apply"):
        model = onnx.load(folder / f"curvature.{part}.onnx")
        feed = {entry.name: (feeds | found)[entry.name] for entry in model.graph.input}
        names = [entry.name for entry in model.graph.output]
        found |= dict(zip(names, map(np.asarray, load(model).run(names, feed)), strict=True))
    return found


def by_ort(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString())


def metadata(folder: Path) -> list[dict[str, Any]]:
    models = (onnx.load(folder / f"curvature.{part}.onnx") for part in ("primal", "apply"))
    return [json.loads(model.metadata_props[0].value) for model in models]


@pytest.mark.parametrize(
    ("name", "readers", "options"),
    [
        ("mlp_bn", (by_ort, ReferenceEvaluator), {"products": ("residual", "ggn")}),
        ("tiny", (by_ort,), {"params": "inputs", "memory": "most"}),
        ("mobile_block", (by_ort,), {"vectors": 2, "memory": "least"}),
    ],
)
def test_the_files(name: str, readers: Sequence[Any], options: dict[str, Any], tmp_path: Path) -> None:
    model, (x, y) = network(name), data(name, 5)
    written = bnrewrite.export_onnx(
        model, tmp_path / "curvature.onnx", data(name, 6), linearize=True, **options
    )
    assert written == [tmp_path / "curvature.primal.onnx", tmp_path / "curvature.apply.onnx"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    v, count = direction(model), options.get("vectors")
    given = {"input": x, "target": y, **dict(model.named_parameters())}
    stacked = (
        v if count is None else {k: torch.stack([(i + 1) * t for i in range(count)]) for k, t in v.items()}
    )
    for load in readers:
        found = run_pair(tmp_path, given, stacked, load)
        for product in options.get("products", ("hvp",)):
            loss, grad, expected = truth(model, x, y, v, product=product)
            assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-9)
            assert relative_error({k: found[f"grad.{k}"] for k in v}, grad) < 1e-9
            parts = {k: found[f"{product}.{k}"] for k in v}
            if count is not None:
                parts = {k: part[1] / 2 for k, part in parts.items()}
            assert relative_error(parts, expected) < 1e-9
    primal, apply = metadata(tmp_path)
    assert primal.pop("part") == "primal" and apply.pop("part") == "apply"
    assert primal == apply and len(primal["pair"]) == 32
    residuals = [found[f"residual.{i}"] for i in range(len(primal["residuals"]))]
    shapes = [["N" if size == 5 else size for size in r.shape] for r in residuals]
    assert [[str(r.dtype), shape] for r, shape in zip(residuals, shapes, strict=True)] == primal["residuals"]


def test_inputs_and_outputs_are_those_of_the_contract(tmp_path: Path) -> None:
    model = network("tiny")
    bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", data("tiny", 6), linearize=True)
    primal, apply = (onnx.load(tmp_path / f"curvature.{part}.onnx").graph for part in ("primal", "apply"))
    names = [name for name, _ in model.named_parameters()]
    residuals = [f"residual.{i}" for i in range(len(metadata(tmp_path)[0]["residuals"]))]
    assert [i.name for i in primal.input] == ["input", "target"]
    assert [o.name for o in primal.output] == ["loss", *(f"grad.{n}" for n in names), *residuals]
    assert [i.name for i in apply.input] == [*residuals, *(f"v.{n}" for n in names)]
    assert [o.name for o in apply.output] == [f"hvp.{n}" for n in names]
    batch = {i.name: i.type.tensor_type.shape.dim[0].dim_param for i in apply.input}
    assert batch["residual.0"] == "N"
    assert {t.name for t in apply.initializer} & set(names)


def test_pairs_are_told_apart(tmp_path: Path) -> None:
    model, ids = network("tiny"), []
    for _ in range(2):
        bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", data("tiny", 6), linearize=True)
        ids.append(metadata(tmp_path)[1]["pair"])
    with torch.no_grad():
        next(model.parameters())[0] += 1e-9
    bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", data("tiny", 6), linearize=True)
    assert ids[0] == ids[1] != metadata(tmp_path)[1]["pair"]


def test_both_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "curvature.apply.onnx").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*curvature\.apply\.onnx"):
        bnrewrite.export_onnx(network("tiny"), tmp_path / "curvature.onnx", data("tiny", 6), linearize=True)
    assert [path.name for path in tmp_path.iterdir()] == ["curvature.apply.onnx"]
    with pytest.raises(InputError, match="pass linearize=True too"):
        bnrewrite.export_onnx(network("tiny"), tmp_path / "one.onnx", data("tiny", 6), memory="least")


def test_the_command(tmp_path: Path) -> None:
    arguments = [
        "export",
        "bnrewrite.models:mlp_bn",
        "-o",
        str(tmp_path / "c.onnx"),
        "--input",
        "64",
        "--linearize",
    ]
    done = CliRunner().invoke(commands, arguments, standalone_mode=False)
    assert done.exception is None
    assert "c.primal.onnx" in done.stdout and "c.apply.onnx" in done.stdout and "residuals" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.apply.onnx", "c.primal.onnx"]
    for part in ("primal", "apply"):
        shown = CliRunner().invoke(
            commands, ["inspect", str(tmp_path / f"c.{part}.onnx")], standalone_mode=False
        )
        assert shown.exception is None and "layers.1" in shown.stdout
        refused = CliRunner().invoke(
            commands, ["verify", str(tmp_path / f"c.{part}.onnx")], standalone_mode=False
        )
        assert f"is the {part} part of a pair, and verify takes single files" in str(refused.exception)
    refused = CliRunner().invoke(commands, [*arguments, "--pt2"], standalone_mode=False)
    assert "--linearize is for ONNX files" in str(refused.exception)
