"""Every operation against PyTorch in float64 on the same stored operands.

In float64 the two agree to T1; in f32, f16 and bf16 to T2, whose bound each operation's own arithmetic gives; integers, comparisons and
movement agree exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cgptc.ir import ops
from cgptc.ir.dtypes import DType, from_numpy, i4
from cgptc.ir.op import OPS, Array, Op, result_arrays
from cgptc.ir.ops.precision import computing_dtype
from cgptc.testing.op_case import OpCase
from cgptc.testing.op_cases import op_cases
from cgptc.testing.tolerances import assert_t0, assert_t1, assert_t2

Tensor: TypeAlias = torch.Tensor
Reference: TypeAlias = Callable[..., Any]

OPERATIONS = [op for op in OPS.values() if op.__module__.startswith("cgptc.") and op is not ops.Constant]


def reduce_(function: Callable[..., Tensor]) -> Reference:
    """A fold of PyTorch along several axes, one at a time from the last."""

    def reference(op: Any, x: Tensor) -> Tensor:
        for axis in reversed(op.axes):
            x = function(x, axis, op.keepdims)
        return x

    return reference


def extreme(function: Callable[..., Tensor], ending: str) -> Reference:
    """PyTorch has no largest element of nothing: one row of the dtype's lowest (or highest) stands for it."""

    def fold(x: Tensor, axis: int, keepdims: bool) -> Tensor:
        if x.shape[axis] == 0:
            infinite = {"min": -torch.inf, "max": torch.inf}[ending]
            worst = infinite if x.is_floating_point() else getattr(torch.iinfo(x.dtype), ending)
            x = torch.full([1 if i == axis else size for i, size in enumerate(x.shape)], worst, dtype=x.dtype)
        return function(x, axis, keepdims)

    return reduce_(fold)


def position(op: ops.ArgMax | ops.ArgMin, x: Tensor) -> Tensor:
    order = torch.sort(x, dim=op.axis, stable=True, descending=isinstance(op, ops.ArgMax)).indices
    first = order.narrow(op.axis, 0, 1)
    return first if op.keepdims else first.squeeze(op.axis)


def top_k(op: ops.TopK, x: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(x, dim=op.axis, stable=True, descending=op.largest)
    return values.narrow(op.axis, 0, op.k), indices.narrow(op.axis, 0, op.k)


def pad(op: ops.Pad, x: Tensor) -> Tensor:
    result = torch.full([int(low + size + high) for low, size, high in zip(op.low, x.shape, op.high, strict=True)], op.value).to(x.dtype)
    result[tuple(slice(int(low), int(low) + size) for low, size in zip(op.low, x.shape, strict=True))] = x
    return result


def slice_(op: ops.Slice, x: Tensor) -> Tensor:
    return x.index_select(op.axis, torch.arange(int(op.start), int(op.stop), op.step))  # type: ignore[arg-type]


def gather(op: ops.Gather, x: Tensor, indices: Tensor) -> Tensor:
    flat = x.index_select(op.axis, indices.reshape(-1) % x.shape[op.axis])
    return flat.reshape([*x.shape[: op.axis], *indices.shape, *x.shape[op.axis + 1 :]])


def gather_nd(op: ops.GatherNd, x: Tensor, indices: Tensor) -> Tensor:
    rows = indices.shape[:-1]
    result = torch.empty([*rows, *x.shape[op.batch_dims + indices.shape[-1] :]], dtype=x.dtype)
    for row in itertools.product(*map(range, rows)):
        result[row] = x[(*row[: op.batch_dims], *indices[row].tolist())]
    return result


def scatter_elements(op: ops.ScatterElements, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    result = x.clone()
    for place in itertools.product(*map(range, indices.shape)):
        target = (*place[: op.axis], int(indices[place]), *place[op.axis + 1 :])
        result[target] = updates[place] + (result[target] if op.reduction == "add" else 0)
    return result


def scatter_nd(op: ops.ScatterNd, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    result = x.clone()
    for row in itertools.product(*map(range, indices.shape[:-1])):
        target = tuple(indices[row].tolist())
        result[target] = updates[row] + (result[target] if op.reduction == "add" else 0)
    return result


def linear(op: ops.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight.T, bias)


def quantized_linear(op: ops.QuantizedLinear, x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    weight = weight.to(x.dtype)
    size = op.block or weight.shape[1]
    matrix = weight * scales.repeat_interleave(size, dim=1)[:, : weight.shape[1]]
    if op.activations == "tensor" and x.numel():
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255 or 1.0
        zero = round(-low / scale)
        x = (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale
    elif op.activations == "blocks":
        parts = []
        for part in x.split(size, dim=-1):
            scale = part.abs().amax(-1, keepdim=True) / 127
            parts.append(torch.round(part * (1 / scale).nan_to_num(0, 0, 0)) * scale)
        x = torch.cat(parts, -1)
    return functional.linear(x, matrix, bias)


def conv1d(op: ops.Conv1d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv1d(x, weight, bias, op.stride, op.padding, op.dilation, op.groups)


def layer_norm(op: ops.LayerNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, op.eps)


def rms_norm(op: ops.RmsNorm, x: Tensor, weight: Tensor | None) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, op.eps)


def attention(
    op: ops.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, past_k: Tensor | None, past_v: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    present_k = k if past_k is None else torch.cat([past_k, k], 2)
    present_v = v if past_v is None else torch.cat([past_v, v], 2)
    (batch, heads, length, _), total = q.shape, present_k.shape[2]
    past = total - k.shape[2]
    visible = torch.ones(batch, heads, length, total, dtype=torch.bool)
    if op.causal:
        visible &= torch.ones(length, total, dtype=torch.bool).tril(past)
    if op.window is not None:
        visible &= torch.ones(length, total, dtype=torch.bool).triu(past - op.window + 1)
    if mask is not None and mask.dtype == torch.bool:
        visible &= mask[:, None, None, :]
    bias = torch.zeros(()) if mask is None or mask.dtype == torch.bool else mask
    everywhere = (torch.zeros(visible.shape).double() + bias).masked_fill(~visible, -torch.inf)
    group = heads // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (present_k, present_v))
    scores = (q @ keys.transpose(2, 3) * op.scale + everywhere).double()
    seen = (everywhere > -torch.inf).any(-1, keepdim=True)
    y = torch.where(seen, torch.softmax(scores, -1), 0.0) @ values
    return y, present_k, present_v


def rotary(op: ops.Rotary, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The pairs as complex numbers, multiplied by the angles' own."""
    turned = 2 * cos.shape[-1]
    pairs = x[..., :turned].unflatten(-1, (-1, 2) if op.interleaved else (2, -1))
    real, imaginary = pairs.unbind(-1 if op.interleaved else -2)
    rotated = torch.complex(real, imaginary) * torch.complex(cos, sin)[:, None]
    stacked = torch.stack([rotated.real, rotated.imag], -1 if op.interleaved else -2)
    return torch.cat([stacked.flatten(-2), x[..., turned:]], -1)


def positions(op: ops.Positions, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = torch.ones(int(op.batch), int(op.past) + int(op.seq), dtype=torch.bool)  # type: ignore[arg-type]
    return (mask.long().cumsum(1) - 1).clip(0)[:, int(op.past) :]  # type: ignore[arg-type]


def cross_entropy(op: ops.CrossEntropy, logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(
        logits, target, reduction=op.reduction, ignore_index=op.ignore_index, label_smoothing=op.label_smoothing
    )


def plain(function: Callable[..., Any]) -> Reference:
    """A function of the operands alone."""
    return lambda op, *operands: function(*operands)


REFERENCES: dict[type[Op], Reference] = {
    **{
        getattr(ops, name): plain(getattr(torch, function))
        for name, function in {
            "Neg": "neg",
            "Abs": "abs",
            "Exp": "exp",
            "Log": "log",
            "Log1p": "log1p",
            "Expm1": "expm1",
            "Sqrt": "sqrt",
            "Rsqrt": "rsqrt",
            "Reciprocal": "reciprocal",
            "Sin": "sin",
            "Cos": "cos",
            "Tan": "tan",
            "Tanh": "tanh",
            "Sigmoid": "sigmoid",
            "Erf": "erf",
            "Floor": "floor",
            "Ceil": "ceil",
            "Round": "round",
            "Sign": "sign",
            "Relu": "relu",
            "Not": "logical_not",
            "IsNan": "isnan",
            "IsInf": "isinf",
            "Add": "add",
            "Sub": "sub",
            "Mul": "mul",
            "Div": "div",
            "FloorDiv": "floor_divide",
            "Mod": "remainder",
            "Pow": "pow",
            "Maximum": "maximum",
            "Minimum": "minimum",
            "Atan2": "atan2",
            "And": "bitwise_and",
            "Or": "bitwise_or",
            "Xor": "bitwise_xor",
            "Equal": "eq",
            "NotEqual": "ne",
            "Less": "lt",
            "LessEqual": "le",
            "Greater": "gt",
            "GreaterEqual": "ge",
            "Select": "where",
            "MatMul": "matmul",
        }.items()
    },
    ops.Silu: plain(functional.silu),
    ops.Softplus: lambda op, x: functional.softplus(x, threshold=1e9),
    ops.Gelu: lambda op, x: functional.gelu(x, approximate=op.approximate),
    ops.Cast: lambda op, x: x.to(torch_dtype(op.dtype)) if op.dtype is not i4 else (x.to(torch.int8) + 8) % 16 - 8,
    ops.ReduceSum: reduce_(torch.sum),
    ops.ReduceMean: reduce_(torch.mean),
    ops.ReduceProd: reduce_(torch.prod),
    ops.ReduceMax: extreme(torch.amax, "min"),
    ops.ReduceMin: extreme(torch.amin, "max"),
    ops.ReduceAny: reduce_(torch.any),
    ops.ReduceAll: reduce_(torch.all),
    ops.CumSum: lambda op, x: torch.cumsum(x, op.axis),
    ops.Softmax: lambda op, x: torch.softmax(x, op.axis),
    ops.LogSoftmax: lambda op, x: torch.log_softmax(x, op.axis),
    ops.ArgMax: position,
    ops.ArgMin: position,
    ops.TopK: top_k,
    ops.Sort: lambda op, x: torch.sort(x, dim=op.axis, stable=True, descending=op.descending),
    ops.Reshape: lambda op, x: x.reshape(op.shape),
    ops.Transpose: lambda op, x: x.permute(op.permutation),
    ops.Expand: lambda op, x: x.expand(op.shape),
    ops.Concat: lambda op, *xs: torch.cat(xs, op.axis),
    ops.Slice: slice_,
    ops.Pad: pad,
    ops.Flip: lambda op, x: x.flip(op.axes),
    ops.Split: lambda op, x: torch.split(x, op.sizes, op.axis),
    ops.Gather: gather,
    ops.GatherElements: lambda op, x, indices: torch.gather(x, op.axis, indices.long() % x.shape[op.axis]),
    ops.GatherNd: gather_nd,
    ops.ScatterElements: scatter_elements,
    ops.ScatterNd: scatter_nd,
    ops.Linear: linear,
    ops.QuantizedLinear: quantized_linear,
    ops.Conv1d: conv1d,
    ops.LayerNorm: layer_norm,
    ops.RmsNorm: rms_norm,
    ops.Attention: attention,
    ops.Rotary: rotary,
    ops.Embedding: lambda op, table, indices: table[indices.long()],
    ops.Positions: positions,
    ops.CrossEntropy: cross_entropy,
    ops.MseLoss: lambda op, x, y: functional.mse_loss(x, y, reduction=op.reduction),
    ops.Iota: lambda op: torch.arange(op.size),
    ops.DimSize: lambda op: torch.tensor(op.dim),
}


def torch_dtype(dtype: DType) -> torch.dtype:
    return {"i4": torch.int8, "bool": torch.bool, "u8": torch.uint8}.get(dtype.name) or getattr(
        torch, {"f": "float", "bf": "bfloat", "i": "int"}[dtype.name.rstrip("0123456789")] + str(dtype.bits)
    )


def to_torch(array: Array | None) -> Tensor | None:
    """Floating-point numbers in float64, 4-bit integers in 8 bits, anything else as it is."""
    if array is None:
        return None
    if array.dtype.kind in "iub":
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(array, np.int8 if array.dtype == i4.numpy else np.float64))


def from_torch(tensor: Tensor) -> Array:
    array: Array = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return array


EXACT = {
    *(op for op in OPERATIONS if op.__module__.rpartition(".")[2] in ("shape", "ordering", "constant", "embedding")),
    ops.Neg, ops.Abs, ops.Floor, ops.Ceil, ops.Round, ops.Sign, ops.Relu, ops.Cast, ops.Select, ops.Maximum, ops.Minimum, ops.ReduceMax,
    ops.ReduceMin, ops.Gather, ops.GatherElements, ops.GatherNd,
}  # fmt: skip
"""Operations that round nothing."""


@dataclass(frozen=True)
class Rounding:
    """What `assert_t2` asks: terms that are summed, their magnitude, and units in the last place beside them."""

    terms: int
    magnitude: Array | float = 0.0
    units: float = 4.0


def rounding(case: OpCase, arrays: tuple[Array | None, ...], expected: Array) -> Rounding:
    """The rounding errors that an operation may make on these operands, worked out from its formula in float64."""
    wide = [np.abs(array.astype(np.float64)) if array is not None and array.dtype.kind not in "iub" else array for array in arrays]
    largest = max((float(np.max(array[np.isfinite(array)], initial=0)) for array in wide if array is not None), default=0.0)
    x = wide[0]
    assert x is not None
    length = x.shape[-1] if x.ndim else 1
    match case.op:
        case (
            ops.ReduceSum()
            | ops.ReduceMean()
            | ops.CumSum()
            | ops.Linear()
            | ops.QuantizedLinear()
            | ops.Conv1d()
            | ops.MatMul()
            | ops.ScatterNd()
            | ops.ScatterElements()
        ):
            # Sums of products: the same of the magnitudes.
            magnitude = result_arrays(case.widened.op.evaluate(*wide))[0]
            return Rounding(max(array.size for array in wide if array is not None), magnitude)
        case ops.ReduceProd():
            return Rounding(x.size, np.abs(expected))
        case ops.Add() | ops.Sub() | ops.Mul() | ops.Div() | ops.Mod() | ops.FloorDiv():
            return Rounding(2, largest)
        case ops.Gelu() | ops.Silu() | ops.Softplus():
            return Rounding(8, 1 + x)  # 1 + erf(x) cancels where x is negative
        case ops.Softmax() | ops.LogSoftmax():
            return Rounding(x.size + 8, 2 * largest + 1)
        case ops.CrossEntropy():
            return Rounding(x.size + 8, (2 * largest + x.shape[1]) * x.shape[0])
        case ops.MseLoss():
            return Rounding(x.size + 2, np.abs(expected))
        case ops.RmsNorm():
            return Rounding(length + 8, np.abs(expected))
        case ops.LayerNorm():
            # x - mean(x) cancels: its error is in proportion to x, and is scaled as the result is.
            scale = 1 / np.sqrt(np.var(arrays[0].astype(np.float64), axis=-1, keepdims=True) + case.op.eps)  # type: ignore[union-attr]
            return Rounding(4 * length + 8, largest * scale * max(largest, 1) + largest)
        case ops.Rotary():
            return Rounding(3, 2 * largest * largest)
        case ops.Attention():
            depth, total = x.shape[-1], expected.shape[-2] if expected.ndim else 1
            return Rounding(2 * depth + total + x.shape[2] + 16, (1 + depth * largest * largest) * largest)
    return Rounding(1)


def rounds_to_integers(op: Op) -> bool:
    """Whether a rounding error on the way may move an integer by one: then only float64, where that does not happen, is compared."""
    return isinstance(op, ops.QuantizedLinear) and op.activations != "exact"


def check(case: OpCase, seed: int) -> None:
    """Compare one case with PyTorch, in the case's own dtype."""
    op = type(case.op)
    arrays = case.arrays(seed)
    reference = REFERENCES[op](case.op, *map(to_torch, arrays))
    actual = result_arrays(case.op.evaluate(*arrays))
    expected = [from_torch(result) for result in (reference if isinstance(reference, list | tuple) else [reference])]
    assert len(expected) == len(actual)
    for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
        moved = op is ops.Attention and index > 0
        if op in EXACT or moved or not from_numpy(other.dtype).is_float:
            assert_t0(one.astype(other.dtype), other, where=str(case))
        elif other.dtype == np.float64:
            known = rounding(case, arrays, one)
            assert_t1(one, other, depth=known.terms, magnitude=float(np.max(known.magnitude, initial=0)), where=str(case))
        else:
            known = rounding(case, arrays, one)
            inner = computing_dtype(from_numpy(other.dtype))
            assert_t2(one, other, magnitude=known.magnitude, terms=known.terms, accumulator=inner, function=known.units, where=str(case))


def test_every_operation_has_a_reference() -> None:
    assert set(REFERENCES) == set(OPERATIONS)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
@given(data=st.data(), wide=st.booleans())
@settings(max_examples=max(8, settings().max_examples // 16), deadline=None)
def test_evaluation_agrees_with_torch(op: type[Op], data: st.DataObject, wide: bool) -> None:
    case = data.draw(op_cases(op))
    check(case.widened if wide or rounds_to_integers(case.op) else case, seed=data.draw(st.integers(0, 99), label="seed"))


@given(op_cases(ops.Attention), st.integers(0, 99))
@settings(max_examples=max(40, settings().max_examples), deadline=None)
def test_attention_agrees_with_torch_in_all_its_forms(case: OpCase, seed: int) -> None:
    check(case.widened, seed)
