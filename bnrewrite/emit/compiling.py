"""C compiled with the compiler of the machine and loaded (`fuse=True`)."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

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
