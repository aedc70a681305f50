"""Another floating-point type for a whole model, and what must not be lost on the way."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, model_of, run, session_of
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dtypes import DTYPES, f16, f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Mul
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Cos, Neg
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.ir.weights import MemoryStore, dense
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing import assert_equivalent, assert_t3, noise_floor, random_inputs


def converted(graph: Graph, dtype: str) -> bool:
    changed = [pass_.run(graph, PassContext()) for pass_ in Pipeline.parse(f"convert{{dtype={dtype}}}").passes]
    verify(graph)
    return all(changed)


@pytest.mark.parametrize("model", [TinyGpt(), TinyGpt(rotary=True)], ids=["learned positions", "rotary"])
def test_the_whole_model_is_in_the_other_type_and_means_the_same(model: TinyGpt) -> None:
    before, after = model.graph(), model.graph()
    inputs = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in random_inputs(before, seed=2).items()
    }
    assert converted(after, "f16")
    assert after.output("logits").type.dtype is f16
    assert after.input("past_key_values.0.key").type.dtype is f16
    assert_equivalent(before, after, inputs)
    assert converted(after, "f32")
    assert_equivalent(before, after)


def test_a_model_of_that_type_is_left_alone() -> None:
    assert not converted(TinyGpt().graph(), "f32")


def test_a_tied_table_stays_one_tensor() -> None:
    graph = TinyGpt(cached=False).graph()
    converted(graph, "f16")
    names = [item.name for item in model_of(graph, ORT).graph.initializer]
    assert sum("wte" in name for name in names) == 1


def test_angles_of_rotary_embeddings_stay_in_f32() -> None:
    graph = TinyGpt(rotary=True).graph()
    converted(graph, "f16")
    (cosine,) = [node for node in graph.nodes if isinstance(node.op, Cos)]
    assert cosine.result.type.dtype is f32
    assert [user.op for user in cosine.result.users] == [Cast(f16)]
    (product,) = [node for node in graph.nodes if isinstance(node.op, Mul)]
    assert product.result.type.dtype is f32


def test_onnxruntime_stays_within_the_noise_of_f16() -> None:
    graph = TinyGpt(cached=False).graph()
    converted(graph, "f16")
    inputs = random_inputs(graph, seed=1, sizes={"batch": 2, "seq": 7})
    inputs["attention_mask"] = np.ones((2, 7), np.int64)
    # The reference is in float64 with the weights as they are stored: rounded to f16.
    rounded = graph.clone()
    rounded.store = store = MemoryStore({})
    for number, node in enumerate(rounded.nodes):
        if isinstance(node.op, Constant):
            rounded.set_op(node, Constant(store.add(f"c{number}", node.op.weight.read(graph.store))))
    reference = evaluate_graph(rounded, inputs, wide=True)["logits"]
    floor = noise_floor(reference, [evaluate_graph(graph, inputs)["logits"]])
    assert_t3(reference, run(session_of(model_of(graph, ORT)), inputs)[0], floor)


@pytest.mark.parametrize("shared", [False, True])
def test_scales_that_something_else_computes_or_reads_are_widened_for_their_layer(shared: bool) -> None:
    graph = Graph(store=MemoryStore({}))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2, 4)))
    weight = build.weight(dense(np.arange(-6, 6, dtype=np.int8).reshape(3, 4)))
    scales = build.weight(dense(np.full((3, 1), 0.5, np.float32))) if shared else graph.add_input("scales", TensorType(f32, (3, 1)))
    graph.add_output("y", build(QuantizedLinear(), x, weight, scales))
    graph.add_output("z", build(Neg(), scales))
    before = graph.clone()
    assert converted(graph, "f16")
    inputs = {"x": np.full((2, 4), 0.25)} | ({} if shared else {"scales": np.full((3, 1), 0.5)})
    assert_equivalent(before, graph, inputs)


def test_a_weight_that_overflows_is_an_error_that_names_it() -> None:
    graph = Graph("main", store := MemoryStore({}))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.add_output("y", build(Mul(), x, build.weight(store.add("h.0.scale", np.array([1, 7e4], np.float32)))))
    with pytest.raises(CompileError, match=r"weight 'h\.0\.scale' has an element of magnitude 70000, and f16 ends at 65504"):
        converted(graph, "f16")


def test_infinities_are_not_an_overflow() -> None:
    graph = Graph("main", store := MemoryStore({}))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.add_output("y", build(Mul(), x, build.weight(store.add("w", np.array([65519, -np.inf], np.float32)))))
    assert converted(graph, "f16")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UsageError, match="'dtype' of 'convert' is 'f8'"):
        Pipeline.parse("convert{dtype=f8}")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("to", ["f16", "bf16"])
def test_the_end_of_a_types_range_becomes_that_of_the_other(to: str, sign: int) -> None:
    graph = Graph("main", MemoryStore({}))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2,)))
    ends = np.array([sign * np.finfo(np.float32).max, -np.inf], np.float32)
    graph.add_output("y", build(Mul(), x, build.weight(dense(ends))))
    assert converted(graph, to)
    dtype = DTYPES[to].numpy
    (found,) = evaluate_graph(graph, {"x": np.ones(2, dtype)}).values()
    np.testing.assert_array_equal(found.astype(np.float64), [sign * float(ml_dtypes.finfo(dtype).max), -np.inf])


def test_another_large_constant_is_still_an_overflow() -> None:
    graph = Graph("main", MemoryStore({}))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.add_output("y", build(Mul(), x, build.weight(dense(np.array([1, 1e30], np.float32)))))
    with pytest.raises(CompileError, match="a constant has an element of magnitude 1e\\+30, and f16 ends at 65504"):
        converted(graph, "f16")
