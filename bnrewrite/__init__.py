"""Exact curvature of networks with BatchNorm: loss, gradient and Hessian-vector product as one FX or ONNX graph."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import formulas, models, runtime
    from .compiler import export_onnx, export_pt2, export_torchscript, linearize, transform
    from .structure import StructureReport, analyze
    from .verification import verify

__version__ = "0.1.0"
__all__ = [
    "StructureReport",
    "analyze",
    "export_onnx",
    "export_pt2",
    "export_torchscript",
    "formulas",
    "linearize",
    "models",
    "runtime",
    "transform",
    "verify",
]

# Public names are loaded at first use: `bnrewrite.runtime` and `bnrewrite.formulas` must work where there is no torch.
_HOME = {
    "transform": "compiler",
    "linearize": "compiler",
    "export_onnx": "compiler",
    "export_pt2": "compiler",
    "export_torchscript": "compiler",
    "verify": "verification",
    "analyze": "structure",
    "StructureReport": "structure",
}
_SUBPACKAGES = ("formulas", "models", "runtime")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'bnrewrite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
