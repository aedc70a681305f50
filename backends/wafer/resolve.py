"""Steps under an environment: extents become integers, spans become ranges, patterns get their size and root.

Verifier, clock and both engines read steps through this module, so that they cannot disagree about what a step names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.arithmetic.formats import Format, format_of
from cgptc.backends.wafer.arithmetic.instructions import Instruction, Parameter, Price, instruction_of
from cgptc.backends.wafer.collectives import Algorithm, Kind, Pattern
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer, Rectangle, Region
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Span, Take, View, Where, mask_variables

Environment = Mapping[str, int]


@dataclass(frozen=True)
class Placed:
    """A view with integers: elements ``offset + Σ index · stride`` of a buffer."""

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[int, int]:
        """First element touched, and one beyond the last; equal where there is none."""
        if self.size == 0:
            return 0, 0
        low = high = self.offset
        for size, stride in zip(self.shape, self.strides, strict=True):
            low += min(0, (size - 1) * stride)
            high += max(0, (size - 1) * stride)
        return low, high + 1

    @property
    def words(self) -> int:
        """Wavelets that the content travels in."""
        return format_of(self.buffer.dtype).words(self.size)


def place(view: View, buffer: Buffer, environment: Environment) -> Placed:
    """The view under these variables. Raises ProgramError where it is no view or leaves its buffer."""
    shape = tuple(value_of(extent, environment) for extent in view.shape)
    offset = value_of(view.offset, environment)
    if len(shape) != len(view.strides) or any(size < 0 for size in shape):
        raise ProgramError("view-shape", f"view of '{view.buffer}' has shape {shape} and strides {view.strides}")
    placed = Placed(buffer, shape, view.strides, offset)
    low, high = placed.bounds
    if low < 0 or high > buffer.size:
        raise ProgramError("view-bounds", f"elements {low} to {high - 1} of '{view.buffer}', which has {buffer.size}")
    return placed


@dataclass(frozen=True)
class Block:
    """A rectangular grid of PEs of a region: rows and columns as ranges."""

    rows: range
    columns: range

    @property
    def area(self) -> int:
        return len(self.rows) * len(self.columns)


def spans(given: tuple[Span, ...], lines: int, environment: Environment) -> list[range]:
    """The grid lines that spans name; all where none is given. Raises ProgramError where they leave the region or overlap."""
    if not given:
        return [range(lines)]
    found: list[range] = []
    for span in given:
        start, count = value_of(span.start, environment), value_of(span.count, environment)
        if span.step < 1:
            raise ProgramError("step-lines", f"lines are named upward, not by steps of {span.step}")
        chosen = range(start, start + max(count, 0) * span.step, span.step)
        if len(chosen) and (chosen[0] < 0 or chosen[-1] >= lines):
            raise ProgramError("step-lines", f"lines {chosen[0]} to {chosen[-1]} of {lines}")
        if any(not set(chosen).isdisjoint(other) for other in found):
            raise ProgramError("step-lines", f"lines {chosen[0]} to {chosen[-1]} are named twice")
        if len(chosen):
            found.append(chosen)
    return found


def blocks(where: Where, rectangle: Rectangle, environment: Environment) -> list[Block]:
    """The PEs of a step, as disjoint blocks."""
    rows = spans(where.rows, rectangle.height, environment)
    columns = spans(where.columns, rectangle.width, environment)
    return [Block(one, other) for one in rows for other in columns]


@lru_cache(maxsize=4096)
def _pattern(kind: Kind, algorithm: Algorithm, size: int, root: int, group: int, hops: int, ring: bool) -> Pattern:
    """One object per pattern, so that what a pattern has worked out is kept."""
    return Pattern(kind, algorithm, size, root, group, hops, ring)


def pattern_of(step: Collective, block: Block, environment: Environment) -> tuple[Pattern, int]:
    """The pattern of a collective on the lines of a block, and the number of segments per line."""
    line = block.columns if step.along == "x" else block.rows
    if line.step != 1:
        raise ProgramError("collective-line", "the PEs of a collective's line must be neighbours")
    size = step.segment or len(line)
    if size < 1 or len(line) % size:
        raise ProgramError("collective-segment", f"a line of {len(line)} PEs is not cut into segments of {size}")
    root = value_of(step.root, environment)
    return _pattern(step.kind, step.algorithm, size, root, step.group, step.hops, step.ring), len(line) // size


def local_price(step: Local, region: Region, machine: Machine, environment: Environment) -> Price:
    """What the price of a local step depends on."""
    out = place(step.out, region.buffer(step.out.buffer), environment)
    inputs = tuple(place(one, region.buffer(one.buffer), environment).shape if isinstance(one, View) else () for one in step.inputs)
    return Price(machine, step.format, out.shape, inputs, dict(step.parameters))


@dataclass(frozen=True)
class Ready:
    """A local step with everything that does not depend on data: what engines run."""

    declared: Instruction
    target: Format
    out: Placed
    inputs: tuple[Placed | float, ...]
    blocks: list[Block]
    cycles: int
    macs: int
    named: frozenset[str]
    parameters: dict[str, Parameter]


def ready_local(step: Local, region: Region, machine: Machine, environment: Environment) -> Ready:
    """The step under these variables. ``named`` are the variables of its masks, which each run still has to look up."""
    price = local_price(step, region, machine, environment)
    declared = instruction_of(step.instruction)
    return Ready(
        declared,
        format_of(step.format),
        place(step.out, region.buffer(step.out.buffer), environment),
        tuple(place(one, region.buffer(one.buffer), environment) if isinstance(one, View) else one for one in step.inputs),
        blocks(step.where, region.rectangle, environment),
        declared.cycles(price),
        declared.macs(price),
        mask_variables(step),
        dict(step.parameters),
    )


def local_cycles(step: Local, region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of a local step: 0 where no PE takes part."""
    if not any(block.area for block in blocks(step.where, region.rectangle, environment)):
        return 0
    return instruction_of(step.instruction).cycles(local_price(step, region, machine, environment)) + machine.step_cycles


def collective_cycles(step: Collective, region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of a collective: that of its slowest line."""
    words = place(step.source, region.buffer(step.source.buffer), environment).words
    longest = 0
    for block in blocks(step.where, region.rectangle, environment):
        if block.area:
            pattern, _ = pattern_of(step, block, environment)
            longest = max(longest, pattern.cycles(words, machine) + machine.step_cycles)
    return longest


def take_cycles(step: Take, region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of moving a parcel out of its queue, waiting not counted."""
    placed = place(step.target, region.buffer(step.target.buffer), environment)
    return machine.vector_cycles(placed.buffer.dtype, placed.size) + machine.step_cycles


def absorb_cycles(step: Absorb, region: Region, machine: Machine, environment: Environment) -> int:
    """Cycles of absorbing the fullest tile: a multiply-accumulate over the rows of x for every wavelet, on loaded descriptors."""
    placed = place(step.total, region.buffer(step.total.buffer), environment)
    return machine.mac_cycles(step.format, step.entries, placed.shape[0], aligned=True) + machine.step_cycles


def iterations(loop: Loop, environment: Environment) -> Iterator[dict[str, int]]:
    """The environment of each iteration."""
    count = value_of(loop.count, environment)
    if count < 0:
        raise ProgramError("loop-count", f"loop over '{loop.variable}' runs {count} times")
    for index in range(count):
        yield {**environment, loop.variable: index}
