"""The tables of `effect` for the page."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from .effect_measures import MEASURES, in_words, values
from .networks import NETWORKS, NORMS
from .pages import picture, table

Result = dict[str, Any]

SHORT = {
    "layer_forms": "one layer, its gradient: \\|g·Rg\\| / \\|g·Hg\\|",
    "layer_blocks": "one layer, its block: ‖R‖ / ‖H‖",
    "forms": "all, gradient: \\|g·Rg\\| / \\|g·Hg\\|",
    "gradient": "all, gradient: ‖Rg‖ / ‖Hg‖",
    "whole": "all, matrix: ‖R‖ / ‖H‖",
}


def parts(result: Result) -> dict[str, str]:
    """Pictures and tables by the names of their places."""
    found = {
        "effect_start": "\n\n".join(
            [
                picture(
                    "004_effect.png", "Ratios of the sizes of R and H for all cases, as dots with ranges."
                ),
                start(result["start"]),
                checks(result),
            ]
        ),
        "effect_layers": by_layer(result["start"]),
        "effect_weights": weights(result["start"]),
        "effect_blocks": picture(
            "004_blocks.png", "Ratios of the sizes of R and H, block by block, as four matrices."
        ),
    }
    if result["training"]:
        words = "Loss and ratios of the sizes of R and H over the epochs."
        found["effect_training"] = "\n\n".join(
            [picture("004_training.png", words), training(result["training"])]
        )
    return found


def start(rows: list[Result]) -> str:
    """At random weights: median and range over the seeds."""
    lines = [
        [
            f"{NETWORKS[row['network']].title}, {row['activation']}",
            NORMS[row["norm"]],
            *(in_words(values(row["points"], measure)) for measure in MEASURES),
        ]
        for row in rows
    ]
    return table(("network", "BatchNorm", *SHORT.values()), lines)


def by_layer(rows: list[Result]) -> str:
    """Of the first network without BatchNorm: R and H along each layer's gradient, median and range over the seeds."""
    lines = []
    for row in rows:
        if (row["network"], row["norm"]) == (rows[0]["network"], "none"):
            for i, title in enumerate(row["layers"]):
                forms = [point["layers"]["gradient"][i] for point in row["points"]]
                cells = [in_words(sorted(form[symbol] for form in forms)) for symbol in ("R", "H")]
                lines.append([f"{NETWORKS[row['network']].title}, {row['activation']}", title, *cells])
    return table(("network, no BatchNorm", "layer", "g·Rg / g·g", "g·Hg / g·g"), lines)


def weights(rows: list[Result]) -> str:
    """Of the first network: what G and R do to the weights of all layers but the last, first seed."""
    lines = []
    for row in rows:
        if row["network"] == rows[0]["network"]:
            found = row["points"][0]["weights"]
            lines.append(
                [
                    f"{NETWORKS[row['network']].title}, {row['activation']}",
                    NORMS[row["norm"]],
                    *(f"{found[key]:.2g}" for key in ("G", "R")),
                    f"{found['of_gradient']:.6g} g",
                    f"{found['rest']:.1g}",
                ]
            )
    columns = (
        "network",
        "BatchNorm",
        ">‖Gw‖ / ‖g‖",
        ">‖Rw‖ / ‖g‖",
        ">multiple of g nearest to Rw",
        ">off by",
    )
    return table(columns, lines)


def training(rows: list[Result]) -> str:
    """The first and the last checkpoint: mean over the runs."""
    shown = ("gradient", "whole", "layer_blocks")
    lines = []
    for row in rows:
        ends = [[run[i] for run in row["runs"]] for i in (0, -1)]
        cells = [f"{fmean(point['loss'] for point in points):.2g}" for points in ends]
        for measure in shown:
            cells += [f"{fmean(values(points, measure)):.2g}" for points in ends]
        lines.append([f"{NETWORKS[row['network']].title}, {row['activation']}", NORMS[row["norm"]], *cells])
    last = rows[0]["epochs"][-1]
    columns = ["network", "BatchNorm", ">loss", f">after {last} epochs"]
    for measure in shown:
        columns += [f">{SHORT[measure]}", f">after {last} epochs"]
    return table(columns, lines)


def checks(result: Result) -> str:
    """How exact the sum is, and how zero the zeros are."""
    worst: dict[str, float] = {}
    zeros: list[float] = []
    for row in result["start"]:
        name = str(NETWORKS[row["network"]].dtype).removeprefix("torch.")
        if name == "float32":  # rounding puts some of its values on the other side of a kink
            name += ", relu" if row["activation"] == "relu" else ", smooth"
        worst[name] = max(worst.get(name, 0.0), *(point["sum"] for point in row["points"]))
        if row["activation"] == "relu" and row["norm"] != "batch":
            zeros += [
                value
                for measure in ("layer_forms", "layer_blocks")
                for value in values(row["points"], measure)
            ]
    said = ", ".join(f"{value:.0e} ({name})" for name, value in worst.items())
    return (
        f"Check: G g + R g differs from H g by double backward by at most {said}, relative. The largest ratio for one "
        f"layer with ReLU and no batch statistics in the table is {max(zeros):.2g}."
    )
