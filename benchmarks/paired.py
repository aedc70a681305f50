"""Artifacts timed in turns: prefill and decode of each against the first, as ratios taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
from peer_table import Interval

from cgptc.driver.bench.read_stream import SETTLE_SECONDS
from cgptc.runtime.compiled import Artifact

PROMPT, MADE = 8, 16


def timed(call: Callable[[], object], count: int) -> float:
    """Median seconds of a call, after a rest in which other sessions' threads stop spinning, and one call that is not counted."""
    time.sleep(SETTLE_SECONDS)
    call()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def compare(artifacts: Mapping[str, Artifact], rounds: int, length: int) -> dict[str, tuple[Interval, Interval]]:
    """How many times as fast as the first artifact each is: prefill of ``length`` tokens for generation, and decode of one row."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in artifacts}
    for number in range(rounds + 1):  # the first round warms up
        for name, artifact in artifacts.items():
            measured = _prefill(artifact, length), _decode(artifact)
            if number:
                times[name].append(measured)
    first = np.array(next(iter(times.values())))
    found: dict[str, tuple[Interval, Interval]] = {}
    for name, rows in times.items():
        ratios = first / np.array(rows)
        found[name] = (Interval.of(ratios[:, 0]), Interval.of(ratios[:, 1]))
    return found


def _prefill(artifact: Artifact, length: int) -> float:
    """Seconds until the first token behind a prompt."""
    prompt = [token % artifact.text_model.vocabulary for token in range(length)]
    return timed(lambda: artifact.generate(prompt, max_new_tokens=1), 2)


def _decode(artifact: Artifact) -> float:
    """Seconds of the tokens after the first."""
    prompt = list(range(1, PROMPT + 1))
    first = timed(lambda: artifact.generate(prompt, max_new_tokens=1), 1)
    return max(timed(lambda: artifact.generate(prompt, max_new_tokens=MADE + 1), 1) - first, 1e-9)
