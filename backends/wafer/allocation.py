"""SRAM allocation: which buffers live when, and an address for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer, Code, Live
from cgptc.backends.wafer.steps import numbered, views


def lifetimes(code: Sequence[Code]) -> dict[str, tuple[Live, ...]]:
    """For each buffer and entry the steps from first to last use; a use inside a loop lasts for the whole of the outermost loop."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for one in code:
        ends: dict[int, int] = {}
        uses: list[tuple[str, int]] = []
        for number, outermost, step in numbered(one.steps):
            ends[outermost] = number
            uses.extend((view.buffer, outermost) for group in views(step) for view in group)
        for name, outermost in uses:
            first, last = found.setdefault(name, {}).get(one.entry, (outermost, -1))
            found[name][one.entry] = (min(first, outermost), max(last, ends[outermost]))
    return {name: tuple(Live(entry, *span) for entry, span in entries.items()) for name, entries in found.items()}


def allocate(buffers: Sequence[Buffer], code: Sequence[Code], machine: Machine, *, taken: int = 0) -> tuple[Buffer, ...]:
    """The buffers with lifetimes and addresses above ``taken`` bytes: resident ones first, then each at the lowest address that is free.

    Larger buffers are placed earlier, of equal ones those that are given earlier: what they are called changes nothing. Raises
    ProgramError where the machine's SRAM does not suffice, saying by how much.
    """
    lives = lifetimes(code)
    timed = [one if one.resident else replace(one, live=lives.get(one.name, ())) for one in buffers]
    order = sorted(timed, key=lambda one: (not one.resident, -one.bytes))
    placed: list[Buffer] = []
    # Resident buffers stand one behind another, since each lives as long as all others; what lives for a time starts behind them.
    base = _aligned(taken, machine)
    resident = [one for one in order if one.resident]
    for one in resident:
        placed.append(replace(one, address=base))
        base = _aligned(base + one.bytes, machine) if one.bytes else base
    temporary = _Placed(len(order) - len(resident), [live.entry for one in order for live in one.live])
    for one in order[len(resident) :]:
        address = base
        for start, stop in temporary.meeting(one.live):
            if address + one.bytes <= start:
                break
            address = max(address, _aligned(stop, machine))
        placed.append(replace(one, address=address))
        temporary.add(address, address + one.bytes, one.live)
    end = max((one.address + one.bytes for one in placed), default=taken)
    if end > machine.usable_bytes:
        raise ProgramError(
            "sram", f"buffers need {end} bytes of a PE's {machine.usable_bytes} ({end - machine.usable_bytes} too many)", fix="use more PEs"
        )
    by_name = {one.name: one for one in placed}
    return tuple(by_name[one.name] for one in buffers)


class _Placed:
    """Buffers that have an address, as arrays: first and last byte, and for each entry the first and last step."""

    def __init__(self, most: int, entries: Sequence[str]) -> None:
        self._count = 0
        self._bytes = np.zeros((2, most), np.int64)
        # Who has no part in an entry ends there before it begins.
        self._steps = {entry: np.stack([np.ones(most, np.int64), np.zeros(most, np.int64)]) for entry in dict.fromkeys(entries)}

    def add(self, start: int, stop: int, lives: Sequence[Live]) -> None:
        self._bytes[:, self._count] = start, stop
        for live in lives:
            self._steps[live.entry][:, self._count] = live.first, live.last
        self._count += 1

    def meeting(self, lives: Sequence[Live]) -> list[tuple[int, int]]:
        """The bytes of those that share a step with one that lives then, in order."""
        found = np.zeros(self._count, np.bool_)
        for live in lives:
            first, last = self._steps[live.entry][:, : self._count]
            found |= (first <= live.last) & (live.first <= last) & (first <= last)
        start, stop = self._bytes[:, : self._count][:, found].tolist()
        return sorted(zip(start, stop, strict=True))


def _aligned(address: int, machine: Machine) -> int:
    step = machine.alignment_bytes
    return (address + step - 1) // step * step
