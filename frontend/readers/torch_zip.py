"""``.pt`` files as torch has written them since 1.6: a zip with one pickle and one member per storage.

Members: ``<root>/data.pkl``, ``<root>/data/<key>`` and a few short texts; any other is refused. torch itself does not
compare checksums when it loads such a file; this reader does.
"""

from __future__ import annotations

import re

from cgptc.frontend.readers.checkpoint import Contents
from cgptc.frontend.readers.input_file import Blob
from cgptc.frontend.readers.quoting import quoted
from cgptc.frontend.readers.restricted_pickle import Unpickled, read_pickle
from cgptc.frontend.readers.state_dict import StateDict, find_state_dict, require_plain
from cgptc.frontend.readers.tensor_store import Extent, strided_extent
from cgptc.frontend.readers.torch_objects import StorageTable, known_globals
from cgptc.frontend.readers.zip_archive import ZipArchive, common_root
from cgptc.ir.diagnostics import CompileError, MalformedError

_MEMBER = re.compile(r"data\.pkl|data/[^/]+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id")
_SHORT_BYTES = 4096


def unpickle_zip(archive: ZipArchive, blobs: dict[str, Blob]) -> tuple[Unpickled, StorageTable]:
    """The value of the archive's pickle, and the storages that it names."""
    root = common_root(list(archive.members))
    blob = blobs[f"{root}data.pkl"]
    blob.verify()
    storages = StorageTable(field_count=5)
    pickle = read_pickle(archive.file, blob.start, blob.start + blob.size, known_globals(), storages.find)
    return pickle, storages


def read_torch_zip(archive: ZipArchive) -> Contents:
    """The state dict in a zip ``.pt``. The archive holds a ``data.pkl``."""
    file, blobs = archive.file, archive.blobs()
    pickle, storages = unpickle_zip(archive, blobs)
    require_plain(pickle, file.label)
    root = common_root(list(archive.members))
    _require_known_members(blobs, root, file.label)
    for key, storage in storages.storages.items():
        blob = blobs.get(f"{root}data/{key}")
        if blob is None or blob.size != storage.element_count * storage.element.size:
            found = "is not there" if blob is None else f"has {blob.size} bytes"
            raise MalformedError(
                "malformed-storage",
                f"storage {quoted(key)} needs {storage.element_count * storage.element.size} bytes, but {found}",
                file=file.label,
                fix="the file is damaged: write it again",
            )
    found_dict = find_state_dict(pickle.value, file.label)
    extents = state_dict_extents(found_dict, {key: blobs[f"{root}data/{key}"] for key in storages.storages})
    return Contents("torch zip", extents, tuple(blobs.values()), found_dict.config, notes=found_dict.notes)


def state_dict_extents(found: StateDict, blobs: dict[str, Blob]) -> dict[str, Extent]:
    """Where each tensor is, given the blob of every storage key."""
    return {
        name: strided_extent(name, blobs[tensor.storage.key], tensor.element, tensor.shape, tensor.strides, tensor.offset)
        for name, tensor in found.tensors.items()
    }


def _require_known_members(blobs: dict[str, Blob], root: str, label: str) -> None:
    for name, blob in blobs.items():
        member = name.removeprefix(root)
        if not _MEMBER.fullmatch(member):
            raise MalformedError(
                "unexpected-member",
                f"the archive holds {quoted(name)}, which no state dict has",
                file=label,
                fix="write the file again with torch.save(model.state_dict(), …)",
            )
        if member == "byteorder" and (blob.size > _SHORT_BYTES or blob.read().strip() != b"little"):
            raise CompileError(
                "unsupported-byte-order",
                "its numbers are not little-endian",
                file=label,
                fix="save it again on a little-endian machine",
            )
