"""The spatial program: what every PE holds, does and says. It needs nothing of the model's graph to run.

All values are frozen; `cgptc.backends.wafer.serial` writes and reads them. Steps of a region are run by all its PEs (SPMD); what differs
between PEs comes from their coordinates. The run-time scalars of an entry, the item counter ``item`` and loop counters may appear in
extents, offsets, counts, roots and masks; addresses, colours and routes are static.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from cgptc.backends.wafer.affine import Affine, Extent, value_of
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step

FORMAT_VERSION = 1
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
