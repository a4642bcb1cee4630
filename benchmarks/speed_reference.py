"""Whether a product is right: errors against double backward in float64, and the bar they are held to.

A ReLU or a maximum that tips over in float32 moves H v by more than rounding does. So a method is wrong only beyond
`LEAST_BAR` and beyond `MARGIN` times the error of PyTorch's own double backward in the same precision, its worst over
the batch and copies of it that are changed by one rounding (as `bnrewrite verify` has it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bnrewrite.verification.example import rounded_copies
from bnrewrite.verification.oracle import Oracle

from .speed_baselines import BASELINES
from .speed_cases import Case, Parts, Point

LEAST_BAR, MARGIN = 1e-3, 3.0

_PLAIN = {"gradient": "gradient", "hvp": "double_backward", "ggn": "double_backward_ggn"}


def relative(found: Mapping[str, Any], expected: Parts) -> float:
    """|found - expected| / |expected| over all parts together."""
    difference = sum(
        float((torch.as_tensor(found[name]).double() - part).square().sum())
        for name, part in expected.items()
    )
    return float((difference / sum(float(part.square().sum()) for part in expected.values())) ** 0.5)


class Reference:
    """What the products of one point are; those of the first and of the last direction are looked at."""

    def __init__(self, case: Case, point: Point, products: Sequence[str]) -> None:
        exact = case.point(len(point.vectors), torch.float64)
        self._looked_at = sorted({0, len(point.vectors) - 1})
        directions = [exact.vectors[i] for i in self._looked_at]
        oracle = Oracle(exact.model, "cross_entropy", {}, list(directions[0]), torch.float64)
        wanted = [product for product in products if product != "gradient"]
        found = oracle.evaluate(exact.x, exact.y, directions, wanted)
        self._expected = {"gradient": [found.grad], **found.products}
        self.bars = {product: self._bar(product, point) for product in products}

    def _bar(self, product: str, point: Point) -> float:
        errors = []
        for copy in rounded_copies({"input": point.x.numpy()}):
            plain = BASELINES[_PLAIN[product]].prepare(replace(point, x=torch.from_numpy(copy["input"])))
            errors.append(relative(plain.products(plain.call())[0], self._expected[product][0]))
        return max(LEAST_BAR, MARGIN * max(errors))

    def error(self, product: str, found: Sequence[Mapping[str, Any]]) -> float:
        """The largest relative error of `found`: of one direction, or of all of a block."""
        expected = self._expected[product]
        pairs = [(0, 0)] if len(found) == 1 else list(enumerate(self._looked_at))
        return max(relative(found[i], expected[place]) for place, i in pairs)
