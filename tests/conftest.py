"""One thread a worker: parallel runs do not fight for cores."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"

from collections.abc import Iterator
from typing import Any

import onnxruntime
import pytest
import torch


class OneThread(onnxruntime.InferenceSession):
    """A session whose threads do not spin while the other worker computes."""

    def __init__(self, source: Any, sess_options: Any = None, *args: Any, **keywords: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        super().__init__(source, options, *args, **keywords)


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    onnxruntime.InferenceSession = OneThread


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads of PyTorch's, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def only_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on PyTorch's operations, and has a function in C, is an error."""
    from bnrewrite.emit import products, winograd

    def refuse(*_: Any) -> None:
        raise AssertionError("PyTorch's operations ran")

    for package in (products, winograd):
        monkeypatch.setattr(package.functions, "_sum", refuse)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden texts in tests/golden")


LONG = ("test_networks.py", "test_random_networks.py", "test_lint.py", "test_docs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: at the end no worker waits for one that the other has just begun."""
    items.sort(key=lambda item: item.path.name not in LONG)
