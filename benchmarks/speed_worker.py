"""One network in a process of its own: `python -m benchmarks.speed_worker CASE METHOD[,METHOD ...] [options]`.

Prints the state as one line of JSON after every step, so that the last line counts even where the process was ended.
"""

from __future__ import annotations

import argparse
import json
import warnings

import torch

from .speed_baselines import BASELINES
from .speed_cases import CASES, quick
from .speed_measure import Row, measure
from .speed_ours import OURS

METHODS = {**BASELINES, **OURS}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("methods")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vectors", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    case = quick(arguments.case) if arguments.quick else CASES[arguments.case]
    network = {
        "network": arguments.case,
        "title": case.title,
        "input": [case.batch, *case.shape],
        "parameters": sum(p.numel() for p in case.factory(**case.keywords).parameters()),
    }

    def report(rows: list[Row]) -> None:
        print(json.dumps({**network, "rows": rows}), flush=True)

    report([])
    measure(
        case,
        {key: METHODS[key] for key in arguments.methods.split(",")},
        vectors=arguments.vectors,
        rounds=arguments.rounds,
        limit=arguments.limit,
        report=report,
    )


if __name__ == "__main__":
    main()
