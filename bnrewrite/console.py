"""The two streams of the command line: results on stdout, everything else on stderr, and there only what helps."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 1.0
"""Seconds of silence before a spinner appears."""


def one_line(text: object) -> str:
    """A message of any length as one line."""
    return " ".join(str(text).split())


def print_error(message: object) -> None:
    """The one line that a wrong input gets."""
    print(f"bnrewrite: error: {one_line(message)}", file=sys.stderr)


def print_note(message: object) -> None:
    """Something worth knowing that is no result."""
    print(f"bnrewrite: note: {one_line(message)}", file=sys.stderr)


def results() -> Console:
    """stdout; lines are never wrapped when a program reads them."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 240)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A plain table on stdout; columns whose name starts with `>` are right-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = results()
    with console.capture() as captured:
        if title:  # a title of the table itself would wrap at its width
            console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines()) + "\n")


def deliver(data: dict[str, Any], destination: str | None, show: Callable[[], None]) -> None:
    """Results as `--json` asks: `-` is stdout, and then nothing else goes there; a file goes beside the tables."""
    if destination == "-":
        print(json.dumps(data, indent=2))
        return
    if destination is not None:
        from .files import written_whole

        with written_whole(destination) as path:
            path.write_text(json.dumps(data, indent=2) + "\n")
    show()


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that work goes on, once it takes longer than a second; yields a function for the next step."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(file=sys.stderr),
        transient=True,
    )  # fmt: skip
    task = progress.add_task(text)
    timer = threading.Timer(PATIENCE, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda step: progress.update(task, description=step)
    finally:
        timer.cancel()
        timer.join()
        progress.stop()


@contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Warnings of the block as one-line notes, in order, each once; what PyTorch says to programmers is left out."""
    notes: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
        text = one_line(message)
        if category is UserWarning and "torch" not in Path(filename).parts and text not in notes:
            notes.append(text)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = note  # type: ignore[assignment]
        yield notes


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what PyTorch's exporter prints and logs about the model that it fails on: the error says it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar of `total` steps on a terminal; yields what to call after each step, with a few words on how it stands."""
    if not sys.stderr.isatty():
        yield lambda state: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda state: progress.update(task, advance=1, description=f"{text}: {state}")


REPORT_EVERY = 20.0
"""Seconds between two lines on how an estimate stands, where stderr is no terminal."""


@contextmanager
def estimates(say: Callable[[str], None] = print_note) -> Iterator[Callable[[str, int, int, str], None]]:
    """Yields what an estimator calls after every step: a bar for each task on a terminal, else a line now and then.

    The steps of a task whose end is not known are counted.
    """
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(task: str, done: int, total: int, estimate: str) -> None:
            nonlocal last
            if time.monotonic() - last > REPORT_EVERY:
                last = time.monotonic()
                say(f"{task}, step {done}{f' of at most {total}' if total else ''}: {estimate}")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[estimate]}"))  # fmt: skip
    bars: dict[str, Any] = {}
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:

        def step(task: str, done: int, total: int, estimate: str) -> None:
            if task not in bars:
                for other in bars.values():
                    progress.remove_task(other)
                bars.clear()
                bars[task] = progress.add_task(task, total=total or None, estimate="")
            progress.update(bars[task], completed=done, total=total or None, estimate=estimate)

        yield step


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop`, which ends the work at the next step; a second one interrupts at once."""

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print_note("stopping after this step; Ctrl-C again ends at once.")
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
