"""Rules about SRAM: the sum fits, nothing overlaps that lives together, every use lies within a declared lifetime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cgptc.backends.wafer.allocation import lifetimes
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import Buffer, Program, Region
from cgptc.backends.wafer.verify.likeness import Kinds

MOST = 1 << 62
"""Where a buffer of any size ends at the latest, for comparisons."""

RESIDENT, NOWHERE = -1, -2
"""In the place of an entry's number: always, and never."""


def held(program: Program, region: Region) -> list[Buffer]:
    """The region's buffers, and one for the queue of every stream that it consumes and of the inflow where that is its own."""
    queues = [
        Buffer(
            f"queue of stream '{stream.name}'", stream.dtype, stream.target.local_shape, stream.address, resident=True, copies=stream.depth
        )
        for stream in program.streams
        if stream.consumer == region.name
    ]
    inflow = program.inflow
    if inflow is not None and inflow.region == region.name:
        queues.append(
            Buffer("queue of the inflow", "i32", (-(-inflow.slot_bytes // 4),), inflow.address, resident=True, copies=inflow.depth)
        )
    return [*region.buffers, *queues]


def peak_bytes(program: Program, region: Region) -> int:
    """The highest address that the region uses, beyond the reserve: what a run measures."""
    return max((buffer.address + buffer.bytes for buffer in held(program, region)), default=0)


def memory_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group."""
    machine = program.machine

    def broken(region: Region) -> Iterator[Issue]:
        where = f"region '{region.name}'"
        buffers = held(program, region)
        peak = peak_bytes(program, region)
        if peak > machine.usable_bytes:
            over = peak - machine.usable_bytes
            yield Issue(
                "sram", where, f"{peak} bytes of {machine.usable_bytes} usable ({machine.reserved_bytes} are reserved): {over} too many"
            )
        for buffer in buffers:
            if buffer.address < 0 or buffer.address % max(machine.alignment_bytes, format_of(buffer.dtype).bytes):
                yield Issue(
                    "sram-alignment", where, f"'{buffer.name}' starts at byte {buffer.address}, not a multiple of {machine.alignment_bytes}"
                )
        for one, other in _overlapping(buffers):
            yield Issue("sram-overlap", where, f"'{one.name}' and '{other.name}' live at the same time in the same bytes")
        yield from _lives(region)

    yield from kinds.issues(broken)


def _overlapping(buffers: Sequence[Buffer]) -> Iterator[tuple[Buffer, Buffer]]:
    """Pairs that share bytes while both live, earlier ones first."""
    entries = {name: number for number, name in enumerate({live.entry for one in buffers for live in one.live})}
    # A row for each time that a buffer lives. One that is live nowhere meets those that always are.
    rows = [
        (number, *(min(edge, MOST) for edge in (one.address, one.address + one.bytes)), *lived)
        for number, one in enumerate(buffers)
        for lived in _times(one, entries)
    ]
    numbers, starts, stops, when, firsts, lasts = np.array(rows, np.int64).reshape(-1, 6).T
    found: dict[tuple[int, int], None] = {}
    for at, (number, start, stop, entry, first, last) in enumerate(rows):
        rest = slice(at + 1, None)
        meet = (starts[rest] < stop) & (start < stops[rest]) & (numbers[rest] > number)
        if entry != RESIDENT:
            meet &= (when[rest] == RESIDENT) | ((when[rest] == entry) & (entry >= 0) & (firsts[rest] <= last) & (first <= lasts[rest]))
        found.update(dict.fromkeys((number, int(other)) for other in numbers[rest][meet]))
    for one, other in sorted(found):
        yield buffers[one], buffers[other]


def _times(one: Buffer, entries: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """When a buffer lives: the entry's number, first and last step."""
    if one.resident:
        return [(RESIDENT, 0, 0)]
    return [(entries[live.entry], live.first, live.last) for live in one.live] or [(NOWHERE, 0, 0)]


def _lives(region: Region) -> Iterator[Issue]:
    used = lifetimes(region.code)
    for buffer in region.buffers:
        where = f"buffer '{buffer.name}' of region '{region.name}'"
        if buffer.name not in used and not buffer.resident:
            yield Issue("buffer-unused", where, "no step touches it")
        if buffer.resident:
            continue
        for need in used.get(buffer.name, ()):
            if not any(live.entry == need.entry and live.first <= need.first and need.last <= live.last for live in buffer.live):
                yield Issue(
                    "live-range", where, f"used in steps {need.first} to {need.last} of '{need.entry}', declared live in {buffer.live}"
                )
