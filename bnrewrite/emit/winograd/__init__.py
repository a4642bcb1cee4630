"""Convolutions of filters of 3 x 3 with stride one by Winograd's minimal filtering, in C (`fuse=True`).

They take 4 / 9 of the products, which pays where the channels are last in memory and not few (docs/performance.md).
`winograd.c` has the mathematics, `functions.py` what a graph calls, `tiling.py` the pass that puts them there.
"""

from .functions import FUNCTIONS, data, value, weight, weight_into
from .tiling import TileConvolutions, are_filters, is_tiled

__all__ = [
    "FUNCTIONS",
    "TileConvolutions",
    "are_filters",
    "data",
    "is_tiled",
    "value",
    "weight",
    "weight_into",
]
