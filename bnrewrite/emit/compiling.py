"""C compiled with the compiler of the machine and loaded (`fuse=True`)."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..errors import InputError
from .addresses import Real

FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
CHOICES = (("-march=native", "-fopenmp", "-DVECTOR_EXP"), ("-march=native", "-fopenmp"), ("-fopenmp",), ())
"""What a compiler may not know is tried from the left."""


def c_compiler() -> list[str]:
    """The command of the compiler: that of the environment variable CC, else the first of cc, gcc and clang."""
    command = shlex.split(os.environ.get("CC", "")) or [
        next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
    ]
    if not shutil.which(command[0]):
        raise InputError(
            f"fuse=True compiles C, and there is no C compiler ({command[0] or 'cc, gcc, clang'}): install one, name "
            "it in the environment variable CC, or leave fuse=True out."
        )
    return command


def compiled(compiler: Sequence[str], source: Path, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """The library of `source`, beside which it is written, from the first choice that compiles and loads."""
    said = ""
    for number, choice in enumerate(CHOICES):
        target = source.with_suffix(f".{number}.so")
        command = [*compiler, *FLAGS, *flags, *choice, str(source), "-o", str(target), "-lm"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        said = done.stdout.strip()
        if done.returncode:
            continue
        try:
            return ctypes.CDLL(str(target))
        except OSError as error:  # an exp of vectors that this system has not, or a folder that runs nothing
            said = str(error)
    raise InputError(
        f"fuse=True: the C compiler {' '.join(compiler)} failed: {said[:500]}. Name another one in the environment "
        "variable CC, or leave fuse=True out."
    )


BYTES: dict[Real, int] = {"float": 4, "double": 8}


def library_of(package: str, name: str, real: Real) -> ctypes.CDLL:
    """The library of the source `name` of `package`, which may include `panels.h`, for numbers of this type."""
    with tempfile.TemporaryDirectory(prefix="bnrewrite-") as folder:
        for room, file in ((__package__, "panels.h"), (package, name)):
            text = files(room).joinpath(file).read_text(encoding="utf-8")
            Path(folder, file).write_text(text, encoding="utf-8")
        flags = (f"-Dreal={real}", f"-DBYTES={BYTES[real]}", "-ffp-contract=fast")
        return compiled(c_compiler(), Path(folder, name), flags)
