"""Reading results: plain dicts, as `--json` wrote them. Nearly every key may be absent; what is there must fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Result = Mapping[str, Any]
Array = NDArray[np.float64]

DASH, TIMES = "\N{EN DASH}", " \N{MULTIPLICATION SIGN} "
"""What stands where there is no number, and between the sizes of a shape."""

KINDS = ("curvature", "sensitivity", "landscape")


def kind_of(result: Result) -> str:
    """One of KINDS; InputError for anything that is no result."""
    kind = result.get("kind") if isinstance(result, Mapping) else None
    if kind not in KINDS:
        raise InputError(
            f"a result has the kind {kind!r}, which is none of {', '.join(map(repr, KINDS))}: "
            "give what bnrewrite wrote with --json."
        )
    return str(kind)


def expect(result: Result, *kinds: str) -> None:
    """Raise InputError where the result is of another kind."""
    kind = kind_of(result)
    if kind not in kinds:
        raise InputError(
            f"this picture is drawn from a result of kind {' or '.join(map(repr, kinds))}, not {kind!r}."
        )


def part(result: Result, name: str, *keys: str) -> Result | None:
    """One part of a result, with all of `keys`; None where it is absent."""
    found = result.get(name)
    if found is None:
        return None
    missing = [key for key in keys if not isinstance(found, Mapping) or found.get(key) is None]
    if missing:
        raise InputError(f"'{name}' of the result of {source(result)} lacks {', '.join(map(repr, missing))}.")
    return found


def rows(result: Result, name: str, *keys: str) -> list[Result]:
    """The layers of a part, each with a name and all of `keys`; those of a sensitivity result stand in it itself."""
    found = result if name == "sensitivity" else part(result, name, "layers")
    layers = list(found["layers"]) if found and found.get("layers") else []
    for layer in layers:
        missing = [key for key in ("name", *keys) if key not in layer]
        if missing:
            raise InputError(
                f"a layer in '{name}' of the result of {source(result)} lacks {', '.join(map(repr, missing))}."
            )
    return layers


def series(holder: Result, *keys: str) -> list[Array]:
    """Lists of numbers under `keys` as arrays of one length; null is NaN."""
    arrays = [numbers(holder[key], key) for key in keys]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        raise InputError(f"{', '.join(map(repr, keys))} must be lists of numbers of the same length.")
    return arrays


def numbers(values: Any, name: str) -> Array:
    """Numbers as float64; null becomes NaN."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{name}' must hold numbers: {error}.") from error


def number(value: Any) -> float:
    """A number, NaN where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)


def is_partial(result: Result, *parts: str) -> bool:
    """Whether the result, or one of its parts, was stopped early."""
    holders = [result, *(result.get(name) for name in parts)]
    return any(isinstance(holder, Mapping) and holder.get("complete") is False for holder in holders)


def symbol(result: Result) -> str:
    """H, or G for the generalized Gauss-Newton matrix, R for the rest."""
    return {"ggn": "G", "residual": "R"}.get(str(result.get("matrix")), "H")


def source(result: Result) -> str:
    return f"'{result['file']}'" if result.get("file") else "a file without a name"


def statistics(result: Result) -> str:
    """Which statistics the BatchNorms used, in words; empty where the result does not say."""
    return {
        "batch": "batch statistics",
        "running": "running statistics",
        "mixed": "batch statistics in some BatchNorms, running statistics in others",
        "none": "no BatchNorm",
    }.get(str(result.get("statistics")), "")


def data(result: Result) -> str:
    """The data in words: source, samples, batches; empty where the result does not say."""
    found = result.get("data")
    if not isinstance(found, Mapping):
        return str(found or "")
    counts = [
        counted(found[key], key[:-2] if key == "batches" else key[:-1])
        for key in ("samples", "batches")
        if key in found
    ]
    name = str(found.get("source") or "")
    return f"{name} ({', '.join(counts)})" if name and counts else name or ", ".join(counts)


def counted(count: Any, noun: str) -> str:
    """1 batch, 2 batches, 1,234 samples."""
    plural = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    return f"{shown} {noun}{plural}"


def extremes(curvature: Result) -> dict[str, tuple[float, float]]:
    """What "eigs" says of the ends of the spectrum: "largest" and "smallest" eigenvalue, each with its residual.

    Of the eigenvalues largest in magnitude, the greatest is the largest of all only where it is positive.
    """
    eigs = part(curvature, "eigs", "values")
    values = numbers(eigs["values"], "values") if eigs else np.zeros(0)
    if eigs is None or not len(values):
        return {}
    residuals = residuals_of(eigs)
    which, high, low = eigs.get("which"), int(values.argmax()), int(values.argmin())
    found = {}
    if which == "LA" or (which == "LM" and values[high] > 0):
        found["largest"] = (float(values[high]), float(residuals[high]))
    if which == "SA" or (which == "LM" and values[low] < 0):
        found["smallest"] = (float(values[low]), float(residuals[low]))
    return found


def residuals_of(eigs: Result) -> Array:
    """Residuals beside the eigenvalues; NaN where the result has none."""
    if eigs.get("residuals") is None:
        return np.full(len(eigs["values"]), np.nan)
    return series(eigs, "values", "residuals")[1]


def which_eigenvalues(eigs: Result, count: int) -> str:
    """The 5 eigenvalues of largest magnitude, in words."""
    kind = {"LM": "of largest magnitude", "LA": "at the upper end", "SA": "at the lower end"}.get(
        str(eigs.get("which")), ""
    )
    return f"{counted(count, 'eigenvalue')} {kind}".strip()


def shortened(name: str, length: int) -> str:
    """A long name without its middle."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def shown(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; a dash where there is none."""
    x = number(value)
    if not math.isfinite(x):
        return DASH if math.isnan(x) else "∞" if x > 0 else "-∞"
    return f"{float(f'{x:.{digits}g}'):g}"


def with_error(value: Any, error: Any) -> str:
    """Value ± standard error, where there is one."""
    e = number(error)
    return f"{shown(value)} ± {shown(e, 2)}" if math.isfinite(e) and e > 0 else shown(value)


def shape(sizes: Sequence[int] | None) -> str:
    return TIMES.join(map(str, sizes)) if sizes else DASH
