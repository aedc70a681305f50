"""What a compile of a large preset needs of memory: its weights are a file of holes, which take no room on the disk.

The bound is what the imports take, PyTorch's included (a compile of the smallest preset before it in the same process), 256 MiB and twice
the largest tensor, whatever the model's size.

    python benchmarks/sparse_compile.py [cerebras-gpt-6.7b …]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.new_model import CONFIG_KEY, write_model
from cgptc.frontend.presets import preset

MIB = 1 << 20
ROOM = 256 * MIB
"""What a compile may take beside its imports and twice the largest tensor."""

COMPILE = """
import sys
from cgptc.cli.entry import run
from cgptc.driver.peak_memory import peak_bytes

small, large, place = sys.argv[1:]
assert run(["compile", small, "-o", place, "-q"]) == 0  # what the imports take, PyTorch's included
before = peak_bytes()
assert run(["compile", large, "-o", place, "-q"]) == 0
print(before, peak_bytes())
"""


def write_sparse_model(config: GptConfig, path: Path) -> tuple[int, int]:
    """A safetensors model of zeros, all of them holes. Gives the bytes of all tensors and of the largest."""
    header: dict[str, object] = {"__metadata__": {CONFIG_KEY: json.dumps(config.to_mapping()), "format": "pt"}}
    sizes = []
    for name, shape in config.parameters():
        size, start = 4, sum(sizes)
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, start + size]}
        sizes.append(size)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + sum(sizes))
    return sum(sizes), max(sizes)


def measure(name: str) -> str:
    """One preset's row. CalledProcessError where the compile fails."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        total, largest = write_sparse_model(preset(name).config, folder / "model.safetensors")
        write_model(preset("tiny"), folder / "tiny.pt")
        command = [sys.executable, "-c", COMPILE, *(str(folder / part) for part in ("tiny.pt", "model.safetensors", "out"))]
        start = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds = time.perf_counter() - start
        imports, peak = map(int, output.splitlines()[-1].split())
        on_disk = sum(file.stat().st_blocks * 512 for file in (folder / "out").iterdir())
    bound = imports + ROOM + 2 * largest
    verdict = "held" if peak <= bound else "not held"
    figures = (f"{number / MIB:.0f} MiB" for number in (total, largest, imports, peak, bound))
    return f"| {name} | {' | '.join(figures)}: {verdict} | {on_disk / MIB:.0f} MiB | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["cerebras-gpt-6.7b"])
    given = parser.parse_args()
    print("| preset | weights | largest tensor | imports | peak | bound | artifact on the disk | both compiles |")
    print("| --- |" + " --- |" * 7)
    for name in given.presets:
        print(measure(name), flush=True)


if __name__ == "__main__":
    main()
