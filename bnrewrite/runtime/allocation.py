"""A bit width for every layer within a budget of bytes: the integer program of HAWQ-V2.

Minimise the sum of the layers' scores over one width for each, where the weights take no more than the budget (Dong et
al. 2020 read it off the Pareto frontier; Yao et al. 2021, "HAWQ-V3: Dyadic Neural Network Quantization", state it as
an integer linear program). HiGHS solves it through `scipy.optimize.milp`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ..errors import InputError, NumericalError
from .plain import plain
from .vectors import listed

_SCALE = 1e6
"""The largest cost as HiGHS sees it. It drops what changes the total by less than 1e-6, so 1e-12 of that cost."""


@dataclass(frozen=True)
class Assignment:
    """The width of every layer, in bits; `score`: the sum of the sizes of the chosen scores.

    `bytes`: what the quantized weights take, without the scales of their channels; `budget_bytes`: what they may. Both
    count in bits, so they may end in eighths.
    """

    bits: dict[str, int]
    score: float
    bytes: float
    budget_bytes: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return plain(asdict(self))


def assign(
    scores: Mapping[str, Mapping[int, float]],
    sizes: Mapping[str, int],
    *,
    mean_bits: float | None = None,
    budget_bytes: float | None = None,
) -> Assignment:
    """The widths of least total score within a budget.

    Parameters
    ----------
    scores : by layer, then by width in bits: what that width costs (`quantization.scores`). A negative score counts
        with its size: on negative curvature the loss changes too, and nothing says to the better.
    sizes : the number of weights of every layer.
    mean_bits, budget_bytes : the budget, one of the two: bits for a weight on average, or bytes for all weights.

    A layer gets no wider width than its score asks for: one that costs the same at two widths gets the smaller.
    Raises InputError for a budget that no assignment meets; it says which would do.
    """
    layers = [_options(name, scores[name], sizes) for name in scores]
    if not layers:
        raise InputError("there are no layers to assign bits to.")
    weights = sum(sizes[name] for name in scores)
    budget = _budget(mean_bits, budget_bytes, weights)
    least = sum(layer[0].size for layer in layers)
    if least > budget:
        raise InputError(
            f"the budget of {float(budget / 8):g} bytes ({float(budget / weights):.4g} bits a weight) is too small: "
            f"with the smallest width everywhere the weights take {least / 8:g} bytes ({least / weights:.4g} bits a "
            f"weight). Raise the budget or allow smaller widths."
        )
    chosen = _solve(layers, math.floor(budget))
    return Assignment(
        bits={name: option.bits for name, option in zip(scores, chosen, strict=True)},
        score=math.fsum(option.cost for option in chosen),
        bytes=sum(option.size for option in chosen) / 8,
        budget_bytes=float(budget / 8),
    )


class _Option(NamedTuple):
    """A width of a layer: the bits that all its weights take, and the size of its score."""

    bits: int
    size: int
    cost: float


def _options(name: str, scores: Mapping[int, float], sizes: Mapping[str, int]) -> list[_Option]:
    """The widths worth choosing, from small to large: each costs less than all that are smaller."""
    size = sizes.get(name)
    if size is None:
        raise InputError(f"there is no size for the layer {listed([name])}.")
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"the size of '{name}' must be a number of weights, at least 1, not {size!r}.")
    if not scores:
        raise InputError(f"there is no score for '{name}' at any width.")
    kept: list[_Option] = []
    for bits in sorted(scores):
        cost = abs(float(scores[bits]))
        if bits < 1 or not math.isfinite(cost):
            raise InputError(f"the score of '{name}' at {bits} bits is {scores[bits]}.")
        if not kept or cost < kept[-1].cost:
            kept.append(_Option(int(bits), int(bits) * int(size), cost))
    return kept


def _budget(mean_bits: float | None, budget_bytes: float | None, weights: int) -> Fraction:
    """The budget in bits, exactly as it is written: 4.1 bits of 1000 weights are 4100 bits."""
    if (mean_bits is None) == (budget_bytes is None):
        raise InputError("give the budget as mean_bits or as budget_bytes, one of the two.")
    given, unit = (budget_bytes, 8) if mean_bits is None else (mean_bits, weights)
    try:
        budget = Fraction(str(given)) * unit
    except ValueError:
        budget = Fraction(0)
    if budget <= 0:
        raise InputError(f"the budget must be a number above 0, not {given!r}.")
    return budget


# The integer program ---------------------------------------------------------------------------------------------


def _solve(layers: list[list[_Option]], budget: int) -> list[_Option]:
    """The options of least cost within `budget` bits, one for each layer.

    HiGHS works with tolerances, so what it returns is counted in whole bits: an assignment that is too large by less
    than they allow is asked for again with that much less room.
    """
    room = budget
    while True:
        chosen = _optimum(layers, room)
        surplus = sum(option.size for option in chosen) - budget
        if surplus <= 0:
            return chosen
        room -= surplus


def _optimum(layers: list[list[_Option]], room: int) -> list[_Option]:
    variables = [(index, option) for index, layer in enumerate(layers) for option in layer]
    owners = np.array([index for index, _ in variables])
    # Over the cheapest width of its layer, and the size over the smallest: what a choice can change.
    extra = np.array([option.cost - layers[index][-1].cost for index, option in variables])
    growth = np.array([option.size - layers[index][0].size for index, option in variables], np.float64)
    free = room - sum(layer[0].size for layer in layers)
    if free <= 0:
        return [layer[0] for layer in layers]
    unit = growth.max() or 1.0
    one_each = csr_array((np.ones(len(owners)), (owners, np.arange(len(owners)))))
    with _silenced():
        found = milp(
            extra * (_SCALE / (extra.max() or 1.0)),
            integrality=np.ones(len(owners)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(csr_array([growth / unit]), -np.inf, free / unit),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if found.x is None:
        raise NumericalError(f"the assignment of bits was not solved: {found.message}")
    best: dict[int, tuple[float, _Option]] = {}
    for (index, option), value in zip(variables, found.x, strict=True):
        if index not in best or value > best[index][0]:
            best[index] = (value, option)
    return [best[index][1] for index in range(len(layers))]


@contextmanager
def _silenced() -> Iterator[None]:
    """Nothing on the process's stdout: HiGHS prints there what it was debugged with, whatever its options say."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
