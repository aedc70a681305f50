"""Rules about steps: views inside their buffers, operands that fit, overlap only where buffers are doubled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.arithmetic.formats import FORMATS, format_of
from cgptc.backends.wafer.arithmetic.instructions import INSTRUCTIONS
from cgptc.backends.wafer.faults import Issue, ProgramError
from cgptc.backends.wafer.program import Code, Entry, Program, Region
from cgptc.backends.wafer.resolve import Placed, blocks, pattern_of, place
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View, views
from cgptc.backends.wafer.verify.corners import corners, looked_at
from cgptc.backends.wafer.verify.filled import filled_issues
from cgptc.backends.wafer.verify.likeness import Kinds

MOST_ITERATIONS = 1 << 20
"""Of one loop: beyond, a program is damaged rather than long."""


def step_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group, each once."""

    def broken(region: Region) -> Iterator[Issue]:
        for code in region.code:
            entry = program.entry(code.entry)
            found = list(_walk(program, region, code, entry))
            yield from found or filled_issues(program, region, code)

    yield from dict.fromkeys(kinds.issues(broken))


@dataclass(frozen=True)
class _Context:
    program: Program
    region: Region
    where: str
    buffers: frozenset[str]


def _walk(program: Program, region: Region, code: Code, entry: Entry) -> Iterator[Issue]:
    buffers = frozenset(buffer.name for buffer in region.buffers)
    for corner in corners(program, entry):
        pending: list[tuple[Step, Mapping[str, int], int]] = [
            (step, corner, number) for number, step in reversed(list(enumerate(code.steps)))
        ]
        while pending:
            step, environment, number = pending.pop()
            context = _Context(program, region, f"region '{region.name}', entry '{code.entry}', step {number}", buffers)
            try:
                yield from _step(step, context, environment)
                if isinstance(step, Loop):
                    found = looked_at(step, environment)
                    pending.extend((inner, one, number) for one in reversed(found) for inner in reversed(step.steps))
            except ProgramError as error:
                yield Issue(error.code, context.where, error.what)


def _step(step: Step, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    missing = sorted({view.buffer for group in views(step) for view in group} - context.buffers)
    if missing:
        yield Issue("buffer-unknown", context.where, f"buffers {missing}")
        return
    match step:
        case Local():
            yield from _local(step, context, environment)
        case Collective():
            yield from _collective(step, context, environment)
        case Send() | Receive():
            yield from _stream_step(step, context, environment)
        case Take():
            yield from _take(step, context, environment)
        case Absorb():
            yield from _absorb(step, context, environment)
        case Loop():
            count = value_of(step.count, environment)
            if count > MOST_ITERATIONS:
                yield Issue("loop-count", context.where, f"{count} iterations, more than {MOST_ITERATIONS}")
            elif step.ahead is not None:
                yield from _overlap(step, context, environment)


def _placed(view: View, context: _Context, environment: Mapping[str, int]) -> Placed:
    return place(view, context.region.buffer(view.buffer), environment)


def _local(step: Local, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    if step.instruction not in INSTRUCTIONS or step.format not in FORMATS:
        yield Issue("instruction-unknown", context.where, f"'{step.instruction}' in {step.format!r}")
        return
    declared = INSTRUCTIONS[step.instruction]
    out = _placed(step.out, context, environment)
    inputs = [_placed(one, context, environment) if isinstance(one, View) else None for one in step.inputs]
    problem = declared.check(out.shape, tuple(() if one is None else one.shape for one in inputs), dict(step.parameters))
    if problem:
        yield Issue("operands", context.where, problem)
        return
    if _repeats(out):
        yield Issue("output-repeats", context.where, f"the view of '{out.buffer.name}' names an element twice")
    if declared.accumulates and inputs[0] != out:
        yield Issue("operands", context.where, f"the first input of '{step.instruction}' must be its output")
    for i, one in enumerate(inputs):
        if one is not None and one.size > context.program.machine.sram_bytes:
            what = f"the view of '{one.buffer.name}' has {one.size} elements, more than a PE has bytes"
            yield Issue("view-size", context.where, what)
        integer = one is not None and not format_of(one.buffer.dtype).is_float
        if one is not None and integer != (i in declared.integers or not format_of(step.format).is_float):
            yield Issue("operand-format", context.where, f"input {i} of '{step.instruction}' in {step.format} is {one.buffer.dtype}")
    blocks(step.where, context.region.rectangle, environment)


def _repeats(placed: Placed) -> bool:
    """Whether a view may name an element twice: axes sorted by stride must each clear all smaller ones."""
    reach = 0
    for stride, size in sorted((abs(stride), size) for stride, size in zip(placed.strides, placed.shape, strict=True) if size > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _collective(step: Collective, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    source, target = _placed(step.source, context, environment), _placed(step.target, context, environment)
    if source.buffer.dtype != target.buffer.dtype:
        yield Issue(
            "operand-format",
            context.where,
            f"'{source.buffer.name}' is {source.buffer.dtype}, '{target.buffer.name}' {target.buffer.dtype}",
        )
    if source != target and source.buffer.name == target.buffer.name and _meet([source], [target]):
        yield Issue("collective-alias", context.where, f"source and target overlap in '{source.buffer.name}'")
    if _repeats(target):
        yield Issue("output-repeats", context.where, f"the view of '{target.buffer.name}' names an element twice")
    for block in blocks(step.where, context.region.rectangle, environment):
        if block.area == 0:
            continue
        pattern, _ = pattern_of(step, block, environment)
        expected = (pattern.size, *source.shape) if step.kind == "gather" else source.shape
        if target.shape != expected:
            yield Issue("operands", context.where, f"the target of '{step.kind}' has shape {target.shape}, expected {expected}")
        if len(step.colours) < pattern.colour_count:
            yield Issue(
                "colour-count", context.where, f"'{step.kind}' by {step.algorithm} needs {pattern.colour_count} colours, got {step.colours}"
            )


def _stream_step(step: Send | Receive, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    stream = context.program.stream(step.stream).at(environment)
    sends = isinstance(step, Send)
    placed = _placed(step.source if isinstance(step, Send) else step.target, context, environment)
    layout, owner = (stream.source, stream.producer) if sends else (stream.target, stream.consumer)
    if owner != context.region.name:
        yield Issue("stream-end", context.where, f"stream '{stream.name}' {'comes from' if sends else 'goes to'} region '{owner}'")
    if placed.buffer.dtype != stream.dtype:
        yield Issue("operand-format", context.where, f"'{placed.buffer.name}' is {placed.buffer.dtype}, the stream {stream.dtype}")
    if placed.shape != layout.local_shape:
        yield Issue("operands", context.where, f"a view of shape {placed.shape} for tiles of {layout.local_shape}")


def _take(step: Take, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    inflow = context.program.inflow
    assert inflow is not None
    placed, layout = _placed(step.target, context, environment), inflow.parcel(step.tensor).layout
    if placed.buffer.dtype != inflow.dtype:
        yield Issue("operand-format", context.where, f"'{placed.buffer.name}' is {placed.buffer.dtype}, the inflow {inflow.dtype}")
    if placed.shape != layout.local_shape:
        yield Issue("operands", context.where, f"a view of shape {placed.shape} for tiles of {layout.local_shape}")
    if inflow.parcel(step.tensor).nonzeros is not None:
        yield Issue("inflow-nonzeros", context.where, f"'{step.tensor}' comes without its zeros and cannot be taken")
    if math.prod(layout.local_shape) * format_of(inflow.dtype).bytes > inflow.slot_bytes:
        yield Issue("inflow-slot", context.where, f"tiles of {layout.local_shape} in slots of {inflow.slot_bytes} bytes")


def _absorb(step: Absorb, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    inflow = context.program.inflow
    assert inflow is not None
    parcel = inflow.parcel(step.tensor)
    if parcel.nonzeros is None or parcel.nonzeros.tile != step.entries:
        yield Issue("inflow-nonzeros", context.where, f"{step.entries} wavelets of '{step.tensor}', of which {parcel.nonzeros} are sent")
    if step.format not in FORMATS or not format_of(step.format).is_float:
        yield Issue("instruction-unknown", context.where, f"products in {step.format!r}")
    total, x = (_placed(view, context, environment) for view in (step.total, step.x))
    (deep, wide), where = parcel.layout.local_shape, context.where
    if (total.shape[1:], x.shape[1:], total.shape[:1]) != ((wide,), (deep,), x.shape[:1]):
        yield Issue("operands", where, f"tiles of {deep} × {wide} do not lead from {x.shape} to {total.shape}")
    if _repeats(total) or _meet([total], [x]):
        yield Issue("output-repeats", where, f"the view of '{total.buffer.name}' names an element twice, or one of its operand's")


def _overlap(loop: Loop, context: _Context, environment: Mapping[str, int]) -> Iterator[Issue]:
    """Collectives that are priced as overlapped must not touch what the local steps beside them use."""
    if any(isinstance(step, (Send, Receive, Take, Absorb, Loop)) for step in loop.steps) or loop.ahead not in (0, 1):
        yield Issue("loop-overlap", context.where, "an overlapping loop holds local steps and collectives only, 0 or 1 iteration ahead")
        return
    found = looked_at(loop, environment)
    for now, then in zip(found, found if loop.ahead == 0 else found[1:], strict=False):
        reads, writes = _touched([step for step in loop.steps if isinstance(step, Local)], context, now)
        other_reads, other_writes = _touched([step for step in loop.steps if isinstance(step, Collective)], context, then)
        if _meet(writes, other_reads + other_writes) or _meet(reads, other_writes):
            what = f"iteration {now[loop.variable]}: collectives and local steps that overlap in time touch the same elements"
            yield Issue("loop-overlap", context.where, what)
            return


def _touched(steps: list[Step], context: _Context, environment: Mapping[str, int]) -> tuple[list[Placed], list[Placed]]:
    reads: list[Placed] = []
    writes: list[Placed] = []
    for step in steps:
        for views_of, found in zip(views(step), (reads, writes), strict=True):
            found.extend(_placed(view, context, environment) for view in views_of)
    return reads, writes


def _meet(some: list[Placed], others: list[Placed]) -> bool:
    """Whether any two views may share an element, by the bounds of what they touch."""
    for one, other in product(some, others):
        (low, high), (other_low, other_high) = one.bounds, other.bounds
        if one.buffer.name == other.buffer.name and low < other_high and other_low < high:
            return True
    return False
