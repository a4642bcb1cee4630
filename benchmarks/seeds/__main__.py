"""The figures and tables of the seed documents again, into docs/seeds, with the numbers as JSON beside them.

    python -m benchmarks.seeds [--only effect,start] [--quick] [--redraw] [--out DIR] [--threads 2]

Every study writes its JSON and its pictures, and fills its places in a page, between `<!-- begin NAME -->` and
`<!-- end NAME -->`; the words around them stay. On one machine with one number of threads a second run gives the same
numbers, times apart. Data: the handwritten digits of scikit-learn. `--quick`: tiny settings, to see that everything
runs. `--redraw`: pictures and tables anew from the JSON that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bnrewrite.console import estimates
from bnrewrite.files import written_whole
from bnrewrite.report.canvas import save
from bnrewrite.runtime.plain import plain

from ..environment import described, environment
from . import (
    appendix,
    effect,
    effect_pictures,
    effect_tables,
    start,
    start_pictures,
    start_tables,
    structures,
    surface,
    surface_pictures,
    surface_tables,
)
from .pages import HOME, write
from .settings import FULL, QUICK

Result = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One group of figures: `run` measures, `pictures` and `parts` (for `page`) show what it found."""

    file: str
    page: str
    run: Callable[[Any, Any], Result]
    pictures: Callable[[Result], dict[str, Any]]
    parts: Callable[[Result], dict[str, str]] | None


STUDIES = {
    "appendix_f": Study("000.json", "000.md", appendix.run, appendix.pictures, appendix.parts),
    "structures": Study("001.json", "001.md", structures.run, structures.pictures, None),
    "effect": Study("004_effect.json", "004.md", effect.run, effect_pictures.pictures, effect_tables.parts),
    "surface": Study("004_surface.json", "004.md", surface.run, surface_pictures.pictures, surface_tables.parts),
    "start": Study("004_start.json", "004.md", start.run, start_pictures.pictures, start_tables.parts),
}  # fmt: skip


def names(text: str) -> list[str]:
    """Names of studies, comma between them; an error that lists the known ones for another name."""
    for name in text.split(","):
        if name not in STUDIES:
            raise argparse.ArgumentTypeError(f"there is no study '{name}'; there are {', '.join(STUDIES)}")
    return text.split(",")


def main(argv: list[str] | None = None) -> int:
    """Measure and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seeds", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", type=names, default=list(STUDIES), metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--redraw", action="store_true")
    parser.add_argument("--out", type=Path, default=HOME, metavar="DIR")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    missing = [file for name in arguments.only if not (file := arguments.out / STUDIES[name].file).is_file()]
    if arguments.redraw and missing:
        parser.error(f"--redraw: there is no {missing[0]} to draw from; leave --redraw out to measure.")
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = QUICK if arguments.quick else FULL
    for name in arguments.only:
        study = STUDIES[name]
        file = arguments.out / study.file
        begin = time.perf_counter()
        if not arguments.redraw:
            record = measured(study, getattr(settings, name), arguments.threads)
            with written_whole(file) as temporary:
                temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
        record = json.loads(file.read_text(encoding="utf-8"))
        show(name, study, record, arguments.out)
        print(f"{name}: {arguments.out / study.page}, {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return 0


def measured(study: Study, settings: Any, threads: int) -> Result:
    """The record of one study; numbers to seven digits, so that the file stays small."""
    where = environment(threads)
    begin = time.perf_counter()
    with estimates() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of PyTorch, about its own internals
        results = study.run(settings, progress)
    where["seconds"] = round(time.perf_counter() - begin)
    chosen = [asdict(part) for part in settings] if isinstance(settings, tuple) else asdict(settings)
    return {"environment": where, "settings": plain(chosen), "results": rounded(plain(results))}


def rounded(value: Any) -> Any:
    """The same with seven digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def show(name: str, study: Study, record: Result, folder: Path) -> None:
    """Pictures, and the generated parts of the page, with what they were measured on."""
    for file, figure in study.pictures(record["results"]).items():
        save(figure, folder / f"{file}.png")
    found = study.parts(record["results"]) if study.parts else {}
    if found:
        foot = f"{described(record['environment'])}; {record['environment']['seconds']} s in all."
        found[f"{name}_environment"] = f"Measured: {foot}"
    write(study.page, found, folder)


if __name__ == "__main__":
    sys.exit(main())
