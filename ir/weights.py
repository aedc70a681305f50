"""Weights: references and lazy expressions over them.

A `Weight` knows its type and its content key without reading a byte. Bytes come from a `WeightStore`, by row blocks, when an artifact
is written. The set of expressions is closed; each is a frozen value, printable and hashable.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cgptc.ir.dtypes import DType, from_numpy
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType

BLOCK_BYTES = 16 << 20
"""Bytes that one row block of a streamed weight may take."""


class WeightStore(Protocol):
    """Where the bytes of stored weights are."""

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` along axis 0 of the tensor of that name, as a new C-ordered array.

        A tensor of rank 0 has one row, and reading it gives an array of rank 0. Raises KeyError for an unknown name.
        """
        ...


class _EmptyStore:
    def read(self, name: str, start: int, stop: int) -> Array:
        raise KeyError(name)


EMPTY_STORE: WeightStore = _EmptyStore()
"""A store without bytes: graphs that are planned, printed and transformed, never run."""


@dataclass(frozen=True)
class Weight(ABC):
    """Base of all weight expressions. ``shape`` is static."""

    @property
    @abstractmethod
    def type(self) -> TensorType:
        """Element type and shape."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Content key: a hash of the expression and its operands' keys, equal for equal content by construction."""

    @abstractmethod
    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` along axis 0 (all of a rank-0 weight), as numpy has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.static_shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def row_count(self) -> int:
        return self.shape[0] if self.shape else 1

    def read(self, store: WeightStore) -> Array:
        """The whole tensor."""
        return self.rows(store, 0, self.row_count)

    @property
    def block_bounds(self) -> Iterator[tuple[int, int]]:
        """First row and end of each block of at most `BLOCK_BYTES`, or of one row where that is larger."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.numpy.itemsize
        step = max(1, BLOCK_BYTES // max(1, row_bytes))
        for start in range(0, self.row_count, step):
            yield start, min(start + step, self.row_count)

    def blocks(self, store: WeightStore) -> Iterator[Array]:
        """The whole tensor, a few rows at a time."""
        for start, stop in self.block_bounds:
            yield self.rows(store, start, stop)


@dataclass(frozen=True)
class Stored(Weight):
    """A tensor of the graph's store. Tied weights share one name."""

    name: str
    stored_dtype: DType
    stored_shape: tuple[int, ...]

    @property
    def type(self) -> TensorType:
        return TensorType(self.stored_dtype, self.stored_shape)

    @property
    def key(self) -> str:
        return content_key("stored", self.name, str(self.type))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        return store.read(self.name, start, stop)


@dataclass(frozen=True)
class Dense(Weight):
    """A small array held in the expression itself: little-endian, C order, 4-bit elements a byte each."""

    dense_dtype: DType
    dense_shape: tuple[int, ...]
    data: bytes

    @property
    def type(self) -> TensorType:
        return TensorType(self.dense_dtype, self.dense_shape)

    @property
    def key(self) -> str:
        return content_key("dense", str(self.type), self.data.hex())

    @property
    def array(self) -> Array:
        """The content; not writable."""
        return np.frombuffer(self.data, self.dense_dtype.numpy).reshape(self.dense_shape)

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        return self.array[start:stop] if self.dense_shape else self.array


def dense(array: Array) -> Dense:
    """A `Dense` of an array's content."""
    array = np.asarray(array, order="C")
    return Dense(from_numpy(array.dtype), array.shape, array.tobytes())


def content_key(*parts: str) -> str:
    """A short hash of text parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode())
    return digest.hexdigest()[:32]


@dataclass
class MemoryStore:
    """A store of arrays in memory."""

    tensors: dict[str, Array]

    def read(self, name: str, start: int, stop: int) -> Array:
        tensor = self.tensors[name]
        return np.ascontiguousarray(tensor[start:stop]) if tensor.ndim else tensor.copy()

    def add(self, name: str, array: Array) -> Stored:
        """Keep an array and give its reference; ValueError where the name is taken."""
        if name in self.tensors:
            raise ValueError(f"the store already has '{name}'")
        self.tensors[name] = array
        return Stored(name, from_numpy(array.dtype), array.shape)
