"""Cutting a chain of work into stages: exact dynamic programming over the cut points.

A chain is a row of segments. What several segments need, a weight, a value that is recomputed or one that is handed on, is an `Item`. The
time of a stage is that of its segments, plus what its items cost there; all of it follows from where the stage starts and ends, so
that the best cuts of a prefix are part of the best cuts of the whole.

The slowest stage is made as fast as can be; among all cuts that reach this, those with the least sum of squared times are taken, which
are the most balanced. With ``L`` segments and ``S`` stages that is O(L² S) steps in vectors of numpy. Stages that are slower than some
cut known beforehand are never looked at, nor are ends that leave too much work before or behind them for the stages there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

SLACK = 1 + 1e-9
"""What rounding may do to sums of times that are equal."""


@dataclass(frozen=True)
class Load:
    """Time in the cost model's unit, and bytes."""

    time: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Segment:
    """Work between two neighbouring cut points: time, bytes that stay (weights), bytes that its largest node works on."""

    time: float
    resident_bytes: int = 0
    working_bytes: int = 0


@dataclass(frozen=True)
class Item:
    """What segment ``maker`` has first and the segments ``users``, ascending and after it, need too.

    The maker's stage pays ``own``, and ``sent`` where a later stage needs it; each later stage with a user pays ``received``. Every stage
    that begins after the maker and not after the last user holds ``held_bytes``: its slot of the buffer.
    """

    maker: int
    users: tuple[int, ...] = ()
    own: Load = Load()
    sent: Load = Load()
    received: Load = Load()
    held_bytes: int = 0

    @property
    def last(self) -> int:
        return self.users[-1] if self.users else self.maker


@dataclass(frozen=True)
class Chain:
    """Segments in order, and what they share."""

    segments: tuple[Segment, ...]
    items: tuple[Item, ...] = ()

    def load(self, start: int, stop: int) -> Load:
        """What a stage of segments ``start`` to ``stop`` takes: the definition of a cut's price."""
        part = self.segments[start:stop]
        time = sum(segment.time for segment in part)
        held = sum(segment.resident_bytes for segment in part) + max(segment.working_bytes for segment in part)
        for item in self.items:
            if start <= item.maker < stop:
                time += item.own.time
                held += item.own.bytes
                if item.last >= stop:
                    time += item.sent.time
                    held += item.sent.bytes
            elif any(start <= user < stop for user in item.users):
                time += item.received.time
                held += item.received.bytes
            if item.maker < start <= item.last:
                held += item.held_bytes
        return Load(time, held)

    def loads(self, ends: Sequence[int]) -> list[Load]:
        """What each stage takes, in order; ``ends`` are those of the stages' segments."""
        return [self.load(start, stop) for start, stop in pairwise((0, *ends))]


def coarse(chain: Chain, most: int = 1024) -> Chain:
    """A chain of at most ``most`` segments, each several neighbours of this one, for questions where a good answer is enough."""
    step = -(-len(chain.segments) // most)
    if step == 1:
        return chain
    groups = [chain.segments[start : start + step] for start in range(0, len(chain.segments), step)]
    segments = tuple(
        Segment(sum(one.time for one in group), sum(one.resident_bytes for one in group), max(one.working_bytes for one in group))
        for group in groups
    )
    items = (
        replace(item, maker=item.maker // step, users=tuple(sorted({user // step for user in item.users} - {item.maker // step})))
        for item in chain.items
    )
    return Chain(segments, tuple(items))


def partition(chain: Chain, stage_count: int, limit_bytes: int | None = None) -> tuple[int, ...] | None:
    """Ends (exclusive) of the stages' segments, the last being the chain's. None where no cut keeps every stage within the limit."""
    if not 1 <= stage_count <= len(chain.segments):
        return None
    slowest = _Search(chain, stage_count, limit_bytes, _known_bound(chain, stage_count, limit_bytes)).run()
    best = slowest.best[stage_count, -1]
    if not np.isfinite(best):
        return None
    return _Search(chain, stage_count, limit_bytes, float(best) * SLACK, balanced=True).run().ends(stage_count)


def slowest_stages(chain: Chain, most: int, limit_bytes: int | None = None) -> list[float]:
    """The time of the slowest stage for 1, 2, … ``most`` stages, each as small as can be; infinite where none fits."""
    count = min(most, len(chain.segments))
    best = _Search(chain, count, limit_bytes, np.inf).run().best
    return [float(best[stages, -1]) for stages in range(1, count + 1)]


def smallest_limit(chain: Chain, stage_count: int) -> int:
    """The least bytes per stage with which ``stage_count`` stages can be cut."""
    return int(_Search(chain, stage_count, None, np.inf, of_bytes=True).run().best[stage_count, -1])


def _known_bound(chain: Chain, stage_count: int, limit_bytes: int | None) -> float:
    """The slowest stage of a cut that is at hand: the chain in equal parts. Infinite where that does not fit."""
    done = np.cumsum([segment.time for segment in chain.segments])
    ends: list[int] = []
    for index in range(1, stage_count):
        at = int(np.searchsorted(done, done[-1] * index / stage_count)) + 1
        low, high = (ends[-1] if ends else 0) + 1, len(chain.segments) - (stage_count - index)
        ends.append(min(max(at, low), high))
    loads = chain.loads([*ends, len(chain.segments)])
    if limit_bytes is not None and any(load.bytes > limit_bytes for load in loads):
        return np.inf
    return max(load.time for load in loads) * SLACK


class _Search:
    """One run of the dynamic program. ``best[s, j]`` is the value of the best cut of the first ``j`` segments into ``s`` stages.

    The sums over a stage's segments are kept as one number per segment, so that a suffix sum up to ``start`` gives the stage from there:
    an item's ``received`` stands at its last user so far and, negative, at its maker, where ``own`` and ``sent`` stand.
    """

    def __init__(
        self, chain: Chain, stage_count: int, limit_bytes: int | None, bound: float, *, balanced: bool = False, of_bytes: bool = False
    ) -> None:
        length = len(chain.segments)
        self.chain = chain
        self.stage_count = stage_count
        self.limit = np.inf if limit_bytes is None else float(limit_bytes)
        self.bound = bound
        self.balanced = balanced
        self.of_bytes = of_bytes
        self.best: Floats = np.full((stage_count + 1, length + 1), np.inf)
        self.best[0, 0] = 0.0
        self.origin: npt.NDArray[np.int32] = np.zeros((stage_count + 1, length + 1), np.int32)
        self.times: Floats = np.array([segment.time for segment in chain.segments])
        self.bytes: Floats = np.array([float(segment.resident_bytes) for segment in chain.segments])
        self.working: Floats = np.array([float(segment.working_bytes) for segment in chain.segments])
        self.held = _held(chain)
        self.arrivals = _arrivals(chain)

    def run(self) -> _Search:
        base_time = np.concatenate([[0.0], np.cumsum([segment.time for segment in self.chain.segments])])
        base_bytes = np.concatenate([[0], np.cumsum([segment.resident_bytes for segment in self.chain.segments])])
        low = 0
        for stop in range(1, len(self.chain.segments) + 1):
            self._include(stop - 1)
            while low < stop and (
                base_time[stop] - base_time[low] > self.bound * SLACK or float(base_bytes[stop] - base_bytes[low]) > self.limit
            ):
                low += 1
            least = max(1, self._stages_for(base_time[stop]))
            most = self.stage_count - self._stages_for(base_time[-1] - base_time[stop])
            if low < stop and least <= most:
                self._close(low, stop, least, most)
        return self

    def _stages_for(self, time: float) -> int:
        """The fewest stages that do this much work."""
        return math.ceil(time / (self.bound * SLACK)) if self.bound else 0

    def ends(self, stage_count: int) -> tuple[int, ...]:
        """The cut behind ``best[stage_count, -1]``."""
        ends = [len(self.chain.segments)]
        for stages in range(stage_count, 1, -1):
            ends.append(int(self.origin[stages, ends[-1]]))
        return tuple(reversed(ends))

    def _include(self, place: int) -> None:
        """Note what segment ``place``, now the last, does to the items that it touches."""
        for item, previous in self.arrivals[place]:
            if previous is None:
                self._add(place, item.own, 1)
                if item.users:
                    self._add(place, item.sent, 1)
                continue
            self._add(previous, item.received, -1)
            self._add(place, item.received, 1)
            if place == item.last:
                self._add(item.maker, item.sent, -1)

    def _add(self, place: int, load: Load, sign: int) -> None:
        self.times[place] += sign * load.time
        self.bytes[place] += sign * load.bytes

    def _close(self, low: int, stop: int, least: int, most: int) -> None:
        """Every stage that ends at ``stop``, starts at ``low`` or later, and is number ``least`` to ``most``, from 1."""
        backwards = slice(stop - 1, low - 1 if low else None, -1)
        time = np.cumsum(self.times[backwards])[::-1]
        held = np.cumsum(self.bytes[backwards])[::-1] + np.maximum.accumulate(self.working[backwards])[::-1] + self.held[low:stop]
        cost = held if self.of_bytes else time
        cost = np.where((cost <= self.bound) & (held <= self.limit), cost, np.inf)
        before = self.best[least - 1 : most, low:stop]
        candidates = before + cost * cost if self.balanced else np.maximum(before, cost)
        chosen = np.argmin(candidates, axis=1)
        self.best[least : most + 1, stop] = candidates[np.arange(len(chosen)), chosen]
        self.origin[least : most + 1, stop] = chosen + low


def _held(chain: Chain) -> Floats:
    """By first segment of a stage: bytes of the buffer slots that it holds."""
    change = np.zeros(len(chain.segments) + 1)
    for item in chain.items:
        if item.users:
            change[item.maker + 1] += item.held_bytes
            change[item.last + 1] -= item.held_bytes
    return np.cumsum(change)[:-1]


def _arrivals(chain: Chain) -> list[list[tuple[Item, int | None]]]:
    """By segment: the items that it touches, each with the segment that touched it before; None for its maker."""
    found: list[list[tuple[Item, int | None]]] = [[] for _ in chain.segments]
    for item in chain.items:
        touching: Sequence[int] = (item.maker, *item.users)
        found[item.maker].append((item, None))
        for previous, place in pairwise(touching):
            found[place].append((item, previous))
    return found
