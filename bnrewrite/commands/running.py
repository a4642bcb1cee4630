"""What the commands that run a file have in common: options, opening, progress, and where the results go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..console import deliver, estimates, print_note, stoppable
from ..errors import InputError

INTERRUPTED = 130
"""Exit status of a run that was stopped and left a partial result."""


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which data, how to run, and where results go."""
    options = [
        click.option(
            "--data", required=True, multiple=True, metavar="FILE.npz",
            help="input and target; repeat for several batches.",
        ),
        click.option("--batch", type=click.IntRange(min=1), help="Cut one --data file into batches of this size."),
        click.option(
            "--weights", metavar="FILE", help="Parameters of a file that takes them: .npz, .safetensors, .pt."
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random probes."),
        click.option("--threads", type=click.IntRange(min=1), help="Of onnxruntime.  [default: all cores]"),
        click.option("--provider", multiple=True, metavar="NAME", help="Execution provider of onnxruntime (repeat)."),
        click.option("--checkpoint", metavar="FILE", help="Store every step there, and go on from it."),
        click.option("--json", "json_to", metavar="FILE|-", help="Write the results as JSON; - for stdout."),
        click.option("--plot", "plot_to", metavar="FILE.png|.svg", help="Draw the results."),
        click.option("--report", "report_to", metavar="FILE.html", help="Write one page of tables and pictures."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


matrix_option = click.option(
    "--matrix", type=click.Choice(["hessian", "ggn", "residual"]), default="hessian", show_default=True,
    help="H, the Gauss-Newton matrix G, or the rest R = H - G.",
)  # fmt: skip


@contextmanager
def opened(file: str, options: Mapping[str, Any]) -> Iterator[Any]:
    """The file over the data, with progress on stderr; Ctrl-C stops it at the next step.

    What could not be written is said before the work is done.
    """
    from ..files import check_writable
    from ..runtime import open as open_curvature

    for key in ("json_to", "plot_to", "report_to", "arrays_to"):
        path = options.get(key)
        if path is not None and path != "-":
            check_writable(path)
    if options["plot_to"] is not None and Path(options["plot_to"]).suffix not in (".png", ".svg"):
        raise InputError(f"'{options['plot_to']}' is no picture: give a name that ends in .png or .svg.")
    with estimates() as progress:
        c = open_curvature(
            file,
            _data(options["data"]),
            batch=options["batch"],
            parameters=None if options["weights"] is None else read_parameters(options["weights"]),
            providers=list(options["provider"]) or None,
            session_options=_session_options(options["threads"]),
            progress=progress,
            checkpoint=options["checkpoint"],
        )
        with stoppable(c.monitor.stop):
            yield c


def source_of(options: Mapping[str, Any]) -> str:
    """How a record names its data."""
    return ", ".join(options["data"])


def finish(record: dict[str, Any], options: Mapping[str, Any], show: Callable[[], None], **page: Any) -> int:
    """Write and show what was found; returns the exit status."""
    if not record["complete"]:
        print_note("stopped early: the results are partial, and marked so.")
    deliver(record, options["json_to"], show)
    if options["plot_to"] is not None or options["report_to"] is not None:
        from ..report import plot, report_of

        if options["plot_to"] is not None:
            plot(record, options["plot_to"])
        if options["report_to"] is not None:
            report_of([record], options["report_to"], **page)
    return 0 if record["complete"] else INTERRUPTED


def _data(files: tuple[str, ...]) -> Any:
    return files[0] if len(files) == 1 else list(files)


def _session_options(threads: int | None) -> Any:
    if threads is None:
        return None
    from ..runtime.session import default_options

    options = default_options()
    options.intra_op_num_threads = threads
    return options


def read_parameters(path: str) -> dict[str, Any]:
    """Arrays by name from an .npz, or from a state dict or .safetensors, which PyTorch reads."""
    if path.endswith(".npz"):
        from ..runtime.data import read_arrays

        return dict(read_arrays(path))
    from ..model_source import read_state

    return dict(read_state(path))
