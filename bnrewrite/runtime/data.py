"""The data that curvature is taken over: a sequence of batches, each checked against what the file takes.

With batch statistics the loss of two batches is not the loss of their union. So batches are used as they are given:
never split, never merged, never reordered; results are means over them, weighted by their sizes.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FileError, InputError
from .session import DATA_ROOTS, Argument, Array, Described, check_readable, one_line
from .vectors import as_array, listed


@dataclass(frozen=True)
class Batch:
    """Arrays by input name, ready for the file; `size` samples."""

    feeds: dict[str, Array]
    size: int
    number: int


class Data:
    """Batches that can be gone through again and again.

    `source`: `(x, y)`; the path of an `.npz` that holds `input` and `target`; or an iterable of `(x, y)` or of such
    paths, one for each batch. A list or a data loader is streamed anew at every pass (it must give the same batches
    each time); a generator is read once and kept. A model of several inputs takes a tuple or a dict as `x`.
    `batch`: cut one `(x, y)` or `.npz` into batches of that size, the last one smaller where it does not divide.
    """

    def __init__(self, source: Any, file: Described, *, batch: int | None = None) -> None:
        self._file = file
        self._fingerprints: list[int] = []
        self._complete = False
        if isinstance(source, (str, os.PathLike)):
            source = read_npz(source, file)
        whole = Batch(*self._checked(source, None), 0) if _is_pair(source) else None
        if batch is not None:
            if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
                raise InputError(f"batch must be a whole number of samples, at least 1, not {batch!r}.")
            if whole is None:
                raise InputError(
                    "batch= cuts one pair (x, y) or one .npz file; this data comes in batches already."
                )
        self._whole = whole
        self._single = whole if batch is None else None
        self._source: Iterable[Any] = () if whole is not None else _repeatable(source)
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        if self._single is not None:
            yield self._single
            return
        count = 0
        for number, (feeds, size) in enumerate(self._batches()):
            self._same_as_before(feeds, number)
            yield Batch(feeds, size, number)
            count += 1
        if count == 0:
            raise InputError("data holds no batch.")
        if self._complete and count != len(self._fingerprints):
            raise InputError(f"data gave {len(self._fingerprints)} batches first and {count} now: {_STEADY}")
        self._complete = True

    def _batches(self) -> Iterator[tuple[dict[str, Array], int]]:
        if self._whole is None:
            for number, pair in enumerate(self._source):
                yield self._checked(pair, number)
            return
        assert self._batch is not None
        cut = {a.name for a in self._file.of_kind("data") if a.shape and isinstance(a.shape[0], str)}
        for number, start in enumerate(range(0, self._whole.size, self._batch)):
            feeds = {
                name: array[start : start + self._batch] if name in cut else array
                for name, array in self._whole.feeds.items()
            }
            size = min(self._batch, self._whole.size - start)
            try:
                _check_least_batch(size, self._file)
            except InputError as error:
                raise InputError(f"batch {number} of the data: {error}") from error
            yield feeds, size

    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    def single(self) -> bool:
        """Whether all the data is one batch."""
        return self._single is not None or len(self._fingerprints) == 1

    def digest(self) -> str:
        """A SHA-256 over every batch, in order."""
        found = hashlib.sha256()
        for batch in self:
            found.update(str(batch.size).encode())
            for name, array in batch.feeds.items():
                found.update(f"{name} {array.dtype} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def place(self, batch: Batch) -> str:
        """How messages name a batch."""
        return "the data" if self._single is not None else f"batch {batch.number} of the data"

    def _checked(self, pair: Any, number: int | None) -> tuple[dict[str, Array], int]:
        try:
            if isinstance(pair, (str, os.PathLike)):
                pair = read_npz(pair, self._file)
            return checked_feeds(pair, self._file)
        except InputError as error:
            if number is None:
                raise
            raise InputError(f"batch {number} of the data: {error}") from error

    def _same_as_before(self, feeds: Mapping[str, Array], number: int) -> None:
        """A shuffling loader would make H another matrix at every product."""
        fingerprint = 0
        for array in feeds.values():
            fingerprint = zlib.crc32(array.tobytes(), fingerprint)
        if number == len(self._fingerprints) and not self._complete:
            self._fingerprints.append(fingerprint)
        elif number >= len(self._fingerprints) or self._fingerprints[number] != fingerprint:
            raise InputError(f"batch {number} of the data is not the one that came the first time: {_STEADY}")


_STEADY = "every pass must give the same batches in the same order (shuffle=False, no random augmentation), or a list."


def _is_pair(source: Any) -> bool:
    """Whether `source` is `(x, y)` rather than a sequence of such pairs."""
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        return False
    return not any(isinstance(part, (str, os.PathLike)) for part in source) and not isinstance(
        source[1], (tuple, list)
    )


def _repeatable(source: Any) -> Iterable[Any]:
    """`source` as something that can be gone through again and again."""
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(
            "data must be a pair (x, y), the path of an .npz file, or an iterable of pairs, "
            f"not {type(source).__name__}."
        )
    return list(source) if isinstance(source, Iterator) else source


def read_npz(path: str | os.PathLike[str], file: Described) -> tuple[Any, Any]:
    """The pair `(input, target)` stored in an .npz; several model inputs as `input.0`, `input.1`, ... or by key."""
    arrays = read_arrays(path, [argument.name for argument in file.of_kind("data")])
    return _nested(arrays, "input"), _nested(arrays, "target")


def read_arrays(path: str | os.PathLike[str], wanted: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays of an .npz, all or those wanted. Pickled objects are refused."""
    check_readable(path)
    name = os.fspath(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise FileError(
                f"'{name}' holds one array without a name: save it with np.savez(file, input=, target=)."
            )
        with archive:
            missing = [key for key in wanted or () if key not in archive.files]
            if missing:
                raise FileError(
                    f"'{name}' has no array called {listed(missing)}; it holds {listed(archive.files) or 'nothing'}."
                )
            return {key: archive[key] for key in (archive.files if wanted is None else wanted)}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FileError(
            f"'{name}' is no .npz file of plain arrays (pickled objects are refused: reading them could run any code)."
        ) from error
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"'{name}' cannot be read: {one_line(error)}") from error


def _nested(arrays: Mapping[str, Array], root: str) -> Any:
    """The array called `root`, or a dict of those called `root.<key>`."""
    if root in arrays:
        return arrays[root]
    return {
        key.removeprefix(f"{root}."): array for key, array in arrays.items() if key.startswith(f"{root}.")
    }


def checked_feeds(pair: Any, file: Described) -> tuple[dict[str, Array], int]:
    """Arrays by input name in the file's own types, and the number of samples; InputError for what does not fit."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(f"a batch must be a pair (x, y), not {type(pair).__name__}.")
    expected = {argument.name: argument for argument in file.of_kind("data")}
    given: dict[str, Any] = {}
    for root, value in zip(DATA_ROOTS, pair, strict=True):
        _spread(root, value, expected, given)
    missing = [name for name in expected if name not in given]
    surplus = [name for name in given if name not in expected]
    if missing or surplus:
        raise InputError(
            f"the file takes {listed(list(expected))}, but the data gives {listed(list(given))}: "
            "give one array for each input of the model (a tuple, or a dict by name)."
        )
    sizes: dict[str, tuple[int, str]] = {}
    feeds = {name: _fitted(given[name], argument, sizes) for name, argument in expected.items()}
    batch = _batch_size(feeds, expected)
    _check_least_batch(batch, file)
    _check_classes(feeds, file)
    return feeds, batch


def _spread(name: str, value: Any, expected: Mapping[str, Argument], found: dict[str, Any]) -> None:
    """Name the leaves of a nested argument as the file does: `input.0`, `input.mask`."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _spread(f"{name}.{key}", entry, expected, found)
    elif name not in expected and isinstance(value, (tuple, list)):
        for index, entry in enumerate(value):
            _spread(f"{name}.{index}", entry, expected, found)
    else:
        found[name] = value


def _fitted(value: Any, argument: Argument, sizes: dict[str, tuple[int, str]]) -> Array:
    """`value` in the type of `argument`; `sizes` remembers what each free size stands for."""
    name = argument.name
    try:
        array = as_array(value)
    except ValueError as error:  # nested lists of different lengths
        raise InputError(f"{name} is no array of numbers, but a {type(value).__name__}.") from error
    shape = list(array.shape)
    if len(shape) != len(argument.shape):
        raise InputError(f"{name} has shape {shape}, the file takes {argument.described()}.")
    for size, declared in zip(shape, argument.shape, strict=True):
        if isinstance(declared, int) and size != declared:
            raise InputError(f"{name} has shape {shape}, the file takes {argument.described()}.")
        if isinstance(declared, str) and sizes.setdefault(declared, (size, name))[0] != size:
            other, first = sizes[declared]
            raise InputError(f"{first} has {other} samples, but {name} has {size} (shape {shape}).")
    wanted = argument.dtype
    if wanted.kind == "f" and array.dtype.kind != "f":
        raise InputError(
            f"{name} must hold floating-point numbers ({wanted}), not {array.dtype}: convert it first."
        )
    if wanted.kind == "i" and array.dtype.kind not in "iu":
        raise InputError(f"{name} must hold integers ({wanted}), not {array.dtype}.")
    if wanted.kind == "b" and array.dtype.kind != "b":
        raise InputError(f"{name} must hold truth values (bool), not {array.dtype}.")
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is refused here
        converted = np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)
    if wanted.kind == "f" and not np.isfinite(converted).all():
        raise InputError(f"{name} holds NaN or infinity.")
    return converted


def _batch_size(feeds: Mapping[str, Array], expected: Mapping[str, Argument]) -> int:
    """Length of the batch axis: of the first input that has a free one, or of the first input at all."""
    ranked = sorted(
        feeds, key=lambda name: not (expected[name].shape and isinstance(expected[name].shape[0], str))
    )
    size = feeds[ranked[0]].shape[0] if feeds[ranked[0]].ndim else 1
    if size == 0:
        raise InputError("the batch is empty: give at least one sample.")
    return size


def _check_least_batch(size: int, file: Described) -> None:
    for site in file.meta.get("sites", ()):
        if size == 1 and site["statistics"] == "batch" and site.get("per_sample") == 1:
            raise InputError(
                f"the BatchNorm in module '{site['module']}' needs a batch of at least 2: with 1 its statistics are "
                "over a single element."
            )


def _check_classes(feeds: Mapping[str, Array], file: Described) -> None:
    classes = file.meta.get("classes")
    target = feeds.get("target")
    if not classes or target is None or target.dtype.kind != "i":
        return
    count, ignored = classes
    wrong = (target < 0) | (target >= count)
    if ignored is not None:
        wrong &= target != ignored
    if wrong.any():
        raise InputError(
            f"target holds class {target[wrong][0]}, but the model has classes 0 to {count - 1}."
        )
