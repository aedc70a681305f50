"""Artifacts timed in turns: prefill and decode of each against the first, as ratios taken within a round."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.runtime.compiled import Artifact

PROMPT, MADE = 8, 16


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the first artifact: the median over rounds, and the 5th and 95th percentile."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


def compare(artifacts: Mapping[str, Artifact], rounds: int, length: int) -> dict[str, tuple[Ratio, Ratio]]:
    """Prefill of ``length`` tokens, and decode of one row, of every artifact against the first of them, which is 1."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in artifacts}
    for number in range(rounds + 1):  # the first round warms up
        for name, artifact in artifacts.items():
            measured = _prefill(artifact, length), _decode(artifact)
            if number:
                times[name].append(measured)
    first = np.array(next(iter(times.values())))
    found: dict[str, tuple[Ratio, Ratio]] = {}
    for name, rows in times.items():
        ratios = first / np.array(rows)
        found[name] = tuple(Ratio(*np.percentile(ratios[:, column], (5, 50, 95))) for column in (0, 1))  # type: ignore[assignment]
    return found


def _prefill(artifact: Artifact, length: int) -> float:
    ids = np.arange(length)[None] % artifact.text_model.vocabulary
    start = time.perf_counter()
    artifact.run({"input_ids": ids})
    return time.perf_counter() - start


def _decode(artifact: Artifact) -> float:
    """Seconds of the tokens after the first."""
    prompt = list(range(1, PROMPT + 1))
    start = time.perf_counter()
    artifact.generate(prompt, max_new_tokens=1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    artifact.generate(prompt, max_new_tokens=MADE + 1)
    return max(time.perf_counter() - start - first, 1e-9)
