"""What operations mean where a formula alone does not say: special numbers, ties, masks, narrow dtypes."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from cgptc.ir import ops
from cgptc.ir.op import Array, Op
from cgptc.testing.tolerances import assert_t0, assert_t1

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, 40.0, -40.0, 0.5, -0.5, 1.5, 2.5]

UNARY = [
    "neg", "abs", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "erf", "floor", "ceil", "round", "relu",
    "silu", "gelu", "isnan", "isinf",
]  # fmt: skip
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "atan2", "eq", "ne", "lt", "le", "gt", "ge"]
OPERATIONS: dict[str, type[Op]] = {
    "isnan": ops.IsNan, "isinf": ops.IsInf, "eq": ops.Equal, "ne": ops.NotEqual, "lt": ops.Less, "le": ops.LessEqual, "gt": ops.Greater,
    "ge": ops.GreaterEqual,
}  # fmt: skip


def operation(name: str) -> Op:
    return OPERATIONS.get(name, getattr(ops, name.capitalize(), None))()  # type: ignore[misc]


def same_kinds(expected: Array, actual: Array) -> bool:
    """NaN, infinities and zeros stand at the same places with the same signs."""
    same = (np.isnan(expected) & np.isnan(actual)) | ((np.sign(expected) == np.sign(actual)) & (np.isinf(expected) == np.isinf(actual)))
    return bool(same.all())


@pytest.mark.parametrize("name", UNARY)
def test_special_numbers_go_where_torch_sends_them(name: str) -> None:
    x = np.array(SPECIAL)
    function = getattr(torch, name, None) or getattr(torch.nn.functional, name)
    expected = function(torch.from_numpy(x)).double().numpy()
    assert same_kinds(expected, operation(name).evaluate(x).astype(np.float64))


@pytest.mark.parametrize("name", BINARY)
def test_pairs_of_special_numbers_go_where_torch_sends_them(name: str) -> None:
    x, y = (part.reshape(-1) for part in np.meshgrid(SPECIAL, SPECIAL))
    expected = getattr(torch, name)(torch.from_numpy(x), torch.from_numpy(y)).double().numpy()
    assert same_kinds(expected, operation(name).evaluate(x, y).astype(np.float64))


def test_the_sign_of_nan_is_nan() -> None:
    assert np.isnan(ops.Sign().evaluate(np.array([math.nan])))[0]


def test_division_and_remainder_of_integers_are_pythons() -> None:
    x, y = (part.reshape(-1).astype(np.int32) for part in np.meshgrid(range(-7, 8), [-3, -2, -1, 1, 2, 3]))
    assert ops.FloorDiv().evaluate(x, y).tolist() == [int(a) // int(b) for a, b in zip(x, y, strict=True)]
    assert ops.Mod().evaluate(x, y).tolist() == [int(a) % int(b) for a, b in zip(x, y, strict=True)]


def test_negative_powers_of_integers_are_cut_towards_zero() -> None:
    x, y = (part.reshape(-1) for part in np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)))
    known = (x != 0) | (y >= 0)
    expected = [int(float(a) ** float(b)) for a, b in zip(x[known], y[known], strict=True)]
    assert ops.Pow().evaluate(x[known], y[known]).tolist() == expected


def test_halves_round_to_the_even_integer() -> None:
    assert ops.Round().evaluate(np.array([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_casting_cuts_towards_zero_and_tells_truth_from_zero() -> None:
    from cgptc.ir.dtypes import bf16, boolean, f16, i4, i8

    x = np.array([1.9, -1.9, 0.0, 0.1])
    assert ops.Cast(i8).evaluate(x).tolist() == [1, -1, 0, 0]
    assert ops.Cast(i4).evaluate(x).tolist() == [1, -1, 0, 0]
    assert ops.Cast(boolean).evaluate(x).tolist() == [True, True, False, True]
    assert np.isinf(ops.Cast(f16).evaluate(np.array([1e6])))[0]
    assert ops.Cast(bf16).evaluate(np.array([1.00390625])).tolist() == [1.0]  # a tie, to even


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_narrow_sums_do_not_stagnate(dtype: type) -> None:
    ones = np.ones(4096, dtype)
    assert ops.ReduceSum((0,)).evaluate(ones) == 4096
    assert ops.CumSum(0).evaluate(ones)[-1] == 4096
    assert ops.MatMul().evaluate(ones[None], ones[:, None]) == 4096
    assert ops.Linear().evaluate(ones, ones[:, None], None) == 4096
    assert ops.ScatterElements(0, "add").evaluate(np.zeros(1, dtype), np.zeros(4096, np.int64), ones) == 4096
    assert ops.ReduceMean((0,)).evaluate(ones) == 1


def test_statistics_of_large_f16_numbers_do_not_overflow() -> None:
    x = np.array([[300.0, 400.0, -500.0, 600.0]], np.float16)
    wide = x.astype(np.float64)
    assert_t0(ops.RmsNorm(1e-5).evaluate(wide, None).astype(np.float16), ops.RmsNorm(1e-5).evaluate(x, None))
    assert_t0(ops.LayerNorm(1e-5).evaluate(wide, None).astype(np.float16), ops.LayerNorm(1e-5).evaluate(x, None))


def test_equal_elements_keep_their_order() -> None:
    x = np.array([1, 3, 1, 3, 2])
    assert ops.Sort(0).evaluate(x)[1].tolist() == [0, 2, 4, 1, 3]
    assert ops.Sort(0, descending=True).evaluate(x)[1].tolist() == [1, 3, 4, 0, 2]
    assert ops.TopK(3, 0).evaluate(x)[1].tolist() == [1, 3, 4]
    assert ops.TopK(2, 0, largest=False).evaluate(x)[1].tolist() == [0, 2]
    assert ops.ArgMax(0).evaluate(x) == 1
    assert ops.ArgMin(0).evaluate(x) == 0


def test_equal_elements_keep_their_order_in_long_rows() -> None:
    x = np.random.default_rng(0).integers(0, 3, 500)  # short rows are sorted by insertion, which is stable anyway
    ascending = sorted(range(500), key=lambda index: x[index])
    assert ops.Sort(0).evaluate(x)[1].tolist() == ascending
    descending = sorted(range(500), key=lambda index: -x[index])
    assert ops.Sort(0, descending=True).evaluate(x)[1].tolist() == descending


def test_nan_is_the_largest() -> None:
    x = np.array([1.0, math.nan, math.inf, math.nan])
    assert ops.Sort(0).evaluate(x)[1].tolist() == [0, 2, 1, 3]
    assert ops.TopK(3, 0).evaluate(x)[1].tolist() == [1, 3, 2]
    assert ops.ArgMax(0).evaluate(x) == ops.ArgMin(0).evaluate(x) == 1
    assert np.isnan(ops.ReduceMax((0,)).evaluate(x))


def test_the_extremes_of_nothing_are_the_dtypes_own() -> None:
    assert ops.ReduceMax((0,)).evaluate(np.zeros(0, np.float32)) == -math.inf
    assert ops.ReduceMin((0,)).evaluate(np.zeros(0, ml_dtypes.bfloat16)) == math.inf
    assert ops.ReduceMax((0,)).evaluate(np.zeros(0, np.int8)) == -128
    assert ops.ReduceMin((0,)).evaluate(np.zeros(0, np.uint8)) == 255


def test_a_softmax_row_that_is_hidden_is_nan() -> None:
    x = np.array([[-math.inf, -math.inf], [0.0, -math.inf]])
    assert np.isnan(ops.Softmax(1).evaluate(x)[0]).all()
    assert ops.Softmax(1).evaluate(x)[1].tolist() == [1, 0]


def test_a_repeated_index_keeps_the_last_update() -> None:
    x, updates = np.zeros(3), np.array([1.0, 2.0, 3.0])
    assert ops.ScatterElements(0).evaluate(x, np.array([1, 1, -1]), updates).tolist() == [0, 2, 3]
    assert ops.ScatterNd().evaluate(x, np.array([[1], [1], [-1]]), updates).tolist() == [0, 2, 3]
    assert x.tolist() == [0, 0, 0]


def random(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape)


def test_a_query_that_sees_nothing_gets_zero() -> None:
    q, k, v = random(2, 2, 3, 4), random(2, 2, 3, 4), random(2, 2, 3, 5)
    padding = np.array([[True, True, True], [False, False, True]])
    y, _, _ = ops.Attention(0.5, causal=True).evaluate(q, k, v, padding)
    assert (y[1, :, :2] == 0).all()
    assert (y[0] != 0).all()
    assert (y[1, :, 2] != 0).all()
    hidden = np.zeros((1, 1, 3, 3))
    hidden[..., 1, :] = -np.inf
    y, _, _ = ops.Attention(0.5).evaluate(q, k, v, hidden)
    assert (y[:, :, 1] == 0).all()
    assert (y[:, :, [0, 2]] != 0).all()


def test_a_left_padded_row_equals_the_row_alone() -> None:
    q, k, v = random(1, 4, 5, 4), random(1, 2, 5, 4), random(1, 2, 5, 4)
    op = ops.Attention(0.5, causal=True, window=2)
    padding = np.array([[False, False, True, True, True]])
    padded, _, _ = op.evaluate(q, k, v, padding)
    alone, _, _ = op.evaluate(q[:, :, 2:], k[:, :, 2:], v[:, :, 2:])
    assert_t1(alone, padded[:, :, 2:], depth=4)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_decoding_with_a_past_equals_attending_at_once(window: int | None) -> None:
    q, k, v = random(2, 4, 6, 4), random(2, 2, 6, 4), random(2, 2, 6, 4)
    op = ops.Attention(0.5, causal=True, window=window)
    whole, _, _ = op.evaluate(q, k, v)
    old_k, old_v = k[:, :, :0], v[:, :, :0]
    rows = []
    for first, last in ((0, 3), (3, 4), (4, 6)):
        new = np.s_[:, :, first:last]
        y, old_k, old_v = op.evaluate(q[new], k[new], v[new], None, old_k, old_v)
        rows.append(y)
    assert_t1(whole, np.concatenate(rows, axis=2), depth=4)
    assert_t0(k, old_k)
    assert_t0(v, old_v)


def test_a_window_of_one_sees_the_token_alone() -> None:
    q, k, v = random(1, 2, 4, 4), random(1, 2, 4, 4), random(1, 2, 4, 4)
    y, _, _ = ops.Attention(0.5, causal=True, window=1).evaluate(q, k, v)
    assert_t1(v, y, depth=1)


def test_head_h_reads_its_groups_keys() -> None:
    q, k, v = random(1, 6, 3, 4), random(1, 2, 3, 4), random(1, 2, 3, 4)
    grouped, _, _ = ops.Attention(0.5).evaluate(q, k, v)
    for head in range(6):
        one, _, _ = ops.Attention(0.5).evaluate(q[:, [head]], k[:, [head // 3]], v[:, [head // 3]])
        assert_t1(one, grouped[:, [head]], depth=2)


def test_rotary_turns_the_pairs_that_its_layout_names() -> None:
    x = np.arange(1.0, 7.0).reshape(1, 1, 1, 6)
    cos, sin = np.zeros((1, 1, 2)), np.ones((1, 1, 2))  # a quarter turn: (x1, x2) becomes (-x2, x1)
    assert ops.Rotary().evaluate(x, cos, sin).reshape(-1).tolist() == [-3, -4, 1, 2, 5, 6]
    assert ops.Rotary(interleaved=True).evaluate(x, cos, sin).reshape(-1).tolist() == [-2, 1, -4, 3, 5, 6]


def test_positions_do_not_count_padding() -> None:
    mask = np.array([[False, False, True, True, True], [True, True, True, True, True]])
    assert ops.Positions(2, 3, 2).evaluate(mask).tolist() == [[0, 1, 2], [2, 3, 4]]
    assert ops.Positions(2, 5, 0).evaluate(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert ops.Positions(2, 3, 2).evaluate(None).tolist() == [[2, 3, 4], [2, 3, 4]]


def test_a_loss_over_ignored_rows_alone_is_nan_in_the_mean_and_zero_in_the_sum() -> None:
    logits, target = random(2, 3), np.array([-100, -100])
    assert np.isnan(ops.CrossEntropy().evaluate(logits, target))
    assert ops.CrossEntropy("sum").evaluate(logits, target) == 0


def test_defaults_are_pytorchs() -> None:
    assert ops.LayerNorm().eps == torch.nn.LayerNorm(1).eps
    loss = torch.nn.CrossEntropyLoss()
    assert ops.CrossEntropy() == ops.CrossEntropy(loss.reduction, loss.ignore_index, loss.label_smoothing)
    assert ops.Gelu().approximate == torch.nn.GELU().approximate
    convolution = torch.nn.Conv1d(1, 1, 1)
    attributes = (convolution.stride, convolution.padding, convolution.dilation)
    assert (ops.Conv1d().stride, ops.Conv1d().padding, ops.Conv1d().dilation) == tuple(size for (size,) in attributes)  # type: ignore[misc]
