"""A loaded program's PEs, each with memory of its own, and where tensors lie in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ExecutionError
from cgptc.backends.wafer.inflow import given_parcels, given_tensor
from cgptc.backends.wafer.interpret.memory import Memory
from cgptc.backends.wafer.program import Binding, Program, Region
from cgptc.backends.wafer.resolve import Block, Placed

Array = NDArray[Any]


@dataclass(frozen=True)
class Element:
    """A PE: its region, its coordinates in it and on the fabric, its memory."""

    region: Region
    row: int
    column: int
    memory: Memory

    @property
    def x(self) -> int:
        return self.region.rectangle.x + self.column

    @property
    def y(self) -> int:
        return self.region.rectangle.y + self.row

    def block(self, found: Iterable[Block]) -> Block | None:
        """The block of a step that this PE belongs to."""
        return next((block for block in found if self.row in block.rows and self.column in block.columns), None)


class Mesh:
    """All PEs of a program's regions, states zero; ``parcels`` are the tiles of what comes from off the wafer, once `load` was called."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.elements: dict[tuple[int, int], Element] = {}
        self.parcels: dict[str, Array] = {}
        for region in program.regions:
            box = region.rectangle
            for row in range(box.height):
                for column in range(box.width):
                    at = (box.x + column, box.y + row)
                    if at in self.elements:
                        raise ExecutionError("overlap", f"two regions hold PE {at}")
                    self.elements[at] = Element(region, row, column, Memory(program.machine, f"PE {at}"))
        for binding in program.bindings:
            if binding.role == "state":
                region = program.region(binding.region)
                buffer = region.buffer(binding.buffer)
                for one in self.of(region):
                    one.memory.write(Placed(buffer, (buffer.size,), (1,), 0), np.zeros(buffer.size, format_of(buffer.dtype).storage))

    def load(self, weights: Mapping[str, Array]) -> None:
        """Scatter logical weights. Raises ProgramError for a missing one."""
        for binding in self.program.bindings:
            if binding.role == "weight":
                self.write(binding, given_tensor(weights, binding.tensor))
        for parcel, form, tensor, _ in given_parcels(self.program, weights):
            self.parcels[parcel.tensor] = form.stored(parcel.layout.scatter(tensor))

    def of(self, region: Region) -> Iterator[Element]:
        """A region's PEs, row by row."""
        return (element for element in self.elements.values() if element.region is region)

    def bound(self, binding: Binding) -> Placed:
        """Where in each PE's memory a binding's tile lies."""
        buffer = self.program.region(binding.region).buffer(binding.buffer)
        return Placed(buffer, (math.prod(binding.layout.local_shape),), (1,), 0)

    def tiles(self, binding: Binding, tensor: Array) -> Array:
        """A logical tensor as each PE stores its part, ``[rows, columns, *local]``."""
        form = format_of(self.bound(binding).buffer.dtype)
        return form.stored(binding.layout.scatter(form.round(np.asarray(tensor).astype(form.carrier, copy=False))))

    def put(self, binding: Binding, one: Element, tiles: Array) -> None:
        """Write one PE's part."""
        one.memory.write(self.bound(binding), tiles[one.row, one.column].reshape(-1))

    def write(self, binding: Binding, tensor: Array) -> None:
        """Write a logical tensor to all PEs that hold a part of it."""
        tiles = self.tiles(binding, tensor)
        for one in self.of(self.program.region(binding.region)):
            self.put(binding, one, tiles)

    def read(self, binding: Binding) -> Array:
        """A binding's logical tensor as it stands."""
        region, placed, layout = self.program.region(binding.region), self.bound(binding), binding.layout
        tiles = np.empty((region.rectangle.height, region.rectangle.width, *layout.local_shape), format_of(placed.buffer.dtype).storage)
        for one in self.of(region):
            tiles[one.row, one.column] = one.memory.read(placed).reshape(layout.local_shape)
        return layout.gather(tiles)
