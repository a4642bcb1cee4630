"""The arguments that every deliverable shares, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from .errors import InputError
from .losses import Loss
from .passes.differentiate import PRODUCTS
from .passes.graph import Input


@dataclass(frozen=True)
class Options:
    """How to compile: see `bnrewrite.transform` for what each argument means.

    Raises `InputError` for a value that does not exist or arguments that contradict each other.
    """

    loss: Loss = "cross_entropy"
    bn: Literal["batch", "running"] | None = None
    wrt: Sequence[str] | str | None = None
    products: Sequence[str] = ("hvp",)
    vectors: int | None = None
    random: Literal["off", "error"] = "off"
    dynamic_batch: bool = True
    fuse: bool = False

    def __post_init__(self) -> None:
        check_choice("bn", self.bn, ("batch", "running", None))
        check_choice("random", self.random, ("off", "error"))
        check_choice("fuse", self.fuse, (True, False))
        if isinstance(self.products, str):
            object.__setattr__(self, "products", (self.products,))
        for product in self.products:
            check_choice("each of products", product, PRODUCTS)
        if len(set(self.products)) != len(self.products) or not self.products:
            raise InputError(f"products must name each product once, and at least one: {self.products!r}.")
        if self.vectors is not None and (type(self.vectors) is not int or self.vectors < 1):
            raise InputError(
                f"vectors must be the number of directions of one call, at least 1, not {self.vectors!r}."
            )
        split = [product for product in self.products if product != "hvp"]
        if split and self.loss is None:
            raise InputError(
                f"products='{split[0]}' needs to know where the model ends and the loss begins: pass the loss."
            )

    def select(self, inputs: Sequence[Input], order: Sequence[str]) -> list[str]:
        """Names of the inputs to differentiate by; `order` is that of `named_parameters()`."""
        chosen = self._chosen(inputs, order)
        numbers = [name for name in chosen if name.isdecimal()]
        if numbers and "residual" in self.products:
            raise InputError(
                f"products='residual': the parameter called '{numbers[0]}' would share the name "
                f"'residual.{numbers[0]}' with a tensor that linearized graphs save: register it under a name that "
                "is no number."
            )
        return chosen

    def _chosen(self, inputs: Sequence[Input], order: Sequence[str]) -> list[str]:
        own = {e.name: e for e in inputs if e.kind == "parameter"}
        order = [name for name in order if name in own]
        if self.wrt == "input":
            return [e.name for e in inputs if e.kind == "input"]
        if self.wrt is None:
            chosen = [name for name in order if own[name].requires_grad]
            if not chosen:
                raise InputError("the model has no parameter that requires grad: name some with wrt=.")
            return chosen
        patterns = self.check_names(order)
        return [name for name in order if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def check_names(self, order: Sequence[str]) -> list[str]:
        """The patterns of `wrt`; raise `InputError` for one that fits none of the parameters named in `order`."""
        if self.wrt is None or self.wrt == "input":
            return []
        patterns = [self.wrt] if isinstance(self.wrt, str) else list(self.wrt)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in order):
                raise InputError(
                    f"wrt: no parameter matches '{pattern}'. The first ones are {', '.join(order[:4])}."
                )
        return patterns


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise `InputError` unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")


def check_memory(memory: Any) -> None:
    """Raise `InputError` unless `memory` says what `linearize` may save: "least", "most", None or a number of bytes."""
    if type(memory) is int and memory >= 0:
        return
    if memory not in ("least", "most", None):
        raise InputError(f"memory must be 'least', 'most', None or a number of bytes, not {memory!r}.")
