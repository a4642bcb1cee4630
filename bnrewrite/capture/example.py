"""The example data of the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError


@dataclass(frozen=True)
class Example:
    """Example data of the caller: `(input, target)`, and the batch size they agree on."""

    input: Any
    target: Any

    @property
    def leaves(self) -> list[Tensor]:
        return _tensors((self.input, self.target))

    @property
    def batch(self) -> int | None:
        """The first size that most tensors have (a table or a mask may stand among them); the target's, if several."""
        sizes = Counter(leaf.shape[0] for leaf in self.leaves if leaf.dim() > 0)
        targets = [leaf.shape[0] for leaf in _tensors(self.target) if leaf.dim() > 0]
        return max(sizes, key=lambda size: (sizes[size], size in targets[:1]), default=None)

    def has_batch_axis(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == self.batch

    def distinct(self, parameters: Iterable[Tensor]) -> Example:
        """The same rows at a batch size that equals no other size, so that no comparison mistakes one for the other."""
        taken = {size for p in parameters for size in p.shape}
        taken |= {size for leaf in self.leaves for size in leaf.shape[1:]}
        primes = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
        return self.resized(next(size for size in chain(primes, count(67)) if size not in taken))

    def resized(self, batch: int) -> Example:
        """The same rows, repeated to another batch size."""

        def resize(leaf: Any) -> Any:
            if not self.has_batch_axis(leaf):
                return leaf
            return leaf.detach()[torch.arange(batch, device=leaf.device) % leaf.shape[0]]

        return Example(pytree.tree_map(resize, self.input), pytree.tree_map(resize, self.target))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def example_of(example_inputs: Any) -> Example:
    """Check the shape of `example_inputs`, not yet their contents."""
    if not isinstance(example_inputs, (tuple, list)) or len(example_inputs) != 2:
        raise InputError(
            "example_inputs must be a pair (input, target); several model inputs go into a tuple or dict."
        )
    example = Example(*example_inputs)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(example.input)):
        raise InputError("example_inputs has no tensor among the model's inputs.")
    if example.batch == 0:
        raise InputError("example_inputs has an empty batch: give at least one sample.")
    return example
