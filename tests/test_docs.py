"""The documents are true: formulas agree with automatic differentiation, examples run, links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import ROOT, Block, blocks
from scipy.sparse.linalg import eigsh

import bnrewrite
from bnrewrite.emit.onnx import OPSETS
from bnrewrite.runtime import eigen

README = ROOT / "README.md"
DERIVATION = ROOT / "docs" / "derivation.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def run_derivation(mutant: tuple[Block, ast.Module] | None = None) -> None:
    """Run the page; with a mutant in place of one block, skip the checks before it."""
    namespace: dict[str, Any] = {}
    reached = mutant is None
    for block in blocks(DERIVATION, "python"):
        if mutant is not None and block == mutant[0]:
            reached = True
            block.run(namespace, mutant[1])
        elif reached or block.kind != "check" or defines_names(block):
            block.run(namespace)


def defines_names(block: Block) -> bool:
    """Whether later blocks use functions that a check block defines."""
    return any(isinstance(statement, ast.FunctionDef) for statement in block.tree.body)


def formulas(tree: ast.Module) -> Iterator[ast.expr]:
    """Every right-hand side and every returned value; of a tuple each entry, of a lambda its body."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.Return)) and node.value is not None:
            for entry in node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]:
                yield entry.body if isinstance(entry, ast.Lambda) else entry


class _OnePercent(ast.NodeTransformer):
    def __init__(self, chosen: ast.expr) -> None:
        self.chosen = chosen

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.chosen:
            return ast.copy_location(ast.BinOp(self.chosen, ast.Mult(), ast.Constant(1.01)), node)
        return super().visit(node)


def mutants() -> Iterator[tuple[Block, ast.Module, str]]:
    """The displayed blocks with one formula off by one per cent."""
    for block in blocks(DERIVATION, "python"):
        if block.kind:
            continue
        for number, _ in enumerate(formulas(block.tree)):
            tree = block.tree
            chosen = list(formulas(tree))[number]
            label = f"line {chosen.lineno}: {ast.unparse(chosen)}"
            yield block, ast.fix_missing_locations(_OnePercent(chosen).visit(tree)), label


def test_derivation_agrees_with_automatic_differentiation() -> None:
    run_derivation()


def test_every_displayed_formula_is_checked() -> None:
    """Proof of the check above: one per cent in any one formula makes it fail."""
    survivors, count = [], 0
    for block, tree, label in mutants():
        count += 1
        try:
            run_derivation((block, tree))
        except AssertionError:
            continue
        survivors.append(label)
    assert not survivors, "\n".join(survivors)
    assert count > 100


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        eigen, "eigsh", lambda operator, **options: eigsh(operator, **(options | {"tol": 0.1}))
    )
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    for block in blocks(README, "python"):
        block.run(namespace)
    assert (tmp_path / "curvature.onnx").exists()
    assert namespace["curvature"].grad().keys() == namespace["v"].keys()


NETWORK = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
"""


def test_readme_command_lines_run(tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.save(namespace["make"]().state_dict(), tmp_path / "weights.pt")
    rng = np.random.default_rng(0)
    data = {"input": rng.standard_normal((4, 3, 32, 32)).astype(np.float32), "target": rng.integers(0, 10, 4)}
    np.savez(tmp_path / "data.npz", **data)
    (block,) = (block for block in blocks(README, "sh") if block.kind == "cli")
    lines = block.text.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["bnrewrite", name] for name in ("export", "verify", "inspect", "curvature", "sensitivity")
    ]
    for line in lines:
        program = [sys.executable, "-m", "bnrewrite", *shlex.split(line)[1:]]
        done = subprocess.run(
            program,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_readme_has_one_command_for_the_demo_and_one_for_the_tests() -> None:
    demo, tests = (block.text.splitlines() for block in blocks(README, "sh") if not block.kind)
    install = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt"
    assert demo == [f"{install} '.[demo]' && .venv/bin/bnrewrite demo"]
    assert tests == [f"{install} -e '.[test]' && .venv/bin/pytest -n 2"]


def test_ci_runs_the_command_of_the_readme(tmp_path: Path) -> None:
    """.ci/run in a repository whose README names another command runs that one, and fails when it does."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    for code, ending in ((0, "echo done; exit 0"), (3, "echo done; exit 3"), (1, "false | true; echo done")):
        readme = f"Run this:\n\n```sh\npython3 -m venv --help > pytest.txt; {ending}\n```\n"
        (tmp_path / "README.md").write_text(readme, encoding="utf-8")
        done = subprocess.run(
            [tmp_path / ".ci" / "run"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert ("done" in done.stdout.splitlines()) is (code != 1)
    assert not (tmp_path / "pytest.txt").exists(), "it must work on a copy"


def test_readme_lists_every_option() -> None:
    """The options in the table are those of `transform`; `export_onnx` adds those named below it."""
    table = re.findall(r"^\| `(\w+)=` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    keywords = [
        p.name for p in inspect.signature(bnrewrite.transform).parameters.values() if p.kind == p.KEYWORD_ONLY
    ]
    assert table == keywords
    keywords = [
        p.name
        for p in inspect.signature(bnrewrite.export_onnx).parameters.values()
        if p.kind == p.KEYWORD_ONLY
    ]
    assert keywords == ["opset", "params", "linearize", "memory"]


def test_readme_tells_the_versions_that_are_pinned() -> None:
    text = README.read_text(encoding="utf-8")
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
        if "==" in line
    )
    assert f"PyTorch {pins['torch']} and onnxruntime {pins['onnxruntime']}" in text
    assert f"opset {OPSETS[0]} to {OPSETS[-1]}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        name, _, anchor = target.partition("#")
        if name.startswith("http"):
            continue
        file = page if not name else page.parent / name
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }, target
