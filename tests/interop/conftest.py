"""Tests that run in an environment of their own (``make interop``): other runtimes open an artifact exactly as cgptc wrote it.

``CGPTC_ARTIFACTS`` names the folder that `tests/interop/artifacts.py` filled, in cgptc's own environment, with artifacts and what
PyTorch says of them. Nothing here imports cgptc.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ARTIFACTS = os.environ.get("CGPTC_ARTIFACTS")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Outside of ``make interop`` there is nothing to collect."""
    return True if ARTIFACTS is None and collection_path.name.startswith("test_") else None


@pytest.fixture(scope="session", params=json.loads((Path(ARTIFACTS) / "cases.json").read_text()) if ARTIFACTS else [])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An artifact's folder, prompts and the greedy tokens that PyTorch gives."""
    found: dict[str, Any] = request.param
    return found | {"folder": str(Path(str(ARTIFACTS)) / found["name"])}
