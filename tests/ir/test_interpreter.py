"""Evaluation of graphs: what inputs it takes, what it computes, what it keeps."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError, VerifyError
from cgptc.ir.dims import Symbol, maximum
from cgptc.ir.dtypes import boolean, f16, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph, evaluate_nodes
from cgptc.ir.op import Array, Op
from cgptc.ir.ops import Add, Cast, DimSize, Exp, Iota, Linear, Mul, Neg, Split, Tanh
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Transposed
from cgptc.ir.weights import MemoryStore
from cgptc.testing.tolerances import assert_t2

batch, seq, past = Symbol("batch", 1, 8), Symbol("seq", 1, 16), Symbol("past", 0, 16)


def cached() -> Graph:
    """A graph with the interface of a decoder with a cache."""
    graph = Graph()
    ids = graph.add_input("input_ids", TensorType(i64, (batch.dim, seq.dim)))
    graph.add_input("attention_mask", TensorType(boolean, (batch.dim, past.dim + seq.dim)))
    build = Builder(graph)
    graph.add_output("y", build(Add(), ids, build(Iota(seq.dim))))
    graph.add_output("past", build(DimSize(past.dim)))
    return graph


def zeros(*shape: int, dtype: type = np.int64) -> Array:
    return np.zeros(shape, dtype)


def test_sizes_are_solved_from_the_inputs_shapes() -> None:
    outputs = evaluate_graph(cached(), {"attention_mask": zeros(2, 7, dtype=np.bool_), "input_ids": zeros(2, 3)})
    assert outputs["y"].tolist() == [[0, 1, 2]] * 2
    assert outputs["past"] == 4


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": zeros(2, 3)}, "input 'attention_mask' is missing: give it as bool[batch, past + seq]"),
        ({"input_ids": zeros(2, 3), "attention_mark": zeros(1)}, "no input 'attention_mark': did you mean 'attention_mask'?"),
        ({"input_ids": zeros(2), "attention_mask": zeros(2, 3, dtype=np.bool_)}, "i64[batch, seq], got the shape [2]: it must have 2 dim"),
        ({"input_ids": zeros(2, 3), "attention_mask": zeros(3, 3, dtype=np.bool_)}, "'batch' cannot be 3 where batch = 2"),
        ({"input_ids": zeros(9, 3), "attention_mask": zeros(9, 3, dtype=np.bool_)}, "'batch' would be 9, outside of 1..8"),
        ({"input_ids": zeros(2, 3), "attention_mask": zeros(2, 2, dtype=np.bool_)}, "'past' would be -1, outside of 0..16"),
        ({"input_ids": zeros(2, 3, dtype=np.int32), "attention_mask": zeros(2, 3, dtype=np.bool_)}, "got elements of i32"),
        ({"input_ids": zeros(2, 3, dtype=np.uint64), "attention_mask": zeros(2, 3, dtype=np.bool_)}, "got elements of uint64"),
        ({"input_ids": [[1, 2]], "attention_mask": zeros(2, 3, dtype=np.bool_)}, "must be a numpy array of i64[batch, seq], got list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate_graph(cached(), inputs)
    assert message in caught.value.line()


def test_sizes_that_are_not_determined_are_refused() -> None:
    graph = Graph()
    graph.add_input("x", TensorType(f32, (maximum(seq.dim, past.dim),)))
    with pytest.raises(UsageError, match=r"'max\(past, seq\)' = 3 does not determine 'past', 'seq'"):
        evaluate_graph(graph, {"x": np.zeros(3, np.float32)})


def test_a_multiple_that_no_size_gives_is_refused() -> None:
    graph = Graph()
    graph.add_input("x", TensorType(f32, (2 * seq.dim,)))
    with pytest.raises(UsageError, match=r"'2\*seq' cannot be 3"):
        evaluate_graph(graph, {"x": np.zeros(3, np.float32)})


def test_opaque_sizes_are_checked_once_their_symbols_are_known() -> None:
    graph = Graph()
    graph.add_input("x", TensorType(f32, (maximum(seq.dim, past.dim),)))
    graph.add_input("s", TensorType(f32, (seq.dim,)))
    graph.add_input("p", TensorType(f32, (past.dim,)))
    fine = {"x": np.zeros(3, np.float32), "s": np.zeros(3, np.float32), "p": np.zeros(2, np.float32)}
    evaluate_graph(graph, fine)
    with pytest.raises(UsageError, match=r"'max\(past, seq\)' cannot be 3 where"):
        evaluate_graph(graph, fine | {"s": np.zeros(4, np.float32)})


def linear(dtype: type) -> tuple[Graph, Array, Array]:
    weight = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    store = MemoryStore({})
    graph = Graph(store=store)
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f16 if dtype is np.float16 else f32, (batch.dim, 3)))
    y = build(Linear(), x, build.weight(Transposed(store.add("w", weight), (1, 0))))
    graph.add_output("y", build(Cast(f16), y))
    return graph, np.random.default_rng(1).normal(size=(2, 3)).astype(dtype), weight


def test_weights_are_read_from_the_store() -> None:
    graph, x, weight = linear(np.float32)
    exact, magnitude = (function(x).astype(np.float64) @ function(weight).T.astype(np.float64) for function in (np.positive, np.abs))
    assert_t2(exact, evaluate_graph(graph, {"x": x})["y"], magnitude=magnitude, terms=3, accumulator=f32)


def test_wide_evaluation_rounds_nothing() -> None:
    graph, x, weight = linear(np.float16)
    wide = evaluate_graph(graph, {"x": x}, wide=True)["y"]
    assert wide.dtype == np.float64
    assert np.array_equal(wide, x.astype(np.float64) @ weight.astype(np.float64).T)


def test_wide_evaluation_takes_float64_inputs_as_they_are() -> None:
    graph = Graph()
    graph.add_output("y", Builder(graph)(Neg(), graph.add_input("x", TensorType(f16, (1,)))))
    assert evaluate_graph(graph, {"x": np.array([0.1])}, wide=True)["y"] == -0.1
    with pytest.raises(UsageError, match="got elements of f64"):
        evaluate_graph(graph, {"x": np.array([0.1])})


def test_overflow_is_silent_as_in_ieee_arithmetic() -> None:
    graph = Graph()
    graph.add_output("y", Builder(graph)(Exp(), graph.add_input("x", TensorType(f32, (1,)))))
    with np.errstate(all="raise"):
        assert evaluate_graph(graph, {"x": np.array([1e9], np.float32)})["y"] == np.inf


def test_an_output_may_be_an_input_or_named_twice() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (1,)))
    graph.add_output("a", x)
    graph.add_output("b", x)
    assert evaluate_graph(graph, {"x": np.ones(1, np.float32)}) == {"a": 1, "b": 1}


def test_every_value_is_seen_once_in_order() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (4,)))
    left, right = Builder(graph).all(Split(0, (1, 3)), x)
    seen: list[tuple[Value, int]] = []
    evaluate_graph(graph, {"x": np.ones(4, np.float32)}, on_value=lambda value, array: seen.append((value, array.size)))
    assert seen == [(x, 4), (left, 1), (right, 3)]
    assert [node.op.name for node, _ in evaluate_nodes(graph, {"x": np.ones(4, np.float32)})] == ["split"]


def test_a_value_is_dropped_after_its_last_use() -> None:
    graph = Graph()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (4,)))
    first = build(Tanh(), x)
    second = build(Mul(), first, first)
    third = build(Neg(), second)
    graph.add_output("y", build(Mul(), third, first))
    references: dict[Value, weakref.ref[Array]] = {}

    def watch(value: Value, array: Array) -> None:
        references[value] = weakref.ref(array)
        if value is third:
            assert references[first]() is not None
            assert references[second]() is None
        if value is graph.output("y"):
            assert references[first]() is None

    evaluate_graph(graph, {"x": np.ones(4, np.float32)}, on_value=watch)
    assert len(references) == 5


@dataclass(frozen=True)
class Liar(Op, name="test_liar"):
    """Its type is not what it gives."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def evaluate(self, x: Array) -> Array:
        return x.astype(np.float64)


def test_a_result_that_is_not_of_its_type_is_a_bug_that_names_the_node() -> None:
    graph = Graph()
    Builder(graph).node(Liar(), graph.add_input("x", TensorType(f32, (1,))))
    with pytest.raises(VerifyError, match=r"'test_liar' evaluates to float64\[1\], its type f32\[1\] says f32\[1\]") as caught:
        evaluate_graph(graph, {"x": np.ones(1, np.float32)})
    assert "while evaluating %? : f32[1] = test_liar(%x)" in caught.value.__notes__[0]
