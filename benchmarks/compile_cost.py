"""Time and peak memory of a whole compile, against ``torch.onnx.export(dynamo=True)`` of the same model.

Each run is a fresh process; the two take turns, and what is printed are ratios pair by pair (median, smallest, largest), with the medians
of each side beside. Needs onnxscript for PyTorch's exporter.

    python benchmarks/compile_cost.py --preset cerebras-gpt-111m --pairs 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

EXPORT = """
import sys, torch
from cgptc.frontend.gpt import meta_gpt
from cgptc.frontend.gpt_config import GptConfig
data = torch.load(sys.argv[1], weights_only=True, mmap=True)
module = meta_gpt(GptConfig.from_mapping(data["config"]))
module.load_state_dict(data["model"], assign=True)
ids = torch.zeros((2, 8), dtype=torch.int64)
automatic = torch.export.Dim.AUTO
torch.onnx.export(module, (ids,), sys.argv[2], dynamo=True, external_data=True, verbose=False,
                  dynamic_shapes={"input_ids": {0: automatic, 1: automatic}})
"""


@dataclass(frozen=True)
class Run:
    """One process: wall seconds, processor seconds, peak resident bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: list[str], folder: Path) -> Run:
    """Run a command in a folder; RuntimeError with its output where it fails."""
    with (folder / "output.txt").open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((folder / "output.txt").read_text(errors="replace")[-2000:])
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def ratios(ours: list[Run], theirs: list[Run], field: str) -> str:
    """``median (smallest–largest)`` of ours over theirs, pair by pair."""
    found = sorted(getattr(a, field) / getattr(b, field) for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f}–{found[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "cgptc", "new", "--preset", arguments.preset, "-o", "model.pt", "-q"], cwd=folder, check=True)
        ours: list[Run] = []
        theirs: list[Run] = []
        for _ in range(arguments.pairs):
            ours.append(measure([sys.executable, "-m", "cgptc", "compile", "model.pt", "-o", "ours", "-q"], folder))
            theirs.append(measure([sys.executable, "-c", EXPORT, "model.pt", "theirs.onnx"], folder))
        print(f"{arguments.preset}, {arguments.pairs} pairs, {os.cpu_count()} cores")
        print("| figure | cgptc compile | torch.onnx.export | ratio (pair by pair) |")
        print("| --- | --- | --- | --- |")
        for title, field, scale, unit in (
            ("whole process", "seconds", 1, "s"),
            ("processor time", "cpu_seconds", 1, "s"),
            ("peak memory", "peak_bytes", 1 << 30, "GiB"),
        ):
            left, right = (statistics.median(getattr(run, field) for run in side) / scale for side in (ours, theirs))
            print(f"| {title} | {left:.2f} {unit} | {right:.2f} {unit} | {ratios(ours, theirs, field)} |")


if __name__ == "__main__":
    main()
