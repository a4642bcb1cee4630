"""What mixes the samples of a batch, operation by operation, and which derivatives exist therefore."""

from .analysis import analyze
from .quantities import Quantity
from .report import Mixing, NodeStructure, StructureReport

__all__ = ["Mixing", "NodeStructure", "Quantity", "StructureReport", "analyze"]
