"""Weights beside the model: one aligned file, written one tensor at a time.

A model is one file where its weights are small. Else every tensor of at least `INLINE_BYTES` lies in ``<model>.data``, at offsets that can
be mapped: large tensors begin on a page, so that a hole of a sparse source stays a hole, small ones on a cache line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir

from cgptc.backends.onnx.element_types import TO_ONNX
from cgptc.backends.onnx.hashed_file import HashedFile
from cgptc.ir.dtypes import DType, i4
from cgptc.ir.op import Array
from cgptc.ir.weights import Weight, WeightStore

SINGLE_FILE_BYTES = 64 << 10
"""Weights of at most this many bytes in all stay in the model file."""
INLINE_BYTES = 1 << 10
"""Tensors below this stay in the model file: shape inference and constant folding read them there."""
PAGE_BYTES = 4096
LINE_BYTES = 64


@dataclass(frozen=True)
class Placement:
    """Where a weight lies in the data file, in bytes."""

    offset: int
    length: int


def byte_count(weight: Weight) -> int:
    """Bytes that a weight takes in the file."""
    size = 1
    for dim in weight.shape:
        size *= dim
    return weight.dtype.bytes(size)


def place(weights: Iterable[tuple[onnx_ir.Value, Weight]]) -> dict[onnx_ir.Value, Placement]:
    """Offsets of all weights that do not stay in the model, in order."""
    sizes = {value: byte_count(weight) for value, weight in weights}
    if sum(sizes.values()) <= SINGLE_FILE_BYTES:
        return {}
    placements: dict[onnx_ir.Value, Placement] = {}
    end = 0
    for value, length in sizes.items():
        if length < INLINE_BYTES:
            continue
        alignment = PAGE_BYTES if length >= PAGE_BYTES else LINE_BYTES
        offset = -(-end // alignment) * alignment
        placements[value] = Placement(offset, length)
        end = offset + length
    return placements


def write_weights(
    path: Path, weights: Iterable[tuple[onnx_ir.Value, Weight]], placements: dict[onnx_ir.Value, Placement], store: WeightStore
) -> str:
    """Write the placed weights; gives the file's SHA-256. Memory stays at a few blocks; long stretches of zeros become holes."""
    with HashedFile(path) as file:
        for value, weight in weights:
            placement = placements.get(value)
            if placement is None:
                continue
            file.skip_to(placement.offset)
            for data in _file_bytes(weight.blocks(store), weight.dtype):
                file.write(data)
            if file.position != placement.offset + placement.length:
                raise ValueError(f"weight '{value.name}' gave {file.position - placement.offset} bytes, expected {placement.length}")
    return file.sha256


def attach(
    weights: Iterable[tuple[onnx_ir.Value, Weight]], placements: dict[onnx_ir.Value, Placement], location: str, store: WeightStore
) -> None:
    """Give each initializer its content: a reference into the data file, or the small tensor itself."""
    for value, weight in weights:
        dtype, shape = TO_ONNX[weight.dtype], onnx_ir.Shape(weight.shape)
        if value in placements:
            placement = placements[value]
            value.const_value = onnx_ir.ExternalTensor(location, placement.offset, placement.length, dtype, shape=shape, name=value.name)
        else:
            value.const_value = onnx_ir.Tensor(weight.read(store), dtype=dtype, shape=shape, name=value.name)


def _file_bytes(blocks: Iterator[Array], dtype: DType) -> Iterator[npt.NDArray[np.uint8]]:
    """Blocks as the file holds them: little-endian, 4-bit elements in pairs with the first in the low half."""
    left_over: npt.NDArray[np.uint8] | None = None
    for block in blocks:
        if dtype != i4:
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8)
            continue
        halves = np.bitwise_and(np.ascontiguousarray(block).reshape(-1).view(np.uint8), 0x0F, dtype=np.uint8)
        if left_over is not None:
            halves = np.concatenate([left_over, halves])
        left_over = halves[-1:] if halves.size % 2 else None
        even = halves[: halves.size - halves.size % 2]
        yield np.bitwise_or(even[0::2], np.left_shift(even[1::2], 4, dtype=np.uint8))
    if left_over is not None:
        yield left_over
