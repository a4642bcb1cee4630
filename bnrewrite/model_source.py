"""From words on a command line to a model with its weights and an example: MODEL, --weights, --input, --loss."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .errors import BnrewriteError, FileError, InputError
from .runtime.session import check_readable
from .runtime.vectors import listed
from .sources import as_module
from .sources.loading import SUFFIXES, load_source

DTYPES = {"float32": torch.float32, "float64": torch.float64}
BATCH = 16
"""Batch size of an example where neither the user nor the registry names one."""

FORMS = (
    "MODEL is package.module:factory, path/to/file.py:factory, or a file that holds the whole model: a .pt2 of "
    "torch.export, a TorchScript .pt"
)


@dataclass(frozen=True)
class Source:
    """A model as named on the command line; `entry`: its line in the registry of reference networks, if any."""

    model: nn.Module
    entry: Any = None


def load_model(
    name: str,
    *,
    weights: str | None = None,
    classes: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Source:
    """Call the factory that `name` names, or read the file, and load `weights` into what comes.

    `classes` is handed on as `num_classes` where the factory takes that. `seed` fixes the weights that the factory
    draws, so that two commands that name the same model mean the same numbers.
    """
    if weights is not None:
        check_readable(weights)
    if name.endswith(SUFFIXES):
        check_readable(name)
        factory, model = None, load_source(name)
    else:
        factory, model = _made(name, classes, seed)
    model = model.to(DTYPES[dtype])
    if weights is not None:
        load_weights(model, weights)
    return Source(model, _registered(factory))


def _made(name: str, classes: int | None, seed: int) -> tuple[Any, nn.Module]:
    """The factory that `name` names, and the model that it makes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for a model that the module holds ready-made
        factory = _factory(name)
        arguments = {"num_classes": classes} if classes is not None and _takes(factory, "num_classes") else {}
        torch.manual_seed(seed)
        model = factory if isinstance(factory, nn.Module) else _call(name, factory, arguments)
    try:
        return factory, as_module(model)
    except InputError as error:
        raise InputError(f"'{name}' gave no model: {error}") from error


# MODEL -----------------------------------------------------------------------------------------------------------


def _factory(name: str) -> Any:
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise InputError(f"'{name}' does not name a model: {FORMS}.")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_package(where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise InputError(f"'{where}' has no '{attribute}'.{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"'{name}' is a {type(found).__name__}, not a function or class that makes a model.")
    return found


def _from_package(where: str) -> ModuleType:
    if (folder := os.getcwd()) not in sys.path:  # an installed command does not look there by itself
        sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if where == missing or where.startswith(f"{missing}."):
            raise InputError(f"there is no module '{missing}' to import: {FORMS}.") from error
        raise InputError(f"module '{where}' needs '{missing}', which is not installed.") from error
    except (TypeError, ValueError) as error:  # a relative or an empty name
        raise InputError(f"'{where}' is no name of a module: {FORMS}.") from error
    except (Exception, SystemExit) as error:  # the user's own code runs here
        raise InputError(f"module '{where}' failed while it was imported: {_told(error)}") from error


def _from_file(path: Path) -> ModuleType:
    check_readable(path)
    if (folder := str(path.resolve().parent)) not in sys.path:  # files beside it, as when Python runs it
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"'{path}' cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code runs here
        raise InputError(f"'{path}' failed while it was run: {_told(error)}") from error
    return module


def _call(name: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        with redirect_stdout(sys.stderr):
            return factory(**arguments)
    except (Exception, SystemExit) as error:  # the user's own code runs here
        raise InputError(f"'{name}' could not make a model: {_told(error)}") from error


def _told(error: BaseException) -> str:
    if isinstance(error, BnrewriteError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _takes(factory: Any, argument: str) -> bool:
    try:
        return argument in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # no signature to be had
        return False


def _registered(factory: Any) -> Any:
    if not getattr(factory, "__module__", "").startswith("bnrewrite.models"):
        return None
    from .models import MODELS

    entry = MODELS.get(factory.__name__)
    return entry if entry is not None and entry.factory is factory else None


# Weights -----------------------------------------------------------------------------------------------------------


def load_weights(model: nn.Module, path: str) -> None:
    """Load a state dict, as `read_state` reads it, into `model`; FileError or InputError if it cannot."""
    state = read_state(path)
    own = model.state_dict()
    # Checkpoints older than this counter lack it; nothing here uses it.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    faults = []
    if missing:
        faults.append(f"it lacks {listed(missing)}")
    if unexpected:
        faults.append(f"the model has no {listed(unexpected)}")
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        faults.append(
            f"'{first}' has shape {list(state[first].shape)}, in the model {list(own[first].shape)}{more}"
        )
    if faults:
        raise InputError(f"'{path}' does not fit the model: {'; '.join(faults)}.")
    model.load_state_dict(state, strict=False)


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a state dict (`.pt`, `.pth`, ... or `.safetensors`) by name; FileError if it is none.

    Nothing in the file is executed. `{"state_dict": ...}`, `{"model": ...}` and a prefix `module.` on all names are
    looked through.
    """
    check_readable(path)
    return _read_safetensors(path) if path.endswith(".safetensors") else _read_checkpoint(path)


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"'{path}' needs the package safetensors, which is not installed.") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileError(f"'{path}' cannot be read as safetensors: {_told(error)}") from error


def _read_checkpoint(path: str) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        if "weights_only" in str(error).lower() or "Weights only" in str(error):
            raise FileError(
                f"'{path}' holds more than tensors, or no checkpoint at all; pickled objects are never executed here: "
                "save model.state_dict()."
            ) from error
        raise FileError(
            f"'{path}' cannot be read as a checkpoint (what torch.save writes): {_told(error)}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise FileError(f"'{path}' holds no state dict (tensors by parameter name): save model.state_dict().")
    if loaded and all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return loaded


# Example -----------------------------------------------------------------------------------------------------------


def make_example(
    source: Source,
    *,
    shapes: Sequence[Sequence[int]] = (),
    batch: int | None = None,
    classes: int | None = None,
    loss: str | None = "cross_entropy",
    seed: int = 0,
) -> tuple[Any, Tensor]:
    """A random input and a target that fits the loss.

    `shapes`: of one sample, one for each input of the model; the registry's where none is given. Class indices stay
    below `classes`, or below the number of outputs; other targets look like the output.
    """
    entry, model = source.entry, source.model
    if not shapes and entry is None:
        raise InputError("what does one sample look like? Say it with --input, for example --input 3x64x64.")
    shapes = list(shapes) or [entry.input_shape]
    batch = batch or (entry.batch if entry is not None else BATCH)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(torch.randn([batch, *shape], generator=generator, dtype=dtype) for shape in shapes)
    input = inputs[0] if len(inputs) == 1 else inputs
    if loss is None:  # the model returns its loss, so its output tells nothing about targets
        if classes is None:
            raise InputError("with --loss none, say the number of classes of the target: --classes 10.")
        return input, torch.randint(classes, (batch,), generator=generator)
    output = _output(model, inputs)
    if loss == "mse":
        return input, torch.randn(output.shape, generator=generator, dtype=dtype)
    if loss == "bce_with_logits":
        return input, torch.randint(2, tuple(output.shape), generator=generator).to(dtype)
    if output.dim() < 2:
        raise InputError(
            f"the loss {loss} needs scores [batch, classes, ...], the model gives {list(output.shape)}."
        )
    count = output.shape[1]
    if classes is not None and classes > count:
        raise InputError(f"--classes {classes}, but the model has {count} outputs.")
    return input, torch.randint(classes or count, (batch, *output.shape[2:]), generator=generator)


def _output(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """What a copy of the model gives, in evaluation mode (no batch is too small there)."""
    try:
        with torch.no_grad(), redirect_stdout(sys.stderr):
            output = copy.deepcopy(model).eval()(*inputs)
    except Exception as error:  # the user's own code runs here
        shapes = " and ".join(str(list(x.shape)) for x in inputs)
        raise InputError(f"the model cannot take an input of shape {shapes}: {_told(error)}") from error
    if not isinstance(output, Tensor):
        raise InputError(f"the model returns a {type(output).__name__}; a loss by name takes one tensor.")
    return output
