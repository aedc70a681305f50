"""Which element types onnxruntime has kernels for.

Measured on onnxruntime 1.31 by opening a model of one node per (operator, element type); only what is missing is listed, for the
operators that lowerings emit. A type that the ONNX standard itself does not allow for an operator is a lowering's own concern.
"""

from __future__ import annotations

from collections.abc import Iterable

from cgptc.ir.dtypes import DType, bf16, f16, f32, f64, i4, i8

_CPU_WITH_BF16 = frozenset(
    [
        *("Identity", "Reshape", "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Shape", "Size", "Cast"),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"),
        *("IsNaN", "IsInf", "Sign", "LayerNormalization"),
    ]
)

_CPU_WITHOUT_F64 = frozenset(["Tan", "Atan", "Erf", "Softplus", "Gelu", "Conv"])


_CPU_WITH_COARSE_F16 = frozenset(["Attention"])
"""Operators whose CPU kernels keep sums in f16."""


class UnlowerableError(Exception):
    """Raised while lowering a node that the target cannot run; the message is the reason."""


def computed_in(op_type: str, dtypes: Iterable[DType], provider: str) -> dict[DType, DType]:
    """For each element type the one to compute in. `UnlowerableError` where there is none.

    Narrow types that an operator lacks are computed in wider ones that hold their values: exactly, or rounded once per node.
    f16 needs no other entry: onnxruntime itself inserts casts where the CPU provider lacks an f16 kernel.
    """
    chosen = {dtype: dtype for dtype in dtypes}
    if i4 in chosen and op_type != "Cast":  # a type of storage: few operators of the standard take it
        chosen[i4] = i8
    if provider != "cpu":
        return chosen
    if bf16 in chosen and op_type not in _CPU_WITH_BF16:
        chosen[bf16] = f32
    if f16 in chosen and op_type in _CPU_WITH_COARSE_F16:
        chosen[f16] = f32
    if f64 in chosen and op_type in _CPU_WITHOUT_F64:
        raise UnlowerableError(f"onnxruntime's cpu provider has no f64 kernel for '{op_type}'")
    return chosen
