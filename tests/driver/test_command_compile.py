"""The main road, from a file of weights to generated ids, as a user walks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgptc
from cgptc.cli.entry import run
from cgptc.driver.evaluation import text_loss
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.parser import parse_graph

TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {f"w{number}": number for number in range(512)}, "unk_token": "w0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its tokenizer, and the artifact compiled from them."""
    place = tmp_path_factory.mktemp("main-road")
    write_model(preset("tiny"), place / "model.pt")
    (place / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (place / "generation_config.json").write_text('{"eos_token_id": [5, 511]}')
    assert run(["compile", str(place / "model.pt"), "-o", str(place / "out")]) == 0
    return place


def test_compile_prints_what_it_did_and_does_the_same_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", str(folder / "model.pt"), "-o", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr().out
    for part in ("2 layers", "0.1 M parameters", "f32", "batch, seq, past stay symbolic", "model.onnx", "sha256", "peak RSS"):
        assert part in printed
    assert cgptc.load(tmp_path / "again").folder.digest == cgptc.load(folder / "out").folder.digest


def test_the_artifact_generates_what_its_full_run_says(folder: Path) -> None:
    """Greedy tokens through the cache are the largest logits of one run over the whole text."""
    artifact = cgptc.load(folder / "out")
    made = artifact.generate([7, 8, 9], max_new_tokens=6).ids
    logits = artifact.run(input_ids=[[7, 8, 9, *made]])["logits"]
    assert logits[0, 2:-1].argmax(axis=-1).tolist() == list(made)


def test_run_continues_ids_and_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(folder / "out"), "--prompt-ids", "7,8,9", "--max-new-tokens", "4"]) == 0
    ids = capsys.readouterr().out.strip().split(",")
    assert run(["run", str(folder / "out"), "--prompt", "w7 w8 w9", "--max-new-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("w7 w8 w9")
    assert [word.removeprefix("w") for word in text.removeprefix("w7 w8 w9").split()] == ids


def test_a_batch_of_prompts_gives_each_what_it_gets_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = []
    for prompt in ("7,8,9", "3"):
        assert run(["run", str(folder / "out"), "--prompt-ids", prompt, "--max-new-tokens", "4"]) == 0
        alone.append(capsys.readouterr().out.strip())
    command = ["run", str(folder / "out"), "--prompt-ids", "7,8,9", "--prompt-ids", "3", "--max-new-tokens", "4"]
    assert run(command) == 0
    assert capsys.readouterr().out.split() == alone


def test_generation_ends_at_the_models_own_stop_tokens(folder: Path) -> None:
    assert cgptc.load(folder / "out").text_model.stop == {5, 511}


def test_a_model_without_a_cache_generates_the_same_within_its_bounds(folder: Path, tmp_path: Path) -> None:
    command = [
        "compile",
        str(folder / "model.pt"),
        "-o",
        str(tmp_path / "out"),
        "--cache",
        "none",
        "--dynamic",
        "seq=1..16",
        "--ops",
        "standard",
    ]
    assert run(command) == 0
    plain, cached = cgptc.load(tmp_path / "out"), cgptc.load(folder / "out")
    assert (plain.interface.symbols["seq"].low, plain.interface.symbols["seq"].high) == (1, 16)
    assert not plain.interface.cached
    prompts: list[list[int]] = [[7, 8, 9], [3]]
    assert plain.generate_batch(prompts, max_new_tokens=4) == cached.generate_batch(prompts, max_new_tokens=4)


def test_eval_gives_both_sides_the_same_score(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(" ".join(f"w{number % 97}" for number in range(300)))
    assert run(["eval", str(folder / "out"), "--text", str(tmp_path / "text.txt"), "--against", str(folder / "model.pt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["artifact"]["tokens"] == found["PyTorch"]["tokens"] == 299
    assert f"{found['artifact']['perplexity']:.3f}" == f"{found['PyTorch']['perplexity']:.3f}"
    # Random weights foresee nothing: about as many choices as there are tokens.
    assert 400 < found["artifact"]["perplexity"] < 650


@pytest.mark.parametrize("length", [2, 3, 7, 100])
def test_every_token_but_the_first_is_foreseen_once_whatever_the_window(length: int) -> None:
    """A model that gives every token the probability of its id among 1 to 10 has a loss that does not depend on windows."""
    ids = [1, 5, 9, 2, 2, 7, 3, 8, 4, 6]
    weights = np.log(np.arange(1, 11))

    def model(window: Any) -> Any:
        return np.broadcast_to(weights, (1, window.shape[1], 10))

    expected = sum(np.log(55) - weights[token] for token in ids[1:])
    assert abs(text_loss(model, ids, length) - expected) < 64 * np.finfo(float).eps * expected


def test_opt_prints_a_graph_that_reads_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["opt", str(folder / "out" / "graph.cgir"), "--passes", "canonicalize,cse,dead-code"]) == 0
    printed = capsys.readouterr().out
    assert str(parse_graph(printed)) == printed


def test_explain_takes_a_preset_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "tiny-mup", "fusions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"attention": [2, 2], "layer-norm": [5, 5], "gelu": [2, 2], "linear": [9, 9], "embedding": [2, 2]}
    assert [row["subject"] for row in found["done"]] == ["mask", "mask"]


def test_explain_reads_an_artifacts_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(folder / "out"), "-v"]) == 0
    assert "transformer.h.1.attn" in capsys.readouterr().out


def test_passes_and_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "passes"]) == 0
    assert "fuse-attention" in capsys.readouterr().out
    assert run(["list", "targets"]) == 0
    assert "onnx" in capsys.readouterr().out


def _wrong(folder: Path, place: Path) -> dict[str, Path]:
    (place / "pickled.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    (place / "text.pt").write_text("hello")
    (place / "bad_tokenizer").mkdir()
    (place / "bad_tokenizer" / "tokenizer.json").write_text("{}")
    return {"m": folder / "model.pt", "tmp": place, "out": folder / "out"}


WRONG_USES: list[tuple[str, int, str, str]] = [
    ("compile", 2, "missing-argument", "--help"),
    ("compile {tmp}/none.pt", 7, "", "none.pt"),
    ("compile {m} --target onx", 2, "unknown-target", "did you mean 'onnx'?"),
    ("compile {m} --taget onnx", 2, "unknown-option", "did you mean '--target'?"),
    ("compile {m} --cache always", 2, "bad-value", "none, dynamic"),
    ("compile {m} --dynamic seq=9", 2, "bad-value", "seq=1..2048"),
    ("compile {m} --batch 0", 2, "bad-value", "1 or more"),
    ("compile {m} --passes fuse-atention", 2, "unknown-pass", "did you mean 'fuse-attention'?"),
    ("compile {m} --disable-pass fold", 2, "unknown-pass", "cgptc list passes"),
    ("compile {m} --ops contrib", 2, "bad-option", "ort, standard"),
    ("compile {m} --opset 3", 2, "bad-option", "21"),
    ("compile {m} --verify-each never", 2, "bad-value", "off"),
    ("compile {m} --preset tny", 2, "unknown-preset", "did you mean"),
    ("compile {m} --preset tiny --config {tmp}/c.json", 2, "usage", "one of them"),
    ("compile {m} --preset gpt2", 5, "", "model.pt"),
    ("compile {m} --config {tmp}/c.json", 7, "", "c.json"),
    ("compile {m} --tokenizer {tmp}", 2, "no-tokenizer", "vocab.json"),
    ("compile {m} --tokenizer {tmp}/bad_tokenizer", 4, "tokenizer", "check"),
    ("compile {m} -o {tmp}/no/out", 7, "no-folder", "make it first"),
    ("compile {m} -o {tmp}/text.pt", 2, "not-an-artifact", "-o"),
    ("compile {tmp}/pickled.pt", 3, "", ""),
    ("compile {tmp}/text.pt", 5, "", ""),
    ("check nothing", 7, "no-such-model", "cgptc list presets"),
    ("check tiny --target onx", 2, "unknown-target", "did you mean 'onnx'?"),
    ("opt {tmp}/none.cgir --passes cse", 7, "read", "text form"),
    ("opt {tmp}/text.pt --passes cse", 4, "", "graph"),
    ("opt {out}/graph.cgir --passes cs", 2, "unknown-pass", "did you mean 'cse'?"),
    ("eval {out} --text {tmp}/none.txt", 7, "read", "text file"),
    ("eval {out} --text {tmp}/pickled.pt", 4, "text", "UTF-8"),
    ("eval {out} --text {tmp}/text.pt", 2, "short-text", "at least two"),
    ("eval {out} --text {tmp}/text.pt --preset tiny", 2, "usage", "--against"),
    ("run {out} --prompt-ids 1,600", 2, "bad-token", "0 to 511"),
    ("run {out} --prompt-ids 1 --max-new-tokens 200", 2, "context", "at most 128"),
    ("run {out} --prompt-ids 1 --max-new-tokens 0", 2, "bad-value", "1 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "name", "step"), WRONG_USES, ids=[use[0] for use in WRONG_USES])
def test_a_wrong_use_gives_its_exit_code_and_one_line_with_a_next_step(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    code: int,
    name: str,
    step: str,
) -> None:
    names: dict[str, Any] = _wrong(folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(arguments.format(**names).split()) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    line, *details = printed.err.splitlines()
    assert line.startswith(f"error[{name}]: " if name else "error[")
    assert step in line
    assert all(detail.startswith("  ") for detail in details)
    assert sorted(tmp_path.rglob("*")) == before
