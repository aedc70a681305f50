"""Inference over symbolic dimensions: equality is structural, and nothing is given a size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.dims import Dim, Shape, Symbol
from cgptc.ir.dtypes import DType, boolean, f32, i8, i64
from cgptc.ir.op import Op, result_types
from cgptc.ir.ops.broadcast import broadcast_shapes
from cgptc.ir.types import TensorType

batch, seq, past = (Symbol(name, 1, 64).dim for name in ("batch", "seq", "past"))
total = past + seq


def t(*shape: object, dtype: DType = f32) -> TensorType:
    return TensorType(dtype, shape)  # type: ignore[arg-type]


HEADS, KEYS, PAST = t(batch, 4, seq, 8), t(batch, 2, seq, 8), t(batch, 2, past, 8)

INFERRED: list[tuple[Op, tuple[TensorType | None, ...], tuple[TensorType, ...]]] = [
    (ops.Add(), (t(batch, seq, 8), t(8)), (t(batch, seq, 8),)),
    (ops.Add(), (t(batch, 1, 8), t(seq, 1)), (t(batch, seq, 8),)),
    (ops.Less(), (t(seq, 1), t(total)), (t(seq, total, dtype=boolean),)),
    (ops.Select(), (t(batch, 1, dtype=boolean), t(), t(seq)), (t(batch, seq),)),
    (ops.ReduceMean((2,), keepdims=True), (t(batch, seq, 8),), (t(batch, seq, 1),)),
    (ops.ReduceMax((0, 2)), (t(batch, seq, 8),), (t(seq),)),
    (ops.TopK(3, 1), (t(batch, 9),), (t(batch, 3), t(batch, 3, dtype=i64))),
    (ops.Reshape((batch, seq, 4, 8)), (t(batch, seq, 32),), (t(batch, seq, 4, 8),)),
    (ops.Reshape((batch * seq, 8)), (t(seq, batch, 8),), (t(batch * seq, 8),)),
    (ops.Expand((batch, seq, 8)), (t(1, 8),), (t(batch, seq, 8),)),
    (ops.Concat(2), (PAST, KEYS), (t(batch, 2, total, 8),)),
    (ops.Slice(1, past, total), (t(batch, total),), (t(batch, seq),)),
    (ops.Slice(1, seq - 1, seq), (t(batch, seq),), (t(batch, 1),)),
    (ops.Slice(0, 1, 2 * seq, 2), (t(2 * seq),), (t(seq),)),
    (ops.Slice(0, 0, 2 * seq + 1, 2), (t(2 * seq + 1),), (t(seq + 1),)),
    (ops.Pad((0, 2), (0, past)), (t(batch, seq),), (t(batch, past + seq + 2),)),
    (ops.Split(1, (past, seq)), (t(batch, total),), (t(batch, past), t(batch, seq))),
    (ops.Gather(1), (t(batch, 9, 8), t(seq, dtype=i64)), (t(batch, seq, 8),)),
    (ops.MatMul(), (t(batch, 1, seq, 8), t(4, 8, total)), (t(batch, 4, seq, total),)),
    (ops.Linear(), (t(batch, seq, 8), t(8, 5)), (t(batch, seq, 5),)),
    (ops.QuantizedLinear(4), (t(batch, seq, 8), t(5, 8, dtype=i8), t(5, 2)), (t(batch, seq, 5),)),
    (ops.Conv1d(stride=2, padding=1), (t(batch, 3, 2 * seq), t(5, 3, 3)), (t(batch, 5, seq),)),
    (ops.Embedding(), (t(9, 8), t(batch, seq, dtype=i64)), (t(batch, seq, 8),)),
    (ops.Positions(batch, seq, past), (t(batch, total, dtype=boolean),), (t(batch, seq, dtype=i64),)),
    (ops.CrossEntropy("none"), (t(batch * seq, 9), t(batch * seq, dtype=i64)), (t(batch * seq),)),
    (
        ops.Attention(1.0, causal=True),
        (HEADS, KEYS, KEYS, t(batch, total, dtype=boolean), PAST, PAST),
        (HEADS, t(batch, 2, total, 8), t(batch, 2, total, 8)),
    ),
    (ops.Attention(1.0), (HEADS, PAST, PAST, t(1, 1, seq, past)), (HEADS, PAST, PAST)),
    (ops.Rotary(), (HEADS, t(1, seq, 4), t(1, seq, 4)), (HEADS,)),
]


@pytest.mark.parametrize(("op", "operands", "results"), INFERRED, ids=lambda part: part.name if isinstance(part, Op) else "")
def test_symbols_reach_the_results(op: Op, operands: tuple[TensorType | None, ...], results: tuple[TensorType, ...]) -> None:
    assert result_types(op.infer(*operands)) == results


DIMS = (1, 2, 3, batch, seq, total)


@given(st.lists(st.tuples(st.sampled_from(DIMS), st.booleans(), st.booleans()), max_size=4), st.integers(0, 4), st.integers(0, 4))
@settings(deadline=None)
def test_broadcasting_takes_from_either_side_what_is_not_one(axes: list[tuple[Dim, bool, bool]], left: int, right: int) -> None:
    one: Shape = tuple(1 if stretched else dim for dim, stretched, _ in axes)[left:]
    other: Shape = tuple(1 if stretched else dim for dim, _, stretched in axes)[right:]
    expected = [max((a, b), key=lambda dim: dim != 1) for a, b in itertools.zip_longest(one[::-1], other[::-1], fillvalue=1)][::-1]
    assert broadcast_shapes(one, other) == broadcast_shapes(other, one) == tuple(expected)


def test_symbols_in_attributes_are_bound_to_sizes() -> None:
    op = ops.Slice(1, past, total)
    assert op.attribute_symbols() == {"past", "seq"}
    assert op.bind({"past": 2, "seq": 3}) == ops.Slice(1, 2, 5)
