from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tests.driver.test_reproducibility import SMALL

from cgptc.cli.entry import run
from cgptc.frontend.new_model import write_model
from cgptc.ir.parser import parse_graph


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "small.pt"
    write_model(SMALL, path)
    return path


def test_a_model_is_shown_as_the_text_that_opt_reads(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model)]) == 0
    graph = parse_graph(capsys.readouterr().out)
    assert [name for name, _ in graph.outputs] == ["logits"]


@pytest.mark.skipif(importlib.util.find_spec("torch_mlir") is None, reason="torch-mlir is not installed (pip install 'cgptc[mlir]')")
def test_a_model_is_shown_as_mlir(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model), "--mlir", "torch", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "torch.vtensor<[?,?],si64>) -> !torch.vtensor<[?,?,17],f32>" in shown["text"]
    assert "torch.aten." in shown["text"]
    assert str(model.parent) not in shown["text"]


def test_a_shape_without_weights_has_no_mlir(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "tiny", "--mlir", "torch"]) == 2
    assert "error[shape-only]" in capsys.readouterr().err
