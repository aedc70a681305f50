"""Weights of few bits: which layers get them, and how far the result may lie from the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import i4, i8
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.parser import parse_graph
from cgptc.ir.quantised_weights import SEARCHED_BITS, QuantisationScales, Quantised
from cgptc.ir.verify import verify
from cgptc.ir.weights import MemoryStore
from cgptc.passes.legalise import decompose_until_legal
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.passes.quantize import Quantize
from cgptc.testing import assert_equivalent, assert_t0, random_inputs


def quantised(text: str) -> tuple[Graph, PassContext]:
    graph, context = TinyGpt(cached=False).graph(), PassContext()
    Pipeline.parse(text).run(graph, context)
    verify(graph)
    return graph, context


def linears(graph: Graph, kind: type) -> list[str]:
    return [node.location.path for node in graph.nodes if isinstance(node.op, kind)]


def test_every_linear_layer_is_quantised_and_the_tied_table_stays() -> None:
    graph, context = quantised("quantize,dead-code")
    assert not linears(graph, Linear)
    assert len(linears(graph, QuantizedLinear)) == 13
    assert {event.subject for event in context.events} == {"int8"}
    (table,) = [
        node.inputs[0].type.dtype.name for node in graph.nodes if isinstance(node.op, Embedding) and node.inputs[0].type.shape[0] == 23
    ]
    assert table == "f32"


def test_the_head_may_have_other_bits_than_the_layers() -> None:
    graph, context = quantised("quantize{bits=4 block=8 activations=blocks head=8}")
    bits = {node.inputs[1].type.dtype.name for node in graph.nodes if isinstance(node.op, QuantizedLinear)}
    (head,) = [value.producer for name, value in graph.outputs if name == "logits"]
    assert bits == {"i4", "i8"}
    assert head.inputs[1].type.dtype == i8
    assert [event.subject for event in context.events].count("int8") == 1


def test_layers_are_kept_by_module_by_tensor_and_by_their_usual_name() -> None:
    for glob, left in (("lm_head", 1), ("h.*.mlp", 4), ("h.1.attn", 4), ("wte.weight", 1), ("h.?.up.weight", 2)):
        graph, context = quantised(f"quantize{{keep={glob}}}")
        assert len(linears(graph, Linear)) == left, glob
        assert sum(event.kind == "missed" for event in context.events) == left
    graph, _ = quantised("quantize{only=h.*.mlp keep=h.0}")
    assert len(linears(graph, QuantizedLinear)) == 2


def test_a_glob_that_names_nothing_is_an_error_with_the_names_that_are() -> None:
    with pytest.raises(UsageError, match=r"'h\.7' names no linear layer"):
        quantised("quantize{keep=h.7}")


@pytest.mark.parametrize("text", ["bits=9", "bits=1", "head=9", "block=-1", "activations=rows", "activations=tensor block=32"])
def test_options_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(f"quantize{{{text}}}")


def test_the_text_form_holds_quantised_weights() -> None:
    graph, _ = quantised("quantize{bits=4 block=8 activations=blocks}")
    text = str(graph)
    assert "quantised(" in text
    assert str(parse_graph(text, graph.store)) == text


@pytest.mark.parametrize("options", ["", "{bits=4 block=8 activations=blocks}", "{bits=4 block=8 activations=exact}"])
def test_a_target_without_the_operation_gets_simpler_ones_that_mean_the_same(options: str) -> None:
    before, _ = quantised(f"quantize{options}")
    after = before.clone()
    others = {type(node.op) for node in before.nodes} - {QuantizedLinear}
    decompose_until_legal(after, others | {Linear})
    verify(after)
    assert not linears(after, QuantizedLinear)
    assert_equivalent(before, after)


def drawn(seed: int, bits: int, block: int) -> tuple[Array, Array, Array]:
    """A weight [5, 9], its integers, and the scale of each element."""
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((5, 9)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    store = MemoryStore({})
    stored = store.add("w", weight)
    levels = Quantised(stored, bits, block).read(store).astype(np.float64)
    scales = QuantisationScales(stored, bits, block).read(store).astype(np.float64)
    return weight, levels, np.repeat(scales, block or 9, axis=1)[:, :9]


@given(st.integers(SEARCHED_BITS + 1, 8), st.sampled_from([0, 1, 3, 8]), st.integers(0, 2**32 - 1))
def test_a_weight_is_off_by_at_most_half_a_step_and_its_extreme_by_nothing(bits: int, block: int, seed: int) -> None:
    weight, levels, spread = drawn(seed, bits, block)
    error = np.abs(levels * spread - weight)
    most = 2 ** (bits - 1)
    # Of the side opposite to the extreme, one level is missing: there the error is up to a whole step.
    assert (error <= np.abs(spread) * np.where(levels == most - 1, 1, 0.5) * (1 + 2.0**-20)).all()
    for start in range(0, 9, block or 9):
        part = slice(start, start + (block or 9))
        place = np.argmax(np.abs(weight[:, part]), axis=1)
        assert (levels[:, part][np.arange(5), place] == -most).all()


@given(st.integers(2, SEARCHED_BITS), st.sampled_from([0, 1, 3, 8]), st.integers(0, 2**32 - 1))
def test_a_searched_scale_leaves_no_more_error_than_one_that_holds_the_extreme(bits: int, block: int, seed: int) -> None:
    weight, levels, spread = drawn(seed, bits, block)
    most = 2 ** (bits - 1)
    for start in range(0, 9, block or 9):
        part = slice(start, start + (block or 9))
        values = weight[:, part].astype(np.float64)
        place = np.argmax(np.abs(values), axis=1)[:, None]
        plain = np.take_along_axis(values, place, axis=1) / -most
        rounded = np.clip(np.rint(values / plain), -most, most - 1) * plain
        error, allowed = (np.square(found - values).sum(axis=1) for found in ((levels * spread)[:, part], rounded))
        assert (error <= allowed + np.square(values).sum(axis=1) * 2.0**-20).all()


def test_a_piece_of_a_weight_has_the_scales_of_the_whole() -> None:
    store = MemoryStore({})
    scales = QuantisationScales(store.add("w", np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)), 4, 0)
    assert_t0(scales.rows(store, 1, 2), scales.read(store)[1:2])


@pytest.mark.parametrize(("bits", "block"), [(4, 0), (8, 4)])
def test_zeros_stay_zeros(bits: int, block: int) -> None:
    store = MemoryStore({"w": np.zeros((3, 8), np.float32)})
    store.tensors["w"][1, 2] = 5
    stored = store.add("v", store.tensors["w"].copy())
    levels, scales = (cls(stored, bits, block).read(store) for cls in (Quantised, QuantisationScales))
    assert levels.dtype == (i4 if bits == 4 else i8).numpy
    assert np.count_nonzero(levels.astype(np.int8)) == 1
    assert np.count_nonzero(scales) == 1
    assert np.isfinite(scales).all()


@given(st.integers(0, 99))
@settings(max_examples=5)
def test_more_bits_are_nearer_to_the_dense_model(seed: int) -> None:
    dense = TinyGpt(cached=False).graph()
    inputs = random_inputs(dense, seed=seed, sizes={"batch": 1, "seq": 6})
    inputs["attention_mask"] = np.ones((1, 6), np.int64)
    expected = evaluate_graph(dense, inputs, wide=True)["logits"]

    def error(bits: int) -> float:
        graph, _ = quantised(f"quantize{{bits={bits} activations=exact}}")
        return float(np.sqrt(np.mean((evaluate_graph(graph, inputs, wide=True)["logits"] - expected) ** 2)))

    assert 0 < 2 * error(8) < error(5) < error(2)


def test_the_pass_prints_as_it_is_written() -> None:
    text = "quantize{bits=4 block=32 activations=blocks keep=lm_head;h.0}"
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse(text).passes == (Quantize(4, 32, "blocks", keep=("lm_head", "h.0")),)
