"""How element-wise ops, reductions and moves are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.dims import Dim, Shape, bounds
from cgptc.ir.dtypes import DType, boolean
from cgptc.ir.graph import Value
from cgptc.ir.op import Op
from cgptc.ir.types import TensorType
from cgptc.testing.pool import INTEGERS, Pool, infers, long_axes
from cgptc.testing.sample_register import Call, samples

# Element by element


@samples(ops.Neg, ops.Abs, ops.Relu, ops.Tanh, ops.Sigmoid, ops.Erf, ops.Sin, ops.Cos, ops.Silu, ops.Softplus)
@samples(ops.Not, ops.IsNan, ops.IsInf)
@samples(ops.Exp, ops.Log, ops.Log1p, ops.Expm1, ops.Sqrt, ops.Rsqrt, ops.Reciprocal, ops.Tan, stable=False)
@samples(ops.Floor, ops.Ceil, ops.Round, ops.Sign, stable=False)
def _unary(pool: Pool, cls: type[Any]) -> Call:
    op: Op = cls()
    return op, (pool.accepted(op, dtypes=_dtypes(pool, lambda found: infers(op, found))),)


def _dtypes(pool: Pool, fits: Callable[[TensorType], bool]) -> tuple[DType, ...]:
    return tuple(dtype for dtype in (*pool.floats, *INTEGERS, boolean) if fits(TensorType(dtype)))


@samples(ops.Gelu)
def _gelu(pool: Pool, cls: type[Any]) -> Call:
    return ops.Gelu(pool.draw(st.sampled_from(["none", "tanh"]))), (pool.floating(),)


@samples(ops.Cast, stable=False)
def _cast(pool: Pool, cls: type[Any]) -> Call:
    source = pool.pick(lambda found: True, lambda: TensorType(pool.any_dtype(), pool.shape()))
    # What a float beyond an integer's range becomes is unspecified.
    dtypes = (*pool.floats, boolean) if source.type.dtype.is_float else (*pool.floats, *INTEGERS, boolean)
    return ops.Cast(pool.draw(st.sampled_from(dtypes))), (source,)


@samples(ops.Add, ops.Sub, ops.Mul, ops.Maximum, ops.Minimum, ops.And, ops.Or, ops.Xor)
@samples(ops.Div, ops.Atan2, stable=False)
@samples(ops.Equal, ops.NotEqual, ops.Less, ops.LessEqual, ops.Greater, ops.GreaterEqual, stable=False)
def _binary(pool: Pool, cls: type[Any]) -> Call:
    op: Op = cls()
    dtypes = _dtypes(pool, lambda found: infers(op, found, found))
    x = pool.pick(
        lambda found: (found.dtype in pool.floats or not found.dtype.is_float) and infers(op, found, found),
        lambda: TensorType(pool.draw(st.sampled_from(dtypes)), pool.shape()),
    )
    y = pool.like(x.type.with_shape(broadcast(pool, x.type.shape)))
    return op, (y, x) if pool.flag() else (x, y)


def broadcast(pool: Pool, shape: Shape) -> Shape:
    """The shape, or one that broadcasts to it."""
    if not pool.flag():
        return shape
    return tuple(1 if pool.flag() else dim for dim in shape[pool.integer(0, len(shape)) :])


@samples(ops.FloorDiv, ops.Mod, ops.Pow, stable=False)
def _divided(pool: Pool, cls: type[Any]) -> Call:
    op: Op = cls()
    x = pool.pick(
        lambda found: found.dtype in pool.floats or found.dtype in INTEGERS,
        lambda: TensorType(pool.draw(st.sampled_from([*pool.floats, *INTEGERS])), pool.shape()),
    )
    if x.type.dtype.is_float:
        return op, (x, pool.like(x.type.with_shape(broadcast(pool, x.type.shape))))
    return op, (x, pool.scalar(x.type.dtype, 1, 4))  # division by 0 is unspecified


@samples(ops.Select)
def _select(pool: Pool, cls: type[Any]) -> Call:
    x = pool.pick(lambda found: True, lambda: TensorType(pool.any_dtype(), pool.shape()))
    condition = pool.like(TensorType(boolean, broadcast(pool, x.type.shape)))
    return ops.Select(), (condition, x, pool.like(x.type.with_shape(broadcast(pool, x.type.shape))))


# Along axes


@samples(ops.ReduceSum, ops.ReduceMean, ops.ReduceMax, ops.ReduceMin, ops.ReduceAny, ops.ReduceAll)
@samples(ops.ReduceProd, stable=False)
def _reduction(pool: Pool, cls: type[Any]) -> Call:
    x = pool.accepted(cls(()), dtypes=_dtypes(pool, lambda found: infers(cls(()), found)))
    return cls(pool.axes(x.type), keepdims=pool.flag()), (x,)


def _with_axis(pool: Pool, least: int = 1) -> Value:
    """A number with an axis of at least ``least`` elements."""
    return pool.pick(
        lambda found: (found.dtype in pool.floats or found.dtype in INTEGERS) and bool(long_axes(found, least)),
        lambda: TensorType(pool.draw(st.sampled_from([*pool.floats, *INTEGERS])), (*pool.shape(0, 2), 3)),
    )


@samples(ops.ArgMax, ops.ArgMin, stable=False)
def _position(pool: Pool, cls: type[Any]) -> Call:
    x = _with_axis(pool)
    return cls(pool.axis(x.type), keepdims=pool.flag()), (x,)


@samples(ops.CumSum)
def _scan(pool: Pool, cls: type[Any]) -> Call:
    x = _with_axis(pool)
    return cls(pool.axis(x.type)), (x,)


@samples(ops.Softmax)
@samples(ops.LogSoftmax, stable=False)
def _softmax(pool: Pool, cls: type[Any]) -> Call:
    x = pool.floating(1)
    return cls(pool.integer(0, x.type.rank - 1)), (x,)


@samples(ops.TopK, ops.Sort, stable=False)
def _ordered(pool: Pool, cls: type[Any]) -> Call:
    x = _with_axis(pool)
    axis = pool.axis(x.type)
    if cls is ops.Sort:
        return ops.Sort(axis, descending=pool.flag()), (x,)
    return ops.TopK(pool.integer(0, bounds(x.type.shape[axis])[0]), axis, largest=pool.flag()), (x,)


# Moving elements


def anything(pool: Pool, fits: Callable[[TensorType], bool] = lambda found: True, min_rank: int = 0) -> Value:
    return pool.pick(
        lambda found: found.rank >= min_rank and fits(found),
        lambda: TensorType(pool.any_dtype(), pool.shape(min_rank, max(min_rank, 3), static=True)),
    )


@samples(ops.Reshape)
def _reshape(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool)
    shape = list(x.type.shape)
    for _ in range(pool.integer(1, 2)):
        at = pool.integer(0, len(shape))
        match pool.draw(st.sampled_from(["merge", "split", "insert", "flatten"])):
            case "merge" if at + 1 < len(shape):
                shape[at : at + 2] = [shape[at] * shape[at + 1]]
            case "split" if at < len(shape):
                shape[at : at + 1] = _factors(pool, shape[at])
            case "flatten":
                shape = [x.type.size]
            case _:
                shape.insert(at, 1)
    return ops.Reshape(tuple(shape)), (x,)


def _factors(pool: Pool, dim: Dim) -> list[Dim]:
    if not isinstance(dim, int):
        return [dim, 1]
    divisor = pool.draw(st.sampled_from([divisor for divisor in range(1, dim + 1) if dim % divisor == 0] or [1]))
    return [divisor, dim // divisor]


@samples(ops.Transpose)
def _transpose(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool)
    return ops.Transpose(tuple(pool.draw(st.permutations(range(x.type.rank))))), (x,)


@samples(ops.Expand)
def _expand(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool)
    stretched = [pool.integer(1, 3) if dim == 1 else dim for dim in x.type.shape]
    return ops.Expand((*(pool.integer(1, 3) for _ in range(pool.integer(0, 1))), *stretched)), (x,)


@samples(ops.Concat)
def _concat(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool, min_rank=1)
    axis = pool.integer(0, x.type.rank - 1)
    others = []
    for _ in range(pool.integer(0, 2)):
        length: Dim = pool.size() if pool.flag() else x.type.shape[axis]
        others.append(pool.like(x.type.with_shape((*x.type.shape[:axis], length, *x.type.shape[axis + 1 :]))))
    return ops.Concat(axis), (x, *others)


@samples(ops.Slice)
def _slice(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool, min_rank=1)
    axis = pool.integer(0, x.type.rank - 1)
    dim = x.type.shape[axis]
    start = pool.integer(0, bounds(dim)[0])
    stop: Dim = pool.integer(start, bounds(dim)[0])
    if pool.flag():
        stop = dim
    return ops.Slice(axis, start, stop, pool.integer(1, 3)), (x,)


@samples(ops.Pad)
def _pad(pool: Pool, cls: type[Any]) -> Call:
    x = pool.floating(max_rank=3)
    low, high = (tuple(pool.integer(0, 2) for _ in x.type.shape) for _ in range(2))
    return ops.Pad(low, high, float(pool.integer(0, 2))), (x,)


@samples(ops.Flip)
def _flip(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool)
    return ops.Flip(pool.axes(x.type)), (x,)


@samples(ops.Split)
def _split(pool: Pool, cls: type[Any]) -> Call:
    x = anything(pool, min_rank=1)
    axis = pool.integer(0, x.type.rank - 1)
    dim = x.type.shape[axis]
    first = pool.integer(0, bounds(dim)[0])
    sizes = (dim,) if pool.flag() else (first, dim - first)
    return ops.Split(axis, sizes), (x,)
