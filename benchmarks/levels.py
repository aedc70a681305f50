"""What -O0, -O1 and -O2 make of a model: operations, ONNX nodes, and times of a prefill and of a decoded token, in one run.

The artifacts take turns in this process, round by round in a random order, each after a rest; times are compared as
medians of ratios to -O0 within a round, with their 90 % interval.

The project's own presets come out the same at every level: PyTorch's own attention, norms and GELU are whole from the start. Models with
rotary positions, RMS norms or activations written out do not.

    python benchmarks/levels.py [MODEL …] [--length 128] [--rounds 10] [--write docs/levels.md]

MODEL is a file, a folder, a preset, or "written-out": the 111M shape with norms, GELU and attention in elementary operations.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import torch
from marked_text import write_between_marks
from page import conditions, table
from paired import timed
from peer_table import Interval

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import PRESETS, preset
from cgptc.ir.op import Array
from cgptc.runtime.compiled import Artifact

LEVELS = (0, 1, 2)
WRITTEN_OUT = "written-out"


def inputs(artifact: Artifact, past: int, new: int) -> dict[str, Array]:
    """Ids and a mask of ones for ``new`` tokens after ``past`` cached ones."""
    given: dict[str, Array] = {"input_ids": np.ones((1, new), np.int64), "attention_mask": np.ones((1, past + new), np.int64)}
    for value in artifact.graph.inputs:
        if value.name.startswith("past_key_values"):
            _, heads, _, width = value.type.shape
            given[value.name] = np.zeros((1, heads, past, width), np.float32)
    return given


def run_seconds(artifact: Artifact, given: Mapping[str, Array]) -> float:
    """One run, median of three."""
    return timed(lambda: artifact.session.run(given), 3)


class WrittenOut(torch.nn.Module):
    """Cerebras-GPT 111M as someone may write it: norms, GELU and attention in elementary operations."""

    def __init__(self, width: int = 768, heads: int = 12, layers: int = 10, vocabulary: int = 50257, context: int = 2048) -> None:
        super().__init__()
        self.heads, self.layers = heads, layers
        self.words, self.places = torch.nn.Embedding(vocabulary, width), torch.nn.Embedding(context, width)
        self.scales = torch.nn.ParameterList(torch.ones(width) for _ in range(2 * layers + 1))
        self.shifts = torch.nn.ParameterList(torch.zeros(width) for _ in range(2 * layers + 1))
        self.packed = torch.nn.ModuleList(torch.nn.Linear(width, 3 * width) for _ in range(layers))
        self.outward = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(layers))
        self.wide = torch.nn.ModuleList(torch.nn.Linear(width, 4 * width) for _ in range(layers))
        self.narrow = torch.nn.ModuleList(torch.nn.Linear(4 * width, width) for _ in range(layers))
        self.register_buffer("lower", torch.tril(torch.ones(context, context, dtype=torch.bool)))

    def norm(self, x: torch.Tensor, number: int) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scales[number] + self.shifts[number]

    def attend(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.packed[layer](x).split(width, dim=-1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.lower[:length, :length], float("-inf"))  # type: ignore[index]
        mixed = scores.softmax(-1) @ v
        return self.outward[layer](mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        for layer in range(self.layers):
            x = x + self.attend(self.norm(x, 2 * layer), layer)
            hidden = self.wide[layer](self.norm(x, 2 * layer + 1))
            x = x + self.narrow[layer](0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))
        return self.norm(x, 2 * self.layers) @ self.words.weight.T


def made_of(model: str, folder: Path) -> dict[int, Artifact]:
    """The artifact of each level."""
    places = {level: folder / f"o{level}" for level in LEVELS}
    if model == WRITTEN_OUT:
        module = WrittenOut().eval()
        ids = torch.zeros(2, 8, dtype=torch.int64)
        return {level: cgptc.compile(module, (ids,), cache="dynamic", level=level, output=place) for level, place in places.items()}
    file = Path(model)
    if model in PRESETS:
        file = folder / "model.pt"
        write_model(preset(model), file)
    return {level: cgptc.compile(file, level=level, output=place) for level, place in places.items()}


def rows_of(model: str, rounds: int, length: int) -> list[tuple[str, ...]]:
    """A row for each level."""
    with tempfile.TemporaryDirectory() as folder:
        made = made_of(model, Path(folder))
        cells: dict[int, list[str]] = {}
        for level, artifact in made.items():
            nodes = len(onnx.load(artifact.path / "model.onnx", load_external_data=False).graph.node)
            cells[level] = [model, f"-O{level}", str(artifact.graph.node_count), str(nodes)]
        for past, new in ((0, length), (length, 1)):
            taken: list[dict[int, float]] = []
            for number in range(rounds + 1):
                order = random.Random(number).sample(LEVELS, len(LEVELS))
                taken.append({level: run_seconds(made[level], inputs(made[level], past, new)) for level in order})
            for level in LEVELS:
                ratio = Interval.of([row[level] / row[0] for row in taken[1:]])  # the first round warms up
                milliseconds = median(row[level] for row in taken[1:]) * 1e3
                cells[level].append(f"{milliseconds:.1f} ms, {ratio}")
        return [tuple(row) for row in cells.values()]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", default=[WRITTEN_OUT, "cerebras-gpt-111m"])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    chosen = parser.parse_args()
    rows = [row for model in chosen.model for row in rows_of(model, chosen.rounds, chosen.length)]
    header = ("model", "level", "operations", "ONNX nodes", f"prefill of {chosen.length} tokens, over -O0", "a token decoded, over -O0")
    text = f"{conditions(f'{chosen.rounds} rounds in turns')}\n\n{table(header, rows)}"
    print(text)
    if chosen.write is not None:
        write_between_marks(chosen.write, "levels", text)


if __name__ == "__main__":
    main()
