"""Logits of the last tokens alone: the same numbers, less work, and unseen by who does not ask."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, STANDARD, model_of, run_reference, session_of
from tests.backends.onnx.test_whole_models import MODELS, OPTIONS, Reference, empty_cache, left_padded, mode, tokens
from tests.backends.onnx.tiny_gpt import BATCH, SEQ, TinyGpt

from cgptc.backends.onnx.decoder import Decoder, GrowingDecoder, SharedDecoder
from cgptc.backends.onnx.interface_names import LOGITS, LOGITS_TO_KEEP
from cgptc.backends.onnx.kept_logits import with_kept_logits
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession
from cgptc.backends.onnx.tensors import to_array, to_value
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.elementwise import Neg
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.ops.shape import Slice
from cgptc.ir.quantised_weights import QuantisationScales, Quantised
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore
from cgptc.testing.tolerances import assert_t0, assert_t3

IDS, MASK = tokens(2, 5), left_padded(5, 3)


def kept(session: OnnxSession, model: TinyGpt, count: int) -> Array:
    inputs = {"input_ids": IDS, "attention_mask": MASK, **empty_cache(model, 2)}
    feeds = {name: session.value(name, array) for name, array in inputs.items()}
    feeds[LOGITS_TO_KEEP] = to_value(np.array([count]), i64)
    return to_array(session.session.run_with_ort_values([LOGITS], feeds)[0])


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_kept_logits_are_the_last_of_all(model: TinyGpt, options: OnnxOptions) -> None:
    session = session_of(model_of(model.graph(), options))
    reference = Reference(model, IDS, MASK)
    for count in (1, 2, 5, 9):
        found = kept(session, model, count)
        assert found.shape[1] == min(count, 5)
        assert_t3(reference.exact[:, -count:], found, reference.floor, where=f"the last {count}")


def test_who_does_not_ask_gets_all_logits_and_sees_no_further_input() -> None:
    model = TinyGpt()
    session = session_of(model_of(model.graph(), ORT))
    assert LOGITS_TO_KEEP not in session.input_names
    assert session.port(LOGITS).shape[1] == "seq"
    assert session.run({"input_ids": IDS, "attention_mask": MASK})[LOGITS].shape[1] == 5


def test_the_default_is_the_standard_s_own() -> None:
    """The ONNX reference evaluator, which knows nothing of onnxruntime, gives all logits too, and the last ones where asked."""
    model = TinyGpt(cached=False)
    proto = model_of(model.graph(), STANDARD)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    whole = run_reference(proto, inputs)[0]
    last = run_reference(proto, {**inputs, LOGITS_TO_KEEP: np.array([1])})[0]
    reference = Reference(model, IDS, MASK)
    assert_t3(reference.exact, whole, reference.floor)
    assert_t3(reference.exact[:, -1:], last, reference.floor)


@pytest.mark.parametrize(("head_width", "decoder"), [(8, SharedDecoder), (6, GrowingDecoder)])
def test_decoders_ask_for_the_last_token_alone(head_width: int, decoder: type[Decoder]) -> None:
    model = TinyGpt(head_width=head_width)
    session = session_of(model_of(model.graph(), ORT))
    assert session.empty_logits(2, 5).shape[1] == 1
    engine = session.decoder()
    assert isinstance(engine, decoder)
    reference = Reference(model, IDS, MASK)
    assert_t3(reference.exact[:, -1], engine.prefill(IDS, MASK.astype(bool)), reference.floor)


def test_everything_behind_the_last_attention_is_cut_and_nothing_before() -> None:
    found = with_kept_logits(TinyGpt().graph())
    assert found is not None
    graph, symbol = found
    *_, last = (node for node in graph.nodes if isinstance(node.op, Attention))
    behind = False
    for node in graph.nodes:
        behind = behind or node is last
        if isinstance(node.op, Linear):
            assert (node.result.type.shape[1] == symbol.dim) == behind
    assert sum(isinstance(node.op, Slice) for node in graph.nodes) == 2  # the residual and the attention's result


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_a_head_of_one_scale_for_all_rows_takes_the_scale_of_the_kept_ones(options: OnnxOptions) -> None:
    """Operands that are their own integers: at the last row's own scale no rounding is left, at that of all rows there would be."""
    rng = np.random.default_rng(1)
    table, weight = (rng.integers(-63, 64, (7, 16)).astype(np.float32) for _ in range(2))
    table = 2 * table + 1
    table[:, :2], weight[:, 0] = (-127, 128), -64
    table[0] *= 2
    store = MemoryStore({})
    graph = Graph("head", store)
    build = Builder(graph)
    ids = graph.add_input("input_ids", TensorType(i64, (BATCH.dim, SEQ.dim)))
    x = build(Embedding(), build.weight(store.add("table", table)), ids)
    stored = store.add("head", weight / 4)
    integers, scales = build.weight(Quantised(stored, 7, 0)), build.weight(QuantisationScales(stored, 7, 0))
    graph.add_output(LOGITS, build(QuantizedLinear(0, "tensor"), x, integers, scales))
    session = session_of(model_of(graph, options))
    given = {"input_ids": np.array([[0, 3]])}
    feeds = {name: session.value(name, array) for name, array in given.items()} | {LOGITS_TO_KEEP: to_value(np.array([1]), i64)}
    last = to_array(session.session.run_with_ort_values([LOGITS], feeds)[0])
    assert_t0((table[3:4] @ weight.T)[None] / 4, last)
    whole = session.run(given)[LOGITS]
    assert_t0(evaluate_graph(graph, given)[LOGITS], whole)
    assert (whole[:, -1:] != last).any()


def test_logits_that_something_else_reads_are_left_whole() -> None:
    graph = TinyGpt().graph()
    logits = graph.output(LOGITS)
    graph.add_output("again", Builder(graph)(Neg(), logits))
    assert with_kept_logits(graph) is None
    graph = TinyGpt().graph()
    graph.add_output("twice", graph.output(LOGITS))
    assert with_kept_logits(graph) is None


def test_a_graph_without_ids_or_logits_is_left_as_it_is() -> None:
    assert with_kept_logits(Graph("empty")) is None
