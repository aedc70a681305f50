"""Tensors on their way into a file: known by name and shape, their content drawn block by block."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cgptc.ir.dtypes import DType
from cgptc.ir.op import Array


@dataclass(frozen=True)
class TensorSource:
    """A tensor to write. ``blocks`` gives its content in C order, flat, as arrays of ``dtype``, anew at every call."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Array]]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def byte_count(self) -> int:
        return self.dtype.bytes(self.size)

    def byte_blocks(self) -> Iterator[memoryview]:
        """The content as little-endian bytes."""
        for block in self.blocks():
            little = block if sys.byteorder == "little" else block.byteswap()
            yield np.ascontiguousarray(little).view(np.uint8).data
