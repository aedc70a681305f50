"""Time and peak memory of a whole compile, against ``torch.onnx.export(dynamo=True)``, optimum's exporter and OpenVINO's converter.

Each run is a fresh process, import of everything included; the systems take turns, and the ratios are taken pair by pair (median and 90 %
interval). OpenVINO converts the file that torch.onnx.export wrote, so its cost comes on top of that. PyTorch's exporter needs onnxscript;
optimum and OpenVINO run in the environments that `peers.py` made. Runs are kept where ``--results`` says, and a later call adds to them.

    python benchmarks/compile_cost.py --preset cerebras-gpt-111m --rounds 5
    python benchmarks/compile_cost.py --venvs /tmp/peers --results cost.json --write README.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from marked_text import write_between_marks
from peer_table import Interval

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


OPTIMUM = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", do_validation=False)
"""

STARTS = {
    "python": ["-c", "pass"],
    "import cgptc": ["-c", "import cgptc"],
    "cgptc --version": ["-m", "cgptc", "--version"],
    "import torch": ["-c", "import torch"],
}
"""What a process costs before there is anything to do."""

OPENVINO = """
import sys, openvino
openvino.save_model(openvino.convert_model(sys.argv[1]), sys.argv[2], compress_to_fp16=False)
"""


def commands(venvs: Path | None) -> dict[str, list[str]]:
    """What is run, by system, in an order in which each finds what it reads."""
    found = {
        "cgptc compile": [sys.executable, "-m", "cgptc", "compile", "model.pt", "-o", "ours", "-q"],
        "torch.onnx.export": [sys.executable, "-c", EXPORT, "model.pt", "theirs.onnx"],
    }
    if venvs is not None:
        found["optimum"] = [str(venvs / "optimum" / "bin" / "python"), "-c", OPTIMUM, "hf", "optimum"]
        found["openvino, from that ONNX"] = [str(venvs / "openvino" / "bin" / "python"), "-c", OPENVINO, "theirs.onnx", "theirs.xml"]
    return found


Round = dict[str, Run]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round that would end later")
    parser.add_argument("--venvs", type=Path, help="the environments of peers.py, for optimum and OpenVINO")
    parser.add_argument("--results", type=Path, help="a file that keeps the runs from call to call")
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("--write", type=Path, help="a file with the marks of this table")
    arguments = parser.parse_args()
    rounds = load(arguments.results) if arguments.results is not None and arguments.results.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for made in ("model.pt", "hf"):
            subprocess.run([sys.executable, "-m", "cgptc", "new", "--preset", arguments.preset, "-o", made, "-q"], cwd=folder, check=True)
        start, longest = time.monotonic(), 0.0
        for _ in range(arguments.rounds):
            begun = time.monotonic()
            if begun - start + longest > 60 * arguments.minutes:
                break
            rounds.append({system: measure(command, folder) for system, command in commands(arguments.venvs).items()})
            longest = max(longest, time.monotonic() - begun)
            if arguments.results is not None:
                arguments.results.write_text(json.dumps([{system: asdict(run) for system, run in each.items()} for each in rounds]))
    text = report(arguments.preset, rounds, arguments.note) + "\n\n" + starts(rounds=5)
    print(text)
    if arguments.write is not None:
        write_between_marks(arguments.write, f"compile cost {arguments.preset}", text)


def starts(rounds: int) -> str:
    """One line: the median time of a whole process for each of `STARTS`."""
    with tempfile.TemporaryDirectory() as name:
        runs = [{start: measure([sys.executable, *words], Path(name)) for start, words in STARTS.items()} for _ in range(rounds)]
    found = (f"`{start}` {statistics.median(each[start].seconds for each in runs):.2f} s" for start in STARTS)
    return f"Starting, whole processes, {rounds} each: {', '.join(found)}."


def load(place: Path) -> list[Round]:
    """The runs that a call before left."""
    return [{system: Run(**run) for system, run in each.items()} for each in json.loads(place.read_text())]


FIGURES = {"whole process": ("seconds", 1, "s"), "processor time": ("cpu_seconds", 1, "s"), "peak memory": ("peak_bytes", 1 << 30, "GiB")}


def report(name: str, rounds: list[Round], note: str) -> str:
    """The table, with what it was measured on. In brackets: ours over theirs, pair by pair."""
    lines = [
        f"{name}, {os.cpu_count()} cores, cgptc {version('cgptc')}, torch {version('torch')}. {note}".strip(),
        "",
        "| | " + " | ".join(FIGURES) + " | pairs |",
        "| --- |" + " --- |" * (len(FIGURES) + 1),
    ]
    for system in dict.fromkeys(system for each in rounds for system in each):
        both = [(each["cgptc compile"], each[system]) for each in rounds if system in each]
        cells = []
        for field, scale, unit in FIGURES.values():
            middle = statistics.median(getattr(run, field) for _, run in both) / scale
            ratio = Interval.of([getattr(ours, field) / getattr(theirs, field) for ours, theirs in both])
            cells.append(f"{middle:.2f} {unit}" + ("" if system == "cgptc compile" else f" (cgptc ×{ratio})"))
        lines.append(f"| {system} | " + " | ".join(cells) + f" | {len(both)} |")
    return "\n".join(lines)


def version(package: str) -> str:
    """As installed; cgptc's own also where it runs from its sources."""
    if package == "cgptc":
        from cgptc import __version__

        return __version__
    return importlib.metadata.version(package)


if __name__ == "__main__":
    main()
