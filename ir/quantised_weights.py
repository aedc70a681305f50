"""Weights in few bits: integers with one scale for each block of a row.

A row of ``base [n, k]`` is cut into blocks of ``block`` elements (0: the whole row; the last may be shorter). With ``m`` the element of
largest magnitude of a block, the first of equals, its scale is ``m / -2^(bits-1)`` and its integers are ``round(element / scale)``, ties to
even, within ``[-2^(bits-1), 2^(bits-1) - 1]``: the extreme is held exactly. A block of zeros has scale 0 and integers 0. All of this is
computed in f32, whatever the type of ``base``: these are the numbers, not an approximation of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import f32, i4, i8
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Expression, is_scattered
from cgptc.ir.weights import BLOCK_BYTES, Weight, WeightStore

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
        if not blocks.shape[-1]:
            return np.zeros(blocks.shape[:-1], np.float32)
        place = np.argmax(np.abs(blocks), axis=-1)[..., None]
        extreme = np.take_along_axis(blocks, place, axis=-1)[..., 0]
        return np.asarray(extreme / np.float32(-(2 ** (self.bits - 1))) + np.float32(0))  # + 0: no negative zero


@dataclass(frozen=True)
class Quantised(_Blocked, name="quantised"):
    """The integers: i4 for at most 4 bits, else i8. Peak: the result and a few rows of the base, all of them where they are scattered."""

    def infer(self) -> TensorType:
        self._check()
        return self.base.type.with_dtype(i4 if self.bits <= 4 else i8)

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        width, limit = self.base.shape[1], 2 ** (self.bits - 1)
        result = np.empty((stop - start, width), self.dtype.numpy)
        for low, high, blocks in self._pieces(store, start, stop):
            scales = self._scales(blocks)[..., None]
            with np.errstate(all="ignore"):
                levels = np.where(scales == 0, np.float32(0), blocks / scales)
            levels = np.clip(np.rint(levels), -limit, limit - 1)
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
