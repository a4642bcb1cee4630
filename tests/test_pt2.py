"""torch.export archives: the same numbers where there is no bnrewrite, at any batch size from 2 on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from exported_files import CASES, check_results, run_fresh, write_calls
from torch import nn

import bnrewrite
from bnrewrite.errors import FileError

CHOSEN = ("by the input", "tuple", "dict")


def test_files_in_a_fresh_process(tmp_path: Path) -> None:
    cases = {name: CASES[name]() for name in CHOSEN}
    paths = {name: tmp_path / f"{number}.pt2" for number, name in enumerate(cases)}
    calls = {}
    for name, case in cases.items():
        bnrewrite.export_pt2(case.model, paths[name], case.batches[0], loss=case.loss, **case.options)
        calls[name] = write_calls(case, paths[name])
    run_fresh(list(paths.values()))
    for name, case in cases.items():
        check_results(case, paths[name], calls[name])


def test_names_metadata_wrong_arguments_and_privacy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = (
        torch.randn(4, 4),
        torch.tensor([0, 1, 2, 0]),
    )  # a batch as large as the features: it stays symbolic
    path = tmp_path / "curvature.pt2"
    bnrewrite.export_pt2(model, path, (x, y))
    extra = {"bnrewrite": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["bnrewrite"])["loss"] == "cross_entropy"
    assert list(program.state_dict) == [name for name, _ in model.named_parameters()]
    assert program.example_inputs is None  # the user's data is not in the file
    module, v = program.module(), {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert module(x.repeat(2, 1), y.repeat(2), v)[0].isfinite()
    for wrong in (v | {"0.bias": torch.zeros(1)}, v | {"more": x}, {}):
        with pytest.raises((RuntimeError, ValueError, AssertionError)):
            module(x, y, wrong)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no directory"):
        bnrewrite.export_pt2(
            nn.Linear(2, 2), tmp_path / "none" / "y.pt2", (torch.ones(3, 2), torch.tensor([0, 1, 0]))
        )
    assert list(tmp_path.iterdir()) == []
