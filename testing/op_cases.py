"""Operations with operands that they accept: one strategy per operation of the IR.

>>> from hypothesis import given
>>> from cgptc.ir.ops import Softmax
>>> @given(op_cases(Softmax))
... def softmax_keeps_the_shape(case):
...     (x,) = case.arrays(seed=0)
...     assert case.op.evaluate(x).shape == x.shape
>>> softmax_keeps_the_shape()
"""

from __future__ import annotations

from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.dtypes import DTYPES, FLOATS, DType, boolean, f32, f64, i4, i8, i32, i64
from cgptc.ir.op import Op
from cgptc.ir.ops.binary import Binary, Comparison
from cgptc.ir.ops.elementwise import Predicate, Unary
from cgptc.ir.ops.quantized import ACTIVATIONS
from cgptc.ir.ops.reduction import Reduction
from cgptc.ir.quantised_weights import block_count
from cgptc.testing.op_case import CASES, Draw, OpCase, Operand, draws, operand

SIZES = (2, 3, 5, 2, 3, 1, 0)
FLOAT_DTYPES = st.sampled_from(FLOATS)
NUMBER_DTYPES = st.sampled_from([dtype for dtype in DTYPES.values() if dtype not in (boolean, i4)])
STORED_DTYPES = st.sampled_from(list(DTYPES.values()))
INDEX_DTYPES = st.sampled_from([i64, i32])


def op_cases(op: type[Op]) -> st.SearchStrategy[OpCase]:
    """Valid cases of an operation: all its attributes, accepted dtypes and optional operands; sizes 0, 1 and more.

    KeyError for an operation without a strategy: `Constant`, which has no definition without a store.
    """
    return CASES[op]()


def sizes(least: int = 0) -> st.SearchStrategy[int]:
    """The size of an axis, small ones first."""
    return st.sampled_from([size for size in SIZES if size >= least])


def shapes(low: int = 0, high: int = 3, least: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """A shape of rank ``low`` to ``high``."""
    return st.lists(sizes(least), min_size=low, max_size=high).map(tuple)


def accepted(kinds: frozenset[str]) -> st.SearchStrategy[DType]:
    """The dtypes of some kinds that take part in arithmetic."""
    return st.sampled_from([dtype for dtype in DTYPES.values() if dtype.kind in kinds and dtype is not i4])


def _stretchable(draw: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to ``shape``: some leading axes dropped, some others 1."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else size for size in kept)


def _optional(draw: Draw, present: Operand) -> Operand | None:
    return present if draw(st.booleans()) else None


def _subset(draw: Draw, rank: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if draw(st.booleans()))


def _concrete(base: type[Op]) -> list[type[Op]]:
    return [op for op in base.__subclasses__() if hasattr(op, "name")]


@draws(*_concrete(Unary), *_concrete(Predicate))
def _unary(draw: Draw, op: type[Op]) -> OpCase:
    dtype = draw(accepted(op.accepts) if issubclass(op, Unary) else FLOAT_DTYPES)
    positive = op in (ops.Log, ops.Log1p, ops.Sqrt, ops.Rsqrt, ops.Reciprocal)
    value = ops.Gelu(draw(st.sampled_from(["none", "tanh"]))) if op is ops.Gelu else op()
    return OpCase(value, (operand(dtype, *draw(shapes()), elements="positive" if positive else "normal"),))


@draws(ops.Cast)
def _cast(draw: Draw, op: type[Op]) -> OpCase:
    source, target = draw(STORED_DTYPES), draw(STORED_DTYPES)
    # A negative float has no unsigned value.
    elements = "positive" if target.kind == "uint" and source.is_float else "normal"
    return OpCase(ops.Cast(target), (operand(source, *draw(shapes()), elements=elements),))


@draws(*_concrete(Binary), *_concrete(Comparison))
def _binary(draw: Draw, op: type[Op]) -> OpCase:
    assert issubclass(op, Binary | Comparison)
    dtype = draw(accepted(op.accepts))
    shape = draw(shapes())
    left = "positive" if op is ops.Pow and dtype.is_float else "normal"
    right = "nonzero" if op in (ops.FloorDiv, ops.Mod) else "normal"
    return OpCase(
        op(), (operand(dtype, *_stretchable(draw, shape), elements=left), operand(dtype, *_stretchable(draw, shape), elements=right))
    )


@draws(ops.Select)
def _select(draw: Draw, op: type[Op]) -> OpCase:
    dtype, shape = draw(STORED_DTYPES), draw(shapes())
    branches = [operand(dtype, *_stretchable(draw, shape)) for _ in range(2)]
    return OpCase(ops.Select(), (operand(boolean, *_stretchable(draw, shape)), *branches))


@draws(*_concrete(Reduction))
def _reduction(draw: Draw, op: type[Op]) -> OpCase:
    assert issubclass(op, Reduction)
    shape = draw(shapes())
    return OpCase(op(_subset(draw, len(shape)), draw(st.booleans())), (operand(draw(accepted(op.accepts)), *shape),))


@draws(ops.Softmax, ops.LogSoftmax, ops.CumSum)
def _along_axis(draw: Draw, op: type[Op]) -> OpCase:
    assert issubclass(op, ops.Softmax | ops.LogSoftmax | ops.CumSum)
    shape = draw(shapes(1))
    dtype = draw(NUMBER_DTYPES if op is ops.CumSum else FLOAT_DTYPES)
    return OpCase(op(draw(st.integers(0, len(shape) - 1))), (operand(dtype, *shape),))


@draws(ops.ArgMax, ops.ArgMin)
def _position(draw: Draw, op: type[Op]) -> OpCase:
    assert issubclass(op, ops.ArgMax | ops.ArgMin)
    shape = list(draw(shapes(1)))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(sizes(1))
    return OpCase(op(axis, draw(st.booleans())), (operand(draw(NUMBER_DTYPES), *shape),))


@draws(ops.TopK)
def _top_k(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    return OpCase(ops.TopK(draw(st.integers(0, shape[axis])), axis, draw(st.booleans())), (operand(draw(NUMBER_DTYPES), *shape),))


@draws(ops.Sort)
def _sort(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes(1))
    return OpCase(ops.Sort(draw(st.integers(0, len(shape) - 1)), draw(st.booleans())), (operand(draw(NUMBER_DTYPES), *shape),))


@draws(ops.Reshape)
def _reshape(draw: Draw, op: type[Op]) -> OpCase:
    parts = draw(shapes(0, 4))
    return OpCase(ops.Reshape(_merged(draw, parts)), (operand(draw(STORED_DTYPES), *_merged(draw, parts)),))


def _merged(draw: Draw, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Some neighbours among ``parts`` multiplied, and ones put in: a shape of as many elements."""
    merged: list[int] = []
    for part in parts:
        if draw(st.booleans()) and merged:
            merged[-1] *= part
        else:
            merged.append(part)
    if draw(st.booleans()):
        merged.insert(draw(st.integers(0, len(merged))), 1)
    return tuple(merged)


@draws(ops.Transpose)
def _transpose(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes(0, 4))
    return OpCase(ops.Transpose(tuple(draw(st.permutations(list(range(len(shape))))))), (operand(draw(STORED_DTYPES), *shape),))


@draws(ops.Expand)
def _expand(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes())
    return OpCase(ops.Expand(shape), (operand(draw(STORED_DTYPES), *_stretchable(draw, shape)),))


@draws(ops.Concat)
def _concat(draw: Draw, op: type[Op]) -> OpCase:
    dtype, shape = draw(STORED_DTYPES), draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    parts = draw(st.lists(sizes(), min_size=1, max_size=3))
    return OpCase(ops.Concat(axis), tuple(operand(dtype, *shape[:axis], part, *shape[axis + 1 :]) for part in parts))


@draws(ops.Slice)
def _slice(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[axis]))
    stop = draw(st.integers(start, shape[axis]))
    return OpCase(ops.Slice(axis, start, stop, draw(st.integers(1, 3))), (operand(draw(STORED_DTYPES), *shape),))


@draws(ops.Pad)
def _pad(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes())
    low, high = (tuple(draw(st.integers(0, 2)) for _ in shape) for _ in range(2))
    return OpCase(ops.Pad(low, high, draw(st.sampled_from([0.0, 1.0, 2.0]))), (operand(draw(STORED_DTYPES), *shape),))


@draws(ops.Flip)
def _flip(draw: Draw, op: type[Op]) -> OpCase:
    shape = draw(shapes())
    return OpCase(ops.Flip(_subset(draw, len(shape))), (operand(draw(STORED_DTYPES), *shape),))


@draws(ops.Split)
def _split(draw: Draw, op: type[Op]) -> OpCase:
    shape, parts = draw(shapes(1)), tuple(draw(st.lists(sizes(), min_size=1, max_size=3)))
    axis = draw(st.integers(0, len(shape) - 1))
    return OpCase(ops.Split(axis, parts), (operand(draw(STORED_DTYPES), *shape[:axis], sum(parts), *shape[axis + 1 :]),))


def _indices(draw: Draw, shape: tuple[int, ...], limit: int, signed: bool = True) -> Operand:
    return operand(draw(INDEX_DTYPES), *shape, elements="index", limit=limit, signed=signed)


@draws(ops.Gather)
def _gather(draw: Draw, op: type[Op]) -> OpCase:
    shape = list(draw(shapes(1)))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(sizes(1))
    return OpCase(ops.Gather(axis), (operand(draw(STORED_DTYPES), *shape), _indices(draw, draw(shapes(0, 2)), shape[axis])))


@draws(ops.GatherElements, ops.ScatterElements)
def _elements(draw: Draw, op: type[Op]) -> OpCase:
    shape = list(draw(shapes(1)))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(sizes(1))
    wanted = (*shape[:axis], draw(sizes()), *shape[axis + 1 :])
    indices = _indices(draw, wanted, shape[axis])
    if op is ops.GatherElements:
        return OpCase(ops.GatherElements(axis), (operand(draw(STORED_DTYPES), *shape), indices))
    reduction = draw(st.sampled_from(["none", "add"]))
    dtype = draw(NUMBER_DTYPES if reduction == "add" else STORED_DTYPES)
    return OpCase(ops.ScatterElements(axis, reduction), (operand(dtype, *shape), indices, operand(dtype, *wanted)))


@draws(ops.GatherNd)
def _gather_nd(draw: Draw, op: type[Op]) -> OpCase:
    batch, size = draw(shapes(0, 2)), draw(sizes(1))
    depth = draw(st.integers(1, 2))
    shape = (*batch, *(size,) * depth, *draw(shapes(0, 1)))
    indices = _indices(draw, (*batch, *draw(shapes(0, 2)), depth), size)
    return OpCase(ops.GatherNd(len(batch)), (operand(draw(STORED_DTYPES), *shape), indices))


@draws(ops.ScatterNd)
def _scatter_nd(draw: Draw, op: type[Op]) -> OpCase:
    size, depth, rest, count = draw(sizes(1)), draw(st.integers(1, 2)), draw(shapes(0, 1)), draw(shapes(0, 2))
    reduction = draw(st.sampled_from(["none", "add"]))
    dtype = draw(NUMBER_DTYPES if reduction == "add" else STORED_DTYPES)
    return OpCase(
        ops.ScatterNd(reduction),
        (operand(dtype, *(size,) * depth, *rest), _indices(draw, (*count, depth), size), operand(dtype, *count, *rest)),
    )


@draws(ops.MatMul)
def _matmul(draw: Draw, op: type[Op]) -> OpCase:
    dtype, batch = draw(NUMBER_DTYPES), draw(shapes(0, 2))
    m, k, n = (draw(sizes()) for _ in range(3))
    left, right = _stretchable(draw, batch), _stretchable(draw, batch)
    return OpCase(ops.MatMul(), (operand(dtype, *left, m, k), operand(dtype, *right, k, n)))


@draws(ops.Linear)
def _linear(draw: Draw, op: type[Op]) -> OpCase:
    dtype, inner, outer = draw(FLOAT_DTYPES), draw(sizes()), draw(sizes())
    x = operand(dtype, *draw(shapes(0, 3)), inner)
    return OpCase(ops.Linear(), (x, operand(dtype, inner, outer), _optional(draw, operand(dtype, outer))))


@draws(ops.QuantizedLinear)
def _quantized_linear(draw: Draw, op: type[Op]) -> OpCase:
    dtype, inner, outer = draw(FLOAT_DTYPES), draw(sizes(1)), draw(sizes())
    activations = draw(st.sampled_from(ACTIVATIONS))
    block = draw(st.sampled_from([0, 1, 2, 4])) if activations != "tensor" else 0
    scales = operand(f64 if dtype is f64 else f32, outer, block_count(inner, block), elements="positive")
    x, weight = operand(dtype, *draw(shapes(0, 3)), inner), operand(draw(st.sampled_from([i4, i8])), outer, inner)
    return OpCase(ops.QuantizedLinear(block, activations), (x, weight, scales, _optional(draw, operand(dtype, outer))))


@draws(ops.Conv1d)
def _conv1d(draw: Draw, op: type[Op]) -> OpCase:
    dtype, groups, kernel, dilation = draw(FLOAT_DTYPES), draw(st.integers(1, 2)), draw(sizes(1)), draw(st.integers(1, 2))
    per_group, out, padding = draw(sizes(1)), groups * draw(st.integers(1, 2)), draw(st.integers(0, 2))
    length = dilation * (kernel - 1) + 1 + draw(st.integers(0, 4))
    return OpCase(
        ops.Conv1d(draw(st.integers(1, 3)), padding, dilation, groups),
        (
            operand(dtype, draw(sizes()), per_group * groups, length),
            operand(dtype, out, per_group, kernel),
            _optional(draw, operand(dtype, out)),
        ),
    )


@draws(ops.LayerNorm)
def _layer_norm(draw: Draw, op: type[Op]) -> OpCase:
    dtype, last = draw(FLOAT_DTYPES), draw(sizes(2))
    affine = [_optional(draw, operand(dtype, last)) for _ in range(2)]
    return OpCase(ops.LayerNorm(draw(st.sampled_from([1e-5, 1e-3]))), (operand(dtype, *draw(shapes(0, 2)), last), *affine))


@draws(ops.RmsNorm)
def _rms_norm(draw: Draw, op: type[Op]) -> OpCase:
    dtype, last = draw(FLOAT_DTYPES), draw(sizes(1))
    weight = _optional(draw, operand(dtype, last))
    return OpCase(ops.RmsNorm(draw(st.sampled_from([1e-6, 1e-3]))), (operand(dtype, *draw(shapes(0, 2)), last), weight))


@draws(ops.Attention)
def _attention(draw: Draw, op: type[Op]) -> OpCase:
    dtype, causal = draw(FLOAT_DTYPES), draw(st.booleans())
    batch, kv_heads, group = draw(st.sampled_from([1, 2, 0])), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    length, depth, value_depth = draw(sizes()), draw(st.sampled_from([2, 4, 1])), draw(sizes())
    fresh, past = (length if causal else draw(sizes())), draw(st.sampled_from([None, 2, 0, 3]))
    heads, total = kv_heads * group, fresh + (past or 0)
    mask = {
        "none": None,
        "padding": operand(boolean, batch, total),
        "additive": operand(dtype, draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), length, total, elements="hiding"),
    }[draw(st.sampled_from(["none", "padding", "additive"]))]
    older: tuple[Operand | None, ...] = (None, None)
    if past is not None:
        older = (operand(dtype, batch, kv_heads, past, depth), operand(dtype, batch, kv_heads, past, value_depth))
    window = draw(st.sampled_from([None, 1, 2, 4])) if causal else None
    return OpCase(
        ops.Attention(depth**-0.5, causal, window),
        (
            operand(dtype, batch, heads, length, depth),
            operand(dtype, batch, kv_heads, fresh, depth),
            operand(dtype, batch, kv_heads, fresh, value_depth),
            mask,
            *older,
        ),
    )


@draws(ops.Rotary)
def _rotary(draw: Draw, op: type[Op]) -> OpCase:
    dtype, batch, heads, length = draw(FLOAT_DTYPES), draw(sizes()), draw(sizes()), draw(sizes())
    pairs = draw(st.integers(1, 3))
    angles = operand(dtype, draw(st.sampled_from([1, batch])), length, pairs)
    x = operand(dtype, batch, heads, length, 2 * pairs + draw(st.integers(0, 2)))
    return OpCase(ops.Rotary(draw(st.booleans())), (x, angles, angles))


@draws(ops.Embedding)
def _embedding(draw: Draw, op: type[Op]) -> OpCase:
    rows = draw(sizes(1))
    indices = _indices(draw, draw(shapes(0, 2)), rows, signed=False)
    return OpCase(ops.Embedding(), (operand(draw(STORED_DTYPES), rows, draw(sizes())), indices))


@draws(ops.Positions)
def _positions(draw: Draw, op: type[Op]) -> OpCase:
    batch, seq, past = draw(sizes()), draw(sizes()), draw(sizes())
    return OpCase(ops.Positions(batch, seq, past), (_optional(draw, operand(boolean, batch, past + seq)),))


@draws(ops.CrossEntropy)
def _cross_entropy(draw: Draw, op: type[Op]) -> OpCase:
    rows, classes = draw(sizes(1)), draw(sizes(1))
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    value = ops.CrossEntropy(reduction, draw(st.sampled_from([-100, 0])), draw(st.sampled_from([0.0, 0.1])))
    target = operand(i64, rows, elements="index", limit=classes, signed=False)
    return OpCase(value, (operand(draw(FLOAT_DTYPES), rows, classes), target))


@draws(ops.MseLoss)
def _mse_loss(draw: Draw, op: type[Op]) -> OpCase:
    dtype, shape = draw(FLOAT_DTYPES), draw(shapes(least=1))
    return OpCase(ops.MseLoss(draw(st.sampled_from(["mean", "sum", "none"]))), (operand(dtype, *shape), operand(dtype, *shape)))


@draws(ops.Iota)
def _iota(draw: Draw, op: type[Op]) -> OpCase:
    return OpCase(ops.Iota(draw(sizes()), draw(NUMBER_DTYPES)), ())


@draws(ops.DimSize)
def _dim_size(draw: Draw, op: type[Op]) -> OpCase:
    return OpCase(ops.DimSize(draw(sizes()), draw(NUMBER_DTYPES)), ())
