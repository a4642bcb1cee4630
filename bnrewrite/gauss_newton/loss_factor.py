"""The Hessian of a loss by its input, factorised: H_L = S diag(signs) S^T, each column of S within one component.

Common losses are sums over components: H_L is a block for each. Which entries of z form a block is not looked up, it
is tried, from the smallest blocks to one for all, and proven on a random vector r: H_L r = blocks r.

    elementwise     a block for each entry             MSE, BCE, Huber, ...
    positions       axis 1 at each position            cross entropy of (N, C) and (N, C, H, W)
    samples         all of a row                       any other sum over samples
    batch           everything                         losses that compare samples

Cross entropy has H_L = a (diag p - p p^T) for a component with p = softmax(z), whose Cholesky factor is known in closed
form, without cancellation (K. Tanabe, M. Sagae, J. R. Statist. Soc. B 54, 1992), with tails q_j = sum_(k > j) p_k:

    L_jj = sqrt(p_j q_j / q_(j-1))        L_ij = -p_i sqrt(p_j / (q_(j-1) q_j))  for i > j        j = 1 ... C - 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError, NumericalError
from ..rules.cross_entropy import MEAN, SUM, ClassTarget, ProbabilityTarget
from .pullback import Pullback

LARGEST_BLOCK = 1024
"""Entries of z that one block of the Hessian may have: it is formed by as many products and decomposed."""
PROOF = 1e-9
"""Relative difference between H_L r and blocks r. A wrong structure differs by about 1, rounding by about 1e-15."""
MOST_COLUMNS = 1 << 18
"""Columns of a factor, each a pass back through the batch."""
RANK = 1e-13
"""Eigenvalues of a block below this, relative to the largest, are rounding errors."""


@dataclass(frozen=True)
class LossFactor:
    """`index` (B, C): the places in flat z of the entries of each of B components; `columns` (B, C, R): S;
    `signs` (B, R): 1, -1, or 0 for a column that is zero. All in float64."""

    shape: torch.Size
    index: Tensor
    columns: Tensor
    signs: Tensor

    @property
    def used(self) -> Tensor:
        """(M, 2): component and number of every column that is not zero."""
        return self.signs.nonzero()

    def cotangents(self, used: Tensor) -> Tensor:
        """The columns `used` (M, 2) as cotangents (M, *z.shape)."""
        component, column = used.unbind(1)
        u = self.columns.new_zeros(len(used), self.shape.numel())
        u.scatter_(1, self.index[component], self.columns[component, :, column])
        return u.reshape(-1, *self.shape)

    def combined(self, weights: Tensor) -> Tensor:
        """S times coefficients (K, B, R): (K, *z.shape)."""
        u = self.columns.new_zeros(len(weights), self.shape.numel())
        values = torch.einsum("bcr,kbr->kbc", self.columns, weights)
        u.scatter_(1, self.index.reshape(1, -1).expand(len(weights), -1), values.flatten(1))
        return u.reshape(-1, *self.shape)


def loss_factor(pullback: Pullback) -> LossFactor:
    """The factor of the loss at the output. Raises `InputError` where blocks are too large or columns too many."""
    if is_cross_entropy(pullback):
        index, p, a = softmax_components(pullback)
        _check_count(p.shape[0] * (p.shape[1] - 1))
        columns = multinomial_factor(p) * a.abs().sqrt()[:, None, None]
        signs = torch.where(columns.abs().amax(1) > 0, a.sign()[:, None], 0.0)
        return LossFactor(pullback.output.shape, index, columns, signs)
    index, found = hessian_blocks(pullback)
    _check_count(index.numel())
    values, vectors = torch.linalg.eigh(found)
    least = RANK * values.abs().amax()
    signs = torch.where(values.abs() > least, values.sign(), 0.0)
    return LossFactor(pullback.output.shape, index, vectors * values.abs().sqrt()[:, None, :], signs)


def _check_count(count: int) -> None:
    if count > MOST_COLUMNS:
        raise InputError(
            f"the factor of the loss has {count:,} columns, and each takes a pass back through the batch: use "
            "ggn_diagonal with samples= for an estimate, the estimators of bnrewrite.runtime, or a smaller batch."
        )


# Cross entropy -----------------------------------------------------------------------------------------------------


def is_cross_entropy(pullback: Pullback) -> bool:
    """Whether the loss is PyTorch's own module, whose Hessian is known, on (N, C, ...)."""
    return type(pullback.criterion) is nn.CrossEntropyLoss and pullback.output.dim() > 1


def softmax_components(pullback: Pullback) -> tuple[Tensor, Tensor, Tensor]:
    """`index` (B, C), probabilities p (B, C), and the factor a (B,) of diag p - p p^T: one component a position."""
    z, target, criterion = pullback.output.double(), pullback.exact_target, pullback.criterion
    assert isinstance(criterion, nn.CrossEntropyLoss)
    kind = MEAN if criterion.reduction == "mean" else SUM
    w, smoothing = criterion.weight, criterion.label_smoothing
    w = None if w is None else w.to(z)
    q: ClassTarget | ProbabilityTarget
    if target.is_floating_point():
        q = ProbabilityTarget(z, target, w, kind, smoothing)
    else:
        q = ClassTarget(z, target, w, kind, criterion.ignore_index, smoothing)
    a = q.r * q.reduction.transpose(z.new_ones(()))
    p = torch.softmax(z, 1)
    return _at_positions(z), p.movedim(1, -1).reshape(-1, z.shape[1]), a.movedim(1, -1).reshape(-1)


def multinomial_factor(p: Tensor) -> Tensor:
    """L (B, C, C - 1) with L L^T = diag p - p p^T, for probabilities p (B, C)."""
    tail = p.flip(1).cumsum(1).flip(1)  # q_(j-1), p_j itself included
    before, after, head = tail[:, :-1], tail[:, 1:], p[:, :-1]
    ratio = torch.where(before > 0, head / before, 0.0).sqrt()
    below = torch.where(after > 0, ratio / after.sqrt(), 0.0)
    lower = -p[:, :, None] * below[:, None, :]
    return torch.diagonal_scatter(lower.tril(-1), ratio * after.sqrt(), dim1=1, dim2=2)


# Any loss ----------------------------------------------------------------------------------------------------------


def hessian_blocks(pullback: Pullback) -> tuple[Tensor, Tensor]:
    """`index` (B, C), and the blocks (B, C, C) of the loss's Hessian."""
    z = pullback.output
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z.device)
    image = pullback.loss_hessian(r).flatten()
    if not bool(image.isfinite().all()):
        raise NumericalError("the Hessian of the loss is NaN or infinite at the output of this batch.")
    for index in _layouts(z):
        if index.shape[1] > LARGEST_BLOCK:
            break
        blocks = _blocks(pullback.loss_hessian, z, index)
        found = torch.zeros_like(image)
        found[index] = (blocks @ r.flatten()[index][:, :, None])[:, :, 0]
        if (found - image).norm() <= PROOF * image.norm():
            return index, (blocks + blocks.mT) / 2
    raise InputError(
        f"the Hessian of this loss on an output of shape {list(z.shape)} falls into no blocks of at most "
        f"{LARGEST_BLOCK} entries, so it is not factorised here: use G v itself (products='ggn', and the estimators of "
        "bnrewrite.runtime), a smaller batch, or nn.CrossEntropyLoss for a cross entropy."
    )


def _layouts(z: Tensor) -> Iterator[Tensor]:
    """Which entries of z may form blocks, from the smallest on."""
    places = torch.arange(z.numel(), device=z.device)
    sizes = [1]
    yield places.reshape(-1, 1)
    candidates = [places.reshape(1, -1)]
    if z.dim() > 1:
        candidates = [_at_positions(z), places.reshape(len(z), -1), *candidates]
    for index in candidates:
        if index.shape[1] > sizes[-1]:
            sizes.append(index.shape[1])
            yield index


def _at_positions(z: Tensor) -> Tensor:
    """(B, C): the places of the entries along axis 1 of z (N, C, ...), at each of the B other positions."""
    places = torch.arange(z.numel(), device=z.device).reshape(z.shape)
    return places.movedim(1, -1).reshape(-1, z.shape[1])


def _blocks(product: Callable[[Tensor], Tensor], z: Tensor, index: Tensor) -> Tensor:
    """The blocks (B, C, C) from C products, each with one entry of every component."""
    columns = []
    for entry in index.T:
        u = torch.zeros(z.numel(), dtype=torch.float64, device=z.device)
        u[entry] = 1.0
        columns.append(product(u.reshape(z.shape)).flatten()[index])
    return torch.stack(columns, dim=2)
