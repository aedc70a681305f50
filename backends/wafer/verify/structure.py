"""Rules about names, rectangles, bindings and entries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic.formats import FORMATS
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import ITEM, Binding, Code, Program, Region
from cgptc.backends.wafer.steps import MAX_LOOP_DEPTH, Loop, Receive, Send, Step, mask_variables, step_variables

MAX_SCALARS = 8
"""Of one entry: steps are looked at where each has its lowest and its highest value, in all combinations."""


def structure_issues(program: Program) -> Iterator[Issue]:
    """All broken rules of this group."""
    yield from _names(program)
    yield from _rectangles(program)
    for region in program.regions:
        yield from _region(program, region)
    for binding in program.bindings:
        yield from _binding(program, binding)
    for entry in program.entries:
        known = {scalar.name for scalar in entry.scalars}
        if len(entry.scalars) > MAX_SCALARS:
            yield Issue("scalar-count", f"entry '{entry.name}'", f"{len(entry.scalars)} scalars, more than {MAX_SCALARS}")
        for scalar in entry.scalars:
            if scalar.low > scalar.high:
                yield Issue("scalar-range", f"entry '{entry.name}'", f"'{scalar.name}' runs from {scalar.low} to {scalar.high}")
        for limit in entry.limits:
            if not limit.variables <= known:
                yield Issue("variable-unknown", f"entry '{entry.name}'", f"the limit {limit} depends on {sorted(limit.variables - known)}")
        if isinstance(entry.items, Affine) and not entry.items.variables <= known:
            unknown = sorted(entry.items.variables - known)
            yield Issue("variable-unknown", f"entry '{entry.name}'", f"the number of items depends on {unknown}")


def _names(program: Program) -> Iterator[Issue]:
    yield from _twice("region", [region.name for region in program.regions])
    yield from _twice("stream", [stream.name for stream in program.streams])
    yield from _twice("entry", [entry.name for entry in program.entries])
    yield from _twice("tensor", [f"{one.tensor} in {entry}" for one in program.bindings for entry in one.entries])
    for region in program.regions:
        yield from _twice(f"buffer of region '{region.name}'", [buffer.name for buffer in region.buffers])
        yield from _twice(f"code of region '{region.name}'", [code.entry for code in region.code])


def _twice(what: str, names: Sequence[str]) -> Iterator[Issue]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Issue("name-twice", what, f"'{name}' is declared {names.count(name)} times")


def _rectangles(program: Program) -> Iterator[Issue]:
    machine = program.machine
    for region in program.regions:
        box = region.rectangle
        if (
            box.width < 1
            or box.height < 1
            or box.x < 0
            or box.y < 0
            or box.x + box.width > machine.width
            or box.y + box.height > machine.height
        ):
            what = f"{box.width} × {box.height} PEs at ({box.x}, {box.y}) on a fabric of {machine.width} × {machine.height}"
            yield Issue("region-off-fabric", f"region '{region.name}'", what)
    for one, other in combinations(program.regions, 2):
        if one.rectangle.overlaps(other.rectangle):
            yield Issue("region-overlap", f"region '{one.name}'", f"shares PEs with '{other.name}'")


def _region(program: Program, region: Region) -> Iterator[Issue]:
    entries = {entry.name: entry for entry in program.entries}
    streams = {stream.name for stream in program.streams}
    for buffer in region.buffers:
        where = f"buffer '{buffer.name}' of region '{region.name}'"
        if buffer.dtype not in FORMATS:
            yield Issue("format-unknown", where, f"{buffer.dtype!r} is none of {', '.join(FORMATS)}")
        if buffer.copies < 1 or any(size < 0 for size in buffer.shape):
            yield Issue("buffer-shape", where, f"{buffer.copies} copies of shape {buffer.shape}")
    for code in region.code:
        where = f"region '{region.name}', entry '{code.entry}'"
        if code.entry not in entries:
            yield Issue("entry-unknown", where, "the program has no such entry")
            continue
        known = frozenset(scalar.name for scalar in entries[code.entry].scalars) | {ITEM}
        yield from _scopes(code, known, where, streams)


def _scopes(code: Code, known: frozenset[str], where: str, streams: set[str]) -> Iterator[Issue]:
    """Variables are declared where they are used, loops are not too deep, streams exist."""
    pending: list[tuple[Step, frozenset[str], int]] = [(step, known, 0) for step in reversed(code.steps)]
    while pending:
        step, scope, depth = pending.pop()
        masks = {name for name in mask_variables(step) if name not in ("row", "column") and not _is_index(name)}
        unknown = sorted((step_variables(step) | masks) - scope)
        if unknown:
            yield Issue("variable-unknown", where, f"a {type(step).__name__.lower()} step uses {unknown}")
        if isinstance(step, (Send, Receive)) and step.stream not in streams:
            yield Issue("stream-unknown", where, f"stream '{step.stream}'")
        if isinstance(step, Loop):
            if depth >= MAX_LOOP_DEPTH:
                yield Issue("loop-depth", where, f"more than {MAX_LOOP_DEPTH} loops in one another")
                continue
            if step.variable in scope or step.variable in ("row", "column"):
                yield Issue("variable-twice", where, f"loop variable '{step.variable}' is already declared")
            pending.extend((inner, scope | {step.variable}, depth + 1) for inner in reversed(step.steps))


def _is_index(name: str) -> bool:
    return name.startswith("i") and name[1:].isdecimal()


def _binding(program: Program, binding: Binding) -> Iterator[Issue]:
    where = f"tensor '{binding.tensor}'"
    regions = {region.name: region for region in program.regions}
    if binding.region not in regions:
        yield Issue("binding-unknown", where, f"region '{binding.region}' does not exist")
        return
    region = regions[binding.region]
    found = [buffer for buffer in region.buffers if buffer.name == binding.buffer]
    if not found:
        yield Issue("binding-unknown", where, f"region '{region.name}' has no buffer '{binding.buffer}'")
        return
    layout, box = binding.layout, region.rectangle
    if (layout.width, layout.height) != (box.width, box.height):
        yield Issue("binding-layout", where, f"laid out on {layout.width} × {layout.height} PEs, the region has {box.width} × {box.height}")
    if math.prod(layout.local_shape) > found[0].size:
        yield Issue("binding-size", where, f"tiles of {layout.local_shape} in a buffer of {found[0].size} elements")
    if not found[0].resident:
        yield Issue("binding-reused", where, f"its buffer '{binding.buffer}' is not resident, so its memory may be used for others")
    for entry in binding.entries:
        if all(entry != one.name for one in program.entries):
            yield Issue("entry-unknown", where, f"entry '{entry}' does not exist")
