"""A small GPT in stages: the same numbers as in one piece, and caches that stay where their layers are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, STANDARD, model_of, session_of
from tests.backends.onnx.test_whole_models import continued, empty_cache, left_padded, tokens
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx.backend import BACKEND
from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.staged_session import StagedOnnxSession
from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.op import Array
from cgptc.ir.stage_plan import StagePlan
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing.tolerances import assert_t3, noise_floor

MODELS = (TinyGpt(layers=3), TinyGpt(layers=3, rotary=True, key_heads=4, window=3), TinyGpt(layers=2, tied=False))


def opened(model: TinyGpt, stages: int, options: OnnxOptions, folder: Path) -> StagedOnnxSession:
    graph = model.graph()
    Pipeline.parse(f"pipeline{{stages={stages}}}").run(graph, PassContext(cost_model=OnnxCostModel()))
    BACKEND.emit(graph, folder, options)
    session = BACKEND.load(folder, options)
    assert isinstance(session, StagedOnnxSession)
    assert len(session.stages) == stages
    return session


def assert_close(expected: dict[str, Array], found: dict[str, Array]) -> None:
    assert list(expected) == list(found)
    for name, array in expected.items():
        wide = array.astype(np.float64)
        noise = wide * (1 + np.random.default_rng(0).standard_normal(wide.shape) * 2.0**-22)
        assert_t3(wide, found[name], noise_floor(wide, [noise]), where=name)


@pytest.mark.parametrize("options", [ORT, STANDARD], ids=["ort", "standard"])
@pytest.mark.parametrize("model", MODELS, ids=["grouped", "rotary", "untied"])
def test_stages_give_what_the_model_gives_in_one_piece(model: TinyGpt, options: OnnxOptions, tmp_path: Path) -> None:
    whole = session_of(model_of(model.graph(), options))
    staged = opened(model, 3, options, tmp_path)
    prompt = {"input_ids": tokens(2, 5), "attention_mask": left_padded(5, 3)}
    first = whole.run(prompt)
    assert_close(first, staged.run(prompt))
    more = {"input_ids": tokens(2, 3), "attention_mask": np.concatenate([prompt["attention_mask"], np.ones((2, 3), np.int64)], axis=1)}
    assert_close(whole.run({**more, **continued(first)}), staged.run({**more, **continued(first)}))


def test_each_stage_keeps_the_cache_of_its_layers(tmp_path: Path) -> None:
    model = MODELS[0]
    staged = opened(model, 3, ORT, tmp_path)
    ids = tokens(2, 6)
    expected = staged.run({"input_ids": ids})["logits"]
    for slot, (start, stop) in [(0, (0, 4)), (7, (0, 2)), (0, (4, 5)), (0, (5, 6))]:
        known = {"input_ids": ids[:, start:stop], "attention_mask": np.ones((2, stop), np.int64)}
        for planned, stage in zip(staged.plan.stages, staged.stages, strict=True):
            given = {name: known[name] for name in planned.inputs if not name.startswith("past_key_values")}
            found = stage.read(slot, 2, start == 0, given)
            assert not any(name.startswith("present") for name in found)
            known |= found
    assert_close({"logits": expected[:, 5:]}, {"logits": known["logits"]})


def test_a_stage_holds_its_own_layers_and_no_others(tmp_path: Path) -> None:
    staged = opened(MODELS[0], 3, ORT, tmp_path)
    held = [[port.name for port in stage.session.pasts] for stage in staged.stages]
    assert sorted(name for names in held for name in names) == sorted(empty_cache(MODELS[0], 1))
    assert all(held)
    assert len(staged.stages[0].session.inputs) == 2 + len(held[0])


def test_rows_of_a_gpt_may_go_apart(tmp_path: Path) -> None:
    assert opened(MODELS[1], 2, ORT, tmp_path).plan.rows_apart


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"edges": []}, "no source for 'edge.0'"),
        ({"edges": [{"name": "edge.0", "producer": 1, "consumers": [0], "depth": 2}]}, "does not go forward|no source"),
        ({"outputs": ["other"]}, "no stage that makes 'other'"),
        ({"rows_apart": 1}, "is no plan"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_refused(change: dict[str, object], fault: str, tmp_path: Path) -> None:
    plan = opened(MODELS[0], 2, ORT, tmp_path).plan
    value = json.loads(json.dumps(plan.to_json()))
    assert StagePlan.from_json(value) == plan
    with pytest.raises(MalformedError, match=fault):
        StagePlan.from_json({**value, **change})
