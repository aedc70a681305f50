"""Guides are run: their Python blocks, in order, in one namespace."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tests.docs.test_documents import blocks


@pytest.mark.parametrize("file", ["docs/write-a-kernel.md"])
def test_the_python_of_a_guide_runs(file: str, tmp_path: Path) -> None:
    found = blocks(file, "python")
    assert len(found) >= 2
    script = tmp_path / "guide.py"
    script.write_text("\n".join(found))
    runpy.run_path(str(script))
