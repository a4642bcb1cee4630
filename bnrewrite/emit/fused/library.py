"""C functions of regions compiled and loaded, each distinct one once in a process."""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..addresses import Real
from ..compiling import c_compiler, compiled
from .c_source import HEAD, Form, function
from .region import Region

Key = tuple[Region, Form, Real]
"""A region, the form of its images, and "float" or "double"."""

_loaded: dict[Key, Any] = {}


def load(keys: Sequence[Key]) -> None:
    """Compile what is not loaded yet, in two halves side by side."""
    missing = [key for key in dict.fromkeys(keys) if key not in _loaded]
    halves = [half for half in (missing[0::2], missing[1::2]) if half]
    if not halves:
        return
    compiler = c_compiler()
    with tempfile.TemporaryDirectory(prefix="bnrewrite-") as folder, ThreadPoolExecutor(2) as pool:
        sources = [Path(folder) / f"{i}.c" for i in range(len(halves))]
        for found in pool.map(lambda half, source: _functions(compiler, half, source), halves, sources):
            _loaded.update(found)


def loaded(key: Key) -> Any:
    """The function of one region, compiled now if need be."""
    if key not in _loaded:
        load([key])
    return _loaded[key]


def _functions(compiler: list[str], keys: Sequence[Key], source: Path) -> dict[Key, Any]:
    """The functions of `keys`, from one source."""
    names = {key: f"region_{_digest(key)}" for key in keys}
    text = "".join(function(names[key], *key) for key in keys)
    source.write_text(HEAD + text, encoding="utf-8")
    library = compiled(compiler, source)
    return {key: _typed(getattr(library, name)) for key, name in names.items()}


def _typed(entry: Any) -> Any:
    entry.restype = None
    entry.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]
    return entry


def _digest(key: Key) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]
