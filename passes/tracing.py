"""Tracing a function of fake tensors into an FX graph, batch axis symbolic. The one file that knows torch's private
dispatch switch; a test guards it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx


def trace(function: Callable[..., Any], values: Sequence[Any]) -> fx.Graph:
    """The graph of `function(*values)`, where `values` are the FakeTensors of an exported program.

    The Python dispatcher makes composite operations ask for symbolic sizes instead of concrete ones.
    """
    fake_mode = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None)
    with fake_mode or nullcontext(), enable_python_dispatcher(), torch.no_grad():
        return make_fx(function)(*values).graph


def undecomposed() -> AbstractContextManager[None]:
    """Inside it an operation is recorded as itself, also where PyTorch decomposes it in Python on the way to autograd
    (interpolation: hundreds of index operations, on the device of the tracing)."""
    return torch._C._AutoDispatchBelowAutograd()
