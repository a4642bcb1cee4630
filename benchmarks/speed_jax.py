"""The same network in JAX: jit of jvp of grad, on the operations that `torch.export` finds in it.

The operations of the networks in `speed_cases` are translated one by one, in PyTorch's (N, C, H, W) layout; XLA chooses
its own. Compiling is not part of the time of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from .speed_baselines import without_statistics
from .speed_cases import Point
from .speed_method import Prepared, Stages, one

aten = torch.ops.aten
Array = Any


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _conv2d(
    x: Array, w: Array, b: Array = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Array:
    y = lax.conv_general_dilated(
        x, w, _pair(stride), [(p, p) for p in _pair(padding)], rhs_dilation=_pair(dilation),
        feature_group_count=groups, dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )  # fmt: skip
    return y if b is None else y + b[:, None, None]


def _batch_norm(x: Array, gamma: Array, beta: Array, *rest: Any) -> Array:
    eps = rest[-2]
    axes = tuple(i for i in range(x.ndim) if i != 1)
    shape = [1, -1] + [1] * (x.ndim - 2)
    centred = x - x.mean(axes, keepdims=True)
    x_hat = centred * lax.rsqrt((centred * centred).mean(axes, keepdims=True) + eps)
    return x_hat * gamma.reshape(shape) + beta.reshape(shape)


def _windows(x: Array, kernel: Any, stride: Any, padding: Any, start: float, step: Any) -> Array:
    strides = _pair(kernel if stride in (None, []) else stride)
    pads = [(0, 0), (0, 0), *((p, p) for p in _pair(padding))]
    return lax.reduce_window(x, start, step, (1, 1, *_pair(kernel)), (1, 1, *strides), pads)


def _max_pool2d(x: Array, kernel: Any, stride: Any = None, padding: Any = 0) -> Array:
    return _windows(x, kernel, stride, padding, -jnp.inf, lax.max)


def _avg_pool2d(x: Array, kernel: Any, stride: Any = None) -> Array:
    height, width = _pair(kernel)
    return _windows(x, kernel, stride, 0, 0.0, lax.add) / (height * width)


def _shares(size: int, out: int) -> np.ndarray:
    """(out, size): what each output of an adaptive average takes of each input."""
    shares = np.zeros((out, size), np.float32)
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        shares[i, start:stop] = 1 / (stop - start)
    return shares


def _adaptive_avg_pool2d(x: Array, out: Any) -> Array:
    height, width = _pair(out)
    return jnp.einsum("nchw,yh,xw->ncyx", x, _shares(x.shape[2], height), _shares(x.shape[3], width))


def _linear(x: Array, w: Array, b: Array = None) -> Array:
    return x @ w.T if b is None else x @ w.T + b


def _flatten(x: Array, start: int = 0, stop: int = -1) -> Array:
    last = stop % x.ndim
    return x.reshape((*x.shape[:start], -1, *x.shape[last + 1 :]))


def _slice(x: Array, dim: int = 0, start: Any = None, stop: Any = None, step: int = 1) -> Array:
    index: list[Any] = [slice(None)] * x.ndim
    index[dim] = slice(start, stop, step)
    return x[tuple(index)]


def _pad(x: Array, widths: Any, mode: str = "constant", value: Any = None) -> Array:
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs)


OPS: dict[Any, Callable[..., Array]] = {
    aten.conv2d.default: _conv2d,
    aten.batch_norm.default: _batch_norm,
    aten.linear.default: _linear,
    aten.max_pool2d.default: _max_pool2d,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.relu.default: jax.nn.relu,
    aten.relu_.default: jax.nn.relu,
    aten.hardtanh.default: jnp.clip,
    aten.hardtanh_.default: jnp.clip,
    aten.relu6.default: jax.nn.relu6,
    aten.relu6_.default: jax.nn.relu6,
    aten.silu.default: jax.nn.silu,
    aten.silu_.default: jax.nn.silu,
    aten.sigmoid.default: jax.nn.sigmoid,
    aten.add.Tensor: jnp.add,
    aten.add_.Tensor: jnp.add,
    aten.mul.Tensor: jnp.multiply,
    aten.mean.dim: lambda x, axes, keepdim=False: x.mean(tuple(axes), keepdims=keepdim),
    aten.cat.default: lambda parts, dim=0: jnp.concatenate(parts, dim),
    aten.slice.Tensor: _slice,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: lambda x, widths, value=0: _pad(x, widths),
    aten.flatten.using_ints: _flatten,
    aten.view.default: jnp.reshape,
    aten.reshape.default: jnp.reshape,
    aten.dropout.default: lambda x, p, train: x,
}


def translated(point: Point) -> Callable[[Mapping[str, Array], Array], Array]:
    """The network as a function of parameters by name and input; raises KeyError for an operation not in OPS."""
    exported = torch.export.export(without_statistics(point.model), (point.x,))
    nodes = list(exported.graph.nodes)
    parameters = exported.graph_signature.inputs_to_parameters
    for node in nodes:
        if node.op == "call_function" and node.target not in OPS:
            raise KeyError(f"{node.target} has no translation to JAX here")

    def run(p: Mapping[str, Array], x: Array) -> Array:
        values: dict[Any, Any] = {}
        for node in nodes:
            if node.op == "placeholder":
                values[node] = p[parameters[node.name]] if node.name in parameters else x
            elif node.op == "call_function":
                args = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = OPS[node.target](*args[0], **args[1])
            elif node.op == "output":
                return values[node.args[0][0]]
        raise AssertionError("a graph without output")

    return run


def forward_over_reverse(point: Point) -> Prepared:
    """jit of (gradient, H v) by jvp of grad."""
    stages = Stages()
    network = translated(point)
    x, y = jnp.asarray(point.x.numpy()), jnp.asarray(point.y.numpy())
    p = {name: jnp.asarray(part.detach().numpy()) for name, part in point.model.named_parameters()}
    v = {name: jnp.asarray(part.numpy()) for name, part in point.vectors[0].items()}

    def loss(parameters: Mapping[str, Array]) -> Array:
        scores = jax.nn.log_softmax(network(parameters, x))
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    with stages.step("jit"):
        compiled = jax.jit(lambda p, v: jax.jvp(jax.grad(loss), (p,), (v,))).lower(p, v).compile()
    return Prepared(
        lambda: jax.block_until_ready(compiled(p, v)),
        lambda found: one({name: np.array(part) for name, part in found[1].items()}),
        stages.seconds,
    )
