"""A package outside cgptc adds a pass and a target by entry points, and its own tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cgptc.testing.profiles import commit_seed

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "downstream"


GRAPH = """
graph @main {
  input %x : f32[2]
  %n = neg(%x)
  %y = add(%x, %n)
  return y=%y
}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed, by what an installer would write from its pyproject.toml."""
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE / "src", place, dirs_exist_ok=True)
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())] for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(line for group in groups for line in group) + "\n")
    outer = {name: value for name, value in os.environ.items() if name != "CI"}  # with it, the profile would try 200 examples
    return {**outer, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}


def test_its_tests_pass_against_the_kit(installed: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(EXAMPLE / name, tmp_path / name)
    seed = f"--hypothesis-seed={commit_seed()}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", seed, str(tmp_path)]
    found = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "4 passed" in found.stdout


def test_its_pass_and_target_are_found_by_name(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "graph.cgir").write_text(GRAPH)
    program = """
from cgptc.backends.registry import backend
from cgptc.cli.entry import run
assert backend("numpy").name == "numpy"
assert run(["list", "passes"]) == run(["list", "targets"]) == run(["opt", "graph.cgir", "--passes", "subtract-negatives"]) == 0
"""
    found = subprocess.run([sys.executable, "-c", program], env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for part in ("subtract-negatives", "  Subtract instead of adding a negative.", "  numpy\n", "= sub(%x, %x)"):
        assert part in found.stdout
