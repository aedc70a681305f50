"""Weights with zeros on purpose, and the masks that say where.

A mask is a weight of its own, of booleans: true keeps an element. Magnitudes are compared in the base's own type; of equals, those that
come first in row-major order go first, so that a mask is one answer and not one of several.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import boolean
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Expression
from cgptc.ir.weights import Weight, WeightStore


@dataclass(frozen=True)
class Masked(Expression, name="masked"):
    """``base`` where ``mask`` is true, else 0: NaN that is masked is 0 too. ``mask`` has the base's shape, or is a vector along ``axis``.

    ``pattern`` says what a full mask looks like: "unstructured", "2:4@0" (two of four neighbours along axis 0), "block:16x16".
    Peak: the result, the mask's rows and the base's.
    """

    base: Weight
    mask: Weight
    axis: int | None = None
    pattern: str = "unstructured"

    def infer(self) -> TensorType:
        shape = self.base.shape
        require(self.axis is None or 0 <= self.axis < len(shape), f"'axis' of 'masked' is {self.axis}, the base is {self.base.type}")
        expected = TensorType(boolean, shape if self.axis is None else (shape[self.axis],))
        require(self.mask.type == expected, f"'mask' must be {expected}, got {self.mask.type}")
        return self.base.type

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        base = self.base.rows(store, start, stop)
        mask = self.mask.rows(store, start, stop) if not self.axis else self.mask.read(store)
        if self.axis is not None:
            mask = mask.reshape((-1, *(1,) * (base.ndim - self.axis - 1)))
        return np.where(mask, base, np.zeros((), base.dtype))


@dataclass(frozen=True)
class _Mask(Expression):
    """A mask that is computed from a weight, as stored."""

    base: Weight

    stays_rounded = True

    def infer(self) -> TensorType:
        return self.base.type.with_dtype(boolean)


@dataclass(frozen=True)
class NonZero(_Mask, name="non_zero"):
    """True where ``base`` is a number other than 0."""

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        rows = self.base.rows(store, start, stop)
        return np.asarray((rows != 0) & (rows == rows))


@dataclass(frozen=True)
class Largest(_Mask, name="largest"):
    """All but ``floor(fraction * size)`` elements of smallest magnitude. Any rows read the whole base; peak: twice the base."""

    fraction: float

    def infer(self) -> TensorType:
        _require_fraction(self.name, self.fraction)
        return super().infer()

    @cached_property
    def scattered(self) -> bool:
        return True

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        magnitudes = np.abs(self.base.read(store)).reshape(-1)
        keep = _without_smallest(magnitudes, int(self.fraction * magnitudes.size)).reshape(self.shape)
        return keep[start:stop] if self.shape else keep


@dataclass(frozen=True)
class LargestOfGroup(_Mask, name="largest_of_group"):
    """The ``n`` largest of each ``m`` neighbours along ``axis`` of a matrix; a shorter group at the end keeps at most ``n`` too. Peak:
    twice the base where the axis is 0, else a few rows.
    """

    n: int
    m: int
    axis: int = 0

    def infer(self) -> TensorType:
        require(1 <= self.n <= self.m, f"'n' of '{self.name}' must be between 1 and {self.m}, got {self.n}")
        require(len(self.base.shape) == 2 and self.axis in (0, 1), f"'{self.name}' takes a matrix and axis 0 or 1, got {self.base.type}")
        return super().infer()

    @cached_property
    def scattered(self) -> bool:
        return True

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        whole = np.abs(self.base.read(store) if self.axis == 0 else self.base.rows(store, start, stop))
        lines = whole.T if self.axis == 0 else whole
        missing = -lines.shape[1] % self.m
        filled = np.concatenate([lines.astype(np.float64), np.full((len(lines), missing), -1.0)], axis=1)
        groups = filled.reshape(len(lines), filled.shape[1] // self.m, self.m)
        order = np.argsort(groups, axis=-1, kind="stable")
        keep = np.ones(groups.shape, np.bool_)
        np.put_along_axis(keep, order[..., : self.m - self.n], False, axis=-1)
        keep = keep.reshape(filled.shape)[:, : lines.shape[1]]
        return np.ascontiguousarray(keep.T[start:stop]) if self.axis == 0 else keep


@dataclass(frozen=True)
class LargestBlocks(_Mask, name="largest_blocks"):
    """All but ``floor(fraction * blocks)`` blocks of ``height`` by ``width``, those with the smallest sum of squares; blocks at the edges
    may be smaller. Any rows read the whole base; peak: three times the base.
    """

    height: int
    width: int
    fraction: float

    def infer(self) -> TensorType:
        _require_fraction(self.name, self.fraction)
        require(self.height >= 1 and self.width >= 1, f"blocks of '{self.name}' must be at least 1x1, got {self.height}x{self.width}")
        require(len(self.base.shape) == 2, f"'{self.name}' takes a matrix, got {self.base.type}")
        return super().infer()

    @cached_property
    def scattered(self) -> bool:
        return True

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        squares = np.square(self.base.read(store).astype(np.float64))
        starts = [np.arange(0, size, step) for size, step in zip(squares.shape, (self.height, self.width), strict=True)]
        if not squares.size:
            return np.ones((stop - start, squares.shape[1]), np.bool_)
        sums = np.add.reduceat(np.add.reduceat(squares, starts[0], axis=0), starts[1], axis=1)
        keep = _without_smallest(sums.reshape(-1), int(self.fraction * sums.size)).reshape(sums.shape)
        whole = np.repeat(np.repeat(keep, self.height, axis=0), self.width, axis=1)
        return np.ascontiguousarray(whole[start:stop, : squares.shape[1]])


def _require_fraction(name: str, fraction: float) -> None:
    require(0 <= fraction <= 1, f"'fraction' of '{name}' must be between 0 and 1, got {fraction}")


def _without_smallest(values: Array, count: int) -> Array:
    """True for all of a vector but its ``count`` smallest; of equals the first go."""
    keep = np.ones(values.size, np.bool_)
    if count:
        limit = np.partition(values, count - 1)[count - 1]
        keep[values < limit] = False
        equal = np.flatnonzero(values == limit)
        keep[equal[: count - int(values.size - np.count_nonzero(keep))]] = False
    return keep
