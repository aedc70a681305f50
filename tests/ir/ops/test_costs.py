"""The formulas of work: a multiply-accumulate is two operations."""

from __future__ import annotations

import pytest

from cgptc.ir import ops
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import f16, f32, i8, i64
from cgptc.ir.op import OPS, Op
from cgptc.ir.types import TensorType

batch, seq = (Symbol(name, 1, 64).dim for name in ("batch", "seq"))


def t(*shape: object) -> TensorType:
    return TensorType(f32, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "types", "flops"),
    [
        (ops.Add(), (t(5, 1), t(7)), 35),
        (ops.Exp(), (t(5, 7),), 35),
        (ops.ReduceSum((0,)), (t(5, 7),), 35),
        (ops.MatMul(), (t(3, 5, 7), t(7, 11)), 2 * 3 * 5 * 7 * 11),
        (ops.MatMul(), (t(batch, seq, 8), t(8, 16)), 256 * batch * seq),
        (ops.Linear(), (t(5, 7), t(7, 11)), 2 * 5 * 7 * 11),
        (ops.Linear(), (t(5, 7), t(7, 11), t(11)), 2 * 5 * 7 * 11 + 5 * 11),
        (ops.QuantizedLinear(4), (t(5, 7), TensorType(i8, (11, 7)), t(11, 2), t(11)), 2 * 5 * 7 * 11 + 5 * 11),
        (ops.Conv1d(groups=2), (t(2, 6, 9), t(4, 3, 3)), 2 * (2 * 4 * 7) * (3 * 3)),
        (ops.Attention(1.0, True), (t(2, 4, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 5)), 2 * 4 * 3 * 3 * (2 * 8 + 2 * 5 + 5)),
        (ops.Rotary(), (t(2, 4, 3, 8), t(1, 3, 2), t(1, 3, 2)), 3 * (2 * 4 * 3 * 4)),
        (ops.RmsNorm(), (t(5, 7), t(7)), 4 * 35),
        (ops.Transpose((1, 0)), (t(5, 7),), 0),
        (ops.Gather(0), (t(5, 7), TensorType(i64, (3,))), 0),
    ],
    ids=lambda part: part.name if isinstance(part, Op) else "",
)
def test_operations_are_counted(op: Op, types: tuple[TensorType, ...], flops: Dim) -> None:
    assert op.cost(*types).flops == flops


def test_attention_with_a_past_works_on_all_keys() -> None:
    q, new, old = t(1, 2, 1, 8), t(1, 2, 1, 8), t(1, 2, 31, 8)
    cost = ops.Attention(1.0, causal=True).cost(q, new, new, None, old, old)
    assert cost.flops == 2 * 32 * (2 * 8 + 2 * 8 + 5)
    assert cost.bytes == 4 * (4 * 16 + 2 * (2 * 31 * 8) + 2 * (2 * 32 * 8))


def test_bytes_follow_the_dtype() -> None:
    assert ops.Exp().cost(TensorType(f16, (5, 7))).bytes == 2 * 2 * 35
    assert ops.Cast(f16).cost(t(5)).bytes == 4 * 5 + 2 * 5


def test_arithmetic_is_never_free() -> None:
    free = {
        *(op for op in OPS.values() if op.__module__.rpartition(".")[2] in ("shape", "indexing", "embedding", "constant")),
        *(ops.Not, ops.IsNan, ops.IsInf, ops.Cast, ops.Select),
        *(ops.Equal, ops.NotEqual, ops.Less, ops.LessEqual, ops.Greater, ops.GreaterEqual),
    }
    for op in OPS.values():
        if op.__module__.startswith("cgptc.ir.") and op not in free:
            assert op.cost is not Op.cost, f"{op.name} costs no operation"
