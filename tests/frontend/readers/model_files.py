"""Model files that the tests of the readers make: good ones by torch and safetensors, bad ones byte by byte."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def small_tensors() -> dict[str, torch.Tensor]:
    """One tensor of each element type and shape that matters, seeded."""
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(6, 5, generator=generator)
    return {
        "f64": normal.double(),
        "f32": normal,
        "f16": normal.half(),
        "bf16": normal.bfloat16(),
        "i64": torch.arange(6).reshape(2, 3) - 3,
        "i32": torch.arange(4, dtype=torch.int32) << 20,
        "i16": torch.tensor([-32768, 5, 32767], dtype=torch.int16),
        "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "four_axes": torch.randn(2, 1, 3, 4, generator=generator),
    }


def as_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor's values; bfloat16 as float32, which holds them all."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).detach().numpy()


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def export_linear(path: Path, module: torch.nn.Module | None = None) -> torch.nn.Module:
    """Export a small module, one linear layer where none is given."""
    torch.manual_seed(3)
    module = module or torch.nn.Linear(3, 4)
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),)), path)
    return module


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of any header, honest or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zip_of(members: Mapping[str, bytes], *, compressed: bool = False) -> bytes:
    """A zip archive as Python writes it, members in order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)
    return buffer.getvalue()


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def state_dict_zip(data_pkl: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """A zip ``.pt`` around any pickle."""
    members = {"model/data.pkl": data_pkl, "model/byteorder": b"little", "model/version": b"3\n"}
    members |= {f"model/data/{key}": data for key, data in (storages or {}).items()}
    return zip_of(members)


def global_opcode(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def plain_pickle(value: object) -> bytes:
    """The instructions that push a plain value, without protocol and stop."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor_pickle(
    storage_class: str = "torch.FloatStorage",
    key: object = "0",
    count: object = 6,
    offset: object = 0,
    shape: object = (2, 3),
    strides: object = (3, 1),
) -> bytes:
    """The pickle of ``{"weight": tensor}`` with any description of its tensor."""
    storage = (
        b"("
        + plain_pickle("storage")
        + global_opcode(storage_class)
        + plain_pickle(key)
        + plain_pickle("cpu")
        + plain_pickle(count)
        + b"tQ"
    )
    tensor = (
        global_opcode("torch._utils._rebuild_tensor_v2")
        + b"("
        + storage
        + plain_pickle(offset)
        + plain_pickle(shape)
        + plain_pickle(strides)
        + b"\x89"
        + global_opcode("collections.OrderedDict")
        + b")RtR"
    )
    return b"\x80\x02}" + plain_pickle("weight") + tensor + b"s."


class Canary:
    """Unpickling an instance makes a file; no reader may."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__("os").system, (f"touch '{self.marker}'",))


class EvalCanary(Canary):
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.marker)!r}, 'w').close()",))


def sparse_state_dict(path: Path, byte_count: int, crc: int | None = None) -> None:
    """A zip ``.pt`` of one float32 tensor of zeros whose bytes are a hole in the file; its checksum takes a while."""
    pickled = tensor_pickle(count=byte_count // 4, shape=(byte_count // 4096, 1024), strides=(1024, 1))
    if crc is None:
        crc = 0
        for start in range(0, byte_count, 1 << 20):
            crc = zlib.crc32(bytes(min(1 << 20, byte_count - start)), crc)
    entries = [("m/data.pkl", pickled, zlib.crc32(pickled), len(pickled)), ("m/data/0", b"", crc, byte_count)]
    directory = b""
    with path.open("wb") as file:
        for name, data, checksum, size in entries:
            raw, header = name.encode(), file.tell()
            wide = struct.pack("<2H2Q", 1, 16, size, size)
            fixed = struct.pack("<5H3I", 45, 0x800, 0, 0, 0, checksum, 0xFFFFFFFF, 0xFFFFFFFF)
            file.write(b"PK\3\4" + fixed + struct.pack("<2H", len(raw), len(wide)) + raw + wide + data)
            file.seek(size - len(data), io.SEEK_CUR)
            wide = struct.pack("<2H3Q", 1, 24, size, size, header)
            directory += b"PK\1\2" + struct.pack("<H", 45) + fixed
            directory += struct.pack("<5H2I", len(raw), len(wide), 0, 0, 0, 0, 0xFFFFFFFF) + raw + wide
        start = file.tell()
        file.write(directory)
        end64 = file.tell()
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, 0xFFFFFFFF, 0xFFFFFFFF, 0))
