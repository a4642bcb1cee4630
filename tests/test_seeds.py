"""`python -m benchmarks.seeds`: every file that it promises, and numbers that satisfy what must hold, run after run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not installed

from benchmarks.seeds import pages, surface
from benchmarks.seeds.__main__ import STUDIES, main
from benchmarks.seeds.scaling import balance

QUICK = ["--quick", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of everything writes."""
    out = tmp_path_factory.mktemp("seeds")
    assert main([*QUICK, "--out", str(out)]) == 0
    return out


def results(folder: Path, study: str) -> Any:
    return json.loads((folder / STUDIES[study].file).read_text(encoding="utf-8"))["results"]


@pytest.fixture(scope="module")
def points(folder: Path) -> dict[str, Any]:
    """The first point of each case at random weights, by what stands in for BatchNorm."""
    return {row["norm"]: row["points"][0] for row in results(folder, "effect")["start"]}


# What is written -------------------------------------------------------------------------------------------------


def test_every_promised_file_is_there(folder: Path) -> None:
    assert {path.name for path in folder.glob("*.json")} == {study.file for study in STUDIES.values()}
    wanted = set()
    for page in {study.page for study in STUDIES.values()}:
        text = (folder / page).read_text(encoding="utf-8")
        wanted |= set(re.findall(r"\]\((\w+\.png)\)", text))
        assert not re.search(r"<!-- begin (\w+) -->\s*<!-- end \1 -->", text), (
            f"{page} has a place left empty"
        )
    assert wanted == {path.name for path in folder.glob("*.png")}
    for name in wanted:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_records_tell_what_they_were_measured_on(folder: Path) -> None:
    for study in STUDIES.values():
        record = json.loads((folder / study.file).read_text(encoding="utf-8"))
        assert record["environment"].keys() >= {"torch", "numpy", "cpu", "threads", "date", "seconds"}
        assert record["settings"]
        for text in (
            file.read_text(encoding="utf-8") for file in (folder / study.file, pages.HOME / study.file)
        ):
            assert '"/' not in text, "a record names a folder of the machine that it was made on"


def test_pages_of_the_repository_show_the_numbers_beside_them() -> None:
    """The tables in docs/seeds are those of the JSON files there."""
    for study in STUDIES.values():
        if study.parts is not None:
            text = (pages.HOME / study.page).read_text(encoding="utf-8")
            record = json.loads((pages.HOME / study.file).read_text(encoding="utf-8"))
            assert pages.filled(text, study.parts(record["results"])) == text


def test_words_around_the_generated_parts_stay() -> None:
    page = "before\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n"
    once = pages.filled(page, {"a": "| \\|x\\| \\1 |", "b": "two"})
    assert re.sub(r"(?s)(begin (\w) -->).*?(<!-- end \2)", r"\1\3", once) == re.sub(
        r"(?s)(begin (\w) -->).*?(<!-- end \2)", r"\1\3", page
    )
    assert "| \\|x\\| \\1 |" in once and "old" not in once
    assert pages.filled(once, {"a": "| \\|x\\| \\1 |", "b": "two"}) == once
    with pytest.raises(KeyError, match="begin c"):
        pages.filled(page, {"c": ""})


def test_same_numbers_again(folder: Path, tmp_path: Path) -> None:
    assert main([*QUICK, "--only", "effect,start", "--out", str(tmp_path)]) == 0
    for study in ("effect", "start"):
        assert results(tmp_path, study) == results(folder, study)


def test_unknown_study_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "effects"])
    message = capsys.readouterr().err
    assert "'effects'" in message and all(name in message for name in STUDIES)


def test_nothing_to_redraw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--redraw", "--out", str(tmp_path / "new")])
    assert "000.json to draw from; leave --redraw out" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# R = H - G --------------------------------------------------------------------------------------------------------


def test_parts_add_up(points: dict[str, Any]) -> None:
    for point in points.values():
        assert point["sum"] < 1e-12  # G g + R g against PyTorch's double backward, float64
        for form in (point["gradient"], *point["layers"]["gradient"]):
            rounding = 1e-6 * (form["G"] + abs(form["R"]))  # seven digits are kept
            assert form["H"] == pytest.approx(form["G"] + form["R"], abs=rounding)
            assert form["G"] >= 0
        for found in (point["random"], point["gradient"]["norms"]):
            sizes = [found[symbol] for symbol in ("H", "G", "R")]
            assert max(sizes) <= sum(sizes) / 2 * (1 + 1e-6)  # the triangle's inequality


def test_one_layer_alone_is_not_curved_by_relu(points: dict[str, Any]) -> None:
    """Without BatchNorm its blocks of R are zero, and only they; with it only those behind the last BatchNorm are."""
    plain, norm = (np.array(points[key]["layers"]["blocks"]["R"]) for key in ("none", "batch"))
    H = np.array(points["none"]["layers"]["blocks"]["H"])
    apart = ~np.eye(len(plain), dtype=bool)
    assert not plain.diagonal().any() and H.diagonal().all()
    assert (plain[apart] > 0.1 * H[apart]).all()
    assert norm.diagonal()[-1] == 0 and norm.diagonal()[:-1].all()
    assert [form["R"] == 0 for form in points["none"]["layers"]["gradient"]] == [True, True, True]
    assert [form["R"] == 0 for form in points["batch"]["layers"]["gradient"]] == [False, False, True]


def test_what_the_hessian_does_to_the_weights(points: dict[str, Any]) -> None:
    """Euler's theorem: two layers with ReLU behind each, R w = g; with BatchNorm behind each, G w = 0 and R w = -g."""
    found = points["none"]["weights"]
    assert found["of_gradient"] == pytest.approx(1, rel=1e-6) and found["rest"] < 1e-12
    found = points["batch"]["weights"]
    assert found["of_gradient"] == pytest.approx(-1, rel=1e-2)  # eps over the variance
    assert found["rest"] < 1e-2 and found["G"] < 1e-2 * found["R"]


# The plane and the initial weights ----------------------------------------------------------------------------------


def test_quadratic_model_is_that_of_the_loss(folder: Path) -> None:
    """Nearby, at random weights, the model from H is what remains of the loss; the model from G is not."""
    start, _ = results(folder, "surface")["planes"]
    wrong = {
        symbol: np.abs(surface.quadratic(start, symbol) - start["losses"]).max() for symbol in ("H", "G")
    }
    assert wrong["H"] < 0.1 * wrong["G"]
    directions = surface.orthogonal_pair(50)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-14)


@pytest.mark.parametrize("wanted", [None, 0.7])
def test_scales_solve_the_model_of_curvature(wanted: float | None) -> None:
    """log kappa = c + 2 sum of the other scales: one whole step is enough, and leaves the product where it may."""
    log_kappa = torch.tensor([3.0, -1.0, 0.5, 2.0])
    step = balance(log_kappa, wanted)
    after = log_kappa + 2 * (step.sum() - step)
    assert torch.allclose(after, torch.full((4,), log_kappa.mean() if wanted is None else wanted), atol=1e-6)
    assert wanted is not None or abs(step.sum()) < 1e-6


def test_scaling_levels_the_curvature(folder: Path) -> None:
    rows = results(folder, "start")["activations"]["relu"]["rows"]

    def spread(name: str, key: str) -> float:
        values = np.log(np.median(rows[name][key], axis=0))
        return float(values.max() - values.min())

    assert spread("equal", "mean") < 0.5 * spread("He", "mean")
    before, after = (np.abs(np.log(np.median(rows[name]["top"], axis=0))).max() for name in ("He", "unit"))
    assert after < 0.5 * before
