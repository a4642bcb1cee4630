"""Where a captured node comes from: the module it ran in and the user's source line."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx

MODEL = "model"
"""Name of the user's model inside the wrapper that is exported."""

_PACKAGE = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent


def _stack(node: fx.Node) -> list[str]:
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def in_loss(node: fx.Node) -> bool:
    """Whether the node ran outside the user's model."""
    return node.op == "call_function" and not any(
        p == MODEL or p.startswith(f"{MODEL}.") for p in _stack(node)
    )


def module_path(node: fx.Node) -> str | None:
    """Path, in the user's model, of the innermost module the node ran in; `None` outside the model."""
    paths = [p for p in _stack(node) if p == MODEL or p.startswith(f"{MODEL}.")]
    return paths[-1].removeprefix(MODEL).removeprefix(".").split("@")[0] if paths else None


def source_line(node: fx.Node) -> str:
    """`file:line` of the user's code that made the node; empty where it is not known."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    found = [line for line in lines if line.startswith("File ")]
    own = [line for line in found if not is_library(line.split('"')[1])]
    # Where only libraries ran, theirs is better than none; the lines of a source that we run for its owner are not.
    own = own or [line for line in found if not is_ours(line.split('"')[1])]
    if not own:
        return ""
    _, filename, rest = own[-1].split('"', 2)
    number = rest.split("line ")[1].split(",")[0]
    return f"{filename}:{number}"


def is_library(filename: str) -> bool:
    """Whether a file is PyTorch's, Python's or ours rather than the user's."""
    path = Path(filename)
    return (
        filename.startswith("<")
        or is_ours(filename)
        or _TORCH in path.parents
        or path.name == "contextlib.py"
    )


def is_ours(filename: str) -> bool:
    """Whether a file only runs what the user wrote elsewhere."""
    parents = Path(filename).parents
    ours = _PACKAGE in parents and _PACKAGE / "models" not in parents
    return ours or filename.startswith("<eval_with_key>")
