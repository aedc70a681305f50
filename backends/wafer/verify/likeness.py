"""Which regions are alike: the same but for their names, their place, and the part of the model that they serve.

The rules about a region's own memory, steps and collectives depend on nothing else. Regions that are alike keep them or break them
together, so that one of each kind is looked at, and the others only where that one is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import Program, Region, Stream
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View, views

Likeness = tuple[object, ...]


def likeness(program: Program, region: Region) -> Likeness:
    """What is left of a region when its names and its place are taken away: equal for regions that are alike."""
    numbers = {buffer.name: f"#{number}" for number, buffer in enumerate(region.buffers)}
    streams: dict[str, tuple[object, ...]] = {}
    for stream in program.streams:
        if region.name in (stream.producer, stream.consumer):
            streams[stream.name] = _end(stream, region)
    box = region.rectangle
    return (
        (box.width, box.height),
        tuple(replace(buffer, name=numbers[buffer.name]) for buffer in region.buffers),
        tuple((code.entry, tuple(_nameless(step, numbers, streams) for step in code.steps)) for code in region.code),
        tuple(
            (one.role, numbers.get(one.buffer, one.buffer), one.layout, one.entries, one.rows)
            for one in program.bindings
            if one.region == region.name
        ),
        tuple(end for end in streams.values() if end[0]),
        program.inflow if program.inflow is not None and program.inflow.region == region.name else None,
    )


def _end(stream: Stream, region: Region) -> tuple[object, ...]:
    """What a region knows of a stream: whether it takes from it, its tiles on this side, its queue where it has one."""
    takes = stream.consumer == region.name
    queue = (stream.depth, stream.address) if takes else ()
    return takes, stream.producer == region.name, stream.dtype, stream.rows, stream.target if takes else stream.source, *queue


def _nameless(step: Step, numbers: dict[str, str], streams: dict[str, tuple[object, ...]]) -> object:
    """A step with numbers for the region's buffers, and its streams as the region sees them."""

    def view(one: View) -> View:
        return replace(one, buffer=numbers.get(one.buffer, one.buffer))

    match step:
        case Local():
            inputs = tuple(view(one) if isinstance(one, View) else one for one in step.inputs)
            return replace(step, out=view(step.out), inputs=inputs, part="")
        case Collective():
            return replace(step, source=view(step.source), target=view(step.target), part="")
        case Loop():
            inner = tuple(_nameless(one, numbers, streams) for one in step.steps)
            return "loop", step.variable, step.count, step.ahead, inner
        case Take():
            return replace(step, target=view(step.target), part="")
        case Absorb():
            return replace(step, total=view(step.total), x=view(step.x), part="")
        case Send() | Receive():
            talks = "send" if isinstance(step, Send) else "receive"
            (moved,) = (one for group in views(step) for one in group)
            return talks, streams.get(step.stream, (step.stream,)), view(moved)


class Kinds:
    """The regions of a program by likeness."""

    def __init__(self, program: Program) -> None:
        self.program = program
        first: dict[Likeness, Region] = {}
        self._model = {region.name: first.setdefault(likeness(program, region), region) for region in program.regions}

    def model(self, region: Region) -> Region:
        """The first region that this one is like."""
        return self._model[region.name]

    def issues(self, rule: Callable[[Region], Iterable[Issue]]) -> Iterator[Issue]:
        """What a rule about single regions finds in all of them."""
        clean: set[str] = set()
        for region in self.program.regions:
            if self.model(region).name in clean:
                continue
            found = list(rule(region))
            if not found:
                clean.add(self.model(region).name)
            yield from found
