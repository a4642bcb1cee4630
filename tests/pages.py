"""Code blocks of a Markdown page, and running them as one program with the page's own line numbers."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the word after it (`setup`, `check` or none), first line number and text."""

    page: Path
    language: str
    kind: str
    line: int
    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree (Python only); line numbers are those of the page."""
        return ast.increment_lineno(ast.parse(self.text), self.line - 1)

    def run(self, namespace: dict[str, Any], tree: ast.Module | None = None) -> None:
        """Execute the block (or `tree` in its place) in `namespace`."""
        exec(compile(self.tree if tree is None else tree, str(self.page), "exec"), namespace)


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, found[1], found[2] or "", text.count("\n", 0, found.start(3)) + 1, found[3])
        for found in _FENCE.finditer(text)
        if found[1] == language
    ]
