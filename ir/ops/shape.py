"""Moving elements without changing them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from cgptc.ir.diagnostics import OpTypeError, require
from cgptc.ir.dims import Dim, Shape, bounds, floordiv, product
from cgptc.ir.op import Array, Axis, Op, Role
from cgptc.ir.ops.broadcast import lined_up
from cgptc.ir.ops.operands import require_axes, require_axis, require_dtype, show
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Reshape(Op, name="reshape"):
    """The same elements in row-major order under another shape of as many elements (equal as expressions)."""

    shape: tuple[Dim, ...]

    def infer(self, x: TensorType) -> TensorType:
        size = product(self.shape)
        require(size == x.size, f"'shape' {show(self.shape)} must have the {x.size} elements of {x}, got {size}")
        return x.with_shape(self.shape)

    def evaluate(self, x: Array) -> Array:
        return x.reshape(_sizes(self.shape))

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return tuple(Axis(Role.PARALLEL, (old,), (new,)) for old, new in kept_axes(x.shape, self.shape))


@dataclass(frozen=True)
class Transpose(Op, name="transpose"):
    """Axis ``i`` of the result is axis ``permutation[i]`` of ``x``."""

    permutation: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        fits = sorted(self.permutation) == list(range(x.rank))
        require(fits, f"'permutation' must order the {x.rank} axes of {x}, got {self.permutation}")
        return x.with_shape(tuple(x.shape[axis] for axis in self.permutation))

    def evaluate(self, x: Array) -> Array:
        return np.transpose(x, self.permutation)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return tuple(Axis(Role.PARALLEL, (old,), (new,)) for new, old in enumerate(self.permutation))


@dataclass(frozen=True)
class Expand(Op, name="expand"):
    """``x`` broadcast to ``shape``: axes in front are added, axes of size 1 are stretched."""

    shape: tuple[Dim, ...]

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank <= len(self.shape), f"'shape' {show(self.shape)} must have at least the rank of {x}")
        for old, new in zip(x.shape, self.shape[len(self.shape) - x.rank :], strict=True):
            require(old in (1, new), f"{x} must broadcast to {show(self.shape)}, but {old} is neither 1 nor {new}")
        return x.with_shape(self.shape)

    def evaluate(self, x: Array) -> Array:
        return np.broadcast_to(x, _sizes(self.shape))

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return tuple(Axis(Role.PARALLEL, (lined_up(axis, x, self.shape),), (axis,)) for axis in range(len(self.shape)))


@dataclass(frozen=True)
class Concat(Op, name="concat"):
    """All operands one after the other along ``axis``."""

    axis: int

    def infer(self, *xs: TensorType) -> TensorType:
        if not xs:
            raise OpTypeError("'xs' must be at least one tensor, got none")
        first = xs[0]
        require_axis(self.axis, first)
        total: Dim = 0
        for index, x in enumerate(xs):
            require_dtype(f"xs[{index}]", x, first.dtype)
            fits = x.rank == first.rank and all(axis == self.axis or x.shape[axis] == first.shape[axis] for axis in range(first.rank))
            require(fits, f"'xs[{index}]' must equal 'xs[0]' {first} but along axis {self.axis}, got {x}")
            total = total + x.shape[self.axis]
        return first.with_shape((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]))

    def evaluate(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def axis_roles(self, *xs: TensorType) -> tuple[Axis, ...]:
        return tuple(Axis(Role.PARALLEL, (axis,) * len(xs), (axis,)) for axis in range(xs[0].rank) if axis != self.axis)


@dataclass(frozen=True)
class Slice(Op, name="slice"):
    """Every ``step``-th element from ``start`` (with) to ``stop`` (without) along ``axis``: 0 <= start <= stop <= size, step >= 1."""

    axis: int
    start: Dim
    stop: Dim
    step: int = 1

    def infer(self, x: TensorType) -> TensorType:
        require_axis(self.axis, x)
        require(self.step >= 1, f"'step' must be at least 1, got {self.step}")
        dim = x.shape[self.axis]
        for what, low, high in (
            ("'start' must not be negative", 0, self.start),
            ("'stop' must not be below 'start'", self.start, self.stop),
            (f"'stop' must not exceed axis {self.axis} of {x}", self.stop, dim),
        ):
            # Only what no size of the symbols can make right is refused here; `evaluate` sees the sizes.
            require(bounds(high - low)[1] >= 0, f"{what}, got {self.start} to {self.stop}")
        length = floordiv(self.stop - self.start + (self.step - 1), self.step)
        return x.with_shape((*x.shape[: self.axis], length, *x.shape[self.axis + 1 :]))

    def evaluate(self, x: Array) -> Array:
        start, stop = _sizes((self.start, self.stop))
        if not 0 <= start <= stop <= x.shape[self.axis]:
            raise ValueError(f"slice {start} to {stop} is not within axis {self.axis} of {x.shape}")
        return x[(slice(None),) * self.axis + (slice(start, stop, self.step),)]

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        # An axis that keeps its size is taken whole.
        return _unchanged_axes(x.shape, self.infer(x).shape, set())


@dataclass(frozen=True)
class Pad(Op, name="pad"):
    """``low`` and ``high`` elements of ``value`` before and after each axis."""

    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    value: float = 0.0

    def infer(self, x: TensorType) -> TensorType:
        for attribute, counts in (("low", self.low), ("high", self.high)):
            fits = len(counts) == x.rank and all(bounds(count)[1] >= 0 for count in counts)
            require(fits, f"'{attribute}' must be {x.rank} counts, none negative, for {x}, got {show(counts)}")
        return x.with_shape(tuple(low + dim + high for low, dim, high in zip(self.low, x.shape, self.high, strict=True)))

    def evaluate(self, x: Array) -> Array:
        widths = list(zip(_sizes(self.low), _sizes(self.high), strict=True))
        return np.pad(x, widths, constant_values=np.asarray(self.value).astype(x.dtype)) if widths else x

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        changed = {axis for axis in range(x.rank) if self.low[axis] != 0 or self.high[axis] != 0}
        return _unchanged_axes(x.shape, self.infer(x).shape, changed)


@dataclass(frozen=True)
class Flip(Op, name="flip"):
    """The elements along ``axes`` in reverse order."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        require_axes(self.axes, x)
        return x

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.flip(x, self.axes))

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return _unchanged_axes(x.shape, x.shape, set(self.axes))


@dataclass(frozen=True)
class Split(Op, name="split"):
    """Consecutive parts of ``sizes`` along ``axis``, one result each; the sizes add up to the axis."""

    axis: int
    sizes: tuple[Dim, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require_axis(self.axis, x)
        total: Dim = 0
        for size in self.sizes:
            require(bounds(size)[1] >= 0, f"'sizes' must not be negative, got {show(self.sizes)}")
            total = total + size
        dim = x.shape[self.axis]
        require(bool(self.sizes) and total == dim, f"'sizes' must add up to axis {self.axis} of {x}, got {show(self.sizes)}")
        return tuple(x.with_shape((*x.shape[: self.axis], size, *x.shape[self.axis + 1 :])) for size in self.sizes)

    def evaluate(self, x: Array) -> tuple[Array, ...]:
        ends = list(accumulate(_sizes(self.sizes)))
        return tuple(np.split(x, ends[:-1], axis=self.axis))

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        count = len(self.sizes)
        return tuple(Axis(Role.PARALLEL, (axis,), (axis,) * count) for axis in range(x.rank) if axis != self.axis)


def kept_axes(old: Shape, new: Shape) -> list[tuple[int, int]]:
    """The axes that a reshape leaves whole, as pairs (old, new): what stands before and after them has equal counts.

    >>> kept_axes((2, 3, 8), (2, 3, 4, 2))
    [(0, 0), (1, 1)]
    """
    places: dict[Dim, list[int]] = {}
    before: Dim = 1
    for position, dim in enumerate(new):
        places.setdefault(before, []).append(position)
        before = before * dim
    kept = []
    before, taken = 1, -1
    for axis, dim in enumerate(old):
        for position in places.get(before, ()):
            if position > taken and new[position] == dim:
                kept.append((axis, position))
                taken = position
                break
        before = before * dim
    return kept


def _unchanged_axes(old: Shape, new: Shape, changed: set[int]) -> tuple[Axis, ...]:
    return tuple(Axis(Role.PARALLEL, (axis,), (axis,)) for axis in range(len(old)) if axis not in changed and old[axis] == new[axis])


def _sizes(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    assert len(sizes) == len(dims), f"{show(dims)} is not bound"
    return sizes
