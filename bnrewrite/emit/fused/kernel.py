"""A region of a graph as a module: its kernel where it can run, its operations one by one where not."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..addresses import NAMES, addresses, are_numbers
from .c_source import Form
from .library import loaded
from .region import Region


class Kernel(nn.Module):
    """`kernel(*images, *spreads, *channels, *numbers, taken=())` -> tuple of results.

    `taken`: pairs of a result and an image, of those that are `overwritable`: the kernel puts the one into the memory
    of the other where autograd is switched off, and so has kept none.

    The kernel runs on tensors of one floating-point type on the CPU. Anywhere else (another device or type, while a
    compiler or a transformation of functions traces, or autograd records) `plain` runs, the region as a graph.
    """

    def __init__(
        self,
        region: Region,
        form: Form,
        channels: int,
        shapes: Sequence[tuple[int, ...] | None],
        plain: fx.GraphModule,
    ) -> None:
        """`shapes`: of results that are channels, None of images."""
        super().__init__()
        self.region, self.form, self.channels, self.shapes = region, form, channels, tuple(shapes)
        self.plain = plain
        self.tensors = region.images + region.spreads + region.channels
        self._prepare()

    def _prepare(self) -> None:
        region = self.region
        self._pointers = [
            ctypes.c_void_p * max(n, 1)
            for n in (region.images + region.spreads, region.channels, len(region.results))
        ]
        self._numbers = ctypes.c_double * max(region.numbers, 1)
        self._functions: dict[torch.dtype, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_pointers", "_numbers", "_functions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def forward(self, *args: Any, taken: Sequence[tuple[int, int]] = ()) -> tuple[Tensor, ...]:
        tensors = args[: self.tensors]
        if not are_numbers(tensors):
            return self.aside(*args)
        region, n, p = self.region, 1, 1
        if region.images:
            n, p = tensors[0].shape[0], tensors[0].shape[2:].numel()
        kept = [self._ordered(t) if i < region.images else t.contiguous() for i, t in enumerate(tensors)]
        pointers = addresses(kept)
        if pointers is None:
            return self.aside(*args)
        own = {} if torch.is_grad_enabled() else dict(taken)
        results = tuple(
            kept[own[i]]
            if i in own
            else torch.empty_like(kept[0])
            if shape is None
            else kept[0].new_empty(shape)
            for i, shape in enumerate(self.shapes)
        )
        of_images, of_channels, of_results = self._pointers
        images = region.images + region.spreads
        self._function(kept[0].dtype)(
            of_images(*pointers[:images]),
            of_channels(*pointers[images:]),
            self._numbers(*args[self.tensors :]),
            of_results(*[result.data_ptr() for result in results]),
            n,
            self.channels,
            p,
            torch.get_num_threads(),
        )
        return results

    def aside(self, *args: Any) -> tuple[Tensor, ...]:
        """The region, operation by operation."""
        results: tuple[Tensor, ...] = self.plain(*args)
        return results

    def _ordered(self, image: Tensor) -> Tensor:
        if self.form == "planes" or image.dim() == 2:
            return image.contiguous()
        return image.contiguous(memory_format=torch.channels_last)

    def _function(self, dtype: torch.dtype) -> Any:
        found = self._functions.get(dtype)
        if found is None:
            found = self._functions[dtype] = loaded((self.region, self.form, NAMES[dtype]))
        return found
