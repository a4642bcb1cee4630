"""Matrix products, and sums of several, in C (`fuse=True`).

`products.c` has the products, `functions` calls them, `summing` puts them into a graph.
"""

from .functions import FUNCTIONS, product, product_into
from .summing import SumProducts

__all__ = ["FUNCTIONS", "SumProducts", "product", "product_into"]
