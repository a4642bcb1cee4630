"""Tracing a function of fake tensors into an FX graph, batch axis symbolic. The one file that knows torch's private
dispatch switches; a test guards it.

A compilation traces a thousand small functions. `record` writes down what reaches the dispatcher and nothing else, in
a third of the time of `make_fx`; sizes are written down when an operation asks for one. Where a size cannot be told
from the sizes of the tensors at hand, `make_fx` traces again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

Symbol = (torch.SymInt, torch.SymFloat, torch.SymBool)


def record(function: Callable[..., Sequence[Any]], values: Sequence[Any]) -> fx.Graph:
    """The graph of `function(*values)`: placeholders for `values` (FakeTensors of an exported program, or symbolic
    sizes), one output node with the list of results. Every node carries its fake value in `meta["val"]`."""
    recorder = _Recorder(values)
    try:
        with _dispatching(values), recorder:
            results = function(*values)
        recorder.graph.output([recorder.node_of(leaf) for leaf in results])
        return recorder.graph
    except _UnknownSize:
        return trace(function, values)


def trace(function: Callable[..., Any], values: Sequence[Any]) -> fx.Graph:
    """The same by `make_fx`, which follows the arithmetic of sizes itself and keeps tensors that `function` makes as
    attributes of the graph's module; the output node holds the results as they are nested."""
    with _dispatching(values):
        return make_fx(function)(*values).graph


@contextmanager
def _dispatching(values: Sequence[Any]) -> Iterator[None]:
    """The Python dispatcher makes composite operations ask for symbolic sizes instead of concrete ones."""
    fake_mode = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None)
    with fake_mode or nullcontext(), enable_python_dispatcher(), torch.no_grad():
        yield


class _UnknownSize(Exception):
    """A size that is no expression of the sizes of the tensors at hand."""


class _Recorder(TorchDispatchMode):
    """Writes every operation that runs inside it into `graph`."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._node: dict[int, fx.Node] = {}  # of a tensor, by identity
        self._kept: list[Tensor] = []  # an identity holds as long as its tensor lives
        # Of an expression of sizes: the axis of a tensor to ask, or a node.
        self._size: dict[Any, tuple[fx.Node, int] | fx.Node] = {}
        for i, value in enumerate(values):
            node = self.graph.placeholder(f"a{i}")
            node.meta["val"] = value
            self._learn(node, value)

    def _learn(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            self._node[id(value)] = node
            self._kept.append(value)
            for axis, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    self._size.setdefault(size.node.expr, (node, axis))
        elif isinstance(value, Symbol):
            self._size.setdefault(value.node.expr, node)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        recorded = pytree.tree_map(self.node_of, (tuple(args), kwargs))
        node = self._call(func, recorded[0], recorded[1], result)
        if isinstance(result, (list, tuple)):
            for i, entry in enumerate(result):
                if isinstance(entry, Tensor):
                    self._learn(self._call(operator.getitem, (node, i), {}, entry), entry)
        else:
            self._learn(node, result)
        return result

    def _call(self, target: Any, args: Any, kwargs: Any, val: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = val
        return node

    def node_of(self, leaf: Any) -> Any:
        """The node of a tensor or a symbolic size; any other value is itself."""
        if isinstance(leaf, Tensor):
            if id(leaf) not in self._node:
                # Not a TypeError, which an operator would take for "try the other operand".
                raise RuntimeError(
                    "a rule keeps a tensor where it cannot be found: keep it in a passes.rule.State."
                )
            return self._node[id(leaf)]
        if not isinstance(leaf, Symbol):
            return leaf
        return self._size_node(leaf.node.expr)

    def _size_node(self, expression: Any) -> Any:
        """The node of an expression of sizes, written down where none stands for it yet; a number is itself."""
        if expression.is_number:
            return _number(expression)
        found = self._size.get(expression)
        if isinstance(found, fx.Node):
            return found
        if found is not None:
            tensor, axis = found
            size = tensor.meta["val"].shape[axis]
            node = self._call(torch.ops.aten.sym_size.int, (tensor, axis), {}, size)
        else:
            arithmetic = _ARITHMETIC.get(type(expression).__name__)
            if arithmetic is None:
                raise _UnknownSize(expression)
            node, *others = [self._size_node(part) for part in expression.args]
            for other in others or [None]:
                args = (node,) if other is None else (node, other)
                values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
                node = self._call(arithmetic, args, {}, arithmetic(*values))
        self._size[expression] = node
        return node


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "IntTrueDiv": operator.truediv,
    "FloatTrueDiv": operator.truediv,
    "ToFloat": torch.sym_float,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}
"""What computes an expression of SymPy or torch from its parts, by the name of its class."""


def _number(expression: Any) -> int | float:
    """A constant in an expression of sizes."""
    if expression.is_integer:
        return int(expression)
    if expression.is_Float:
        return float(expression)
    raise _UnknownSize(expression)  # a fraction: sizes are integers at every step


def undecomposed() -> AbstractContextManager[None]:
    """Inside it an operation is recorded as itself, also where PyTorch decomposes it in Python on the way to autograd
    (interpolation: hundreds of index operations, on the device of the tracing)."""
    return torch._C._AutoDispatchBelowAutograd()
