"""Time and peak memory of a whole compile, against ``torch.onnx.export(dynamo=True)`` of the same model.

Each run is a fresh process; the two take turns, and what is printed are ratios pair by pair (median, smallest, largest), with the medians
of each side beside. Needs onnxscript for PyTorch's exporter.

    python benchmarks/compile_cost.py --preset cerebras-gpt-111m --pairs 5
    python benchmarks/compile_cost.py --write README.md        puts the table between its two marks there
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

START, END = "<!-- compile cost -->", "<!-- end of compile cost -->"

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
    parser.add_argument("--write", type=Path, help="a file with the marks of this table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "cgptc", "new", "--preset", arguments.preset, "-o", "model.pt", "-q"], cwd=folder, check=True)
        ours: list[Run] = []
        theirs: list[Run] = []
        for _ in range(arguments.pairs):
            ours.append(measure([sys.executable, "-m", "cgptc", "compile", "model.pt", "-o", "ours", "-q"], folder))
            theirs.append(measure([sys.executable, "-c", EXPORT, "model.pt", "theirs.onnx"], folder))
    text = report(arguments.preset, ours, theirs)
    print(text)
    if arguments.write is not None:
        write_between_marks(arguments.write, text)


def report(name: str, ours: list[Run], theirs: list[Run]) -> str:
    """The table, with what it was measured on."""
    lines = [
        f"{name}, {len(ours)} pairs in turns, {os.cpu_count()} cores, cgptc {version('cgptc')}, torch {version('torch')}:",
        "",
        "| figure | cgptc compile | torch.onnx.export | ratio (pair by pair) |",
        "| --- | --- | --- | --- |",
    ]
    for title, field, scale, unit in (
        ("whole process", "seconds", 1, "s"),
        ("processor time", "cpu_seconds", 1, "s"),
        ("peak memory", "peak_bytes", 1 << 30, "GiB"),
    ):
        left, right = (statistics.median(getattr(run, field) for run in side) / scale for side in (ours, theirs))
        lines.append(f"| {title} | {left:.2f} {unit} | {right:.2f} {unit} | {ratios(ours, theirs, field)} |")
    return "\n".join(lines)


def version(package: str) -> str:
    """As installed; cgptc's own also where it runs from its sources."""
    if package == "cgptc":
        from cgptc import __version__

        return __version__
    return importlib.metadata.version(package)


def write_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the table's marks; ValueError where they are not there."""
    before, start, rest = file.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{file} has no {START} … {END}")
    file.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
