"""Ratios of the measured rows, and the rows as words: on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from .speed_measure import Row

COLUMNS = ("method", "seconds", "quartiles", "/ best", "/ retained", "gradients", "error", "peak", "prepared")

LEGEND = """\
seconds: median for one product (of a block: per direction); quartiles: of the rounds.
/ best: ratio of medians to the fastest of double backward, torch.func and curvlinops for the same product; for a \
block also to their blocks, per direction.
/ retained: the same, to double backward on a graph that is kept, for what is done once for a point.
gradients: in units of one forward and backward pass. error: relative, against double backward in float64.
peak: memory of one call above what was there before. prepared: seconds spent once.
"""


def add_ratios(rows: Sequence[Row]) -> None:
    """`of_best`, `of_retained` and `gradients` into every row that has seconds, None where there is no counterpart."""
    timed = [row for row in rows if row.get("seconds") and row["status"] == "ok"]
    unit = _least(row for row in timed if row["kind"] == "gradient")
    for row in rows:
        seconds = row.get("seconds")
        if not seconds:
            continue
        rivals = [r for r in timed if r["baseline"] and r["vectors"] in (1, row["vectors"])]
        product = "hvp" if row["kind"] == "apply" else row["kind"]
        best = _least(r for r in rivals if r["kind"] == product)
        retained = _least(r for r in rivals if r["kind"] == "apply") if row["kind"] == "apply" else None
        row["of_best"] = seconds / best if best else None
        row["of_retained"] = seconds / retained if retained else None
        row["gradients"] = seconds / unit if unit else None


def _least(rows: Any) -> float | None:
    return min((row["seconds"] for row in rows), default=None)


def cells(row: Row) -> list[str]:
    """The row as words, in the order of COLUMNS; what is wrong with it stands in place of the error."""
    error = f"{row['error']:.0e}" if "error" in row else ""
    if row["status"] != "ok":
        error = " ".join(filter(None, [row["status"], error, row.get("reason", "")]))
    low_high = f"{_time(row['low'])} to {_time(row['high'])}" if "low" in row else ""
    return [
        row["title"],
        _time(row.get("seconds")),
        low_high,
        *(f"{row[key]:.2f}" if row.get(key) else "" for key in ("of_best", "of_retained", "gradients")),
        error,
        f"{row['peak'] / 2**20:.0f} MiB" if row.get("peak") is not None else "",
        ", ".join(f"{name} {seconds:.1f}" for name, seconds in row.get("stages", {}).items()),
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{1000 * seconds:.2f} ms"


def heading(network: dict[str, Any]) -> str:
    """Name, input and number of parameters."""
    size = "x".join(str(n) for n in network["input"])
    return f"{network['title']}, input {size}, {network['parameters']:,} parameters, float32, train mode"


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by what they compute."""
    titles = {
        "gradient": "unit", "hvp": "loss, gradient and H v", "apply": "H v once the point is known", "ggn": "G v",
    }  # fmt: skip
    found = [(title, [row for row in rows if row["kind"] == kind]) for kind, title in titles.items()]
    return [(title, part) for title, part in found if part]


def on_screen(network: dict[str, Any]) -> Table:
    """One table for a network."""
    table = Table(*COLUMNS, title=heading(network))
    for title, rows in sections(network["rows"]):
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in cells(row)))
    return table


def markdown(networks: Sequence[dict[str, Any]], foot: str) -> str:
    """All tables as one Markdown text."""
    lines: list[str] = []
    for network in networks:
        lines += [f"### {heading(network)}", ""]
        if network.get("reason"):
            lines += [network["reason"], ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
        for title, rows in sections(network["rows"]):
            lines.append(f"| **{title}** |" + " |" * (len(COLUMNS) - 1))
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"{line}  " for line in LEGEND.splitlines()), "", foot, ""])
