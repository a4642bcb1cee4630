"""Commands that run an exported file over data: curvature, sensitivity, landscape. PyTorch is not needed."""

from .curvature import curvature
from .landscape import landscape
from .sensitivity import sensitivity

RUNNING = (curvature, sensitivity, landscape)
