"""Windows that slide over an image: what convolution, pooling and unfolding have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import fx

from .table import is_static, shape, unsupported


@dataclass(frozen=True)
class Geometry:
    """A window sliding over an image: everything static about a convolution or pooling.

    `image` is the large side (a convolution's input, a transposed convolution's output) with `channels`, `out` the
    small side with `filters`; a weight is [filters, channels / groups, *kernel] either way.
    """

    image: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channels: int = 1
    filters: int = 1
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.image)

    @property
    def taps(self) -> int:
        """Pixels of one window."""
        return prod(self.kernel)

    @property
    def positions(self) -> int:
        """Number of windows."""
        return prod(self.out)

    @property
    def rows(self) -> int:
        """Rows of the columns of one group, which are the columns of its weight."""
        return self.channels // self.groups * self.taps

    @property
    def spread(self) -> tuple[int, ...]:
        """Distance from the first to the last tap of one window: d (k - 1)."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))

    @property
    def reach(self) -> tuple[int, ...]:
        """Extent of the padded image that the windows cover: s (out - 1) + d (k - 1) + 1."""
        return tuple(s * (o - 1) + e + 1 for s, o, e in zip(self.stride, self.out, self.spread, strict=True))

    @property
    def end_padding(self) -> tuple[int, ...]:
        """What the image lacks at its end to cover the last window; negative where windows leave a rest."""
        return tuple(r - n - p for r, n, p in zip(self.reach, self.image, self.padding, strict=True))

    @property
    def is_divisible(self) -> bool:
        """Whether `out` equal windows can tile the image."""
        return all(n % m == 0 for n, m in zip(self.image, self.out, strict=True))

    def tiles(self) -> Geometry:
        """The same with the windows that tile the image."""
        kernel = tuple(n // m for n, m in zip(self.image, self.out, strict=True))
        return replace(
            self, kernel=kernel, stride=kernel, padding=(0,) * self.rank, dilation=(1,) * self.rank
        )


def window(
    node: fx.Node,
    image: torch.Tensor,
    out: torch.Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
) -> Geometry:
    """The geometry of a pooling of `image` to `out`.

    The digit in the operation's name says how many of the last axes a window covers. Settings come as PyTorch takes
    them: one number for all axes or one for each; no stride means the kernel.
    """
    axes = next(int(c) for c in str(node.target) if c.isdigit())
    large, small = shape(image)[-axes:], shape(out)[-axes:]
    if not all(is_static(d) for d in (*large, *small)):
        raise unsupported(node, "It needs static image sizes; only the batch may be symbolic.")
    return Geometry(
        image=tuple(large),
        out=tuple(small),
        kernel=each_axis(kernel, axes),
        stride=each_axis(stride or kernel, axes),
        padding=each_axis(padding, axes),
        dilation=each_axis(dilation, axes),
    )


def each_axis(setting: Any, axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    sizes = [setting] if isinstance(setting, int) else list(setting)
    return tuple(sizes * axes if len(sizes) == 1 else sizes)
