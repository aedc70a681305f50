"""What a compile may need of memory, whatever the model's size: measured in a fresh process, on files that are mostly holes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.sparse_compile import COMPILE, MIB, ROOM, write_sparse_model
from tests.passes.test_large_graphs import NODES, chain, fan, few_frames

from cgptc.backends.onnx.backend import BACKEND
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.graph import Graph

SOURCE = Path(__file__).parents[2] / "src"
WATCHDOG_SECONDS = 600

EXPORT = """
import sys, torch

class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = torch.nn.ParameterList(torch.zeros(4096, 4096) for _ in range(34))

    def forward(self, x):
        for step in self.steps:
            x = torch.relu(x @ step)
        return x

torch.export.save(torch.export.export(Tower(), (torch.ones(2, 4096),)), sys.argv[1])
"""

GENERATE = """
import sys
from cgptc.cli.entry import run

assert run(["run", sys.argv[1], "--prompt-ids", "1,2", "--max-new-tokens", "2", "-q"]) == 0
"""


def run(program: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=WATCHDOG_SECONDS)
    assert found.returncode == 0, found.stderr
    return found.stdout


def used_beside_imports(folder: Path, model: str) -> int:
    before, peak = map(int, run(COMPILE, folder / "tiny.pt", folder / model, folder / "out").splitlines()[-1].split())
    return peak - before


@pytest.mark.slow
def test_a_compile_of_gigabytes_needs_little_more_than_its_largest_tensor(tmp_path: Path) -> None:
    """The holes are holes in the artifact too, and onnxruntime takes it."""
    config = GptConfig(vocabulary=1000, positions=64, layers=26, heads=8, width=1536, ffn_width=6144)
    total, largest = write_sparse_model(config, tmp_path / "model.safetensors")
    assert total > 1 << 31
    write_model(preset("tiny"), tmp_path / "tiny.pt")
    assert used_beside_imports(tmp_path, "model.safetensors") <= ROOM + 2 * largest
    files = [file.stat() for file in (tmp_path / "out").iterdir()]
    assert sum(file.st_size for file in files) > total
    assert sum(file.st_blocks * 512 for file in files) < 64 * MIB
    assert run(GENERATE, tmp_path / "out").splitlines()[-1] == "0,0"


def copy_with_holes(source: Path, place: Path) -> None:
    """A copy whose blocks of zeros take no room."""
    with source.open("rb") as reading, place.open("wb") as writing:
        while block := reading.read(MIB):
            if block != bytes(len(block)):
                writing.write(block)
            else:
                writing.seek(len(block), os.SEEK_CUR)
        writing.truncate(source.stat().st_size)


@pytest.mark.slow
def test_a_compile_of_an_exported_program_of_gigabytes_needs_little_more_than_its_largest_tensor(tmp_path: Path) -> None:
    run(EXPORT, tmp_path / "full.pt2")
    copy_with_holes(tmp_path / "full.pt2", tmp_path / "model.pt2")
    (tmp_path / "full.pt2").unlink()
    found = (tmp_path / "model.pt2").stat()
    assert found.st_size > 1 << 31 and found.st_blocks * 512 < 64 * MIB
    write_model(preset("tiny"), tmp_path / "tiny.pt")
    assert used_beside_imports(tmp_path, "model.pt2") <= ROOM + 2 * 4096 * 4096 * 4


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, fan])
def test_a_graph_of_twenty_thousand_nodes_is_written_without_deep_recursion(make: Callable[[int], Graph], tmp_path: Path) -> None:
    graph = make(NODES)
    with few_frames():
        assert not BACKEND.check(graph, OnnxOptions())
        BACKEND.emit(graph, tmp_path, OnnxOptions())
    assert (tmp_path / "model.onnx").stat().st_size > 100 * NODES // 4
