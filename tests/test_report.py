"""Pictures and pages of results: they show the numbers that they were given, all of their text can be read, and they
are the same every time."""

from __future__ import annotations

import base64
import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from pages import ROOT

from bnrewrite import report
from bnrewrite.errors import FileError, InputError
from bnrewrite.report import figures, page, sections
from bnrewrite.report.landscapes import contour_levels
from bnrewrite.report.results import extremes, shortened, shown, with_error

Result = dict[str, Any]

BASE: Result = {
    "kind": "curvature", "file": "curvature.onnx", "data": {"source": "digits.npz", "batches": 3, "samples": 360},
    "statistics": "batch", "dtype": "float32", "parameters": 78042, "loss_name": "cross_entropy", "version": "0.1",
    "matrix": "hessian", "loss": 0.03125, "gradient_norm": 0.25, "complete": True,
}  # fmt: skip
EIGS: Result = {
    "which": "LM", "values": [34.0625, 21.5, 8.0, -0.75], "residuals": [1e-4, 2e-3, 0.5, 0.01], "products": 40,
    "seconds": 3.2, "complete": True,
}  # fmt: skip
TRACE: Result = {
    "value": 1234.5, "standard_error": 34.56, "mean_eigenvalue": 0.0158, "method": "hutchinson", "products": 20,
    "seconds": 2.0, "complete": True,
}  # fmt: skip


def density(low: float = -1.0, high: float = 34.0, **changes: Any) -> Result:
    """A bulk at zero and single eigenvalues at both ends, of 78042, each a bell."""
    sigma = (high - low) / 100
    grid = np.linspace(low - 4 * sigma, high + 4 * sigma, 512)
    bells = np.exp(-(((grid[:, None] - [0.0, low, high]) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    height = bells @ [1.0, 1e-3, 1 / 78042]
    found = {
        "grid": grid.tolist(), "density": height.tolist(), "standard_error": (0.2 * height).tolist(), "sigma": sigma,
        "support": [low, high], "probes": 4, "steps": 64, "products": 256, "complete": True,
    }  # fmt: skip
    return found | changes


def names(count: int) -> list[str]:
    return [f"features.denseblock{i // 16 + 1}.denselayer{i % 16 + 1}.conv1.weight" for i in range(count)]


def layers(count: int, negative: bool = False, **changes: Any) -> Result:
    """Average traces over five decades; with `negative` every third one is below zero."""
    rows = []
    for i, name in enumerate(names(count)):
        mean = 10.0 ** (i * 7 % 6 - 4) * (-0.1 if negative and i % 3 == 1 else 1.0)
        error = abs(mean) * 144 / (4 + i % 5)
        rows.append(
            {
                "name": name,
                "shape": [16, 1, 3, 3],
                "size": 144,
                "trace": 144 * mean,
                "standard_error": error,
                "mean": mean,
            }
        )
    return {"products": 20, "complete": True, "layers": rows} | changes


def sensitivity(count: int, **changes: Any) -> Result:
    rows = []
    for layer in layers(count)["layers"]:
        errors = {str(bits): 144 * 4.0**-bits for bits in (2, 4, 8)}
        scores = {bits: error * layer["mean"] for bits, error in errors.items()}
        rows.append(layer | {"errors": errors, "scores": scores})
    chosen = {row["name"]: (2, 4, 8)[i % 3] for i, row in enumerate(rows)}
    pruned = [
        {"name": r["name"], "size": 144, "pruned": i / count, "mean_score": 1e-5} for i, r in enumerate(rows)
    ]
    shared = {key: BASE[key] for key in ("file", "data", "statistics")}
    return {
        "kind": "sensitivity", **shared, "bits": [2, 4, 8], "complete": True, "layers": rows,
        "assignment": {"average_bits": 4.5, "budget_bytes": 4000, "bytes": 3902, "score": 0.0123, "bits": chosen},
        "pruning": {"fraction": 0.5, "method": "diagonal", "layers": pruned},
    } | changes  # fmt: skip


def landscape(height: Any, directions: str = "eigs", **changes: Any) -> Result:
    x, y = np.linspace(-1, 1, 15), np.linspace(-2, 2, 11)
    values = np.broadcast_to(height(*np.meshgrid(x, y)), (11, 15))
    shared = {key: BASE[key] for key in ("file", "data", "statistics")}
    return {
        "kind": "landscape", **shared, "directions": directions, "x": x.tolist(), "y": y.tolist(),
        "loss": values.tolist(), "centre": float(values[5, 7]), "eigenvalues": [34.0, 21.5], "complete": True,
    } | changes  # fmt: skip


def bowl(x: Any, y: Any) -> Any:
    return 0.03 + 17 * x**2 + 5 * y**2 + x * y


FULL: Result = BASE | {"eigs": EIGS, "trace": TRACE, "density": density(), "layers": layers(6)}
RUNNING: Result = BASE | {
    "statistics": "running",
    "loss": 2.5,
    "density": density(-3.0, 60.0),
    "trace": TRACE,
}
DIAGONAL: Result = {
    "method": "xdiag", "products": 100, "complete": True,
    "layers": [{"name": "fc.weight", "size": 10, "min": -0.125, "max": 3.5, "mean": 1.5, "standard_error": 0.25}],
}  # fmt: skip


# Text that can be read ---------------------------------------------------------------------------------------

CASES = {
    "spectrum": lambda: report.spectrum(FULL),
    "density alone, partial": lambda: report.spectrum(BASE | {"density": density(-30.0, 2.0, complete=False)}),
    "eigenvalues alone": lambda: report.spectrum(BASE | {"eigs": EIGS}),
    "one eigenvalue, partial": lambda: report.spectrum(
        BASE | {"eigs": {"which": "LA", "values": [34.0], "residuals": [3.0], "complete": False}}
    ),
    "no probe error": lambda: report.spectrum(BASE | {"density": density(standard_error=[None] * 512, sigma=None)}),
    "one layer": lambda: report.layer_bars(BASE | {"layers": layers(1)}),
    "60 layers": lambda: report.layer_bars(BASE | {"layers": layers(60, negative=True)}),
    "negative, partial": lambda: report.layer_bars(BASE | {"layers": layers(8, negative=True, complete=False)}),
    "diagonal": lambda: report.layer_bars(BASE | {"diagonal": DIAGONAL}),
    "scores": lambda: report.sensitivity_bars(sensitivity(12)),
    "one score": lambda: report.sensitivity_bars(sensitivity(1)),
    "assignment, partial": lambda: report.assignment(sensitivity(7, complete=False)),
    "pruning": lambda: report.pruning(sensitivity(5)),
    "landscape": lambda: report.landscape(landscape(bowl)),
    "landscape, factor 1e4": lambda: report.landscape(landscape(lambda x, y: 0.01 * 10 ** (2 * x**2 + y**2 / 2))),
    "constant landscape, partial": lambda: report.landscape(landscape(lambda x, y: 2.3 + 0 * x, complete=False)),
    "landscape with holes": lambda: report.landscape(landscape(lambda x, y: np.where(x > 0.5, np.nan, x), "random")),
    "no finite loss": lambda: report.landscape(landscape(lambda x, y: np.nan * x, centre=None)),
    "a line": lambda: report.landscape(landscape(bowl, y=[0.0], loss=[bowl(np.linspace(-1, 1, 15), 0).tolist()])),
    "comparison": lambda: report.comparison([("batch", FULL), ("running", RUNNING)]),
    "comparison of eigenvalues": lambda: report.comparison([(label, BASE | {"eigs": EIGS}) for label in "ab"]),
    "comparison, far apart": lambda: report.comparison([("a", FULL), ("b", BASE | {"density": density(-9.0, 4e3)})]),
    "all of one": lambda: figures.compose(figures.panels(FULL), figures.heading(FULL)),
}  # fmt: skip


def texts(figure: Figure) -> list[Text]:
    """All text that is drawn; labels of ticks outside the limits are not."""
    FigureCanvasAgg(figure).draw()
    axes = cast(list[Axes], figure.findobj(Axes))
    every = [axis for one in axes for axis in (one.xaxis, one.yaxis)]
    labels = {id(tick.label1) for axis in every for tick in (*axis.majorTicks, *axis.minorTicks)}
    drawn = {id(tick.label1) for axis in every for tick in axis._update_ticks()}
    found = cast(list[Text], figure.findobj(Text))
    return [
        text for text in found
        if text.get_visible() and text.get_text().strip() and (id(text) in drawn or id(text) not in labels)
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_text_lies_apart_and_inside(case: str) -> None:
    figure = CASES[case]()
    found = texts(figure)
    boxes = {text: text.get_window_extent() for text in found}
    inside = figure.bbox.padded(0.5)
    assert len(found) > 3
    for text, box in boxes.items():
        assert text.get_fontsize() >= 8, text
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), f"{text} is cut off"
    # Labels of contours sit on their lines, at an angle: their boxes say little.
    upright = [text for text in found if text.get_rotation() in (0.0, 90.0) and not on_contour(text)]
    for one, other in combinations(upright, 2):
        both = boxes[one].intersection(boxes[one], boxes[other])
        assert both is None or min(both.width, both.height) < 2, f"{one} lies on {other}"
    assert ("partial" in case) == any(text.get_text() == "partial result" for text in found)


def on_contour(text: Text) -> bool:
    return (
        text.axes is not None
        and text in text.axes.texts
        and re.fullmatch(r"[\d.e+-]+", text.get_text()) is not None
    )


# Numbers that are right --------------------------------------------------------------------------------------


def test_curve_is_the_density_and_markers_are_the_eigenvalues() -> None:
    main, strip = report.spectrum(FULL).subfigs[0].axes
    curve = main.lines[0]
    grid, height = np.array(FULL["density"]["grid"]), np.array(FULL["density"]["density"])
    floor = main.get_ylim()[0]
    np.testing.assert_array_equal(curve.get_xdata(), grid)
    np.testing.assert_array_equal(curve.get_ydata(), np.where(height > floor, height, np.nan))
    # The axis begins at a tenth of the height of one eigenvalue of the 78042.
    sigma = FULL["density"]["sigma"]
    assert floor == pytest.approx(0.1 / (78042 * sigma * np.sqrt(2 * np.pi)), rel=1e-12)
    np.testing.assert_array_equal(strip.lines[0].get_xdata(), EIGS["values"])
    assert [line.get_xdata()[0] for line in main.lines[1:3]] == FULL["density"]["support"]
    band = main.collections[0].get_paths()[0].vertices
    peak = height.argmax()
    ends = band[band[:, 0] == grid[peak], 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [0.8 * height[peak], 1.2 * height[peak]], rtol=1e-12)


def test_bars_are_the_means_and_whiskers_the_errors() -> None:
    rows = layers(5, negative=True)["layers"]
    (axes,) = report.layer_bars(BASE | {"layers": {"layers": rows}}).subfigs[0].axes
    ends = {round(bar.get_y() + bar.get_height() / 2): bar.get_x() + bar.get_width() for bar in axes.patches}
    assert ends == {i: row["mean"] for i, row in enumerate(rows)}
    assert [label.get_text() for label in axes.get_yticklabels()] == [row["name"] for row in rows]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    (whiskers,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    for row, (left, right) in zip(rows, whiskers.get_segments(), strict=True):
        error = row["standard_error"] / 144
        np.testing.assert_allclose(
            [left[0], right[0]], [row["mean"] - error, row["mean"] + error], rtol=1e-12
        )
    assert axes.get_xscale() == "symlog"


def test_scale_goes_by_the_values() -> None:
    def scale(*means: float) -> str:
        rows = [{"name": str(i), "size": 1, "mean": mean} for i, mean in enumerate(means)]
        (axes,) = report.layer_bars(BASE | {"layers": {"layers": rows}}).subfigs[0].axes
        low, high = axes.get_xlim()
        assert low <= min(means) and max(means) <= high
        return axes.get_xscale()

    assert scale(1.0, 2.0) == scale(-1.0, 2.0) == scale(0.0, 0.0) == "linear"
    assert scale(1e-3, 2.0) == "log"
    assert scale(-1e-3, 2.0) == scale(0.0, 1e-3, 2.0) == "symlog"
    assert scale(1e-20, 2.0) == "symlog"  # rounding noise beside a number


def test_of_many_layers_the_largest_are_shown() -> None:
    rows = layers(80)["layers"]
    figure = report.layer_bars(BASE | {"layers": {"layers": rows}})
    shown_names = [label.get_text() for label in figure.subfigs[0].axes[0].get_yticklabels()]
    assert len(shown_names) == 60
    least = min(row["mean"] for row in rows if row["name"] in shown_names)
    assert all(row["mean"] <= least for row in rows if row["name"] not in shown_names)
    assert "the largest 60 of 80 rows" in figure.subfigs[0].get_suptitle()


def test_scores_and_bits_are_where_they_belong() -> None:
    result = sensitivity(4)
    (axes,) = report.sensitivity_bars(result).subfigs[0].axes
    for bits, line in zip(("2", "4", "8"), axes.lines, strict=True):
        assert list(line.get_xdata()) == [row["scores"][bits] for row in result["layers"]]
    assert len({line.get_marker() for line in axes.lines}) == 3
    (axes,) = report.assignment(result).subfigs[0].axes
    chosen = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
    assert [chosen[i] for i in range(4)] == list(result["assignment"]["bits"].values())
    assert len({bar.get_hatch() for bar in axes.patches}) == 3
    (axes,) = report.pruning(result).subfigs[0].axes
    assert [bar.get_width() for bar in axes.patches] == [0.0, 25.0, 50.0, 75.0]
    counted = [{"name": "a", "size": 8, "pruned": 6, "share": 0.75}]
    (axes,) = report.pruning(result | {"pruning": {"layers": counted}}).subfigs[0].axes
    assert [bar.get_width() for bar in axes.patches] == [75.0]


def test_rows_of_the_loss_are_y() -> None:
    axes = report.landscape(landscape(lambda x, y: 1 + x + 10 * (y > 1), "random")).subfigs[0].axes[0]
    contours = next(c for c in axes.collections if type(c).__name__ == "QuadContourSet" and not c.filled)
    steep = np.concatenate(
        [p.vertices for level, p in zip(contours.levels, contours.get_paths(), strict=True) if level > 3]
    )
    assert steep[:, 1].min() > 0.7 and steep[:, 0].min() == -1.0
    assert axes.get_ylim() == (-2.0, 2.0) and axes.get_xlabel() == "step along random direction 1"
    axes = report.landscape(landscape(bowl)).subfigs[0].axes[0]
    assert axes.get_ylabel() == "step along eigenvector 2 (eigenvalue 21.5)"


def test_levels_of_contours_are_round_and_inside() -> None:
    levels, name = contour_levels(np.array([[0.003, 0.5], [7.0, 30.0]]))
    assert levels.tolist() == [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20] and name
    levels, name = contour_levels(np.array([[1.0, 2.0]]))
    assert levels.min() > 1 and levels.max() < 2 and len(levels) >= 4 and not name
    assert len(contour_levels(np.array([[1e-12, 1.0]]))[0]) <= 14


def test_largest_eigenvalue_is_claimed_only_where_it_is_known() -> None:
    def ends(which: str, *values: float) -> dict[str, float]:
        found = extremes({"eigs": {"which": which, "values": list(values), "residuals": [0.5] * len(values)}})
        return {name: value for name, (value, _) in found.items()}

    assert ends("LM", 5.0, -4.0, 3.0) == {"largest": 5.0, "smallest": -4.0}
    assert ends("LM", 5.0, 3.0) == {"largest": 5.0}
    assert ends("LM", -5.0, -3.0) == {"smallest": -5.0}
    assert ends("LA", -1.0, -2.0) == {"largest": -1.0}
    assert ends("SA", 1.0, 2.0) == {"smallest": 1.0}


def test_numbers_as_text() -> None:
    assert [shown(x) for x in (1234.56, 0.000123456, 3, -0.5, None, float("nan"), float("inf"))] == [
        "1235", "0.0001235", "3", "-0.5", "\N{EN DASH}", "\N{EN DASH}", "\N{INFINITY}"
    ]  # fmt: skip
    assert with_error(1234.5, 34.56) == "1234 ± 35"  # half to even
    assert with_error(2.0, 0.0) == with_error(2.0, None) == with_error(2.0, float("inf")) == "2"
    assert shortened("features.denseblock1.conv.weight", 20) == "feature….conv.weight"
    assert shortened("fc.weight", 9) == "fc.weight"


# Files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_file_is_the_same_every_time(suffix: str, tmp_path: Path) -> None:
    result = FULL | {"layers": layers(2)}
    written = json.loads(json.dumps(result))  # what a file holds
    before = dict(matplotlib.rcParams)
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    report.plot(result, paths[0])
    with matplotlib.rc_context(
        {"font.size": 20, "axes.grid": True, "svg.fonttype": "none"}
    ):  # a user's own taste
        report.plot(written, paths[1])
    first, second = (path.read_bytes() for path in paths)
    assert first == second and b"date" not in first.lower()
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])
    assert dict(matplotlib.rcParams) == before
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


@pytest.mark.parametrize("result", [sensitivity(1), landscape(bowl)], ids=lambda result: result["kind"])
def test_every_kind_is_plotted(result: Result, tmp_path: Path) -> None:
    report.plot(result, tmp_path / "a.SVG")
    ElementTree.parse(tmp_path / "a.SVG")


def test_names_are_shown_as_they_are() -> None:
    rows = layers(2)["layers"]
    rows[0]["name"] = "$x^2$ and $y_"
    rows[1]["name"] = "a" * 30 + "." + "b" * 60
    figure = report.layer_bars(BASE | {"layers": {"layers": rows}})
    FigureCanvasAgg(figure).draw()
    labels = figure.subfigs[0].axes[0].get_yticklabels()
    assert labels[0].get_text() == r"\$x^2\$ and \$y_"
    assert not labels[0]._preprocess_math(labels[0].get_text())[1]  # no formula
    assert len(labels[1].get_text()) == 52 and labels[1].get_text().endswith("bbb")


NEEDS_NOTHING = """
import json, sys
for name in ("torch", "onnxruntime", "onnx", "scipy", "matplotlib.pyplot"):
    sys.modules[name] = None
from bnrewrite import report
result = json.load(sys.stdin)
report.plot(result, "a.svg")
report.report_of([result], "a.html")
assert not any(name.startswith("bnrewrite.runtime") for name in sys.modules)
"""


def test_needs_only_numpy_matplotlib_and_jinja2(tmp_path: Path) -> None:
    small = json.dumps(BASE | {"eigs": EIGS})
    environment = {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(tmp_path / "config")}
    done = subprocess.run(
        [sys.executable, "-c", NEEDS_NOTHING],
        input=small,
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.svg").exists() and (tmp_path / "a.html").exists()


def test_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "a.png"
    with pytest.raises(InputError, match=r"'.*a\.pdf': pictures are written as \.png or \.svg"):
        report.plot(FULL, tmp_path / "a.pdf")
    with pytest.raises(FileError, match="there is no directory"):
        report.plot(FULL, tmp_path / "none" / "a.png")
    with pytest.raises(InputError, match=r"nothing to draw in the result of 'curvature\.onnx'"):
        report.plot(BASE, picture)
    with pytest.raises(InputError, match="has no 'density' or 'eigs'"):
        report.spectrum(BASE)
    with pytest.raises(InputError, match="kind 'sensitivity', not 'curvature'"):
        report.assignment(FULL)
    with pytest.raises(InputError, match="the kind 'movie'"):
        report.plot({"kind": "movie"}, picture)
    with pytest.raises(InputError, match="same length"):
        report.spectrum(BASE | {"eigs": EIGS | {"residuals": [1.0]}})
    with pytest.raises(InputError, match="'values' must hold numbers"):
        report.spectrum(BASE | {"eigs": EIGS | {"values": ["many"]}})
    with pytest.raises(InputError, match=r"'density' of the result of 'curvature\.onnx' lacks 'grid'"):
        report.spectrum(BASE | {"density": {"density": [1.0]}})
    with pytest.raises(InputError, match=r"losses of shape \[1, 2\], but 11 rows"):
        report.landscape(landscape(bowl, loss=[[1.0, 2.0]]))
    with pytest.raises(InputError, match="lacks 'mean'"):
        report.layer_bars(BASE | {"layers": {"layers": [{"name": "a"}]}})
    with pytest.raises(InputError, match="none of the results to compare"):
        report.comparison([("a", BASE)])
    with pytest.raises(InputError, match="at least one result"):
        report.report_of([], tmp_path / "a.html")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(
            InputError, match=re.escape("plots need matplotlib: pip install 'bnrewrite[plots]'")
        ):
            report.plot(FULL, picture)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(InputError, match=re.escape("pages need jinja2: pip install 'bnrewrite[plots]'")):
            report.report_of([BASE], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


# The page ----------------------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page, its tables by caption and its text; fails where tags do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)

    def cells(self) -> list[str]:
        return [text for tag, text in self.text if tag in ("td", "th")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of every kind of result and a comparison, with names that try to break out."""
    evil = "<script>alert('&')</script>"
    curvature = copy.deepcopy(FULL) | {"diagonal": DIAGONAL, "complete": False}
    curvature["layers"]["layers"][0]["name"] = evil
    results = [curvature, sensitivity(3, file=f'"{evil}'), landscape(bowl)]
    compared = [(f"Statistics {evil}", f"Text {evil}", [(f"batch {evil}", FULL), ("running", RUNNING)])]
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.report_of(json.loads(json.dumps(results)), path, title=f"Title {evil}", comparisons=compared)
    return path.read_text(encoding="utf-8")


def test_page_is_balanced_and_complete(whole: str) -> None:
    assert whole.startswith('<!DOCTYPE html>\n<html lang="en">')
    found = Page(whole)
    assert [tag for tag, _ in found.elements[:4]] == ["html", "head", "meta", "meta"]
    assert len(list(found.all("section"))) == 4
    targets = [attributes["id"] for attributes in found.all("section")]
    assert [attributes["href"] for attributes in found.all("a")] == [f"#{target}" for target in targets]
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert ("span", "partial result") in found.text


def test_page_fetches_nothing_and_runs_nothing(whole: str) -> None:
    found = Page(whole)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.elements}
    assert "<script" not in whole and "url(" not in whole and "@import" not in whole
    pictures = list(found.all("img"))
    assert len(pictures) == 7
    for attributes in pictures:
        kind, _, content = str(attributes["src"]).partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(content)).tag == "{http://www.w3.org/2000/svg}svg"
        assert len(str(attributes["alt"])) > 20
    assert not any(key.startswith("on") for _, attributes in found.elements for key in attributes)


def test_page_escapes_what_comes_from_files(whole: str) -> None:
    evil = "<script>alert('&')</script>"
    found = Page(whole)
    said = {tag for tag, text in found.text if evil in text}
    assert {"title", "h1", "h2", "p", "th", "dd", "a"} <= said


def test_page_says_the_numbers(whole: str) -> None:
    cells = Page(whole).cells()
    for text in (
        "34.06",
        "0.0001",
        "0.5",
        "-0.75",
        "1234 ± 35",
        "0.25",
        "1.5 ± 0.25",
        "4",
        "33.3 %",
    ):
        assert text in cells, text
    rows = layers(6)["layers"]
    for row in rows:
        assert with_error(row["trace"], row["standard_error"]) in cells
        assert with_error(row["mean"], row["standard_error"] / 144) in cells
    assert "An eigenvalue of H lies within the residual of each value." in [
        text for _, text in Page(whole).text
    ]


def test_comparison_stands_side_by_side() -> None:
    section = sections.compared(("Heading", "Text", [("batch", FULL), ("running", RUNNING)]))
    table = section.blocks[0].table
    assert table is not None
    assert list(table.columns) == ["quantity", ">batch", ">running"]
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert rows["loss"] == ["0.03125", "2.5"]
    assert rows["statistics"] == ["batch statistics", "running statistics"]
    assert rows["largest eigenvalue of H"] == ["34.06", "\N{EN DASH}"]
    assert rows["trace of H"] == ["1234 ± 35"] * 2
    assert rows["support of the density"] == ["-1 to 34", "-3 to 60"]


def test_facts_that_all_share_stand_in_the_header() -> None:
    first, second = sections.section(BASE), sections.section(BASE | {"statistics": "running"})
    shared = page.shared_facts([first, second])
    assert ("file", "curvature.onnx") in shared and ("data", "digits.npz (360 samples, 3 batches)") in shared
    assert ("parameters", "78,042") in shared and ("bnrewrite", "0.1") in shared
    assert not any(name == "BatchNorm" for name, _ in shared)


def test_a_bare_result_gives_a_page(tmp_path: Path) -> None:
    for kind in ("curvature", "sensitivity", "landscape"):
        report.report_of([{"kind": kind, "file": "a.onnx"}], tmp_path / "a.html")
        assert ("dd", "a.onnx") in Page((tmp_path / "a.html").read_text(encoding="utf-8")).text
