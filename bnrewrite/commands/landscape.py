"""`bnrewrite landscape`: the loss over a plane through the weights."""

from __future__ import annotations

from typing import Any

import click
from click import echo

from .curvature import statistics_of
from .running import finish, matrix_option, opened, run_options, source_of


@click.command()
@click.argument("file", metavar="FILE.onnx")
@run_options
@click.option(
    "--directions",
    type=click.Choice(["random", "eigs"]),
    default="random",
    show_default=True,
    help="Filter-normalised random ones, or the top two eigenvectors.",
)
@click.option(
    "--points", type=click.IntRange(min=2), default=21, show_default=True, help="Along each direction."
)
@click.option("--extent", type=float, default=1.0, show_default=True, help="How far to both sides.")
@matrix_option
def landscape(file: str, **options: Any) -> int:
    """The loss of FILE at weights in a plane around its own, as a contour picture (--plot).

    FILE must take its parameters as inputs (export --params inputs); --weights gives them.
    """
    from ..runtime.study import described

    with opened(file, options) as c:
        found = c.landscape(
            **{key: options[key] for key in ("directions", "points", "extent", "seed", "matrix")}
        )
        record = described(c, "landscape", source_of(options)) | found.as_dict()
    return finish(record, options, lambda: show_landscape(record))


def show_landscape(record: dict[str, Any]) -> None:
    """A few lines on what the plane looks like."""
    values = [value for row in record["loss"] for value in row if value is not None]
    named = {"random": "two random filter-normalised directions", "eigs": "the top two eigenvectors"}
    echo(
        f"{record['file']}: loss over {len(record['y'])}x{len(record['x'])} points along "
        f"{named[record['directions']]}, {statistics_of(record)}"
    )
    echo(f"at the weights {record['centre']:.6g}, lowest {min(values):.6g}, highest {max(values):.6g}")
    if record["eigenvalues"]:
        echo("eigenvalues {:.6g} and {:.6g}".format(*record["eigenvalues"]))
