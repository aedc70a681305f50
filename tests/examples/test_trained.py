"""The trained GPT-2 from PyPI. It is not in the repository: a profile, run where ``CGPTC_MICROFORMER`` names the wheel."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "trained" / "microformer.py"
WHEEL = os.environ.get("CGPTC_MICROFORMER", "")


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="CGPTC_MICROFORMER names no wheel (pip download --no-deps microformer-mgm==0.5.8)")
def test_a_trained_model_is_verified_and_goes_on_with_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(SCRIPT))
    assert script["main"](WHEEL, str(tmp_path / "microformer")) == 0
    printed = capsys.readouterr().out
    assert "checks against PyTorch in float64" in printed
    continued = printed[printed.index(script["PROMPT"]) + len(script["PROMPT"]) :].split()
    assert len(continued) >= 3
    assert all(token.startswith("g__") for token in continued)
    assert len(set(continued)) > len(continued) // 2  # a model that had learnt nothing would repeat itself
