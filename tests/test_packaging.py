"""Both kinds of install, plain and in place, give `bnrewrite` whole and nothing beside it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLACES = {"bnrewrite": "bnrewrite", "passes": "bnrewrite/passes", "models": "bnrewrite/models"}
"""Folder of the repository: folder of the installed package."""

IMPORTS = "import bnrewrite.models, bnrewrite.passes, bnrewrite.rules.table\n"
WHERE = IMPORTS + "print(bnrewrite.__file__, bnrewrite.passes.__file__, bnrewrite.models.__file__)"

LOADED_ONCE = """
import collections, os, sys
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
counts = collections.Counter(os.path.realpath(file) for file in files if "bnrewrite" in file)
assert counts and max(counts.values()) == 1, counts
"""


def run(*command: str | Path, cwd: Path, ok: bool = True) -> str:
    """Output of a command that must succeed (or, `ok=False`, fail), away from the caller's own Python settings."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "COV"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stdout
    return done.stdout.strip()


def source_files(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Every Python file that is installed, and its place in the package."""
    for folder, installed in PLACES.items():
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root / folder)
            if folder != "bnrewrite" or relative.parts[0] not in ("passes", "models"):
                yield path, f"{installed}/{relative.as_posix()}"


# Installs ----------------------------------------------------------------------------------------------------


@dataclass
class Environment:
    """A fresh virtual environment that sees the running one's libraries, but no bnrewrite of it."""

    folder: Path
    elsewhere: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        venv.create(folder, symlinks=True)
        environment = cls(folder, folder / "elsewhere")
        environment.elsewhere.mkdir()
        libraries = folder / "libraries"
        libraries.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "bnrewrite" not in entry.name and entry.suffix != ".pth":
                (libraries / entry.name).symlink_to(entry)
        (environment.packages / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
        return environment

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.folder / "lib").glob("python*/site-packages"))

    def pip(self, *arguments: str | Path) -> None:
        """pip works offline: nothing but the project itself is installed."""
        command = (
            "-m",
            "pip",
            "--python",
            self.python,
            *arguments,
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
        )
        run(sys.executable, *command, cwd=self.elsewhere)

    def execute(self, code: str, cwd: Path | None = None, ok: bool = True) -> str:
        return run(self.python, "-c", code, cwd=cwd or self.elsewhere, ok=ok)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building leaves files behind."""
    copy = tmp_path_factory.mktemp("install") / "checkout"
    unwanted = (".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "*.onnx*")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*unwanted))
    return copy


@pytest.fixture(scope="module")
def plain(checkout: Path) -> Environment:
    environment = Environment.create(checkout.parent / "plain")
    environment.pip("install", checkout)
    return environment


@pytest.fixture(scope="module")
def editable(checkout: Path) -> Environment:
    environment = Environment.create(checkout.parent / "editable")
    environment.pip("install", "--editable", checkout)
    return environment


def test_plain_install(plain: Environment, checkout: Path) -> None:
    installed = plain.packages / "bnrewrite"
    files = [
        installed / "__init__.py",
        installed / "passes" / "__init__.py",
        installed / "models" / "__init__.py",
    ]
    assert plain.execute(WHERE).split() == [str(path) for path in files]
    assert (installed / "py.typed").exists()
    assert {path.name for path in plain.packages.iterdir()} == {
        "bnrewrite",
        f"bnrewrite-{version()}.dist-info",
        "libraries.pth",
    }


def test_editable_install(editable: Environment, checkout: Path) -> None:
    found = [Path(name).resolve() for name in editable.execute(WHERE).split()]
    folders = ("bnrewrite", "passes", "models")
    assert found == [checkout.resolve() / folder / "__init__.py" for folder in folders]
    assert not {"passes", "models"} & {path.name for path in editable.packages.iterdir()}


@pytest.mark.parametrize("kind", ["plain", "editable"])
def test_every_class_is_loaded_once(kind: str, request: pytest.FixtureRequest, checkout: Path) -> None:
    environment: Environment = request.getfixturevalue(kind)
    code = IMPORTS + LOADED_ONCE
    for cwd in (environment.elsewhere, checkout):
        environment.execute(code, cwd)


@pytest.mark.parametrize("kind", ["plain", "editable"])
@pytest.mark.parametrize("package", ["passes", "models"])
def test_no_package_beside_bnrewrite(
    kind: str, package: str, request: pytest.FixtureRequest, checkout: Path
) -> None:
    environment: Environment = request.getfixturevalue(kind)
    said = environment.execute(f"import {package}", ok=False)
    assert said.endswith(f"ModuleNotFoundError: No module named '{package}'")
    said = environment.execute(f"import {package}", cwd=checkout, ok=False)
    last = said.splitlines()[-1]
    assert last.startswith("ImportError")
    assert f"bnrewrite.{package}" in last
    assert f"imported as '{package}'" in last


@pytest.mark.parametrize("kind", ["plain", "editable"])
def test_command_is_installed(kind: str, request: pytest.FixtureRequest) -> None:
    environment: Environment = request.getfixturevalue(kind)
    said = run(environment.folder / "bin" / "bnrewrite", "--help", cwd=environment.elsewhere)
    assert all(command in said for command in ("export", "verify", "inspect", "demo"))


def test_runtime_needs_no_torch(plain: Environment) -> None:
    """bnrewrite.runtime runs where only numpy, onnxruntime and scipy are."""
    plain.execute("import sys; sys.modules['torch'] = sys.modules['onnx'] = None; import bnrewrite.runtime")


# Archives ----------------------------------------------------------------------------------------------------


def build(folder: Path, kind: str) -> Path:
    """A wheel or sdist of `folder`, by the build backend that pyproject.toml names."""
    code = f"import setuptools.build_meta as backend; print(backend.build_{kind}('dist'))"
    return folder / "dist" / run(sys.executable, "-c", code, cwd=folder).splitlines()[-1]


def version() -> str:
    text = (ROOT / "bnrewrite" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]  # type: ignore[index]


@pytest.mark.parametrize("origin", ["checkout", "sdist"])
def test_wheel_holds_every_module_and_nothing_else(origin: str, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    if origin == "checkout":
        shutil.copytree(checkout, folder, symlinks=True)
    else:
        with tarfile.open(build(checkout, "sdist")) as archive:
            archive.extractall(tmp_path, filter="data")
        (tmp_path / f"bnrewrite-{version()}").rename(folder)
        assert (folder / "LICENSE").exists()
    wheel = build(folder, "wheel")
    info = f"bnrewrite-{version()}.dist-info"
    assert wheel.name == f"bnrewrite-{version()}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(f"{info}/")}
    wanted = {
        "bnrewrite/py.typed",
        "bnrewrite/emit/panels.h",
        "bnrewrite/emit/products/products.c",
        "bnrewrite/emit/winograd/winograd.c",
        *(installed for _, installed in source_files(checkout)),
    }
    missing = sorted({str(Path(name).parent).replace("/", ".") for name in wanted - held})
    assert not missing, f"pyproject.toml: packages lacks {', '.join(missing)} (or a module of it)."
    assert held == wanted
    assert f"{info}/licenses/LICENSE" in zipfile.ZipFile(wheel).namelist()


# Dependencies ------------------------------------------------------------------------------------------------


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported(at_import: bool) -> set[str]:
    """Distributions that the package imports: on being imported itself, or anywhere."""
    found = set()
    for path, _ in source_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if at_import else ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    found -= {*sys.stdlib_module_names, "bnrewrite"}
    known = packages_distributions()
    return {canonicalize_name(known[module][0]) for module in found}


def test_dependencies_are_what_is_imported() -> None:
    declared = names(PROJECT["dependencies"])
    optional = names([line for lines in PROJECT["optional-dependencies"].values() for line in lines])
    assert imported(at_import=True) <= declared
    assert declared <= imported(at_import=False)
    assert imported(at_import=False) <= declared | optional


def test_constraints_pin_everything_that_gets_installed() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            (specifier,) = Requirement(line).specifier
            assert specifier.operator == "==", line
            assert "+" not in specifier.version, f"{line}: a local build cannot be had everywhere"
            pins[canonicalize_name(Requirement(line).name)] = specifier.version
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting += [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        exact = any(
            specifier.operator == "==" for specifier in requirement.specifier
        )  # torch and its CUDA packages
        unmet = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if name in seen or name == "bnrewrite" or exact or unmet:
            continue
        seen.add(name)
        assert name in pins, f"constraints.txt has no version of {name}."
        assert requirement.specifier.contains(pins[name]), (
            f"constraints.txt: {name} {pins[name]}, but {requirement}."
        )
        waiting += [Requirement(line) for line in requires(name) or []]
    assert seen == set(pins), "constraints.txt pins what nothing needs."
