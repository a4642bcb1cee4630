"""Imports run one way: who may import whom, read from the source of every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import ROOT

# A module is judged by the row with the longest name that fits it; modules of one row, and those inside one package,
# may import each other. `torch.export` is the exporter, `torch.private` any torch._name.
ALLOWED: dict[str, tuple[str, str]] = {
    # module           from the project                                        from outside
    "errors":         ("",                                                     ""),
    "passes":         ("",                                                     "torch"),
    "passes.tracing": ("",                                                     "torch torch.private"),
    "passes.linearize":
                      ("errors",                                               "torch networkx"),
    "formulas":       ("passes errors",                                        "numpy"),
    "rules":          ("formulas passes errors",                               "torch"),
    "losses":         ("errors",                                               "torch"),
    "sources":        ("errors",                                               "torch torch.export"),
    "capture":        ("sources rules passes errors",                          "torch torch.export"),
    "options":        ("losses passes errors",                                 ""),
    "emit":           ("passes errors version",                                "torch numpy onnx"),
    "emit.fused.schedule":
                      ("passes",                                               "torch networkx"),
    "emit.pt2":       ("files passes errors",                                  "torch torch.export"),
    "emit.torchscript emit.torchscript_source":
                      ("files passes errors",                                  "torch"),
    "runtime":        ("errors",                                               "numpy scipy onnxruntime google"),
    "report":         ("files errors",                                         "numpy matplotlib jinja2"),
    "models":         ("errors",                                               "torch numpy sklearn"),
    "compiler":       ("capture sources options rules losses emit passes errors version", "torch"),
    "gauss_newton":   ("structure compiler capture sources options rules losses emit passes errors", "torch"),
    "structure":      ("capture sources options rules losses passes report errors", "torch"),
    "verification":   ("sources emit runtime losses errors",                   "torch numpy onnx"),
    "inspection":     ("compiler capture rules losses passes emit runtime errors", "torch"),
    "files":          ("errors",                                               ""),
    "console tables": ("files errors",                                         "rich click"),
    "model_source":   ("sources models runtime losses errors",                 "torch safetensors"),
    "demo":           ("models compiler verification runtime report console files errors",
                                                                               "torch numpy"),
    "commands":       ("report runtime model_source console files errors",     "click numpy"),
    "cli __main__":   ("commands demo inspection structure verification model_source compiler runtime report console "
                       "files errors version",
                                                                               "click"),
    "version":        ("formulas models runtime compiler gauss_newton structure verification", ""),  # the package
}  # fmt: skip

PUBLIC_IN_EFFECT = ("torch._ops.OpOverload", "torch._decomp.get_decompositions", "torch._weight_norm")
"""Names of torch that its own documentation uses, underscore or not."""

OUTSIDE_THE_TABLE = ("bnrewrite.passes", "bnrewrite.models")  # symlinks: the files are read where they stand


class Use(NamedTuple):
    """One import (or dotted use of torch) in the source: of what, and where."""

    name: str
    line: int


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the project under its installed name."""
    for folder, package in (
        ("bnrewrite", "bnrewrite"),
        ("passes", "bnrewrite.passes"),
        ("models", "bnrewrite.models"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *relative]).removesuffix(".__init__")
            if folder == "bnrewrite" and name.startswith(OUTSIDE_THE_TABLE):
                continue
            yield name, path


def uses(module: str, is_package: bool, source: str) -> Iterator[Use]:
    """Absolute dotted names of all that `source` imports, and of the torch names that it writes out."""
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Use(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                up = node.level - 1 if is_package else node.level
                base = module.split(".")[: len(module.split(".")) - up] + base
            yield from (Use(".".join([*base, alias.name]), node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            dotted = ast.unparse(node)
            if dotted.startswith("torch."):
                yield Use(dotted, node.lineno)


def row_of(module: str) -> str:
    """The row of the table for a module of the project; empty where there is none."""
    path = module.removeprefix("bnrewrite").removeprefix(".") or "version"
    pairs = [(word, row) for row in ALLOWED for word in row.split()]
    fitting = [(word, row) for word, row in pairs if fnmatchcase(path, word) or path.startswith(f"{word}.")]
    return max(fitting, key=lambda entry: len(entry[0]), default=("", ""))[1]


def project_entry(name: str, modules: set[str]) -> str:
    """Top-level entry of an imported project name; names that the package itself defines are `version`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and ".".join(parts[:2]) in modules else "version"


def outside_entry(name: str) -> str:
    """The table's word for a name from outside the project; empty for the standard library."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return ""
    if parts[0] == "torch" and len(parts) > 1 and not name.startswith(PUBLIC_IN_EFFECT):
        if parts[1].startswith("_") and not parts[1].startswith("__"):
            return "torch.private"
        if parts[1] == "export":
            return "torch.export"
    return parts[0]


def violations(module: str, is_package: bool, source: str, modules: set[str]) -> list[str]:
    """What `module` imports and may not, one sentence each."""
    row = row_of(module)
    if not row:
        return [f"{module} has no row in the table of tests/test_layering.py: say what it may import."]
    project, outside = (entry.split() for entry in ALLOWED[row])
    project += [word.split(".")[0] for word in row.split()]
    project += [word for shared in ALLOWED for word in shared.split() if shared.split()[0] in project]
    found = []
    for name, line in uses(module, is_package, source):
        ours = name.split(".")[0] == "bnrewrite"
        entry = project_entry(name, modules) if ours else outside_entry(name)
        if entry and not any(fnmatchcase(entry, word) for word in (project if ours else outside)):
            found.append(f"{module}:{line} may not import {name} ({entry}).")
    return found


MODULES = {name for name, _ in sources()}


@pytest.mark.parametrize(("module", "path"), [pytest.param(*entry, id=entry[0]) for entry in sources()])
def test_imports_run_one_way(module: str, path: Path) -> None:
    found = violations(module, path.name == "__init__.py", path.read_text(encoding="utf-8"), MODULES)
    assert not found, "\n".join(found)


def test_every_row_of_the_table_has_a_module() -> None:
    assert {row_of(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "source", "culprit"),
    [
        ("bnrewrite.passes.fold", "from ..rules import table", "bnrewrite.rules.table (rules)"),
        ("bnrewrite.passes.fold", "import bnrewrite", "bnrewrite (version)"),
        (
            "bnrewrite.passes.fold",
            "from torch._dispatch.python import x",
            "torch._dispatch.python.x (torch.private)",
        ),
        ("bnrewrite.passes.fold", "import torch\ntorch._C._foo()", "torch._C._foo (torch.private)"),
        (
            "bnrewrite.emit.onnx_ops.relu",
            "from ...compiler import transform",
            "bnrewrite.compiler.transform (compiler)",
        ),
        (
            "bnrewrite.emit.onnx",
            "from ..rules.batch_norm import RULES",
            "bnrewrite.rules.batch_norm.RULES (rules)",
        ),
        ("bnrewrite.runtime.session", "import torch.nn as nn", "torch.nn (torch)"),
        ("bnrewrite.runtime.session", "def f():\n    from torch import nn", "torch.nn (torch)"),
        ("bnrewrite.rules.linear", "from .. import compiler", "bnrewrite.compiler (compiler)"),
        ("bnrewrite.rules.linear", "import onnx", "onnx (onnx)"),
        ("bnrewrite.compiler", "torch.export.export(model, args)", "torch.export.export (torch.export)"),
        ("bnrewrite.capture", "from .compiler import transform", "bnrewrite.compiler.transform (compiler)"),
        ("bnrewrite.novelty", "import torch", "no row in the table"),
    ],
)
def test_planted_violation_is_found(module: str, source: str, culprit: str) -> None:
    found = violations(module, False, source, MODULES)
    assert len(found) == 1
    assert culprit in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bnrewrite.passes.tracing", "from torch._dispatch.python import enable_python_dispatcher"),
        (
            "bnrewrite.passes.fold",
            "from .graph import place\nfrom torch.utils import _pytree\ntorch._ops.OpOverload",
        ),
        ("bnrewrite.capture", "import torch\nfrom torch.export import Dim"),
        ("bnrewrite.compiler", "from . import __version__, losses\nimport json"),
    ],
)
def test_allowed_imports_pass(module: str, source: str) -> None:
    assert not violations(module, False, source, MODULES)


def words(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names, attributes and strings of a program, docstrings left out."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value, node.lineno


def mentions_batch_norm(source: str) -> list[int]:
    """Lines of code that mention batch norm; prose may."""
    found = words(ast.parse(source))
    return sorted(
        line for word, line in found if "batchnorm" in word.lower().replace("_", "").replace(" ", "")
    )


@pytest.mark.parametrize("path", sorted((ROOT / "passes").glob("*.py")), ids=lambda path: path.stem)
def test_passes_know_nothing_of_batch_norm(path: Path) -> None:
    assert not mentions_batch_norm(path.read_text(encoding="utf-8"))


def test_mention_of_batch_norm_is_found() -> None:
    source = '"""About BatchNorm."""\nop = aten.batch_norm.default\nmessage = "a BatchNorm"\n\n\nclass BatchNorm: ...\n'
    assert mentions_batch_norm(source) == [2, 3, 6]
