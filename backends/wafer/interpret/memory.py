"""The memory of one PE in the engine that defines what a program means: bytes, and which of them were written."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import Format, format_of
from cgptc.backends.wafer.faults import ExecutionError
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.resolve import Placed

Array = NDArray[Any]


class Memory:
    """The SRAM of one PE above its reserve: bytes, and which of them were written."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self._bytes = np.full(machine.usable_bytes, 0xFF, np.uint8)
        self._written = np.zeros(machine.usable_bytes, np.bool_)

    def read(self, placed: Placed) -> Array:
        """The view's elements as stored. Raises ExecutionError for a byte that was never written."""
        form, start, stop, indices = self._area(placed)
        if not self._written[start:stop].reshape(-1, form.bytes)[indices].all():
            raise ExecutionError("poison", f"{self.name} reads '{placed.buffer.name}' before it is written")
        return np.asarray(self._bytes[start:stop].view(form.storage)[indices])

    def write(self, placed: Placed, stored: Array) -> None:
        form, start, stop, indices = self._area(placed)
        self._bytes[start:stop].view(form.storage)[indices] = stored
        self._written[start:stop].reshape(-1, form.bytes)[indices] = True

    def _area(self, placed: Placed) -> tuple[Format, int, int, Array]:
        buffer = placed.buffer
        form = format_of(buffer.dtype)
        start, stop = buffer.address, buffer.address + buffer.bytes
        if start < 0 or stop > len(self._bytes) or start % form.bytes:
            raise ExecutionError("memory", f"{self.name} has no {form.bytes}-byte elements at bytes {start} to {stop}")
        return form, start, stop, _indices(placed.shape, placed.strides, placed.offset)


@lru_cache(maxsize=4096)
def _indices(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    total: Array = np.full(shape, offset)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        total = total + (np.arange(size) * stride).reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return total
