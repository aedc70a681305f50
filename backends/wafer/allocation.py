"""SRAM allocation: which buffers live when, and an address for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer, Code, Live, numbered, views


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


def live_together(one: Buffer, other: Buffer) -> bool:
    """Whether two buffers may hold something at the same time."""
    if one.resident or other.resident:
        return True
    return any(a.entry == b.entry and a.first <= b.last and b.first <= a.last for a in one.live for b in other.live)


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
    temporary: list[tuple[int, int, dict[str, tuple[int, int]]]] = []
    for one in order:
        if one.resident:
            placed.append(replace(one, address=base))
            base = _aligned(base + one.bytes, machine) if one.bytes else base
            continue
        spans = {live.entry: (live.first, live.last) for live in one.live}
        address = base
        for start, stop in sorted((start, stop) for start, stop, others in temporary if _meet(spans, others)):
            if address + one.bytes <= start:
                break
            address = max(address, _aligned(stop, machine))
        placed.append(replace(one, address=address))
        temporary.append((address, address + one.bytes, spans))
    end = max((one.address + one.bytes for one in placed), default=taken)
    if end > machine.usable_bytes:
        raise ProgramError(
            "sram", f"buffers need {end} bytes of a PE's {machine.usable_bytes} ({end - machine.usable_bytes} too many)", fix="use more PEs"
        )
    by_name = {one.name: one for one in placed}
    return tuple(by_name[one.name] for one in buffers)


def _meet(some: dict[str, tuple[int, int]], others: dict[str, tuple[int, int]]) -> bool:
    """Whether spans of steps have a step in common, in any entry."""
    for entry, (first, last) in some.items():
        other = others.get(entry)
        if other is not None and first <= other[1] and other[0] <= last:
            return True
    return False


def _aligned(address: int, machine: Machine) -> int:
    step = machine.alignment_bytes
    return (address + step - 1) // step * step
