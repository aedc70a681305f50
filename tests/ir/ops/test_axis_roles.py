"""The role of each axis, held by execution: a wrong one changes a result that it must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.op import OPS, Array, Axis, Op, Role, result_arrays, result_types
from cgptc.ir.types import TensorType
from cgptc.testing.op_case import OpCase
from cgptc.testing.op_cases import op_cases
from cgptc.testing.tolerances import assert_t1

OPERATIONS = [op for op in OPS.values() if op.__module__.startswith("cgptc.") and op is not ops.Constant]

batch, seq, past = (Symbol(name, 1, 64).dim for name in ("batch", "seq", "past"))


@pytest.mark.parametrize("op", [op for op in OPERATIONS if "axis_roles" in vars(op)], ids=lambda op: op.name)
@given(data=st.data())
@settings(max_examples=max(24, settings().max_examples // 8), deadline=None)
def test_roles_hold_when_executed(op: type[Op], data: st.DataObject) -> None:
    _check_roles(data.draw(op_cases(op)).widened, data)


@pytest.mark.parametrize("op", [op for op in OPERATIONS if "axis_roles" not in vars(op)], ids=lambda op: op.name)
@given(data=st.data())
@settings(max_examples=max(6, settings().max_examples // 16), deadline=None)
def test_roles_that_a_family_declares_hold_for_each_member(op: type[Op], data: st.DataObject) -> None:
    _check_roles(data.draw(op_cases(op)).widened, data)


def _check_roles(case: OpCase, data: st.DataObject) -> None:
    results = result_types(case.op.infer(*case.types))
    for axis in case.op.axis_roles(*case.types):
        size = _size(case, results, axis)
        order = np.array(data.draw(st.permutations(list(range(size)))), np.int64)
        if axis.role is Role.PARALLEL:
            _check_order(case, axis, order, permuted=True)
            if size:
                _check_locality(case, axis, data.draw(st.integers(0, size - 1)))
        elif axis.role is Role.REDUCTION:
            assert all(position is None for position in axis.results), f"{axis} is still in the result"
            _check_order(case, axis, order, permuted=False)


def _size(case: OpCase, results: tuple[TensorType, ...], axis: Axis) -> int:
    """The size of the axis, which all tensors that have it share."""
    assert len(axis.operands) >= len(case.operands)
    assert len(axis.results) == len(results)
    sizes = [
        type_.static_shape[position]
        for type_, position in zip((*case.types, *results), (*axis.operands[: len(case.operands)], *axis.results), strict=True)
        if type_ is not None and position is not None
    ]
    assert axis.role is Role.MIXED or len(set(sizes)) == 1, f"{axis} joins axes of sizes {sizes}"
    return sizes[0]


def _run(case: OpCase, arrays: list[Array | None]) -> tuple[Array, ...]:
    return result_arrays(case.op.evaluate(*arrays))


def _check_order(case: OpCase, axis: Axis, order: Array, *, permuted: bool) -> None:
    """Reordering the operands along the axis reorders the results, or leaves them as they are."""
    arrays = case.arrays(seed=0)
    moved = [
        array if array is None or position is None else np.take(array, order, position)
        for array, position in zip(arrays, axis.operands, strict=False)
    ]
    for before, after, position in zip(_run(case, list(arrays)), _run(case, moved), axis.results, strict=True):
        expected = np.take(before, order, position) if permuted and position is not None else before
        assert_t1(expected, after, depth=8, where=f"{case}, {axis} in order {order}")


def _check_locality(case: OpCase, axis: Axis, index: int) -> None:
    """What stands at other places along the axis does not reach the results at ``index``, nor any result that lacks the axis."""
    here, elsewhere = case.arrays(seed=0), case.arrays(seed=1)
    mixed: list[Array | None] = []
    for array, other, position in zip(here, elsewhere, axis.operands, strict=False):
        if array is None or other is None or position is None:
            mixed.append(array)
            continue
        changed = other.copy()
        place = (slice(None),) * position + (index,)
        changed[place] = array[place]
        mixed.append(changed)
    for before, after, position in zip(_run(case, list(here)), _run(case, mixed), axis.results, strict=True):
        where = f"{case}, {axis} at {index}"
        if position is None:
            assert_t1(before, after, depth=8, where=where)
        else:
            assert_t1(np.take(before, index, position), np.take(after, index, position), depth=8, where=where)


def tensor(*shape: object) -> TensorType:
    return TensorType(f32, shape)  # type: ignore[arg-type]


TOKENS = TensorType(i64, (batch, seq))
HIDDEN = tensor(batch, seq, 32)
HEADS = tensor(batch, 4, seq, 8)


@pytest.mark.parametrize(
    ("op", "types"),
    [
        (ops.Add(), (HIDDEN, tensor(32))),
        (ops.Gelu(), (HIDDEN,)),
        (ops.Cast(f32), (HIDDEN,)),
        (ops.Linear(), (HIDDEN, tensor(32, 64), tensor(64))),
        (ops.MatMul(), (HIDDEN, tensor(32, 64))),
        (ops.LayerNorm(), (HIDDEN, tensor(32), tensor(32))),
        (ops.RmsNorm(), (HIDDEN, tensor(32))),
        (ops.Softmax(2), (HIDDEN,)),
        (ops.ReduceMean((2,)), (HIDDEN,)),
        (ops.Reshape((batch, seq, 4, 8)), (HIDDEN,)),
        (ops.Transpose((0, 2, 1)), (HIDDEN,)),
        (ops.Slice(2, 0, 16), (HIDDEN,)),
        (ops.Split(2, (16, 16)), (HIDDEN,)),
        (ops.Concat(2), (HIDDEN, HIDDEN)),
        (ops.Embedding(), (tensor(100, 32), TOKENS)),
        (ops.Gather(0), (tensor(100, 32), TOKENS)),
        (ops.Rotary(), (HEADS, tensor(1, seq, 4), tensor(1, seq, 4))),
        (ops.TopK(2, 2), (HIDDEN,)),
    ],
    ids=lambda part: part.name if isinstance(part, Op) else "",
)
def test_what_stands_between_attentions_is_parallel_along_seq(op: Op, types: tuple[TensorType, ...]) -> None:
    found = [
        axis.role
        for axis in op.axis_roles(*types)
        if any(position is not None and type_.shape[position] == seq for type_, position in zip(types, axis.operands, strict=False))
    ]
    assert found == [Role.PARALLEL]


@pytest.mark.parametrize(
    ("op", "types"),
    [
        (ops.CumSum(1), (HIDDEN,)),
        (ops.Softmax(1), (HIDDEN,)),
        (ops.ReduceMean((1,)), (HIDDEN,)),
        (ops.Flip((1,)), (HIDDEN,)),
        (ops.Slice(1, seq - 1, seq), (HIDDEN,)),
        (ops.Pad((0, 1, 0), (0, 0, 0)), (HIDDEN,)),
        (ops.Reshape((batch * seq, 32)), (HIDDEN,)),
        (ops.Attention(1.0, causal=True), (HEADS, HEADS, HEADS, TensorType(boolean, (batch, seq)))),
        (ops.MatMul(), (tensor(batch, 4, 1, seq), HEADS)),
        (ops.Positions(batch, seq), (TensorType(boolean, (batch, seq)),)),
        (ops.Conv1d(padding=1), (tensor(batch, 32, seq), tensor(8, 32, 3))),
    ],
    ids=lambda part: part.name if isinstance(part, Op) else "",
)
def test_what_mixes_positions_is_not_parallel_along_seq(op: Op, types: tuple[TensorType, ...]) -> None:
    for axis in op.axis_roles(*types):
        touched = [type_.shape[position] for type_, position in zip(types, axis.operands, strict=False) if position is not None]
        assert axis.role is not Role.PARALLEL or seq not in touched


def test_a_reshape_keeps_whole_axes_only() -> None:
    roles = ops.Reshape((batch, seq, 4, 8)).axis_roles(HIDDEN)
    assert roles == (Axis(Role.PARALLEL, (0,), (0,)), Axis(Role.PARALLEL, (1,), (1,)))
    assert ops.Reshape((6,)).axis_roles(tensor(2, 3)) == ()


def test_queries_that_see_everything_are_parallel() -> None:
    def query_role(op: ops.Attention) -> Role:
        (role,) = [axis.role for axis in op.axis_roles(HEADS, HEADS, HEADS) if axis.operands[0] == 2]
        return role

    assert query_role(ops.Attention(1.0)) is Role.PARALLEL
    assert query_role(ops.Attention(1.0, causal=True)) is Role.MIXED


def test_heads_that_share_keys_are_not_parallel() -> None:
    def parallel_heads(key_heads: int) -> bool:
        keys = tensor(batch, key_heads, seq, 8)
        return any(axis.operands[0] == 1 for axis in ops.Attention(1.0).axis_roles(HEADS, keys, keys))

    assert parallel_heads(4)
    assert not parallel_heads(2)
