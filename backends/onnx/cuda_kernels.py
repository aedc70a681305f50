"""Which operators onnxruntime's CUDA provider has kernels for, by element type: what a compile for it is checked against without a device.

After onnxruntime's own list of kernels (docs/OperatorKernels.md of its repository, at operator set 23). An operator that is not listed
has none, as far as is known here. The element type is that of the data: of indices, masks and shapes it is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir

from cgptc.backends.onnx.element_types import FROM_ONNX
from cgptc.ir.dtypes import DType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8

_FLOATS = frozenset([bf16, f16, f32, f64])
_WIDE_FLOATS = _FLOATS - {bf16}
_NETWORK_FLOATS = _FLOATS - {f64}
_INTEGERS = frozenset([i64, i32, i8, u8])
_NUMBERS = _FLOATS | _INTEGERS
_ANY = _NUMBERS | {boolean}
_ORDERED = _WIDE_FLOATS | {i32, i64}

_MOVERS = (
    *("Identity", "Reshape", "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Shape", "Size", "Expand", "Cast"),
    *("Gather", "GatherElements", "ScatterElements", "ScatterND"),
)

KERNELS: dict[str, frozenset[DType]] = {
    **dict.fromkeys(_MOVERS, _ANY),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Abs", "Sign"), _NUMBERS),
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "Conv", "LayerNormalization", "RMSNormalization", "Softmax"), _FLOATS),
    **dict.fromkeys(
        ("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Exp", "Sqrt", "Sigmoid", "Tanh", "Relu", "IsInf", "IsNaN"), _FLOATS
    ),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "RotaryEmbedding", "SkipLayerNormalization", "MatMulNBits"), _NETWORK_FLOATS),
    **dict.fromkeys(
        ("Ceil", "Floor", "Round", "Sin", "Cos", "Log", "LogSoftmax", "Reciprocal", "Softplus", "ArgMax", "ArgMin"), _WIDE_FLOATS
    ),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "CumSum", "ReduceMax", "TopK"), _ORDERED),
    **dict.fromkeys(("ReduceMean", "ReduceProd"), _WIDE_FLOATS | {i32}),
    **dict.fromkeys(("And", "Or", "Xor", "Not"), frozenset([boolean])),
    **dict.fromkeys(("Min", "Max", "Mod", "Pow"), _FLOATS | {i32, i64}),
    "Equal": _ORDERED | {boolean},
    "GatherND": _FLOATS | {boolean, i64},
    "GroupQueryAttention": frozenset([f16, bf16]),
    "Neg": _FLOATS | {i64, i32, i8},
    "Pad": _WIDE_FLOATS | {boolean},
    "Range": frozenset([f64, f32, i32, i64]),
    "ReduceMin": _ORDERED | {i8, u8},
    "ReduceSum": _FLOATS | {i32, i64},
    "Where": _FLOATS | {i32, i64, u8},
}


@dataclass(frozen=True)
class WithoutKernel:
    """A node that would run on the CPU: its name, operator and element type."""

    name: str
    operator: str
    dtype: DType

    def __str__(self) -> str:
        return f"{self.operator} of {self.dtype} ({self.name})"


def without_kernel(model: onnx_ir.Model) -> tuple[WithoutKernel, ...]:
    """The nodes of a model that the table has no CUDA kernel for, in order."""
    found = []
    for node in model.graph:
        data = node.inputs[1] if node.op_type == "Where" else node.inputs[0] if node.inputs else node.outputs[0]
        if data is None or data.dtype is None:
            continue
        dtype = FROM_ONNX[data.dtype]
        if dtype not in KERNELS.get(node.op_type, frozenset()):
            found.append(WithoutKernel(node.name or node.op_type, node.op_type, dtype))
    return tuple(found)
