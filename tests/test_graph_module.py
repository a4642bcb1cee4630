"""The GraphModule as an object: sharing, names, metadata, copies, and the check at its door."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import bnrewrite
from bnrewrite.emit.graph_module import DIRECT
from bnrewrite.errors import InputError
from bnrewrite.models import MODELS

NAME = "resnet8_digits"


@pytest.fixture(scope="module")
def setting() -> tuple[nn.Module, fx.GraphModule, Tensor, Tensor, dict[str, Tensor]]:
    model = MODELS[NAME].build_small(dtype=torch.float64)
    x, y = MODELS[NAME].example(5, dtype=torch.float64)
    return model, bnrewrite.transform(model, (x, y)), x, y, direction(model)


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a[0], b[0]) and all(
        torch.equal(p[n], q[n]) for p, q in zip(a[1:], b[1:], strict=True) for n in q
    )


def test_results_are_plain_detached_tensors(setting) -> None:
    model, gm, x, y, v = setting
    loss, grad, hvp = gm(x, y, v)
    names = [name for name, _ in model.named_parameters()]
    assert list(grad) == list(hvp) == names
    assert not any(t.requires_grad for t in (loss, *grad.values(), *hvp.values()))
    with torch.no_grad():
        assert _same(gm(x, y, v), (loss, grad, hvp))


def test_parameters_are_shared(setting) -> None:
    model, gm, x, y, v = setting
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in gm.named_parameters())
    kept = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    try:
        assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < 1e-10
    finally:
        model.load_state_dict(kept)
        optimizer.zero_grad()


def test_nodes_are_named_after_modules_and_quantities(setting) -> None:
    _, gm, *_ = setting
    names = {node.name for node in gm.graph.nodes}
    for letter in ("y", "y_dot", "x_bar", "x_bar_dot", "gamma_bar", "gamma_bar_dot"):
        assert any(name.endswith(f"bn1_{letter}") for name in names), letter
    sites = {node.meta["site"] for node in gm.graph.nodes if "site" in node.meta}
    assert sites == {site["module"] for site in gm.meta["bnrewrite"]["sites"]}
    roles = {node.meta["role"] for node in gm.graph.nodes if "site" in node.meta}
    assert {"y", "y_dot", "x_bar", "x_bar_dot", "gamma_bar", "beta_bar", "gamma_bar_dot"} <= roles


def test_no_batch_norm_operation_is_left(setting) -> None:
    _, gm, *_ = setting
    assert not [node for node in gm.graph.nodes if "batch_norm" in str(node.target)]


def test_metadata_is_a_plain_dict(setting) -> None:
    model, gm, *_ = setting
    meta = gm.meta["bnrewrite"]
    assert pickle.loads(pickle.dumps(meta)) == meta
    assert meta["version"] == bnrewrite.__version__ and meta["loss"] == "cross_entropy"
    assert meta["products"] == ["hvp"] and meta["random_off"] == []
    assert meta["parameters"] == {name: list(p.shape) for name, p in model.named_parameters()}


def test_copies_and_pickles_compute_the_same(setting) -> None:
    _, gm, x, y, v = setting
    expected = gm(x, y, v)
    file = io.BytesIO()
    torch.save(gm, file)
    file.seek(0)
    for other in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm)), torch.load(file, weights_only=False)):
        assert _same(other(x, y, v), expected)
        assert other.meta["bnrewrite"] == gm.meta["bnrewrite"]
        assert [node.name for node in other.graph.nodes] == [node.name for node in gm.graph.nodes]
    assert "x_bar_dot" in gm.code


def test_float32_after_conversion(setting) -> None:
    model, gm, x, y, v = setting
    single = copy.deepcopy(gm).float()
    found = single(x.float(), y, {name: part.float() for name, part in v.items()})
    assert found[0].dtype == torch.float32 and all(t.dtype == torch.float32 for t in found[2].values())
    assert relative_error(found[2], truth(model, x, y, v)[2]) < 1e-4


def test_channels_last_input_gives_the_same_numbers(setting) -> None:
    model = MODELS["lenet5"].build_small(dtype=torch.float64)
    x, y = MODELS["lenet5"].example(5, dtype=torch.float64)
    gm, v = bnrewrite.transform(model, (x, y)), direction(model)
    assert relative_error(gm(x.to(memory_format=torch.channels_last), y, v)[2], gm(x, y, v)[2]) < 1e-12


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: None, "v must be a dict of tensors by parameter name, not NoneType"),
        (lambda v: {k: p for k, p in v.items() if k != "fc.bias"}, "v has no entry for 'fc.bias'"),
        (lambda v: v | {"extra": torch.ones(1)}, "entries that this graph does not know: 'extra'"),
        (
            lambda v: v | {"fc.bias": torch.ones(3)},
            r"v\['fc.bias'\] has shape \[3\], but this graph takes \[10\]",
        ),
        (lambda v: v | {"fc.bias": [1.0] * 10}, r"v\['fc.bias'\] must be a tensor, not list"),
    ],
)
def test_wrong_directions(setting, spoil, message: str) -> None:
    _, gm, x, y, v = setting
    with pytest.raises(InputError, match=message):
        gm(x, y, spoil(v))


def test_wrong_targets(setting) -> None:
    _, gm, x, y, v = setting
    with pytest.raises(InputError, match="target holds class 12, but the model has classes 0 to 9"):
        gm(x, y * 0 + 12, v)
    ignored = y.clone()
    ignored[0] = -100  # PyTorch's default for rows to leave out
    assert torch.isfinite(gm(x, ignored, v)[0])


def test_torch_compile_gives_the_same_numbers() -> None:
    model = MODELS["mlp_bn"].build_small(dtype=torch.float64)
    x, y = MODELS["mlp_bn"].example(6, dtype=torch.float64)
    gm, v = bnrewrite.transform(model, (x, y)), direction(model)
    compiled = torch.compile(gm, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x, y, v)[2], gm(x, y, v)[2]) < 1e-12


def test_forward_is_the_graph(setting) -> None:
    """Calls of PyTorch's own functions give what the graph's nodes give, bit for bit; `code` shows the nodes."""
    _, gm, x, y, v = setting
    flat = pytree.tree_leaves(fx.Interpreter(gm).run(x, y, v))
    found = pytree.tree_leaves(gm(x, y, v))
    assert all(torch.equal(a, b) for a, b in zip(flat, found, strict=True))
    assert "torch.ops.aten.mul.Tensor(" in gm.code
    for name, direct in DIRECT.items():
        operation, overload = name.split(".")
        assert hasattr(getattr(torch.ops.aten, operation), overload)
        *_, function = direct.split(".")
        assert hasattr(torch.Tensor if "Tensor" in direct else torch, function)
