"""Writes the safetensors format, tensor by tensor: 8 bytes of header length, a JSON header, the raw tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from cgptc.frontend.tensor_source import TensorSource

DTYPE_NAMES = {"f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16", "i64": "I64", "i32": "I32", "i8": "I8", "u8": "U8", "bool": "BOOL"}
"""The format's names of our element types."""

ALIGNMENT = 64
"""The tensors begin at a multiple of this, so that a mapping of the file can be used in place."""


def write_safetensors(file: BinaryIO, tensors: Sequence[TensorSource], metadata: Mapping[str, str]) -> None:
    """Write the tensors in the order given; equal arguments give equal bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.byte_count
        header[tensor.name] = {"dtype": DTYPE_NAMES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for block in tensor.byte_blocks():
            file.write(block)
