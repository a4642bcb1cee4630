"""C functions compiled and loaded, each distinct one once in a process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from .c_source import HEAD, Form, function
from .region import Region

Key = tuple[Region, Form, str]
"""A region, the form of its images, and "float" or "double"."""

FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
CHOICES = (("-march=native", "-fopenmp", "-DVECTOR_EXP"), ("-march=native", "-fopenmp"), ("-fopenmp",), ())
"""What a compiler may not know is tried from the left."""

_loaded: dict[Key, Any] = {}


def load(keys: Sequence[Key]) -> None:
    """Compile what is not loaded yet, all in one library."""
    missing = [key for key in dict.fromkeys(keys) if key not in _loaded]
    if not missing:
        return
    names = {key: f"region_{_digest(key)}" for key in missing}
    compiler = _compiler()
    with tempfile.TemporaryDirectory(prefix="bnrewrite-") as folder:
        halves = [missing[0::2], missing[1::2]]
        found = [
            _compile(compiler, Path(folder) / f"{i}.c", half, names) for i, half in enumerate(halves) if half
        ]
        for half, (process, file) in zip(halves, found, strict=False):
            library = _finished(compiler, process, file)
            for key in half:
                _loaded[key] = _typed(getattr(library, names[key]))


def loaded(key: Key) -> Any:
    """The function of one region, compiled now if need be."""
    if key not in _loaded:
        load([key])
    return _loaded[key]


def _typed(entry: Any) -> Any:
    entry.restype = None
    entry.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]
    return entry


def _digest(key: Key) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or [
        next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
    ]
    if not shutil.which(command[0]):
        raise InputError(
            f"fuse=True compiles C, and there is no C compiler ({command[0] or 'cc, gcc, clang'}): install one, name "
            "it in the environment variable CC, or leave fuse=True out."
        )
    return command


def _compile(
    compiler: list[str], source: Path, keys: Sequence[Key], names: dict[Key, str], choice: int = 0
) -> tuple[Any, Path]:
    text = "".join(function(names[key], *key) for key in keys)  # type: ignore[arg-type]
    source.write_text(HEAD + text, encoding="utf-8")
    return _start(compiler, source, choice), source


def _start(compiler: list[str], source: Path, choice: int) -> Any:
    command = [*compiler, *FLAGS, *CHOICES[choice], str(source), "-o", str(source.with_suffix(".so")), "-lm"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finished(compiler: list[str], process: Any, source: Path) -> ctypes.CDLL:
    for choice in range(len(CHOICES)):
        if choice:
            process = _start(compiler, source, choice)
        said, _ = process.communicate()
        if process.returncode == 0:
            return ctypes.CDLL(str(source.with_suffix(".so")))
    raise InputError(
        f"fuse=True: the C compiler {' '.join(compiler)} failed: {said.strip()[:500]}. Name another one in the "
        "environment variable CC, or leave fuse=True out."
    )
