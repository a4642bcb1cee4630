"""`bnrewrite sensitivity`: which layers mind quantization and pruning, and bit widths under a budget."""

from __future__ import annotations

from typing import Any

import click

from ..console import print_table
from ..errors import InputError
from .curvature import save_arrays, statistics_of
from .running import finish, opened, run_options, source_of


class Widths(click.ParamType):
    """`2,4,8`."""

    name = "2,4,8"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdigit() for part in parts):
            self.fail(f"'{value}' is no list of bit widths; write them with commas between, such as 2,4,8.")
        return tuple(map(int, parts))


@click.command()
@click.argument("file", metavar="FILE.onnx")
@run_options
@click.option("--bits", type=Widths(), default="2,4,8", show_default=True, help="Widths to score.")
@click.option("--mean-bits", type=float, help="Assign widths: bits for a weight on average.")
@click.option(
    "--budget", "budget_bytes", type=float, metavar="BYTES", help="Assign widths: bytes of all weights."
)
@click.option(
    "--prune", type=float, metavar="SHARE", help="Which weights to set to zero, by Optimal Brain Damage."
)
@click.option("--samples", type=click.IntRange(min=2), default=64, show_default=True, help="Probes at most.")
@click.option("--tol", type=float, help="Relative error of the traces that is enough.")
@click.option("--matrix", type=click.Choice(["hessian", "ggn"]), default="hessian", show_default=True)
@click.option("--masks", "arrays_to", metavar="FILE.npz", help="With --prune: save which weights stay.")
def sensitivity(file: str, **options: Any) -> int:
    """Rank the layers of FILE by what quantizing them costs: average Hessian trace times squared quantization error.

    With --mean-bits or --budget also the bit width of every layer, as an integer program. With --prune the share of
    each layer that goes when the weights of least w^2 H_ii / 2 are set to zero.
    """
    if options["arrays_to"] is not None and options["prune"] is None:
        raise click.UsageError("--masks saves what --prune finds: give --prune too.")
    if options["mean_bits"] is not None and options["budget_bytes"] is not None:
        raise click.UsageError("give the budget as --mean-bits or as --budget, not both.")
    from ..runtime.monitor import Stopped
    from ..runtime.sensitivity import pruned
    from ..runtime.study import described

    common = {key: options[key] for key in ("samples", "tol", "seed", "matrix")}
    arrays: dict[str, Any] = {}
    with opened(file, options) as c:
        record = described(c, "sensitivity", source_of(options)) | {"matrix": options["matrix"]}
        try:
            found = c.sensitivity(options["bits"], **common)
            record |= found.as_dict()
            if options["mean_bits"] is not None or options["budget_bytes"] is not None:
                budget = {key: options[key] for key in ("mean_bits", "budget_bytes")}
                record["assignment"] = found.assign(**budget).as_dict()
            if options["prune"] is not None:
                estimate = c.diagonal(**common)
                pruning, record["pruning"] = pruned(c.saliency(estimate), options["prune"], estimate)
                record["complete"] &= estimate.complete
                arrays = pruning.masks
        except Stopped:
            record["complete"] = False
    if "layers" not in record and not record["complete"]:
        raise InputError("stopped before the first estimate: there is nothing to write.")
    if options["arrays_to"] is not None:
        save_arrays(options["arrays_to"], arrays)
    return finish(record, options, lambda: show_sensitivity(record))


def show_sensitivity(record: dict[str, Any]) -> None:
    """The record as tables on stdout."""
    widths = [str(width) for width in record["bits"]]
    assigned = record.get("assignment", {}).get("bits", {})
    pruned = {row["name"]: row["share"] for row in record.get("pruning", {}).get("layers", ())}
    columns = ["weights", "shape", ">average trace", ">± ", *(f">score at {width} bits" for width in widths)]
    columns += [">bits"] * bool(assigned) + [">pruned"] * bool(pruned)
    rows = []
    for row in sorted(record["layers"], key=lambda row: -abs(row["scores"][widths[0]])):
        cells = [
            row["name"], "x".join(map(str, row["shape"])), f"{row['mean']:.3g}",
            f"{row['standard_error'] / row['size']:.1g}", *(f"{row['scores'][width]:.3g}" for width in widths),
        ]  # fmt: skip
        cells += [str(assigned[row["name"]])] if assigned else []
        cells += [f"{pruned[row['name']]:.1%}"] if pruned else []
        rows.append(cells)
    title = (
        f"{record['file']}: what quantization costs, {statistics_of(record)}, {record['products']} products"
    )
    print_table(columns, rows, title + ("" if record["complete"] else ", stopped early"))
    if found := record.get("assignment"):
        click.echo(
            f"Assigned: {found['bytes']:,.0f} of {found['budget_bytes']:,.0f} bytes, score {found['score']:.4g}."
        )
    if found := record.get("pruning"):
        click.echo(
            f"Pruned: {found['fraction']:.1%} of the weights; by the diagonal model the loss rises by "
            f"{found['predicted_increase']:.3g}."
        )
