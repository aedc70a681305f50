"""What is mutated, and which tests are to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAFER = "tests/backends/wafer"


@dataclass(frozen=True)
class Area:
    """Patterns of files to mutate, and of the test files that are to notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]

    def sources(self) -> list[Path]:
        """The files, as paths from the root of the repository."""
        return _matching(self.files)

    def test_files(self) -> list[str]:
        return [str(path) for path in _matching(self.tests) if path.name not in LEFT_OUT]


AREAS = {
    "passes": Area(
        ("passes/*.py",), ("tests/passes/test_*.py", "tests/testing/test_preservation.py", "tests/backends/onnx/test_kept_logits.py")
    ),
    "verifiers": Area(
        ("ir/verify.py", "backends/wafer/verify/*.py"),
        ("tests/ir/test_verify.py", *(f"{WAFER}/test_{name}.py" for name in ("verify", "drawn_programs", "streams", "inflow"))),
    ),
    "routing": Area(
        tuple(f"backends/wafer/{name}.py" for name in ("routes", "collectives", "resolve")),
        tuple(f"{WAFER}/test_{name}.py" for name in ("streams", "collectives", "verify", "drawn_programs")),
    ),
}

LEFT_OUT = {"test_large_graphs.py", "test_scale.py"}
"""Minutes in all, and about time only."""


def area_of(path: Path) -> Area:
    """The area that a source file belongs to."""
    return next(area for area in AREAS.values() if path in area.sources())


def _matching(patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)})
