"""What a page says of each result: facts, tables, pictures, and a sentence or two on how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import bars, landscapes, spectra
from .canvas import Panel, compose, rendered
from .results import (
    DASH,
    TIMES,
    Result,
    counted,
    data,
    extremes,
    is_partial,
    kind_of,
    number,
    numbers,
    part,
    residuals_of,
    rows,
    shape,
    shown,
    statistics,
    symbol,
    which_eigenvalues,
    with_error,
)

Runs = Sequence[tuple[str, Result]]
Comparison = tuple[str, str, Runs]
"""Heading, text, and the curvature results to compare, each with its label."""

STOPPED = "Stopped early: these are the estimates of that moment."


@dataclass(frozen=True)
class Table:
    """Cells as text; columns whose name starts with `>` are right-aligned, the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """An SVG file's content, what it shows in words, and its width in CSS pixels."""

    svg: bytes
    alt: str
    width: int = 720


@dataclass(frozen=True)
class Block:
    """One quantity of a result: a picture, a table, sentences; each may be absent."""

    heading: str
    sentences: Sequence[str] = ()
    table: Table | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Section:
    """One result: facts as (name, value), then blocks."""

    heading: str
    facts: Sequence[tuple[str, str]] = ()
    blocks: Sequence[Block] = ()
    text: str = ""
    partial: bool = field(default=False)


def section(result: Result) -> Section:
    """The section of one result of any kind. Raises InputError where it is no result."""
    kind = kind_of(result)
    makers = {"curvature": _curvature, "sensitivity": _sensitivity, "landscape": _landscape}
    blocks = [block for block in makers[kind](result) if block is not None]
    matrix = {
        "hessian": "Curvature: the Hessian H",
        "ggn": "Curvature: the generalized Gauss-Newton matrix G",
        "residual": "Curvature: what the model itself curves, R = H - G",
    }
    heading = {"sensitivity": "Sensitivity of the weights", "landscape": "Loss landscape"}.get(
        kind, matrix.get(str(result.get("matrix")), "Curvature")
    )
    return Section(heading, facts_of(result), blocks, partial=is_partial(result))


def facts_of(result: Result) -> list[tuple[str, str]]:
    """What the result is of, as (name, value)."""
    found = [
        ("file", str(result.get("file") or "")),
        ("data", data(result)),
        ("BatchNorm", statistics(result)),
        ("type", str(result.get("dtype") or "")),
        ("parameters", _whole(result.get("parameters"))),
        ("loss function", str(result.get("loss_name") or "").replace("_", " ")),
        ("bnrewrite", str(result.get("version") or "")),
    ]
    return [(name, value) for name, value in found if value]


# Curvature ---------------------------------------------------------------------------------------------------


def _curvature(result: Result) -> list[Block | None]:
    return [_at_a_glance(result), _spectrum(result), _eigenvalues(result), _layers(result), _diagonal(result)]


def _at_a_glance(result: Result) -> Block | None:
    h = symbol(result)
    trace = part(result, "trace", "value")
    lines = [
        ["loss", shown(result.get("loss")), ""],
        ["gradient norm |g|", shown(result.get("gradient_norm")), ""],
    ]
    for name, (value, residual) in extremes(result).items():
        lines.append([f"{name} eigenvalue of {h}", shown(value), f"residual {shown(residual, 2)}"])
    if trace:
        lines.append(
            [f"trace of {h}", with_error(trace["value"], trace.get("standard_error")), _effort(trace)]
        )
        lines.append(["mean eigenvalue", shown(trace.get("mean_eigenvalue")), ""])
    lines = [line for line in lines if line[1] != DASH]
    if not lines:
        return None
    said = (
        [f"The trace of {h} is the sum of its eigenvalues; ± is one standard error of its estimate."]
        if trace
        else []
    )
    if trace and trace.get("complete") is False:
        said.append(STOPPED)
    return Block("At a glance", said, Table("Loss and curvature", ["quantity", ">value", "how"], lines))


def _spectrum(result: Result) -> Block | None:
    panel = spectra.spectrum_panel(result)
    if panel is None:
        return None
    h, density = symbol(result), part(result, "density", "grid", "density")
    ends = extremes(result)
    says = [f"{name} eigenvalue {shown(value)}" for name, (value, _) in ends.items()]
    sentences = []
    if density:
        sentences.append(
            f"The height says how large a share of the eigenvalues of {h} lies near a value, on a logarithmic axis: "
            "most of them near the highest peak, single ones in the small bumps."
        )
        sigma = number(density.get("sigma"))
        width = f" of width {shown(sigma, 2)}" if sigma > 0 else ""
        sentences.append(f"Every eigenvalue is drawn as a bell{width}, which is as fine as the picture gets.")
        if density.get("support") is not None:
            low, high = numbers(density["support"], "support")
            says.append(f"support from {shown(low)} to {shown(high)}")
        if density.get("complete") is False:
            sentences.append(STOPPED)
    else:
        sentences.append("One row for each eigenvalue that was computed; the bar is its residual.")
    kind = "Spectral density" if density else "Eigenvalues"
    alt = f"{kind} of {h}" + (f": {', '.join(says)}." if says else ".")
    return Block("Spectrum", sentences, picture=picture([panel], alt))


def _eigenvalues(result: Result) -> Block | None:
    eigs = part(result, "eigs", "values")
    if not eigs or not len(eigs["values"]):
        return None
    values, residuals = numbers(eigs["values"], "values"), residuals_of(eigs)
    lines = [
        [str(i), shown(value), shown(residual, 2)]
        for i, (value, residual) in enumerate(zip(values, residuals, strict=True), 1)
    ]
    sentences = [f"An eigenvalue of {symbol(result)} lies within the residual of each value."]
    if eigs.get("complete") is False:
        sentences.append(STOPPED)
    caption = "; ".join(text for text in (which_eigenvalues(eigs, len(values)), _effort(eigs)) if text)
    return Block("Eigenvalues", sentences, Table(caption, ["rank", ">eigenvalue", ">residual"], lines))


def _layers(result: Result) -> Block | None:
    layers = rows(result, "layers", "mean")
    found = part(result, "layers", "layers")
    if not layers or not found:
        return None
    h = symbol(result)
    lines = [
        [
            str(layer["name"]),
            shape(layer.get("shape")),
            _whole(layer.get("size")),
            with_error(layer.get("trace"), layer.get("standard_error")),
            with_error(layer["mean"], bars.mean_error(layer, "layers")),
        ]
        for layer in layers
    ]
    sentences = [
        f"The average trace is the mean of the diagonal entries of {h} that belong to a parameter: the larger, the "
        "more the loss changes with each of its entries."
    ]
    if found.get("complete") is False:
        sentences.append(STOPPED)
    panel = bars.layer_panel(result)
    alt = _alt("Average trace of each parameter's block", layers, "mean")
    table = Table(
        _caption("Traces by parameter", found),
        ["parameter", "shape", ">entries", ">trace", ">average trace"],
        lines,
    )
    return Block("Parameters", sentences, table, picture([panel], alt) if panel else None)


def _diagonal(result: Result) -> Block | None:
    layers = rows(result, "diagonal", "mean")
    found = part(result, "diagonal", "layers")
    if not layers or not found:
        return None
    lines = [
        [
            str(layer["name"]),
            _whole(layer.get("size")),
            shown(layer.get("min")),
            with_error(layer["mean"], layer.get("standard_error")),
            shown(layer.get("max")),
        ]
        for layer in layers
    ]
    table = Table(
        _caption("Diagonal by parameter", found),
        ["parameter", ">entries", ">smallest", ">mean", ">largest"],
        lines,
    )
    sentences = [
        f"The diagonal entries of {symbol(result)}, estimated one by one and summed up for each parameter."
    ]
    if found.get("complete") is False:
        sentences.append(STOPPED)
    panel = None if part(result, "layers", "layers") else bars.layer_panel(result)
    alt = _alt("Mean of the diagonal of each parameter's block", layers, "mean")
    return Block("Diagonal", sentences, table, picture([panel], alt) if panel else None)


# Sensitivity -------------------------------------------------------------------------------------------------


def _sensitivity(result: Result) -> list[Block | None]:
    return [_scores(result), _assignment(result), _pruning(result)]


def _scores(result: Result) -> Block | None:
    layers = rows(result, "sensitivity")
    if not layers:
        return None
    widths = bars.bit_widths(result)
    columns = ["parameter", "shape", ">entries", ">trace", ">average trace"]
    columns += [f">squared error, {counted(bits, 'bit')}" for bits in widths]
    columns += [f">score, {counted(bits, 'bit')}" for bits in widths]
    lines = []
    for layer in layers:
        errors, scores = layer.get("errors") or {}, layer.get("scores") or {}
        lines.append(
            [str(layer["name"]), shape(layer.get("shape")), _whole(layer.get("size"))]
            + [with_error(layer.get("trace"), layer.get("standard_error"))]
            + [with_error(layer.get("mean"), bars.mean_error(layer, "sensitivity"))]
            + [shown(errors.get(str(bits))) for bits in widths]
            + [shown(scores.get(str(bits))) for bits in widths]
        )
    sentences = [
        "The score is the average trace of a layer's block times the squared error of rounding the layer to so many "
        "bits (HAWQ-V2): the larger, the more the loss is expected to suffer."
    ]
    if is_partial(result):
        sentences.append(STOPPED)
    panels = [panel for panel in (bars.score_panel(result), bars.layer_panel(result)) if panel]
    alt = f"Score of {counted(len(layers), 'layer')} at {', '.join(str(bits) for bits in widths)} bits."
    return Block("Layers", sentences, Table("Sensitivity by layer", columns, lines), picture(panels, alt))


def _assignment(result: Result) -> Block | None:
    assignment = part(result, "assignment", "bits")
    panel = bars.assignment_panel(result)
    if not assignment or not panel:
        return None
    chosen: Mapping[str, Any] = assignment["bits"]
    said = [
        ("average", assignment.get("average_bits"), "{} bits on average"),
        ("bytes", assignment.get("bytes"), "{} bytes"),
        ("budget", assignment.get("budget_bytes"), "of a budget of {} bytes"),
        ("score", assignment.get("score"), "score {} in all"),
    ]
    caption = ", ".join(
        text.format(_whole(value) or shown(value)) for _, value, text in said if value is not None
    )
    table = Table(
        caption or "Bits by layer", ["layer", ">bits"], [[str(n), _whole(b)] for n, b in chosen.items()]
    )
    sentences = [
        "Bits go where the score is high: of the assignments within the budget, one of small total score."
    ]
    alt = f"Bit width chosen for each of {counted(len(chosen), 'layer')}."
    return Block("Bit widths", sentences, table, picture([panel], alt))


def _pruning(result: Result) -> Block | None:
    layers, panel = rows(result, "pruning", "pruned"), bars.pruning_panel(result)
    pruning = part(result, "pruning", "layers")
    if not layers or not panel or not pruning:
        return None
    lines = [
        [
            str(x["name"]),
            _whole(x.get("size")),
            f"{100 * bars.pruned_share(x):.1f} %",
            shown(x.get("mean_score")),
        ]
        for x in layers
    ]
    table = Table(
        _caption("Pruning by layer", pruning),
        ["layer", ">entries", ">pruned", ">average score of an entry"],
        lines,
    )
    fraction = number(pruning.get("fraction"))
    share = f"{shown(100 * fraction)} % of all entries" if fraction >= 0 else "Entries"
    sentences = [
        f"{share}, those of the lowest scores over all layers, would be set to zero; the bars say where they lie."
    ]
    alt = f"Pruned share of each of {counted(len(layers), 'layer')}."
    return Block("Pruning", sentences, table, picture([panel], alt))


# Landscape ---------------------------------------------------------------------------------------------------


def _landscape(result: Result) -> list[Block | None]:
    panel = landscapes.landscape_panel(result)
    if panel is None:
        return []
    x, y, loss = landscapes.grid(result)
    finite = loss[loss == loss]
    lines = [["loss at the centre", shown(result.get("centre"))]]
    if len(finite):
        lines += [
            ["smallest loss of the grid", shown(finite.min())],
            ["largest loss of the grid", shown(finite.max())],
        ]
    lines += [["points of the grid", f"{len(x)}{TIMES}{len(y)}"]]
    if result.get("directions") == "eigs":
        lines += [
            [f"eigenvalue {i}", shown(value)] for i, value in enumerate(result.get("eigenvalues") or [], 1)
        ]
    directions = (
        "two eigenvectors of the Hessian" if result.get("directions") == "eigs" else "two random directions"
    )
    sentences = [
        f"The loss where the weights are moved along {directions}, from where they stand (the cross); every line joins "
        "points of one loss, and lines close together mean a steep slope."
    ]
    if is_partial(result):
        sentences.append(STOPPED)
    ends = f" from {shown(finite.min())} to {shown(finite.max())}" if len(finite) else ""
    alt = f"Contours of the loss{ends} along {directions}."
    table = Table("Losses of the grid", ["quantity", ">value"], [line for line in lines if line[1] != DASH])
    return [Block("Loss over the plane", sentences, table, picture([panel], alt))]


# Comparison --------------------------------------------------------------------------------------------------


def compared(comparison: Comparison) -> Section:
    """Several curvature results beside each other: one column each, and their spectra in one picture."""
    heading, text, runs = comparison
    columns = [_column(result) for _, result in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [[name, *(column.get(name, DASH) for column in columns)] for name in names]
    table = Table("Side by side", ["quantity", *(f">{label}" for label, _ in runs)], lines)
    panels = spectra.comparison_panels(runs)
    labels = " and ".join(label for label, _ in runs)
    blocks = [Block("", [], table)]
    if panels:
        said = "The same axes for all, told apart by line and marker." if len(panels) == 1 else ""
        wide = "Their widths differ so much that each has an axis of its own." if len(panels) > 1 else ""
        blocks.append(Block("Spectra", [said or wide], picture=picture(panels, f"Spectra: {labels}.")))
    return Section(heading, [], blocks, text, any(is_partial(result) for _, result in runs))


def _column(result: Result) -> dict[str, str]:
    h = symbol(result)
    trace, density = part(result, "trace", "value"), part(result, "density", "grid", "density")
    found = {
        "file": str(result.get("file") or DASH),
        "statistics": statistics(result) or DASH,
        "loss": shown(result.get("loss")),
        "gradient norm |g|": shown(result.get("gradient_norm")),
    }
    for name, (value, residual) in extremes(result).items():
        found[f"{name} eigenvalue of {h}"] = shown(value)
        found[f"its residual ({name})"] = shown(residual, 2)
    if trace:
        found[f"trace of {h}"] = with_error(trace["value"], trace.get("standard_error"))
        found["mean eigenvalue"] = shown(trace.get("mean_eigenvalue"))
    if density and density.get("support") is not None:
        low, high = numbers(density["support"], "support")
        found["support of the density"] = f"{shown(low)} to {shown(high)}"
    return {name: value for name, value in found.items() if value != DASH}


# Shared ------------------------------------------------------------------------------------------------------


def picture(panels: Sequence[Panel], alt: str) -> Picture | None:
    """Panels as one picture; None where there are none."""
    if not panels:
        return None
    figure = compose(panels)
    partial = " A partial result." if any(panel.partial for panel in panels) else ""
    return Picture(rendered(figure, "svg"), alt + partial, round(96 * figure.get_figwidth()))


def _effort(found: Result) -> str:
    """How a number came about: method, products, seconds."""
    seconds = number(found.get("seconds"))
    parts = [
        str(found.get("method") or ""),
        counted(found["products"], "product") if found.get("products") is not None else "",
        f"{shown(seconds, 2)} s" if seconds >= 0 else "",
    ]
    return ", ".join(text for text in parts if text)


def _caption(title: str, found: Result) -> str:
    effort = _effort(found)
    return f"{title} ({effort})" if effort else title


def _alt(what: str, layers: Sequence[Result], key: str) -> str:
    """A picture of bars in words: how many, and the largest."""
    top = max(
        layers,
        key=lambda layer: abs(number(layer[key])) if number(layer[key]) == number(layer[key]) else -1.0,
    )
    return (
        f"{what}, {counted(len(layers), 'parameter')}; the largest is {top['name']} with {shown(top[key])}."
    )


def _whole(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return shown(value)
    return f"{int(value):,}" if isinstance(value, (int, float)) else ""
