"""What a method of computing a product is: how it is prepared, called, and what its result means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from .speed_cases import Parts, Point

Kind = Literal["gradient", "hvp", "apply", "ggn"]
"""`hvp` and `ggn`: everything anew in every call; `apply`: what does not depend on the direction is done before."""


@dataclass(frozen=True)
class Prepared:
    """A method ready to be timed.

    `call` does the work once. `products` reads its result: one dict by parameter name for each direction, in order.
    `stages` are the seconds that preparing took, by what was done.
    """

    call: Callable[[], Any]
    products: Callable[[Any], list[Mapping[str, Any]]]
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One row of the table; in the title `{K}` stands for the number of directions.

    `block`: whether a call takes all directions of the point at once, else the first one. `needs`: a package that may
    not be there. `baseline`: whether others are compared with it. `default`: whether it runs unless asked for.
    """

    title: str
    kind: Kind
    prepare: Callable[[Point], Prepared]
    baseline: bool = False
    block: bool = False
    needs: str | None = None
    default: bool = True
    memory: bool = False

    @property
    def product(self) -> str:
        """What the result is: `gradient`, `hvp` or `ggn`."""
        return "hvp" if self.kind == "apply" else self.kind


class Stages:
    """A stopwatch for the steps of preparing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def one(parts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A single product."""
    return [parts]


def rows(stacked: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """The products of a block (K, *shape)."""
    return [{name: part[i] for name, part in stacked.items()} for i in range(count)]


def named(v: Parts, results: Any) -> Parts:
    """A sequence of tensors under the names of the direction."""
    return dict(zip(v, results, strict=True))
