"""How fast this machine reads memory: the limit of a decoded token, which reads every weight once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BYTES = 256 << 20
"""Size of the buffer: several times the largest last-level cache in common use, so that each pass comes from memory."""


SETTLE_SECONDS = 0.1
"""onnxruntime's threads spin for a while after a run, waiting for the next; on a machine with as many cores they would halve the speed."""


class ReadStream:
    """Reads one buffer with several threads."""

    def __init__(self, threads: int) -> None:
        buffer = np.ones(BYTES // 4, np.float32)
        self._parts = np.array_split(buffer, threads)
        self._pool = ThreadPoolExecutor(threads)

    def measure(self) -> float:
        """Bytes per second of one pass, once the threads of what ran before are at rest."""
        time.sleep(SETTLE_SECONDS)
        start = time.perf_counter()
        list(self._pool.map(np.max, self._parts))  # a maximum is the cheapest thing that reads everything
        return BYTES / (time.perf_counter() - start)
