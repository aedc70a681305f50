"""How fast this machine reads memory: the limit of a decoded token, which reads every weight once."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BYTES = 256 << 20
"""Size of the buffer: several times the largest last-level cache in common use, so that each pass comes from memory."""


SETTLE_SECONDS = 0.25
"""onnxruntime's threads spin after a run, waiting for the next: a million pauses, about 0.1 s. On a machine with as many cores they would
take half of what is measured."""

PASSES = 3
"""Of which the median counts, after one that wakes the threads."""


class ReadStream:
    """Reads one buffer with several threads."""

    def __init__(self, threads: int) -> None:
        buffer = np.ones(BYTES // 4, np.float32)
        self._parts = np.array_split(buffer, threads)
        self._pool = ThreadPoolExecutor(threads)

    def measure(self) -> float:
        """Bytes per second of one pass, once the threads of what ran before are at rest."""
        time.sleep(SETTLE_SECONDS)
        self._pass()
        return statistics.median(self._pass() for _ in range(PASSES))

    def _pass(self) -> float:
        start = time.perf_counter()
        list(self._pool.map(np.max, self._parts))  # a maximum is the cheapest thing that reads everything
        return BYTES / (time.perf_counter() - start)
