"""Is an exported file right? Against PyTorch's double backward, or against its own differences."""

from .checking import verify
from .report import Report

__all__ = ["Report", "verify"]
