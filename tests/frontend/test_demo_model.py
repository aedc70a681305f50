"""The demo model that comes with cgptc: complete, of the preset's shape, trained, and what `cgptc new` writes."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from tokenizers import Tokenizer

from cgptc.frontend.gpt import Gpt
from cgptc.frontend.gpt_config_json import from_huggingface
from cgptc.frontend.initialise import initial_tensors
from cgptc.frontend.new_model import trained_model, write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import UsageError

DEMO = preset("demo")
FOLDER = trained_model("demo")
HELD_OUT = Path(__file__).parents[2] / "examples" / "train" / "held_out.txt"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Gpt:
    model = Gpt(DEMO.config).eval()
    model.load_state_dict(load((FOLDER / "model.safetensors").read_bytes()))
    return model


def bits_per_byte(model: Gpt, tokenizer: Tokenizer, text: str) -> float:
    ids = torch.tensor(tokenizer.encode(text).ids)
    windows = ids[: len(ids) // 256 * 256].view(-1, 256)
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).item()
    return nats / math.log(2) * len(ids) / len(text.encode())


def test_files_say_the_presets_shape_and_one_end_of_text(tokenizer: Tokenizer) -> None:
    mapping = json.loads((FOLDER / "config.json").read_text())
    assert from_huggingface(mapping) == DEMO.config
    assert tokenizer.get_vocab_size() == DEMO.config.vocabulary
    assert mapping["eos_token_id"] == tokenizer.token_to_id("<|endoftext|>")
    assert json.loads((FOLDER / "generation_config.json").read_text())["eos_token_id"] == mapping["eos_token_id"]
    assert len((FOLDER / "model.safetensors").read_bytes()) < 8_000_000


def test_tokenizer_loses_nothing(tokenizer: Tokenizer) -> None:
    for text in [HELD_OUT.read_text().replace("<|endoftext|>", ""), "naïve 漢字 🙂\t\n  two  spaces", ""]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_it_predicts_text_that_it_never_saw_far_better_than_random_weights(model: Gpt, tokenizer: Tokenizer) -> None:
    text = HELD_OUT.read_text()
    random = Gpt(DEMO.config).eval()
    random.load_state_dict({name: torch.from_numpy(array) for name, array in initial_tensors(DEMO.config, 0)})
    assert bits_per_byte(random, tokenizer, text) > 2.8
    assert bits_per_byte(model, tokenizer, text) < 1.5


def test_new_writes_the_demo_as_file_and_as_folder(model: Gpt, tmp_path: Path) -> None:
    paths = write_model(DEMO, tmp_path / "model.pt")
    assert [path.name for path in paths] == ["model.pt", "tokenizer.json", "generation_config.json"]
    content = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    assert all(torch.equal(content[name], tensor) for name, tensor in model.state_dict().items())
    write_model(DEMO, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip
    assert (tmp_path / "folder" / "config.json").read_bytes() == (FOLDER / "config.json").read_bytes()


def test_new_does_not_overwrite_another_models_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="another model's"):
        write_model(DEMO, tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
