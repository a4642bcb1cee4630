"""What a measurement ran on: versions, processor, threads, date. Every JSON of the benchmarks holds it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "onnxruntime", "numpy", "bnrewrite", "curvlinops-for-pytorch", "backpack-for-pytorch", "jax"
)  # fmt: skip


def environment(threads: int) -> dict[str, Any]:
    """Versions by package (None where not installed), processor, cores, threads, load, date (UTC)."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        **{package: version(package) for package in PACKAGES},
    }


def version(package: str) -> str | None:
    """The installed version of `package`, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The model name of the processor."""
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def described(environment: dict[str, Any]) -> str:
    """One line for a table's foot."""
    packages = ", ".join(f"{name} {environment[name]}" for name in PACKAGES if environment[name])
    return (
        f"{environment['date']}; {environment['cpu']}, cores: {environment['cores']}, "
        f"threads: {environment['threads']}; Python {environment['python']}, {packages}"
    )
