"""Every hand-written rule against PyTorch's double backward of the same operation, one row a case."""

from __future__ import annotations

import pytest
import torch
from rule_cases import CASES
from rule_checks import check_adjointness, check_against_autograd, check_types
from rule_harness import Case
from rule_in_onnx import check_in_onnxruntime
from rule_tracing import check_tracing, has_batch
from supported import NO_ONNX_FORM, PAGE, first_cases, row

from bnrewrite.errors import CaptureError, InputError, UnsupportedOp
from bnrewrite.passes.rule import Context, run
from bnrewrite.rules.shape import Refused
from bnrewrite.rules.table import RULES

aten = torch.ops.aten

NAMES = [case.name for case in CASES]
REFUSED = [op for op, rule in RULES.items() if isinstance(rule, Refused)]
TRACED = [case for case in CASES if case.traced and has_batch(case)]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES), sorted(n for n in set(NAMES) if NAMES.count(n) > 1)


def test_every_rule_has_a_case() -> None:
    covered = {case.op for case in CASES} | set(REFUSED)
    assert not [str(op) for op in RULES if op not in covered]


def test_every_rule_is_traced_with_a_batch() -> None:
    covered = {case.op for case in TRACED} | set(REFUSED)
    assert not [str(op) for op in RULES if op not in covered]


@pytest.mark.parametrize("case", list(first_cases().values()), ids=lambda c: c.name)
def test_every_rule_has_an_onnx_form(case: Case) -> None:
    if case.op not in NO_ONNX_FORM:
        check_in_onnxruntime(RULES[case.op], case)
    assert row(case) in PAGE.read_text().splitlines(), (
        "docs/supported.md is old: run python tests/supported.py"
    )


def test_no_row_too_many_in_the_table_of_operations() -> None:
    listed = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(str(case.op) for case in first_cases().values())


@pytest.mark.parametrize("op", REFUSED, ids=str)
def test_refusal(op: torch._ops.OpOverload) -> None:
    with pytest.raises(UnsupportedOp, match=str(op)):
        RULES[op].value(Context(), torch.ones(3))


def test_dropout_in_training_is_refused() -> None:
    with pytest.raises(CaptureError, match="random numbers"):
        run(RULES[aten.native_dropout.default], [torch.ones(3), 0.5, True])


def test_gradient_scaled_by_frequency_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="scale_grad_by_freq"):
        run(RULES[aten.embedding.default], [torch.ones(3, 2), torch.tensor([1]), -1, True, False])


def test_statistics_of_a_normalization_are_refused() -> None:
    rule = RULES[aten.native_layer_norm.default]
    ctx = run(rule, [torch.randn(4, 3), [3], None, None, 1e-5])
    with pytest.raises(CaptureError, match=r"mean\(\)"):
        rule.adjoint(ctx, [None, torch.ones(4, 1), None], [True, False, False, False, False])


def test_class_weights_are_constants() -> None:
    rule = RULES[aten.cross_entropy_loss.default]
    ctx = run(rule, [torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.ones(3), 1, -100, 0.0])
    with pytest.raises(InputError, match="class weights"):
        rule.tangent(ctx, [None, None, torch.ones(3), None, None, None])


@pytest.mark.parametrize("label", [-1, 3])
def test_class_out_of_range_is_an_error(label: int) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        run(
            RULES[aten.cross_entropy_loss.default],
            [torch.randn(2, 3), torch.tensor([0, label]), None, 1, -100, 0.0],
        )


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_against_autograd(case: Case) -> None:
    check_against_autograd(RULES[case.op], case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_adjointness(case: Case) -> None:
    check_adjointness(RULES[case.op], case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_types(case: Case) -> None:
    check_types(RULES[case.op], case, torch.float32)


@pytest.mark.parametrize("case", TRACED, ids=[case.name for case in TRACED])
def test_trace_serves_another_batch(case: Case) -> None:
    check_tracing(RULES[case.op], case)
