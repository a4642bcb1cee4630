"""Operations that move, repeat or drop elements: they are run on the owners themselves."""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from .spans import Call, Operand, Span, words


def moved(call: Call) -> list[Span]:
    """The operation on owners; what it fills in (padding, the other triangle) is free, which is zero.

    An index or a mask must be free and keeps its value.
    """
    kept = [call[name] for name in ("index", "indices", "mask") if name in call]
    indices = {id(leaf) for leaf in pytree.tree_leaves(kept)}
    changed = {"value": 0.0} if "value" in call and not isinstance(call["value"], Operand) else {}
    found = call.run(lambda operand: operand.value if id(operand) in indices else operand.owner, **changed)
    return [Span.of(owner) for owner in found]


def strided(call: Call) -> list[Span]:
    """`as_strided` reads the memory of its operand, so the owners are laid out as the values are."""
    value = call["self"].value
    owner = torch.empty_strided(value.shape, value.stride(), dtype=torch.float32, device=value.device)
    owner.copy_(call["self"].owner)
    return [Span.of(found) for found in call.run(lambda _: owner)]


RULES = dict.fromkeys(
    words(
        "view _unsafe_view reshape permute transpose t T mT movedim swapaxes expand expand_as broadcast_to "
        "squeeze unsqueeze flatten unflatten select slice narrow split split_with_sizes chunk tensor_split unbind "
        "unfold diagonal detach alias cat concat stack hstack vstack flip fliplr flipud roll rot90 repeat tile "
        "repeat_interleave meshgrid broadcast_tensors constant_pad_nd reflection_pad1d reflection_pad2d "
        "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular pad pixel_shuffle "
        "pixel_unshuffle channel_shuffle im2col tril triu diag_embed diagonal_copy select_scatter slice_scatter "
        "diagonal_scatter atleast_1d atleast_2d atleast_3d squeeze_copy view_copy "
        "expand_copy permute_copy slice_copy select_copy split_copy"
    ),
    moved,
) | {"as_strided": strided}
