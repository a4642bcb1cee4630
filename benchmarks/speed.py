"""Time and memory of H v and G v beside PyTorch's own ways, network by network.

    python -m benchmarks.speed [--networks a,b] [--methods a,b] [--rounds 7] [--vectors 8] [--threads 1]
                               [--json speed.json] [--markdown speed.md] [--quick] [--no-memory]

Each network has a process of its own, in which all methods are timed in turns, in rotating order: `--rounds` rounds
after one that is not counted. Every H v and G v is compared with double backward in float64 before it is timed. A
method that raises, or takes more than `--limit` seconds for a step, is a row that says so. Peak memory is that of one
call in a further process for each method. curvlinops, BackPACK and JAX are timed where they are installed
(pip install curvlinops-for-pytorch backpack-for-pytorch jax); `compile` (torch.compile of jvp(grad), minutes for a
network) only where it is named. `benchmarks.speed_cases` lists networks and batches.
Exit status 1 if one of bnrewrite's own methods is wrong or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from bnrewrite.files import check_writable, written_whole

from .environment import described, environment
from .speed_baselines import BASELINES
from .speed_cases import CASES
from .speed_ours import OURS
from .speed_table import LEGEND, add_ratios, markdown, on_screen

METHODS = {**BASELINES, **OURS}
ROOT = Path(__file__).parents[1]
"""Where `python -m benchmarks` finds itself."""


def choice(text: str, known: list[str], what: str) -> list[str]:
    """The names in `text`, comma between them; an error that lists the known ones for another name."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no {what} '{name}'; there are {', '.join(known)}")
    return names


def last_line(
    module: str, arguments: list[str], threads: int, limit: float
) -> tuple[dict[str, Any] | None, str]:
    """The last JSON line that `python -m module` prints, and why it ended early, if it did."""
    command = [sys.executable, "-m", module, *arguments, "--threads", str(threads)]
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if threads == 1:  # XLA has a switch, no number
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    reason = ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env={**os.environ, **variables}, cwd=ROOT
        )
        output = done.stdout
        if done.returncode:
            words = done.stderr.strip().splitlines()
            reason = f"the process ended with status {done.returncode}: {words[-1] if words else 'no words'}"
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        reason = f"not done after {limit:g} s"
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return (json.loads(lines[-1]) if lines else None), reason


def run_network(name: str, methods: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows of one network, with ratios and peak memory."""
    small = ["--quick"] if arguments.quick else []
    given = [name, ",".join(methods), "--rounds", str(arguments.rounds), "--vectors", str(arguments.vectors)]
    given += ["--limit", str(arguments.limit), *small]
    # No method may take more than its limit; what is left over ends a process that hangs inside C++.
    backstop = arguments.limit * (len(methods) + 2) * 2
    found, reason = last_line("benchmarks.speed_worker", given, arguments.threads, backstop)
    network = found or {"network": name, "title": name, "input": [], "parameters": 0, "rows": []}
    if reason:
        network["reason"] = reason
    add_ratios(network["rows"])
    for row in network["rows"]:
        if arguments.memory and METHODS[row["method"]].memory and row["status"] == "ok":
            given = [name, row["method"], *small]
            peak, _ = last_line("benchmarks.speed_memory", given, arguments.threads, arguments.limit)
            row["peak"] = peak and peak["bytes"]
    return network


def good(network: dict[str, Any]) -> bool:
    """Whether all of bnrewrite's own methods gave the right product; those of others only say what they do."""
    own = [row for row in network["rows"] if row["method"] in OURS]
    return all(row["status"] == "ok" for row in own) and not network.get("reason")


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", type=lambda text: choice(text, list(CASES), "network"), default=list(CASES)
    )
    default = [key for key, method in METHODS.items() if method.default]
    parser.add_argument(
        "--methods", type=lambda text: choice(text, list(METHODS), "method"), default=default,
        help=f"of {', '.join(METHODS)}; `gradient` and what ratios are taken to must be among them to be in the table",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vectors", type=int, default=8, metavar="K", help="directions of a block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds for one step of one method")
    parser.add_argument("--json", type=Path, default=Path("speed.json"), metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="tiny inputs: whether it runs, not how fast")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parsed(argv)
    files = [file for file in (arguments.json, arguments.markdown) if file is not None]
    for file in files:
        check_writable(file)
    console = Console(width=190)
    results: dict[str, Any] = {
        "environment": environment(arguments.threads),
        "settings": {key: getattr(arguments, key) for key in ("rounds", "vectors", "limit", "quick")},
        "networks": [],
    }
    foot = described(results["environment"])
    for name in arguments.networks:
        print(f"{name} ...", file=sys.stderr, flush=True)
        network = run_network(name, arguments.methods, arguments)
        results["networks"].append(network)
        console.print(on_screen(network))
        if network.get("reason"):
            console.print(network["reason"], markup=False, highlight=False)
        for file in files:  # after every network, so that nothing is lost
            text = (
                json.dumps(results, indent=1)
                if file is arguments.json
                else markdown(results["networks"], foot)
            )
            with written_whole(file) as temporary:
                temporary.write_text(text)
    print(LEGEND + foot)
    return 0 if all(good(network) for network in results["networks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
