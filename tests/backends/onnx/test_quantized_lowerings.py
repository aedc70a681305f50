"""onnxruntime multiplies the very integers that the IR means: integers bitwise, scales within the rounding of f32 (TQ)."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, STANDARD, model_of, run, run_reference, session_of
from tests.backends.onnx.precision import check_op

from cgptc.backends.onnx.lowerings.quantized import Packed
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.quantised_weights import QuantisationScales, Quantised
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, dense
from cgptc.testing import assert_t0

ROWS = Symbol("batch", 1, 8).dim
FORMS = [
    (4, 16, "blocks", "MatMulNBits"),
    (4, 32, "blocks", "MatMulNBits"),
    (8, 32, "blocks", "MatMulNBits"),
    (4, 32, "exact", "MatMulNBits"),
    (7, 0, "tensor", "MatMulIntegerToFloat"),
    (8, 0, "exact", "MatMul"),
    (8, 3, "blocks", "MatMul"),
]


def linear(weight: Array, bits: int, block: int, activations: str) -> Graph:
    store = MemoryStore({})
    graph = Graph("quantised", store)
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (ROWS, weight.shape[1])))
    stored, bias = store.add("w", weight), store.add("b", np.arange(len(weight), dtype=np.float32))
    integers, scales = build.weight(Quantised(stored, bits, block)), build.weight(QuantisationScales(stored, bits, block))
    graph.add_output("y", build(QuantizedLinear(block, activations), x, integers, scales, build.weight(bias)))
    return graph


@pytest.mark.parametrize("width", [64, 40])
@pytest.mark.parametrize("options", [ORT, STANDARD], ids=["ort", "standard"])
@pytest.mark.parametrize(("bits", "block", "activations", "kernel"), FORMS)
def test_onnxruntime_multiplies_the_same_integers(
    bits: int, block: int, activations: str, kernel: str, options: OnnxOptions, width: int
) -> None:
    """Operands that are their own integers, at scales of powers of two: no rounding is left, and nothing may differ."""
    rng = np.random.default_rng(bits + block)
    most = 2 ** (bits - 1)
    weight = rng.integers(-most + 1, most, (24, width)).astype(np.float32)
    x = rng.integers(-127, 128, (3, width)).astype(np.float32)
    size = block or width
    weight[:, ::size], x[:, ::size] = -most, -127  # the extremes decide the scales
    if activations == "tensor":
        x[0, 1] = 128
    graph = linear(weight / 4, bits, block, activations)
    model = model_of(graph, options)
    assert options is STANDARD or kernel in {node.op_type for node in model.graph.node}
    expected = evaluate_graph(graph, {"x": x})["y"]
    assert_t0(np.asarray(x @ weight.T / 4 + np.arange(24), np.float32), expected)
    assert_t0(expected, run(session_of(model), {"x": x})[0])
    if options is STANDARD:
        assert_t0(expected, run_reference(model, {"x": x})[0])


@pytest.mark.parametrize("width", [64, 40])
@pytest.mark.parametrize("options", [ORT, STANDARD], ids=["ort", "standard"])
@pytest.mark.parametrize(("bits", "block", "activations", "kernel"), FORMS)
def test_scales_are_within_the_rounding_of_f32(
    bits: int, block: int, activations: str, kernel: str, options: OnnxOptions, width: int
) -> None:
    rng = np.random.default_rng(3)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, width), (3, width)))
    graph = linear(weight, bits, block, activations)
    constants = [node.op.weight.read(graph.store) for node in list(graph.nodes)[:3]]  # type: ignore[attr-defined]
    expected = evaluate_graph(graph, {"x": x}, wide=True)["y"]
    check_op(QuantizedLinear(block, activations), [x, *constants], expected, run(session_of(model_of(graph, options)), {"x": x})[0], kernel)


def test_integers_are_packed_as_the_kernel_reads_them() -> None:
    levels = np.array([[-8, 7, 0, 1, 2]], np.int8)
    weight = Quantised(dense(levels.astype(np.float32)), 4, 4)
    packed = Packed(weight, 4).read(MemoryStore({}))
    assert packed.tolist() == [[[0xF0, 0x98], [0x80, 0x88]]]  # the second block holds -8 alone: the last element is an extreme
