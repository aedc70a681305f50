"""What a run counted, the same for both engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.clock import Timeline
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Inflow, Rectangle, Stream
from cgptc.backends.wafer.resolve import Block
from cgptc.backends.wafer.routes import Loads, family, loads

Array = NDArray[Any]


@dataclass
class Account:
    """Counters of one run.

    ``cycles`` are those of each region's steps as executed, without waiting and without the overlap that loops declare. ``east`` and the
    like are words over the link that leaves PE (x, y) in that direction, indexed ``[y, x]``. ``macs`` are useful multiply-accumulates,
    all PEs together; ``busy`` counts PE-cycles of local steps; ``peak_bytes`` is the highest address used by a region, without the reserve.
    """

    machine: Machine
    cycles: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    busy: int = 0
    peak_bytes: dict[str, int] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=lambda: Timeline(()))

    def __post_init__(self) -> None:
        self._lines: Counter[tuple[Pattern, int, int, str, Block, Rectangle]] = Counter()
        self._streams: Counter[tuple[Stream, Rectangle, Rectangle]] = Counter()
        self._parcels: Counter[str] = Counter()
        self._ways: dict[str, tuple[str, NDArray[np.int64]]] = {}
        shape = (self.machine.height, self.machine.width)
        self._hops = {name: np.zeros(shape, np.int64) for name in ("east", "west", "south", "north")}

    @property
    def east(self) -> Array:
        return self._links("east")

    @property
    def west(self) -> Array:
        return self._links("west")

    @property
    def south(self) -> Array:
        return self._links("south")

    @property
    def north(self) -> Array:
        return self._links("north")

    def _links(self, direction: str) -> Array:
        """Words over all links of a direction: what was counted one by one, and the repeated traffic times its repetitions."""
        if self._lines or self._streams or self._parcels:
            for (pattern, words, segments, along, block, box), count in self._lines.items():
                self._add_line(pattern, words * count, segments, along, block, box)
            for (stream, producer, consumer), count in self._streams.items():
                self._add_stream(_stream_loads(stream, producer, consumer), count)
            for tensor, count in self._parcels.items():
                direction_taken, sent = self._ways[tensor]
                self._hops[direction_taken][: sent.shape[0], : sent.shape[1]] += count * sent
            self._parcels.clear()
            self._lines.clear()
            self._streams.clear()
        return self._hops[direction]

    def spend(self, region: str, cycles: int) -> None:
        self.cycles[region] = self.cycles.get(region, 0) + cycles

    def touch(self, region: str, end: int) -> None:
        """Note that a region uses memory up to ``end`` bytes."""
        self.peak_bytes[region] = max(self.peak_bytes.get(region, 0), end)

    def line_traffic(self, pattern: Pattern, words: int, segments: int, along: str, block: Block, rectangle: Rectangle) -> None:
        """Count a collective on every line of a block."""
        self._lines[pattern, words, segments, along, block, rectangle] += 1

    def stream_traffic(self, stream: Stream, producer: Rectangle, consumer: Rectangle) -> None:
        """Count one item of a stream."""
        self._streams[stream, producer, consumer] += 1

    def inflow_traffic(self, tensor: str, way: tuple[str, NDArray[np.int64]]) -> None:
        """Count a parcel, its way as `link_words` gives it."""
        self._ways[tensor] = way
        self._parcels[tensor] += 1

    def touch_inflow(self, inflow: Inflow | None, region: str) -> None:
        """Note the queue of an inflow where it is the region's."""
        if inflow is not None and inflow.region == region:
            self.touch(region, inflow.address + inflow.depth * inflow.slot_bytes)

    def hop(self, x: int, y: int, direction: str, words: int) -> None:
        """Count words over the link that leaves PE (x, y)."""
        self._hops[direction][y, x] += words

    def _add_line(self, pattern: Pattern, words: int, segments: int, along: str, block: Block, rectangle: Rectangle) -> None:
        onward = np.zeros(segments * pattern.size, np.int64)
        backward = np.zeros(segments * pattern.size, np.int64)
        there, back = pattern.loads(words)
        for segment in range(segments):
            start = segment * pattern.size
            onward[start : start + pattern.size - 1] = there
            backward[start + 1 : start + pattern.size] = back
        area = (_lines(block.rows, rectangle.y), _lines(block.columns, rectangle.x))
        if along == "x":
            self._hops["east"][area] += onward
            self._hops["west"][area] += backward
        else:
            self._hops["south"][area] += onward[:, None]
            self._hops["north"][area] += backward[:, None]

    def _add_stream(self, found: Loads, count: int) -> None:
        height, width = found.east.shape
        area = (slice(found.y, found.y + height), slice(found.x, found.x + width))
        self._hops["east"][area] += count * found.east
        self._hops["west"][area] += count * found.west
        self._hops["south"][area] += count * found.south
        self._hops["north"][area] += count * found.north

    @property
    def link_bytes(self) -> int:
        """Bytes over all links together."""
        return 4 * sum(sum(map(sum, array.tolist())) for array in (self.east, self.west, self.south, self.north))

    @property
    def busiest_link_bytes(self) -> int:
        return 4 * max(int(np.amax(array, initial=0)) for array in (self.east, self.west, self.south, self.north))


@dataclass(frozen=True)
class Run:
    """Outputs of a run, as logical tensors with a leading axis of items where the entry has items, and what was counted."""

    outputs: Mapping[str, Array]
    account: Account


_LOADS: dict[tuple[Stream, Rectangle, Rectangle], Loads] = {}


def _stream_loads(stream: Stream, producer: Rectangle, consumer: Rectangle) -> Loads:
    key = (stream, producer, consumer)
    if key not in _LOADS:
        if len(_LOADS) > 256:
            _LOADS.clear()
        _LOADS[key] = loads(family(stream, producer, consumer), stream.first)
    return _LOADS[key]


def _lines(lines: range, offset: int) -> slice:
    return slice(lines.start + offset, lines[-1] + 1 + offset, lines.step) if len(lines) else slice(0, 0)
