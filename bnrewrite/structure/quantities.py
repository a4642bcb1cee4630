"""Which derivatives exist, and which shortcuts are valid, given the structure of model and loss.

Letters: R the sum or the mean over samples, D parameters, N samples, C numbers that the model gives for each; J_n is
the Jacobian of component F_n (C x D), S_n S_n^T = d^2 l / dF_n^2.

Source: F. Dangel, "Structural implications of batch normalization" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LossStructure = Literal["simd+reduction", "reduction", "none"]

NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Quantity:
    """Whether something exists (or a shortcut is valid), and why, in a sentence."""

    exists: bool
    why: str


def quantities(
    *,
    model_mixes: Sequence[str],
    loss_mixes: Sequence[str],
    structure: LossStructure,
    split: bool,
    cheap: bool,
    target_factor: bool,
) -> dict[str, Quantity]:
    """Every quantity by name. `split`: whether it is known where the model ends and the loss begins; `cheap`: whether
    nothing mixes samples between the parameters and the loss."""
    apart = structure == "simd+reduction"
    model = f"the model mixes samples, in {_listed(model_mixes)}"
    loss = _why_not(structure, loss_mixes)
    back = f"going back, the vectors of the samples mix in {_listed(model_mixes)}"
    yes_split = "G = J^T (d^2 L / dF^2) J needs no more than to know where F ends and the loss begins"
    no_split = (
        "the model returns the loss itself, so nothing says where F ends and the loss begins; pass the loss"
    )

    def of_samples(yes: str) -> Quantity:
        if not apart:
            return Quantity(False, _sentence(loss))
        return Quantity(False, _sentence(model)) if model_mixes else Quantity(True, _sentence(yes))

    def of_components(yes: str, no: str = "") -> Quantity:
        if not split:
            return Quantity(False, _sentence(no_split))
        return Quantity(apart, _sentence(yes if apart else loss + no))

    sums = "sum (or mean, as the loss reduces)"
    up_to = ", up to a factor that depends on all targets" if target_factor else ""
    return {
        "gradient": Quantity(True, "Always, and exactly: of the loss of the whole batch."),
        "hvp": Quantity(True, "Always, and exactly: H v of the loss of the whole batch."),
        "individual_losses": Quantity(
            structure != "none",
            _sentence(loss if structure == "none" else "the loss is a sum or a mean of N of them" + up_to),
        ),
        "per_sample_gradients": of_samples(
            f"gradient of l(f(x_n), y_n), of one sample only; their {sums} is the gradient{up_to}"
        ),
        "gradient_moments": of_samples(
            "each sample enters one of the per-sample gradients only, so their variance is one over samples"
        ),
        "per_component_gradients": of_components(
            f"J_n^T dl/dF_n; their {sums} is the gradient{up_to}"
            + ("; each depends on the whole batch, so higher moments are hard to interpret" if model_mixes else ""),
            "; J_n^T dL/dF_n still sum to the gradient, but are of no loss of component n",
        ),
        "batch_additivity": of_samples(
            "the loss of a batch is the sum or the mean over its parts"
            + (", if these are weighted by their own factors" if target_factor else "")
        ),
        "ggn": Quantity(split, _sentence(yes_split if split else no_split)),
        "per_sample_ggn": (
            of_samples("J_n^T (d^2 l / dF_n^2) J_n, each of one sample only")
            if split
            else Quantity(False, _sentence(no_split))
        ),
        "per_component_ggn": of_components(
            f"J_n^T (d^2 l / dF_n^2) J_n; their {sums} is G"
            + ("; each depends on the whole batch" if model_mixes else "")
        ),
        "ggn_diagonal": of_components(
            "by square roots: diag(G) = sum over n, c of (J^T s_nc)^2, with the columns s_nc of S_n"
            + ("" if cheap else "; each s_nc takes a pass of its own back through the whole batch")
        ),
        "one_pass_for_all_samples": (
            of_components("nothing mixes between parameters and loss, so vectors of all samples go back at once")
            if cheap
            else Quantity(False, _sentence(back if apart else loss))
        ),
        "ggn_low_rank": Quantity(
            split,
            _sentence(
                no_split
                if not split
                else "G has rank N C at most, and the spectrum of an N C x N C Gram matrix"
                + ("" if apart else "; but the Hessian of the loss is not one block for each sample")
            ),
        ),
    }  # fmt: skip


def _why_not(structure: LossStructure, mixes: Sequence[str]) -> str:
    if structure == "reduction":
        return f"an individual loss depends on several components, by {_listed(mixes)}"
    return f"the loss is no sum over samples{', by ' + _listed(mixes) if mixes else ''}"


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    rest = len(unique) - NAMED_AT_MOST
    return ", ".join(unique[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _sentence(text: str) -> str:
    """First letter in capitals, unless it is a formula."""
    head = text[0].upper() if text[:2].isalpha() or text.startswith("a ") else text[0]
    return f"{head}{text[1:]}."
