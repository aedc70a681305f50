"""The functions of ``import cgptc``."""

from __future__ import annotations

from pathlib import Path

from cgptc.runtime.compiled import Artifact


def load(path: str | Path) -> Artifact:
    """Open an artifact folder after checking every digest. Raises `CgptcError`."""
    return Artifact.open(Path(path))
