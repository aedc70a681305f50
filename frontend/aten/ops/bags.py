"""`nn.EmbeddingBag`: rows of a table, summed bag by bag."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import And, Div, GreaterEqual, Less, Maximum, Mul, NotEqual
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import ReduceMax, ReduceSum
from cgptc.ir.ops.shape import Concat
from cgptc.ir.weights import Dense

SUM, MEAN, MAX = range(3)


@aten("embedding_bag", "embedding_bag.padding_idx", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    emit: Emit,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = SUM,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = -1,
) -> tuple[Value, None, None, None]:
    """``indices [n]`` cut into bags at ``offsets [bags]``. Equal bags (indices given as a matrix) reduce an axis; others are a product with
    the matrix of which row is in which bag."""
    rows = emit(Embedding(), weight, indices)
    count, width = rows.type.shape
    kept: Value | None = None
    if padding_idx is not None and padding_idx >= 0:
        kept = emit(NotEqual(), indices, emit.number(padding_idx, indices.type.dtype))
    if per_sample_weights is not None:
        rows = emit(Mul(), rows, emit.unsqueeze(per_sample_weights, 1))
    bags, length = offsets.type.shape[0], _equal_bags(offsets)
    if length is not None and not include_last_offset and count == bags * length:
        member = None if kept is None else emit.reshape(kept, (bags, length))
        return _equal(emit, emit.reshape(rows, (bags, length, width)), member, mode), None, None, None
    return _cut(emit, rows, emit.cast(offsets, i64), kept, mode, include_last_offset), None, None, None


def _equal(emit: Emit, grouped: Value, member: Value | None, mode: int) -> Value:
    """Rows [bags, length, width] to [bags, width]."""
    dtype = grouped.type.dtype
    if mode == MAX:
        if member is not None:
            raise UnsupportedError("takes the maximum of bags with a padding index")
        return emit(ReduceMax((1,)), grouped)
    if member is not None:
        grouped = emit(Mul(), grouped, emit.unsqueeze(emit.cast(member, dtype), 2))
    total = emit(ReduceSum((1,)), grouped)
    if mode == SUM:
        return total
    if member is None:
        return emit(Div(), total, emit.number(grouped.type.shape[1], dtype))
    return emit(Div(), total, emit.unsqueeze(_counts(emit, emit.cast(member, dtype)), 1))


def _cut(emit: Emit, rows: Value, offsets: Value, kept: Value | None, mode: int, include_last: bool) -> Value:
    """Rows [n, width] and offsets [bags] to [bags, width]: row i is in bag b iff ``start[b] <= i < end[b]``. An empty bag gives 0."""
    if mode == MAX:
        raise UnsupportedError("takes the maximum of bags of unequal length")
    count, marks = rows.type.shape[0], offsets.type.shape[0]
    if include_last:
        starts, ends = emit.slice(offsets, 0, 0, marks - 1), emit.slice(offsets, 0, 1, marks)
    else:
        last = emit.reshape(emit.number(count, i64), [1])
        starts, ends = offsets, emit(Concat(0), emit.slice(offsets, 0, 1, marks), last)
    place = emit(Iota(count))
    inside = emit(And(), emit(GreaterEqual(), place, emit.unsqueeze(starts, 1)), emit(Less(), place, emit.unsqueeze(ends, 1)))
    if kept is not None:
        inside = emit(And(), inside, emit.unsqueeze(kept, 0))
    member = emit.cast(inside, rows.type.dtype)
    total = emit(MatMul(), member, rows)
    return total if mode == SUM else emit(Div(), total, emit.unsqueeze(_counts(emit, member), 1))


def _counts(emit: Emit, member: Value) -> Value:
    """Members of each bag, at least 1."""
    return emit(Maximum(), emit(ReduceSum((1,)), member), emit.number(1.0, member.type.dtype))


def _equal_bags(offsets: Value) -> Dim | None:
    """The step of offsets that are an ``arange`` from 0; None where they are anything else."""
    if isinstance(offsets.op, Iota):
        return 1
    if not isinstance(offsets.op, Mul) or offsets.producer is None:
        return None
    iota, step = offsets.producer.inputs
    if not isinstance(iota.op, Iota):
        return None
    if isinstance(step.op, DimSize):
        return step.op.dim
    if isinstance(step.op, Constant) and isinstance(step.op.weight, Dense):
        return int(step.op.weight.array)
    return None
