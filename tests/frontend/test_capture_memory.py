"""Capturing needs no weight bytes: memory is asserted in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
CAPTURE = """
import resource, sys
from cgptc.frontend.source import open_model

with open_model(sys.argv[1], shape_only=True) as model:
    unit = 1 if sys.platform == "darwin" else 1024
    print(model.parameter_count, model.graph.node_count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def capture(preset: str) -> tuple[int, int, int]:
    """Parameters, nodes and peak resident bytes of capturing a preset in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", CAPTURE, preset], env=environment, capture_output=True, text=True, check=True, timeout=600)
    parameters, nodes, resident = map(int, run.stdout.split())
    return parameters, nodes, resident


@pytest.mark.slow
def test_a_13b_preset_is_captured_in_under_a_gigabyte() -> None:
    parameters, nodes, resident = capture("cerebras-gpt-13b")
    assert parameters > 12e9
    assert nodes > 1000
    assert resident < 1 << 30


@pytest.mark.slow
def test_memory_does_not_grow_with_the_weights() -> None:
    small, large = capture("cerebras-gpt-111m"), capture("cerebras-gpt-1.3b")
    assert large[0] > 10 * small[0]
    assert large[2] - small[2] < 128 << 20
