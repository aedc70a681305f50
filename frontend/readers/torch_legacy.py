"""``.pt`` files as torch wrote them before 1.6: five pickles one after another, then the storages' bytes.

The pickles are the magic number, the protocol version (1001), facts about the machine, the value, and the keys of the
storages in the order of their bytes; each storage is an 8-byte count and its elements. The format keeps no checksum.
"""

from __future__ import annotations

from cgptc.frontend.readers.checkpoint import Contents
from cgptc.frontend.readers.input_file import Blob, InputFile
from cgptc.frontend.readers.quoting import quoted
from cgptc.frontend.readers.restricted_pickle import Unpickled, read_pickle
from cgptc.frontend.readers.state_dict import find_state_dict, require_plain
from cgptc.frontend.readers.torch_objects import StorageTable, known_globals
from cgptc.frontend.readers.torch_zip import state_dict_extents
from cgptc.ir.diagnostics import CompileError, MalformedError

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_PROTOCOL = 1001
_COUNT_BYTES = 8


def read_torch_legacy(file: InputFile) -> Contents:
    """The state dict in a legacy ``.pt``. The file starts with `MAGIC`'s first eight bytes."""
    if file.size < len(MAGIC) or file.read(0, len(MAGIC)) != MAGIC:
        raise _malformed("the magic number is damaged", file)
    pickle, storages, end = unpickle_legacy(file)
    require_plain(pickle, file.label)
    keys = _plain_pickle(file, end)
    blobs = _storage_blobs(file, storages, keys)
    found = find_state_dict(pickle.value, file.label)
    extents = state_dict_extents(found, blobs)
    return Contents("torch legacy", extents, tuple(blobs.values()), found.config, notes=found.notes)


def unpickle_legacy(file: InputFile) -> tuple[Unpickled, StorageTable, int]:
    """The file's value, the storages that it names, and the offset after it."""
    version = _plain_pickle(file, len(MAGIC))
    if version.value != _PROTOCOL:
        raise _malformed("its protocol version is not 1001", file)
    machine = _plain_pickle(file, version.end)
    if not isinstance(machine.value, dict) or not isinstance(machine.value.get("little_endian"), bool):
        raise _malformed("it does not say its byte order", file)
    if not machine.value["little_endian"]:
        raise CompileError(
            "unsupported-byte-order",
            "its numbers are not little-endian",
            file=file.label,
            fix="save it again on a little-endian machine",
        )
    storages = StorageTable(field_count=6)
    pickle = read_pickle(file, machine.end, file.size, known_globals(), storages.find)
    return pickle, storages, pickle.end


def _plain_pickle(file: InputFile, start: int) -> Unpickled:
    pickle = read_pickle(file, start, file.size, {}, lambda identifier: None)
    require_plain(pickle, file.label)
    return pickle


def _storage_blobs(file: InputFile, storages: StorageTable, keys: Unpickled) -> dict[str, Blob]:
    names = [name for name in keys.value if isinstance(name, str)] if isinstance(keys.value, list) else []
    if len(names) != len(storages.storages) or {*names} != {*storages.storages}:
        raise _malformed("its storages are not those that it lists", file)
    blobs: dict[str, Blob] = {}
    position = keys.end
    for name in names:
        storage = storages.storages[name]
        size = storage.element_count * storage.element.size
        if position + _COUNT_BYTES + size > file.size:
            raise _malformed(f"the bytes of storage {quoted(name)} are cut short", file)
        if int.from_bytes(file.read(position, _COUNT_BYTES), "little") != storage.element_count:
            raise _malformed(f"storage {quoted(name)} has two sizes", file)
        blobs[name] = Blob(file, name, position + _COUNT_BYTES, size)
        position += _COUNT_BYTES + size
    if position != file.size:
        raise _malformed("there are stray bytes after the last storage", file)
    return blobs


def _malformed(what: str, file: InputFile) -> MalformedError:
    return MalformedError("malformed-legacy-file", what, file=file.label, fix="the file is damaged: write it again with torch.save")
