"""Writes a ``.pt`` file as ``torch.save({"model": state_dict, "config": {…}})`` would, without torch and without the tensors in memory.

The format: an uncompressed zip of ``data.pkl`` (the structure; tensors as persistent ids), ``byteorder``, ``version`` and one member
``data/N`` per storage, raw, at multiples of 64 bytes. ``torch.load(weights_only=True)`` takes it. Equal arguments give equal bytes.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from cgptc.frontend.tensor_source import TensorSource

ROOT = "archive"
ALIGNMENT = 64
STORAGE_CLASSES = {
    "f64": "DoubleStorage",
    "f32": "FloatStorage",
    "f16": "HalfStorage",
    "bf16": "BFloat16Storage",
    "i64": "LongStorage",
    "i32": "IntStorage",
    "i8": "CharStorage",
    "u8": "ByteStorage",
    "bool": "BoolStorage",
}
"""torch's storage class of each element type."""

Plain = int | float | bool | str

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEADER_BYTES = 30
_ZIP64_FIELD_BYTES = 20
_PADDING_FIELD = 0x4246  # "FB", as torch pads
_EMPTY_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def write_state_dict(file: BinaryIO, tensors: Sequence[TensorSource], config: Mapping[str, Plain]) -> None:
    """Write the tensors in the order given, under the key "model", and ``config`` under its own."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        structure = _pickle(tensors, config)
        _write_member(file, archive, "data.pkl", len(structure), [structure])
        _write_member(file, archive, "byteorder", 6, [b"little"])
        for index, tensor in enumerate(tensors):
            _write_member(file, archive, f"data/{index}", tensor.byte_count, tensor.byte_blocks())
        _write_member(file, archive, "version", 2, [b"3\n"])


def _write_member(file: BinaryIO, archive: zipfile.ZipFile, name: str, size: int, blocks: Iterable[bytes | memoryview]) -> None:
    info = zipfile.ZipInfo(f"{ROOT}/{name}", _EPOCH)
    info.file_size = size  # decides whether the header needs 64-bit sizes
    wide = size * 1.05 > zipfile.ZIP64_LIMIT
    begin = file.tell() + _LOCAL_HEADER_BYTES + len(info.filename) + _ZIP64_FIELD_BYTES * wide + 4
    padding = -begin % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + b"Z" * padding
    with archive.open(info, "w") as member:
        for block in blocks:
            member.write(block)


def _pickle(tensors: Sequence[TensorSource], config: Mapping[str, Plain]) -> bytes:
    """``{"model": OrderedDict(name → tensor), "config": {…}}`` in pickle protocol 2."""
    parts = [b"\x80\x02}("]
    parts += [_plain("model"), _EMPTY_ORDERED_DICT, b"("]
    for index, tensor in enumerate(tensors):
        parts += [_plain(tensor.name), _tensor(index, tensor)]
    parts += [b"u", _plain("config"), b"}("]
    for key, value in config.items():
        parts += [_plain(key), _plain(value)]
    parts.append(b"uu.")
    return b"".join(parts)


def _tensor(index: int, tensor: TensorSource) -> bytes:
    """``torch._utils._rebuild_tensor_v2(storage, offset 0, shape, stride, requires_grad False, OrderedDict())``."""
    storage_class = f"ctorch\n{STORAGE_CLASSES[tensor.dtype.name]}\n".encode()
    storage = b"(" + _plain("storage") + storage_class + _plain(str(index)) + _plain("cpu") + _plain(tensor.size) + b"tQ"
    strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    arguments = storage + _plain(0) + _integers(tensor.shape) + _integers(strides) + _plain(False) + _EMPTY_ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_plain(value) for value in values) + b"t"


def _plain(value: Plain) -> bytes:
    match value:
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + struct.pack("<B", len(data)) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
