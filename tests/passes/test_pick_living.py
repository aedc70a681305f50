"""Dead rows and columns that no removal reaches: gathered out where that pays, and left, with a word, where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, model_of, run, session_of
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.passes.firing_graphs import ALL_COUNTS

from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.backends.wafer.cost import WaferCostModel
from cgptc.ir.cost import CostModel
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.masked_weights import Masked
from cgptc.ir.op import Array
from cgptc.ir.ops import Gather, Linear
from cgptc.ir.parser import parse_graph
from cgptc.ir.sparsity import living_lines
from cgptc.ir.verify import verify
from cgptc.ir.weight_expressions import Added, Concatenated, Converted, Scaled, Sliced, Taken, Transposed
from cgptc.ir.weights import EMPTY_STORE, MemoryStore, Stored, Weight, dense
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.passes.pick_living import Pick
from cgptc.testing import assert_equivalent, random_inputs

MODEL = TinyGpt(cached=False, tied=False)
"""Layers are stored as [outputs, inputs]."""


FEATURES, OUTPUTS = (0,), (1,)


def with_dead(**axes: tuple[int, ...]) -> Graph:
    """The small GPT in which every third row (0) or column (1) lives of the layers of these names, and that is known."""
    graph = MODEL.graph()
    assert isinstance(graph.store, MemoryStore)
    for name, tensor in graph.store.tensors.items():
        for axis in axes.get(name.split(".")[-2], ()) if tensor.ndim == 2 else ():
            lines = np.moveaxis(tensor, 1 - axis, 0)
            lines[np.arange(len(lines)) % 3 != 1] = 0
    return Pipeline.parse("find-zeros").run(graph)


def picked(graph: Graph, model: CostModel = ALL_COUNTS) -> tuple[Graph, PassContext]:
    after, context = graph.clone(), PassContext(cost_model=model)
    Pipeline.parse("pick-living,dead-code").run(after, context)
    verify(after)
    return after, context


def widths(graph: Graph) -> list[tuple[int, ...]]:
    return [node.inputs[1].type.static_shape for node in graph.nodes if isinstance(node.op, Linear)]


def test_layers_that_read_the_same_features_share_a_gather() -> None:
    graph = with_dead(q=FEATURES, k=FEATURES, v=FEATURES)
    after, _ = picked(graph)
    assert_equivalent(graph, after)
    assert [shape[0] for shape in widths(after)][:3] == [11, 11, 11]
    assert sum(isinstance(node.op, Gather) for node in after.nodes) == MODEL.layers


def test_outputs_that_are_always_the_same_get_their_bias_and_their_places() -> None:
    graph = with_dead(proj=OUTPUTS, down=OUTPUTS)
    after, _ = picked(graph)
    assert_equivalent(graph, after)
    assert {shape[1] for shape in widths(after)[3:6:2]} == {11 + 1}, "one column stands for all that are zero"


def test_rows_and_columns_of_one_matrix_both_go() -> None:
    graph = with_dead(up=FEATURES + OUTPUTS)
    after, _ = picked(graph)
    assert_equivalent(graph, after)
    assert widths(after)[4] == (11, 43 + 1)


def test_a_head_gives_its_output_itself() -> None:
    graph = with_dead(lm_head=FEATURES + OUTPUTS)
    after, _ = picked(graph)
    assert_equivalent(graph, after)
    assert widths(after)[-1] == (11, MODEL.vocabulary)
    assert isinstance(after.output("logits").op, Linear)


def test_onnxruntime_gives_what_the_whole_matrices_give() -> None:
    graph = with_dead(q=FEATURES, up=FEATURES, proj=OUTPUTS, down=OUTPUTS)
    after, _ = picked(graph)
    inputs = random_inputs(graph, seed=5, sizes={"batch": 2, "seq": 5})
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    expected = evaluate_graph(graph, inputs, wide=True)["logits"]
    (found,) = run(session_of(model_of(after, ORT)), inputs)
    assert np.corrcoef(found.reshape(-1), expected.reshape(-1))[0, 1] > 1 - 2.0**-20


def test_zeros_stay_where_a_gather_costs_more_and_say_so() -> None:
    graph = with_dead(q=FEATURES, down=OUTPUTS)
    after, context = picked(graph, OnnxCostModel())
    assert str(after) == str(graph)
    reasons = {event.reason for event in context.findings("missed")}
    assert reasons == {"a gather around its zero rows or columns costs what they do"}


@pytest.mark.parametrize("model", [WaferCostModel(), None])
def test_a_target_with_sparse_kernels_keeps_the_zeros(model: CostModel | None) -> None:
    graph, context = with_dead(q=FEATURES), PassContext(cost_model=model)
    assert not Pipeline.parse("pick-living").passes[0].run(graph, context)
    assert not context.events


def test_half_of_a_large_matrix_is_worth_a_gather_to_onnxruntime() -> None:
    model = OnnxCostModel()
    for tokens in (1, 128):
        whole = model.matmul(tokens, 768, 3072, f32).time
        assert Pick((768, 3072), rows=tuple(range(0, 768, 2))).time(model, tokens, f32) < whole
        assert Pick((8, 8), rows=(0, 2, 4, 6)).time(model, tokens, f32) > model.matmul(tokens, 8, 8, f32).time


def test_what_is_picked_is_quantised_converted_and_printed_like_any_layer() -> None:
    graph, _ = picked(with_dead(q=FEATURES, proj=OUTPUTS))
    Pipeline.parse("convert{dtype=f16},quantize{bits=8 block=4 activations=exact}").run(graph)
    verify(graph)
    text = str(graph)
    assert str(parse_graph(text, graph.store)) == text


BASE = Stored("w", f32, (4, 3))
ROWS = Masked(BASE, dense(np.array([True, False, True, False])), 0)
BOTH = Masked(ROWS, dense(np.array([False, True, True])), 1)


@pytest.mark.parametrize(
    ("weight", "rows", "columns"),
    [
        (BASE, None, None),
        (ROWS, [1, 0, 1, 0], None),
        (BOTH, [1, 0, 1, 0], [0, 1, 1]),
        (Masked(ROWS, dense(np.array([True, True, False, True])), 0), [1, 0, 0, 0], None),
        (Masked(BASE, dense(np.zeros((4, 3), np.bool_))), None, None),
        (Transposed(BOTH, (1, 0)), [0, 1, 1], [1, 0, 1, 0]),
        (Sliced(BOTH, 0, 1, 3), [0, 1], [0, 1, 1]),
        (Taken(BOTH, 1, (2, 0)), [1, 0, 1, 0], [1, 0]),
        (Concatenated((BOTH, BASE), 0), [1, 0, 1, 0, 1, 1, 1, 1], [1, 1, 1]),
        (Concatenated((BASE, BASE), 0), None, None),
        (Converted(Scaled(BOTH, Stored("s", f32, (3,)), 1), f32), [1, 0, 1, 0], [0, 1, 1]),
        (Added(ROWS, BASE), None, None),
    ],
    ids=str,
)
def test_lines_that_live_are_known_through_each_expression(weight: Weight, rows: list[int] | None, columns: list[int] | None) -> None:
    def listed(lines: Array | None) -> list[int] | None:
        return None if lines is None else lines.astype(int).tolist()

    assert (listed(living_lines(weight, 0, EMPTY_STORE)), listed(living_lines(weight, 1, EMPTY_STORE))) == (rows, columns)
