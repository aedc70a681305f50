"""GPTs that are drawn: PyTorch, the graph, what the passes of a compile make of it, and onnxruntime."""

from __future__ import annotations

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.equivalence.test_changes_without_meaning import PASSES

from cgptc.backends.onnx.backend import BACKEND
from cgptc.frontend.gpt import Gpt
from cgptc.frontend.oracle import evaluate_module, wide_copy
from cgptc.frontend.own_gpt import capture_gpt
from cgptc.frontend.source import Request
from cgptc.ir.comparison import graph_depth
from cgptc.ir.dtypes import f32
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.weights import MemoryStore, Stored
from cgptc.testing import assert_lowering_preserves, assert_pass_preserves, assert_t1, gpt_modules


@settings(max_examples=max(2, settings().max_examples // 60), phases=[Phase.explicit, Phase.generate])  # a second or two each
@given(gpt_modules(), st.integers(1, 3), st.integers(1, 5), st.integers(0, 4))
def test_a_drawn_gpt_is_the_same_in_pytorch_in_its_graph_behind_the_passes_and_in_onnxruntime(
    module: Gpt, batch: int, length: int, padding: int
) -> None:
    config, length = module.config, min(length, module.config.positions)
    tensors = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    weights = {name: Stored(name, f32, tensor.shape) for name, tensor in tensors.items()}
    graph = capture_gpt(config, weights, MemoryStore(tensors), Request())
    mask = np.ones((batch, length), np.int64)
    mask[0, : min(padding, length - 1)] = 0
    inputs = {"input_ids": np.random.default_rng(length).integers(0, config.vocabulary, mask.shape), "attention_mask": mask}
    ((name, _),) = graph.outputs
    expected = evaluate_module(wide_copy(module), inputs, wide=True, output_names=[name])[name]
    assert_t1(expected[mask > 0], evaluate_graph(graph, inputs, wide=True)[name][mask > 0], depth=graph_depth(graph))
    optimised = assert_pass_preserves(PASSES, graph, inputs)
    assert_lowering_preserves(BACKEND, optimised, inputs)
