"""The training example: learns its text, fine-tunes what it wrote, and leaves folders that others open."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from cgptc.frontend.gpt import Gpt
from cgptc.frontend.gpt_config_json import from_huggingface
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.testing.tolerances import assert_t1

Train = Callable[..., str]
SCRIPT = Path(__file__).parents[2] / "examples" / "train" / "train.py"
TEXT = "".join(f"Verse {i % 7}: the quick brown fox jumps over the lazy dog.\n" + "<|endoftext|>\n" * (i % 5 == 4) for i in range(200))


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    (tmp_path / "text.txt").write_text(TEXT)

    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["train.py", "--data", str(tmp_path / "text.txt"), "--held-out", "0.1", *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


def loss_of(folder: Path) -> float:
    """Mean loss of a model folder on the text's beginning."""
    config = from_huggingface(json.loads((folder / "config.json").read_text()))
    model = Gpt(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    tokens = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT[:2000]).ids[: config.positions])[None]
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:]).item()


def test_a_new_model_learns_and_is_fine_tuned(train: Train, tmp_path: Path) -> None:
    write_model(preset("tiny"), tmp_path / "model.pt")
    log = train("--init", str(tmp_path / "model.pt"), "-o", str(tmp_path / "first"), "--steps", "12", "--batch", "2")
    assert "held out" in log
    first = loss_of(tmp_path / "first")
    assert first < 5.0  # an untrained model of 512 tokens has 6.2
    train("--init", str(tmp_path / "first"), "-o", str(tmp_path / "tuned"), "--steps", "12", "--batch", "2", "--rate", "1e-3")
    assert loss_of(tmp_path / "tuned") < first
    assert (tmp_path / "tuned" / "tokenizer.json").read_bytes() == (tmp_path / "first" / "tokenizer.json").read_bytes()


def test_transformers_opens_the_folder_and_agrees(train: Train, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    train("--preset", "tiny-gpt2", "-o", str(tmp_path / "folder"), "--steps", "2", "--batch", "2")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "folder").eval()
    assert theirs.generation_config.eos_token_id == 0
    ours = Gpt(preset("tiny-gpt2").config)
    ours.load_state_dict(load_file(tmp_path / "folder" / "model.safetensors"))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert_t1(theirs.double()(ids).logits.numpy(), ours.double()(ids).numpy(), depth=32 * ours.config.layers)


def test_a_text_too_short_for_one_window_is_refused(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("short")
    with pytest.raises(SystemExit):
        train("--preset", "tiny", "-o", str(tmp_path / "folder"))
    assert "too short" in capsys.readouterr().err
