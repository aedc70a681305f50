"""What -O0, -O1 and -O2 make of a model: operations, ONNX nodes, and times of a prefill and of a decoded token, in one run.

The artifacts take turns in this process, round by round in a random order; times are compared as medians of ratios to -O0 within a round.

The project's own presets come out the same at every level: PyTorch's own attention, norms and GELU are whole from the start. Models with
rotary positions, RMS norms or activations written out do not.

    python -m benchmarks.levels [MODEL, a file, folder or preset, such as cerebras-gpt-111m] [--length 128] [--rounds 10]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import onnx

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import PRESETS, preset
from cgptc.ir.op import Array
from cgptc.runtime.compiled import Artifact

LEVELS = (0, 1, 2)


def inputs(artifact: Artifact, past: int, new: int) -> dict[str, Array]:
    """Ids and a mask of ones for ``new`` tokens after ``past`` cached ones."""
    given: dict[str, Array] = {"input_ids": np.ones((1, new), np.int64), "attention_mask": np.ones((1, past + new), np.int64)}
    for value in artifact.graph.inputs:
        if value.name.startswith("past_key_values"):
            _, heads, _, width = value.type.shape
            given[value.name] = np.zeros((1, heads, past, width), np.float32)
    return given


def seconds(artifact: Artifact, given: Mapping[str, Array]) -> float:
    """One run."""
    start = time.perf_counter()
    artifact.session.run(given)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="cerebras-gpt-111m")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(chosen.model)
        if chosen.model in PRESETS:
            file = Path(folder) / "model.pt"
            write_model(preset(chosen.model), file)
        made = {level: cgptc.compile(file, level=level, output=Path(folder) / f"o{level}") for level in LEVELS}
        for level, artifact in made.items():
            nodes = len(onnx.load(artifact.path / "model.onnx", load_external_data=False).graph.node)
            print(f"-O{level}: {artifact.graph.node_count} operations, {nodes} ONNX nodes")
        for kind, past, new in (("prefill", 0, chosen.length), ("decode", chosen.length, 1)):
            rows: list[dict[int, float]] = []
            for number in range(chosen.rounds + 1):
                order = random.Random(number).sample(LEVELS, len(LEVELS))
                rows.append({level: seconds(made[level], inputs(made[level], past, new)) for level in order})
            for level in LEVELS:
                ratios = sorted(row[level] / row[0] for row in rows[1:])  # the first round warms up
                print(
                    f"{kind} -O{level}: {median(row[level] for row in rows[1:]) * 1e3:.1f} ms, "
                    f"{median(ratios):.2f} of -O0 ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                )


if __name__ == "__main__":
    main()
