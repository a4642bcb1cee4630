"""Random cotangents u of the output with E[u u^T] = H_L, so that E[(J^T u)(J^T u)^T] = G.

Where the loss is minus the log-likelihood of a distribution of targets, drawn from the model's own predictions:

    cross entropy    y_n ~ p_n           u_n = sqrt(a_n) (p_n - e_(y_n))
    BCE              y ~ Bernoulli(s)    u   = sqrt(d / (s (1 - s))) (s - y)        s = sigmoid(z), d = diag H_L
    MSE              y ~ N(z, 1)         u   = sqrt(d) (z - y)

and random signs on the columns of the factor for any other. Parts of u of different components are independent and of
mean zero, so one u serves the whole batch: mixed terms vanish on average. (BackPACK's DiagGGNMC draws likewise, and
pulls each sample back on its own, which samples that a BatchNorm mixes do not allow.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError
from .loss_factor import hessian_blocks, is_cross_entropy, loss_factor, softmax_components
from .pullback import Pullback

Draw = Callable[[int], Tensor]
"""count -> that many cotangents, (count, *z.shape)."""


def sampler(pullback: Pullback, seed: int) -> Draw:
    """Raises `InputError` where the loss's Hessian has a negative eigenvalue."""
    generator = torch.Generator(pullback.output.device).manual_seed(seed)
    if is_cross_entropy(pullback):
        return _classes(pullback, generator)
    if type(pullback.criterion) in (nn.BCEWithLogitsLoss, nn.MSELoss):
        return _elements(pullback, generator)
    factor = loss_factor(pullback)
    _check_positive(factor.signs)

    def draw(count: int) -> Tensor:
        signs = torch.randint(
            0, 2, (count, *factor.signs.shape), generator=generator, device=factor.signs.device
        )
        return factor.combined((2.0 * signs - 1.0).to(factor.columns) * factor.signs)

    return draw


def _classes(pullback: Pullback, generator: torch.Generator) -> Draw:
    index, p, a = softmax_components(pullback)
    _check_positive(a)

    def draw(count: int) -> Tensor:
        y = torch.multinomial(p, count, replacement=True, generator=generator)
        u = p.repeat(count, 1, 1).scatter_add_(2, y.T[:, :, None], -torch.ones_like(y.T)[:, :, None].to(p))
        flat = torch.zeros(count, pullback.output.numel(), dtype=p.dtype, device=p.device)
        flat.scatter_(1, index.reshape(1, -1).expand(count, -1), (a.sqrt()[None, :, None] * u).flatten(1))
        return flat.reshape(count, *pullback.output.shape)

    return draw


def _elements(pullback: Pullback, generator: torch.Generator) -> Draw:
    z = pullback.output.double()
    d = hessian_blocks(pullback)[1].reshape(z.shape)
    _check_positive(d)
    if isinstance(pullback.criterion, nn.MSELoss):
        return lambda count: (
            d.sqrt() * torch.randn((count, *z.shape), generator=generator, dtype=d.dtype, device=d.device)
        )
    s, rest = torch.sigmoid(z), torch.sigmoid(-z)
    scale = torch.where(s * rest > 0, d / (s * rest), 0.0).sqrt()

    def draw(count: int) -> Tensor:
        y = torch.bernoulli(s.expand(count, *z.shape), generator=generator)
        return scale * torch.where(y > 0, -rest, s)

    return draw


def _check_positive(values: Tensor) -> None:
    if bool((values < 0).any()):
        raise InputError(
            "the loss's Hessian has negative eigenvalues, so it is no covariance to draw from: leave out samples= for "
            "the exact diagonal."
        )
