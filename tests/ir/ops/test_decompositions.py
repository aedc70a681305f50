"""Composite operations and what they are made of agree in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import boolean, f16, f32, i8, i64
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import OPS, Op, is_composite, result_arrays, result_types
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.testing.op_case import OpCase, Operand
from cgptc.testing.op_cases import op_cases
from cgptc.testing.tolerances import assert_t1

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

COMPOSITES = [op for op in OPS.values() if op.__module__.startswith("cgptc.") and is_composite(op)]

batch, seq, past = (Symbol(name, 0, 64).dim for name in ("batch", "seq", "past"))
total = past + seq


def decomposed(op: Op, types: tuple[TensorType | None, ...], sizes: TensorType | None = None) -> Graph:
    """A graph from the operands to the results of the decomposition. ``sizes`` is an input that nothing uses but for its shape."""
    graph = Graph()
    if sizes is not None:
        graph.add_input("sizes", sizes)
    operands = [graph.add_input(f"x{index}", type_) if type_ is not None else None for index, type_ in enumerate(types)]
    results = op.decompose(Builder(graph), *operands)
    assert results is not None
    for index, result in enumerate(results if isinstance(results, tuple) else (results,)):
        graph.add_output(f"y{index}", result)
    verify(graph)
    return graph


def check(case: OpCase, graph: Graph, sizes: tuple[int, ...] = ()) -> None:
    """Compare with the operation's own evaluation, everything in float64."""
    arrays = case.widened.arrays(seed=0)
    expected = result_arrays(case.widened.op.evaluate(*arrays))
    inputs = {f"x{index}": array for index, array in enumerate(arrays) if array is not None}
    if sizes:
        inputs["sizes"] = np.zeros(sizes)
    for one, other in zip(expected, evaluate_graph(graph, inputs, wide=True).values(), strict=True):
        assert_t1(one, other, depth=graph.node_count, where=f"{case}, decomposed")


@pytest.mark.parametrize("op", COMPOSITES, ids=lambda op: op.name)
@given(data=st.data())
@settings(max_examples=max(12, settings().max_examples // 8), deadline=None)
def test_a_decomposition_equals_its_operation(op: type[Op], data: st.DataObject) -> None:
    case = data.draw(op_cases(op))
    graph = decomposed(case.op, case.types)
    assert tuple(value.type for _, value in graph.outputs) == result_types(case.op.infer(*case.types))
    assert all(type(node.op) is not op for node in graph.nodes)
    check(case, graph)


def tensor(*shape: object) -> TensorType:
    return TensorType(f32, shape)  # type: ignore[arg-type]


PADDING = TensorType(boolean, (batch, total))
HEADS, KEYS, PAST = tensor(batch, 4, seq, 8), tensor(batch, 2, seq, 8), tensor(batch, 2, past, 8)
HIDDEN = tensor(batch, seq, 6)

SYMBOLIC: list[tuple[Op, tuple[TensorType | None, ...]]] = [
    (ops.Silu(), (HIDDEN,)),
    (ops.Softplus(), (HIDDEN,)),
    (ops.Gelu(), (HIDDEN,)),
    (ops.Gelu("tanh"), (HIDDEN,)),
    (ops.Softmax(2), (HIDDEN,)),
    (ops.LogSoftmax(2), (HIDDEN,)),
    (ops.Linear(), (HIDDEN, tensor(6, 5), tensor(5))),
    (ops.QuantizedLinear(4), (HIDDEN, TensorType(i8, (5, 6)), tensor(5, 2), tensor(5))),
    (ops.QuantizedLinear(4, "blocks"), (HIDDEN, TensorType(i8, (5, 6)), tensor(5, 2), tensor(5))),
    (ops.QuantizedLinear(0, "tensor"), (HIDDEN, TensorType(i8, (5, 6)), tensor(5, 1))),
    (ops.LayerNorm(), (HIDDEN, tensor(6), tensor(6))),
    (ops.RmsNorm(), (HIDDEN, tensor(6))),
    (ops.Attention(0.3, causal=True), (HEADS, HEADS, HEADS)),
    (ops.Attention(0.3, causal=True, window=2), (HEADS, KEYS, KEYS, PADDING, PAST, PAST)),
    (ops.Attention(0.3), (HEADS, KEYS, KEYS, tensor(1, 4, seq, total), PAST, PAST)),
    (ops.Attention(0.3), (HEADS, PAST, PAST)),
    (ops.Rotary(), (HEADS, tensor(1, seq, 3), tensor(1, seq, 3))),
    (ops.Rotary(interleaved=True), (HEADS, tensor(batch, seq, 3), tensor(batch, seq, 3))),
    (ops.Embedding(), (tensor(9, 6), TensorType(i64, (batch, seq)))),
    (ops.Positions(batch, seq, past), (PADDING,)),
    (ops.Positions(batch, seq, past), (None,)),
    (ops.CrossEntropy(label_smoothing=0.1), (tensor(seq, 7), TensorType(i64, (seq,)))),
    (ops.CrossEntropy("none", ignore_index=2), (tensor(seq, 7), TensorType(i64, (seq,)))),
    (ops.MseLoss(), (HIDDEN, HIDDEN)),
]


def test_every_composite_is_decomposed_with_symbols() -> None:
    assert {type(op) for op, _ in SYMBOLIC} == set(COMPOSITES)


@pytest.mark.parametrize(("op", "types"), SYMBOLIC, ids=lambda part: part.name if isinstance(part, Op) else "")
@pytest.mark.parametrize("sizes", [{"batch": 2, "seq": 3, "past": 4}, {"batch": 1, "seq": 1, "past": 0}], ids=["prefill", "first"])
def test_a_decomposition_with_symbols_holds_for_any_sizes(op: Op, types: tuple[TensorType | None, ...], sizes: dict[str, int]) -> None:
    graph = decomposed(op, types, tensor(batch, seq, past))
    assert tuple(value.type for _, value in graph.outputs) == result_types(op.infer(*types))
    operands = [
        Operand(type_.substitute(sizes), "index" if type_.dtype == i64 else "normal", limit=7, signed=False) if type_ is not None else None
        for type_ in types
    ]
    check(OpCase(op.bind(sizes), tuple(operands)), graph, tuple(sizes.values()))


def test_narrow_operands_are_normalised_and_attended_in_f32() -> None:
    narrow = TensorType(f16, (1, 2, 3, 4))
    for op, operands in ((ops.LayerNorm(), 1), (ops.RmsNorm(), 1), (ops.Softmax(3), 1), (ops.Attention(0.5, causal=True), 3)):
        graph = decomposed(op, (narrow,) * operands)
        arithmetic = [node for node in graph.nodes if not isinstance(node.op, ops.Cast | ops.Constant)]
        assert all(type_.dtype != f16 for node in arithmetic for type_ in node.operand_types if type_ is not None), op


def test_numbers_that_the_dtype_cannot_hold_stay_exact_in_float64() -> None:
    case = OpCase(ops.Gelu("tanh"), (Operand(TensorType(f16, (5,))),))
    check(case, decomposed(case.op, case.types))
