"""The files by which onnxruntime-genai and optimum open an artifact; tests/interop opens it with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cgptc
from cgptc.driver.runtime_configs import genai_config
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.frontend.source import TextModel
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.types import TensorType
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.interface import Interface, Port

BATCH, SEQ, PAST = (Symbol(name, low, 8).dim for name, low in (("batch", 1), ("seq", 1), ("past", 0)))
IDS, MASK = Port("input_ids", TensorType(i64, (BATCH, SEQ))), Port("attention_mask", TensorType(i64, (BATCH, PAST + SEQ)))


def interface(*inputs: Port) -> Interface:
    outputs = [Port(port.name.replace("past_key_values", "present"), port.type) for port in inputs if port.type.rank == 4]
    return Interface(inputs, (Port("logits", TensorType(f32, (BATCH, SEQ, 11))), *outputs))


def pasts(*heads: int) -> list[Port]:
    return [
        Port(f"past_key_values.{layer}.{kind}", TensorType(f32, (BATCH, count, PAST, 16)))
        for layer, count in enumerate(heads)
        for kind in ("key", "value")
    ]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("configs")
    write_model(preset("tiny"), folder / "model.pt")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 511]}')
    return cgptc.compile(folder / "model.pt", output=folder / "out")


def test_a_causal_model_has_both_files_and_they_are_hashed(artifact: Artifact) -> None:
    assert {"genai_config.json", "config.json"} <= set(artifact.folder.manifest.files)


def test_genai_is_told_the_cache_the_context_and_where_texts_end(artifact: Artifact) -> None:
    found = json.loads((artifact.path / "genai_config.json").read_text())
    model = found["model"]
    assert (model["vocab_size"], model["context_length"], model["eos_token_id"]) == (512, 128, [5, 511])
    decoder = model["decoder"]
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (2, 4, 16)
    assert (artifact.path / decoder["filename"]).is_file()
    assert found["search"]["past_present_share_buffer"] is True


def test_optimum_is_told_the_shape_and_where_texts_end(artifact: Artifact) -> None:
    found = json.loads((artifact.path / "config.json").read_text())
    assert (found["model_type"], found["n_layer"], found["eos_token_id"]) == ("gpt2", 2, [5, 511])


def test_a_tokenizer_that_came_alone_gets_the_file_that_runtimes_look_for(tmp_path: Path) -> None:
    write_model(preset("demo"), tmp_path / "demo")
    artifact = cgptc.compile(tmp_path / "demo", output=tmp_path / "out")
    assert json.loads((artifact.path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_model_without_a_cache_is_nothing_for_genai(tmp_path: Path) -> None:
    write_model(preset("tiny"), tmp_path / "model.pt")
    artifact = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out", cache="none")
    assert "genai_config.json" not in artifact.folder.manifest.files


@pytest.mark.parametrize("ports", [(IDS, *pasts(4)), (IDS, MASK), (IDS, MASK, *pasts(4, 2))], ids=["no mask", "no past", "uneven heads"])
def test_what_genai_cannot_drive_has_no_file(ports: tuple[Port, ...]) -> None:
    assert genai_config(interface(*ports), TextModel(11, None), "model.onnx", True) is None


def test_a_model_that_never_ends_names_no_end() -> None:
    found = genai_config(interface(IDS, MASK, *pasts(2)), TextModel(11, 8), "model.onnx", False)
    assert found is not None
    assert "eos_token_id" not in found["model"]  # type: ignore[operator]
