"""The tour, as ``make demo`` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgptc.cli.demo import PROMPT
from cgptc.cli.entry import run

WAFER_TOKENS = 6


def test_the_demo_compiles_verifies_and_writes_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cgptc.cli.demo.WAFER_TOKENS", WAFER_TOKENS)  # a few less, a quarter of a second each
    assert run(["demo", "--json", "-o", str(tmp_path / "kept")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checks"] > 10
    assert found["prompt"] == PROMPT
    # Trained on the King James Bible, it cannot go on for sixty tokens without its commonest words.
    assert {"the", "and"} <= set(found["text"].split())
    # Where the program is placed its sums are in another order, so that a draw at a tie may fall the other way: not in these.
    assert found["same_tokens"] == WAFER_TOKENS
    assert found["wafer"]["pe_count"] > 0
    assert (tmp_path / "kept" / "demo.wafer.cgptc" / "floorplan.svg").is_file()
