"""What precision and sparsity cost: measured for each matrix and for the outputs, and told where nothing is gained."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.artifact.canonical import canonical_json
from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.cli.loss_rows import compile_rows, explain_rows
from cgptc.driver.losses import LossWatch, warn_of_overflow
from cgptc.ir.diagnostics import Warnings
from cgptc.ir.graph import Graph
from cgptc.ir.weights import EMPTY_STORE, MemoryStore
from cgptc.passes.manager import PassContext, Pipeline


def losses(passes: str, *, weights: bool = True) -> dict:  # type: ignore[type-arg]
    graph, watch = TinyGpt().graph(), LossWatch()
    if not weights:
        graph.store = EMPTY_STORE
    Pipeline.parse(passes).run(graph, PassContext(cost_model=OnnxCostModel()), [watch])
    return watch.to_json(graph)


def test_nothing_is_told_where_nothing_is_traded() -> None:
    assert losses("canonicalize,dead-code") == {}
    assert compile_rows({}) == []


def test_every_quantised_matrix_has_its_error_and_the_outputs_have_theirs() -> None:
    found = losses("quantize{bits=4 block=8 activations=blocks keep=lm_head}")
    rows = found["matrices"]
    assert len(rows) == 12
    assert all(0.01 < row["output_error"] < 0.5 for row in rows)
    assert all(row["pattern"] == "i4" and row["bytes"] < row["dense_bytes"] / 3 for row in rows)
    assert 0.001 < found["outputs"]["logits"]["relative"] < 0.5
    better = losses("quantize{bits=8 activations=exact}")["outputs"]["logits"]["relative"]
    assert better < found["outputs"]["logits"]["relative"] / 4


def test_a_pattern_that_onnxruntime_cannot_use_is_no_gain_and_removed_rows_are_one() -> None:
    found = losses("sparsify{pattern=2:4 keep=lm_head;h.0},prune-neurons{only=h.0},remove-dead")
    patterns = {row["pattern"]: row for row in found["matrices"]}
    assert set(patterns) == {"n:m 2:4@0", "rows"}
    assert patterns["n:m 2:4@0"]["zeros"] == 0.5
    assert patterns["n:m 2:4@0"]["decode"] == 1
    table = explain_rows(found, "sparsity")
    assert "no gain" in next(row for row in table if "n:m 2:4@0" in row)
    assert explain_rows(found, "precision") == table[-1:]
    assert np.isfinite([row["output_error"] for row in found["matrices"]]).all()


@pytest.mark.parametrize(("bandwidth", "gathered"), [(OnnxCostModel().bytes_per_second, False), (1e6, True)])
def test_rows_behind_a_norm_are_a_gain_where_a_gather_is_worth_it(bandwidth: float, gathered: bool) -> None:
    """What a norm gives stays as wide as it is, whatever the layer behind it reads; neurons go anyway."""
    graph, watch = TinyGpt().graph(), LossWatch()
    assert isinstance(graph.store, MemoryStore)
    for name, tensor in graph.store.tensors.items():
        if name.endswith(("h.0.up.weight", "h.1.down.weight")):
            tensor[:, ::2] = 0  # stored as [outputs, inputs]
    context = PassContext(cost_model=OnnxCostModel(bytes_per_second=bandwidth))
    Pipeline.parse("find-zeros,remove-dead,pick-living").run(graph, context, [watch])
    above, below = watch.rows
    halved = [row["bytes"] * 2 == row["dense_bytes"] for row in (above, below)]  # type: ignore[operator]
    assert (above["pattern"], below["pattern"], halved) == ("rows", "rows", [gathered, True])
    assert [above[when] > 1 for when in ("decode", "prefill")] == [gathered] * 2  # type: ignore[operator]
    assert (above["decode"] == 1) != gathered


def test_a_type_is_measured_in_its_own_arithmetic() -> None:
    found = losses("convert{dtype=f16}")
    assert 1e-5 < found["outputs"]["logits"]["relative"] < 1e-2
    assert all(1e-5 < row["output_error"] < 1e-2 for row in found["matrices"])


@pytest.mark.parametrize("passes", ["quantize", "sparsify{keep=lm_head}", "prune-heads{count=2},remove-dead"])
def test_without_weights_there_are_no_errors(passes: str) -> None:
    found = losses(passes, weights=False)
    assert found["outputs"] == {}
    assert {row["output_error"] for row in found["matrices"]} == {None}


def overdone(name: str, factor: float) -> Graph:
    """A small GPT with one tensor multiplied."""
    graph = TinyGpt().graph()
    tensors = graph.store.tensors  # type: ignore[attr-defined]
    place = next(each for each in tensors if name in each and tensors[each].ndim == 2)
    tensors[place] = (tensors[place] * factor).astype(np.float32)
    return graph


def test_marks_in_the_weights_leave_no_error_to_tell_and_no_failure() -> None:
    graph, watch = overdone("h.0.up", 1.0), LossWatch()
    tensors = graph.store.tensors  # type: ignore[attr-defined]
    tensors["h.0.up.weight"][0, 0] = np.nan
    Pipeline.parse("find-zeros").run(graph, PassContext(cost_model=OnnxCostModel()), [watch])
    found = watch.to_json(graph)
    canonical_json(found)  # which has no word for NaN
    assert found["outputs"] == {"logits": {"not_finite": "model"}}
    assert "the model's own numbers are not finite" in explain_rows(found, "sparsity")[-1][1]


def test_an_overflow_is_told_with_its_place() -> None:
    graph, watch, warnings = overdone("h.0.up", 3e4), LossWatch(), Warnings()
    Pipeline.parse("convert{dtype=f16}").run(graph, PassContext(cost_model=OnnxCostModel()), [watch])
    found = watch.to_json(graph)
    assert found["outputs"] == {"logits": {"not_finite": "compiled"}}
    warn_of_overflow(found, graph, warnings)
    assert "f16 overflows at transformer.h.0.mlp" in warnings.lines[0]


def test_a_small_error_is_not_shown_as_none() -> None:
    rows = explain_rows(losses("convert{dtype=f16}"), "precision")
    assert all(0 < float(row[-1].rstrip("%")) < 1 for row in rows[1:-1])
