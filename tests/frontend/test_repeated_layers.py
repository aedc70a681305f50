"""A GPT of like layers is traced with two of them: word for word what tracing all of them gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cgptc.frontend.gpt_config import Activation, GptConfig, Head
from cgptc.frontend.own_gpt import capture_gpt, trace_gpt
from cgptc.frontend.presets import preset
from cgptc.frontend.repeated_layers import repeat_last_layer
from cgptc.frontend.source import Request
from cgptc.ir.dtypes import bf16, f32
from cgptc.ir.verify import verify
from cgptc.ir.weight_expressions import converted, transposed
from cgptc.ir.weights import EMPTY_STORE, Stored, Weight

TINY = GptConfig(vocabulary=11, positions=8, layers=4, heads=2, width=8, ffn_width=12)
CONFIGS = {
    "Cerebras-GPT": TINY,
    "muP": replace(preset("tiny-mup").config, layers=3),
    "no bias, a head of its own, tanh": replace(TINY, layers=3, bias=False, head=Head.SEPARATE, activation=Activation.GELU_TANH),
    "no head": replace(TINY, layers=3, head=Head.NONE),
    "scores by layer": replace(TINY, layers=3, attention_scale_by_layer=True),
    "one layer": replace(TINY, layers=1),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_repeated_layers_are_what_tracing_them_gives(name: str) -> None:
    config = CONFIGS[name]
    found = capture_gpt(config, {}, EMPTY_STORE, Request())
    verify(found)
    assert str(found) == str(trace_gpt(config, {}, EMPTY_STORE, Request()))


def test_each_layer_has_its_own_weights_however_they_are_stored() -> None:
    def stored(name: str, shape: tuple[int, ...]) -> Weight:
        if len(shape) == 2 and ".h." in name:
            return converted(transposed(Stored(f"model.{name}", f32, shape[::-1]), (1, 0)), bf16)
        return converted(Stored(f"model.{name}", f32, shape), bf16)

    weights = {name: stored(name, shape) for name, shape in TINY.parameters()}
    found = capture_gpt(TINY, weights, EMPTY_STORE, Request(), bf16)
    assert str(found) == str(trace_gpt(TINY, weights, EMPTY_STORE, Request(), bf16))


def test_layers_that_are_no_chain_are_not_repeated() -> None:
    graph = trace_gpt(replace(TINY, layers=2), {}, EMPTY_STORE, Request())
    parameters = {name: Stored(name, f32, shape) for name, shape in TINY.parameters()}
    with pytest.raises(ValueError, match="is no parameter of its own"):
        repeat_last_layer(graph, "transformer.h", 4, {**parameters, "transformer.h.1.ln_1.weight": Stored("other", f32, (8,))})
    graph.add_output("early", next(node.result for node in graph.nodes if node.op.name == "gelu" and "h.1" in node.location.path))
    with pytest.raises(ValueError, match="gives 2 values"):
        repeat_last_layer(graph, "transformer.h", 4, parameters)
