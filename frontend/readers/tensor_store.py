"""Where the bytes of tensors are, and reading them a few rows at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.frontend.readers.element_types import Element, ReadableElement, require_readable
from cgptc.frontend.readers.input_file import Blob
from cgptc.frontend.readers.limits import ELEMENT_COUNT, RANK, REPEATED_BYTES
from cgptc.frontend.readers.quoting import quoted
from cgptc.ir.diagnostics import CompileError, MalformedError
from cgptc.ir.op import Array
from cgptc.ir.weights import BLOCK_BYTES, Stored


@dataclass(frozen=True, eq=False)
class Extent:
    """A strided tensor within a blob: offset in bytes, strides in elements, all checked to lie inside."""

    blob: Blob
    offset: int
    element: ReadableElement
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for tensors that are the same elements of the same storage in the same order."""
        return (self.blob, self.offset, self.element.name, self.shape, self.strides)

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a C-ordered tensor; an axis of one element counts as if it had more."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def checked_shape(shape: Iterable[object], tensor: str, label: str) -> tuple[int, ...]:
    """The sizes as integers, within the bounds of `limits`; `MalformedError` where they are not."""
    sizes = tuple(shape)
    if len(sizes) > RANK:
        raise CompileError("too-many-dimensions", f"tensor {quoted(tensor)} has {len(sizes)} dimensions, more than {RANK}", file=label)
    checked = tuple(size for size in sizes if type(size) is int and 0 <= size <= ELEMENT_COUNT)
    if len(checked) != len(sizes) or math.prod(max(size, 1) for size in checked) > ELEMENT_COUNT:
        raise MalformedError("malformed-tensor", f"tensor {quoted(tensor)} has an impossible shape", file=label)
    return checked


def strided_extent(tensor: str, blob: Blob, element: Element, shape: Iterable[object], strides: Iterable[object], offset: object) -> Extent:
    """The extent of a tensor of ``element`` with strides and offset in elements.

    `MalformedError` where it leaves its blob, `CompileError` where the IR has no such element type or where the
    elements of a small storage are repeated beyond `limits.REPEATED_BYTES`.
    """
    label = blob.file.label
    sizes = checked_shape(shape, tensor, label)
    readable = require_readable(element, tensor, label)
    steps = tuple(strides)
    given = tuple(step for step in steps if type(step) is int and 0 <= step <= ELEMENT_COUNT)
    if len(given) != len(steps) or len(steps) != len(sizes):
        raise MalformedError("malformed-tensor", f"tensor {quoted(tensor)} has impossible strides", file=label)
    if type(offset) is not int or not 0 <= offset <= ELEMENT_COUNT:
        raise MalformedError("malformed-tensor", f"tensor {quoted(tensor)} has an impossible offset", file=label)
    if 0 in sizes:
        return Extent(blob, 0, readable, sizes, contiguous_strides(sizes))
    own = contiguous_strides(sizes)
    normal = tuple(step if size > 1 else plain for size, step, plain in zip(sizes, given, own, strict=True))
    last = offset + sum((size - 1) * step for size, step in zip(sizes, normal, strict=True))
    if (last + 1) * element.size > blob.size:
        raise MalformedError(
            "malformed-tensor",
            f"tensor {quoted(tensor)} needs {(last + 1) * element.size} bytes of {quoted(blob.name)}, which has {blob.size}",
            file=label,
            fix="the file is damaged: write it again",
        )
    byte_count = math.prod(sizes) * element.size
    if byte_count > max(blob.size, REPEATED_BYTES):
        raise CompileError(
            "expanded-tensor",
            f"tensor {quoted(tensor)} repeats {blob.size} stored bytes to {byte_count}",
            file=label,
            fix="save it with .contiguous()",
        )
    return Extent(blob, offset * element.size, readable, sizes, normal)


class TensorStore:
    """The tensors of opened files, by name: a `WeightStore` of `cgptc.ir.weights`.

    A blob with a checksum is verified when the first of its rows is read. Reads from several threads are safe. A tensor
    whose rows lie scattered over its storage (a transposed one) is held in memory while its rows are read in order, one
    such tensor at a time.
    """

    def __init__(self, extents: Mapping[str, Extent]) -> None:
        self._extents = dict(extents)
        self._verified: set[Blob] = set()
        self._scattered: tuple[str, Array] | None = None
        self._lock = threading.Lock()

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` along axis 0, C-ordered and new; KeyError for an unknown name."""
        extent = self._extents[name]
        row_count = extent.shape[0] if extent.shape else 1
        if not 0 <= start <= stop <= row_count:
            raise ValueError(f"'{name}' has rows 0 to {row_count}, not {start} to {stop}")
        self.verify(extent.blob)
        shape = (stop - start, *extent.shape[1:]) if extent.shape else ()
        if 0 in shape:
            stored: Array = np.empty(shape, extent.element.stored)
        elif extent.is_contiguous:
            stored = _span(extent, start * extent.strides[0] if shape else 0, math.prod(shape)).reshape(shape)
        else:
            stored = self._strided_rows(name, extent, start, shape, is_last=stop == row_count)
        return _as_ir(stored, extent, name)

    def _strided_rows(self, name: str, extent: Extent, start: int, shape: tuple[int, ...], *, is_last: bool) -> Array:
        length = 1 + sum((size - 1) * step for size, step in zip(shape, extent.strides, strict=True))
        if length * extent.element.size <= 2 * max(math.prod(shape) * extent.element.size, BLOCK_BYTES):
            return _view(_span(extent, start * extent.strides[0], length), shape, extent.strides).copy()
        with self._lock:
            if self._scattered is None or self._scattered[0] != name:
                self._scattered = None  # before its successor is read: one at a time
                whole = 1 + sum((size - 1) * step for size, step in zip(extent.shape, extent.strides, strict=True))
                self._scattered = (name, _view(_span(extent, 0, whole), extent.shape, extent.strides))
            rows = self._scattered[1][start : start + shape[0]].copy()
            if is_last:
                self._scattered = None
            return rows

    def release(self) -> None:
        """Forget the tensor that is held in memory, if one is."""
        with self._lock:
            self._scattered = None

    def verify(self, blob: Blob) -> None:
        """Check a blob's checksum, once."""
        if blob.crc is not None and blob not in self._verified:
            blob.verify()
            self._verified.add(blob)


def _span(extent: Extent, first: int, count: int) -> Array:
    """``count`` consecutive elements of the storage, from ``first`` after the tensor's offset."""
    size = extent.element.size
    raw = np.empty(count * size, np.uint8)
    extent.blob.file.read_into(extent.blob.start + extent.offset + first * size, raw.data)
    return raw.view(extent.element.stored)


def _view(span: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    byte_strides = tuple(step * span.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(span, shape, byte_strides, writeable=False)


def _as_ir(stored: Array, extent: Extent, name: str) -> Array:
    """The array in the IR's element type."""
    dtype = extent.element.dtype
    if dtype.kind == "bool" and stored.size and stored.view(np.uint8).max() > 1:
        raise MalformedError("malformed-tensor", f"tensor {quoted(name)} holds bytes that are no booleans", file=extent.blob.file.label)
    return stored.astype(dtype.numpy, copy=False)


@dataclass(frozen=True)
class TensorTable:
    """Named tensors with ties resolved: every name's `Stored`, and for each tied name the one it is stored under."""

    tensors: dict[str, Stored]
    aliases: dict[str, str]
    store: TensorStore


def tensor_table(extents: Mapping[str, Extent]) -> TensorTable:
    """Merge names of one tensor: the first is the stored one, the others are its aliases."""
    first_names: dict[tuple[object, ...], str] = {}
    tensors: dict[str, Stored] = {}
    aliases: dict[str, str] = {}
    for name, extent in extents.items():
        # Empty tensors have no storage to share.
        stored_name = first_names.setdefault(extent.identity, name) if 0 not in extent.shape else name
        if stored_name != name:
            aliases[name] = stored_name
        tensors[name] = Stored(stored_name, extent.element.dtype, extent.shape)
    kept = {name: extent for name, extent in extents.items() if name not in aliases}
    return TensorTable(tensors, aliases, TensorStore(kept))
