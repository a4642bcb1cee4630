"""What a verification found: a table of errors beside their bars."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parts = Mapping[str, NDArray[Any]]

WORST = 5
"""How many parameters are listed under a row that fails."""


@dataclass(frozen=True)
class Offender:
    """One parameter: its own relative error, and its share of the squared error of the whole vector."""

    parameter: str
    error: float
    share: float


@dataclass(frozen=True)
class Row:
    """One quantity, its relative error, and the bar that it must not exceed (NaN never passes)."""

    quantity: str
    error: float
    bar: float
    note: str = ""
    worst: tuple[Offender, ...] = ()

    @property
    def passed(self) -> bool:
        return self.error <= self.bar


@dataclass(frozen=True)
class Report:
    """`print(report)` shows the table; `report.passed` says whether every row holds.

    `against`: what the file was compared with. Errors are relative, |a - b| / |b| over the whole vector.
    """

    file: str
    against: str
    dtype: str
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def verdict(self) -> str:
        failed = [row.quantity for row in self.rows if not row.passed]
        if not failed:
            return f"passed: all {len(self.rows)} errors are within their bars"
        return f"FAILED: {', '.join(failed)}"

    def as_dict(self) -> dict[str, Any]:
        """`file`, `against`, `dtype`, `passed` and `rows` as plain values; errors that are not finite as `None`."""
        return {
            "file": self.file,
            "against": self.against,
            "dtype": self.dtype,
            "passed": self.passed,
            "rows": [
                {
                    **asdict(row),
                    "error": _finite(row.error),
                    "passed": row.passed,
                    "worst": [
                        {**asdict(offender), "error": _finite(offender.error)} for offender in row.worst
                    ],
                }
                for row in self.rows
            ],
        }

    def to_json(self) -> str:
        """`as_dict` as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        width = max((len(row.quantity) for row in self.rows), default=8)
        lines = [f"{self.file} ({self.dtype}) against {self.against}"]
        lines += [f"{'quantity':<{width}}  {'error':>8}  {'bar':>8}"]
        for row in self.rows:
            state = "ok" if row.passed else "FAILED"
            note = f"  {row.note}" if row.note else ""
            lines.append(f"{row.quantity:<{width}}  {row.error:8.1e}  {row.bar:8.1e}  {state}{note}")
            if not row.passed:
                lines += [
                    f"  {o.parameter}: error {o.error:.1e}, {o.share:.0%} of the whole" for o in row.worst
                ]
        return "\n".join([*lines, self.verdict])


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def relative_error(found: Parts, truth: Parts, floor: float = 0.0) -> float:
    """|found - truth| / max(|truth|, floor) over all parts as one vector; the absolute error where that is zero."""
    error = math.sqrt(sum(_square(found[name] - truth[name]) for name in truth))
    size = max(math.sqrt(sum(_square(truth[name]) for name in truth)), floor)
    return error / size if size > 0 else error


def zero_floor(loss: float, weights: float, length: float | None = None) -> float:
    """Norm below which a gradient, or with the `length` of v a product, counts as zero; `weights` is the norm of w.

    A millionth of what loss and weights make natural. A bias before BatchNorm has zero gradient and a zero row of H;
    its computed values are rounding errors, which no two programs share.
    """
    gradient = 1e-6 * abs(loss) / max(weights, 1.0)
    return gradient if length is None else gradient * length / max(weights, 1.0)


def worst_parts(found: Parts, truth: Parts) -> tuple[Offender, ...]:
    """The parts that contribute most to the error, first those that contribute most."""
    squares = {name: _square(found[name] - truth[name]) for name in truth}
    total = sum(squares.values())
    ranked = sorted(squares, key=lambda name: -squares[name] if math.isfinite(squares[name]) else -math.inf)[
        :WORST
    ]
    return tuple(
        Offender(
            name,
            relative_error({name: found[name]}, {name: truth[name]}),
            squares[name] / total if math.isfinite(total) else 1.0,
        )
        for name in ranked
        if squares[name] != 0
    )


def _square(x: NDArray[Any]) -> float:
    flat = np.asarray(x, dtype=np.float64).reshape(-1)
    return float(flat @ flat)
