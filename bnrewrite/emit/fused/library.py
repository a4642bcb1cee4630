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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import InputError
from .c_source import HEAD, Form, Real, function
from .region import Region

Key = tuple[Region, Form, Real]
"""A region, the form of its images, and "float" or "double"."""

FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
CHOICES = (("-march=native", "-fopenmp", "-DVECTOR_EXP"), ("-march=native", "-fopenmp"), ("-fopenmp",), ())
"""What a compiler may not know is tried from the left."""

_loaded: dict[Key, Any] = {}


def load(keys: Sequence[Key]) -> None:
    """Compile what is not loaded yet, in two halves side by side."""
    missing = [key for key in dict.fromkeys(keys) if key not in _loaded]
    halves = [half for half in (missing[0::2], missing[1::2]) if half]
    if not halves:
        return
    compiler = _compiler()
    with tempfile.TemporaryDirectory(prefix="bnrewrite-") as folder, ThreadPoolExecutor(2) as pool:
        sources = [Path(folder) / f"{i}.c" for i in range(len(halves))]
        for found in pool.map(lambda half, source: _compiled(compiler, half, source), halves, sources):
            _loaded.update(found)


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


def _compiled(compiler: list[str], keys: Sequence[Key], source: Path) -> dict[Key, Any]:
    """The functions of `keys`, from the first choice that compiles and loads."""
    names = {key: f"region_{_digest(key)}" for key in keys}
    text = "".join(function(names[key], *key) for key in keys)
    source.write_text(HEAD + text, encoding="utf-8")
    said = ""
    for number, choice in enumerate(CHOICES):
        target = source.with_suffix(f".{number}.so")
        command = [*compiler, *FLAGS, *choice, str(source), "-o", str(target), "-lm"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        said = done.stdout.strip()
        if done.returncode:
            continue
        try:
            library = ctypes.CDLL(str(target))
        except OSError as error:  # an exp of vectors that this system has not, or a folder that runs nothing
            said = str(error)
        else:
            return {key: _typed(getattr(library, name)) for key, name in names.items()}
    raise InputError(
        f"fuse=True: the C compiler {' '.join(compiler)} failed: {said[:500]}. Name another one in the environment "
        "variable CC, or leave fuse=True out."
    )
