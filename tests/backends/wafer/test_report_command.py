"""``cgptc report``: a page from an artifact's files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.drawn_graphs import drawn_graph
from tests.backends.wafer.planned import planned

from cgptc.backends.wafer.host import write_host
from cgptc.backends.wafer.report.command import report_folder
from cgptc.backends.wafer.serial import program_text
from cgptc.cli.entry import run
from cgptc.ir.diagnostics import MalformedError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placed")
    made = planned(TinyGpt(layers=2, heads=2, key_heads=1, head_width=4).graph(), None, "pipeline", "f32")
    (path / "program.json").write_text(program_text(made.plan.program), encoding="ascii")
    write_host(made.session.host, path)
    return path


def test_the_page_and_the_floorplan_come_from_program_and_host_alone(folder: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "r.html", tmp_path / "r.svg"
    facts = report_folder(folder, page, past=1, tokens=3).facts()
    assert facts["items"] == 3
    assert f"{facts['cycles']:,}" in page.read_text(encoding="utf-8")
    assert all(value <= facts["cycles per item"] for name, value in facts.items() if name.startswith("bound by"))  # type: ignore[operator]
    report_folder(folder, picture, past=0, tokens=1)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_items_that_are_whole_rows_are_reported_without_a_past(tmp_path: Path) -> None:
    made = planned(drawn_graph(["full attention"], "mean", masked=False, seed=1), (2, 2), "resident", "f32")
    (tmp_path / "program.json").write_text(program_text(made.plan.program), encoding="ascii")
    write_host(made.session.host, tmp_path)
    assert report_folder(tmp_path, tmp_path / "r.html", past=0, tokens=2).facts()["items"] == 2
    assert "takes the cycles of the longest" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_run_that_the_context_has_no_room_for_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="past"):
        report_folder(folder, tmp_path / "r.html", past=10_000, tokens=1)
    with pytest.raises(UsageError, match="a run of 0 tokens has nothing to report"):
        report_folder(folder, tmp_path / "r.html", past=0, tokens=0)
    assert not (tmp_path / "r.html").exists()


def test_an_output_that_names_no_page_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path), "-o", "report.txt"]) == 2
    assert "names no page" in capsys.readouterr().err


def test_a_program_that_is_none_is_no_usage_error(folder: Path, tmp_path: Path) -> None:
    for name in ("program.json", "host.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    program = json.loads((tmp_path / "program.json").read_text())
    program["program"]["regions"][0]["buffers"][0]["address"] = 12
    (tmp_path / "program.json").write_text(json.dumps(program))
    with pytest.raises(MalformedError):
        report_folder(tmp_path, tmp_path / "r.html", past=0, tokens=1)
    assert not (tmp_path / "r.html").exists()
