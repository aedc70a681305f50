"""PyTorch's element types and the IR's."""

from __future__ import annotations

import torch

from cgptc.ir.dtypes import DType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8
from cgptc.ir.op import Array

FROM_TORCH: dict[torch.dtype, DType] = {
    torch.float64: f64,
    torch.float32: f32,
    torch.float16: f16,
    torch.bfloat16: bf16,
    torch.int64: i64,
    torch.int32: i32,
    torch.int8: i8,
    torch.uint8: u8,
    torch.bool: boolean,
}
TO_TORCH: dict[DType, torch.dtype] = {ours: theirs for theirs, ours in FROM_TORCH.items()}


def to_numpy(tensor: torch.Tensor) -> Array:
    """A tensor's content as numpy has it, sharing memory where it can; bfloat16 as ml_dtypes'."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(bf16.numpy)
    array: Array = tensor.numpy()
    return array


def to_torch(array: Array) -> torch.Tensor:
    """A numpy array as a tensor, sharing memory where it can; ml_dtypes' bfloat16 as torch's."""
    if array.dtype == bf16.numpy:
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)
