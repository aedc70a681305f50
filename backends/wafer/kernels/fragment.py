"""What a kernel hands to a planner, and the words in which kernels write steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, Protocol

from cgptc.backends.wafer.affine import Affine, Extent, value_of, var
from cgptc.backends.wafer.arithmetic.instructions import Parameter
from cgptc.backends.wafer.collectives import Algorithm, Combine, Pattern
from cgptc.backends.wafer.layout import Axis, Cut, Layout, blocked
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer, Nonzeros
from cgptc.backends.wafer.steps import EVERYWHERE, Absorb, Collective, Local, Step, Take, View, Where, whole

Direction = Literal["x", "y"]

LINE_COLOURS: dict[Direction, tuple[int, ...]] = {"x": (0, 1, 2, 3, 4), "y": (5, 6, 7, 8, 9)}
"""Colours of collectives: four of a reduction or shift and one of a broadcast per direction. Streams have the rest."""

STREAM_COLOURS = tuple(range(10, 19))

INFLOW_COLOURS = (19, 20)
"""From the north and from the west."""


@dataclass(frozen=True)
class Slot:
    """A role of a kernel, such as ``x`` or ``weight``, the buffer that serves it and how the logical tensor lies in it.

    ``nonzeros`` of a parcel of which nothing else is sent. Of an output there are so many ``rows`` where that is not None.
    """

    role: str
    buffer: str
    layout: Layout
    nonzeros: Nonzeros | None = None
    rows: Affine | None = None


@dataclass(frozen=True)
class Fragment:
    """Steps and what they need. Buffers have no addresses yet; names start with the kernel's prefix.

    ``weights`` are loaded once, ``states`` start as zeros and stay; ``inputs`` and ``outputs`` belong to whoever joins fragments.
    ``parcels`` come from off the wafer for every item, in the order in which the steps take them.
    """

    kernel: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    weights: tuple[Slot, ...]
    states: tuple[Slot, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    parcels: tuple[Slot, ...] = ()

    def slot(self, role: str) -> Slot:
        """KeyError for an unknown role."""
        for slot in (*self.inputs, *self.outputs, *self.weights, *self.states):
            if slot.role == role:
                return slot
        raise KeyError(role)

    @property
    def resident_bytes(self) -> int:
        """SRAM per PE that stays taken between items."""
        kept = {slot.buffer for slot in (*self.weights, *self.states)}
        return sum(buffer.bytes for buffer in self.buffers if buffer.name in kept)

    @property
    def bytes(self) -> int:
        """SRAM per PE of all buffers, none reused."""
        return sum(buffer.bytes for buffer in self.buffers)


def arriving(fragment: Fragment, sparse: Mapping[str, Nonzeros] = MappingProxyType({})) -> Fragment:
    """The fragment with its weights taken from off the wafer right before they are used, where it would have kept them.

    Of ``sparse`` buffers, right sides of products, the non-zeros alone are sent, and no PE has a buffer for them.
    """
    buffers = {one.name: one for one in fragment.buffers}
    dense = [slot for slot in fragment.weights if slot.buffer not in sparse]
    thin = [replace(slot, nonzeros=sparse[slot.buffer]) for slot in fragment.weights if slot.buffer in sparse]
    part = next((step.part for step in fragment.steps), "")
    takes = tuple(Take(slot.buffer, all_of(buffers[slot.buffer]), part) for slot in dense)
    return replace(
        fragment,
        weights=(),
        parcels=(*dense, *thin),
        buffers=tuple(one for one in fragment.buffers if one.name not in sparse),
        steps=(*takes, *(_absorbing(step, sparse) for step in fragment.steps)),
    )


def _absorbing(step: Step, sparse: Mapping[str, Nonzeros]) -> Step:
    if isinstance(step, Local) and step.instruction == "gemm":
        _, x, weight = step.inputs
        if isinstance(x, View) and isinstance(weight, View) and weight.buffer in sparse:
            return Absorb(weight.buffer, step.out, x, step.format, sparse[weight.buffer].tile, step.part)
    return step


class Kernel(Protocol):
    """What every kernel offers."""

    def fragment(self, prefix: str) -> Fragment:
        """Layouts, buffers and steps; buffer names start with ``prefix``."""
        ...

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Cycles of one item in closed form."""
        ...


@dataclass(frozen=True)
class OfRows:
    """A kernel whose items may have fewer rows than the m that it has room for: ``rows``, by a run's scalars, or all where that is None."""

    rows: Affine | None = field(default=None, kw_only=True)

    def rows_of(self, m: int) -> Extent:
        """Rows of an item, as steps name them."""
        return m if self.rows is None else self.rows

    def row_count(self, m: int, scalars: Mapping[str, int]) -> int:
        """Rows of an item under these scalars."""
        return value_of(self.rows_of(m), scalars)


@dataclass(frozen=True)
class Grid:
    """The rectangle of PEs that a kernel runs on."""

    height: int
    width: int

    def lines(self, along: Direction) -> int:
        """Positions of a line in that direction."""
        return self.width if along == "x" else self.height

    def spread(self, shape: Sequence[int], along: Direction, block: int = 0) -> Layout:
        """The last axis in blocks along a direction, the same on every line of the other: the layout of activations.

        ``block`` 0 is the smallest that fits.
        """
        axis: Axis = "columns" if along == "x" else "rows"
        cut = Cut(axis, block) if block else blocked(shape[-1], axis, self.lines(along))
        return Layout(self.height, self.width, tuple(shape), (*(None for _ in shape[1:]), cut))

    def tiled(self, shape: Sequence[int], rows: int, columns: int, row_block: int = 0, column_block: int = 0) -> Layout:
        """Tensor axis ``rows`` in blocks along the grid's rows and axis ``columns`` along its columns."""
        cuts: list[Cut | None] = [None] * len(shape)
        cuts[rows] = Cut("rows", row_block) if row_block else blocked(shape[rows], "rows", self.height)
        cuts[columns] = Cut("columns", column_block) if column_block else blocked(shape[columns], "columns", self.width)
        return Layout(self.height, self.width, tuple(shape), tuple(cuts))

    def replicated(self, shape: Sequence[int]) -> Layout:
        return Layout(self.height, self.width, tuple(shape), tuple(None for _ in shape))


def other(along: Direction) -> Direction:
    return "y" if along == "x" else "x"


def coordinate(along: Direction) -> Affine:
    """A PE's position on a line of that direction."""
    return var("column" if along == "x" else "row")


def run(instruction: str, out: View, *inputs: View | float, form: str, where: Where = EVERYWHERE, **parameters: Parameter) -> Local:
    """A local step."""
    return Local(instruction, out, tuple(inputs), form, tuple(sorted(parameters.items())), where)


def buffer(name: str, dtype: str, *shape: int, copies: int = 1) -> Buffer:
    """A buffer without an address."""
    return Buffer(name, dtype, tuple(shape), 0, copies=copies)


def all_of(one: Buffer) -> View:
    """The whole of a buffer."""
    return whole(one.name, one.shape)


def first(one: Buffer, rows: Extent) -> View:
    """So many elements of a buffer's first axis, from the first on."""
    return whole(one.name, (rows, *one.shape[1:]), one.shape)


def repeated(view: View, axis: int, size: Extent) -> View:
    """The view with a further axis along which it repeats."""
    shape, strides = list(view.shape), list(view.strides)
    shape.insert(axis, size)
    strides.insert(axis, 0)
    return replace(view, shape=tuple(shape), strides=tuple(strides))


@dataclass(frozen=True)
class Reduction:
    """How a kernel reduces along a line: an algorithm and, for two-phase, its group size."""

    algorithm: Algorithm
    group: int = 0

    def pattern(self, size: int) -> Pattern:
        return Pattern("allreduce", self.algorithm, size, group=self.group)

    def step(
        self, along: Direction, source: View, target: View, combine: Combine, segment: int = 0, where: Where = EVERYWHERE
    ) -> Collective:
        """An allreduce."""
        colours = LINE_COLOURS[along]
        used = (*colours[: 2 if self.algorithm == "tree" else 4], colours[4])
        return Collective("allreduce", self.algorithm, along, source, target, used, combine, group=self.group, segment=segment, where=where)


CHAIN = Reduction("chain")


def reductions(size: int) -> Iterator[Reduction]:
    """Reductions worth pricing on a line: chain, tree, and two-phase around the square root of its length."""
    yield Reduction("chain")
    yield Reduction("tree")
    root = round(size**0.5)
    for group in sorted({max(2, root - 1), max(2, root), root + 1, 2 * root}):
        if 1 < group < size:
            yield Reduction("two-phase", group)


def best_reduction(size: int, words: int, machine: Machine) -> Reduction:
    """The cheapest allreduce for a payload; of equals the first of `reductions`."""
    return min(reductions(size), key=lambda one: one.pattern(size).cycles(words, machine))


def inside(layout: Layout, axis: int) -> tuple[Affine, ...]:
    """Conditions under which an element lies within the tensor along a cut axis; none where every tile is full."""
    cut = layout.cuts[axis]
    size = layout.shape[axis]
    if cut is None or layout.local_size(axis) * layout.lines(cut.along) == size:
        return ()
    line_step, local_step = layout.index_terms(axis)
    line = var("row" if cut.along == "rows" else "column")
    return (size - 1 - line * line_step - var(f"i{axis}") * local_step,)


def masked(out: View, x: View, filler: float, conditions: tuple[Affine, ...], form: str) -> Local:
    """``out = x`` where all conditions are at least 0, else ``filler``; a plain move where there is no condition."""
    if not conditions:
        return run("mov", out, x, form=form)
    return Local("keep", out, (x, filler), form, (("where", conditions),))
