"""In which order PEs run: it must not matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

HOST = (-1, -1)
"""Where the host stands among PEs in a schedule: off the wafer."""

Schedule = Callable[[Sequence[tuple[int, int]], int], Sequence[tuple[int, int]]]
"""Given all PEs still at work and the number of the pass, the order in which they run in it."""


def round_robin(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
    return pes


def backwards(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
    return pes[::-1]


def shuffled(seed: int) -> Schedule:
    """Another order in every pass, the same for the same seed."""
    source = random.Random(seed)

    def order(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
        return source.sample(pes, len(pes))

    return order


def starving(victim: tuple[int, int], period: int = 7) -> Schedule:
    """One PE runs in one pass of ``period`` only, or when no other is left."""

    def order(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
        others = [pe for pe in pes if pe != victim]
        return others if others and turn % period else pes

    return order
