"""Looking on while a compile runs, looking without compiling, and looking at what two compiles did differently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from tests.passes.attention_graphs import Spelling, decoder

import cgptc
from cgptc.cli import commands
from cgptc.cli.command import app
from cgptc.cli.entry import run
from cgptc.cli.screen import Screen
from cgptc.cli.watching import Watch
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import Exit
from cgptc.ir.parser import parse_graph
from cgptc.passes.manager import Pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched") / "model.pt"
    write_model(preset("tiny"), path)
    return path


@pytest.fixture(scope="module")
def out(model: Path) -> Path:
    """Compiled while every instrument looks on."""
    place = model.with_name("out")
    assert run(["compile", str(model), "-o", str(place), "--dump-ir", str(model.with_name("ir")), "-q"]) == 0
    return place


def test_the_graph_after_every_pass_goes_to_a_folder_and_nowhere_else(model: Path, out: Path, tmp_path: Path) -> None:
    files = sorted(model.with_name("ir").iterdir())
    assert [file.stem[3:] for file in files] == [name.partition("{")[0] for name in cgptc.load(out).folder.manifest.pipeline.split(",")]
    assert files[-1].read_text() == (out / "graph.cgir").read_text()
    assert run(["compile", str(model), "-o", str(tmp_path / "plain"), "-q"]) == 0
    assert cgptc.load(tmp_path / "plain").folder.digest == cgptc.load(out).folder.digest


def test_the_graph_is_printed_after_one_pass_or_told_not_to_be_there(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", str(model), "--validate-only", "--print-ir-after"]
    assert run([*command, "add-cache", "-v"]) == 0
    err = capsys.readouterr().err
    title, _, rest = err.partition("\n")
    assert title.startswith("// after ") and title.endswith("-add-cache")
    assert "past_key_values.0.key" in str(parse_graph(rest[: rest.index("\n}\n") + 3]))
    assert "  pass add-cache: " in rest and "  took " in rest
    assert run([*command, "sink-slices", "--passes", "canonicalize", "--cache", "none"]) == 0
    assert "not in the pipeline" in capsys.readouterr().err
    assert run([*command, "add-cash"]) == Exit.USAGE
    assert "did you mean 'add-cache'" in capsys.readouterr().err


def test_the_graph_is_printed_where_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(Screen(), "changed", None)
    Pipeline.parse("canonicalize,canonicalize,fuse-attention").run(decoder(Spelling()), instruments=watch.instruments)
    titles = [line for line in capsys.readouterr().err.splitlines() if line.startswith("// after ")]
    assert titles == ["// after 01-canonicalize", "// after 03-fuse-attention"]


def test_validation_alone_writes_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["compile", "tiny", "--validate-only", "-q"]) == 0  # a preset's shape is enough
    assert run(["compile", str(model), "--validate-only", "-o", "out"]) == Exit.USAGE
    assert list(tmp_path.iterdir()) == []


def test_two_equal_artifacts_do_not_differ(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(out), str(out / "graph.cgir")]) == 0
    assert capsys.readouterr().out == "  equal\n"


def test_what_two_compiles_did_differently_is_told_once(model: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", str(model), "-o", str(tmp_path / "plain"), "--cache", "none", "-q"]) == 0
    capsys.readouterr()
    assert run(["diff", str(out), str(tmp_path / "plain"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = {row["what"]: (row["left"], row["right"]) for row in found["facts"]}
    assert facts["options 'cache'"] == ("null", "none")
    assert "add-cache" in facts["passes"][0] and "add-cache" not in facts["passes"][1]
    assert {"inputs", "outputs", "file 'model.onnx'"} <= facts.keys()
    assert not any("linear(" in line for line in found["nodes"])  # the same in both, though their values have other numbers


def test_a_node_that_reads_another_value_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """graph @main {
  input %x : f32[2]
  input %y : f32[2]
  %a = exp(%x) : f32[2]
  %b = sub(%a, %y) : f32[2]
  return b=%b
}
"""
    (tmp_path / "left.cgir").write_text(text)
    (tmp_path / "right.cgir").write_text(text.replace("sub(%a, %y)", "sub(%y, %a)"))
    (tmp_path / "more.cgir").write_text(text.replace("  %b = sub(%a", "  %c = neg(%a) : f32[2]\n  %b = sub(%c"))
    assert run(["diff", str(tmp_path / "left.cgir"), str(tmp_path / "right.cgir"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == [
        "~ %b = sub(%a, %y) : f32[2]  became  %b = sub(%y, %a) : f32[2]",
    ]
    assert run(["diff", str(tmp_path / "left.cgir"), str(tmp_path / "more.cgir"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operations"] == [{"name": "neg", "left": 0, "right": 1}]
    assert found["nodes"][0] == "+ %c = neg(%a) : f32[2]"
    assert len(found["nodes"]) == 2  # and the subtraction that reads it


def test_a_pickled_module_is_opened_only_where_asked_and_the_manifest_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, place = tmp_path / "whole.pt", tmp_path / "out"
    torch.save(torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11)), file)
    assert run(["compile", str(file), "-o", str(place)]) == Exit.UNSAFE
    command = ["compile", str(file), "-o", str(place), "--cache", "none", "--unsafe-load-pickle"]
    assert run(command) == 0
    assert "warning[unsafe-pickle]" in capsys.readouterr().err
    manifest = cgptc.load(place).folder.manifest
    assert manifest.options["unsafe_load_pickle"] is True
    assert manifest.input["format"] == "a pickled PyTorch object"
    assert run(["verify", str(place), "--against", str(file), "--unsafe-load-pickle", "--lengths", "3", "-q"]) == 0
    assert run(["verify", str(place), "--against", str(file)]) == Exit.UNSAFE
    (tmp_path / "listed.pt").write_bytes(b"")
    torch.save([torch.nn.Linear(2, 2)], tmp_path / "listed.pt")
    capsys.readouterr()
    assert run(["compile", str(tmp_path / "listed.pt"), "--unsafe-load-pickle"]) == Exit.UNSUPPORTED
    assert "holds a list, not a module" in capsys.readouterr().err


def test_every_command_takes_the_standard_options() -> None:
    commands.register()
    group = typer.main.get_command(app)
    found = {name: {option for each in command.params for option in each.opts} for name, command in group.commands.items()}  # type: ignore[attr-defined]
    assert len(found) >= 13
    for name, options in found.items():
        assert {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"} <= options, name


@pytest.mark.parametrize(("kind", "one"), [("fusions", "attention"), ("machines", "wse2"), ("passes", "add-cache"), ("presets", "gpt2")])
def test_what_there_is_can_be_listed(kind: str, one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert one in {value for row in rows for value in row.values()}
    assert all(value for row in rows for value in row.values())
