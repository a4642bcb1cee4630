"""Writes a joint graph as one ONNX model of standard operators, with the names of the contract and a batch axis `N`.

Every call of the FX graph is looked up in the table of lowerings (`onnx_ops`); what nobody reads is dropped, before and
after. Nodes are named after the module they belong to and the quantity they compute (`layer1.0.conv1.x_bar_dot`); those
of a spliced site say so in their `metadata_props`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import onnx
import torch
from onnx import helper
from torch import fx

from .. import __version__
from ..errors import BnrewriteError, InputError
from ..passes.graph import Input, JointGraph
from .builder import Builder, Flag, Real, Size
from .decompose import decompose_unsupported
from .onnx_check import check
from .onnx_file import ONE_FILE_BYTES, save
from .onnx_names import Names
from .onnx_ops import LOWERINGS, lower_node
from .onnx_ops.table import is_static, location, onnx_dtype, shape, val

__all__ = ["OPSETS", "lower", "save"]

OPSETS = range(17, 22)
# Nodes have metadata_props from this version of the format on; it goes with every opset above.
_IR_VERSION = 10
_SYMBOL_KINDS = {torch.SymInt: Size, torch.SymFloat: Real, torch.SymBool: Flag}


def lower(
    joint: JointGraph,
    *,
    opset: int = 18,
    params: Literal["initializers", "inputs"] = "initializers",
    metadata: dict[str, str] | None = None,
    batch_name: str = "N",
) -> onnx.ModelProto:
    """The joint graph as an ONNX model, checked.

    Inputs are named as `joint.inputs` names them, outputs exactly as `joint.outputs`. Parameters are initializers under
    their own names, or inputs with `params="inputs"`; buffers and constants are always initializers. Inputs that the
    graph does not read stay inputs (the contract fixes them); tensors of the model that it does not read are left out.
    `metadata` goes into the model's `metadata_props`. Raises `UnsupportedOp` for an operation without a lowering.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported; choose one from {OPSETS[0]} to {OPSETS[-1]}.")
    if params not in ("initializers", "inputs"):
        raise InputError(f'params must be "initializers" or "inputs", not {params!r}.')
    joint = decompose_unsupported(joint, LOWERINGS)
    live = _live(joint.graph)
    b = Builder(opset)
    symbols = _batch_symbol(joint, batch_name)

    names = Names(joint.graph)
    env: dict[fx.Node, Any] = {}
    graph_inputs = _bind_placeholders(b, joint, env, live, params, symbols)
    for node in joint.graph.nodes:
        if node in live and node.op in ("call_function", "get_attr"):
            with b.scope(names.prefix(node), names.metadata(node)):
                env[node] = _lower(b, joint.graph, node, env)
            _declare_sizes(b, node, env[node])

    returned = _returned(joint)
    nodes = _name_outputs(b, joint.outputs, [env[node] for node in returned], names.of_values(b, env))
    graph_outputs = [
        _value_info(n, val(node), symbols) for n, node in zip(joint.outputs, returned, strict=True)
    ]
    nodes, initializers = _drop_unread(nodes, b.initializers, joint.outputs)
    b.initializers.clear()
    graph = helper.make_graph(nodes, "curvature", graph_inputs, graph_outputs)
    model = helper.make_model(
        graph,
        producer_name="bnrewrite",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
        doc_string=_describe(joint),
    )
    helper.set_model_props(model, metadata or {})
    while initializers:  # weights may be large: each is copied once and let go
        model.graph.initializer.append(initializers.pop(0))
    check(model)
    return model


def _describe(joint: JointGraph) -> str:
    kinds = list(dict.fromkeys(name.split(".")[0] for name in joint.outputs))
    return f"Computes {', '.join(kinds)} in one graph of standard operators."


# --- nodes -----------------------------------------------------------------------------------------------------------


def _live(graph: fx.Graph) -> set[fx.Node]:
    """What the output depends on; checks of the traced program and their arguments fall away here."""
    live: set[fx.Node] = set()
    todo = [node for node in graph.nodes if node.op == "output"]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    return live


def _lower(b: Builder, graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return _attribute(b, graph, node)
    value = val(node)
    if isinstance(value, (int, float, bool)):
        return value
    if isinstance(value, tuple(_SYMBOL_KINDS)):
        known = b.symbol(str(value))
        return known if known is not None else lower_node(b, node, env)
    return lower_node(b, node, env)


def _attribute(b: Builder, graph: fx.Graph, node: fx.Node) -> str:
    """A tensor that the graph's module holds (a constant that tracing met)."""
    owner: Any = graph.owning_module
    for part in str(node.target).split("."):
        owner = getattr(owner, part, None)
    if not isinstance(owner, torch.Tensor):
        raise BnrewriteError(
            f"the graph reads {node.target}, which is no tensor of its module ({location(node)})."
        )
    name = b.unique(str(node.target))
    b.initializers.append(tensor_proto(name, owner))
    return name


def _declare_sizes(b: Builder, node: fx.Node, lowered: Any) -> None:
    """Remember which symbolic sizes the result of `node` makes known."""
    value = val(node)
    if isinstance(lowered, (Size, Real, Flag)):
        b.declare(str(value), lowered)
    elif isinstance(lowered, str) and isinstance(value, torch.Tensor):
        for i, d in enumerate(shape(value)):
            if not is_static(d):
                b.declare(str(d), (lowered, i))


# --- inputs ----------------------------------------------------------------------------------------------------------


def _bind_placeholders(
    b: Builder,
    joint: JointGraph,
    env: dict[fx.Node, Any],
    live: set[fx.Node],
    params: str,
    symbols: dict[str, str],
) -> list[onnx.ValueInfoProto]:
    """Give every placeholder its contract name; returns the graph's inputs, fills `env` and the initializers."""
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    graph_inputs = []
    names = [entry.name for entry in joint.inputs] + list(joint.outputs)
    for name in names:
        if b.unique(name) != name:
            raise InputError(
                f"two inputs, parameters or outputs of the ONNX file would be called {name!r}; rename one."
            )
    for node, entry in zip(placeholders, joint.inputs, strict=True):
        env[node] = entry.name
        if _is_input(entry, params):
            graph_inputs.append(_value_info(entry.name, val(node), symbols))
        elif node in live:
            if entry.tensor is None:
                raise BnrewriteError(
                    f"the {entry.kind} {entry.name!r} has no tensor to store in the ONNX file."
                )
            b.initializers.append(tensor_proto(entry.name, entry.tensor))
        _declare_sizes(b, node, entry.name)
    return graph_inputs


def _is_input(entry: Input, params: str) -> bool:
    return not entry.owned or (entry.kind == "parameter" and params == "inputs")


def tensor_proto(name: str, tensor: torch.Tensor) -> onnx.TensorProto:
    """A tensor as an initializer (raw little-endian bytes)."""
    array = tensor.detach().cpu().contiguous()
    if array.nbytes > ONE_FILE_BYTES:
        raise InputError(
            f"{name} takes {array.nbytes / 1e9:.1f} GB; a single tensor of an ONNX file may take 2 GB."
        )
    proto = onnx.TensorProto(name=name, data_type=onnx_dtype(array), dims=list(array.shape))
    proto.raw_data = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return proto


def _batch_symbol(joint: JointGraph, batch_name: str) -> dict[str, str]:
    """{symbol of the batch axis: its name in the file}: the first symbolic axis of the first input that has one."""
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    for kinds in (("input",), ("target",), ("vector",)):
        for node, entry in zip(placeholders, joint.inputs, strict=True):
            symbolic = [str(d) for d in shape(val(node)) if not is_static(d)] if entry.kind in kinds else []
            symbolic = [text for text in symbolic if text.isidentifier()]  # not an expression of it
            if symbolic:
                return {symbolic[0]: batch_name}
    return {}


def _value_info(name: str, value: torch.Tensor, symbols: dict[str, str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_dtype(value), [_dim(d, symbols) for d in shape(value)])


def _dim(d: Any, symbols: dict[str, str]) -> int | str | None:
    """A dimension for the file: a number, the name of a symbol, nothing for an expression of symbols."""
    if is_static(d):
        return int(d)
    text = str(d)
    return symbols.get(text, text if text.isidentifier() else None)


# --- outputs ---------------------------------------------------------------------------------------------------------


def _returned(joint: JointGraph) -> list[fx.Node]:
    output = next(node for node in joint.graph.nodes if node.op == "output")
    values = output.args[0]
    returned = list(values) if isinstance(values, (list, tuple)) else [values]
    if len(returned) != len(joint.outputs) or not all(isinstance(v, fx.Node) for v in returned):
        raise BnrewriteError(
            f"the graph returns {len(returned)} values for {len(joint.outputs)} outputs, or one that is no tensor."
        )
    return returned


def _name_outputs(
    b: Builder, outputs: Sequence[str], values: Sequence[str], inner: dict[str, str]
) -> list[onnx.NodeProto]:
    """Give values their final names: those of the outputs, and `inner` for others.

    An Identity stands only where an output is an input or a constant, or is returned twice.
    """
    final: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for name, value in zip(outputs, values, strict=True):
        if value in final or b.producer(value) is None:
            copies.append((value, name))
        else:
            final[value] = name
    final = inner | final
    for node in b.nodes:
        for field in (node.input, node.output):
            for i, x in enumerate(field):
                if x in final:
                    field[i] = final[x]
    identities = [
        helper.make_node("Identity", [final.get(value, value)], [name], name=b.unique(f"{name}.Identity"))
        for value, name in copies
    ]
    return b.nodes + identities


def _drop_unread(
    nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Without the nodes and initializers that no output depends on."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1], [tensor for tensor in initializers if tensor.name in needed]
