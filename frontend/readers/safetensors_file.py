"""safetensors: an 8-byte length, a JSON header, the tensors' bytes side by side.

Format: the "Format" section of the safetensors project's README. The header names each tensor's type, shape and byte
range; ranges fill the rest of the file with no hole and no overlap.
"""

from __future__ import annotations

import math

from cgptc.frontend.readers.checkpoint import Contents
from cgptc.frontend.readers.element_types import BY_SAFETENSORS_NAME
from cgptc.frontend.readers.input_file import Blob, InputFile
from cgptc.frontend.readers.limits import HEADER_BYTES, TENSOR_COUNT
from cgptc.frontend.readers.plain_json import JsonObject, JsonValue, parse_json_object
from cgptc.frontend.readers.quoting import quoted
from cgptc.frontend.readers.tensor_store import Extent, checked_shape, contiguous_strides, strided_extent
from cgptc.ir.diagnostics import CompileError, MalformedError

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FIXED_KEYS = ("format", "config")


def read_safetensors(file: InputFile) -> Contents:
    """The tensors of a safetensors file.

    Its metadata may name further names of a tensor, as ``safetensors.torch.save_model`` writes them, and hold a
    configuration as a JSON object under ``config``.
    """
    size = int.from_bytes(file.read(0, _LENGTH_BYTES), "little") if file.size >= _LENGTH_BYTES else file.size
    if size > HEADER_BYTES or _LENGTH_BYTES + size > file.size:
        raise _malformed(f"the header says {size} bytes, the file has {file.size} and a header at most {HEADER_BYTES}", file)
    header = parse_json_object(file.read(_LENGTH_BYTES, size), file.label, "the header")
    metadata = _metadata(header.pop(_METADATA, {}), file)
    if len(header) > TENSOR_COUNT:
        raise _malformed(f"the header names {len(header)} tensors, more than {TENSOR_COUNT}", file)
    blob = Blob(file, "the tensors", _LENGTH_BYTES + size, file.size - _LENGTH_BYTES - size)
    ranges: list[tuple[int, int, str]] = []
    extents: dict[str, Extent] = {}
    for name, entry in header.items():
        extents[name], start, end = _tensor(name, entry, blob)
        ranges.append((start, end, name))
    _require_side_by_side(ranges, blob)
    # In the order of their bytes, so that reading all of them is one pass over the file.
    ordered = {name: extents[name] for _, _, name in sorted(ranges)}
    for name, target in metadata.items():
        if target in extents and name not in extents and name not in _FIXED_KEYS:
            ordered[name] = extents[target]
    return Contents("safetensors", ordered, (blob,), _config(metadata, file), metadata)


def _tensor(name: str, entry: JsonValue, blob: Blob) -> tuple[Extent, int, int]:
    """A tensor's extent, and its byte range in the blob."""
    file = blob.file
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"the entry of tensor {quoted(name)} is not a type, a shape and offsets", file)
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise _malformed(f"the entry of tensor {quoted(name)} is not a type, a shape and offsets", file)
    element = BY_SAFETENSORS_NAME.get(kind)
    if element is None:
        raise CompileError(
            "unsupported-dtype",
            f"tensor {quoted(name)} has element type {quoted(kind)}",
            file=file.label,
            fix="convert it to a type of at least 8 bits that cgptc reads, such as F32, and save again",
        )
    sizes = checked_shape(shape, name, file.label)
    match offsets:
        case [int(start), int(end)] if 0 <= start <= end <= blob.size and not isinstance(start, bool):
            pass
        case _:
            raise _malformed(f"the offsets of tensor {quoted(name)} leave the file's {blob.size} tensor bytes", file)
    byte_count = math.prod(sizes) * element.size
    if end - start != byte_count:
        raise _malformed(f"tensor {quoted(name)} needs {byte_count} bytes, its offsets give {end - start}", file)
    extent = strided_extent(name, blob, element, sizes, contiguous_strides(sizes), 0)
    return Extent(blob, start, extent.element, extent.shape, extent.strides), start, end


def _require_side_by_side(ranges: list[tuple[int, int, str]], blob: Blob) -> None:
    position = 0
    for start, end, name in sorted(ranges):
        if start != position:
            what = "overlaps another" if start < position else "leaves a hole before it"
            raise _malformed(f"tensor {quoted(name)} {what} (byte {start}, expected {position})", blob.file)
        position = end
    if position != blob.size:
        raise _malformed(f"the tensors take {position} bytes, the file has {blob.size}", blob.file)


def _metadata(value: JsonValue, file: InputFile) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _malformed("the metadata is not an object", file)
    metadata = {key: text for key, text in value.items() if isinstance(text, str)}
    if len(metadata) != len(value):
        raise _malformed("the metadata holds something other than text", file)
    return metadata


def _config(metadata: dict[str, str], file: InputFile) -> JsonObject | None:
    text = metadata.get("config", "")
    return parse_json_object(text.encode(), file.label, "the metadata entry 'config'") if text.startswith("{") else None


def _malformed(what: str, file: InputFile) -> MalformedError:
    return MalformedError("malformed-safetensors", what, file=file.label, fix="the file is damaged: copy or download it again")
