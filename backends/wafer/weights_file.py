"""Weights as a safetensors file, written and read a tensor at a time: the file's size never matters to memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.layout import Array

WEIGHTS_FILE = "weights.safetensors"
_CODES = {"f16": "F16", "f32": "F32", "f64": "F64", "i32": "I32"}
_BYTES = {"f16": 2, "f32": 4, "f64": 8, "i32": 4}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Element types and shapes by name."""


def write_weights_file(folder: Path, tensors: Tensors, blocks: Callable[[str], Iterable[Array]]) -> int:
    """Write tensors in order of name, each from its blocks of rows; their bytes."""
    header: dict[str, object] = {}
    offset = 0
    for name in sorted(tensors):
        dtype, shape = tensors[name]
        end = offset + _BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            for block in blocks(name):
                file.write(np.ascontiguousarray(block).tobytes())
        if file.tell() != 8 + len(text) + offset:
            raise AssertionError("a weight's blocks do not make its shape")
    return offset


class WeightsFile(Mapping[str, Array]):
    """The tensors of a folder's `WEIGHTS_FILE`, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._file = _opened(folder / WEIGHTS_FILE)
        names: list[str] = self._file.keys()
        self._names = frozenset(names)

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        tensor: Array = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, FileNotFoundError) as error:
        raise ProgramError("program-weights", f"'{path.name}' cannot be read ({error})") from None
