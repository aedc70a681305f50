"""What a PE does: the steps of a region's code, and the views of buffers that they read and write.

The run-time scalars of an entry, the item counter ``item`` and loop counters may appear in extents, offsets, counts, roots and masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cgptc.backends.wafer.affine import Affine, Extent, variables_of
from cgptc.backends.wafer.arithmetic.instructions import Parameter
from cgptc.backends.wafer.collectives import Algorithm, Combine, Kind

MAX_LOOP_DEPTH = 8


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
