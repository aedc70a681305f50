"""Programs from fragments: one region that runs them in turn, or a chain of regions joined by streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from cgptc.backends.wafer.affine import Affine, Extent
from cgptc.backends.wafer.allocation import allocate
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import INFLOW_COLOURS, STREAM_COLOURS, Direction, Fragment, Slot
from cgptc.backends.wafer.kernels.relays import Way, relayed
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Binding, Buffer, Code, Entry, Inflow, Parcel, Program, Rectangle, Region, Scalar, Stream
from cgptc.backends.wafer.routes import meet
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, View, whole


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
    parcels: tuple[Slot, ...]
    turn: int
    """Steps before what others take is sent, and before what they make of it is received: all of them where nothing comes back."""


def join(fragments: Sequence[Fragment], kept: Sequence[str] = (), turn: int = 0) -> Joined:
    """Fragments that run in turn, sharing the buffers that they name alike; outputs of ``kept`` stay though a later one takes them.

    The first ``turn`` of them, 0 for all, come before what goes to others and back. Raises ProgramError where they disagree about a buffer.
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
        sum(len(fragment.steps) for fragment in fragments[: turn or len(fragments)]),
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
    back: Collection[str] = (),
    entry: str = "run",
    taken: int = 0,
    rows: Mapping[str, Affine] = MappingProxyType({}),
) -> tuple[Code, tuple[Buffer, ...]]:
    """A region's code and its buffers, laid out above ``taken`` bytes; those that are ``bound`` to the host stay where they are.

    ``received`` and ``sent`` are ``(buffer, stream)``: what comes is held from an item's start to its last use, or from the turn on where
    it is of ``back``; what goes from where it is made to the turn. Of those of ``rows`` an item has so many. Raises
    ProgramError where there is no room.
    """
    come = {name: Receive(stream, _of_item(one.buffers[name], rows)) for name, stream in received}
    steps = (
        *(step for name, step in come.items() if name not in back),
        *one.steps[: one.turn],
        *(Send(stream, _of_item(one.buffers[name], rows)) for name, stream in sent),
        *(step for name, step in come.items() if name in back),
        *one.steps[one.turn :],
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
    """Fragments that run in turn in a region of its own at a place of the fabric. ``outputs`` stay though a later fragment takes them.

    Where there is a ``turn``, those behind the first so many take what later stages make of what these have made.
    """

    name: str
    at: tuple[int, int]
    fragments: tuple[Fragment, ...]
    outputs: tuple[str, ...] = ()
    turn: int = 0

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
    """Regions in a chain: where a stage takes a buffer that another gives, a stream carries it, ``depth`` items deep between neighbours.

    What no stage gives is the program's input, what no other stage takes its output, and so are those of ``given`` though another takes
    them. Raises ProgramError where streams would meet on a colour, or where a region has no room.
    """
    joined = [join(stage.fragments, stage.outputs, stage.turn) for stage in stages]
    makers = {name: number for number, one in enumerate(joined) for name in one.outputs}
    rows = {name: slot.rows for one in joined for name, slot in one.outputs.items() if slot.rows is not None}
    ways = relayed([list(one.inputs) for one in joined], makers, {number for number, stage in enumerate(stages) if stage.turn})
    carried = {way.value for way in ways}
    streams: list[Stream] = []
    regions: list[Region] = []
    bindings: list[Binding] = []
    inflow: Inflow | None = None
    for number, (stage, one) in enumerate(zip(stages, joined, strict=True)):
        arriving = [way for way in ways if way.consumer == number]
        taken = 0
        for way in arriving:
            producer = joined[way.producer]
            held = producer.outputs if way.value in producer.outputs else producer.inputs
            source = _one_line(held[way.value].layout, stages[way.producer].rectangle, stage.rectangle)
            first: Direction = "x" if source.cut_axis("rows") is None else "y"
            target, buffer, items_held = one.inputs[way.value].layout, one.buffers[way.value], way.depth(depth)
            ends = stages[way.producer].name, stage.name
            stream = Stream(_stream(way, stages), *ends, buffer.dtype, source, target, first, (), items_held, taken, rows.get(way.value))
            streams.append(_coloured(stream, streams, {each.name: each.rectangle for each in stages}, machine))
            taken += queue_bytes(buffer, items_held, machine)
        if one.parcels:
            inflow = _inflow(stage, one, inflow, depth, taken, machine)
            taken += depth * inflow.slot_bytes
        received = [(way.value, _stream(way, stages)) for way in arriving]
        sent = [(way.value, _stream(way, stages)) for way in ways if way.producer == number]
        inputs = {name: slot for name, slot in one.inputs.items() if name not in dict(received)}
        outputs = {name: slot for name, slot in one.outputs.items() if name not in carried or name in given}
        bound = [
            *(Binding(name, "weight", stage.name, name, slot.layout) for name, slot in one.weights.items()),
            *(Binding(name, "state", stage.name, name, slot.layout) for name, slot in one.states.items()),
            *(Binding(name, "input", stage.name, name, slot.layout, (entry,)) for name, slot in inputs.items()),
            *(Binding(name, "output", stage.name, name, slot.layout, (entry,), slot.rows) for name, slot in outputs.items()),
        ]
        bindings += bound
        held_by_host, back = {binding.buffer for binding in bound}, {way.value for way in arriving if way.back}
        code, buffers = furnished(one, received, sent, held_by_host, machine, back=back, entry=entry, taken=taken, rows=rows)
        regions.append(Region(stage.name, stage.rectangle, buffers, (code,), number))
    return Program(machine, tuple(regions), tuple(streams), (Entry(entry, tuple(scalars), items, tuple(limits)),), tuple(bindings), inflow)


def _stream(way: Way, stages: Sequence[Stage]) -> str:
    return f"{way.value}>{stages[way.consumer].name}"


class NoColourError(ProgramError):
    """A stream that has no colour left where it goes."""


def _coloured(stream: Stream, others: Sequence[Stream], boxes: Mapping[str, Rectangle], machine: Machine) -> Stream:
    """The stream with the first colour, from its turn on, on whose links it meets none of the others.

    Where the machine has none of `STREAM_COLOURS` any is taken, so that the verifier says how many there must be. Raises NoColourError.
    """
    known = tuple(colour for colour in STREAM_COLOURS if colour < machine.colours) or STREAM_COLOURS
    for turn in range(len(known)):
        colour = known[(len(others) + turn) % len(known)]
        if not any(colour in one.colours and meet(stream, one, boxes) for one in others):
            return replace(stream, colours=(colour,))
    what = f"colours: stream '{stream.name}' meets others on each of the {len(known)} colours that streams may have"
    raise NoColourError("colours", what, fix="join stages, or plan for one region")


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


def _of_item(one: Buffer, rows: Mapping[str, Affine]) -> View:
    return whole(one.name, (rows[one.name], *one.shape[1:]) if one.name in rows else one.shape, one.shape)


def _one_line(layout: Layout, producer: Rectangle, consumer: Rectangle) -> Layout:
    """The layout of a sender: of equal lines the one nearest to the consumer."""
    row, column = layout.row, layout.column
    if row is None and layout.cut_axis("rows") is None:
        row = min(max(consumer.y + consumer.height // 2 - producer.y, 0), producer.height - 1)
    if column is None and layout.cut_axis("columns") is None:
        column = min(max(consumer.x + consumer.width // 2 - producer.x, 0), producer.width - 1)
    return replace(layout, row=row, column=column)
