"""A failing pass leaves a reproducer that fails again, without weights or paths, and a failing graph shrinks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.passes.attention_graphs import Spelling, decoder

from cgptc.cli.entry import run
from cgptc.driver.compilation import optimise, target_of
from cgptc.driver.options import CompileOptions
from cgptc.frontend.source import CapturedModel
from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.graph import Graph
from cgptc.ir.ops import LayerNorm
from cgptc.passes.manager import PASSES, Pass, PassContext

WRONG = "test-wrong-norms"


@dataclass(frozen=True)
class WrongNorms(Pass, name=WRONG):
    """Breaks the meaning of norms, or the graph's rules, or fails itself."""

    how: str = "meaning"

    def run(self, graph: Graph, context: PassContext) -> bool:
        for node in graph.nodes:
            if isinstance(node.op, LayerNorm):
                match self.how:
                    case "meaning":
                        graph.set_op(node, LayerNorm(node.op.eps * 10))
                    case "rules":
                        graph.set_operand(node, 1, node.operands[0])
                    case _:
                        raise AssertionError("the pass itself fails")
        return True


del PASSES[WRONG]  # the tests that want it put it back: those that draw from every pass must not meet it


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(PASSES, WRONG, WrongNorms)
    return tmp_path


def fail(how: str, verify_each: str) -> Path:
    """The reproducer that a compile leaves whose second pass is wrong."""
    options = CompileOptions(cache="none", passes=f"cse,{WRONG}{{how={how}}}", verify_each=verify_each)
    model = CapturedModel(decoder(Spelling()), "decoder", "graph", 0, 1)
    with pytest.raises((VerifyError, AssertionError)) as caught:
        optimise(model, target_of(options), options)
    (note,) = caught.value.__notes__
    return Path(note.removeprefix("cgptc replay "))


@pytest.mark.parametrize(("how", "verify_each"), [("meaning", "numeric"), ("rules", "ir"), ("itself", "ir")])
def test_a_failing_pass_leaves_what_fails_again(how: str, verify_each: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fail(how, verify_each)
    assert run(["replay", str(folder), "--json"]) == 70
    found = json.loads(capsys.readouterr().out)
    assert (found["again"], found["pipeline"]) == (True, str(WrongNorms(how)))


def test_a_cut_that_fails_fails_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*given: object) -> None:
        raise IndexError("no such stage")

    monkeypatch.setattr("cgptc.passes.pipeline.assign_stages", broken)
    options = CompileOptions(cache="none", passes="cse", stages="2")
    with pytest.raises(IndexError) as caught:
        optimise(CapturedModel(decoder(Spelling(layers=2)), "decoder", "graph", 0, 2), target_of(options), options)
    (note,) = caught.value.__notes__
    assert run(["replay", note.removeprefix("cgptc replay "), "--json"]) == 70
    assert json.loads(capsys.readouterr().out)["again"]


def test_a_reproducer_holds_the_graph_before_the_pass_and_no_path(temporary: Path) -> None:
    folder = fail("rules", "ir")
    assert {path.name for path in folder.iterdir()} == {"before.cgir", "reproducer.json"}
    for path in folder.iterdir():
        assert not re.search(r"(^|[\s\"'])/\w", path.read_text())
    facts = json.loads((folder / "reproducer.json").read_text())
    assert facts["versions"]["numpy"]
    assert "attention" in facts["legal"]


def test_a_failure_that_is_gone_exits_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fail("itself", "ir")
    monkeypatch.setattr(WrongNorms, "run", lambda self, graph, context: False)
    assert run(["replay", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["now"] is None


def test_what_is_no_reproducer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(tmp_path)]) == 7
    (tmp_path / "reproducer.json").write_text("{}")
    assert run(["replay", str(tmp_path)]) == 4


@pytest.fixture
def large(tmp_path: Path) -> Path:
    graph = decoder(Spelling(layers=6, padding="additive"))
    assert graph.node_count >= 200
    file = tmp_path / "large.cgir"
    file.write_text(str(graph))
    return file


def test_a_graph_on_which_a_pipeline_fails_shrinks_to_what_matters(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reduce", str(large), "--passes", f"{WRONG}{{how=itself}}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] <= 5
    assert "layer_norm" in found["graph"]


def test_a_graph_on_which_a_command_fails_shrinks_to_what_matters(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reduce", str(large), "--check", "sh -c '! grep -q \"softmax\" {}'", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] <= 5
    assert "softmax" in found["graph"]


@pytest.mark.parametrize(
    "arguments", [["--check", "true"], ["--passes", "cse"], [], ["--check", "true", "--passes", "cse"], ["--check", ""]]
)
def test_a_check_that_does_not_fail_is_a_usage_error(large: Path, arguments: list[str]) -> None:
    assert run(["reduce", str(large), *arguments]) == 2


def test_opt_runs_a_targets_own_pipeline(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for level in ("0", "2"):
        assert run(["opt", str(large), "-O", level, "--json"]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["graph"].count("\n"))
    assert sizes[0] > sizes[1]
