"""Cycles, traffic and memory of one item of an entry, per kernel and per stage, with what no schedule could beat beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.instructions import instruction_of
from cgptc.backends.wafer.clock import Pricer, Timeline, waits_for_return
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.inflow import link_words, parcel_cost, tile_words
from cgptc.backends.wafer.interpret.account import Account
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import ITEM, Entry, Program, Region
from cgptc.backends.wafer.resolve import Environment, Placed, blocks, iterations, local_price, pattern_of, place
from cgptc.backends.wafer.routes import stream_cost
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View, views
from cgptc.backends.wafer.verify.memory import peak_bytes


@dataclass
class Part:
    """One kernel of one region: cycles of an item in local steps (``compute``) and in messages (``talk``), overlap not counted.

    ``macs`` are multiply-accumulates of all its PEs, padding of ragged tiles included; ``ideal`` the cycles that they alone would take in
    the PEs that take part; ``active`` the most PEs that a step of it uses. ``read`` and ``written`` are bytes of a PE's SRAM, each operand
    once.
    """

    region: str
    name: str
    compute: int = 0
    talk: int = 0
    macs: int = 0
    ideal: float = 0.0
    active: int = 0
    read: int = 0
    written: int = 0

    @property
    def cycles(self) -> int:
        return self.compute + self.talk

    @property
    def utilisation(self) -> float:
        """Share of its cycles that multiply-accumulates at full rate would take."""
        return self.ideal / self.cycles if self.cycles else 0.0


@dataclass
class StepCost:
    """One step of a region for an item, loops unrolled: ``what`` it is at its first turn, how many turns it has, and their cycles."""

    part: str
    what: str
    turns: int = 0
    cycles: int = 0


@dataclass(frozen=True)
class Stage:
    """One region: its kernels, its PEs' memory by use, and its cycles on the clock per item, waiting not counted."""

    region: Region
    parts: tuple[Part, ...]
    steps: tuple[StepCost, ...]
    weight_bytes: int
    state_bytes: int
    work_bytes: int
    queue_bytes: int
    peak_bytes: int
    busy: float

    @property
    def compute(self) -> int:
        return sum(part.compute for part in self.parts)

    @property
    def talk(self) -> int:
        return sum(part.talk for part in self.parts)

    @property
    def ideal(self) -> float:
        return sum(part.ideal for part in self.parts)

    @property
    def label(self) -> str:
        """The module path that its kernels share, or the region's name."""
        return _shared_path([part.name for part in self.parts]) or self.region.name


@dataclass(frozen=True)
class Bound:
    """Cycles per item that no schedule of this plan can beat, and why."""

    name: str
    cycles: float
    reason: str


@dataclass(frozen=True)
class Figures:
    """All of a report. ``account`` holds the words over each link for one item."""

    program: Program
    entry: Entry
    scalars: Mapping[str, int]
    items: int
    timeline: Timeline
    stages: tuple[Stage, ...]
    account: Account
    bounds: tuple[Bound, ...]
    host_bytes: int = field(default=0)

    @property
    def machine(self) -> Machine:
        return self.program.machine

    @property
    def interval(self) -> float:
        """Steady cycles between finished items."""
        return self.timeline.initiation_interval()

    @property
    def slowest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.busy)

    @property
    def used(self) -> int:
        """PEs of all regions."""
        return sum(stage.region.rectangle.area for stage in self.stages)


def default_scalars(entry: Entry) -> dict[str, int]:
    """The largest values that an entry admits, one scalar after the other lowered as far as its limits ask."""
    scalars = {one.name: one.high for one in entry.scalars}
    for one in entry.scalars:
        low, high = one.low, one.high
        while low < high and entry.refusal(scalars) is not None:
            # Limits are affine, so what they admit is one range: its upper end by bisection, its lower end where there is none.
            middle = (low + high + 1) // 2
            if entry.refusal({**scalars, one.name: middle}) is None:
                low = middle
            else:
                high = middle - 1
            if low == high:
                scalars[one.name] = low
    refusal = entry.refusal(scalars)
    if refusal:
        raise ProgramError("scalars", refusal, fix="give the scalars of the entry")
    return scalars


def measure(program: Program, timeline: Timeline, entry: str | None = None, scalars: Mapping[str, int] | None = None) -> Figures:
    """Count one item in the middle of an entry's run (the last entry where none is named) with these scalars, by default the largest."""
    described = program.entry(entry) if entry is not None else program.entries[-1]
    values = dict(scalars) if scalars is not None else default_scalars(described)
    items = max(1, value_of(described.items, values))
    account = Account(program.machine)
    pricer = Pricer(program.machine)
    stages: list[Stage] = []
    for region in program.regions:
        steps = region.steps(described.name)
        if steps:
            middle = {**values, ITEM: items // 2}
            parts, costs = _parts(program, region, steps, middle, pricer, account), _step_costs(program, region, steps, middle, pricer)
            finished = max(1, len(timeline.of(region.name)))
            stages.append(_stage(program, region, parts, costs, timeline.busy(region.name) / finished))
    host = sum(
        math.prod(one.at(values).layout.shape) * format_of(program.region(one.region).buffer(one.buffer).dtype).bytes
        for one in program.bindings
        if one.role in ("input", "output") and described.name in one.entries
    )
    inflow = program.inflow
    if inflow is not None:
        box = program.region(inflow.region).rectangle
        host += sum(parcel_cost(parcel, inflow.dtype, box, program.machine).host_bytes for parcel in inflow.parcels)
    bounds = _bounds(program.machine, stages, account, host)
    for stage in stages:
        if waits_for_return(stage.region.steps(described.name)):
            alone = max((one.finish for one in timeline.of(stage.region.name) if one.item == 0), default=0)
            bounds = (*bounds, Bound("way back", alone, f"'{stage.region.name}' starts no item before the last has come back to it"))
    return Figures(program, described, values, items, timeline, tuple(stages), account, bounds, host)


def _leaves(steps: tuple[Step, ...], environment: Environment) -> Iterator[tuple[Step, Environment, str]]:
    """Every executed step of one item that is no loop, the variables that hold there, and the part it serves, maybe by a loop around it."""
    pending: list[tuple[Step, Environment, str]] = [(step, environment, "") for step in reversed(steps)]
    while pending:
        step, now, around = pending.pop()
        part = step.part or around
        if isinstance(step, Loop):
            inner = list(iterations(step, now))
            pending.extend((one, within, part) for within in reversed(inner) for one in reversed(step.steps))
        else:
            yield step, now, part or _unnamed(step)


def _parts(
    program: Program, region: Region, steps: tuple[Step, ...], environment: Environment, pricer: Pricer, account: Account
) -> tuple[Part, ...]:
    found: dict[str, Part] = {}
    for step, now, name in _leaves(steps, environment):
        part = found.setdefault(name, Part(region.name, name))
        match step:
            case Local():
                _local(step, part, region, now, pricer, program.machine)
            case Collective():
                part.talk += pricer.cycles(step, region, now)
                words = place(step.source, region.buffer(step.source.buffer), now).words
                for block in blocks(step.where, region.rectangle, now):
                    if block.area:
                        pattern, segments = pattern_of(step, block, now)
                        account.line_traffic(pattern, words, segments, step.along, block, region.rectangle)
                        part.active = max(part.active, block.area)
            case Send():
                stream = program.stream(step.stream).at(now)
                part.talk += _talk_cycles(step, program, region, now)
                account.stream_traffic(stream, region.rectangle, program.region(stream.consumer).rectangle)
            case Receive():
                part.talk += _talk_cycles(step, program, region, now)
            case Take() | Absorb():
                _arrival(step, part, program, region, now, pricer, account)
    return tuple(found.values())


def _step_costs(
    program: Program, region: Region, steps: tuple[Step, ...], environment: Environment, pricer: Pricer
) -> tuple[StepCost, ...]:
    """Every step with its cycles, in the order of the first turns. Their sum is that of the parts."""
    found: dict[int, StepCost] = {}
    for step, now, name in _leaves(steps, environment):
        one = found.get(id(step)) or found.setdefault(id(step), StepCost(name, _said(step, region, now)))
        one.turns += 1
        one.cycles += _talk_cycles(step, program, region, now) if isinstance(step, (Send, Receive)) else pricer.cycles(step, region, now)
    return tuple(found.values())


def _talk_cycles(step: Send | Receive, program: Program, region: Region, now: Environment) -> int:
    """Cycles of a region at one end of a stream."""
    stream = program.stream(step.stream).at(now)
    if isinstance(step, Send):
        return stream_cost(stream, region, program.region(stream.consumer), program.machine).contention
    return program.machine.vector_cycles(stream.dtype, math.prod(stream.target.local_shape))


def _said(step: Step, region: Region, now: Environment) -> str:
    """A step in words: what its price is worked out from."""
    match step:
        case Local():
            out, *taken = (place(one, region.buffer(one.buffer), now).shape for one in (step.out, *step.inputs) if isinstance(one, View))
            given = ", ".join("×".join(map(str, shape)) or "1" for shape in taken)
            return f"{step.instruction} of {given or 'a number'} to {'×'.join(map(str, out)) or '1'} in {step.format}"
        case Collective():
            words = place(step.source, region.buffer(step.source.buffer), now).words
            sizes = sorted({pattern_of(step, block, now)[0].size for block in blocks(step.where, region.rectangle, now) if block.area})
            lines = f"lines of {', '.join(map(str, sizes))}" if sizes else "no line"
            return f"{step.kind} by {step.algorithm}{f' of {step.group}' if step.group else ''} along {step.along}: {words} words, {lines}"
        case Send() | Receive():
            return f"{type(step).__name__.lower()} '{step.stream}'"
        case Take() | Absorb():
            return f"{type(step).__name__.lower()} '{step.tensor}'"
        case Loop():
            return "loop"


def _arrival(step: Take | Absorb, part: Part, program: Program, region: Region, now: Environment, pricer: Pricer, account: Account) -> None:
    """What comes from off the wafer. Of non-zeros the program knows no more than the fullest line: all lines are drawn as that one."""
    inflow = program.inflow
    assert inflow is not None
    parcel, area = inflow.parcel(step.tensor), region.rectangle.area
    words = tile_words(parcel.layout, inflow.dtype)
    part.active = max(part.active, area)
    if isinstance(step, Absorb) and parcel.nonzeros is not None:
        words = np.full_like(words, math.ceil(parcel.nonzeros.line / parcel.layout.height))
        rows = place(step.total, region.buffer(step.total.buffer), now).shape[0]
        part.compute += pricer.cycles(step, region, now)
        part.macs += parcel.nonzeros.total * rows
        part.ideal += parcel.nonzeros.tile * rows / dict(program.machine.mac_lanes)[step.format]
    else:
        part.talk += pricer.cycles(step, region, now)
    account.inflow_traffic(step.tensor, link_words(parcel.layout, words, region.rectangle))


def _local(step: Local, part: Part, region: Region, now: Environment, pricer: Pricer, machine: Machine) -> None:
    area = sum(block.area for block in blocks(step.where, region.rectangle, now))
    if not area:
        return
    macs = instruction_of(step.instruction).macs(local_price(step, region, machine, now))
    part.compute += pricer.cycles(step, region, now)
    part.active = max(part.active, area)
    part.macs += macs * area
    if macs:
        part.ideal += macs / dict(machine.mac_lanes)[step.format]
    part.read += sum(_bytes(place(one, region.buffer(one.buffer), now)) for one in step.inputs if isinstance(one, View))
    part.written += _bytes(place(step.out, region.buffer(step.out.buffer), now))


def _bytes(placed: Placed) -> int:
    """Distinct bytes of a view: axes that repeat count once."""
    size = math.prod(length for length, stride in zip(placed.shape, placed.strides, strict=True) if stride or not length)
    return size * format_of(placed.buffer.dtype).bytes


def _stage(program: Program, region: Region, parts: tuple[Part, ...], steps: tuple[StepCost, ...], busy: float) -> Stage:
    weights = {one.buffer for one in program.bindings if one.region == region.name and one.role == "weight"}
    states = {one.buffer for one in program.bindings if one.region == region.name and one.role == "state"}
    held = {name: sum(one.bytes for one in region.buffers if one.name in names) for name, names in (("w", weights), ("s", states))}
    queues = sum(stream.queue_bytes for stream in program.streams if stream.consumer == region.name)
    inflow = program.inflow
    if inflow is not None and inflow.region == region.name:
        queues += inflow.depth * inflow.slot_bytes
    peak = peak_bytes(program, region)
    return Stage(region, parts, steps, held["w"], held["s"], max(0, peak - queues - held["w"] - held["s"]), queues, peak, busy)


def _bounds(machine: Machine, stages: list[Stage], account: Account, host_bytes: int) -> tuple[Bound, ...]:
    used = sum(stage.region.rectangle.area for stage in stages)
    spread = sum(stage.ideal * stage.region.rectangle.area for stage in stages) / max(used, 1)
    reads = max(sum(part.read for part in stage.parts) for stage in stages) / machine.sram_read_bytes
    writes = max(sum(part.written for part in stage.parts) for stage in stages) / machine.sram_write_bytes
    slowest = max(stages, key=lambda stage: stage.busy)
    return (
        Bound("compute, spread evenly", spread, "all multiply-accumulates over all PEs of the plan at full rate"),
        Bound("compute, as placed", max(stage.ideal for stage in stages), "those of the fullest stage in its PEs"),
        Bound("SRAM traffic", max(reads, writes), "each operand of a local step read or written once, in the stage that moves most"),
        Bound("busiest link", account.busiest_link_bytes / 4 / machine.link_words, "wavelets over the link that carries most"),
        Bound("off-wafer I/O", host_bytes / machine.host_bytes_per_second * machine.clock_hz, f"{host_bytes:,} bytes in and out per item"),
        Bound("slowest stage", slowest.busy, f"'{slowest.region.name}' starts no item before it has done with the last"),
    )


def _unnamed(step: Step) -> str:
    """What a step without a part serves: a stream, or what its buffer's name says."""
    match step:
        case Send():
            return f"{STREAMS}: send"
        case Receive():
            return f"{STREAMS}: receive"
    reads, writes = views(step)
    return (*writes, *reads)[0].buffer.rsplit(".", 1)[0]


STREAMS = "streams"
"""The part under which what goes from region to region is counted."""

_NUMBER = re.compile(r"\d+")


def kind_of(name: str) -> str:
    """A part's name without the numbers of its layers, under which equal kernels of all layers are shown together."""
    return _NUMBER.sub("*", name)


def _shared_path(names: list[str]) -> str:
    """The leading dotted components that all names have in common."""
    shared: list[str] = []
    split = [_DELIMITER.split(name)[0].split(".") for name in names if not name.startswith(f"{STREAMS}:")]
    for components in zip(*split, strict=False):
        if len(set(components)) > 1:
            break
        shared.append(components[0])
    return ".".join(shared)


_DELIMITER = re.compile(r"[ :·/]")
