"""Time: the cycles of steps, of items, and of a whole entry with its regions waiting for one another.

A region works on its items in order. It waits at a receive until the item has arrived, and at a send until the consumer's queue has room.
Initiation interval, fill, drain and bubbles are read off this recurrence; no formula stands beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.faults import ExecutionError
from cgptc.backends.wafer.inflow import Intake, intake_of
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import ITEM, Program, Region, Stream
from cgptc.backends.wafer.resolve import Environment, absorb_cycles, collective_cycles, iterations, local_cycles, take_cycles
from cgptc.backends.wafer.routes import stream_cost
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View, numbered, step_variables, views


def step_cycles(step: Step, region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of one step without waiting; a loop's are those of its iterations, overlapped as it says."""
    match step:
        case Local():
            return local_cycles(step, region, machine, environment)
        case Collective():
            return collective_cycles(step, region, machine, environment)
        case Take():
            return take_cycles(step, region, machine, environment)
        case Absorb():
            return absorb_cycles(step, region, machine, environment)
        case Loop():
            return _loop_cycles(step, region, machine, environment)
        case _:
            return 0


def steps_cycles(steps: Sequence[Step], region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of steps that follow each other."""
    return sum(step_cycles(step, region, machine, environment) for step in steps)


def _loop_cycles(loop: Loop, region: Region, machine: Machine, environment: Environment) -> int:
    communication: list[int] = []
    computation: list[int] = []
    for inner in iterations(loop, environment):
        talk = steps_cycles([step for step in loop.steps if isinstance(step, Collective)], region, machine, inner)
        work = steps_cycles([step for step in loop.steps if not isinstance(step, Collective)], region, machine, inner)
        communication.append(talk)
        computation.append(work)
    if not communication:
        return 0
    if loop.ahead is None:
        return sum(communication) + sum(computation)
    if loop.ahead == 0:
        return sum(max(talk, work) for talk, work in zip(communication, computation, strict=True))
    overlapped = sum(max(talk, work) for talk, work in zip(communication[1:], computation[:-1], strict=True))
    return communication[0] + overlapped + computation[-1]


class Pricer:
    """Cycles of the steps of one program, each computed once for what it depends on, whatever its buffers are called."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._numbers: dict[tuple[object, ...], int] = {}
        self._alike: dict[tuple[int, ...], int] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._known: dict[tuple[int, ...], int] = {}
        self._steps: list[Step] = []

    def key(self, step: Step, environment: Environment) -> tuple[int, ...]:
        """What a step and all that it resolves to depend on."""
        names = self._names.get(id(step))
        if names is None:
            inner = [step]
            found: set[str] = set()
            bound: set[str] = set()
            while inner:
                one = inner.pop()
                found |= step_variables(one)
                if isinstance(one, Loop):
                    bound.add(one.variable)
                    inner.extend(one.steps)
            names = self._names[id(step)] = tuple(sorted(found - bound))
            # Held, so that no other step can ever have this one's identity.
            self._steps.append(step)
        return (id(step), *(environment[name] for name in names))

    def cycles(self, step: Step, region: Region, environment: Environment) -> int:
        """As `step_cycles`. The step must belong to that region."""
        key = self.key(step, environment)
        if key not in self._known:
            self._known[key] = self._shared(step, region, environment, key[1:])
        return self._known[key]

    def _shared(self, step: Step, region: Region, environment: Environment, values: tuple[int, ...]) -> int:
        if not isinstance(step, (Local, Collective)):
            return step_cycles(step, region, self._machine, environment)
        number = self._numbers.setdefault(_nameless(step, region), len(self._numbers))
        key = (number, *values)
        if key not in self._alike:
            self._alike[key] = step_cycles(step, region, self._machine, environment)
        return self._alike[key]


def _nameless(step: Local | Collective, region: Region) -> tuple[object, ...]:
    """All of a step but what its buffers are called and what it serves, and what they are."""
    box = region.rectangle
    names = [view.buffer for group in views(step) for view in group]
    held = tuple((one.dtype, one.shape, one.copies) for one in (region.buffer(name) for name in names))
    if isinstance(step, Local):
        inputs = tuple(replace(one, buffer="") if isinstance(one, View) else one for one in step.inputs)
        step = replace(step, out=replace(step.out, buffer=""), inputs=inputs, part="")
    else:
        step = replace(step, source=replace(step.source, buffer=""), target=replace(step.target, buffer=""), part="")
    return step, held, box.width, box.height


@dataclass(frozen=True)
class Interval:
    """A region at work on one item, or waiting in the middle of it: cycles from the entry's start."""

    region: str
    item: int
    start: int
    finish: int
    busy: int


@dataclass(frozen=True)
class Timeline:
    """All intervals of an entry, in order of region and item."""

    intervals: tuple[Interval, ...]

    @property
    def cycles(self) -> int:
        """From the start to the last finish."""
        return max((one.finish for one in self.intervals), default=0)

    def of(self, region: str) -> tuple[Interval, ...]:
        return tuple(one for one in self.intervals if one.region == region)

    def busy(self, region: str) -> int:
        """Cycles that the region works, waiting not counted."""
        return sum(one.busy for one in self.of(region))

    def initiation_interval(self) -> float:
        """Steady cycles between finished items at the region that finishes last; the whole run for a single item."""
        last = max(self.intervals, key=lambda one: one.finish)
        finishes = [one.finish for one in self.of(last.region)]
        if len(finishes) < 2:
            return float(finishes[-1])
        half = len(finishes) // 2
        return (finishes[-1] - finishes[half - 1]) / (len(finishes) - half)


@dataclass
class _Queue:
    """A stream's items under way: arrival times, and when each place becomes free again."""

    stream: Stream
    transfer: int
    words: int
    arrivals: deque[int] = field(default_factory=deque)
    places: deque[int] = field(default_factory=deque)


def timeline(
    program: Program, entry_name: str, scalars: Mapping[str, int], pricer: Pricer | None = None, most: int | None = None
) -> Timeline:
    """Run the clock of an entry, or of its first ``most`` items. Raises ExecutionError where regions wait for one another for ever."""
    entry = program.entry(entry_name)
    items = value_of(entry.items, scalars)
    items = items if most is None else min(items, most)
    pricer = pricer or Pricer(program.machine)
    queues: dict[str, _Queue] = {}
    for stream in (one.at(scalars) for one in program.streams):
        cost = stream_cost(stream, program.region(stream.producer), program.region(stream.consumer), program.machine)
        queues[stream.name] = _Queue(stream, cost.cycles, cost.contention, places=deque([0] * stream.depth))
    intervals: dict[str, list[Interval]] = {region.name: [] for region in program.regions}
    waiting: dict[str, Generator[str, None, None]] = {}
    intake = intake_of(program)
    for region in program.regions:
        waiting[region.name] = _work(region, pricer, program.machine, entry_name, items, scalars, queues, intervals[region.name], intake)
    while waiting:
        reasons: dict[str, str] = {}
        moved = False
        for name in list(waiting):
            before = _tokens(queues)
            reason = next(waiting[name], None)
            if reason is None:
                del waiting[name]
                moved = True
            else:
                reasons[name] = reason
                moved = moved or before != _tokens(queues)
        if not moved:
            raise ExecutionError("stall", "; ".join(f"'{name}' waits {reason}" for name, reason in sorted(reasons.items())))
    return Timeline(tuple(one for region in program.regions for one in intervals[region.name]))


def _tokens(queues: Mapping[str, _Queue]) -> tuple[tuple[int, int], ...]:
    return tuple((len(queue.arrivals), len(queue.places)) for queue in queues.values())


def _work(
    region: Region,
    pricer: Pricer,
    machine: Machine,
    entry: str,
    items: int,
    scalars: Mapping[str, int],
    queues: Mapping[str, _Queue],
    intervals: list[Interval],
    intake: Intake | None,
) -> Generator[str, None, None]:
    """A region's clock; yields what it waits for."""
    steps = region.steps(entry)
    now = 0
    for item in range(items if steps else 0):
        busy = 0
        start: int | None = None
        pending: list[tuple[Step, dict[str, int]]] = [(step, {**scalars, ITEM: item}) for step in reversed(steps)]
        while pending:
            step, environment = pending.pop()
            match step:
                case Receive():
                    queue = queues[step.stream]
                    while not queue.arrivals:
                        yield f"for an item of stream '{step.stream}'"
                    now = max(now, queue.arrivals.popleft())
                    cycles = machine.vector_cycles(queue.stream.dtype, _size(queue.stream))
                    queue.places.append(now + cycles)
                case Send():
                    queue = queues[step.stream]
                    while not queue.places:
                        yield f"for room in stream '{step.stream}'"
                    now = max(now, queue.places.popleft())
                    cycles = queue.words
                    queue.arrivals.append(now + queue.transfer)
                case Take():
                    assert intake is not None
                    now = max(now, intake.arrival(step.tensor))
                    cycles = pricer.cycles(step, region, environment)
                    intake.taken(now + cycles)
                case Absorb():
                    assert intake is not None
                    cycles = pricer.cycles(step, region, environment)
                    now = intake.absorbed(step.tensor, now, cycles) - cycles
                case Loop() if step.ahead is None and talks(step):
                    pending.extend((inner, one) for one in reversed(list(iterations(step, environment))) for inner in reversed(step.steps))
                    continue
                case _:
                    cycles = pricer.cycles(step, region, environment)
            if start is None:
                start = now
            now += cycles
            busy += cycles
        intervals.append(Interval(region.name, item, now if start is None else start, now, busy))


def talks(loop: Loop) -> bool:
    """Whether streams are used inside a loop, at any depth."""
    pending: list[Step] = list(loop.steps)
    while pending:
        step = pending.pop()
        if isinstance(step, (Send, Receive)):
            return True
        if isinstance(step, Loop):
            pending.extend(step.steps)
    return False


def waits_for_return(steps: Sequence[Step]) -> bool:
    """Whether a region takes back what others make of what it has sent, and so finishes each item before it begins the next."""
    talk = [step for _, _, step in numbered(steps) if isinstance(step, (Send, Receive))]
    return any(isinstance(one, Send) and isinstance(after, Receive) for one, after in pairwise(talk))


def _size(stream: Stream) -> int:
    size = 1
    for extent in stream.target.local_shape:
        size *= extent
    return size
