"""What computes the products on one batch: a single file, or a primal and an apply file that work together.

A single file does everything in one call. Of a pair, `primal` gives loss, gradient and residuals once for a batch, and
`apply` the products from them as often as wanted. Files made with `vectors=K` take K directions in one call.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import FileError
from .session import Argument, Array, Kind, Session
from .vectors import VectorSpace

RESIDUAL_BYTES = 1 << 31
"""Residuals of batches are kept up to this size; those of further batches are computed anew in every pass."""


class Engine(ABC):
    """Loss, gradient and products on one batch at a time. `files` are the files it reads."""

    name: str
    meta: dict[str, Any]
    files: list[str]
    dtype: np.dtype[Any]
    vectors: int | None

    @property
    def products(self) -> list[str]:
        """The products that the file computes: `hvp`, `ggn`, `residual`."""
        return list(self.meta["products"])

    @abstractmethod
    def of_kind(self, kind: Kind) -> list[Argument]:
        """The arguments of one kind."""

    @property
    @abstractmethod
    def block(self) -> int:
        """How many directions to hand over at a time, so that work on a batch is shared."""

    @abstractmethod
    def point(self, feeds: Mapping[str, Array], number: int) -> dict[str, Array]:
        """`loss` and every `grad.<parameter>` on batch `number`."""

    @abstractmethod
    def loss(self, feeds: Mapping[str, Array]) -> float:
        """The loss on a batch, at whatever parameters `feeds` holds; nothing is kept."""

    @abstractmethod
    def apply(
        self, product: str, feeds: Mapping[str, Array], number: int, rows: NDArray[Any], space: VectorSpace,
        point: dict[str, Array] | None = None,
    ) -> Iterator[dict[str, Array]]:  # fmt: skip
        """The product with every row of `rows` (m, n) on batch `number`: m dicts by parameter name, in order.

        What comes along of loss and gradient goes into `point`.
        """

    def _blocks(
        self, session: Session, feeds: Mapping[str, Array], names: Mapping[str, str], rows: NDArray[Any],
        space: VectorSpace, along: Sequence[str] = (), point: dict[str, Array] | None = None,
    ) -> Iterator[dict[str, Array]]:  # fmt: skip
        """Run `session` on the rows, K at a time where it takes K; `names`: parameters by output. The first run gives
        the outputs `along` to `point` as well."""
        count = self.vectors
        for start in range(0, len(rows), count or 1):
            part = rows[start : start + (count or 1)]
            given = len(part)
            if count is None:
                vectors = space.unflatten(part[0])
            else:
                if given < count:  # the last ones: the other directions of the call are zero
                    part = np.concatenate([part, np.zeros((count - given, space.size), part.dtype)])
                vectors = {
                    name: np.ascontiguousarray(part[:, entries]).reshape(count, *space.shapes[name])
                    for name, entries in space.slices.items()
                }
            wanted = list(names) if start or point is None else [*names, *along]
            results = session.evaluate({**feeds, **{f"v.{k}": v for k, v in vectors.items()}}, wanted)
            if point is not None and not start:
                point.update({name: results[name] for name in along})
            for i in range(given):
                yield {
                    parameter: results[output] if count is None else results[output][i]
                    for output, parameter in names.items()
                }


class Single(Engine):
    """One file that computes everything in one call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.name, self.meta, self.files = session.name, session.meta, [session.name]
        self.dtype, self.vectors = session.dtype, session.vectors

    def of_kind(self, kind: Kind) -> list[Argument]:
        return self._session.of_kind(kind)

    @property
    def block(self) -> int:
        return self.vectors or 1

    def point(self, feeds: Mapping[str, Array], number: int) -> dict[str, Array]:
        # The graph computes everything at once: without a direction it is asked with v = 0.
        zeros = {
            argument.name: np.zeros(_sized(argument.shape, feeds), argument.dtype)
            for argument in self._session.of_kind("vector")
        }
        return self._session.run({**feeds, **zeros}, self._of_point)

    @property
    def _of_point(self) -> list[str]:
        return [name for name in self._session.outputs if name.split(".")[0] not in self.products]

    def loss(self, feeds: Mapping[str, Array]) -> float:
        return float(self.point(feeds, 0)["loss"])

    def apply(
        self, product: str, feeds: Mapping[str, Array], number: int, rows: NDArray[Any], space: VectorSpace,
        point: dict[str, Array] | None = None,
    ) -> Iterator[dict[str, Array]]:  # fmt: skip
        names = {f"{product}.{name}": name for name in space.shapes}
        return self._blocks(self._session, feeds, names, rows, space, self._of_point, point)


class Pair(Engine):
    """`primal` once for a batch, `apply` for every direction; residuals are kept where they fit into memory."""

    def __init__(self, primal: Session, apply: Session) -> None:
        self._primal, self._apply = primal, apply
        self._kept: dict[int, dict[str, Array]] = {}
        self._bytes = 0
        self.name, self.meta, self.files = primal.name, apply.meta, [primal.name, apply.name]
        self.dtype, self.vectors = apply.dtype, apply.vectors

    def of_kind(self, kind: Kind) -> list[Argument]:
        both = (*self._primal.of_kind(kind), *self._apply.of_kind(kind))
        return list({argument.name: argument for argument in both}.values())

    @property
    def block(self) -> int:
        return self.vectors or 8  # residuals that are not kept are computed once for so many

    def point(self, feeds: Mapping[str, Array], number: int) -> dict[str, Array]:
        return self._evaluated(feeds, number)[0]

    def loss(self, feeds: Mapping[str, Array]) -> float:
        return float(self._primal.evaluate(self._taken(feeds), ["loss"])["loss"])

    def apply(
        self, product: str, feeds: Mapping[str, Array], number: int, rows: NDArray[Any], space: VectorSpace,
        point: dict[str, Array] | None = None,
    ) -> Iterator[dict[str, Array]]:  # fmt: skip
        residuals = self._kept.get(number)
        if residuals is None or point is not None:
            found, residuals = self._evaluated(feeds, number)
            if point is not None:
                point.update(found)
        parameters = {a.name: feeds[a.name] for a in self._apply.of_kind("parameter") if a.name in feeds}
        names = {f"{product}.{name}": name for name in space.shapes}
        return self._blocks(self._apply, {**residuals, **parameters}, names, rows, space)

    def _taken(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: feeds[name] for name in self._primal.arguments}

    def _evaluated(
        self, feeds: Mapping[str, Array], number: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Loss and gradient, and the residuals, which are kept where there is room."""
        results = self._primal.evaluate(self._taken(feeds), self._primal.outputs)
        residuals = {name: value for name, value in results.items() if name.startswith("residual.")}
        size = sum(value.nbytes for value in residuals.values())
        if number not in self._kept and self._bytes + size <= RESIDUAL_BYTES:
            self._kept[number] = residuals
            self._bytes += size
        return {name: value for name, value in results.items() if name not in residuals}, residuals


def _sized(shape: Sequence[int | str | None], feeds: Mapping[str, Array]) -> list[int]:
    """A direction's shape; with `wrt="input"` its batch axis is that of the input."""
    return [len(feeds["input"]) if not isinstance(size, int) else size for size in shape]


def open_engine(
    file: str | os.PathLike[str],
    *,
    providers: Sequence[Any] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
) -> Engine:
    """The engine of `file`: of `curvature.onnx`, or of the pair `curvature.primal.onnx` and `curvature.apply.onnx`, of
    which either may be named, or `curvature.onnx` where there is no such file."""
    path = Path(file)
    pair = pair_paths(path)
    if pair is None:
        session = Session(file, providers=providers, session_options=session_options)
        if session.meta.get("part"):
            raise FileError(
                f"'{path}' is the {session.meta['part']} part of a pair: name the files "
                "<name>.primal.onnx and <name>.apply.onnx."
            )
        return Single(session)
    primal, apply = (Session(part, providers=providers, session_options=session_options) for part in pair)
    for session, part in ((primal, "primal"), (apply, "apply")):
        if session.meta.get("part") != part:
            raise FileError(f"'{session.name}' is not the {part} part of a pair.")
    if primal.meta.get("pair") != apply.meta.get("pair"):
        raise FileError(
            f"'{primal.name}' and '{apply.name}' come from different exports: export both anew with linearize=True."
        )
    return Pair(primal, apply)


def pair_paths(path: Path) -> tuple[Path, Path] | None:
    """The two files of the pair that `path` stands for; None for a single file."""
    for part in (".primal", ".apply"):
        if path.name.endswith(f"{part}.onnx"):
            stem = path.name.removesuffix(f"{part}.onnx")
            return path.with_name(f"{stem}.primal.onnx"), path.with_name(f"{stem}.apply.onnx")
    first, second = path.with_suffix(".primal.onnx"), path.with_suffix(".apply.onnx")
    return (first, second) if not path.exists() and first.exists() and second.exists() else None
