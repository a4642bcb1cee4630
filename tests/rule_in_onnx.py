"""Every phase of a rule as an ONNX graph: lowered at a symbolic batch, run by onnxruntime at another one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx_harness import feed
from rule_harness import OTHER_BATCH, Case, Draw, difference
from rule_tracing import all_phases, traced_phases

from bnrewrite.emit.onnx import lower
from bnrewrite.passes.graph import Input, JointGraph
from bnrewrite.passes.rule import Rule


def lowered(rule: Rule, case: Case) -> onnx.ModelProto:
    """The ONNX model of all phases of `rule` at the arguments of `case`; inputs `i0` (the carrier), `i1`, ..."""
    graph = traced_phases(rule, case).graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    inputs = [Input(f"i{i}", "input") for i in range(len(placeholders))]
    return lower(JointGraph(graph, inputs, [f"o{i}" for i in range(len(graph.output_node().args[0]))]))


def check_in_onnxruntime(rule: Rule, case: Case) -> None:
    """Value, tangent, adjoint and its tangent, in float64, as eager PyTorch computes them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(lowered(rule, case).SerializeToString(), options)
    other = Draw(1, batch=OTHER_BATCH)
    case.args(other)
    found = session.run(None, feed([other.carrier, *other.made]))
    expected = all_phases(rule, case, other.carrier, other.made)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        # Sums in another order, and special functions of another library: some roundings.
        difference(torch.from_numpy(np.asarray(a)), b, 1e-11, "onnxruntime")
