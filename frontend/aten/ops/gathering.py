"""Reading elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgptc.frontend.aten.emit import Emit, require_rows
from cgptc.frontend.aten.table import RefusedError, UnsupportedError, aten
from cgptc.ir.dims import Dim, maximum, minimum
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.broadcast import broadcast_shapes
from cgptc.ir.ops.constant import Constant, Iota
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather, GatherElements, GatherNd
from cgptc.ir.ops.shape import Concat, Reshape
from cgptc.ir.weights import Dense


@aten("embedding")
def embedding(emit: Emit, weight: Value, indices: Value, padding_idx: int = -1, scale_grad_by_freq: bool = False) -> Value:
    require_rows(indices, weight.type.shape[0])
    return emit(Embedding(), weight, indices)


@aten("embedding_renorm")
def embedding_renorm(emit: Emit, self: Value, indices: Value, max_norm: float, norm_type: float) -> Value:
    raise RefusedError("renormalises an embedding table as it reads (max_norm)")


@aten("index_select")
def index_select(emit: Emit, self: Value, dim: int, index: Value) -> Value:
    if not self.type.rank:
        return self
    flat = index if index.type.rank else emit.reshape(index, [1])
    require_rows(flat, self.type.shape[emit.axis(dim, self.type.rank)])
    return emit(Gather(emit.axis(dim, self.type.rank)), self, flat)


@aten("gather")
def gather(emit: Emit, self: Value, dim: int, index: Value) -> Value:
    """Axes of the index other than ``dim`` may be shorter than the operand's."""
    axis = emit.axis(dim, self.type.rank)
    value = self
    for other, size in enumerate(index.type.shape):
        if other != axis:
            value = emit.slice(value, other, 0, size)
    return emit(GatherElements(axis), value, index)


@aten("take_along_dim")
def take_along_dim(emit: Emit, self: Value, indices: Value, dim: int | None = None) -> Value:
    if dim is None:
        return gather(emit, emit.reshape(self, [self.type.size]), 0, emit.reshape(indices, [indices.type.size]))
    axis = emit.axis(dim, self.type.rank)
    rest = broadcast_shapes(
        tuple(1 if place == axis else size for place, size in enumerate(self.type.shape)),
        tuple(1 if place == axis else size for place, size in enumerate(indices.type.shape)),
    )
    value = emit.expand(self, [self.type.shape[axis] if place == axis else size for place, size in enumerate(rest)])
    index = emit.expand(indices, [indices.type.shape[axis] if place == axis else size for place, size in enumerate(rest)])
    return emit(GatherElements(axis), value, index)


def constant_mask(value: Value) -> Sequence[bool] | None:
    """The content of a bool constant of rank 1 held in the graph; None for anything else."""
    op = value.op
    if isinstance(op, Constant) and isinstance(op.weight, Dense) and op.weight.type.rank == 1:
        return [bool(item) for item in op.weight.array]
    return None


def index_positions(emit: Emit, indices: Sequence[Value | None]) -> list[Value | None]:
    """Index tensors as integers: a constant bool mask of one axis becomes the places where it holds."""
    result: list[Value | None] = []
    for index in indices:
        if index is None or index.type.dtype != boolean:
            result.append(index)
            continue
        mask = constant_mask(index)
        if mask is None:
            raise UnsupportedError("indexes by a mask, whose result has a size that depends on data")
        result.append(emit.array(np.flatnonzero(np.asarray(mask)).astype(np.int64)))
    return result


def _span(index: Value, size: Dim, rank: int) -> int | None:
    """Where, among ``rank`` broadcast axes, an index counts from 0 to the whole of an axis; None where it does anything else."""
    lying, source = index.type.shape, index
    while isinstance(source.op, Reshape) and source.producer is not None:
        (source,) = source.producer.inputs
    if source.op != Iota(size) or sum(dim != 1 for dim in lying) > 1 or size not in lying:
        return None
    return rank - len(lying) + next((place for place, dim in enumerate(lying) if dim != 1), lying.index(size))


@aten("index.Tensor", "_unsafe_index.Tensor")
def index_(emit: Emit, self: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing. Indices broadcast together; their axes stand where the indexed ones stood if these are neighbours,
    else in front."""
    shape = self.type.shape
    places = index_positions(emit, indices)
    axes = [axis for axis, index in enumerate(places) if index is not None]
    if not axes:
        return self
    present = [index for index in places if index is not None]
    common: tuple[Dim, ...] = ()
    for index in present:
        common = broadcast_shapes(common, index.type.shape)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    spans = [_span(index, shape[axis], len(common)) for index, axis in zip(present, axes, strict=True)]
    chosen = [span for span in spans if span is not None]
    if len(set(chosen)) == len(axes) and all(size == 1 for place, size in enumerate(common) if place not in chosen):
        # Every element is taken, in order: the indices only say where each axis goes.
        order = sorted(range(len(axes)), key=chosen.__getitem__)
        turned = emit.transpose(self, [*(axes[k] for k in order), *rest])
        result = emit.reshape(turned, (*common, *(shape[axis] for axis in rest)))
    elif len(axes) == 1:
        require_rows(present[0], self.type.shape[axes[0]])
        return emit(Gather(axes[0]), self, present[0])
    else:
        front = emit.transpose(self, [*axes, *rest])
        columns = [emit.unsqueeze(emit.expand(emit.cast(index, i64), common), len(common)) for index in present]
        result = emit(GatherNd(0), front, emit(Concat(len(common)), *columns))
    if axes != list(range(axes[0], axes[0] + len(axes))):
        return result
    # The broadcast axes are in front; move them to where the indexed axes stood.
    lead = axes[0]
    order = [len(common) + k for k in range(lead)] + list(range(len(common))) + [len(common) + k for k in range(lead, len(rest))]
    return emit.transpose(result, order)


@aten("diagonal")
def diagonal(emit: Emit, self: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The diagonal of two axes as a new last axis."""
    rank = self.type.rank
    first, second = emit.axis(dim1, rank), emit.axis(dim2, rank)
    rows, columns = self.type.shape[first], self.type.shape[second]
    length = maximum(0, minimum(rows + min(offset, 0), columns - max(offset, 0)))
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    front = emit.transpose(self, [first, second, *rest])
    place = emit(Iota(length))
    row = place if offset >= 0 else emit(Add(), place, emit.number(-offset, i64))
    column = place if offset <= 0 else emit(Add(), place, emit.number(offset, i64))
    paths = emit(Concat(1), emit.unsqueeze(row, 1), emit.unsqueeze(column, 1))
    return emit.transpose(emit(GatherNd(), front, paths), [*range(1, rank - 1), 0])
