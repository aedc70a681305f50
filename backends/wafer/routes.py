"""Routes of streams: a family is a rule over coordinates, expanded exactly, analysed as arrays, never stored.

Every element goes from the one PE that holds it in the source layout to all that hold it in the target layout. Elements of the same
source and the same targets travel together, as one *piece*. A piece's route is a tree: along the stream's first direction on the source's
line as far as the targets' lines, then along the other direction on each of those lines. Pieces are sent in *phases*: two pieces of one
phase touch no common router. Along each direction phases come from colouring the intervals that pieces cover; a piece's phase is the pair.
Where a tensor axis is cut along the rows of one layout and the columns of the other, routes cross, and each piece has a phase of its own.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Rectangle, Region, Stream

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """All pieces of a stream as parallel arrays in fabric coordinates: source, inclusive target rectangle, words, phase."""

    source_x: Integers
    source_y: Integers
    low_x: Integers
    high_x: Integers
    low_y: Integers
    high_y: Integers
    words: Integers
    phase: Integers

    @property
    def piece_count(self) -> int:
        return len(self.words)

    @property
    def phase_count(self) -> int:
        return int(self.phase.max(initial=-1)) + 1


@dataclass(frozen=True)
class Loads:
    """Words per link over a bounding box whose corner is (x, y): ``east[j, i]`` is the link from (x + i, y + j) to its right, and so on."""

    x: int
    y: int
    east: Integers
    west: Integers
    south: Integers
    north: Integers

    @property
    def busiest(self) -> int:
        return max(int(array.max(initial=0)) for array in (self.east, self.west, self.south, self.north))


@dataclass(frozen=True)
class StreamCost:
    """One item of a stream: cycles until it has arrived everywhere, and most words into or out of one PE."""

    cycles: int
    contention: int
    phases: int
    distance: int
    busiest_link: int
    wavelets: int


@dataclass(frozen=True)
class _Group:
    """Elements of one grid axis that share a source line and target lines; ``count`` of them."""

    source: int
    low: int
    high: int
    count: int


def check_layouts(stream: Stream, producer: Rectangle, consumer: Rectangle) -> str | None:
    """Why a stream's layouts cannot be routed; None where they can."""
    source, target = stream.source, stream.target
    if (source.width, source.height) != (producer.width, producer.height):
        return f"the source layout is for {source.width} × {source.height} PEs, the producer has {producer.width} × {producer.height}"
    if (target.width, target.height) != (consumer.width, consumer.height):
        return f"the target layout is for {target.width} × {target.height} PEs, the consumer has {consumer.width} × {consumer.height}"
    if source.shape != target.shape:
        return f"the source has shape {source.shape}, the target {target.shape}"
    for along, line, lines in (("rows", source.row, source.height), ("columns", source.column, source.width)):
        if line is None and lines > 1 and all(cut is None or cut.along != along for cut in source.cuts):
            return f"the source is replicated along {along}: a line must be named"
    return None


def _groups(stream: Stream, along: str, producer: Rectangle, consumer: Rectangle) -> list[_Group]:
    """Groups along one grid axis where no tensor axis changes its grid axis."""
    source, target = stream.source, stream.target
    offset, target_offset = (producer.x, consumer.x) if along == "columns" else (producer.y, consumer.y)
    lines = target.width if along == "columns" else target.height
    fixed_source = source.column if along == "columns" else source.row
    fixed_target = target.column if along == "columns" else target.row
    source_axis, target_axis = source.cut_axis(_axis(along)), target.cut_axis(_axis(along))
    axis = source_axis if source_axis is not None else target_axis
    if axis is None:
        low, high = (0, lines - 1) if fixed_target is None else (fixed_target, fixed_target)
        return [_Group(offset + (fixed_source or 0), target_offset + low, target_offset + high, 1)]
    size = stream.source.shape[axis]
    index = np.arange(size)
    from_lines = _lines(source, axis, index) if source_axis is not None else np.full(size, fixed_source or 0)
    if target_axis is not None:
        to_low = to_high = _lines(target, axis, index)
    else:
        to_low = np.full(size, fixed_target or 0)
        to_high = np.full(size, lines - 1 if fixed_target is None else fixed_target)
    triples, counts = np.unique(np.stack([from_lines, to_low, to_high], axis=1), axis=0, return_counts=True)
    return [
        _Group(offset + int(a), target_offset + int(b), target_offset + int(c), int(count))
        for (a, b, c), count in zip(triples, counts, strict=True)
    ]


def _axis(along: str) -> Any:
    return along


def _lines(layout: Layout, axis: int, index: Integers) -> Integers:
    cut = layout.cuts[axis]
    if cut is None:
        return np.zeros_like(index)
    return index // cut.block if cut.block else index % layout.lines(cut.along)


def _crosses(stream: Stream) -> bool:
    """Whether routes may cross: a tensor axis changes its grid axis, or both layouts cut different axes along one."""
    for along in ("rows", "columns"):
        first, second = stream.source.cut_axis(_axis(along)), stream.target.cut_axis(_axis(along))
        if first is not None and second is not None and first != second:
            return True
        for axis in (first, second):
            if axis is not None:
                other_cuts = (stream.source.cuts[axis], stream.target.cuts[axis])
                if any(cut is not None and cut.along != along for cut in other_cuts):
                    return True
    return False


def _colour_intervals(groups: list[_Group]) -> list[int]:
    """The least phase for each group in which no other group's closed interval of lines overlaps its own."""
    intervals = [(min(group.source, group.low), max(group.source, group.high)) for group in groups]
    phases = [0] * len(groups)
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    count = 0
    for place in sorted(range(len(groups)), key=lambda i: intervals[i]):
        low, high = intervals[place]
        while busy and busy[0][0] < low:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            phases[place] = heapq.heappop(free)
        else:
            phases[place], count = count, count + 1
        heapq.heappush(busy, (high, phases[place]))
    return phases


@lru_cache(maxsize=256)
def family(stream: Stream, producer: Rectangle, consumer: Rectangle) -> Family:
    """All pieces of a stream. Raises ProgramError where its layouts cannot be routed."""
    problem = check_layouts(stream, producer, consumer)
    if problem:
        raise ProgramError("stream-layout", f"stream '{stream.name}': {problem}")
    if _crosses(stream):
        return _crossing_family(stream, producer, consumer)
    columns = _groups(stream, "columns", producer, consumer)
    rows = _groups(stream, "rows", producer, consumer)
    cut_axes = {layout.cut_axis(_axis(along)) for layout in (stream.source, stream.target) for along in ("rows", "columns")}
    whole = int(np.prod([size for axis, size in enumerate(stream.source.shape) if axis not in cut_axes], dtype=np.int64))
    across, down = np.array(_colour_intervals(columns), np.int64), np.array(_colour_intervals(rows), np.int64)
    row_of, column_of = (part.ravel() for part in np.meshgrid(np.arange(len(rows)), np.arange(len(columns)), indexing="ij"))

    def pick(groups: list[_Group], name: str, chosen: Integers) -> Integers:
        return np.array([getattr(group, name) for group in groups], np.int64)[chosen]

    elements = pick(rows, "count", row_of) * pick(columns, "count", column_of) * whole
    width = format_of(stream.dtype).bytes
    return Family(
        pick(columns, "source", column_of),
        pick(rows, "source", row_of),
        pick(columns, "low", column_of),
        pick(columns, "high", column_of),
        pick(rows, "low", row_of),
        pick(rows, "high", row_of),
        (elements * width + 3) // 4,
        across[column_of] * (int(down.max(initial=0)) + 1) + down[row_of],
    )


@dataclass(frozen=True)
class Piece:
    """Elements (flat indices into the tiles) that go together from one PE to others, in region coordinates."""

    source: tuple[int, int]
    targets: tuple[tuple[int, int], ...]
    taken: tuple[int, ...]
    put: tuple[int, ...]


def pieces(stream: Stream) -> list[Piece]:
    """The definition, element by element: every piece, ordered by source and then by its first target. For small regions."""
    source, target = stream.source, stream.target
    by_target: dict[tuple[int, int], dict[tuple[int, int], list[tuple[int, int]]]] = {}
    for y, x in product(range(target.height), range(target.width)):
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for put, local in enumerate(np.ndindex(*target.local_shape)):
            index = target.logical(x, y, local)
            if index is not None:
                sx, sy, inner = source.locate(index)
                taken = int(np.ravel_multi_index(inner, source.local_shape)) if inner else 0
                found[sy, sx].append((taken, put))
        by_target[y, x] = found
    together: dict[tuple[tuple[int, int], tuple[tuple[int, int], ...]], list[tuple[int, int]]] = defaultdict(list)
    for place, found in by_target.items():
        for origin, elements in found.items():
            together[origin, tuple(elements)].append(place)
    result = [
        Piece((sx, sy), tuple((x, y) for y, x in targets), tuple(a for a, _ in elements), tuple(b for _, b in elements))
        for ((sy, sx), elements), targets in together.items()
    ]
    return sorted(result, key=lambda piece: (piece.source[1], piece.source[0], piece.targets[0][1], piece.targets[0][0]))


def _crossing_family(stream: Stream, producer: Rectangle, consumer: Rectangle) -> Family:
    """Pieces one by one, each in a phase of its own."""
    rows = [_described(piece, stream, producer, consumer, phase) for phase, piece in enumerate(_crossing_pieces(stream))]
    table = np.array(rows, np.int64).reshape(-1, 8)
    return Family(*(table[:, i] for i in range(8)))


def _crossing_pieces(stream: Stream) -> Iterator[tuple[tuple[int, int], tuple[int, int, int, int], int]]:
    """``(source, inclusive target rectangle, elements)`` by counting elements per pair of places, in order of source and target."""
    source, target = stream.source, stream.target
    rank = len(source.shape)
    coordinates: list[Integers] = []
    for layout, fixed in ((source, (source.row, source.column)), (target, (target.row, target.column))):
        for along, line in zip(("rows", "columns"), fixed, strict=True):
            axis = layout.cut_axis(_axis(along))
            if axis is None:
                coordinates.append(np.full([1] * rank, -1 if line is None else line))
            else:
                shape = [-1 if other == axis else 1 for other in range(rank)]
                coordinates.append(_lines(layout, axis, np.arange(layout.shape[axis])).reshape(shape))
    table = np.stack([np.broadcast_to(one, source.shape).ravel() for one in coordinates], axis=1)
    places, counts = np.unique(table, axis=0, return_counts=True)
    for (sy, sx, ty, tx), count in zip(places.tolist(), counts.tolist(), strict=True):
        across = (0, target.width - 1) if tx < 0 else (tx, tx)
        down = (0, target.height - 1) if ty < 0 else (ty, ty)
        yield (max(sx, 0), max(sy, 0)), (*across, *down), count


def _described(
    piece: tuple[tuple[int, int], tuple[int, int, int, int], int], stream: Stream, producer: Rectangle, consumer: Rectangle, phase: int
) -> tuple[int, ...]:
    (sx, sy), (low_x, high_x, low_y, high_y), count = piece
    words = (count * format_of(stream.dtype).bytes + 3) // 4
    return (
        sx + producer.x, sy + producer.y, low_x + consumer.x, high_x + consumer.x, low_y + consumer.y, high_y + consumer.y, words, phase,
    )  # fmt: skip


def loads(pieces_of: Family, first: str) -> Loads:
    """Words over each link in the bounding box of all routes."""
    one = pieces_of
    if one.piece_count == 0:
        empty = np.zeros((0, 0), np.int64)
        return Loads(0, 0, empty, empty, empty, empty)
    left, right = np.minimum(one.source_x, one.low_x), np.maximum(one.source_x, one.high_x)
    top, bottom = np.minimum(one.source_y, one.low_y), np.maximum(one.source_y, one.high_y)
    x, y = int(left.min()), int(top.min())
    shape = (int(bottom.max()) - y + 2, int(right.max()) - x + 2)
    marks = {name: np.zeros(shape, np.int64) for name in ("east", "west", "south", "north")}

    def mark(name: str, from_x: Integers, to_x: Integers, from_y: Integers, to_y: Integers) -> None:
        """Add the words to all links in a rectangle (half open) of each piece."""
        kept = (to_x > from_x) & (to_y > from_y)
        for ys, xs, sign in ((from_y, from_x, 1), (from_y, to_x, -1), (to_y, from_x, -1), (to_y, to_x, 1)):
            np.add.at(marks[name], (ys[kept] - y, xs[kept] - x), sign * one.words[kept])

    if first == "x":
        mark("east", one.source_x, right, one.source_y, one.source_y + 1)
        mark("west", left + 1, one.source_x + 1, one.source_y, one.source_y + 1)
        mark("south", one.low_x, one.high_x + 1, one.source_y, bottom)
        mark("north", one.low_x, one.high_x + 1, top + 1, one.source_y + 1)
    else:
        mark("south", one.source_x, one.source_x + 1, one.source_y, bottom)
        mark("north", one.source_x, one.source_x + 1, top + 1, one.source_y + 1)
        mark("east", one.source_x, right, one.low_y, one.high_y + 1)
        mark("west", left + 1, one.source_x + 1, one.low_y, one.high_y + 1)
    summed = {name: np.cumsum(np.cumsum(array, axis=0), axis=1)[:-1, :-1] for name, array in marks.items()}
    return Loads(x, y, summed["east"], summed["west"], summed["south"], summed["north"])


def share_links(one: Loads, other: Loads) -> bool:
    """Whether two streams use a common link."""
    low_x, low_y = max(one.x, other.x), max(one.y, other.y)
    high_x = min(one.x + one.east.shape[1], other.x + other.east.shape[1])
    high_y = min(one.y + one.east.shape[0], other.y + other.east.shape[0])
    if low_x >= high_x or low_y >= high_y:
        return False
    for mine, theirs in ((one.east, other.east), (one.west, other.west), (one.south, other.south), (one.north, other.north)):
        first = mine[low_y - one.y : high_y - one.y, low_x - one.x : high_x - one.x]
        second = theirs[low_y - other.y : high_y - other.y, low_x - other.x : high_x - other.x]
        if bool(((first > 0) & (second > 0)).any()):
            return True
    return False


def meet(one: Stream, other: Stream, boxes: Mapping[str, Rectangle]) -> bool:
    """Whether two streams between these rectangles use a common link."""
    ends = [(boxes[each.producer], boxes[each.consumer]) for each in (one, other)]
    if not _hull(*ends[0]).overlaps(_hull(*ends[1])):
        return False
    first, second = (loads(family(each, *both), each.first) for each, both in zip((one, other), ends, strict=True))
    return share_links(first, second)


def _hull(one: Rectangle, other: Rectangle) -> Rectangle:
    """What no route between two rectangles leaves."""
    x, y = min(one.x, other.x), min(one.y, other.y)
    right, bottom = (max(one.x + one.width, other.x + other.width), max(one.y + one.height, other.y + other.height))
    return Rectangle(x, y, right - x, bottom - y)


@lru_cache(maxsize=256)
def _cost(stream: Stream, producer: Rectangle, consumer: Rectangle, machine: Machine) -> StreamCost:
    found = family(stream, producer, consumer)
    if found.piece_count == 0:
        return StreamCost(0, 0, 0, 0, 0, 0)
    reach_x = np.maximum(np.abs(found.low_x - found.source_x), np.abs(found.high_x - found.source_x))
    reach_y = np.maximum(np.abs(found.low_y - found.source_y), np.abs(found.high_y - found.source_y))
    distance = int((reach_x + reach_y).max())
    sent = np.unique(np.stack([found.source_y, found.source_x]), axis=1, return_inverse=True)[1].ravel()
    out = int(np.bincount(sent, weights=found.words).max())
    local = int(np.prod(stream.target.local_shape, dtype=np.int64))
    contention = max(out, format_of(stream.dtype).words(local))
    per_phase = np.zeros(found.phase_count, np.int64)
    np.maximum.at(per_phase, found.phase, found.words)
    busiest = loads(found, stream.first).busiest
    # Phases follow one another on the routers that they share: words of each, and a control wavelet between two.
    serial = int(per_phase.sum()) + found.phase_count - 1
    cycles = max(contention, busiest, serial) + machine.hop_cycles * distance + machine.message_cycles
    return StreamCost(cycles, contention, found.phase_count, distance, busiest, int(found.words.sum()))


def stream_cost(stream: Stream, producer: Region, consumer: Region, machine: Machine) -> StreamCost:
    """Cycles and counts of one item of a stream."""
    return _cost(stream, producer.rectangle, consumer.rectangle, machine)
