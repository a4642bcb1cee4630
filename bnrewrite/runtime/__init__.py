"""Curvature from an exported file, with numpy, onnxruntime and scipy: no torch.

from bnrewrite import runtime
c = runtime.open("curvature.onnx", (x, y))
c.loss, c.grad(), c.hvp(v), c.eigs(k=1)
"""

from .curvature import Curvature
from .curvature import open_curvature as open
from .eigen import Eigs
from .operator import CurvatureOperator
from .session import Argument, Session

__all__ = ["Argument", "Curvature", "CurvatureOperator", "Eigs", "Session", "open"]
