"""The speed benchmarks run and say what they found; how fast anything is, no test asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not installed

from benchmarks import appendix_f, scaling, speed
from benchmarks.speed_cases import CASES, quick
from benchmarks.speed_measure import measure
from benchmarks.speed_method import Method, Prepared, one
from benchmarks.speed_table import add_ratios

EVERY_ROW = {"method", "title", "kind", "baseline", "vectors", "status"}
TIMED = {"stages", "first", "error", "bar", "repeats", "seconds", "low", "high", "rounds", "times"}
RATIOS = {"of_best", "of_retained", "gradients"}


def test_smallest_network_gives_json_and_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, text = tmp_path / "speed.json", tmp_path / "speed.md"
    methods = "gradient,double_backward,retained,transform"
    arguments = f"--networks mlp_bn --methods {methods} --rounds 1 --vectors 2 --quick --no-memory".split()
    assert speed.main([*arguments, "--json", str(file), "--markdown", str(text)]) == 0
    found = json.loads(file.read_text())
    assert found["environment"].keys() >= {"torch", "onnxruntime", "numpy", "cpu", "threads", "date"}
    assert found["settings"] == {"rounds": 1, "vectors": 2, "limit": 300, "quick": True}
    (network,) = found["networks"]
    assert network["input"] == [16, 64]
    assert [row["method"] for row in network["rows"]] == methods.split(",")
    for row in network["rows"]:
        assert row.keys() == EVERY_ROW | TIMED | RATIOS
        assert row["status"] == "ok"
        assert row["error"] < 1e-5  # float32 on 6,666 parameters
    shown = capsys.readouterr().out
    for row in network["rows"]:
        assert row["title"] in text.read_text()
        assert row["title"] in shown


def test_wrong_missing_and_failing_methods_are_rows() -> None:
    case = quick("mlp_bn")
    right = speed.METHODS["double_backward"]

    def off(point: object) -> Prepared:
        prepared = right.prepare(point)  # type: ignore[arg-type]
        return Prepared(
            prepared.call,
            lambda result: one({n: 1.01 * part for n, part in prepared.products(result)[0].items()}),
        )

    def failing(point: object) -> Prepared:
        raise ValueError("no such\nthing")

    methods = {
        "right": right,
        "off": Method("off by a percent", "hvp", off, baseline=True),
        "failing": Method("failing", "hvp", failing),
        "missing": Method("missing", "hvp", failing, needs="a_package_that_is_not_there"),
    }
    rows = {row["method"]: row for row in measure(case, methods, vectors=1, rounds=1, limit=60)}
    assert {key: row["status"] for key, row in rows.items()} == {
        "right": "ok",
        "off": "wrong",
        "failing": "fails",
        "missing": "not installed",
    }
    assert rows["off"]["error"] == pytest.approx(0.01, rel=1e-3)
    assert rows["failing"]["reason"] == "ValueError: no such thing"
    add_ratios(list(rows.values()))
    assert rows["right"]["of_best"] == 1.0  # a wrong product is nothing to be compared with


def test_method_that_takes_too_long_is_given_up() -> None:
    def endless(point: object) -> Prepared:
        while True:
            pass

    methods = {"endless": Method("endless", "gradient", endless)}
    (row,) = measure(quick("mlp_bn"), methods, vectors=1, rounds=1, limit=0.1)
    assert (row["status"], row["reason"]) == ("fails", "TimeoutError: not done after 0.1 s")


def test_ratios_are_to_the_counterpart() -> None:
    def row(method: str, kind: str, seconds: float, baseline: bool, vectors: int = 1) -> dict[str, object]:
        return {
            "method": method, "kind": kind, "seconds": seconds, "baseline": baseline, "vectors": vectors,
            "status": "ok",
        }  # fmt: skip

    rows = [
        row("gradient", "gradient", 1.0, False),
        row("slow", "hvp", 8.0, True),
        row("fast", "hvp", 4.0, True),
        row("block", "hvp", 2.0, True, vectors=8),
        row("retained", "apply", 3.0, True),
        row("ours", "apply", 1.5, False),
        row("our block", "hvp", 1.0, False, vectors=8),
        row("ggn", "ggn", 5.0, False),
    ]
    add_ratios(rows)
    found = {r["method"]: (r["of_best"], r["of_retained"], r["gradients"]) for r in rows}
    assert found["slow"] == (2.0, None, 8.0)
    assert found["ours"] == (1.5 / 4, 0.5, 1.5)
    assert found["our block"] == (0.5, None, 1.0)
    assert found["ggn"] == (None, None, 5.0)


def test_case_is_the_same_in_both_precisions() -> None:
    case = quick("resnet8_digits")
    single, double = case.point(2), case.point(2, torch.float64)
    assert torch.equal(single.x.double(), double.x)
    for name, p in single.model.named_parameters():
        assert torch.equal(p.double(), double.model.get_parameter(name))
        assert torch.equal(single.vectors[1][name].double(), double.vectors[1][name])
    assert single.model.training


def test_scaling_steps_cover_what_they_promise() -> None:
    found = list(scaling.steps(["batch", "depth", "vectors"], quick=False))
    sizes = {(s.sweep, s.network): [] for s in found}
    for step in found:
        sizes[step.sweep, step.network].append(step.size)
        assert set(step.methods) <= speed.METHODS.keys()
    assert sizes["batch", "ResNet-8 on digits"] == [32, 64, 128, 256]
    assert sizes["depth", "residual, 6n + 2 layers"] == [8, 14, 20, 32]
    assert sizes["vectors", "ResNet-18, 32x32"] == [1, 2, 4, 8, 16]
    assert scaling.slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


@pytest.mark.parametrize("samples", [2, 5])
def test_module_hessian_is_that_of_autograd(samples: int) -> None:
    x = np.random.default_rng(0).random((samples, 3))
    expected = appendix_f.by_entry(x)
    # In units of gamma s^2: sums of five terms of that size.
    assert appendix_f.error(expected, x) < 1e-13
    assert appendix_f.error(expected + 1e-6, x) > 1e-8
    dense = appendix_f.closed_form(x)
    for i, k, m in np.ndindex(samples, samples, samples):
        for j in range(3):
            assert dense[i, j, k, j, m, j] == appendix_f.blocks(x)[i, k, m, j]


def test_appendix_f_draws(tmp_path: Path) -> None:
    plot, file = tmp_path / "f.svg", tmp_path / "f.json"
    assert (
        appendix_f.main(["--dimensions", "1,2", "--repeats", "1", "--plot", str(plot), "--json", str(file)])
        == 0
    )
    assert plot.read_text().count("<svg") == 1
    methods = json.loads(file.read_text())["methods"]
    assert methods.keys() == appendix_f.METHODS.keys()
    assert all(at.keys() == {"1", "2"} for at in methods.values())


def test_unknown_network_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--networks", "resnet1001"])
    message = capsys.readouterr().err
    assert "resnet1001" in message
    assert all(name in message for name in CASES)
