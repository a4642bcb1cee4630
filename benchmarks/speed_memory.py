"""Peak memory of one call, in a process that does nothing else: `python -m benchmarks.speed_memory CASE METHOD`.

Everything is prepared first, and freed memory given back; then the peak of the resident set over two calls, less what
stood there before. So parameters, graph and direction do not count; results, activations and workspaces do.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .speed_baselines import BASELINES
from .speed_cases import CASES, quick
from .speed_ours import OURS


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes by which two calls of `call` raise the peak of the process above what it holds now."""
    gc.collect()
    _give_back()
    _forget_peak()
    before = _status("VmRSS") or _high_water()
    for _ in range(2):
        call()
    return max((_status("VmHWM") or _high_water()) - before, 0)


def _give_back() -> None:
    """Freed memory that the C library keeps goes back to the system; where there is no such call, nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _forget_peak() -> None:
    """The peak of the resident set starts anew at its present size (Linux)."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _status(key: str) -> int | None:
    """Bytes from /proc/self/status (Linux)."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _high_water() -> int:
    """The peak since the process began, in bytes: Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Print {"bytes": peak} as one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("method", choices=[*BASELINES, *OURS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    case = quick(arguments.case) if arguments.quick else CASES[arguments.case]
    method = {**BASELINES, **OURS}[arguments.method]
    # A small one first, so that the libraries that a first call loads do not count.
    method.prepare(quick(arguments.case).point(1)).call()
    prepared = method.prepare(case.point(1))
    print(json.dumps({"bytes": peak_of(prepared.call)}))


if __name__ == "__main__":
    main()
