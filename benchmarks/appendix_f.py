"""The dense module Hessian of BatchNorm: its closed form against automatic differentiation, with a plot.

    python -m benchmarks.appendix_f [--dimensions 1,2,...] [--samples 2] [--repeats 7] [--limit 20]
                                    [--plot appendix_f.png] [--json appendix_f.json]

The measurement of Fischer, "Hessian backpropagation for BatchNorm", appendix F: uniform x of shape (2, D), D = 1 to 10,
and 20, 50, 100 beyond; gamma = 1. The result is the whole tensor d^2 z_ij / dx_kl dx_mn, with (N D)^3 entries, by
`bnrewrite.formulas`. It is zero between different columns, so that there is also a form of N^3 D entries which keeps no
zeros. With N = 2 and eps = 0 every x_hat is 1 or -1 and the whole tensor is zero; eps is 1e-5 here, and `--samples 8`
gives a case whose entries are all of one size. What automatic differentiation gives is compared with the closed form
before it is timed. A method is given up at the D where one call passes `--limit`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bnrewrite import formulas
from bnrewrite.files import check_writable, written_whole
from bnrewrite.report.canvas import COLOURS, LINES, MARKERS, Panel, check_path, compose, save

from .environment import described, environment

EPS = 1e-5
BAR = 1e-8
"""Relative to gamma_j s_j^2, the size of the terms, which cancel where N = 2."""

Array = NDArray[np.float64]


def _at(x: Array) -> tuple[Array, Array, Array, float]:
    return x, np.ones(x.shape[1]), np.zeros(x.shape[1]), EPS


def blocks(x: Array) -> Array:
    """The entries of the module Hessian that are not zero: (N, N, N, D) by i, k, m and channel, for x (N, D)."""
    return formulas.hessian_blocks(*_at(x))


def closed_form(x: Array) -> Array:
    """The whole tensor (N, D, N, D, N, D) by i, j, k, l, m, n."""
    return formulas.hessian(*_at(x))


def _batch_norm(x: Tensor) -> Tensor:
    return torch.nn.functional.batch_norm(x, None, None, training=True, eps=EPS)


def reverse_twice(x: Array) -> Array:
    """`torch.autograd.functional.jacobian` of the Jacobian, as `jacobian(jacobian(y))` in the source."""
    jacobian = torch.autograd.functional.jacobian
    return jacobian(lambda a: jacobian(_batch_norm, a, create_graph=True), torch.from_numpy(x)).numpy()


def by_entry(x: Array) -> Array:
    """`torch.autograd.functional.hessian` of every z_ij for itself."""
    hessian = torch.autograd.functional.hessian
    a = torch.from_numpy(x)
    places = [(i, j) for i in range(x.shape[0]) for j in range(x.shape[1])]
    parts = [hessian(lambda b, place=place: _batch_norm(b)[place], a) for place in places]
    return torch.stack(parts).reshape((*x.shape,) * 3).numpy()


def forward_over_reverse(x: Array) -> Array:
    """torch.func: `jacfwd(jacrev)`, vectorised."""
    return torch.func.jacfwd(torch.func.jacrev(_batch_norm))(torch.from_numpy(x)).numpy()


METHODS: dict[str, Callable[[Array], Array]] = {
    "closed form": closed_form,
    "closed form, no zeros": blocks,
    "autograd, jacobian of jacobian": reverse_twice,
    "autograd, hessian of each entry": by_entry,
    "torch.func jacfwd(jacrev)": forward_over_reverse,
}


def error(found: Array, x: Array) -> float:
    """The largest difference from the closed form, in units of gamma_j s_j^2; a form without zeros is filled up."""
    expected = blocks(x) if found.ndim == 4 else closed_form(x)
    return float(np.abs(found - expected).max() * (x.var(axis=0) + EPS).max())


def measure(
    dimensions: list[int], samples: int, repeats: int, limit: float
) -> dict[str, dict[int, dict[str, float]]]:
    """Median seconds and error by method and D. In each of the `repeats` rounds every method has its turn."""
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in METHODS}
    alive = list(METHODS)
    for method in METHODS.values():  # what a first call ever loads is no part of any measurement
        method(np.random.default_rng(0).random((samples, 1)))
    for width in dimensions:
        x = np.random.default_rng(width).random((samples, width))
        times: dict[str, list[float]] = {name: [] for name in alive}
        errors = {}
        for name in list(alive):  # the first calls: looked at, not timed, unless they take too long
            start = time.perf_counter()
            errors[name] = error(METHODS[name](x), x)
            seconds = time.perf_counter() - start
            if seconds > limit:
                alive.remove(name)
                times[name].append(seconds)
        for turn in range(repeats):
            for name in alive[turn % len(alive) :] + alive[: turn % len(alive)]:
                start = time.perf_counter()
                METHODS[name](x)
                times[name].append(time.perf_counter() - start)
        for name, seconds_of in times.items():
            found[name][width] = {"seconds": median(seconds_of), "error": errors[name]}
    return found


def picture(found: dict[str, dict[int, dict[str, float]]], samples: int) -> Panel:
    """Seconds over D, both logarithmic."""

    def draw(sheet: Any) -> None:
        axes = sheet.subplots()
        for i, (name, at) in enumerate(found.items()):
            colour, line = (*COLOURS, "0.5")[i], LINES[i % len(LINES)]
            axes.plot(
                list(at), [entry["seconds"] for entry in at.values()], label=name, color=colour, linestyle=line,
                marker=MARKERS[i], markersize=4,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", ylabel="seconds (median)")
        axes.set_xlabel(f"dimension D of x ({samples} x D)")
        widths = [width for width in next(iter(found.values())) if width in (1, 2, 3, 5, 10, 20, 50, 100)]
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_xticks([], minor=True)
        axes.grid(True)
        sheet.legend(loc="outside lower center", ncols=3, frameon=False)

    return Panel("The module Hessian of BatchNorm", draw, 4.5)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; exit status 1 if a method disagrees with the closed form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [*range(1, 11), 20, 50, 100]
    parser.add_argument("--dimensions", type=lambda text: [int(n) for n in text.split(",")], default=default)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=20, help="seconds for one call of one method")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="OUT", help=".png or .svg")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args(argv)
    if arguments.plot:
        check_path(arguments.plot)
    if arguments.json:
        check_writable(arguments.json)
    torch.set_num_threads(arguments.threads)
    found = measure(arguments.dimensions, arguments.samples, arguments.repeats, arguments.limit)
    table = Table("D", *METHODS, title=f"seconds, x ({arguments.samples} x D), float64")
    for width in arguments.dimensions:
        table.add_row(
            str(width), *(f"{at[width]['seconds']:.2e}" if width in at else "" for at in found.values())
        )
    Console(width=150).print(table)
    worst = {
        name: max(entry["error"] for entry in at.values())
        for name, at in found.items()
        if not name.startswith("closed")
    }
    for name, value in worst.items():
        print(f"largest error of {name}: {value:.1e}" + (" WRONG" if value > BAR else ""))
    where = environment(arguments.threads)
    print(described(where))
    if arguments.json:
        results = {"environment": where, "samples": arguments.samples, "eps": EPS, "methods": found}
        with written_whole(arguments.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1))
    if arguments.plot:
        heading = f"{where['cpu']}, threads: {where['threads']}, torch {where['torch']}"
        save(compose([picture(found, arguments.samples)], heading), arguments.plot)
    return 0 if max(worst.values()) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
