"""Programs from fragments: one region that runs them in turn, or a chain of regions joined by streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cgptc.backends.wafer.affine import Affine, Extent
from cgptc.backends.wafer.allocation import allocate
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import INFLOW_COLOURS, STREAM_COLOURS, Direction, Fragment, Slot
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import (
    Absorb,
    Binding,
    Buffer,
    Code,
    Collective,
    Entry,
    Inflow,
    Local,
    Loop,
    Parcel,
    Program,
    Receive,
    Rectangle,
    Region,
    Scalar,
    Send,
    Step,
    Stream,
    View,
    whole,
)


def renamed(fragment: Fragment, names: Mapping[str, str]) -> Fragment:
    """The fragment with buffers renamed, so that one fragment's output is another's input."""

    def slots(given: tuple[Slot, ...]) -> tuple[Slot, ...]:
        return tuple(replace(slot, buffer=names.get(slot.buffer, slot.buffer)) for slot in given)

    return replace(
        fragment,
        inputs=slots(fragment.inputs),
        outputs=slots(fragment.outputs),
        weights=slots(fragment.weights),
        states=slots(fragment.states),
        parcels=slots(fragment.parcels),
        buffers=tuple(replace(one, name=names.get(one.name, one.name)) for one in fragment.buffers),
        steps=tuple(_renamed_step(step, names) for step in fragment.steps),
    )


def _renamed_step(step: Step, names: Mapping[str, str]) -> Step:
    def view(one: View) -> View:
        return replace(one, buffer=names.get(one.buffer, one.buffer))

    match step:
        case Local():
            return replace(step, out=view(step.out), inputs=tuple(view(one) if isinstance(one, View) else one for one in step.inputs))
        case Collective():
            return replace(step, source=view(step.source), target=view(step.target))
        case Absorb():
            return replace(step, total=view(step.total), x=view(step.x))
        case Loop():
            return replace(step, steps=tuple(_renamed_step(inner, names) for inner in step.steps))
        case Send():
            return replace(step, source=view(step.source))
        case _:
            return replace(step, target=view(step.target))


@dataclass(frozen=True)
class Joined:
    """Fragments of one region, joined by the names of their buffers."""

    buffers: dict[str, Buffer]
    inputs: dict[str, Slot]
    outputs: dict[str, Slot]
    weights: dict[str, Slot]
    states: dict[str, Slot]
    steps: tuple[Step, ...]
    parcels: tuple[Slot, ...] = ()


def join(fragments: Sequence[Fragment], kept: Sequence[str] = ()) -> Joined:
    """Fragments that run in turn, sharing the buffers that they name alike; outputs of ``kept`` stay though a later one takes them.

    Raises ProgramError where they disagree about a buffer.
    """
    buffers: dict[str, Buffer] = {}
    given: dict[str, Slot] = {}
    inputs: dict[str, Slot] = {}
    taken: set[str] = set()
    for fragment in fragments:
        for one in fragment.buffers:
            if buffers.setdefault(one.name, one) != one:
                raise ProgramError("assembly", f"two fragments declare '{one.name}' differently")
        for slot in fragment.inputs:
            taken.add(slot.buffer)
            known = given.get(slot.buffer) or inputs.setdefault(slot.buffer, slot)
            if known.layout != slot.layout:
                raise ProgramError("assembly", f"'{slot.buffer}' is given as {known.layout} and taken as {slot.layout}")
        given.update({slot.buffer: slot for slot in fragment.outputs})
    return Joined(
        buffers,
        inputs,
        {name: slot for name, slot in given.items() if name not in taken or name in kept},
        {slot.buffer: slot for fragment in fragments for slot in fragment.weights},
        {slot.buffer: slot for fragment in fragments for slot in fragment.states},
        tuple(step for fragment in fragments for step in fragment.steps),
        tuple(slot for fragment in fragments for slot in fragment.parcels),
    )


def slot_bytes(joined: Joined, machine: Machine) -> int:
    """Room in a queue for any parcel of a region."""
    most = max((joined.buffers[slot.buffer].bytes for slot in joined.parcels if slot.nonzeros is None), default=0)
    return -(-most // machine.alignment_bytes) * machine.alignment_bytes


def queue_bytes(one: Buffer, depth: int, machine: Machine) -> int:
    """Room for the queue of a stream that fills a buffer, ``depth`` items deep."""
    return -(-depth * one.bytes // machine.alignment_bytes) * machine.alignment_bytes


def furnished(
    one: Joined,
    received: Sequence[tuple[str, str]],
    sent: Sequence[tuple[str, str]],
    bound: Collection[str],
    machine: Machine,
    *,
    entry: str = "run",
    taken: int = 0,
) -> tuple[Code, tuple[Buffer, ...]]:
    """A region's code and its buffers, laid out above ``taken`` bytes; those that are ``bound`` to the host stay where they are.

    ``received`` and ``sent`` are ``(buffer, stream)``: what comes is held from an item's start to its last use, what goes from where it
    is made to the item's end. Raises ProgramError where there is no room.
    """
    steps = (
        *(Receive(stream, _everything(one.buffers[name])) for name, stream in received),
        *one.steps,
        *(Send(stream, _everything(one.buffers[name])) for name, stream in sent),
    )
    code = Code(entry, steps)
    return code, allocate([replace(held, resident=held.name in bound) for held in one.buffers.values()], (code,), machine, taken=taken)


def single_region(
    machine: Machine,
    fragments: Sequence[Fragment],
    *,
    scalars: Sequence[Scalar] = (),
    items: Extent = 1,
    entry: str = "run",
    at: tuple[int, int] = (0, 0),
    outputs: Sequence[str] = (),
) -> Program:
    """A program of one region. Fragments that name the same buffer share it.

    Inputs that no earlier fragment gives become the program's inputs, outputs that no later one takes (and those of ``outputs``) its
    outputs; tensors are named like their buffers. Raises ProgramError where layouts of shared buffers differ.
    """
    stage = Stage("region", at, tuple(fragments), tuple(outputs))
    return pipeline(machine, [stage], scalars=scalars, items=items, entry=entry)


@dataclass(frozen=True)
class Stage:
    """Fragments that run in turn in a region of its own at a place of the fabric. ``outputs`` stay though a later fragment takes them."""

    name: str
    at: tuple[int, int]
    fragments: tuple[Fragment, ...]
    outputs: tuple[str, ...] = ()

    @property
    def rectangle(self) -> Rectangle:
        first = self.fragments[0]
        layout = (*first.inputs, *first.outputs)[0].layout
        return Rectangle(*self.at, layout.width, layout.height)


def pipeline(
    machine: Machine,
    stages: Sequence[Stage],
    *,
    scalars: Sequence[Scalar] = (),
    items: Extent = 1,
    entry: str = "run",
    limits: Sequence[Affine] = (),
    depth: int = 2,
    given: Sequence[str] = (),
) -> Program:
    """Regions in a chain: where a stage takes a buffer that an earlier one gives, a stream carries it, ``depth`` items deep.

    What no stage gives is the program's input, what no later stage takes its output, and so are those of ``given`` though a later stage
    takes them. Streams are coloured in turn.
    """
    joined = [join(stage.fragments, stage.outputs) for stage in stages]
    makers: dict[str, int] = {}
    for number, one in enumerate(joined):
        makers.update(dict.fromkeys(one.outputs, number))
    streams: list[Stream] = []
    regions: list[Region] = []
    bindings: list[Binding] = []
    inflow: Inflow | None = None
    carried = {name for number, one in enumerate(joined) for name in one.inputs if makers.get(name, number) < number}
    for number, (stage, one) in enumerate(zip(stages, joined, strict=True)):
        received = [name for name in one.inputs if makers.get(name, number) < number]
        taken = 0
        for name in received:
            maker = makers[name]
            source = _one_line(joined[maker].outputs[name].layout, stages[maker].rectangle, stage.rectangle)
            colour = STREAM_COLOURS[len(streams) % len(STREAM_COLOURS)]
            first: Direction = "x" if source.cut_axis("rows") is None else "y"
            target, kind = one.inputs[name].layout, one.buffers[name].dtype
            stream = Stream(f"{name}>{stage.name}", stages[maker].name, stage.name, kind, source, target, first, (colour,), depth, taken)
            streams.append(stream)
            taken += queue_bytes(one.buffers[name], depth, machine)
        if one.parcels:
            inflow = _inflow(stage, one, inflow, depth, taken, machine)
            taken += depth * inflow.slot_bytes
        sent = [stream for later in range(number + 1, len(stages)) for stream in _later(joined, makers, number, later, stages)]
        bound = [
            *(Binding(name, "weight", stage.name, name, slot.layout) for name, slot in one.weights.items()),
            *(Binding(name, "state", stage.name, name, slot.layout) for name, slot in one.states.items()),
            *(Binding(name, "input", stage.name, name, slot.layout, (entry,)) for name, slot in one.inputs.items() if name not in received),
            *(
                Binding(name, "output", stage.name, name, slot.layout, (entry,))
                for name, slot in one.outputs.items()
                if name not in carried or name in given
            ),
        ]
        bindings += bound
        arriving = [(name, f"{name}>{stage.name}") for name in received]
        code, buffers = furnished(one, arriving, sent, {binding.buffer for binding in bound}, machine, entry=entry, taken=taken)
        regions.append(Region(stage.name, stage.rectangle, buffers, (code,), number))
    return Program(machine, tuple(regions), tuple(streams), (Entry(entry, tuple(scalars), items, tuple(limits)),), tuple(bindings), inflow)


def _inflow(stage: Stage, one: Joined, other: Inflow | None, depth: int, address: int, machine: Machine) -> Inflow:
    """The parcels of a stage, which is the only one that has any."""
    if other is not None:
        raise ProgramError("assembly", f"both '{other.region}' and '{stage.name}' take parcels from off the wafer")
    kinds = {one.buffers[slot.buffer].dtype for slot in one.parcels if slot.nonzeros is None}
    kinds |= {one.buffers[step.x.buffer].dtype for step in one.steps if isinstance(step, Absorb)}
    if len(kinds) != 1:
        raise ProgramError("assembly", f"parcels of '{stage.name}' have types {sorted(kinds)}")
    parcels = tuple(Parcel(slot.buffer, slot.layout, slot.nonzeros) for slot in one.parcels)
    return Inflow(stage.name, kinds.pop(), parcels, INFLOW_COLOURS, depth, slot_bytes(one, machine), address)


def _later(joined: Sequence[Joined], makers: Mapping[str, int], number: int, later: int, stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """``(buffer, stream)`` of what a stage sends to a later one."""
    return [(name, f"{name}>{stages[later].name}") for name in joined[later].inputs if makers.get(name) == number]


def _everything(one: Buffer) -> View:
    return whole(one.name, one.shape)


def _one_line(layout: Layout, producer: Rectangle, consumer: Rectangle) -> Layout:
    """The layout of a sender: of equal lines the one nearest to the consumer."""
    row, column = layout.row, layout.column
    if row is None and layout.cut_axis("rows") is None:
        row = min(max(consumer.y + consumer.height // 2 - producer.y, 0), producer.height - 1)
    if column is None and layout.cut_axis("columns") is None:
        column = min(max(consumer.x + consumer.width // 2 - producer.x, 0), producer.width - 1)
    return replace(layout, row=row, column=column)
