"""Every error a user can meet: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class BnrewriteError(Exception):
    """Base of all errors that bnrewrite raises on purpose."""


class UnsupportedOp(BnrewriteError):
    """An operation without a rule (differentiation) or without a lowering (ONNX)."""

    def __init__(self, op: object, where: str, advice: str = "") -> None:
        self.op, self.where = str(op), where
        super().__init__(f"no support for the operation {op} at {where}." + (f" {advice}" if advice else ""))


class CaptureError(BnrewriteError):
    """The model could not be captured: data-dependent control flow, wrong example inputs, random numbers, ..."""


class InputError(BnrewriteError, ValueError):
    """A wrong argument: shapes, names, types, options that contradict each other."""


class FileError(BnrewriteError, OSError):
    """A file that is missing, unreadable, unwritable, or not what it should be."""


class NumericalError(BnrewriteError, ArithmeticError):
    """A computation that gave no usable number: infinity or NaN in a result, an iteration that did not converge."""
