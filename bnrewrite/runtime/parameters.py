"""The parameters of a file: fed from outside where they are its inputs, else read from the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from .session import Array, Described
from .vectors import as_array, listed


def fitted_parameters(file: Described, parameters: Mapping[str, Any] | None) -> dict[str, Array]:
    """Feeds for a file whose parameters are inputs; empty for one that holds them."""
    expected = {argument.name: argument for argument in file.of_kind("parameter")}
    if not expected:
        if parameters is not None:
            raise InputError(f"'{file.name}' holds its parameters: it takes none from outside.")
        return {}
    missing = [name for name in expected if name not in (parameters or {})]
    if parameters is None or missing:
        raise InputError(
            f"'{file.name}' takes its parameters as inputs: give parameters= with {listed(missing)}."
        )
    feeds = {name: as_array(parameters[name]) for name in expected}
    for name, array in feeds.items():
        if array.shape != expected[name].shape or array.dtype.kind != expected[name].dtype.kind:
            raise InputError(
                f"parameter '{name}' is {array.dtype} {list(array.shape)}, the file takes {expected[name].described()}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"parameter '{name}' holds NaN or infinity.")
    return {name: np.ascontiguousarray(array, dtype=expected[name].dtype) for name, array in feeds.items()}
