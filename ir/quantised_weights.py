"""Weights in few bits: integers with one scale for each block of a row.

A row of ``base [n, k]`` is cut into blocks of ``block`` elements (0: the whole row; the last may be shorter). A block's integers are
``round(element / scale)``, ties to even, within ``[-2^(bits-1), 2^(bits-1) - 1]``; a block of zeros has scale 0 and integers 0. With ``m``
the element of largest magnitude, the first of equals, the scale is

* of 5 bits and more ``m / -2^(bits-1)``, which holds the extreme exactly;
* of fewer, where another step is often nearer to the rest of the block, one of `STEPS`: each ``m / -(2^(bits-1) + step)`` gives
  integers ``q``, and these their best scale, ``Σ q·element / Σ q²``; that of least squared error is taken, the first of equals.

All of this is computed in f32, in this order, whatever the type of ``base``: these are the numbers, not an approximation of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import f32, i4, i8
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Expression, is_scattered
from cgptc.ir.weights import BLOCK_BYTES, Weight, WeightStore

SEARCHED_BITS = 4
"""With so many bits or fewer a scale is searched."""

STEPS = (0.0, -1.0, -0.5, 0.5, 1.0)
"""Levels that a block's extreme lies beyond the last integer, or, below 0, before it."""

PIECE_BYTES = BLOCK_BYTES // 4
"""Bytes of the base that are worked on at a time, in f32."""


def block_count(width: int, block: int) -> int:
    """Blocks in a row of ``width`` elements, at least one."""
    return max(1, -(-width // block)) if block else 1


def in_blocks(rows: Array, block: int) -> Array:
    """``[.., k]`` as ``[.., blocks, block]``, the last block filled up with zeros."""
    width = rows.shape[-1]
    size = block or width
    missing = block_count(width, block) * size - width
    if missing:
        rows = np.concatenate([rows, np.zeros((*rows.shape[:-1], missing), rows.dtype)], axis=-1)
    return rows.reshape(*rows.shape[:-1], block_count(width, block), size)


@dataclass(frozen=True)
class _Blocked(Expression):
    """What both halves of a quantised weight share."""

    base: Weight
    bits: int
    block: int = 0

    stays_rounded = True

    def _check(self) -> None:
        require(
            self.base.dtype.is_float and len(self.base.shape) == 2, f"'{self.name}' takes a floating-point matrix, got {self.base.type}"
        )
        require(2 <= self.bits <= 8, f"'bits' of '{self.name}' must be between 2 and 8, got {self.bits}")
        require(self.block >= 0, f"'block' of '{self.name}' must not be negative, got {self.block}")

    def _pieces(self, store: WeightStore, start: int, stop: int) -> Iterator[tuple[int, int, Array]]:
        """The base's rows in f32 blocks, a few rows at a time, with their place in the result."""
        step = max(1, PIECE_BYTES // max(1, 4 * self.base.shape[1]))
        whole = self.base.rows(store, start, stop) if is_scattered(self.base) else None
        for low in range(start, stop, step):
            high = min(low + step, stop)
            rows = whole[low - start : high - start] if whole is not None else self.base.rows(store, low, high)
            yield low - start, high - start, in_blocks(rows.astype(np.float32), self.block)

    def _scales(self, blocks: Array) -> Array:
        """Of ``blocks [rows, blocks, size]``: f32 [rows, blocks]."""
        if not blocks.shape[-1]:
            return np.zeros(blocks.shape[:-1], np.float32)
        elements = np.ascontiguousarray(np.moveaxis(blocks, -1, 0))  # [size, ..]: sums are then taken element by element, in that order
        place = np.argmax(np.abs(elements), axis=0)[None]
        extreme = np.take_along_axis(elements, place, axis=0)[0]
        if self.bits <= SEARCHED_BITS:
            return self._searched(elements, extreme)
        return np.asarray(extreme / np.float32(-(2 ** (self.bits - 1))) + np.float32(0))  # + 0: no negative zero

    def _searched(self, elements: Array, extreme: Array) -> Array:
        limit = 2 ** (self.bits - 1)
        best, most = np.zeros_like(extreme), np.full_like(extreme, -1)
        with np.errstate(all="ignore"):
            for step in STEPS:
                levels = self._levels(elements, extreme / np.float32(-(limit + step)))
                met, square = (reduce(np.add, products) for products in (levels * elements, np.square(levels)))
                scale = np.where(square == 0, np.float32(0), met / square)
                saved = met * scale  # the squared error is Σ element² less this
                best, most = np.where(saved > most, scale, best), np.maximum(saved, most)
        return best + np.float32(0)

    def _levels(self, elements: Array, scales: Array) -> Array:
        """The integers, as f32, where ``scales`` broadcast to ``elements``."""
        limit = 2 ** (self.bits - 1)
        with np.errstate(all="ignore"):
            levels = np.where(scales == 0, np.float32(0), elements / scales)
        return np.clip(np.rint(levels), -limit, limit - 1)


@dataclass(frozen=True)
class Quantised(_Blocked, name="quantised"):
    """The integers: i4 for at most 4 bits, else i8. Peak: the result and a few rows of the base, all of them where they are scattered."""

    def infer(self) -> TensorType:
        self._check()
        return self.base.type.with_dtype(i4 if self.bits <= 4 else i8)

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        width = self.base.shape[1]
        result = np.empty((stop - start, width), self.dtype.numpy)
        for low, high, blocks in self._pieces(store, start, stop):
            levels = self._levels(blocks, self._scales(blocks)[..., None])
            result[low:high] = levels.reshape(high - low, -1)[:, :width].astype(np.int8)
        return result


@dataclass(frozen=True)
class QuantisationScales(_Blocked, name="quantisation_scales"):
    """The scales: f32 [n, blocks]. Peak as for the integers."""

    def infer(self) -> TensorType:
        self._check()
        rows, width = self.base.shape
        return TensorType(f32, (rows, block_count(width, self.block)))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        result = np.empty((stop - start, self.shape[1]), np.float32)
        for low, high, blocks in self._pieces(store, start, stop):
            result[low:high] = self._scales(blocks)
        return result
