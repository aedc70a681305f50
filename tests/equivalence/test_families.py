"""Every family, as it lies on disk: PyTorch, its graph, what each pass makes of it, ONNX's own operators, onnxruntime's, and the wafer.

At the lengths where something changes: one token, around the window and at twice of it; through the cache from a past of none, one and
more; alone and left-padded, beside a row without a token; heads tied and untied, widths that no tile divides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.wafer.planned import continued, planned
from tests.driver.test_families import GENERATING
from tests.frontend.hf_configurations import CONFIGS
from tests.frontend.test_hf_families import write_folder

from cgptc.backends.wafer.plan.lifting import lift
from cgptc.driver.compilation import compile_model, optimise, target_of
from cgptc.driver.options import CompileOptions
from cgptc.driver.verification import verify_model
from cgptc.driver.verification.reference import Reference
from cgptc.frontend.hf_config import FAMILIES
from cgptc.frontend.source import CapturedModel, open_model
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import IDS, LOGITS, MASK, Interface
from cgptc.testing.tolerances import assert_t1, assert_t3

TYPES = "token_type_ids"
WINDOW, LIMIT = 4, 32
LENGTHS = (1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, LIMIT)
ODD: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 21, "n_head": 3, "n_inner": 13},
    "gpt_neo": {"intermediate_size": 13},
    "gptj": {"n_inner": 13},
    "gpt_neox": {"num_hidden_layers": 1, "intermediate_size": 37, "use_parallel_residual": False},
    "opt": {"num_hidden_layers": 1, "ffn_dim": 37},
    "llama": {"intermediate_size": 37, "tie_word_embeddings": True},
    "mistral": {"num_hidden_layers": 1, "intermediate_size": 37, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "qwen2": {"num_hidden_layers": 1, "intermediate_size": 37, "tie_word_embeddings": False},
    "qwen3": {"intermediate_size": 37, "head_dim": 10, "tie_word_embeddings": False},
    "bert": {"num_hidden_layers": 1, "intermediate_size": 37},
}
"""Widths that nothing divides, the head of the other kind than in `CONFIGS` where there are both, and one layer where all are alike."""


def shapes() -> Iterator[Any]:
    """Every family plain and odd; by default the odd ones, of families that are not drawn in `tests/driver/test_families.py`."""
    for name in CONFIGS:
        yield pytest.param((name, False), id=name, marks=pytest.mark.slow)
        yield pytest.param((name, True), id=f"{name}-odd", marks=[pytest.mark.slow] if name in GENERATING else [])


@pytest.fixture(scope="module", params=shapes())
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CapturedModel]:
    name, odd = request.param
    config = {**CONFIGS[name], **(ODD[name] if odd else {})}
    folder = write_folder(tmp_path_factory.mktemp(name) / "model", config, next(iter(FAMILIES[name].classes)))
    with open_model(str(folder)) as model:
        yield model


def copy_of(model: CapturedModel) -> CapturedModel:
    """The passes change a graph: this one may be changed."""
    return replace(model, graph=model.graph.clone())


@pytest.mark.parametrize("ops", ["ort", pytest.param("standard", marks=pytest.mark.slow)])
def test_pytorch_graph_passes_and_onnx_agree_at_every_edge(family: CapturedModel, ops: str, tmp_path: Path) -> None:
    """Each pass in float64 as well, the graph against PyTorch in float64, and onnxruntime within the noise of the model's type."""
    artifact = compile_model(copy_of(family), CompileOptions(verify_each="numeric", target_options={"ops": ops}), tmp_path / "out")
    found = verify_model(artifact.path, family, LENGTHS)
    assert not found.failed
    assert {check.length for check in found.checks} >= set(LENGTHS)
    kinds = {check.what.split(",")[0] for check in found.checks}
    if family.text is None:
        return
    assert {"whole run", "prefill and decode", "left-padded", "left-padded decode", "greedy generation"} <= kinds
    ids = tokens(2, WINDOW + 1)
    mask = np.array([[1] * (WINDOW + 1), [0] * (WINDOW + 1)])
    outputs = artifact.session.run(complete(artifact.graph, {IDS: ids, MASK: mask}))
    assert all(np.isfinite(array).all() for array in outputs.values())
    answer = Reference.of(family).answer({IDS: ids[:1]})
    assert_t3(answer.outputs[LOGITS][0], outputs[LOGITS][0], answer.floors[LOGITS])


def tokens(batch: int, length: int) -> Array:
    return np.random.default_rng(length).integers(3, 61, (batch, length))


def complete(graph: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """With what has a natural default, and token types in turn where the model takes them."""
    if any(value.name == TYPES for value in graph.inputs):
        inputs = {TYPES: inputs[IDS] % 2, **inputs}
    return complete_inputs(Interface.of(graph), inputs)


@pytest.mark.slow
def test_the_wafer_agrees_at_every_edge(family: CapturedModel) -> None:
    """In float64, on a test machine with doubled memory: whole runs in chunks of three tokens, tokens one by one from a past of one, and a
    left-padded row beside one without a token.
    """
    options = CompileOptions(target="wafer", verify_each="numeric")
    graph = optimise(copy_of(family), target_of(options), options).graph
    refused = lift(graph)[1]
    assert not refused, [one.reason for one in refused]
    session = planned(graph, chunk=3).session

    def agree(ids: Array, inputs: dict[str, Array]) -> dict[str, Array]:
        """What the wafer gives for the last of ``ids``, which in float64 is what the model gives for them all."""
        outputs = session.run(inputs)
        whole = complete(family.graph, {IDS: ids})
        for name, expected in evaluate_graph(family.graph, whole, wide=True).items():
            count = outputs[name].shape[1] if expected.ndim == 3 else None
            assert_t1(
                expected if count is None else expected[:, -count:], outputs[name], depth=graph_depth(graph), where=f"{name} of {ids.shape}"
            )
        return outputs

    for length in LENGTHS[:-1]:
        agree(tokens(1, length), complete(graph, {IDS: tokens(1, length)}))
    if family.text is None:
        return
    ids = tokens(1, WINDOW + 2)
    inputs = complete(graph, {IDS: ids[:, :1]})
    for place in range(1, WINDOW + 2):
        inputs = continued(inputs, session.run(inputs), ids[:, place : place + 1])
        agree(ids[:, : place + 1], inputs)
    rows, mask = tokens(2, WINDOW + 3), np.ones((2, WINDOW + 3), np.int64)
    mask[0, :2], mask[1] = 0, 0
    found = session.run(complete(graph, {IDS: rows, MASK: mask}))[LOGITS]
    alone = evaluate_graph(family.graph, complete(family.graph, {IDS: rows[:1, 2:]}), wide=True)[LOGITS]
    assert_t1(alone[0], found[0, 2:], depth=graph_depth(graph), where="a left-padded row")
    assert not found[1].any()
