"""Real data that needs no download: the 1,797 handwritten digits of 8x8 pixels that scikit-learn ships.

Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI machine learning repository.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

TEST_FRACTION = 0.2


def digits(
    split: str = "train", *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The digits as images (N, 1, 8, 8) of `dtype` and labels (N,) int64 in 0..9, in shuffled order.

    `split` is "train" (four fifths of each class) or "test" (the rest). `seed` fixes the split and the order.
    Pixels are standardised with the one mean and the one standard deviation of all training pixels of that
    seed.

    Raises InputError (a ValueError) for another split, ImportError where scikit-learn is missing.
    """
    if split not in ("train", "test"):
        raise InputError(f'split must be "train" or "test", not {split!r}')
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install bnrewrite[demo]"
        ) from error

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float64).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = stratified_split(labels, TEST_FRACTION, seed)

    mean, std = images[train].mean(), images[train].std(correction=0)
    chosen = train if split == "train" else test
    return ((images[chosen] - mean) / std).to(dtype), labels[chosen]


def stratified_split(labels: Tensor, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Shuffled indices (train, test) into `labels`; `test_fraction` of each class, rounded, goes to test."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    is_test = torch.zeros(len(labels), dtype=torch.bool)  # by position in `order`
    for label in labels.unique():
        (positions,) = torch.where(labels[order] == label)
        is_test[positions[: round(test_fraction * len(positions))]] = True
    return order[~is_test], order[is_test]
