"""What the command line shows of a model or a file, as tables and lines on stdout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .console import print_table


def show_export(model: str, found: dict[str, Any]) -> None:
    """One line on a file that was just written; `found` as `inspect_file` gives it, and `seconds`."""
    click.echo(
        f"{found['file']}: {', '.join(['loss', 'grad', *found['products']])} of {model} in {found['dtype']}, "
        f"{len(found['sites'])} BatchNorm sites, {sum(found['nodes'].values())} nodes, {_size(found['bytes'])}, "
        f"{found['seconds']} s"
    )


def show_model(what: str, found: dict[str, Any]) -> None:
    """Tables of what `inspect_model` found."""
    _show_sites(found["sites"])
    print_table(
        ["operation", ">count", "rule"],
        [[row["operation"], row["count"], row["rule"]] for row in found["operations"]],
        "Operations",
    )
    click.echo(f"{what}: {len(found['sites'])} BatchNorm sites, {_parameters(found['parameters'])}")


def show_file(found: dict[str, Any]) -> None:
    """Tables of what `inspect_file` or `inspect_torch_file` found."""
    _show_sites(found["sites"])
    rows = [row for kind in ("inputs", "outputs") if kind in found for row in _grouped(found[kind], kind)]
    if rows:
        print_table(["", "name", "type", "shape"], rows, "Inputs and outputs")
    print_table(["operator", ">count"], list(found["nodes"].items()), "Operators")
    opset = f"opset {found['opset']}, " if "opset" in found else ""
    click.echo(
        f"{found['file']}: {found['dtype']}, loss {found['loss']}, {opset}"
        f"{len(found['sites'])} BatchNorm sites, {sum(found['nodes'].values())} nodes, "
        f"{_parameters(found['parameters'])}, {_size(found['bytes'])}"
    )


def _show_sites(sites: Sequence[dict[str, Any]]) -> None:
    columns = ["module", "input", "statistics", "affine", ">eps", "where"]
    rows = [
        [
            site["module"],
            "x".join(map(str, site["shape"])),
            site["statistics"],
            "yes" if site["affine"] else "no",
            f"{site['eps']:g}",
            _near(site["where"]),
        ]
        for site in sites
    ]
    if sites and "nodes" in sites[0]:
        columns.append(">nodes")
        rows = [[*row, sum(site["nodes"].values())] for row, site in zip(rows, sites, strict=True)]
    print_table(columns, rows, "BatchNorm sites")


def _grouped(values: Sequence[tuple[str, str, list[Any]]], kind: str) -> list[list[str]]:
    """One line for each value; of those by parameter (`v.*`, `grad.*`) one line for all."""
    lines: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for name, dtype, shape in values:
        head = name.split(".")[0]
        handed = re.fullmatch(r"residual\.\d+", name)  # from one part of a linearized graph to the other
        group = f"{head}.*" if head in ("v", "grad", "hvp", "ggn", "residual") and not handed else name
        counts[group] = counts.get(group, 0) + 1
        size = (
            f"[{', '.join(map(str, shape))}]"
            if group == name
            else f"{counts[group]} tensors, as the parameters"
        )
        lines[group] = [kind.removesuffix("s"), group, dtype, size]
    return list(lines.values())


def _near(where: str) -> str:
    """A source line by the last two parts of its path."""
    return "/".join(Path(where).parts[-2:])


def _parameters(shapes: dict[str, list[Any]]) -> str:
    total = sum(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes.values())
    return f"{len(shapes)} parameters with {total:,} entries"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
