"""Models in stages, from the command line to the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgptc
from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.cli.checking import shared_weight
from cgptc.cli.entry import run
from cgptc.driver.compilation import pipeline_for, target_of
from cgptc.driver.options import CompileOptions, parse_bytes
from cgptc.driver.stage_survey import survey_stages
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Embedding, Linear, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore
from cgptc.passes.pipeline import CutIntoStages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, compiled in one piece and in four."""
    place = tmp_path_factory.mktemp("stages")
    write_model(preset("tiny"), place / "model.pt")
    cgptc.compile(place / "model.pt", output=place / "whole")
    cgptc.compile(place / "model.pt", output=place / "staged", stages=4)
    return place


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_staged_artifact_lists_its_stages_and_edges(folder: Path) -> None:
    manifest = cgptc.load(folder / "staged").folder.manifest
    assert sorted(name for name in manifest.files if name.startswith("stage-") and name.endswith(".onnx")) == [
        f"stage-{index}.onnx" for index in range(4)
    ]
    facts: Any = manifest.backend
    assert [edge["depth"] for edge in facts["edges"] if edge["consumers"] == [edge["producer"] + 1]]
    assert len(facts["stages"]) == 4
    assert manifest.pipeline.endswith("legalise,pipeline{stages=4}")


def test_stages_give_the_tokens_and_the_logits_of_one_piece(folder: Path) -> None:
    whole, staged = cgptc.load(folder / "whole"), cgptc.load(folder / "staged")
    prompts = [[7, 8, 9, 10], [3], [100, 200]]
    expected = whole.generate_batch(prompts, max_new_tokens=12)
    assert staged.generate_batch(prompts, max_new_tokens=12) == expected
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    left, right = whole.run(input_ids=ids), staged.run(input_ids=ids)
    assert list(left) == list(right)
    assert (left["logits"].argmax(-1) == right["logits"].argmax(-1)).all()


def test_micro_batches_change_no_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt-ids", "7,8,9", "--prompt-ids", "3", "--prompt-ids", "1,2,3,4", "--max-new-tokens", "5"]
    expected = answer(capsys, "run", str(folder / "whole"), *arguments)
    for parts in ("1", "3"):
        assert answer(capsys, "run", str(folder / "staged"), *arguments, "--engine", "local", "--micro-batches", parts) == expected


def test_several_tokens_after_a_past_go_through_in_a_batch(folder: Path) -> None:
    whole, staged = cgptc.load(folder / "whole"), cgptc.load(folder / "staged")
    ids = np.arange(2 * 7).reshape(2, 7)
    first = staged.run(input_ids=ids[:, :4])
    pasts = {name.replace("present", "past_key_values"): array for name, array in first.items() if name.startswith("present")}
    found = staged.run(input_ids=ids[:, 4:], **pasts)["logits"]
    assert (found.argmax(-1) == whole.run(input_ids=ids)["logits"][:, 4:].argmax(-1)).all()


def test_a_staged_artifact_is_verified_against_its_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "verify", str(folder / "staged"), "--against", str(folder / "model.pt"), "--lengths", "1,3")
    assert found["checks"]
    assert all(check["passed"] for check in found["checks"])


def test_explain_shows_what_each_stage_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", str(folder / "staged"), "stages")
    assert [row["stage"] for row in found["stages"]] == [0, 1, 2, 3]
    assert max(row["busy"] for row in found["stages"]) == 1.0
    assert all(row["received"] for row in found["stages"][1:])
    assert run(["explain", str(folder / "staged"), "stages"]) == 0
    assert "times the throughput of one piece" in capsys.readouterr().out


def test_explain_says_what_the_copies_of_a_tied_table_take_and_what_sending_it_would(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shared,) = answer(capsys, "explain", str(folder / "staged"), "stages")["shared"]
    assert (shared["weight"], shared["stages"], shared["held"]) == ("transformer.wte.weight", [0, 3], [0, 3])
    assert shared["copied_bytes"] == 2 * shared["bytes"]
    assert shared["sent_bytes"] == 5 * shared["bytes"], "its own, and a buffer in each of four stages"
    assert run(["explain", str(folder / "staged"), "stages"]) == 0
    assert "a copy in each of stages 0 and 3" in capsys.readouterr().out


def test_explain_says_which_stage_sends_a_tied_table() -> None:
    store = MemoryStore({})
    graph = Graph("tied", store)
    ids = graph.add_input("ids", TensorType(i64, (3,)))
    first, second = (Builder(graph, stage=stage) for stage in (0, 1))
    table = first.weight(store.add("wte", np.ones((5, 4), np.float32)))
    row = first(Embedding(), table, ids)
    graph.add_output("y", second(Linear(), row, second(Transpose((1, 0)), table)))
    (shared,) = survey_stages(graph, OnnxCostModel(), CutIntoStages()).shared
    assert (shared.weight, shared.stages, shared.held, shared.copied_bytes, shared.sent_bytes) == ("wte", (0, 1), (0,), 160, 240)
    assert "sent on from stage 0 to 1" in shared_weight(shared, "seconds")


def test_explain_cuts_the_shape_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", "tiny-untied", "stages", "--stages", "2")
    assert len(found["stages"]) == 2
    assert found["throughput_gain"] > 1


def test_a_stage_may_take_as_much_memory_as_is_said() -> None:
    options = CompileOptions(stages="4", stage_memory=parse_bytes("1.5MB"))
    assert str(pipeline_for(target_of(options), options, cached=True)).endswith(",pipeline{stages=4 memory=1500000}")
    assert [parse_bytes(text) for text in ("64", "2kB", "3 GB")] == [64, 2000, 3 * 10**9]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["explain", "{}/whole", "stages"], "the model is in one piece"),
        (["explain", "{}/staged", "stages", "--stages", "2"], "drop --stages"),
        (["explain", "{}/staged", "stags"], "did you mean 'stages'"),
        (["compile", "{}/model.pt", "--stages", "0"], "no number of stages"),
        (["run", "{}/whole", "--prompt-ids", "1", "--engine", "local"], "the model is in one piece"),
        (["run", "{}/staged", "--prompt-ids", "1", "--engine", "loca"], "choose one of local, ray"),
        (["run", "{}/staged", "--prompt-ids", "1", "--micro-batches", "0"], "no number of micro-batches"),
        (["run", "{}/staged", "--prompt-ids", "1", "--ray-address", "x:1"], "add --engine ray"),
        (["compile", "{}/model.pt", "--stages", "2", "--passes", "pipeline"], "exclude each other"),
        (["compile", "{}/model.pt", "--stage-memory", "64MB"], "add --stages"),
        (["compile", "{}/model.pt", "--stages", "2", "--stage-memory", "64MiB"], "no number of bytes"),
        (["explain", "{}/model.pt", "fusions", "--stage-memory", "64MB"], "are for the topic 'stages'"),
    ],
)
def test_wrong_words_about_stages_are_usage_errors(
    arguments: list[str], part: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([argument.format(folder) for argument in arguments]) == 2
    assert part in capsys.readouterr().err


def test_the_cut_comes_behind_all_other_passes() -> None:
    options = CompileOptions(passes="pipeline{stages=2},canonicalize")
    names = [pass_.name for pass_ in pipeline_for(target_of(options), options, cached=True).passes]
    assert names == ["canonicalize", "add-cache", "legalise", "pipeline"]
    with pytest.raises(UsageError):
        CompileOptions(stages="many")
