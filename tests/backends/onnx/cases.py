"""Operations with operands to try them on: every entry of the lowering table stands here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from cgptc.ir.dims import Symbol, evaluate
from cgptc.ir.dtypes import DType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8
from cgptc.ir.op import OPS, Array, Op
from cgptc.ir.ops import attention, binary, elementwise, embedding, indexing, matmul, norm, ordering, quantized, reduction, shape
from cgptc.ir.types import TensorType

BATCH = Symbol("batch", 1, 8).dim
SEQ = Symbol("seq", 1, 64).dim
PAST = Symbol("past", 0, 64).dim
KEYS = Symbol("keys", 1, 64).dim

SIZES = (
    {"batch": 2, "seq": 3, "past": 4, "keys": 5},
    {"batch": 1, "seq": 1, "past": 0, "keys": 2},
    {"batch": 3, "seq": 5, "past": 1, "keys": 7},
    {"batch": 2, "seq": 1, "past": 6, "keys": 1},
)
"""One model file serves all of these."""

FLOATS = (f32, f64, f16, bf16)
INTEGERS = (i64, i32, i8, u8)

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Case:
    """An operation, its operands' types (None where absent), and how to draw those operands that are not just any numbers."""

    op: Op
    types: tuple[TensorType | None, ...]
    draws: Mapping[int, Draw] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.types))})"

    @property
    def dtype(self) -> DType:
        """The element type of the first operand."""
        first = self.types[0]
        assert first is not None
        return first.dtype

    def operands(self, sizes: Mapping[str, int], seed: int = 0) -> list[Array | None]:
        rng = np.random.default_rng(seed)
        arrays: list[Array | None] = []
        for index, type_ in enumerate(self.types):
            if type_ is None:
                arrays.append(None)
                continue
            size = tuple(evaluate(dim, sizes) for dim in type_.shape)
            draw = self.draws.get(index, _DRAWS[type_.dtype.kind])
            arrays.append(np.asarray(draw(rng, size)).astype(type_.dtype.numpy))
        return arrays


def _normal(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.standard_normal(size)


def _positive(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return np.abs(rng.standard_normal(size)) + 0.1


def _bits(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.integers(0, 2, size)


def _none(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return np.zeros(size)


def _left_padding(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return np.arange(size[1])[None] >= np.arange(size[0])[:, None]


def _additive(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return np.where(rng.integers(0, 3, size) == 0, -np.inf, rng.standard_normal(size))


def within(low: int, high: int) -> Draw:
    """Integers from ``low`` to ``high`` without it."""
    return lambda rng, size: rng.integers(low, high, size)


def _without_zero(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.choice([-3, -2, -1, 1, 2, 3], size)


_DRAWS: dict[str, Draw] = {"float": _normal, "int": within(-5, 6), "uint": within(0, 6), "bool": _bits}

_X = (BATCH, SEQ, 4)
_Y = (SEQ, 4)


def _types(dtype: DType, *shapes: tuple[object, ...] | None) -> tuple[TensorType | None, ...]:
    return tuple(None if size is None else TensorType(dtype, size) for size in shapes)  # type: ignore[arg-type]


def unary_cases() -> Iterator[Case]:
    for op_class in (cls for cls in OPS.values() if cls.__module__ == elementwise.__name__ and cls is not elementwise.Cast):
        ops = (elementwise.Gelu("none"), elementwise.Gelu("tanh")) if op_class is elementwise.Gelu else (op_class(),)
        for op in ops:
            draws = {0: _positive} if isinstance(op, (elementwise.Log, elementwise.Sqrt, elementwise.Rsqrt, elementwise.Log1p)) else {}
            for dtype in (*FLOATS, *INTEGERS, boolean):
                if isinstance(op, elementwise.Unary) and dtype.kind not in op.accepts:
                    continue
                if isinstance(op, elementwise.Predicate) and not dtype.is_float:
                    continue
                yield Case(op, _types(dtype, _X), draws)
    for source in (*FLOATS, *INTEGERS, boolean):
        for target in (*FLOATS, *INTEGERS, boolean):
            draws = {0: _positive} if target == u8 and source.kind in ("float", "int") else {}
            yield Case(elementwise.Cast(target), _types(source, _X), draws)


def binary_cases() -> Iterator[Case]:
    for op_class in (cls for cls in OPS.values() if cls.__module__ == binary.__name__ and cls is not binary.Select):
        op = op_class()
        assert isinstance(op, (binary.Binary, binary.Comparison))
        for dtype in (*FLOATS, *INTEGERS, boolean):
            if dtype.kind not in op.accepts:
                continue
            draws: dict[int, Draw] = {}
            if isinstance(op, (binary.FloorDiv, binary.Mod)) and dtype.is_integer:
                draws = {1: within(1, 5) if dtype == u8 else _without_zero}
            if isinstance(op, binary.Pow) and dtype.is_float:
                draws = {0: _positive}
            if isinstance(op, binary.Pow) and dtype.is_integer:
                draws = {1: within(0 if dtype == u8 else -2, 3)}
            yield Case(op, _types(dtype, _X, _Y), draws)
    for dtype in (*FLOATS, *INTEGERS, boolean):
        yield Case(binary.Select(), (TensorType(boolean, (BATCH, SEQ, 1)), *_types(dtype, _X, _Y)))


def reduction_cases() -> Iterator[Case]:
    for op_class in (reduction.ReduceSum, reduction.ReduceMean, reduction.ReduceMax, reduction.ReduceMin, reduction.ReduceProd):
        for dtype in (*FLOATS, *INTEGERS):
            if dtype.kind in op_class.accepts:
                yield Case(op_class((1, 2)), _types(dtype, (BATCH, SEQ, 2)), {0: within(1, 3)} if dtype.is_integer else {})
                yield Case(op_class((0,), True), _types(dtype, _X))
        yield Case(op_class(()), _types(f32, _X))
    for any_or_all in (reduction.ReduceAny, reduction.ReduceAll):
        yield Case(any_or_all((0, 2)), _types(boolean, _X))
    for dtype in (*FLOATS, *INTEGERS):
        yield Case(reduction.CumSum(1), _types(dtype, _X))
    for dtype in FLOATS:
        yield Case(reduction.Softmax(1), _types(dtype, _X))
        yield Case(reduction.LogSoftmax(2), _types(dtype, _X))


def ordering_cases() -> Iterator[Case]:
    """Integers have ties, and ties keep their order."""
    for dtype in (*FLOATS, *INTEGERS):
        yield Case(ordering.TopK(2, 2), _types(dtype, _X))
        yield Case(ordering.TopK(3, 2, largest=False), _types(dtype, _X))
        yield Case(ordering.Sort(1), _types(dtype, _X))
        yield Case(ordering.Sort(1, descending=True), _types(dtype, _X))
        yield Case(ordering.ArgMax(1), _types(dtype, _X))
        yield Case(ordering.ArgMin(2, True), _types(dtype, _X))


def shape_cases() -> Iterator[Case]:
    for dtype in (f32, bf16, boolean):
        for new in ((BATCH, SEQ, 2, 2), (BATCH * SEQ, 4), (4, BATCH, SEQ), (SEQ, BATCH, 4), (BATCH * SEQ * 4,)):
            yield Case(shape.Reshape(new), _types(dtype, _X))
        for new in ((BATCH, PAST, 4), (4 * PAST, BATCH), (PAST, 4 * BATCH)):
            yield Case(shape.Reshape(new), _types(dtype, (BATCH, 4, PAST)))
        yield Case(shape.Transpose((2, 0, 1)), _types(dtype, _X))
        yield Case(shape.Transpose((0, 1, 2)), _types(dtype, _X))
        yield Case(shape.Expand((BATCH, SEQ, 4)), _types(dtype, (BATCH, SEQ, 1)))
        yield Case(shape.Expand((7, BATCH, SEQ, 4)), _types(dtype, _X))
        yield Case(shape.Concat(1), _types(dtype, _X, (BATCH, PAST, 4), _X))
        yield Case(shape.Concat(1), _types(dtype, _X))
        yield Case(shape.Slice(1, 1, SEQ), _types(dtype, _X))
        yield Case(shape.Slice(1, 0, SEQ, 2), _types(dtype, _X))
        yield Case(shape.Slice(1, SEQ - 1, SEQ), _types(dtype, _X))
        yield Case(shape.Flip((1, 2)), _types(dtype, _X))
        yield Case(shape.Flip(()), _types(dtype, _X))
        yield Case(shape.Split(2, (1, 3)), _types(dtype, _X))
        yield Case(shape.Split(1, (SEQ,)), _types(dtype, _X))
        yield Case(shape.Pad((0, 1, 2), (1, 0, 0)), _types(dtype, _X))
        yield Case(shape.Pad((0, SEQ, 2), (1, 0, 0), 1.0), _types(dtype, _X))


def indexing_cases() -> Iterator[Case]:
    for dtype in (f32, bf16, i8, boolean):
        for index in (i64, i32, i8) if dtype == f32 else (i64,):
            x, all_of_4 = TensorType(dtype, _X), {1: within(-4, 4)}
            yield Case(indexing.Gather(2), (x, TensorType(index, (SEQ, 2))), all_of_4)
            yield Case(indexing.GatherElements(2), (x, TensorType(index, (BATCH, SEQ, 3))), all_of_4)
            yield Case(indexing.GatherNd(), (TensorType(dtype, (4, 4, SEQ)), TensorType(index, (BATCH, 2))), {1: within(0, 4)})
            yield Case(indexing.GatherNd(1), (TensorType(dtype, (BATCH, 4, SEQ)), TensorType(index, (BATCH, 3, 1))), {1: within(0, 4)})
            one = (BATCH, SEQ, 1)
            yield Case(indexing.ScatterElements(2), (x, TensorType(index, one), TensorType(dtype, one)), all_of_4)
            rows = (TensorType(dtype, (4, SEQ)), TensorType(index, (1, 1)), TensorType(dtype, (1, SEQ)))
            yield Case(indexing.ScatterNd(), rows, {1: within(0, 4)})
            if dtype != boolean:
                three = (BATCH, SEQ, 3)
                yield Case(indexing.ScatterElements(2, "add"), (x, TensorType(index, three), TensorType(dtype, three)), all_of_4)
                rows = (TensorType(dtype, (4, SEQ)), TensorType(index, (3, 1)), TensorType(dtype, (3, SEQ)))
                yield Case(indexing.ScatterNd("add"), rows, {1: within(0, 4)})
    table = TensorType(f32, (9, 4))
    yield Case(embedding.Embedding(), (table, TensorType(i64, (BATCH, SEQ))), {1: within(0, 9)})
    yield Case(embedding.Embedding(), (table, TensorType(i8, (BATCH, SEQ))), {1: within(0, 9)})
    yield Case(embedding.Positions(BATCH, SEQ), (TensorType(boolean, (BATCH, SEQ)),))


def product_cases() -> Iterator[Case]:
    for dtype in (*FLOATS, *INTEGERS):
        yield Case(matmul.MatMul(), _types(dtype, _X, (4, 5)))
        yield Case(matmul.MatMul(), _types(dtype, (BATCH, 1, SEQ, 4), (3, 4, SEQ)))
    for dtype in FLOATS:
        yield Case(matmul.Linear(), _types(dtype, _X, (4, 5)))
        yield Case(matmul.Linear(), _types(dtype, _X, (4, 5), (5,)))
        wide = f64 if dtype == f64 else f32
        operands = (TensorType(dtype, _X), TensorType(i8, (5, 4)), TensorType(wide, (5, 2)), TensorType(dtype, (5,)))
        yield Case(quantized.QuantizedLinear(2), operands)
        yield Case(quantized.QuantizedLinear(3, "blocks"), operands[:3])
        yield Case(quantized.QuantizedLinear(0, "tensor"), (TensorType(dtype, _X), TensorType(i8, (5, 4)), TensorType(wide, (5, 1))))
        yield Case(matmul.Conv1d(), _types(dtype, (BATCH, 4, SEQ + 2), (6, 4, 3), (6,)))
        yield Case(matmul.Conv1d(2, 1, 2, 2), _types(dtype, (BATCH, 4, SEQ + 4), (6, 2, 3)))


def norm_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        for operands in ((), ((4,),), ((4,), (4,)), (None, (4,))):
            yield Case(norm.LayerNorm(1e-5), _types(dtype, _X, *operands))
        for operands in ((), ((4,),)):
            yield Case(norm.RmsNorm(1e-6), _types(dtype, _X, *operands))


def attention_cases() -> Iterator[Case]:
    """With and without past, padding, window, explicit mask, grouped heads, a value width of its own; across lengths."""
    for dtype in FLOATS:
        grouped = (4, 2, 8, 6)
        for heads, key_heads, width, value_width in ((4, 4, 8, 8), grouped) if dtype == f32 else (grouped,):
            q = (BATCH, heads, SEQ, width)
            new = _types(dtype, q, (BATCH, key_heads, SEQ, width), (BATCH, key_heads, SEQ, value_width))
            past = _types(dtype, (BATCH, key_heads, PAST, width), (BATCH, key_heads, PAST, value_width))
            for window in (None, 2):
                op = attention.Attention(0.3, True, window)
                yield Case(op, new)
                yield Case(op, (*new, None, *past))
                yield Case(op, (*new, TensorType(boolean, (BATCH, SEQ))), {3: _bits})
                for draw in (_left_padding, _bits, _none):
                    yield Case(op, (*new, TensorType(boolean, (BATCH, PAST + SEQ)), *past), {3: draw})
                for leading in ((BATCH, heads), (1, 1)):
                    yield Case(op, (*new, TensorType(dtype, (*leading, SEQ, PAST + SEQ)), *past), {3: _additive})
            cross = _types(dtype, q, (BATCH, key_heads, KEYS, width), (BATCH, key_heads, KEYS, value_width))
            op = attention.Attention(0.3)
            yield Case(op, cross)
            yield Case(op, (*cross, TensorType(boolean, (BATCH, KEYS))), {3: _bits})
            yield Case(op, (*cross, TensorType(dtype, (BATCH, 1, SEQ, KEYS))), {3: _additive})
        for interleaved in (False, True):
            for rotated in (8, 4):
                for rows in (BATCH, 1):
                    angles = (rows, SEQ, rotated // 2)
                    yield Case(attention.Rotary(interleaved), _types(dtype, (BATCH, 3, SEQ, 8), angles, angles))


ALL_CASES: tuple[Case, ...] = tuple(
    case
    for cases in (
        unary_cases,
        binary_cases,
        reduction_cases,
        ordering_cases,
        shape_cases,
        indexing_cases,
        product_cases,
        norm_cases,
        attention_cases,
    )
    for case in cases()
)
