"""Models in files that hold their graph: `.pt2` (torch.export.save) and TorchScript (torch.jit.save).

Neither runs code of the file: pickled objects in an archive are refused, tensors are read with `weights_only=True`.
"""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import FileError
from .adapter import as_module

SUFFIXES = (".pt2", ".pt", ".pth", ".ts")

PICKLED = ("custom_obj_", "opaque_obj_")
"""Entries of a .pt2 archive that loading would unpickle (torch/export/pt2_archive/constants.py)."""

ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of torch.load that outranks its callers' arguments."""


def load_source(path: str) -> nn.Module:
    """The model in a `.pt2` archive or a TorchScript file, on the CPU; FileError where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _program(path) if path.endswith(".pt2") else _script(path)


def _program(path: str) -> nn.Module:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if any(mark in name for mark in PICKLED)]
        if not pickled:
            with _only_weights():
                return as_module(torch.export.load(path))
    except Exception as error:  # of many kinds, by what is damaged
        raise FileError(
            f"'{path}' cannot be read as an exported program (what torch.export.save writes): {_short(error)}"
        ) from error
    raise FileError(f"'{path}' holds pickled objects ({pickled[0]}), which are never executed here.")


def _script(path: str) -> nn.Module:
    try:
        loaded = torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise FileError(
            f"'{path}' cannot be read as a TorchScript module, what torch.jit.save writes ({_short(error)}). A file of "
            "weights goes with --weights; MODEL then names the code."
        ) from error
    return as_module(loaded)


@contextmanager
def _only_weights() -> Iterator[None]:
    before = os.environ.get(ONLY_WEIGHTS)
    os.environ[ONLY_WEIGHTS] = "1"
    logger = logging.getLogger("torch.export")  # shows tracebacks of what the error says
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[ONLY_WEIGHTS]
        else:
            os.environ[ONLY_WEIGHTS] = before


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].split('. ')[0]}"
