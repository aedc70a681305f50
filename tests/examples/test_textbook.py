"""Every textbook example compiles, agrees with PyTorch in float64, and has each attention it was written with as one node."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import cgptc
from cgptc.ir.diagnostics import CgptcError, Exit

ROOT = Path(__file__).parents[2]
FOLDER, PAGE = ROOT / "examples" / "textbook", ROOT / "docs" / "examples.md"

ATTENTION = {
    "bag_of_words": 0,
    "bert_pretraining": 2,
    "embedding_transformer": 3,
    "encoder_stack": 2,
    "gpt2_body": 2,
    "gpt_neo_classifier": 2,
    "language_model": 2,
    "losses": 0,
    "parallel_blocks": 2,
    "self_attention": 1,
    "span_questions": 2,
    "translation": 3,
}
"""Attention layers of each example, counted in its source; those of a decoder are two a layer."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"textbook_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(ATTENTION)


def documented(name: str, target: str) -> str:
    """What the page says of an example on a target; `python examples/targets.py` writes it."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    (cells,) = (cells for cells in rows if cells[0].startswith(f"[{name}]"))
    return cells[rows[0].index(target)]


@pytest.mark.parametrize("name", ATTENTION)
def test_the_example_compiles_and_agrees_with_pytorch(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "from transformers" in (FOLDER / f"{name}.py").read_text():
        pytest.importorskip("transformers")
    artifact, found = load(name).main()
    assert found.checks and not found.failed
    operations = artifact.report.graph["operations"]
    assert operations.get("attention", 0) == ATTENTION[name], [str(each) for each in artifact.report.fusions.missed]
    assert "softmax" not in operations or name == "bag_of_words"
    assert "as PyTorch in float64" in capsys.readouterr().out
    assert documented(name, "onnx") == "verified"


@pytest.mark.parametrize("target", [name for name in cgptc.targets() if name != "onnx"])
@pytest.mark.parametrize("name", ["losses", "self_attention"])
def test_another_target_compiles_the_example_or_says_what_it_lacks(name: str, target: str) -> None:
    found = refusal = None
    try:
        _, found = load(name).main(target)
    except CgptcError as error:
        refusal = error
    assert documented(name, target) == (f"refused: {refusal.code}" if refusal else "verified")
    assert (refusal.exit in (Exit.UNSUPPORTED, Exit.DOES_NOT_FIT)) if refusal else (found and found.checks and not found.failed), refusal
