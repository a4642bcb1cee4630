"""The linter, the formatter and the type checker, as tests: one command checks everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(
        program, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda c: c[0]
)
def test_ruff_finds_nothing(command: tuple[str, ...]) -> None:
    done = run("ruff", *command, "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    done = run("mypy", "--cache-dir", tmp_path, "--verbose")
    assert done.returncode == 0, done.stdout
    # It sees through the symlinks: passes/ and models/ are checked, once, under their installed names.
    for package in ("passes", "models"):
        for file in (ROOT / package).glob("[!_]*.py"):
            assert f"module='bnrewrite.{package}.{file.stem}'" in done.stderr
        assert f"module='{package}" not in done.stderr
