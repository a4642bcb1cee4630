"""What the tests of `bnrewrite.formulas` share: the bar, the measure of an error, and the report's test input."""

from __future__ import annotations

from typing import Any

import numpy as np

EXACT = 1e-12
"""Relative, over the whole tensor: a few hundred roundings on numbers of one size."""

APPENDIX_D = np.array([[0.00629718, 0.09731993], [0.08979499, 0.07512464], [0.06931812, 0.09813456]])
"""The report's own test input; gamma = 1, beta = 0, eps = 0 there."""


def error(found: Any, expected: Any) -> float:
    """Relative, over the whole tensor."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
