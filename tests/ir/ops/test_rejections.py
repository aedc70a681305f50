"""Every operand that an operation cannot take is refused with what was expected and what came."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import DTYPES, DType, boolean, f16, f32, i4, i8, i32, i64
from cgptc.ir.op import OPS, Op
from cgptc.ir.ops.binary import Binary, Comparison
from cgptc.ir.ops.elementwise import Predicate, Unary
from cgptc.ir.ops.reduction import Reduction
from cgptc.ir.types import TensorType
from cgptc.testing.op_case import CASES
from cgptc.testing.op_cases import op_cases

batch, seq, past = (Symbol(name, 1, 64).dim for name in ("batch", "seq", "past"))


def t(*shape: object, dtype: DType = f32) -> TensorType:
    return TensorType(dtype, shape)  # type: ignore[arg-type]


def integers(*shape: object) -> TensorType:
    return t(*shape, dtype=i64)


def bools(*shape: object) -> TensorType:
    return t(*shape, dtype=boolean)


Q, K = t(2, 4, 3, 8), t(2, 2, 3, 8)

REJECTIONS: list[tuple[Op, tuple[TensorType | None, ...], str]] = [
    (ops.Gelu("sigmoid"), (t(2),), "'approximate' must be one of none, tanh, got 'sigmoid'"),
    (ops.Select(), (t(2), t(2), t(2)), "'condition' must have bool elements of at least 8 bits, got f32[2]"),
    (ops.Select(), (bools(2), t(2), integers(2)), "'y' must have elements of type f32, got i64[2]"),
    (ops.Select(), (bools(3), t(2), t(2)), "axis -1 is 3 in one and 2 in the other"),
    (ops.CumSum(2), (t(2, 3),), "'axis' must be within 0 and 1 for f32[2, 3], got 2"),
    (ops.CumSum(-1), (t(2, 3),), "'axis' must be within 0 and 1 for f32[2, 3], got -1"),
    (ops.CumSum(0), (bools(2),), "'x' must have floating-point or integer elements"),
    (ops.Softmax(0), (integers(2),), "'x' must have floating-point elements of at least 8 bits, got i64[2]"),
    (ops.LogSoftmax(1), (t(2),), "'axis' must be within 0 and 0 for f32[2], got 1"),
    (ops.ArgMax(0), (t(0, 3),), "'x' must have elements along axis 0, got f32[0, 3]"),
    (ops.ArgMin(1), (t(2),), "'axis' must be within 0 and 0 for f32[2], got 1"),
    (ops.TopK(4, 0), (t(3),), "'k' must be within 0 and the size of axis 0 of f32[3], got 4"),
    (ops.TopK(-1, 0), (t(3),), "'k' must be within 0"),
    (ops.Sort(0), (bools(3),), "'x' must have floating-point or integer elements of at least 8 bits, got bool[3]"),
    (ops.Reshape((3, 3)), (t(2, 4),), "'shape' [3, 3] must have the 8 elements of f32[2, 4], got 9"),
    (ops.Reshape((batch, 5)), (t(batch, seq),), "'shape' [batch, 5] must have the batch*seq elements of f32[batch, seq], got 5*batch"),
    (ops.Transpose((0, 0)), (t(2, 3),), "'permutation' must order the 2 axes of f32[2, 3], got (0, 0)"),
    (ops.Expand((3,)), (t(2, 3),), "'shape' [3] must have at least the rank of f32[2, 3]"),
    (ops.Expand((2, 4)), (t(2, 3),), "f32[2, 3] must broadcast to [2, 4], but 3 is neither 1 nor 4"),
    (ops.Concat(0), (), "'xs' must be at least one tensor, got none"),
    (ops.Concat(0), (t(2, 3), t(2, 4)), "'xs[1]' must equal 'xs[0]' f32[2, 3] but along axis 0, got f32[2, 4]"),
    (ops.Concat(0), (t(2), integers(2)), "'xs[1]' must have elements of type f32, got i64[2]"),
    (ops.Slice(0, 0, 5), (t(4),), "'stop' must not exceed axis 0 of f32[4], got 0 to 5"),
    (ops.Slice(0, 3, 2), (t(4),), "'stop' must not be below 'start', got 3 to 2"),
    (ops.Slice(0, -1, 2), (t(4),), "'start' must not be negative, got -1 to 2"),
    (ops.Slice(0, 0, seq + 1), (t(seq),), "'stop' must not exceed axis 0 of f32[seq], got 0 to seq + 1"),
    (ops.Slice(0, 0, 2, 0), (t(4),), "'step' must be at least 1, got 0"),
    (ops.Pad((0,), (0,)), (t(2, 3),), "'low' must be 2 counts, none negative, for f32[2, 3], got [0]"),
    (ops.Pad((0,), (-1,)), (t(2),), "'high' must be 1 counts, none negative, for f32[2], got [-1]"),
    (ops.Flip((1, 0)), (t(2, 3),), "'axes' must be ascending axes within 0 and 1 for f32[2, 3], got (1, 0)"),
    (ops.Split(0, (1, 2)), (t(4),), "'sizes' must add up to axis 0 of f32[4], got [1, 2]"),
    (ops.Split(0, (-1, 5)), (t(4),), "'sizes' must not be negative, got [-1, 5]"),
    (ops.Split(0, ()), (t(0),), "'sizes' must add up to axis 0 of f32[0], got []"),
    (ops.Gather(1), (t(4), integers(2)), "'axis' must be within 0 and 0 for f32[4], got 1"),
    (ops.Gather(0), (t(4), t(2)), "'indices' must have integer elements of at least 8 bits, got f32[2]"),
    (ops.GatherElements(0), (t(4, 3), integers(2, 2)), "'indices' must have shape [2, 3], got i64[2, 2]"),
    (ops.GatherElements(0), (t(4, 3), integers(2)), "'indices' must have rank 2, got i64[2]"),
    (ops.GatherNd(), (t(4, 3), integers(2, 3)), "the last axis of 'indices' must be within 1 and 2 for f32[4, 3], got i64[2, 3]"),
    (ops.GatherNd(), (t(4, 3), integers(2, seq)), "the last axis of 'indices' must be within 1 and 2 for f32[4, 3], got i64[2, seq]"),
    (ops.GatherNd(1), (t(4, 3), integers(2, 1)), "'indices' must share 1 leading axes with f32[4, 3], got i64[2, 1]"),
    (ops.GatherNd(2), (t(4, 3), integers(4, 3)), "'indices' must have rank at least 3, got i64[4, 3]"),
    (ops.ScatterElements(0, "max"), (t(4), integers(2), t(2)), "'reduction' must be one of none, add, got 'max'"),
    (ops.ScatterElements(0), (t(4), integers(2), t(3)), "'updates' must have shape [2], got f32[3]"),
    (ops.ScatterElements(0, "add"), (bools(4), integers(2), bools(2)), "'x' must have floating-point or integer elements"),
    (ops.ScatterNd(), (t(4, 3), integers(2, 1), t(2)), "'updates' must have shape [2, 3], got f32[2]"),
    (ops.ScatterNd(), (t(4), integers(2, 1), integers(2)), "'updates' must have elements of type f32, got i64[2]"),
    (ops.ScatterNd("add"), (bools(4), integers(2, 1), bools(2)), "'x' must have floating-point or integer elements"),
    (ops.MatMul(), (t(2, 3), t(4, 5)), "axis 0 of 'b' f32[4, 5], which meets the last of 'a' f32[2, 3], must be 3, got 4"),
    (ops.MatMul(), (t(3), t(3, 5)), "'a' must have rank at least 2, got f32[3]"),
    (
        ops.MatMul(),
        (t(batch, 2, 3), t(seq, 3, 5)),
        "'a' [batch] and 'b' [seq] must broadcast, but axis -1 is batch in one and seq in the other",
    ),
    (ops.MatMul(), (t(2, 3), t(3, 5, dtype=f16)), "'b' must have elements of type f32, got f16[3, 5]"),
    (ops.Linear(), (t(2, 3), t(5, 3)), "axis 0 of 'weight' f32[5, 3], which meets the last of 'x' f32[2, 3], must be 3, got 5"),
    (ops.Linear(), (t(2, 3), t(3, 5), t(3)), "'bias' must have shape [5], got f32[3]"),
    (ops.Linear(), (t(2, 3), t(3)), "'weight' must have rank 2, got f32[3]"),
    (ops.Linear(), (integers(2, 3), integers(3, 5)), "'x' must have floating-point elements of at least 8 bits, got i64[2, 3]"),
    (ops.QuantizedLinear(), (t(2, 3), t(5, 3), t(5, 1)), "'weight' must have elements of type i4 or i8, got f32[5, 3]"),
    (
        ops.QuantizedLinear(),
        (t(2, 4), t(5, 3, dtype=i8), t(5, 1)),
        "axis 1 of 'weight' i8[5, 3], which meets",
    ),
    (ops.QuantizedLinear(2), (t(2, 3), t(5, 3, dtype=i8), t(5, 1)), "'scales' must have shape [5, 2], got f32[5, 1]"),
    (ops.QuantizedLinear(2, "tensor"), (t(2, 3), t(5, 3, dtype=i8), t(5, 2)), "'block' must be 0 where activations are per tensor, got 2"),
    (ops.QuantizedLinear(0, "rows"), (t(2, 3), t(5, 3, dtype=i8), t(5, 1)), "'activations' must be one of exact, blocks, tensor"),
    (ops.QuantizedLinear(), (t(2, 3), t(5, 3, dtype=i8), t(5, 1), t(4)), "'bias' must have shape [5], got f32[4]"),
    (ops.Conv1d(), (t(2, 3), t(5, 3, 3)), "'x' must have rank 3, got f32[2, 3]"),
    (ops.Conv1d(), (t(2, 4, 9), t(5, 3, 3)), "axis 1 of 'x' f32[2, 4, 9] for 1 groups of 'weight' f32[5, 3, 3] must be 3, got 4"),
    (ops.Conv1d(groups=2), (t(2, 6, 9), t(5, 3, 3)), "axis 0 of 'weight' f32[5, 3, 3] must be a multiple of the 2 groups"),
    (ops.Conv1d(stride=0), (t(2, 3, 9), t(5, 3, 3)), "'stride' must be at least 1, got 0"),
    (ops.Conv1d(dilation=4), (t(2, 3, 8), t(5, 3, 3)), "axis 2 of 'x' f32[2, 3, 8] must hold the kernel of 'weight' f32[5, 3, 3]"),
    (ops.LayerNorm(), (t(2, 3), t(2)), "'weight' must have shape [3], got f32[2]"),
    (ops.LayerNorm(), (t(2, 3), None, t(2)), "'bias' must have shape [3], got f32[2]"),
    (ops.LayerNorm(), (t(),), "'x' must have rank at least 1, got f32[]"),
    (ops.RmsNorm(), (t(2, 3), t(3, dtype=f16)), "'weight' must have elements of type f32, got f16[3]"),
    (ops.Attention(1.0), (integers(2, 4, 3, 8), K, K), "'q' must have floating-point elements"),
    (ops.Attention(1.0), (t(2, 3, 8), K, K), "'q' must have rank 4, got f32[2, 3, 8]"),
    (ops.Attention(1.0), (Q, t(2, 3, 3, 8), t(2, 3, 3, 8)), "the heads of 'q' f32[2, 4, 3, 8] must be a multiple of those of 'k', got 3"),
    (ops.Attention(1.0), (Q, t(2, 2, 3, 4), K), "'k' must have shape [2, 2, 3, 8], got f32[2, 2, 3, 4]"),
    (ops.Attention(1.0), (Q, K, t(2, 2, 5, 8)), "'v' must have shape [2, 2, 3, 8], got f32[2, 2, 5, 8]"),
    (ops.Attention(1.0, True), (Q, t(2, 2, 5, 8), t(2, 2, 5, 8)), "for causal attention from 'q' f32[2, 4, 3, 8], must be 3, got 5"),
    (ops.Attention(1.0, False, 4), (Q, K, K), "'window' must be at least 1 and come with 'causal', got 4"),
    (ops.Attention(1.0, True, 0), (Q, K, K), "'window' must be at least 1 and come with 'causal', got 0"),
    (ops.Attention(1.0), (Q, K, K, bools(2, 4)), "'mask' must have shape [2, 3], got bool[2, 4]"),
    (ops.Attention(1.0), (Q, K, K, t(2, 2, 3, 3)), "'mask' must be bool[2, 3] or f32[2 or 1, 4 or 1, 3, 3], got f32[2, 2, 3, 3]"),
    (ops.Attention(1.0), (Q, K, K, integers(2, 3)), "'mask' must have elements of type f32, got i64[2, 3]"),
    (ops.Attention(1.0), (Q, K, K, None, K), "'past_k' and 'past_v' must come together, got f32[2, 2, 3, 8] and none"),
    (ops.Attention(1.0), (Q, K, K, None, K, Q), "'past_v' must have shape [2, 2, 3, 8], got f32[2, 4, 3, 8]"),
    (
        ops.Rotary(),
        (t(2, 4, 3, 8), t(3, 4), t(3, 4)),
        "'cos' must have shape [2, 3, 4], the first maybe 1, the last maybe less, got f32[3, 4]",
    ),
    (ops.Rotary(), (t(2, 4, 3, 8), t(1, 3, 5), t(1, 3, 5)), "the last axis of 'cos' f32[1, 3, 5] must be static and within 1 and 4"),
    (ops.Rotary(), (t(2, 4, 3, 8), t(1, 3, 4), t(2, 3, 4)), "'sin' must have shape [1, 3, 4], got f32[2, 3, 4]"),
    (ops.Embedding(), (t(9), integers(2)), "'table' must have rank 2, got f32[9]"),
    (ops.Embedding(), (t(9, 3), t(2)), "'indices' must have integer elements of at least 8 bits, got f32[2]"),
    (ops.Positions(2, 3, 1), (bools(2, 3),), "'mask' must have shape [2, 4], got bool[2, 3]"),
    (ops.Positions(2, 3), (integers(2, 3),), "'mask' must have elements of type bool, got i64[2, 3]"),
    (ops.CrossEntropy("median"), (t(2, 3), integers(2)), "'reduction' must be one of mean, sum, none, got 'median'"),
    (ops.CrossEntropy(label_smoothing=1.5), (t(2, 3), integers(2)), "'label_smoothing' must be within 0 and 1, got 1.5"),
    (ops.CrossEntropy(), (t(2, 3), integers(3)), "'target' must have shape [2], got i64[3]"),
    (ops.CrossEntropy(), (t(2, 3), t(2, dtype=i32)), "'target' must have elements of type i64, got i32[2]"),
    (ops.CrossEntropy(), (t(2, 0), integers(2)), "'logits' must have classes along axis 1, got f32[2, 0]"),
    (ops.MseLoss(), (t(2, 3), t(3)), "'y' must have shape [2, 3], got f32[3]"),
    (ops.Iota(-1), (), "'size' must not be negative, got -1"),
    (ops.Iota(2, boolean), (), "'dtype' must be a floating-point or integer type of at least 8 bits, got bool"),
    (ops.DimSize(2, boolean), (), "'dtype' must be a floating-point or integer type of at least 8 bits, got bool"),
]

FAMILIES = (Unary, Predicate, Binary, Comparison, Reduction)


@pytest.mark.parametrize(("op", "types", "message"), REJECTIONS, ids=lambda part: part.name if isinstance(part, Op) else "")
def test_an_operand_is_refused_with_what_was_expected(op: Op, types: tuple[TensorType | None, ...], message: str) -> None:
    with pytest.raises(OpTypeError) as error:
        op.infer(*types)
    assert message in str(error.value)


def test_every_operation_refuses_something() -> None:
    tolerant = {ops.Constant, ops.Cast}  # take anything
    known = {type(op) for op, _, _ in REJECTIONS} | tolerant
    assert not {op.name for op in OPS.values() if op.__module__.startswith("cgptc.") and op not in known and not issubclass(op, FAMILIES)}


def members(family: type[Op]) -> list[type[Op]]:
    return [op for op in OPS.values() if issubclass(op, family)]


@pytest.mark.parametrize("op", [*members(Unary), *members(Predicate)], ids=lambda op: op.name)
def test_functions_of_one_tensor_refuse_other_dtypes(op: type[Op]) -> None:
    wrong = t(2) if op is ops.Not else bools(2)
    for type_ in (wrong, t(2, dtype=i4)):
        with pytest.raises(OpTypeError, match=rf"'x' must have .* elements of at least 8 bits, got {type_.dtype}\[2\]"):
            op().infer(type_)


@pytest.mark.parametrize("op", [*members(Binary), *members(Comparison)], ids=lambda op: op.name)
def test_functions_of_two_tensors_refuse_mixed_and_unfitting_operands(op: type[Op]) -> None:
    dtype = boolean if op in (ops.And, ops.Or, ops.Xor) else f32
    with pytest.raises(OpTypeError, match=rf"'y' must have elements of type {dtype}, got i32\[2\]"):
        op().infer(t(2, dtype=dtype), t(2, dtype=i32))
    with pytest.raises(OpTypeError, match=r"'x' must have .* elements of at least 8 bits, got i4\[2\]"):
        op().infer(t(2, dtype=i4), t(2, dtype=i4))
    with pytest.raises(
        OpTypeError, match=r"'x' \[batch, 2\] and 'y' \[seq, 2\] must broadcast, but axis -2 is batch in one and seq in the other"
    ):
        op().infer(t(batch, 2, dtype=dtype), t(seq, 2, dtype=dtype))


@pytest.mark.parametrize("op", members(Reduction), ids=lambda op: op.name)
def test_reductions_refuse_other_dtypes_and_axes(op: type[Op]) -> None:
    assert issubclass(op, Reduction)
    right, wrong = (bools, t) if op in (ops.ReduceAny, ops.ReduceAll) else (t, bools)
    with pytest.raises(OpTypeError, match=r"'x' must have .* elements of at least 8 bits, got"):
        op((0,)).infer(wrong(2))
    for axes in ((2,), (-1,), (1, 0), (0, 0)):
        with pytest.raises(OpTypeError, match=r"'axes' must be ascending axes within 0 and 1 for .*\[2, 3\], got"):
            op(axes).infer(right(2, 3))


@given(data=st.data())
@settings(deadline=None)
def test_operands_of_any_type_are_accepted_or_refused_with_an_op_type_error(data: st.DataObject) -> None:
    case = data.draw(op_cases(data.draw(st.sampled_from(sorted(CASES, key=lambda op: op.name)))))
    strange = st.builds(
        TensorType, st.sampled_from(list(DTYPES.values())), st.lists(st.sampled_from([0, 1, 2, seq, past + seq]), max_size=5).map(tuple)
    )
    types = list(case.types)
    for index in range(len(types)):
        if data.draw(st.booleans()):
            types[index] = data.draw(strange)
    with contextlib.suppress(OpTypeError):
        case.op.infer(*types)


def test_reading_beyond_an_axis_is_an_error_when_sizes_are_known() -> None:
    bound = ops.Slice(0, past, past + seq).bind({"past": 2, "seq": 3})
    with pytest.raises(ValueError, match=r"slice 2 to 5 is not within axis 0 of \(4,\)"):
        bound.evaluate(np.zeros(4))
    with pytest.raises(ValueError, match=r"axis 0 of \(2,\) has no 3 elements"):
        ops.TopK(3, 0).evaluate(np.zeros(2))
    with pytest.raises(IndexError):
        ops.Gather(0).evaluate(np.zeros(2), np.array([2]))
