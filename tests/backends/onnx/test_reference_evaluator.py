"""The standard mode means what the ONNX standard says: the reference evaluator, which shares no kernel with anyone, agrees in float64."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.cases import ALL_CASES, SIZES, Case
from tests.backends.onnx.execution import graph_of, model_of, run_reference
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx.options import OnnxOptions
from cgptc.ir.dtypes import f64
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array, result_arrays
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.elementwise import Erf, Gelu
from cgptc.testing.tolerances import NoiseFloor, assert_t1, assert_t3, largest_error, rmse

ANY = OnnxOptions(ops="standard", ep="any")
DEPTH = 10


def is_wide(case: Case) -> bool:
    """In float64 throughout. The evaluator's own erf is of f32."""
    exact_gelu = isinstance(case.op, Gelu) and case.op.approximate == "none"
    return all(type_ is None or not type_.dtype.is_float or type_.dtype == f64 for type_ in case.types) and not (
        isinstance(case.op, Erf) or exact_gelu
    )


def magnitude_of(operands: list[Array | None]) -> float:
    finite = [array[np.isfinite(array)] for array in operands if array is not None and array.dtype.kind == "f"]
    return max((float(np.abs(array).max(initial=0)) for array in finite), default=0.0)


@pytest.mark.parametrize("case", [case for case in ALL_CASES if is_wide(case)], ids=str)
def test_standard_lowering_means_the_same(case: Case) -> None:
    operands = case.operands(SIZES[0])
    given = {f"x{i}": array for i, array in enumerate(operands) if array is not None}
    expected = result_arrays(case.op.bind(SIZES[0]).evaluate(*operands))
    for wanted, got in zip(expected, run_reference(model_of(graph_of(case.op, case.types), ANY), given), strict=True):
        assert_t1(wanted, np.asarray(got), depth=DEPTH, magnitude=magnitude_of(operands), where=str(case))


@pytest.mark.parametrize("case", [case for case in ALL_CASES if is_wide(case) and isinstance(case.op, Attention)][:4], ids=str)
def test_older_opset_means_the_same(case: Case) -> None:
    operands = case.operands(SIZES[0])
    given = {f"x{i}": array for i, array in enumerate(operands) if array is not None}
    model = model_of(graph_of(case.op, case.types), OnnxOptions(ops="standard", ep="any", opset=21))
    for wanted, got in zip(result_arrays(case.op.bind(SIZES[0]).evaluate(*operands)), run_reference(model, given), strict=True):
        assert_t1(wanted, np.asarray(got), depth=DEPTH, magnitude=magnitude_of(operands), where=str(case))


def test_whole_model_means_the_same() -> None:
    graph = TinyGpt().graph()
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {"input_ids": rng.integers(0, 23, (2, 3)), "attention_mask": np.array([[1] * 5, [0] + [1] * 4])}
    for value in graph.inputs[2:]:
        inputs[value.name] = rng.standard_normal((2, 2, 2, 8), np.float32)
    expected = evaluate_graph(graph, inputs, wide=True)
    noise = evaluate_graph(graph, inputs)
    for (name, _), got in zip(graph.outputs, run_reference(model_of(graph, ANY), inputs), strict=True):
        floor = NoiseFloor(rmse(expected[name], noise[name]), largest_error(expected[name], noise[name]))
        assert_t3(expected[name], got, floor, where=name)
