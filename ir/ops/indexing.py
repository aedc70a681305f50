"""Reading and writing elements by index. Indices are in range; negative ones count from the end, as in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.op import Array, Axis, Op, Role
from cgptc.ir.ops.operands import (
    INTEGER,
    NUMBER,
    require_axis,
    require_choice,
    require_dtype,
    require_kind,
    require_rank,
    require_shape,
)
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.types import TensorType

REDUCTIONS = ("none", "add")


@dataclass(frozen=True)
class Gather(Op, name="gather"):
    """``numpy.take(x, indices, axis)``: the axis gives way to the shape of ``indices``."""

    axis: int

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require_axis(self.axis, x)
        require_kind("indices", indices, INTEGER)
        return x.with_shape((*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :]))

    def evaluate(self, x: Array, indices: Array) -> Array:
        return np.asarray(np.take(x, indices, axis=self.axis))

    def axis_roles(self, x: TensorType, indices: TensorType) -> tuple[Axis, ...]:
        after = indices.rank - 1
        kept = [Axis(Role.PARALLEL, (axis, None), (axis + after * (axis > self.axis),)) for axis in range(x.rank) if axis != self.axis]
        chosen = [Axis(Role.PARALLEL, (None, axis), (axis + self.axis,)) for axis in range(indices.rank)]
        return (*kept, *chosen)


@dataclass(frozen=True)
class GatherElements(Op, name="gather_elements"):
    """``y[.., i, ..] = x[.., indices[.., i, ..], ..]`` with the index along ``axis``; other axes are those of ``x``."""

    axis: int

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        _require_element_indices(self.axis, x, indices)
        return x.with_shape(indices.shape)

    def evaluate(self, x: Array, indices: Array) -> Array:
        return np.take_along_axis(x, indices.astype(np.int64, copy=False), axis=self.axis)

    def axis_roles(self, x: TensorType, indices: TensorType) -> tuple[Axis, ...]:
        chosen = Axis(Role.PARALLEL, (None, self.axis), (self.axis,))
        return tuple(chosen if axis == self.axis else Axis(Role.PARALLEL, (axis, axis), (axis,)) for axis in range(x.rank))


@dataclass(frozen=True)
class GatherNd(Op, name="gather_nd"):
    """Each row ``indices[..., :]`` is a path into ``x`` behind the ``batch_dims`` leading axes that both share (ONNX GatherND)."""

    batch_dims: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require_kind("indices", indices, INTEGER)
        batch = self.batch_dims
        require_rank("indices", indices, batch + 1, -1)
        require(0 <= batch <= x.rank, f"'batch_dims' must be within 0 and {x.rank} for {x}, got {batch}")
        depth = indices.shape[-1]
        fits = isinstance(depth, int) and 1 <= depth <= x.rank - batch
        require(fits, f"the last axis of 'indices' must be within 1 and {x.rank - batch} for {x}, got {indices}")
        require(indices.shape[:batch] == x.shape[:batch], f"'indices' must share {batch} leading axes with {x}, got {indices}")
        assert isinstance(depth, int)
        return x.with_shape((*indices.shape[:-1], *x.shape[batch + depth :]))

    def evaluate(self, x: Array, indices: Array) -> Array:
        batch = np.indices(indices.shape[:-1], sparse=True)[: self.batch_dims]
        return np.asarray(x[(*batch, *np.moveaxis(indices, -1, 0))])

    def axis_roles(self, x: TensorType, indices: TensorType) -> tuple[Axis, ...]:
        depth = indices.shape[-1]
        assert isinstance(depth, int)
        shared = [Axis(Role.PARALLEL, (axis, axis), (axis,)) for axis in range(self.batch_dims)]
        chosen = [Axis(Role.PARALLEL, (None, axis), (axis,)) for axis in range(self.batch_dims, indices.rank - 1)]
        first = self.batch_dims + depth
        kept = [Axis(Role.PARALLEL, (axis, None), (indices.rank - 1 + axis - first,)) for axis in range(first, x.rank)]
        return (*shared, *chosen, *kept)


@dataclass(frozen=True)
class ScatterElements(Op, name="scatter_elements"):
    """A copy of ``x`` in which ``y[.., indices[.., i, ..], ..]`` is ``updates[.., i, ..]``, or has it added.

    Where an index repeats, "none" keeps the last update in row-major order and "add" adds all.
    """

    axis: int
    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        require_choice("reduction", self.reduction, REDUCTIONS)
        _require_element_indices(self.axis, x, indices)
        require_dtype("updates", updates, x.dtype)
        require_shape("updates", updates, indices.shape)
        if self.reduction == "add":
            require_kind("x", x, NUMBER)
        return x

    def evaluate(self, x: Array, indices: Array, updates: Array) -> Array:
        places: list[Any] = list(np.indices(indices.shape, sparse=True))
        places[self.axis] = indices
        return _scatter(x, tuple(places), updates, self.reduction)

    def axis_roles(self, x: TensorType, indices: TensorType, updates: TensorType) -> tuple[Axis, ...]:
        return tuple(Axis(Role.PARALLEL, (axis,) * 3, (axis,)) for axis in range(x.rank) if axis != self.axis)


@dataclass(frozen=True)
class ScatterNd(Op, name="scatter_nd"):
    """A copy of ``x`` in which what each path ``indices[..., :]`` leads to is ``updates[...]``, or has it added (ONNX ScatterND).

    Where a path repeats, "none" keeps the last update in row-major order and "add" adds all.
    """

    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        require_choice("reduction", self.reduction, REDUCTIONS)
        require_kind("indices", indices, INTEGER)
        require_rank("indices", indices, 1, -1)
        depth = indices.shape[-1]
        fits = isinstance(depth, int) and 1 <= depth <= x.rank
        require(fits, f"the last axis of 'indices' must be within 1 and {x.rank} for {x}, got {indices}")
        assert isinstance(depth, int)
        require_dtype("updates", updates, x.dtype)
        require_shape("updates", updates, (*indices.shape[:-1], *x.shape[depth:]))
        if self.reduction == "add":
            require_kind("x", x, NUMBER)
        return x

    def evaluate(self, x: Array, indices: Array, updates: Array) -> Array:
        return _scatter(x, tuple(np.moveaxis(indices, -1, 0)), updates, self.reduction)

    def axis_roles(self, x: TensorType, indices: TensorType, updates: TensorType) -> tuple[Axis, ...]:
        depth = indices.shape[-1]
        assert isinstance(depth, int)
        behind = indices.rank - 1 - depth
        return tuple(Axis(Role.PARALLEL, (axis, None, axis + behind), (axis,)) for axis in range(depth, x.rank))


def _require_element_indices(axis: int, x: TensorType, indices: TensorType) -> None:
    require_axis(axis, x)
    require_kind("indices", indices, INTEGER)
    require_rank("indices", indices, x.rank)
    require_shape("indices", indices, (*x.shape[:axis], indices.shape[axis], *x.shape[axis + 1 :]))


@np.errstate(all="ignore")
def _scatter(x: Array, places: tuple[Any, ...], updates: Array, reduction: str) -> Array:
    if reduction == "none":
        result = x.copy()
        result[places] = updates
        return result
    total = widened(x).copy()
    np.add.at(total, places, widened(updates))
    return rounded(total, x)
