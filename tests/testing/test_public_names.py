"""What ``cgptc.testing`` promises to export."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cgptc.testing


def test_every_public_name_can_be_imported() -> None:
    assert sorted(cgptc.testing.__all__) == sorted(set(cgptc.testing.__all__))
    for name in cgptc.testing.__all__:
        assert getattr(cgptc.testing, name) is not None
    assert set(cgptc.testing._NEEDS_HYPOTHESIS) <= set(cgptc.testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cgptc.testing.nothing  # type: ignore[attr-defined]


def test_every_public_name_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page))
    assert set(cgptc.testing.__all__) | {"seeded_bugs", "plugin"} <= words


def test_tolerances_need_neither_hypothesis_nor_torch() -> None:
    code = "import sys, cgptc.testing, cgptc.testing.tolerances; print([m for m in ('hypothesis', 'torch', 'pytest') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert found.stdout.strip() == "[]"
