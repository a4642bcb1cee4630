"""Lowerings of ATen operations to ONNX, one family a file; importing the package fills the table."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .table import LOWERINGS, lower_node

for _family in iter_modules(__path__):
    import_module(f".{_family.name}", __name__)

__all__ = ["LOWERINGS", "lower_node"]
