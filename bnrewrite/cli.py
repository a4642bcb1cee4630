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
from .commands import RUNNING
from .console import collected_notes, deliver, one_line, print_error, print_note, quiet, spinner
from .errors import BnrewriteError

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

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        sizes = value.lower().split("x")
        if not all(size.isdigit() and int(size) > 0 for size in sizes):
            self.fail(
                f"'{value}' is no shape; write the sizes of one sample with x between, such as 3x64x64."
            )
        return tuple(map(int, sizes))


class Products(click.ParamType):
    """`hvp,ggn,residual`."""

    name = "hvp,ggn,residual"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which model, with which weights, on what kind of data."""
    options = [
        click.option(
            "--input", "shapes", type=Shape(), multiple=True, help="Shape of one sample (repeat for several)."
        ),
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
        click.option(
            "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random weights."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option(
    "--json", "json_to", metavar="FILE|-", help="Write the results as JSON; - for stdout."
)


def _check_outputs(*paths: str | None) -> None:
    """What cannot be written is said before the work is done."""
    from .files import check_writable

    for path in paths:
        if path is not None and path != "-":
            check_writable(path)


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
@click.option("--torchscript", is_flag=True, help="Write a TorchScript file, for libtorch.")
@click.option("--pt2", is_flag=True, help="Write a torch.export archive.")
@click.option("-o", "--output", required=True, metavar="FILE", help="File to write.")
@model_options
@click.option(
    "--wrt", multiple=True, metavar="GLOB", help="Parameters to differentiate by (repeat); 'input' for data."
)
@click.option("--product", "products", type=Products(), default="hvp", show_default=True)
@click.option("--vectors", type=click.IntRange(min=1), metavar="K", help="Directions of one call.")
@click.option("--opset", type=int, help="Of an ONNX file.  [default: 18]")
@click.option(
    "--params",
    type=click.Choice(["initializers", "inputs"]),
    help="Parameters of an ONNX file.  [default: initializers]",
)
@click.option(
    "--linearize",
    is_flag=True,
    help="Write two ONNX files, NAME.primal.onnx and NAME.apply.onnx: what is done once, and for every direction.",
)
@json_option
def export(
    model: str,
    onnx: bool,
    torchscript: bool,
    pt2: bool,
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
    vectors: int | None,
    opset: int | None,
    params: str | None,
    linearize: bool,
    json_to: str | None,
) -> int:
    """Write loss, gradient and curvature products of MODEL as one file, or as two.

    MODEL is package.module:factory, path/to/file.py:factory, a .pt2 of torch.export or a TorchScript .pt.
    """
    kinds = [kind for kind, chosen in (("onnx", onnx), ("torchscript", torchscript), ("pt2", pt2)) if chosen]
    if len(kinds) > 1:
        raise click.UsageError(
            f"choose one of --onnx, --torchscript and --pt2, not --{' and --'.join(kinds)}."
        )
    kind = kinds[0] if kinds else "onnx"
    chosen_for_onnx = {"opset": opset, "params": params, "linearize": linearize or None}
    only_onnx = {key: value for key, value in chosen_for_onnx.items() if value is not None}
    if kind != "onnx" and only_onnx:
        raise click.UsageError(f"--{next(iter(only_onnx))} is for ONNX files: leave it out with --{kind}.")
    _check_outputs(output, json_to)
    start = time.perf_counter()
    with spinner("loading PyTorch and the model") as say:
        from . import compiler
        from .inspection import inspect_file, inspect_torch_file
        from .model_source import load_model, make_example

        source = load_model(model, weights=weights, classes=classes, dtype=dtype, seed=seed)
        example = make_example(
            source, shapes=shapes, batch=batch, classes=classes, loss=_loss(loss), seed=seed
        )
        say(f"compiling {model}")
        with quiet():
            written = getattr(compiler, f"export_{kind}")(
                source.model,
                output,
                example,
                **only_onnx,
                loss=_loss(loss),
                bn=bn,
                wrt=("input" if wrt == ("input",) else list(wrt)) or None,
                products=products,
                vectors=vectors,
                random=random,
            )
        say("reading it back")
        if linearize:
            found = _inspect_pair(written)
        else:
            found = inspect_file(output) if kind == "onnx" else inspect_torch_file(output)
    found["seconds"] = round(time.perf_counter() - start, 2)

    from .tables import show_export

    deliver(found, json_to, lambda: (_show_pair if linearize else show_export)(model, found))
    return 0


def _inspect_pair(files: Sequence[Path]) -> dict[str, Any]:
    """What `inspect_file` says of the apply part, and of both parts together what they are and take."""
    from .inspection import inspect_file
    from .runtime.session import Session

    apply = os.fspath(files[1])
    meta = Session(apply).meta
    beside = [Path(f"{file}.data") for file in files]
    return (
        inspect_file(apply)
        | {
            "files": [os.fspath(file) for file in files],
            "bytes": sum(file.stat().st_size for file in (*files, *beside) if file.exists()),
        }
        | {key: meta[key] for key in ("residuals", "residual_bytes", "batch")}
    )


def _show_pair(model: str, found: dict[str, Any]) -> None:
    """One line on the two files that were just written."""
    click.echo(
        f"{' and '.join(found['files'])}: {', '.join(['loss', 'grad', *found['products']])} of {model} in "
        f"{found['dtype']}, {len(found['sites'])} BatchNorm sites, {len(found['residuals'])} residuals of "
        f"{found['residual_bytes'] / 1e6:.1f} MB at batch size {found['batch']}, {found['bytes'] / 1e6:.1f} MB, "
        f"{found['seconds']} s"
    )


@commands.command()
@click.argument("file")
@click.option("--model", help="The model it was made from: package.module:factory or file.py:factory.")
@click.option("--weights", help="Its state dict.")
@click.option("--classes", type=click.IntRange(min=1), help="Given to the factory as num_classes.")
@click.option("--data", help=".npz with input and target; random data otherwise.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, data and vectors."
)
@json_option
def verify(
    file: str,
    model: str | None,
    weights: str | None,
    classes: int | None,
    data: str | None,
    seed: int,
    json_to: str | None,
) -> int:
    """Compare FILE in onnxruntime with PyTorch in float64, or with itself. Exit status 1 if an error is too large.

    With --model: loss, gradient and products against PyTorch's double backward. Without: the products against central
    differences of the file's own gradient.
    """
    if model is None and (weights is not None or classes is not None):
        raise click.UsageError("--weights and --classes say how to make a model: give --model too.")
    _check_outputs(json_to)
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
@click.argument("what", metavar="MODEL|FILE")
@model_options
@click.option(
    "--structure",
    is_flag=True,
    help="Of a model: say what mixes samples, and which quantities exist therefore.",
)
@click.option("--plot", "plot_to", metavar="FILE.png|.svg", help="Draw that structure; implies --structure.")
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
    structure: bool,
    plot_to: str | None,
    json_to: str | None,
) -> int:
    """List the BatchNorm sites, operations and parameters of a model, or what is in an exported file."""
    _check_outputs(json_to)
    if plot_to is not None:
        from .report.canvas import check_path

        check_path(plot_to)
        structure = True
    with spinner("loading PyTorch") as say:
        from .inspection import inspect_file, inspect_model, inspect_torch_file, is_torch_file
        from .model_source import SUFFIXES, load_model, make_example
        from .structure import analyze

        exported = is_torch_file(what)
        if exported or what.endswith(".onnx") or (Path(what).is_file() and not what.endswith(SUFFIXES)):
            if structure:
                raise click.UsageError(
                    "--structure and --plot are for models: an exported file has no samples apart."
                )
            found = inspect_torch_file(what) if exported else inspect_file(what)
        else:
            source = load_model(what, weights=weights, classes=classes, dtype=dtype, seed=seed)
            example = make_example(
                source, shapes=shapes, batch=batch, classes=classes, loss=_loss(loss), seed=seed
            )
            say(f"capturing {what}")
            with quiet():
                options: dict[str, Any] = {"loss": _loss(loss), "bn": bn, "random": random}
                if structure:
                    report = analyze(source.model, example, **options)
                else:
                    found = inspect_model(source.model, example, **options)
    if structure:
        if plot_to is not None:
            report.draw(plot_to)
        deliver(report.to_dict(), json_to, lambda: click.echo(str(report)))
        return 0
    from .tables import show_file, show_model

    deliver(found, json_to, lambda: show_model(what, found) if found["kind"] == "model" else show_file(found))
    return 0


@commands.command()
@click.argument("directory", default="bnrewrite-demo", metavar="[DIR]")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training digits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(directory: str, epochs: int | None, seed: int) -> int:
    """Train a small ResNet on real digits, export its curvature, verify it, and look at it without PyTorch."""
    from .demo import EPOCHS, run

    return 0 if run(Path(directory), epochs=epochs or EPOCHS, seed=seed) else 1


for command in RUNNING:
    commands.add_command(command)
