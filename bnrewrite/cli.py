"""The command line: export, verify, inspect, demo.

Exit status: 0 done, 1 a check failed, 2 the input was wrong (one line on stderr says what and what to do), 130
interrupted. Results go to stdout, everything else to stderr. PyTorch is imported only where a command needs it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from . import __version__
from .console import collected_notes, deliver, one_line, print_error, print_note, print_table, spinner
from .errors import BnrewriteError, InputError

LOSSES = ("cross_entropy", "mse", "bce_with_logits", "nll", "none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, and raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with collected_notes() as notes:
            status = _run(arguments)
            sys.stdout.flush()
        for note in notes:
            print_note(note)
        return status
    except click.exceptions.Exit as exit:  # --help, --version
        return exit.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_error("interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except click.ClickException as error:
        print_error(error.format_message())
    except BnrewriteError as error:
        print_error(error)
    except Exception as error:
        if os.environ.get("BNREWRITE_TRACEBACK"):
            raise
        print_error(
            f"{type(error).__name__}: {one_line(error)} (not foreseen: please report it, with what "
            "BNREWRITE_TRACEBACK=1 in the environment shows)"
        )
    return 2


def _run(arguments: list[str]) -> int:
    with commands.make_context("bnrewrite", arguments) as context:
        status = commands.invoke(context)
    return status if isinstance(status, int) else 0


# Values ----------------------------------------------------------------------------------------------------------


class Shape(click.ParamType):
    """`3x64x64`: the shape of one sample."""

    name = "3x64x64"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        sizes = value.lower().split("x")
        if not all(size.isdigit() and int(size) > 0 for size in sizes):
            self.fail(f"'{value}' is no shape; write the sizes of one sample with x between, such as 3x64x64.")
        return tuple(map(int, sizes))


class Products(click.ParamType):
    """`hvp,ggn`."""

    name = "hvp,ggn"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which model, with which weights, on what kind of data."""
    options = [
        click.option("--input", "shapes", type=Shape(), multiple=True, help="Shape of one sample (repeat for several)."),
        click.option("--batch", type=click.IntRange(min=1), help="Batch size of the example."),
        click.option(
            "--classes",
            type=click.IntRange(min=1),
            help="Number of classes; given to the factory as num_classes where it takes that.",
        ),
        click.option("--loss", type=click.Choice(LOSSES), default="cross_entropy", show_default=True),
        click.option("--bn", type=click.Choice(["batch", "running"]), help="Statistics of every BatchNorm."),
        click.option("--weights", help="State dict (.pt, .pth, .safetensors) to load."),
        click.option("--random", type=click.Choice(["off", "error"]), default="off", show_default=True),
        click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random weights."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option("--json", "json_to", metavar="FILE|-", help="Write the results as JSON; - for stdout.")


def _loss(name: str) -> str | None:
    return None if name == "none" else name


# Commands ----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnrewrite")
@click.pass_context
def commands(context: click.Context) -> None:
    """Exact curvature of networks with BatchNorm, as one graph."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@click.argument("model")
@click.option("--onnx", is_flag=True, help="Write an ONNX file (the default).")
@click.option("-o", "--output", required=True, metavar="FILE", help="File to write.")
@model_options
@click.option("--wrt", multiple=True, metavar="GLOB", help="Parameters to differentiate by (repeat); 'input' for data.")
@click.option("--product", "products", type=Products(), default="hvp", show_default=True)
@click.option("--opset", type=int, default=18, show_default=True)
@click.option("--params", type=click.Choice(["initializers", "inputs"]), default="initializers", show_default=True)
@json_option
def export(
    model: str,
    onnx: bool,
    output: str,
    shapes: tuple[tuple[int, ...], ...],
    batch: int | None,
    classes: int | None,
    loss: str,
    bn: str | None,
    weights: str | None,
    random: str,
    dtype: str,
    seed: int,
    wrt: tuple[str, ...],
    products: tuple[str, ...],
    opset: int,
    params: str,
    json_to: str | None,
) -> int:
    """Write loss, gradient and curvature products of MODEL as one file.

    MODEL is package.module:factory or path/to/file.py:factory.
    """
    from .files import check_writable

    for path in (output, *([json_to] if json_to not in (None, "-") else [])):
        check_writable(path)
    start = time.perf_counter()
    with spinner("loading PyTorch and the model") as say:
        from .compiler import export_onnx
        from .inspection import inspect_file
        from .model_source import load_model, make_example

        source = load_model(model, weights=weights, classes=classes, dtype=dtype, seed=seed)
        example = make_example(source, shapes=shapes, batch=batch, classes=classes, loss=_loss(loss), seed=seed)
        say(f"compiling {model}")
        export_onnx(
            source.model,
            output,
            example,
            opset=opset,
            params=params,  # type: ignore[arg-type]
            loss=_loss(loss),
            bn=bn,
            wrt=("input" if wrt == ("input",) else list(wrt)) or None,
            products=products,
            random=random,
        )
        say("reading it back")
        found = inspect_file(output)
    found["seconds"] = round(time.perf_counter() - start, 2)

    def show() -> None:
        from .console import results

        results().print(
            f"{output}: {', '.join(['loss', 'grad', *found['products']])} of {model} in {found['dtype']}, "
            f"{len(found['sites'])} BatchNorm sites, {sum(found['nodes'].values())} nodes, {_size(found['bytes'])}, "
            f"{found['seconds']} s",
            markup=False,
        )

    deliver(found, json_to, show)
    return 0


@commands.command()
@click.argument("file")
@click.option("--model", help="The model it was made from: package.module:factory or file.py:factory.")
@click.option("--weights", help="Its state dict.")
@click.option("--classes", type=click.IntRange(min=1), help="Given to the factory as num_classes.")
@click.option("--data", help=".npz with input and target; random data otherwise.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, data and vectors.")
@json_option
def verify(
    file: str, model: str | None, weights: str | None, classes: int | None, data: str | None, seed: int, json_to: str | None
) -> int:
    """Compare FILE in onnxruntime with PyTorch in float64, or with itself. Exit status 1 if an error is too large.

    With --model: loss, gradient and products against PyTorch's double backward. Without: the products against central
    differences of the file's own gradient.
    """
    if model is None and (weights is not None or classes is not None):
        raise click.UsageError("--weights and --classes say how to make a model: give --model too.")
    with spinner("loading PyTorch") as say:
        from .runtime.data import read_npz
        from .runtime.session import Session
        from .verification import verify as run

        session = Session(file)
        source = None
        if model is not None:
            from .model_source import load_model

            source = load_model(model, weights=weights, classes=classes, dtype=str(session.dtype), seed=seed)
        example = None if data is None else read_npz(data, session)
        report = run(file, source.model if source else None, example, seed=seed, progress=say)

    def show() -> None:
        click.echo(str(report))

    deliver(report.as_dict(), json_to, show)
    return 0 if report.passed else 1


@commands.command()
@click.argument("what", metavar="MODEL|FILE.onnx")
@model_options
@json_option
def inspect(
    what: str,
    shapes: tuple[tuple[int, ...], ...],
    batch: int | None,
    classes: int | None,
    loss: str,
    bn: str | None,
    weights: str | None,
    random: str,
    dtype: str,
    seed: int,
    json_to: str | None,
) -> int:
    """List the BatchNorm sites, operations and parameters of a model, or what is in an exported file."""
    with spinner("loading PyTorch") as say:
        from .inspection import inspect_file, inspect_model

        if what.endswith(".onnx"):
            found = inspect_file(what)
        else:
            from .model_source import load_model, make_example

            source = load_model(what, weights=weights, classes=classes, dtype=dtype, seed=seed)
            example = make_example(source, shapes=shapes, batch=batch, classes=classes, loss=_loss(loss), seed=seed)
            say(f"capturing {what}")
            found = inspect_model(source.model, example, loss=_loss(loss), bn=bn, random=random)
    deliver(found, json_to, lambda: _show_file(found) if found["kind"] == "onnx" else _show_model(what, found))
    return 0


@commands.command()
@click.argument("directory", default="bnrewrite-demo", metavar="[DIR]")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training digits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(directory: str, epochs: int | None, seed: int) -> int:
    """Train a small ResNet on real digits, export its curvature, verify it, and look at it without PyTorch."""
    from .demo import EPOCHS, run

    return 0 if run(Path(directory), epochs=epochs or EPOCHS, seed=seed) else 1


# Tables ------------------------------------------------------------------------------------------------------------


def _show_model(what: str, found: dict[str, Any]) -> None:
    _show_sites(found["sites"])
    print_table(
        ["operation", ">count", "rule"],
        [[row["operation"], row["count"], row["rule"]] for row in found["operations"]],
        "Operations",
    )
    click.echo(f"{what}: {len(found['sites'])} BatchNorm sites, {_parameters(found['parameters'])}")


def _show_file(found: dict[str, Any]) -> None:
    _show_sites(found["sites"])
    rows = [[*_grouped(found[kind], kind)] for kind in ("inputs", "outputs")]
    print_table(["", "name", "type", "shape"], [row for group in rows for row in group], "Inputs and outputs")
    print_table(["operator", ">count"], list(found["nodes"].items()), "Operators")
    click.echo(
        f"{found['file']}: {found['dtype']}, loss {found['loss']}, opset {found['opset']}, "
        f"{len(found['sites'])} BatchNorm sites, {sum(found['nodes'].values())} nodes, "
        f"{_parameters(found['parameters'])}, {_size(found['bytes'])}"
    )


def _show_sites(sites: Sequence[dict[str, Any]]) -> None:
    columns = ["module", "input", "statistics", "affine", ">eps", "where"]
    rows = [
        [
            site["module"],
            "x".join(map(str, site["shape"])),
            site["statistics"],
            "yes" if site["affine"] else "no",
            f"{site['eps']:g}",
            _near(site["where"]),
        ]
        for site in sites
    ]
    if sites and "nodes" in sites[0]:
        columns.append(">nodes")
        rows = [[*row, sum(site["nodes"].values())] for row, site in zip(rows, sites, strict=True)]
    print_table(columns, rows, "BatchNorm sites")


def _grouped(values: Sequence[tuple[str, str, list[Any]]], kind: str) -> list[list[str]]:
    """One line for each value; of those by parameter (`v.*`, `grad.*`) one line for all."""
    lines: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for name, dtype, shape in values:
        head = name.split(".")[0]
        group = f"{head}.*" if head in ("v", "grad", "hvp", "ggn") else name
        counts[group] = counts.get(group, 0) + 1
        size = f"[{', '.join(map(str, shape))}]" if group == name else f"{counts[group]} tensors, as the parameters"
        lines[group] = [kind.removesuffix("s"), group, dtype, size]
    return list(lines.values())


def _near(where: str) -> str:
    """A source line by the last two parts of its path."""
    return "/".join(Path(where).parts[-2:])


def _parameters(shapes: dict[str, list[Any]]) -> str:
    total = 0
    for shape in shapes.values():
        size = 1
        for entry in shape:
            size *= entry if isinstance(entry, int) else 1
        total += size
    return f"{len(shapes)} parameters with {total:,} entries"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


__all__ = ["InputError", "main"]
