"""The clock: methods in turns within one process, in rotating order, each result looked at before it is timed."""

from __future__ import annotations

import gc
import importlib.util
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

from .speed_cases import Case
from .speed_method import Method, Prepared
from .speed_reference import Reference

Row = dict[str, Any]

LEAST_SECONDS, MOST_REPEATS = 0.02, 50
"""Short calls are repeated within a round until they take this long together."""

PAUSE = 0.005
"""Seconds between methods, in which the threads of the one before stop waiting for more work."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`; a call into C++ ends first."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(
    case: Case,
    methods: Mapping[str, Method],
    *,
    vectors: int,
    rounds: int,
    limit: float,
    report: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """One row for each method: `status` (`ok`, `wrong`, `fails`, `not installed`), seconds per product, error.

    `seconds` is the median over `rounds` rounds after one that is not counted, `low` and `high` the quartiles; of a
    block, divided by its number of directions. `first` is the first call, `stages` what preparing took. `report` is
    given the rows so far after every step.
    """
    point = case.point(vectors)
    reference = Reference(case, point, sorted({method.product for method in methods.values()}))
    rows: dict[str, Row] = {}
    ready: dict[str, Prepared] = {}
    for key, method in methods.items():
        row: Row = {
            "method": key, "title": method.title.format(K=vectors), "kind": method.kind, "baseline": method.baseline,
            "vectors": vectors if method.block else 1, "status": "fails",
        }  # fmt: skip
        rows[key] = row
        if method.needs and importlib.util.find_spec(method.needs) is None:
            row["status"] = "not installed"
            continue
        with _reported(row), at_most(limit):
            prepared = method.prepare(point)
            _look_at(prepared, method.product, reference, row)
            ready[key] = prepared
        report(list(rows.values()))
    del reference
    times: dict[str, list[float]] = {key: [] for key in ready}
    order = list(ready)
    for turn in range(rounds + 1):
        gc.collect()
        start = turn % len(order) if order else 0
        for key in order[start:] + order[:start]:
            if rows[key]["status"] == "fails":
                continue
            with _reported(rows[key]), at_most(limit):
                times[key].append(_seconds(ready[key], rows[key]))
        for key, row in rows.items():
            if row["status"] in ("ok", "wrong") and turn:
                _summarise(row, times[key][1:])
        report(list(rows.values()))
    return list(rows.values())


def _look_at(prepared: Prepared, product: str, reference: Reference, row: Row) -> None:
    """The first call, and whether its products are right."""
    row["stages"] = prepared.stages
    start = time.perf_counter()
    result = prepared.call()
    row["first"] = time.perf_counter() - start
    row["error"] = reference.error(product, prepared.products(result))
    row["bar"] = reference.bars[product]
    row["status"] = "ok" if row["error"] <= row["bar"] else "wrong"


@contextmanager
def _reported(row: Row) -> Iterator[None]:
    """What goes wrong in the block becomes the row's reason, in one line."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever another library raises
        words = " ".join(str(error).split())
        row["status"] = "fails"
        row["reason"] = f"{type(error).__name__}: {words}"[:300]


def _seconds(prepared: Prepared, row: Row) -> float:
    """Seconds of one call, mean over the repeats of this round. What a call returns is freed outside the clock."""
    row.setdefault("repeats", 1)
    total = 0.0
    time.sleep(PAUSE)
    for _ in range(row["repeats"]):
        start = time.perf_counter()
        result = prepared.call()
        total += time.perf_counter() - start
        del result
    mean = total / row["repeats"]
    if row["repeats"] == 1:
        row["repeats"] = min(MOST_REPEATS, max(1, math.ceil(LEAST_SECONDS / mean)))
    return mean


def _summarise(row: Row, times: Sequence[float]) -> None:
    per_product = [seconds / row["vectors"] for seconds in times]
    low, middle, high = (
        quantiles(per_product, n=4, method="inclusive") if len(per_product) > 1 else per_product * 3
    )
    row.update(seconds=middle, low=low, high=high, rounds=len(times), times=per_product)
