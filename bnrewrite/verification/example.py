"""The data that a verification runs on: random where none is given, its rounded copies, its form for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..runtime.session import Array, Session

ROUNDED_COPIES = 3


def random_pair(session: Session, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Standard normal inputs and fitting targets in the shapes of the file, at the batch size of its example."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    pair: tuple[dict[str, Array], dict[str, Array]] = {}, {}
    value: Array
    batch = max(session.meta.get("batch") or 16, 2)  # BatchNorm may need two
    for argument in session.of_kind("data"):
        root, _, rest = argument.name.partition(".")
        if any(size != "N" and not isinstance(size, int) for size in argument.shape):
            raise InputError(
                f"the shape of '{argument.name}' is not fixed by the file ({argument.described()}): {_GIVE}"
            )
        shape = [batch if size == "N" else int(size or 0) for size in argument.shape]
        classes = session.meta.get("classes") if root == "target" else None
        if argument.dtype.kind == "f":
            draw = (
                rng.random
                if root == "target" and session.meta["loss"] == "bce_with_logits"
                else rng.standard_normal
            )
            value = draw(shape)
        elif classes and argument.dtype.kind == "i":
            value = rng.integers(0, classes[0], shape)
        else:
            raise InputError(
                f"'{argument.name}' holds {argument.dtype} of a range that the file does not say: {_GIVE}"
            )
        pair[root == "target"][rest] = value
    return pair[0].get("", pair[0]), pair[1].get("", pair[1])  # type: ignore[return-value]


_GIVE = "give example inputs."


def random_vectors(session: Session, count: int, batch: int, seed: int) -> list[dict[str, Array]]:
    """Standard normal vectors in the type of the file."""
    rng = np.random.Generator(np.random.Philox(key=seed + 1))
    shapes = {
        name: [batch if size == "N" else size for size in shape]
        for name, shape in session.meta["parameters"].items()
    }
    return [
        {name: rng.standard_normal(shape).astype(session.dtype) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def rounded_copies(feeds: Mapping[str, Array]) -> list[dict[str, Array]]:
    """`feeds`, and copies of it in which every floating-point input went to a neighbouring number."""
    rng = np.random.Generator(np.random.Philox(key=0))
    copies = [dict(feeds)]
    for _ in range(ROUNDED_COPIES):
        copy = dict(feeds)
        for name, array in feeds.items():
            if array.dtype.kind == "f" and name.split(".")[0] == "input":
                towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
                copy[name] = np.nextafter(array, towards)
        copies.append(copy)
    return copies


def nested(root: str, feeds: Mapping[str, Array]) -> Any:
    """The model's argument from arrays by name: a tensor, or a tuple or dict of what `root.<key>` leads to."""
    if root in feeds:
        return torch.from_numpy(np.array(feeds[root]))
    keys = list(
        dict.fromkeys(n.removeprefix(f"{root}.").split(".")[0] for n in feeds if n.startswith(f"{root}."))
    )
    values = {key: nested(f"{root}.{key}", feeds) for key in keys}
    return tuple(values.values()) if all(key.isdigit() for key in keys) else values
