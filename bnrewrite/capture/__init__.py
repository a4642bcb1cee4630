"""Every kind of source becomes one normalised graph. The only package that knows torch.export."""

from .example import Example, example_of
from .exporting import capture

__all__ = ["Example", "capture", "example_of"]
