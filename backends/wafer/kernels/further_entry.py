"""A further way to run a placed program: other steps on the same PEs, with the same weights, states and streams.

Items of the further entry are several items of the first one, such as the tokens of a prompt in chunks. What stays on the PEs is shared;
what lives for a time shares its memory, since entries never run at once. A stream carries what it always does: a region sends and takes
the rows of an item one after another, so that queues, colours and routes are those of the first entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.allocation import allocate
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import Joined, join, renamed
from cgptc.backends.wafer.kernels.fragment import Fragment, Slot
from cgptc.backends.wafer.program import Binding, Buffer, Code, Entry, Program, Region
from cgptc.backends.wafer.steps import Loop, Receive, Send, Step, View

ROW = "sent_row"
"""The loop variable of rows that go over a stream one by one."""


def with_entry(program: Program, entry: Entry, rows: int, fragments: dict[str, tuple[Fragment, ...]], turns: dict[str, int]) -> Program:
    """The program of one entry with a further one whose items are ``rows`` of the first one's.

    ``fragments`` are those of each region, in which weights, states and parcels are named as the program's buffers, and all else is named
    as the first entry's, to be renamed here; ``turns`` as in `kernels.assembly.Stage`. Raises ProgramError where a region has not enough
    SRAM, or what is shared lies differently.
    """
    regions: list[Region] = []
    bindings = list(program.bindings)
    for region in program.regions:
        changed, bound = region_with_entry(program, region, entry, rows, fragments[region.name], turns[region.name])
        regions.append(changed)
        bindings += bound
    return replace(program, regions=tuple(regions), bindings=tuple(bindings), entries=(*program.entries, entry))


def region_with_entry(
    program: Program, region: Region, entry: Entry, rows: int, fragments: Sequence[Fragment], turn: int
) -> tuple[Region, list[Binding]]:
    """One region with the further entry's steps, and the bindings of its inputs and outputs."""
    (first,) = region.code
    mine = [one for one in program.bindings if one.region == region.name]
    sent = [step for step in first.steps if isinstance(step, Send)]
    outputs = [one.buffer for one in mine if one.role == "output"]
    joined = _joined(fragments, entry.name, [*outputs, *(step.source.buffer for step in sent)], turn)
    _require_shared(program, region, joined)
    bound: list[Binding] = []
    for one in mine:
        if one.role in ("input", "output"):
            slots = joined.inputs if one.role == "input" else joined.outputs
            slot = slots[_name(one.buffer, entry.name)]
            bound.append(replace(one, buffer=slot.buffer, layout=slot.layout, entries=(entry.name,)))
    # What is received behind the first send comes back.
    start = next((number for number, step in enumerate(first.steps) if isinstance(step, Send)), len(first.steps))
    received, back = (
        [_one_by_one(Receive(step.stream, _row(joined, step.target, entry.name)), rows) for step in part if isinstance(step, Receive)]
        for part in (first.steps[:start], first.steps[start:])
    )
    steps: tuple[Step, ...] = (
        *received,
        *joined.steps[: joined.turn],
        *(_one_by_one(Send(step.stream, _row(joined, step.source, entry.name)), rows) for step in sent),
        *back,
        *joined.steps[joined.turn :],
    )
    code = (first, Code(entry.name, steps))
    resident = {one.buffer for one in bound}
    known = {one.name: one for one in region.buffers}
    buffers = [
        *(replace(one, live=()) for one in region.buffers),
        *(replace(one, resident=name in resident) for name, one in joined.buffers.items() if name not in known),
    ]
    placed = allocate(buffers, code, program.machine, taken=queue_bytes(program, region))
    return replace(region, buffers=placed, code=code), bound


def _name(buffer: str, entry: str) -> str:
    return f"{buffer}~{entry}"


def _joined(fragments: Sequence[Fragment], entry: str, kept: Sequence[str], turn: int) -> Joined:
    """The fragments in turn; what is not shared has the entry behind its name."""
    shared = {slot.buffer for one in fragments for slot in (*one.weights, *one.states, *one.parcels)}
    own = {one.name: _name(one.name, entry) for fragment in fragments for one in fragment.buffers if one.name not in shared}
    return join([renamed(one, own) for one in fragments], [_name(name, entry) for name in kept], turn)


def _require_shared(program: Program, region: Region, joined: Joined) -> None:
    """ProgramError where what both entries use would lie differently."""
    layouts = {one.buffer: one.layout for one in program.bindings if one.region == region.name and one.role in ("weight", "state")}
    layouts |= {one.tensor: one.layout for one in program.inflow.parcels} if program.inflow is not None else {}
    slots: list[Slot] = [*joined.weights.values(), *joined.states.values(), *joined.parcels]
    for slot in slots:
        if layouts.get(slot.buffer) != slot.layout:
            raise ProgramError("assembly", f"'{slot.buffer}' lies as {layouts.get(slot.buffer)} and is wanted as {slot.layout}")
    declared = {one.name: one for one in region.buffers}
    for name, one in joined.buffers.items():
        known = declared.get(name)
        if known is not None and (known.dtype, known.shape, known.copies) != (one.dtype, one.shape, one.copies):
            raise ProgramError("assembly", f"two entries declare '{name}' differently")


def _row(joined: Joined, view: View, entry: str) -> View:
    """The row of the further entry's buffer that is an item of the first one's ``view``."""
    one: Buffer = joined.buffers[_name(view.buffer, entry)]
    size = math.prod(one.shape[1:])
    return replace(view, buffer=one.name, offset=var(ROW) * size)


def _one_by_one(step: Send | Receive, rows: int) -> Loop:
    return Loop(ROW, rows, (step,))


def queue_bytes(program: Program, region: Region) -> int:
    """Bytes below a region's buffers: its queues."""
    ends = [one.address + one.queue_bytes for one in program.streams if one.consumer == region.name]
    inflow = program.inflow
    if inflow is not None and inflow.region == region.name:
        ends.append(inflow.address + inflow.depth * inflow.slot_bytes)
    return max(ends, default=0)
