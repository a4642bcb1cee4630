"""`bnrewrite curvature`: eigenvalues, trace, diagonal, density and layers of an exported file over data."""

from __future__ import annotations

from typing import Any

import click

from ..console import print_table
from .running import finish, matrix_option, opened, run_options, source_of


@click.command()
@click.argument("file", metavar="FILE.onnx")
@run_options
@click.option("--top", type=click.IntRange(min=0), metavar="K", help="K eigenvalues by Lanczos.")
@click.option(
    "--which",
    type=click.Choice(["LM", "LA", "SA"]),
    default="LM",
    show_default=True,
    help="Largest magnitude, largest, smallest.",
)
@click.option("--trace", is_flag=True, help="The trace, with its standard error.")
@click.option("--diagonal", is_flag=True, help="The diagonal, summed up for each parameter.")
@click.option("--density", is_flag=True, help="The spectral density.")
@click.option("--layers", is_flag=True, help="The trace of every parameter's block.")
@matrix_option
@click.option("--tol", type=float, default=0.05, show_default=True, help="Relative error that is enough.")
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Products at most, of each estimate.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Lanczos steps of the density.  [default: 64]")
@click.option(
    "--probes", type=click.IntRange(min=1), default=4, show_default=True, help="Random starts of the density."
)
@click.option("--arrays", "arrays_to", metavar="FILE.npz", help="Save eigenvectors and diagonal.")
def curvature(file: str, **options: Any) -> int:
    """Curvature of FILE over data, in onnxruntime: eigenvalues, trace, diagonal, density, layers.

    Without any of them: loss, gradient norm and the eigenvalue of largest magnitude. Several batches mean the average
    over them as they are given, weighted by their sizes. Ctrl-C leaves what was found, marked as partial.
    """  # fmt: skip
    wanted = {key: options[key] for key in ("trace", "diagonal", "density", "layers")}
    top = options["top"] if options["top"] is not None else int(not any(wanted.values()))
    from ..runtime.study import study

    with opened(file, options) as c:
        found = study(
            c, source=source_of(options), top=top, **wanted,
            **{key: options[key] for key in ("which", "matrix", "tol", "samples", "steps", "probes", "seed")},
        )  # fmt: skip
    if options["arrays_to"] is not None:
        save_arrays(options["arrays_to"], found.arrays)
    return finish(found.record, options, lambda: show_curvature(found.record))


def save_arrays(path: str, arrays: dict[str, Any]) -> None:
    """An .npz, whole or not at all."""
    import numpy as np

    from ..files import written_whole

    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def show_curvature(record: dict[str, Any]) -> None:
    """The record as tables on stdout."""
    letter = {"hessian": "H", "ggn": "G", "residual": "R"}[record["matrix"]]
    data = record["data"]
    rows = [
        ["loss", f"{record['loss']:.6g}", ""],
        ["gradient norm |g|", f"{record['gradient_norm']:.6g}", ""],
    ]
    if found := record.get("eigs"):
        for i, (value, residual) in enumerate(zip(found["values"], found["residuals"], strict=True)):
            rows.append(
                [f"eigenvalue {i + 1} of {letter}", f"{value:.6g}", f"residual {residual:.1e}{_part(found)}"]
            )
    if found := record.get("trace"):
        rows.append([f"trace of {letter}", f"{found['value']:.6g}", _error(found)])
        rows.append(["  an eigenvalue on average", f"{found['mean_eigenvalue']:.3g}", ""])
    if found := record.get("density"):
        low, high = found["support"]
        about = f"{found['probes']} probes of {found['steps']} steps{_part(found)}"
        rows.append([f"spectrum of {letter} within", f"{low:.4g} to {high:.4g}", about])
    if found := record.get("diagonal"):
        about = f"relative error {_percent(found['relative_error'])}{_part(found)}"
        rows.append([f"diagonal of {letter}", f"{record['parameters']} entries", about])
    batches = f"{data['batches']} {'batch' if data['batches'] == 1 else 'batches'}"
    title = (
        f"{record['file']}: {data['samples']} samples in {batches}, {statistics_of(record)}, "
        f"{record['parameters']:,} parameters"
    )
    print_table(["", ">value", "error"], rows, title)
    if found := record.get("layers"):
        print_table(
            ["parameter", "shape", f">tr({letter}_l)", ">± ", f">tr({letter}_l) / n_l"],
            [
                [
                    row["name"], "x".join(map(str, row["shape"])), f"{row['trace']:.4g}",
                    f"{row['standard_error']:.2g}", f"{row['mean']:.3g}",
                ]
                for row in found["layers"]
            ],
            f"Traces of the parameters' own blocks, {found['products']} products{_part(found)}",
        )  # fmt: skip
    if found := record.get("diagonal"):
        print_table(
            ["parameter", ">entries", ">smallest", ">mean", ">± ", ">largest"],
            [
                [
                    row["name"],
                    row["size"],
                    *(f"{row[key]:.3g}" for key in ("min", "mean", "standard_error", "max")),
                ]
                for row in found["layers"]
            ],
            f"Diagonal of {letter} ({found['method']}, {found['products']} products{_part(found)})",
        )


def statistics_of(record: dict[str, Any]) -> str:
    """Which statistics the BatchNorms use, in words."""
    return {
        "batch": "batch statistics", "running": "running statistics", "mixed": "batch and running statistics",
        "none": "no BatchNorm",
    }[record["statistics"]]  # fmt: skip


def _error(found: dict[str, Any]) -> str:
    if found["method"] == "exact":
        return f"exact, {found['products']} products"
    missed = "" if found["converged"] else ", above the tolerance"
    return f"± {found['standard_error']:.2g} ({found['method']}, {found['products']} products{missed}{_part(found)})"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _part(found: dict[str, Any]) -> str:
    return "" if found["complete"] else ", stopped early"
