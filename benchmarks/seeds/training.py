"""Training by SGD with momentum, with the weights at chosen epochs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .networks import BATCH_NORMS, Data

BATCH = 64
MOMENTUM = 0.9
RATE = 0.05


def checkpoints(
    model: nn.Module, data: Data, epochs: Sequence[int], seed: int, rate: float = RATE
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Train `model` in place and yield its state after each of `epochs` (ascending; 0 is before the first step).

    BatchNorm in training mode; nothing else of the models here has two modes.
    """
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), rate, MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        module.training = isinstance(module, BATCH_NORMS)
    done = 0
    for epoch in epochs:
        for _ in range(done, epoch):
            for batch in torch.randperm(len(x), generator=generator).split(BATCH):
                if len(batch) == BATCH:
                    optimizer.zero_grad()
                    cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
        done = epoch
        yield epoch, copy.deepcopy(model.state_dict())
