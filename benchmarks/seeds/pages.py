"""Pages with generated parts: a run replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bnrewrite.files import written_whole

HOME = Path(__file__).parents[2] / "docs" / "seeds"


def filled(page: str, parts: dict[str, str]) -> str:
    """`page` with each of `parts` in its place; KeyError where a place is missing."""
    for name, content in parts.items():
        mark = re.compile(
            rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL
        )
        if not mark.search(page):
            raise KeyError(f"the page has no place '<!-- begin {name} -->' ... '<!-- end {name} -->'")
        text = f"\n{content.strip()}\n\n".replace("\\", r"\\")  # in a replacement a backslash is a command
        page = mark.sub(rf"\1{text}\2", page)
    return page


def write(name: str, parts: dict[str, str], folder: Path) -> None:
    """Fill the page `name` in `folder`; where it is not there yet, its text comes from the repository."""
    target = folder / name
    source = target if target.exists() else HOME / name
    text = filled(source.read_text(encoding="utf-8"), parts)
    with written_whole(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; columns whose name starts with `>` are right-aligned."""
    lines = [" | ".join(column.lstrip(">") for column in columns)]
    lines.append(" | ".join("---:" if column.startswith(">") else "---" for column in columns))
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def picture(file: str, words: str) -> str:
    """A picture with the text that stands for it."""
    return f"![{words}]({file})"
