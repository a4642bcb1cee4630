"""Curvature from an exported file, with numpy, onnxruntime and scipy: no torch.

from bnrewrite import runtime
c = runtime.open("curvature.onnx", (x, y))
c.loss, c.grad(), c.hvp(v), c.eigs(k=5), c.trace()
"""

from .curvature import Curvature, QuadraticForm
from .curvature import open_curvature as open
from .density import Density
from .diagonal import Diagonal
from .eigen import Eigs
from .layers import LayerTraces
from .monitor import Stopped
from .operator import CurvatureOperator
from .session import Argument, Session
from .solve import Solution
from .study import Study, described, study
from .trace import Trace

__all__ = [
    "Argument",
    "Curvature",
    "CurvatureOperator",
    "Density",
    "Diagonal",
    "Eigs",
    "LayerTraces",
    "QuadraticForm",
    "Session",
    "Solution",
    "Stopped",
    "Study",
    "Trace",
    "described",
    "open",
    "study",
]
