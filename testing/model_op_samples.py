"""How indexing, contractions, norms, attention, losses and sources are drawn."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.dims import Dim, Shape, bounds
from cgptc.ir.dtypes import boolean, f32, i8, i64
from cgptc.ir.graph import Value
from cgptc.ir.quantised_weights import block_count
from cgptc.ir.types import TensorType
from cgptc.ir.weights import dense
from cgptc.testing.arrays import random_array
from cgptc.testing.pool import Pool, long_axes
from cgptc.testing.sample_register import Call, samples
from cgptc.testing.tensor_op_samples import anything, broadcast
from cgptc.testing.type_strategies import BATCH, PAST, SEQ

# By index


@samples(ops.Gather)
def _gather(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool, lambda found: bool(long_axes(found, 1)), min_rank=1)
    axis = pool.axis(x.type)
    return ops.Gather(axis), (x, pool.indices(pool.shape(0, 2), bounds(x.type.shape[axis])[0]))


@samples(ops.GatherElements)
def _gather_elements(pool: Pool, cls: type[Any]) -> Call:
    x, axis, shape = _element_indices(pool)
    return ops.GatherElements(axis), (x, pool.indices(shape, bounds(x.type.shape[axis])[0]))


def _element_indices(pool: Pool) -> tuple[Value, int, Shape]:
    x = pool.floating(1, 3, lambda found: bool(long_axes(found, 1)))
    axis = pool.axis(x.type)
    return x, axis, (*x.type.shape[:axis], pool.size(), *x.type.shape[axis + 1 :])


@samples(ops.ScatterElements)
def _scatter_elements(pool: Pool, cls: type[Any]) -> Call:
    x, axis, shape = _element_indices(pool)
    reduction = pool.draw(st.sampled_from(["none", "add"]))
    indices = pool.indices(shape, bounds(x.type.shape[axis])[0])
    return ops.ScatterElements(axis, reduction), (x, indices, pool.like(x.type.with_shape(shape)))


@samples(ops.GatherNd)
def _gather_nd(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool, lambda found: len(long_axes(found, 1)) == found.rank, min_rank=1)
    batch = pool.integer(0, x.type.rank - 1)
    depth = pool.integer(1, x.type.rank - batch)
    size = min(bounds(dim)[0] for dim in x.type.shape[batch : batch + depth])
    shape = (*x.type.shape[:batch], *pool.shape(0, 1), depth)
    return ops.GatherNd(batch), (x, pool.indices(shape, size))


@samples(ops.ScatterNd)
def _scatter_nd(pool: Pool, cls: type[Any]) -> Call:
    x = pool.floating(1, 3, lambda found: len(long_axes(found, 1)) == found.rank)
    depth = pool.integer(1, x.type.rank)
    size = min(bounds(dim)[0] for dim in x.type.shape[:depth])
    leading = pool.shape(0, 1)
    updates = pool.like(x.type.with_shape((*leading, *x.type.shape[depth:])))
    reduction = pool.draw(st.sampled_from(["none", "add"]))
    return ops.ScatterNd(reduction), (x, pool.indices((*leading, depth), size), updates)


@samples(ops.Embedding)
def _embedding(pool: Pool, cls: type[Any]) -> Call:
    table = pool.pick(
        lambda found: found.dtype in pool.floats and found.rank == 2 and found.is_static and found.static_shape[0] > 0,
        lambda: TensorType(pool.float_dtype(), (pool.size(), pool.size())),
    )
    return ops.Embedding(), (table, pool.indices(pool.shape(0, 2), table.type.static_shape[0]))


# Contractions and norms


@samples(ops.MatMul)
def _matmul(pool: Pool, cls: type[Any]) -> Call:
    a = pool.floating(2)
    leading = broadcast(pool, a.type.shape[:-2])
    return ops.MatMul(), (a, pool.like(a.type.with_shape((*leading, a.type.shape[-1], pool.size()))))


def _last_static(type: TensorType) -> bool:
    return bool(type.rank) and isinstance(type.shape[-1], int)


def _features(pool: Pool, max_rank: int = 3) -> Value:
    """A floating-point value whose last axis is static."""
    return pool.pick(
        lambda found: found.dtype in pool.floats and _last_static(found),
        lambda: TensorType(pool.float_dtype(), (*pool.shape(0, max_rank - 1), pool.size())),
    )


@samples(ops.Linear)
def _linear(pool: Pool, cls: type[Any]) -> Call:
    x = _features(pool)
    weight = pool.like(x.type.with_shape((x.type.shape[-1], pool.size())))
    return ops.Linear(), (x, weight, pool.optional(weight.type.with_shape(weight.type.shape[1:])))


@samples(ops.Conv1d)
def _conv1d(pool: Pool, cls: type[Any]) -> Call:
    x = pool.pick(
        lambda found: found.dtype in pool.floats and found.rank == 3 and _is_some(found.shape[1]) and bounds(found.shape[2])[0] > 0,
        lambda: TensorType(pool.float_dtype(), (pool.integer(1, 3), pool.integer(1, 4), pool.size())),
    )
    channels = x.type.shape[1]
    assert isinstance(channels, int)
    groups = pool.draw(st.sampled_from([1, channels]))
    kernel = pool.integer(1, 3)
    op = ops.Conv1d(pool.integer(1, 2), pool.integer(kernel - 1, 2), 1 if kernel == 3 else pool.integer(1, 2), groups)
    weight = pool.like(x.type.with_shape((groups * pool.integer(1, 2), channels // groups, kernel)))
    return op, (x, weight, pool.optional(weight.type.with_shape(weight.type.shape[:1])))


@samples(ops.LayerNorm, ops.RmsNorm)
def _norm(pool: Pool, cls: type[Any]) -> Call:
    x = _features(pool)
    operands = [pool.optional(x.type.with_shape(x.type.shape[-1:])) for _ in range(len(cls.parameters) - 1)]
    return cls(pool.draw(st.sampled_from([1e-2, 1e-1]))), (x, *operands)


@samples(ops.Attention)
def _attention(pool: Pool, cls: type[Any]) -> Call:
    q = pool.pick(
        lambda found: found.dtype in pool.floats and found.rank == 4 and _is_some(found.shape[1]) and isinstance(found.shape[3], int),
        lambda: TensorType(pool.float_dtype(), (_batch(pool), pool.integer(1, 4), _length(pool), pool.integer(1, 5))),
    )
    batch, heads, length, depth = q.type.shape
    assert isinstance(heads, int)
    causal = pool.flag()
    fresh: Dim = length if causal or pool.flag() else pool.integer(1, 4)
    kv_heads = pool.draw(st.sampled_from([divisor for divisor in range(1, heads + 1) if heads % divisor == 0]))
    k = pool.like(q.type.with_shape((batch, kv_heads, fresh, depth)))
    v = pool.like(q.type.with_shape((batch, kv_heads, fresh, pool.integer(1, 5))))
    past: Dim = 0
    pasts: tuple[Value | None, Value | None] = (None, None)
    if pool.flag():
        past = PAST.dim if PAST.dim + SEQ.dim in pool.symbols else pool.integer(0, 3)
        pasts = tuple(pool.like(x.type.with_shape((batch, kv_heads, past, x.type.shape[3]))) for x in (k, v))  # type: ignore[assignment]
    mask: Value | None = None
    match pool.draw(st.sampled_from(["none", "padding", "additive"])):
        case "padding":
            mask = pool.like(TensorType(boolean, (batch, past + fresh)))
        case "additive":
            mask = pool.like(q.type.with_shape((_maybe_one(pool, batch), _maybe_one(pool, heads), length, past + fresh)))
        case _:
            pass
    window = pool.integer(1, 4) if causal and pool.flag() else None
    op = ops.Attention(scale=pool.draw(st.sampled_from([1.0, 0.5, 0.125])), causal=causal, window=window)
    return op, (q, k, v, mask, *pasts)


def _is_some(dim: Dim) -> bool:
    """Whether a dimension is fixed and not empty."""
    return isinstance(dim, int) and dim > 0


def _maybe_one(pool: Pool, dim: Dim) -> Dim:
    return 1 if pool.flag() else dim


def _batch(pool: Pool) -> Dim:
    return BATCH.dim if pool.symbols else pool.integer(1, 3)


def _length(pool: Pool) -> Dim:
    return SEQ.dim if pool.symbols else pool.integer(1, 5)


@samples(ops.Rotary)
def _rotary(pool: Pool, cls: type[Any]) -> Call:
    x = pool.pick(
        lambda found: found.dtype in pool.floats and found.rank == 4 and isinstance(found.shape[3], int) and found.shape[3] >= 2,
        lambda: TensorType(pool.float_dtype(), (_batch(pool), pool.integer(1, 3), _length(pool), pool.integer(2, 5))),
    )
    depth = x.type.shape[3]
    assert isinstance(depth, int)
    angles = x.type.with_shape((_maybe_one(pool, x.type.shape[0]), x.type.shape[2], pool.integer(1, depth // 2)))
    return ops.Rotary(interleaved=pool.flag()), (x, pool.like(angles), pool.like(angles))


# Sources and losses


@samples(ops.Constant)
def _constant(pool: Pool, cls: type[Any]) -> Call:
    type_ = TensorType(pool.any_dtype(), pool.shape(static=True))
    return ops.Constant(dense(random_array(type_.static_shape, type_.dtype, pool.generator, pool.kind))), ()


@samples(ops.Iota, ops.DimSize)
def _size(pool: Pool, cls: type[Any]) -> Call:
    dim = pool.draw(st.sampled_from([3, *pool.symbols]))
    return cls(dim, pool.draw(st.sampled_from([i64, *pool.floats]))), ()


@samples(ops.Positions)
def _positions(pool: Pool, cls: type[Any]) -> Call:
    if pool.symbols:
        batch, seq = BATCH.dim, SEQ.dim
        past: Dim = PAST.dim if PAST.dim + SEQ.dim in pool.symbols else 0
    else:
        batch, seq, past = pool.integer(1, 3), pool.integer(1, 5), pool.integer(0, 3)  # type: ignore[assignment]
    return ops.Positions(batch, seq, past), (pool.optional(TensorType(boolean, (batch, past + seq))),)


@samples(ops.CrossEntropy, stable=False)
def _cross_entropy(pool: Pool, cls: type[Any]) -> Call:
    logits = pool.floating(2, 2, lambda found: len(long_axes(found, 1)) == 2)
    reduction = pool.draw(st.sampled_from(["mean", "sum", "none"]))
    op = ops.CrossEntropy(reduction, pool.draw(st.sampled_from([-100, 0])), pool.draw(st.sampled_from([0.0, 0.1])))
    return op, (logits, pool.indices(logits.type.shape[:1], bounds(logits.type.shape[1])[0]))


@samples(ops.MseLoss)
def _mse(pool: Pool, cls: type[Any]) -> Call:
    x = pool.floating()
    return ops.MseLoss(pool.draw(st.sampled_from(["mean", "sum", "none"]))), (x, pool.like(x.type))


@samples(ops.QuantizedLinear)
def _quantized_linear(pool: Pool, cls: type[Any]) -> Call:
    x = _features(pool)
    block = pool.draw(st.sampled_from([0, 2, 4]))
    width, rows = bounds(x.type.shape[-1])[0], pool.size()
    weight, scales = pool.like(TensorType(i8, (rows, width))), pool.like(TensorType(f32, (rows, block_count(width, block))))
    # Exact activations: the others round to integers, and a graph of many nodes would be compared where a rounding falls either way.
    return ops.QuantizedLinear(block), (x, weight, scales, pool.optional(x.type.with_shape((rows,))))
