"""Rules about what comes from off the wafer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.inflow import CONFIGURATIONS, PLACES
from cgptc.backends.wafer.program import Inflow, Parcel, Program
from cgptc.backends.wafer.steps import Absorb, Loop, Step, Take
from cgptc.backends.wafer.verify.fabric import colour_range, colours_of
from cgptc.backends.wafer.verify.likeness import Kinds

WHERE = "inflow"


def inflow_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group. What steps do with a parcel once it is there, and the room for it, are rules of other groups."""
    inflow = program.inflow
    if inflow is None:
        for region in program.regions:
            if any(_takes(code.steps) for code in region.code):
                yield Issue("inflow-unknown", f"region '{region.name}'", "takes parcels, and nothing comes from off the wafer")
        return
    if all(region.name != inflow.region for region in program.regions):
        yield Issue("inflow-end", WHERE, f"region '{inflow.region}' does not exist")
        return
    region = program.region(inflow.region)
    box = region.rectangle
    if inflow.depth < 1 or not inflow.parcels:
        yield Issue("inflow-depth", WHERE, f"{len(inflow.parcels)} parcels through a queue of {inflow.depth}")
    for parcel in inflow.parcels:
        layout = parcel.layout
        on_one_line = layout.row is not None or layout.column is not None
        if (layout.width, layout.height) != (box.width, box.height) or on_one_line:
            what = f"'{parcel.tensor}' lies on {layout.width} × {layout.height} PEs of a region of {box.width} × {box.height}"
            yield Issue("inflow-layout", WHERE, what + (", or on one line only" if on_one_line else ""))
        if parcel.nonzeros is not None:
            yield from _sparse(parcel, inflow)
    yield from _order(program, inflow)
    yield from _routes(program, inflow, kinds)


def _sparse(parcel: Parcel, inflow: Inflow) -> Iterator[Issue]:
    """A wavelet holds 16 bits of place and 16 bits of value; the tensor is a matrix in tiles."""
    layout, counts = parcel.layout, parcel.nonzeros
    if format_of(inflow.dtype).bytes != 2 or math.prod(layout.local_shape) > PLACES:
        what = f"a place of {layout.local_shape} and a value in {inflow.dtype} are more than 16 and 16 bits"
        yield Issue("inflow-wavelet", WHERE, f"'{parcel.tensor}': {what}")
    if len(layout.shape) != 2 or any(cut is None or not cut.block for cut in layout.cuts):
        yield Issue("inflow-layout", WHERE, f"'{parcel.tensor}' is sent without zeros and is no matrix in tiles")
    if counts is not None and not 0 <= counts.tile <= counts.line <= counts.total:
        yield Issue(
            "inflow-nonzeros", WHERE, f"'{parcel.tensor}' has {counts.tile} in a tile, {counts.line} on a line, {counts.total} in all"
        )


def _takes(steps: tuple[Step, ...]) -> list[str]:
    """Tensors that steps take, in order; loops, in which none may be taken, count as one each."""
    found: list[str] = []
    for step in steps:
        if isinstance(step, (Take, Absorb)):
            found.append(step.tensor)
        elif isinstance(step, Loop) and _within(step):
            found.append(f"a loop over '{step.variable}'")
    return found


def _within(loop: Loop) -> bool:
    pending: list[Step] = list(loop.steps)
    while pending:
        step = pending.pop()
        if isinstance(step, (Take, Absorb)):
            return True
        if isinstance(step, Loop):
            pending.extend(step.steps)
    return False


def _order(program: Program, inflow: Inflow) -> Iterator[Issue]:
    """A region takes what is sent, all of it, in the order in which it is sent."""
    sent = [parcel.tensor for parcel in inflow.parcels]
    for region in program.regions:
        for code in region.code:
            taken = _takes(code.steps)
            if region.name != inflow.region and taken:
                yield Issue("inflow-end", f"region '{region.name}'", f"takes '{taken[0]}', which goes to region '{inflow.region}'")
            elif region.name == inflow.region and taken != sent:
                at = next((i for i, (one, other) in enumerate(zip(taken, sent, strict=False)) if one != other), min(len(taken), len(sent)))
                one, other = (names[at] if at < len(names) else "nothing" for names in (taken, sent))
                what = f"take {at} is of '{one}', sent is '{other}' ({len(taken)} taken, {len(sent)} sent for an item)"
                yield Issue("inflow-order", f"region '{region.name}', entry '{code.entry}'", what)


def _routes(program: Program, inflow: Inflow, kinds: Kinds) -> Iterator[Issue]:
    """Colours of its own, on every router that it may pass."""
    yield from colour_range(inflow.colours, program.machine.colours, WHERE)
    if program.machine.switch_positions < CONFIGURATIONS:
        what = f"takes {CONFIGURATIONS} configurations of a router, which has {program.machine.switch_positions}"
        yield Issue("switch-positions", WHERE, what)
    for stream in program.streams:
        shared = sorted(set(stream.colours) & set(inflow.colours))
        if shared:
            yield Issue("stream-conflict", WHERE, f"stream '{stream.name}' has its colours {shared}")
    for region in {kinds.model(one).name: one for one in program.regions}.values():
        shared = sorted(colours_of(region) & set(inflow.colours))
        if shared:
            yield Issue("stream-conflict", WHERE, f"collectives of region '{region.name}' have its colours {shared}")
