"""Rules about colours, routers and streams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import ITEM, Program, Rectangle, Region, Stream
from cgptc.backends.wafer.resolve import blocks, iterations, pattern_of
from cgptc.backends.wafer.routes import Loads, check_layouts, family, loads, share_links
from cgptc.backends.wafer.steps import Collective, Loop, Receive, Send, Step
from cgptc.backends.wafer.verify.corners import corners, looked_at
from cgptc.backends.wafer.verify.likeness import Kinds

SAMPLED_ROOTS = 8
"""Roots of one collective that are looked at: a router's configurations depend only on which side of the root it lies."""


def fabric_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group."""
    yield from kinds.issues(lambda region: _colours(program, region))
    yield from kinds.issues(lambda region: _routers(program, region))
    yield from _streams(program, kinds)
    yield from _balance(program)


@dataclass(frozen=True)
class Use:
    """A pattern at work on lines of a region, from position ``start`` of the line on."""

    pattern: Pattern
    colours: tuple[int, ...]
    along: str
    start: int


def uses(program: Program, region: Region) -> list[Use]:
    """Every different use of a pattern in a region, in the order of first use; of many roots the outermost and some between."""
    found: dict[Use, None] = {}
    for code in region.code:
        for corner in corners(program, program.entry(code.entry)):
            pending: list[tuple[Step, dict[str, int]]] = [(step, corner) for step in reversed(code.steps)]
            while pending:
                step, environment = pending.pop()
                if isinstance(step, Loop):
                    inner = looked_at(step, environment)
                    pending.extend((one, within) for within in reversed(inner) for one in reversed(step.steps))
                elif isinstance(step, Collective):
                    for block in blocks(step.where, region.rectangle, environment):
                        if block.area:
                            pattern, segments = pattern_of(step, block, environment)
                            line = block.columns if step.along == "x" else block.rows
                            for segment in range(segments):
                                found[Use(pattern, step.colours, step.along, line.start + segment * pattern.size)] = None
    by_kind: dict[tuple[object, ...], list[Use]] = defaultdict(list)
    for use in found:
        one = use.pattern
        by_kind[one.kind, one.algorithm, one.size, one.group, one.hops, one.ring, use.colours, use.along, use.start].append(use)
    chosen: list[Use] = []
    for group in by_kind.values():
        ordered = sorted(group, key=lambda use: use.pattern.root)
        places = np.unique(np.linspace(0, len(ordered) - 1, SAMPLED_ROOTS).astype(int))
        chosen.extend(ordered[place] for place in places)
    return chosen


def _collectives(region: Region) -> Iterator[tuple[str, Collective]]:
    """``(entry, step)`` for all collectives of a region."""
    for code in region.code:
        pending: list[Step] = list(code.steps)
        while pending:
            step = pending.pop()
            if isinstance(step, Loop):
                pending.extend(step.steps)
            elif isinstance(step, Collective):
                yield code.entry, step


def colours_of(region: Region) -> set[int]:
    """Colours that a region's collectives name, whether or not their lines are long enough to need them."""
    return {colour for _, step in _collectives(region) for colour in step.colours}


def _colours(program: Program, region: Region) -> Iterator[Issue]:
    for entry, step in _collectives(region):
        yield from colour_range(step.colours, program.machine.colours, f"region '{region.name}', entry '{entry}'")


def colour_range(colours: tuple[int, ...], count: int, where: str) -> Iterator[Issue]:
    """Colours that the machine does not have, or that are named twice."""
    for colour in colours:
        if not 0 <= colour < count:
            yield Issue("colour-range", where, f"colour {colour} is none of 0 to {count - 1}")
    if len(set(colours)) != len(colours):
        yield Issue("colour-twice", where, f"colours {colours} name one twice")


def _routers(program: Program, region: Region) -> Iterator[Issue]:
    """One configuration per router, colour and phase of a step; no more per colour than a router has switch positions."""
    per_line: dict[tuple[str, int], dict[int, set[tuple[str, tuple[str, ...]]]]] = defaultdict(lambda: defaultdict(set))
    where = f"region '{region.name}'"
    for use in uses(program, region):
        at_once: dict[tuple[int, int, int], set[tuple[str, tuple[str, ...]]]] = defaultdict(set)
        for message in use.pattern.expand().messages:
            for position, entry, outputs in message.routes():
                at_once[position, message.colour, message.phase].add((entry, outputs))
        for (position, colour, _), found in at_once.items():
            if len(found) > 1:
                yield Issue("route-conflict", where, f"position {position} of '{use.pattern.kind}' needs {len(found)} routes at once")
                break
            per_line[use.along, use.colours[colour]][use.start + position] |= found
    for colour in sorted({colour for _, colour in per_line}):
        most = sum(max((len(found) for found in per_line[along, colour].values()), default=0) for along in ("x", "y"))
        if most > program.machine.switch_positions:
            what = f"colour {colour} takes {most} configurations of a router, which has {program.machine.switch_positions}"
            yield Issue("switch-positions", where, what)


def _streams(program: Program, kinds: Kinds) -> Iterator[Issue]:
    regions = {region.name: region for region in program.regions}
    routed: list[tuple[Stream, Loads]] = []
    for stream in program.streams:
        where = f"stream '{stream.name}'"
        ends = [name for name in (stream.producer, stream.consumer) if name not in regions]
        if ends or stream.producer == stream.consumer:
            yield Issue("stream-end", where, f"from '{stream.producer}' to '{stream.consumer}': two different regions are needed")
            continue
        yield from colour_range(stream.colours, program.machine.colours, where)
        if not stream.colours:
            yield Issue("colour-count", where, "a stream needs a colour")
        if stream.depth < 1:
            yield Issue("stream-depth", where, f"a queue of {stream.depth} items")
        producer, consumer = regions[stream.producer].rectangle, regions[stream.consumer].rectangle
        problem = check_layouts(stream, producer, consumer)
        if problem:
            yield Issue("stream-layout", where, problem)
            continue
        routed.append((stream, loads(family(stream, producer, consumer), stream.first)))
    for (one, first), (other, second) in combinations(routed, 2):
        if set(one.colours) & set(other.colours) and share_links(first, second):
            yield Issue("stream-conflict", f"stream '{one.name}'", f"uses the same links and colour as '{other.name}'")
    used = {model.name: colours_of(model) for model in map(kinds.model, program.regions)}
    for region in program.regions:
        taken = used[kinds.model(region).name]
        for stream, found in routed:
            if taken & set(stream.colours) and _crosses(found, region.rectangle):
                what = f"crosses region '{region.name}' on a colour of its collectives, {sorted(taken & set(stream.colours))}"
                yield Issue("stream-conflict", f"stream '{stream.name}'", what)


def _crosses(found: Loads, box: Rectangle) -> bool:
    """Whether a stream uses a link that leaves a router of the rectangle."""
    rows = slice(max(box.y - found.y, 0), max(box.y + box.height - found.y, 0))
    columns = slice(max(box.x - found.x, 0), max(box.x + box.width - found.x, 0))
    return any(bool((array[rows, columns] > 0).any()) for array in (found.east, found.west, found.south, found.north))


def _balance(program: Program) -> Iterator[Issue]:
    """As many sends as receives, for every entry and every length."""
    for entry in program.entries:
        for corner in corners(program, entry):
            sent: dict[str, int] = defaultdict(int)
            received: dict[str, int] = defaultdict(int)
            for region in program.regions:
                pending: list[tuple[Step, dict[str, int]]] = [(step, corner) for step in region.steps(entry.name)]
                while pending:
                    step, environment = pending.pop()
                    match step:
                        case Loop():
                            pending.extend((inner, one) for one in iterations(step, environment) for inner in step.steps)
                        case Send():
                            sent[step.stream] += 1
                        case Receive():
                            received[step.stream] += 1
                        case _:
                            pass
            for name in sorted(set(sent) | set(received)):
                if sent[name] != received[name]:
                    what = f"{sent[name]} sends and {received[name]} receives per item at {_shown(corner)}"
                    yield Issue("stream-balance", f"stream '{name}'", what)


def _shown(corner: dict[str, int]) -> str:
    return ", ".join(f"{name} = {value_of(value, {})}" for name, value in corner.items() if name != ITEM) or "every length"
