"""How much each layer minds being quantized: HAWQ-V2 scores for several bit widths, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .allocation import Assignment, assign
from .diagonal import Diagonal
from .layers import LayerTraces
from .plain import plain
from .pruning import Pruning, prune
from .quantization import scores, squared_error
from .session import Array


@dataclass(frozen=True)
class Sensitivity:
    """Of every weight tensor: the average trace of its block, the squared error of quantizing it, and their product.

    `errors` and `scores`: by name, then by width in bits. `traces` holds all parameters, the others by name only those
    with two axes or more: biases and the parameters of BatchNorm stay as they are.
    """

    traces: LayerTraces
    shapes: dict[str, tuple[int, ...]]
    errors: dict[str, dict[int, float]]
    scores: dict[str, dict[int, float]]

    @property
    def complete(self) -> bool:
        return self.traces.complete

    def ranked(self, bits: int) -> list[str]:
        """Names by score at a width, the most sensitive first."""
        if any(bits not in found for found in self.scores.values()):
            raise InputError(f"there are no scores for {bits} bits: ask for them with bits=(..., {bits}).")
        return sorted(self.scores, key=lambda name: -abs(self.scores[name][bits]))

    def assign(self, *, mean_bits: float | None = None, budget_bytes: float | None = None) -> Assignment:
        """The widths of least total score within a budget, given as bits for a weight on average or as bytes."""
        sizes = {name: self.traces.sizes[name] for name in self.scores}
        return assign(self.scores, sizes, mean_bits=mean_bits, budget_bytes=budget_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: one row for each weight tensor."""
        rows = [
            {
                "name": name,
                "shape": self.shapes[name],
                "size": self.traces.sizes[name],
                "trace": self.traces.traces[name],
                "standard_error": self.traces.standard_errors[name],
                "mean": self.traces.means[name],
                "errors": self.errors[name],
                "scores": found,
            }
            for name, found in self.scores.items()
        ]
        widths = list(next(iter(self.scores.values())))
        return plain(
            {"bits": widths, "products": self.traces.products, "complete": self.complete, "layers": rows}
        )

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: average trace {self.traces.means[name]:.3g}, "
            + ", ".join(f"{score:.3g} at {width} bits" for width, score in found.items())
            for name, found in self.scores.items()
        )


def sensitivity(weights: Mapping[str, Array], traces: LayerTraces, bits: Sequence[int]) -> Sensitivity:
    """Scores of `weights` (those of two axes or more) at every width; InputError for a wrong width, or no weights."""
    chosen = {name: w for name, w in weights.items() if w.ndim > 1}
    if not chosen:
        raise InputError(
            "the file has no weights of two axes or more among its parameters: nothing to quantize."
        )
    if isinstance(bits, (str, int)) or not len(bits):
        raise InputError(f"bits must be several widths, such as (2, 4, 8), not {bits!r}.")
    widths = sorted(set(bits))
    errors = {name: {width: squared_error(w, width) for width in widths} for name, w in chosen.items()}
    return Sensitivity(
        traces,
        {name: w.shape for name, w in chosen.items()},
        errors,
        scores({name: traces.means[name] for name in chosen}, chosen, widths),
    )


def pruned(
    saliencies: Mapping[str, Array], fraction: float, diagonal: Diagonal
) -> tuple[Pruning, dict[str, Any]]:
    """What `prune` finds, and its record for JSON; `diagonal` is what the saliencies were made from."""
    found = prune(saliencies, fraction)
    record = found.as_dict()
    for row in record["layers"]:
        row["mean_score"] = float(saliencies[row["name"]].mean())
    about = {key: getattr(diagonal, key) for key in ("method", "products", "relative_error", "complete")}
    return found, record | plain(about)
