"""What the split into model and loss gives: derivatives of single components, the Gauss-Newton matrix, dense blocks."""

from .dense import dense_block
from .diagonal import ggn_diagonal
from .gradients import per_component_gradients, per_sample_gradients
from .spectrum import Spectrum, ggn_spectrum

__all__ = [
    "Spectrum",
    "dense_block",
    "ggn_diagonal",
    "ggn_spectrum",
    "per_component_gradients",
    "per_sample_gradients",
]
