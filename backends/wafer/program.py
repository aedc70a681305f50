"""The spatial program: what every PE holds, does and says. It needs nothing of the model's graph to run.

All values are frozen; `cgptc.backends.wafer.serial` writes and reads them. Steps of a region are run by all its PEs (SPMD); what differs
between PEs comes from their coordinates. The run-time scalars of an entry, the item counter ``item`` and loop counters may appear in
extents, offsets, counts, roots and masks; addresses, colours and routes are static.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from cgptc.backends.wafer.affine import Affine, Extent, value_of, variables_of
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.instructions import Parameter
from cgptc.backends.wafer.collectives import Algorithm, Combine, Kind
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine

FORMAT_VERSION = 1
MAX_LOOP_DEPTH = 8
ITEM = "item"


@dataclass(frozen=True)
class Rectangle:
    """PEs ``x … x + width − 1`` by ``y … y + height − 1``; x eastward, y southward."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height

    def overlaps(self, other: Rectangle) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class Live:
    """Steps of an entry, numbered in the order they are written, loops before their bodies, in which a buffer holds something."""

    entry: str
    first: int
    last: int


@dataclass(frozen=True)
class Buffer:
    """The same piece of memory in every PE of a region: ``copies`` times an array of ``shape`` at ``address``.

    ``resident`` buffers (weights, caches, inputs, outputs) are never reused; others are theirs only while ``live``. Two copies make a
    double buffer, of which views choose by their offset.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    address: int
    resident: bool = False
    live: tuple[Live, ...] = ()
    copies: int = 1

    @property
    def size(self) -> int:
        """Elements, all copies together."""
        return self.copies * math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * format_of(self.dtype).bytes


@dataclass(frozen=True)
class View:
    """Elements of a buffer: ``offset + Σ index · stride``. A stride of 0 repeats."""

    buffer: str
    shape: tuple[Extent, ...]
    strides: tuple[int, ...]
    offset: Extent = 0

    @property
    def extents(self) -> tuple[Extent, ...]:
        return (*self.shape, self.offset)


@dataclass(frozen=True)
class Span:
    """``count`` grid lines ``start, start + step, …``, relative to the region."""

    start: Extent
    count: Extent = 1
    step: int = 1


@dataclass(frozen=True)
class Where:
    """The PEs of a region that take part in a step: on the rows of any of these spans and the columns of any of those; empty means all."""

    rows: tuple[Span, ...] = ()
    columns: tuple[Span, ...] = ()


EVERYWHERE = Where()


def line(index: Extent) -> tuple[Span, ...]:
    """The one grid line of that index."""
    return (Span(index),)


@dataclass(frozen=True)
class Local:
    """``out = instruction(inputs)`` on the PE's own memory, computed in ``format`` and rounded to the buffer's type when stored.

    ``part`` says which part of the model this serves (module path and kernel); it means nothing to the machine.
    """

    instruction: str
    out: View
    inputs: tuple[View | float, ...]
    format: str
    parameters: tuple[tuple[str, Parameter], ...] = ()
    where: Where = EVERYWHERE
    part: str = ""


@dataclass(frozen=True)
class Collective:
    """A pattern run on every row (``along`` x) or column (y) of the PEs of ``where``, in segments of ``segment`` PEs (0: the whole line).

    Every PE's payload is its ``source``; ``target`` takes the result. Root and hops count in positions of the segment.
    """

    kind: Kind
    algorithm: Algorithm
    along: Literal["x", "y"]
    source: View
    target: View
    colours: tuple[int, ...]
    combine: Combine = "add"
    root: Extent = 0
    group: int = 0
    hops: int = 0
    ring: bool = False
    segment: int = 0
    where: Where = EVERYWHERE
    part: str = ""


@dataclass(frozen=True)
class Send:
    """Pass an item's part from the PEs that hold it into a stream. Waits for room in the stream's queue."""

    stream: str
    source: View
    part: str = ""


@dataclass(frozen=True)
class Receive:
    """Take an item's part out of a stream's queue. Waits for it."""

    stream: str
    target: View
    part: str = ""


@dataclass(frozen=True)
class Take:
    """Take the next parcel, that of ``tensor``, out of the queue of the program's inflow. Waits for it."""

    tensor: str
    target: View
    part: str = ""


@dataclass(frozen=True)
class Absorb:
    """``total [m, n] += x [m, k] @ weight`` as the weight's non-zeros arrive, those of the inflow's next parcel, that of ``tensor``.

    A wavelet is 16 bits of place (k · n of the tile, row by row) and 16 bits of value; each is multiplied and added when it comes, in
    ``format``, and not kept. The fullest PE's tile has ``entries``.
    """

    tensor: str
    total: View
    x: View
    format: str
    entries: int
    part: str = ""


@dataclass(frozen=True)
class Loop:
    """``steps`` for ``variable`` = 0 … ``count`` − 1.

    ``ahead`` prices the overlap of collectives with local steps: 0 within an iteration, 1 with the collectives of the next one (which
    must not touch what this one's local steps use: double buffers), None not at all. The results are those of running in order.
    """

    variable: str
    count: Extent
    steps: tuple[Step, ...]
    ahead: int | None = None
    part: str = ""


Step: TypeAlias = Local | Collective | Send | Receive | Take | Absorb | Loop


@dataclass(frozen=True)
class Code:
    """The steps of one entry in one region."""

    entry: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Region:
    """A rectangle whose PEs hold the same buffers and run the same steps. ``stage`` is the pipeline stage that it carries."""

    name: str
    rectangle: Rectangle
    buffers: tuple[Buffer, ...]
    code: tuple[Code, ...]
    stage: int = 0

    def buffer(self, name: str) -> Buffer:
        """KeyError for an unknown name."""
        return self._buffers[name]

    @cached_property
    def _buffers(self) -> dict[str, Buffer]:
        return {buffer.name: buffer for buffer in reversed(self.buffers)}

    def steps(self, entry: str) -> tuple[Step, ...]:
        """The region's steps for an entry; none where it takes no part."""
        return next((code.steps for code in self.code if code.entry == entry), ())


@dataclass(frozen=True)
class Stream:
    """Items of a tensor from one region's layout to another's, through the routes.

    ``source`` places each element once (no replicas: a line is named); ``target`` may replicate, by fan-out. Routes take direction
    ``first`` first. ``depth`` items wait in the consumer's memory at ``address``. Items have so many ``rows`` along the first axis, which
    is not cut, where that is not None.
    """

    name: str
    producer: str
    consumer: str
    dtype: str
    source: Layout
    target: Layout
    first: Literal["x", "y"]
    colours: tuple[int, ...]
    depth: int
    address: int
    rows: Affine | None = None

    def at(self, environment: Mapping[str, int]) -> Stream:
        """The stream of items that are as long as these variables say."""
        if self.rows is None:
            return self
        rows = value_of(self.rows, environment)
        return replace(self, source=self.source.of_rows(rows), target=self.target.of_rows(rows), rows=None)

    @property
    def queue_bytes(self) -> int:
        """SRAM that the queue takes in each consumer PE."""
        return self.depth * math.prod(self.target.local_shape) * format_of(self.dtype).bytes


@dataclass(frozen=True)
class Nonzeros:
    """How many there are of a matrix: in the fullest PE's tile, on the fullest line of the edge, and in all."""

    tile: int
    line: int
    total: int


@dataclass(frozen=True)
class Parcel:
    """A tensor that comes from off the wafer whenever it is needed, and how it lies once it has come.

    Where ``nonzeros`` are given they alone are sent, for `Absorb`, and no slot waits for them.
    """

    tensor: str
    layout: Layout
    nonzeros: Nonzeros | None = None


@dataclass(frozen=True)
class Inflow:
    """Tensors that the host sends to a region over the lines of the wafer's edge: all parcels in order, again for every item.

    A tensor that is cut along the region's rows alone comes from the west, every other from the north, on the first and the second of
    ``colours``. ``depth`` parcels wait in slots of ``slot_bytes`` in each PE's memory at ``address``.
    """

    region: str
    dtype: str
    parcels: tuple[Parcel, ...]
    colours: tuple[int, int]
    depth: int
    slot_bytes: int
    address: int

    def parcel(self, tensor: str) -> Parcel:
        """KeyError for an unknown tensor."""
        return self._parcels[tensor]

    @cached_property
    def _parcels(self) -> dict[str, Parcel]:
        return {parcel.tensor: parcel for parcel in reversed(self.parcels)}


@dataclass(frozen=True)
class Binding:
    """A logical tensor that the host writes or reads: a weight at load, an input before each item, an output after it, or a state.

    Of an output the host reads so many ``rows`` of the first axis, which is not cut, where that is not None.
    """

    tensor: str
    role: Literal["weight", "input", "output", "state"]
    region: str
    buffer: str
    layout: Layout
    entries: tuple[str, ...] = ()
    rows: Affine | None = None

    def at(self, environment: Mapping[str, int]) -> Binding:
        """The binding of a tensor that is as long as these variables say."""
        if self.rows is None:
            return self
        return replace(self, layout=self.layout.of_rows(value_of(self.rows, environment)), rows=None)


@dataclass(frozen=True)
class Scalar:
    """A run-time scalar, sent to every PE at entry, with the values that it may take."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Entry:
    """A way to run the program: its scalars, and how many items pass through.

    ``limits`` are expressions that are at least 0 for the scalars together, such as what a cache has left.
    """

    name: str
    scalars: tuple[Scalar, ...] = ()
    items: Extent = 1
    limits: tuple[Affine, ...] = ()

    def refusal(self, scalars: Mapping[str, int]) -> str | None:
        """Why the entry cannot run with these scalars; None where it can."""
        if set(scalars) != {scalar.name for scalar in self.scalars}:
            return f"entry '{self.name}' takes scalars {[scalar.name for scalar in self.scalars]}, got {sorted(scalars)}"
        for scalar in self.scalars:
            if not scalar.low <= scalars[scalar.name] <= scalar.high:
                return f"'{scalar.name}' is {scalars[scalar.name]}, not in {scalar.low} to {scalar.high}"
        for limit in self.limits:
            if limit.value(scalars) < 0:
                return f"{limit} is {limit.value(scalars)}, less than 0"
        return None


@dataclass(frozen=True)
class Program:
    """A placed, routed and allocated model."""

    machine: Machine
    regions: tuple[Region, ...]
    streams: tuple[Stream, ...]
    entries: tuple[Entry, ...]
    bindings: tuple[Binding, ...]
    inflow: Inflow | None = None

    def region(self, name: str) -> Region:
        for region in self.regions:
            if region.name == name:
                return region
        raise KeyError(name)

    def entry(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def stream(self, name: str) -> Stream:
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(name)


def numbered(steps: Sequence[Step]) -> Iterator[tuple[int, int, Step]]:
    """``(number, number of the outermost loop around it or its own, step)`` for all steps, loops before their bodies."""
    number = 0
    for outer in steps:
        start = number
        pending: list[Step] = [outer]
        while pending:
            step = pending.pop()
            yield number, start, step
            number += 1
            if isinstance(step, Loop):
                pending.extend(reversed(step.steps))


def views(step: Step) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """``(read, written)`` by a step itself; a loop's own are none."""
    match step:
        case Local():
            return tuple(one for one in step.inputs if isinstance(one, View)), (step.out,)
        case Collective():
            return (step.source,), (step.target,)
        case Send():
            return (step.source,), ()
        case Receive() | Take():
            return (), (step.target,)
        case Absorb():
            return (step.x, step.total), (step.total,)
        case Loop():
            return (), ()


def step_variables(step: Step) -> frozenset[str]:
    """Variables of a step's extents, spans, roots and views; a loop's body is not part of it, nor are masks."""
    found: frozenset[str] = frozenset()
    for group in views(step):
        for view in group:
            for extent in view.extents:
                found |= variables_of(extent)
    if isinstance(step, (Local, Collective)):
        for span in (*step.where.rows, *step.where.columns):
            found |= variables_of(span.start) | variables_of(span.count)
    if isinstance(step, Collective):
        found |= variables_of(step.root)
    if isinstance(step, Loop):
        found |= variables_of(step.count)
    return found


def mask_variables(step: Step) -> frozenset[str]:
    """Variables of the expressions among a local step's parameters."""
    found: frozenset[str] = frozenset()
    for _, value in step.parameters if isinstance(step, Local) else ():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Affine):
                found |= one.variables
    return found


def whole(name: str, shape: Sequence[Extent], maxima: Sequence[int] | None = None, offset: Extent = 0) -> View:
    """The leading part ``shape`` of a row-major array of ``maxima`` (its own shape where None) at ``offset`` in a buffer."""
    sizes = list(shape if maxima is None else maxima)
    strides: list[int] = []
    stride = 1
    for size in reversed(sizes):
        strides.append(stride)
        if isinstance(size, Affine):
            raise TypeError("the strides of a view are static: give 'maxima'")
        stride *= size
    return View(name, tuple(shape), tuple(reversed(strides)), offset)
