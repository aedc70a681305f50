"""Shares of a compiled loop on the processor's cores; none of its results depends on how many there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(part: Callable[[range], None], lines: range, worth: int) -> None:
    """``part`` for shares of the lines, in as many threads as are worth it and there are cores; this one takes the first."""
    count = max(1, min(CORES, len(lines), worth))
    shares = [lines[len(lines) * one // count : len(lines) * (one + 1) // count] for one in range(count)]
    others = [threading.Thread(target=part, args=(share,)) for share in shares[1:]]
    for thread in others:
        thread.start()
    part(shares[0])
    for thread in others:
        thread.join()
