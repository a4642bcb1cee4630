"""Attributes of the user's modules that are set for the time of a capture, and put back whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Borrowed:
    """Attributes set on the user's modules for the time of a capture."""

    def __init__(self) -> None:
        self._undo: list[tuple[nn.Module, str, Any]] = []

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        self._undo.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def evaluate(self, module: nn.Module) -> None:
        """Evaluation mode for this module alone, not for its children."""
        self.set(module, "training", False)

    def restore(self) -> None:
        for module, name, value in reversed(self._undo):
            setattr(module, name, value)


@contextmanager
def borrow(model: nn.Module) -> Iterator[Borrowed]:
    borrowed = Borrowed()
    try:
        for module in model.modules():
            # The batch counter decides only the momentum of the running statistics, which nothing here uses;
            # with momentum=None it would be read as a number, which cannot be captured.
            if isinstance(module, nn.SyncBatchNorm):  # it insists on its counter
                borrowed.set(module, "momentum", module.momentum or 0.1)
            elif (
                isinstance(module, nn.modules.batchnorm._NormBase) and module.num_batches_tracked is not None
            ):
                borrowed.set(module, "num_batches_tracked", None)
        yield borrowed
    finally:
        borrowed.restore()
