"""Random operations and graphs mean the same on onnxruntime, in float64, as in the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.onnx.execution import ORT, STANDARD, graph_of, model_of, session_of, without_four_bits

from cgptc.backends.onnx.backend import BACKEND
from cgptc.backends.onnx.lowering import legal_ops
from cgptc.ir.builder import Builder
from cgptc.ir.comparison import graph_depth
from cgptc.ir.dtypes import DType, boolean, f32, f64, i4, u8
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import OPS, Array, Op, result_arrays
from cgptc.ir.ops import binary, elementwise, matmul
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.shape import Expand
from cgptc.ir.types import TensorType
from cgptc.passes.legalise import decompose_until_legal
from cgptc.testing.graph_strategies import graphs
from cgptc.testing.input_data import random_inputs
from cgptc.testing.op_cases import op_cases
from cgptc.testing.preservation import assert_lowering_preserves
from cgptc.testing.tolerances import assert_t1

WITHOUT_F64_KERNEL = {elementwise.Erf, elementwise.Gelu, binary.Atan2, matmul.Conv1d}
LEGAL = legal_ops("standard")
OPERATIONS = [op for op in OPS.values() if op in LEGAL and op not in {Constant, Iota, DimSize}]


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op not in WITHOUT_F64_KERNEL], ids=lambda op: op.name)
@settings(max_examples=max(10, settings.default.max_examples // 10))  # of each of eighty operations
@given(data=st.data())
def test_any_case_of_an_operation_means_the_same(op: type[Op], data: st.DataObject) -> None:
    case = data.draw(op_cases(op)).widened
    operands = case.arrays(data.draw(st.integers(0, 99)))
    assert_means_the_same(case.op, case.types, operands, inside=data.draw(st.booleans()))


NOTHING = [((1,), (0,)), ((1, 3), (0, 3)), ((1, 1), (0, 3)), ((3, 1), (3, 0)), ((0, 1), (0, 5)), ((1,), (0, 1)), ((1,), (2, 0))]


@pytest.mark.parametrize("dtype", [f64, u8, i4, boolean], ids=str)
@pytest.mark.parametrize(("old", "new"), NOTHING)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_what_is_expanded_to_nothing_is_empty(old: tuple[int, ...], new: tuple[int, ...], dtype: DType, inside: bool) -> None:
    """Between other nodes onnxruntime takes an Expand to a constant 0 for one to 1."""
    assert_means_the_same(Expand(new), (TensorType(dtype, old),), (np.ones(old, dtype.numpy),), inside)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
@pytest.mark.parametrize(("a", "b"), [((1, 2, 3), (0, 3, 2)), ((0, 2, 3), (1, 3, 2)), ((1, 1, 2, 3), (0, 4, 3, 2))])
def test_a_product_over_no_batch_is_empty(a: tuple[int, ...], b: tuple[int, ...], inside: bool) -> None:
    assert_means_the_same(matmul.MatMul(), (TensorType(f64, a), TensorType(f64, b)), (np.ones(a), np.ones(b)), inside)


@pytest.mark.parametrize("op", [binary.Mul(), binary.Div()], ids=str)
@pytest.mark.parametrize("number", [(), (1,), (1, 1)])
@pytest.mark.parametrize(("a", "before"), [((1, 3), False), ((2, 3), False), ((2, 2, 3), False), ((2, 3), True)])
def test_a_number_beside_a_product_keeps_its_precision(op: Op, number: tuple[int, ...], a: tuple[int, ...], before: bool) -> None:
    """onnxruntime folds it into the product, rounded to f32."""
    graph = Graph()
    build = Builder(graph)
    x, w = (graph.add_input(name, TensorType(f64, shape)) for name, shape in (("x", a), ("w", (3, 2))))
    factor = build.constant(np.full(number, 0.3))
    product = build(matmul.MatMul(), build(op, x, factor) if before else x, w)
    graph.add_output("y", product if before else build(op, product, factor))
    assert_lowering_preserves(BACKEND, graph)


def assert_means_the_same(op: Op, types: Sequence[TensorType | None], operands: Sequence[Array | None], inside: bool) -> None:
    session = session_of(model_of(graph_of(op, types, inside), STANDARD))
    results = session.run({f"x{i}": without_four_bits(array) for i, array in enumerate(operands) if array is not None})
    with np.errstate(all="ignore"):
        expected = result_arrays(op.evaluate(*operands))
    where = f"{op}({', '.join(map(str, types))})"
    for wanted, got in zip(expected, results.values(), strict=True):
        assert_t1(without_four_bits(wanted), got, depth=8, magnitude=magnitude_of(type(op), operands, wanted), where=where)


def magnitude_of(op: type[Op], operands: Sequence[Array | None], result: Array) -> float:
    """Terms that meet may each be as large as a product of operands; a tangent is as steep as its square."""
    largest = 1.0
    if op is elementwise.Tan:
        return 1 + float(np.max(np.square(result), initial=0))
    for array in operands:
        if array is not None and array.dtype.kind == "f":
            largest *= max(1.0, float(np.max(np.abs(array), initial=0, where=np.isfinite(array))))
    return largest * max((max(array.shape, default=1) for array in operands if array is not None), default=1)


@settings(max_examples=max(1, settings.default.max_examples // 5))  # each is run three times
@given(graphs(stable=True, floats=(f32,)), st.integers(0, 99))
def test_any_f32_graph_means_the_same_with_onnxruntimes_own_operators(graph: Graph, seed: int) -> None:
    assert_lowering_preserves(BACKEND, graph, options=ORT, seed=seed)


@given(graphs(ops=[op for op in OPS.values() if op not in WITHOUT_F64_KERNEL], stable=True, floats=(f64,)), st.integers(0, 99))
def test_any_graph_means_the_same(graph: Graph, seed: int) -> None:
    inputs = random_inputs(graph, seed=seed)
    largest = 0.0

    def measure(value: Value, array: Array) -> None:
        nonlocal largest
        if value.type.dtype.is_float:
            largest = max(largest, float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))))

    expected = evaluate_graph(graph, inputs, on_value=measure)
    depth = graph_depth(graph)
    decompose_until_legal(graph, LEGAL)
    results = session_of(model_of(graph, STANDARD)).run(inputs)
    for name, wanted in expected.items():
        assert_t1(wanted, results[name], depth=depth, magnitude=largest, where=name)
