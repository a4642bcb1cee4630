"""docs/supported.md from the rule table, the lowerings and the tests: `python tests/supported.py` writes it.

The tests compare every row with what they find.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from rule_cases import CASES
from rule_harness import Case, Draw
from rule_tracing import has_batch, symbolic, symbolic_mode
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx

from bnrewrite.emit.onnx import lower
from bnrewrite.emit.onnx_ops import LOWERINGS
from bnrewrite.passes.graph import Input, JointGraph
from bnrewrite.passes.rule import Bilinear, Linear, Masked, Pointwise, Rule, run
from bnrewrite.rules.shape import Refused
from bnrewrite.rules.table import RULES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "supported.md"

KINDS: dict[type[Rule], str] = {
    Linear: "linear",
    Bilinear: "bilinear",
    Pointwise: "element by element",
    Masked: "piecewise linear",
}

NO_ONNX_FORM = (torch.ops.aten.linalg_inv.default, torch.ops.aten.linalg_det.default)
"""The standard has no inverse of a matrix; exporting these is refused with a sentence."""

HEAD = """# Supported operations

Written by `python tests/supported.py` from the rule table, the ONNX lowerings and the tests; the tests compare.

`transform` takes any network that `torch.export` can turn into ATen operations. An operation of the first table has a
rule written by hand: value, tangent, adjoint and the adjoint's tangent, tested against PyTorch's double backward of the
same operation in float64, and run through onnxruntime in all its phases at a batch size that it was not traced with.
For any other differentiable operation the rule is derived from PyTorch's own double backward of that one operation.

[derivation.md](derivation.md) has the formulas of BatchNorm.

- *rule*: what kind of function it is, or the class that holds its formulas.
- *rows*: rows of the rule's tests (shapes, options, kinks).
- *ONNX*: the operators that its value becomes, at the first of these rows. Operators without a lowering of their own
  are decomposed by PyTorch first.
"""


def first_cases() -> dict[torch._ops.OpOverload, Case]:
    """The first row of every operation that is traced with a batch."""
    return {case.op: case for case in reversed(CASES) if case.traced and has_batch(case)}


def kind(rule: Rule) -> str:
    return KINDS.get(type(rule), f"`{type(rule).__name__}`")


@cache
def operators(case: Case) -> tuple[str, ...]:
    """Types of the ONNX nodes that the operation's value becomes, each once, in their order."""
    example = Draw(0)
    case.args(example)
    fakes = [symbolic(t) for t in (example.carrier, *example.made)]

    def value(carrier: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
        y = run(RULES[case.op], case.args(Draw(carrier=carrier, given=list(tensors)))).y
        return [t for t in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(t, torch.Tensor)]

    with symbolic_mode(), enable_python_dispatcher(), torch.no_grad():
        graph = make_fx(value)(*fakes).graph
    inputs = [Input(f"i{i}", "input") for i in range(len(fakes))]
    outputs = [f"o{i}" for i in range(len(graph.output_node().args[0]))]
    model = lower(JointGraph(graph, inputs, outputs))
    return tuple(dict.fromkeys(node.op_type for node in model.graph.node if node.op_type != "Identity"))


def row(case: Case) -> str:
    rows = Counter(c.op for c in CASES)[case.op]
    shown = "none" if case.op in NO_ONNX_FORM else ", ".join(operators(case)) or "nothing is computed"
    return f"| `{case.op}` | {kind(RULES[case.op])} | {rows} | {shown} |"


def page() -> str:
    cases = first_cases()
    lines = [HEAD, "| operation | rule | rows | ONNX |", "|---|---|---|---|"]
    lines += [row(cases[op]) for op in sorted(RULES, key=str) if op in cases]
    lines += ["", "## Refused", "", "With a sentence that says what to write instead:", ""]
    lines += [
        f"- `{op}`"
        for op, rule in sorted(RULES.items(), key=lambda e: str(e[0]))
        if isinstance(rule, Refused)
    ]
    others = sorted(str(op) for op in LOWERINGS if isinstance(op, torch._ops.OpOverload) and op not in RULES)
    lines += [
        "",
        "## ONNX lowerings of other operations",
        "",
        "What rules and decompositions are made of:",
        "",
    ]
    lines += [", ".join(f"`{name}`" for name in others), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}: {len(first_cases())} operations\n")
