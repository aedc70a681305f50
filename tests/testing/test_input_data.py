"""Drawn inputs are ones that the graph takes."""

from __future__ import annotations

import numpy as np
import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import Add, Cast, CrossEntropy, Embedding, Pad, Reshape, Slice, Sub
from cgptc.ir.types import TensorType
from cgptc.testing.input_data import random_inputs

IGNORED = -100
COUNT = 64


def shifted_loss(*, also_embedded: bool = False) -> Graph:
    """Next-token labels as transformers makes them: padded behind, and without the first."""
    graph = Graph()
    logits, labels = graph.add_input("logits", TensorType(f32, (COUNT, 3))), graph.add_input("labels", TensorType(i64, (1, COUNT)))
    build = Builder(graph)
    padded = build(Slice(1, 1, COUNT + 1), build(Pad((0, 0), (0, 1), float(IGNORED)), labels))
    graph.add_output("loss", build(CrossEntropy("mean", IGNORED), logits, build(Reshape((COUNT,)), padded)))
    if also_embedded:
        graph.add_output("embedded", build(Embedding(), build.constant(np.zeros((5, 2), np.float32)), labels))
    return graph


def drawn_labels(graph: Graph) -> Array:
    inputs = random_inputs(graph, seed=1, ignored=0.25)
    evaluate_graph(graph, inputs)
    return inputs["labels"]


def test_labels_are_classes_wherever_they_were_moved_and_some_are_ignored() -> None:
    labels = drawn_labels(shifted_loss())
    assert set(labels.reshape(-1).tolist()) == {IGNORED, 0, 1, 2}
    assert set(random_inputs(shifted_loss(), seed=1)["labels"].reshape(-1).tolist()) == {0, 1, 2}


def test_labels_that_are_read_elsewhere_too_are_never_ignored() -> None:
    assert set(drawn_labels(shifted_loss(also_embedded=True)).reshape(-1).tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("dtype", "number", "expected"), [(i64, 2, range(-2, 3)), (i64, -1, range(1, 6)), (f32, 0, range(5))])
def test_indices_that_a_constant_shifts_or_a_cast_makes_are_in_range(dtype: DType, number: int, expected: range) -> None:
    graph = Graph()
    value: Value = graph.add_input("x", TensorType(dtype, (COUNT,)))
    build = Builder(graph)
    whole = build(Cast(i64), value) if dtype != i64 else value
    moved = build(Add() if number > 0 else Sub(), whole, build.constant(abs(number), i64))
    graph.add_output("y", build(Embedding(), build.constant(np.ones((5, 2), np.float32)), moved))
    inputs = random_inputs(graph, seed=2)
    evaluate_graph(graph, inputs)
    assert set(inputs["x"].tolist()) == set(expected)
