"""Floating-point operations stay within T2 of their float64 definition, in every mode, element type and size."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.cases import ALL_CASES, SIZES, Case
from tests.backends.onnx.execution import ORT, STANDARD, graph_of, model_of, run, session_of
from tests.backends.onnx.precision import check_op
from tests.backends.onnx.test_exact_lowerings import is_exact

from cgptc.backends.onnx.lowering import legal_ops, lower, lowering_of
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.ir.dtypes import f32, f64
from cgptc.ir.op import OPS, Array, result_arrays
from cgptc.ir.ops import attention, binary, elementwise, matmul
from cgptc.ir.ops.constant import Constant, DimSize, Iota

INEXACT = [case for case in ALL_CASES if not is_exact(case)]
WITHOUT_F64_KERNEL = (elementwise.Erf, binary.Atan2, matmul.Conv1d)


def has_kernels(case: Case) -> bool:
    exact_gelu = isinstance(case.op, elementwise.Gelu) and case.op.approximate == "none"
    return case.dtype != f64 or not (isinstance(case.op, WITHOUT_F64_KERNEL) or exact_gelu)


def takes(case: Case, sizes: dict[str, int], operands: list[Array | None], options: OnnxOptions) -> bool:
    """GroupQueryAttention refuses several new tokens of several rows with a past, which `OnnxSession.run` splits, and a row whose only
    token is padding has no stated result."""
    if options.ops != "ort" or not isinstance(case.op, attention.Attention) or len(case.types) <= 4:
        return True
    mask = operands[3]
    lone_padding = sizes["past"] + sizes["seq"] == 1 and mask is not None and mask.dtype == np.bool_ and not mask.all()
    return not lone_padding and (sizes["batch"] == 1 or sizes["seq"] == 1 or sizes["past"] == 0)


def reference(case: Case, sizes: dict[str, int], operands: list[Array | None]) -> tuple[Array, ...]:
    wide = [array.astype(np.float64) if array is not None and array.dtype.kind not in "iub" else array for array in operands]
    return result_arrays(case.op.bind(sizes).widened().evaluate(*wide))


def check_all_sizes(case: Case, options: OnnxOptions) -> None:
    session = session_of(model_of(graph_of(case.op, case.types), options))
    for sizes in SIZES:
        operands = case.operands(sizes)
        if not takes(case, sizes, operands, options):
            continue
        given = {f"x{i}": array for i, array in enumerate(operands) if array is not None}
        results = run(session, given)
        for index, (expected, actual) in enumerate(zip(reference(case, sizes, operands), results, strict=True)):
            if isinstance(case.op, attention.Attention) and index > 0:
                np.testing.assert_array_equal(actual.astype(np.float64), expected)
                continue
            check_op(case.op.bind(sizes), operands, expected, actual, f"{case} {sizes}")


@pytest.mark.parametrize("case", [case for case in INEXACT if has_kernels(case)], ids=str)
def test_lowering_for_onnxruntime_is_within_the_rounding_of_its_type(case: Case) -> None:
    check_all_sizes(case, ORT)


@pytest.mark.parametrize(
    "case",
    [case for case in INEXACT if has_kernels(case) and lowering_of(type(case.op), "ort") is not lowering_of(type(case.op), "standard")],
    ids=str,
)
def test_standard_lowering_is_within_the_rounding_of_its_type(case: Case) -> None:
    check_all_sizes(case, STANDARD)


@pytest.mark.parametrize(
    "case", [case for case in INEXACT if isinstance(case.op, (attention.Attention, attention.Rotary)) and case.dtype == f32], ids=str
)
def test_older_opset_has_attention_spelled_out(case: Case) -> None:
    check_all_sizes(case, OnnxOptions(ops="standard", opset=21))


@pytest.mark.parametrize("case", [case for case in INEXACT if case.dtype == f64 and not has_kernels(case)], ids=str)
def test_missing_f64_kernel_is_refused_by_name(case: Case) -> None:
    (refusal,) = lower(graph_of(case.op, case.types), ORT).refusals
    assert "no f64 kernel" in refusal.reason


@pytest.mark.parametrize("mode", ["standard", "ort"])
def test_every_lowering_is_tried(mode: str) -> None:
    tried = {type(case.op) for case in ALL_CASES} | {Constant, Iota, DimSize}
    assert legal_ops(mode) <= tried


def test_composites_without_a_form_are_not_legal() -> None:
    assert {op.name for op in set(OPS.values()) - legal_ops("ort")} >= {"cross_entropy", "mse_loss"}
