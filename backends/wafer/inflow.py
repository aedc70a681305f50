"""Tensors that come from off the wafer, parcel by parcel: what each costs at the host's link, on the lines of the edge, and over links.

The host feeds every line of an edge at once and as fast as its link to the wafer allows. On a line the words for its PEs follow each other,
nearest PE first; behind each PE's words a control wavelet tells its router to pass on what comes. What all PEs of a line take comes once
and is copied on the way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import Format, format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Inflow, Nonzeros, Parcel, Program, Rectangle

Integers = NDArray[np.int64]

CONFIGURATIONS = 3
"""Of a router: keep, pass on, and keep and pass on at once."""


def edge_of(layout: Layout) -> Literal["north", "west"]:
    """The edge over whose lines a tensor comes: the west where only its rows differ."""
    return "west" if layout.cut_axis("rows") is not None and layout.cut_axis("columns") is None else "north"


PLACES = 1 << 16
"""Elements of a tile that a sparse wavelet can name."""


@dataclass(frozen=True)
class ParcelCost:
    """One parcel: cycles for which it holds up the next, cycles until its last word is there, bytes that the host sends, controls."""

    occupied: int
    latency: int
    host_bytes: int
    controls: int


def _elements(layout: Layout) -> tuple[Integers, Integers]:
    """``(of each row of PEs, of each column)``: a tile's elements are their product."""
    rows, columns = np.ones(layout.height, np.int64), np.ones(layout.width, np.int64)
    for axis, cut in enumerate(layout.cuts):
        if cut is None:
            rows *= layout.shape[axis]
        elif cut.along == "rows":
            rows *= [layout.extent(axis, line) for line in range(layout.height)]
        else:
            columns *= [layout.extent(axis, line) for line in range(layout.width)]
    return rows, columns


def _words(elements: Integers, dtype: str) -> Integers:
    return (elements * format_of(dtype).bytes + 3) // 4


@lru_cache(maxsize=4096)
def tile_words(layout: Layout, dtype: str) -> Integers:
    """Words for each PE ``[height, width]``; replicas included."""
    rows, columns = _elements(layout)
    return _words(np.multiply.outer(rows, columns), dtype)


def line_words(layout: Layout, dtype: str) -> tuple[Integers, int]:
    """Words on each line of the edge, and control wavelets on the one that has most."""
    rows, columns = _elements(layout)
    if edge_of(layout) == "west":
        return _words(rows * columns[0], dtype), 0
    if layout.cut_axis("rows") is None:
        return _words(rows[0] * columns, dtype), 0
    # Rows of PEs are of few kinds, mostly two, so that the tiles of a wafer need not be looked at one by one.
    kinds, counts = np.unique(rows, return_counts=True)
    words = _words(np.multiply.outer(kinds, columns), dtype)
    return counts @ words, int((counts @ (words > 0)).max()) - 1


@lru_cache(maxsize=4096)
def parcel_cost(parcel: Parcel, dtype: str, box: Rectangle, machine: Machine) -> ParcelCost:
    """What a parcel for a region at ``box`` costs."""
    if parcel.nonzeros is None:
        words, controls = line_words(parcel.layout, dtype)
        fullest, total = int(words.max(initial=0)), int(words.sum())
    else:
        fullest, total, controls = parcel.nonzeros.line, parcel.nonzeros.total, parcel.layout.height - 1
    at_host = math.ceil(4 * total * machine.clock_hz / machine.host_bytes_per_second)
    on_line = math.ceil((fullest + controls) / machine.link_words)
    way = box.x + box.width if edge_of(parcel.layout) == "west" else box.y + box.height
    return ParcelCost(max(at_host, on_line), machine.hop_cycles * way + machine.message_cycles, 4 * total, controls)


def nonzeros(layout: Layout, tensor: NDArray[Any]) -> tuple[Nonzeros, Integers]:
    """The non-zeros of a matrix, counted, and those of each PE ``[height, width]``. Cuts must be blocked."""
    found = (tensor != 0).astype(np.int64)
    words = np.zeros((layout.height, layout.width), np.int64)
    rows = cols = slice(0, 1)
    for axis, cut in enumerate(layout.cuts):
        assert cut is not None
        found = np.add.reduceat(found, np.arange(0, tensor.shape[axis], cut.block), axis)
        held = slice(0, found.shape[axis])
        rows, cols = (held, cols) if cut.along == "rows" else (rows, held)
    words[rows, cols] = found if layout.cuts[0] is not None and layout.cuts[0].along == "rows" else found.T
    return Nonzeros(int(words.max(initial=0)), int(words.sum(axis=0).max(initial=0)), int(words.sum())), words


def link_words(layout: Layout, words: Integers, box: Rectangle) -> tuple[str, Integers]:
    """``(direction, words [rows, columns])`` over the links that leave PEs from the edge on, in fabric coordinates.

    ``words`` are those for each PE, as of `tile_words` or `nonzeros`.
    """
    if edge_of(layout) == "west":
        found = np.zeros((box.y + box.height, box.x + box.width), np.int64)
        found[box.y :, : box.x + box.width - 1] = words[:, :1]
        return "east", found
    found = np.zeros((box.y + box.height, box.x + box.width), np.int64)
    if layout.cut_axis("rows") is None:
        found[: box.y + box.height - 1, box.x :] = words[:1]
        return "south", found
    # Over the link below a row goes what all rows further south take.
    beyond = words[::-1].cumsum(axis=0)[::-1]
    found[: box.y, box.x :] = beyond[:1]
    found[box.y : box.y + box.height - 1, box.x :] = beyond[1:]
    return "south", found


@dataclass
class Intake:
    """The clock of an inflow: when the host's link is free, and when each slot of the queue is."""

    inflow: Inflow
    box: Rectangle
    machine: Machine
    link: int = 0
    slots: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.slots.extend([0] * self.inflow.depth)

    def arrival(self, tensor: str) -> int:
        """When the next parcel is there. The host sends it as soon as its link and a slot are free."""
        cost = parcel_cost(self.inflow.parcel(tensor), self.inflow.dtype, self.box, self.machine)
        self.link = max(self.link, self.slots.popleft()) + cost.occupied
        return self.link + cost.latency

    def absorbed(self, tensor: str, now: int, work: int) -> int:
        """When the last wavelet of the next parcel has been absorbed, of which the PEs have ``work``: none waits anywhere."""
        cost = parcel_cost(self.inflow.parcel(tensor), self.inflow.dtype, self.box, self.machine)
        self.link = max(self.link, now) + max(cost.occupied, work)
        return self.link + cost.latency

    def taken(self, now: int) -> None:
        """Note that a slot is free again."""
        self.slots.append(now)


def intake_of(program: Program) -> Intake | None:
    """The clock of a program's inflow; None where it has none."""
    if program.inflow is None:
        return None
    return Intake(program.inflow, program.region(program.inflow.region).rectangle, program.machine)


def checked_words(parcel: Parcel, dtype: str, tensor: NDArray[Any]) -> Integers:
    """Words for each PE of a tensor that is to be sent. Raises ProgramError where its non-zeros are not those that the program says."""
    if parcel.nonzeros is None:
        return tile_words(parcel.layout, dtype)
    found, words = nonzeros(parcel.layout, tensor)
    if found != parcel.nonzeros:
        raise ProgramError("inflow-nonzeros", f"'{parcel.tensor}' has {found}, the program was made for {parcel.nonzeros}")
    return words


def given_tensor(weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """A weight that a program needs. Raises ProgramError where it is missing."""
    if name not in weights:
        raise ProgramError("weight-missing", f"the program needs weight '{name}'")
    return weights[name]


def given_parcels(program: Program, weights: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Parcel, Format, NDArray[Any], Integers]]:
    """Every parcel with the format it is sent in, its tensor rounded to that, and the words for each PE. Raises ProgramError for a missing
    weight, or one whose non-zeros are not those that the program says.
    """
    inflow = program.inflow
    if inflow is None:
        return
    form = format_of(inflow.dtype)
    for parcel in inflow.parcels:
        tensor = form.round(np.asarray(given_tensor(weights, parcel.tensor)).astype(form.carrier, copy=False))
        yield parcel, form, tensor, checked_words(parcel, inflow.dtype, tensor)
