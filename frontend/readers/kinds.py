"""What a file is, by its first bytes and, for a zip, its members' names."""

from __future__ import annotations

import enum
import pickletools

from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.torch_legacy import MAGIC
from cgptc.frontend.readers.zip_archive import EMPTY_SIGNATURE, LOCAL_SIGNATURE, ZipArchive, common_root


class Kind(enum.Enum):
    """What a path is; the value says it in words."""

    SAFETENSORS = "a safetensors file"
    STATE_DICT = "a PyTorch state dict"
    LEGACY_STATE_DICT = "a PyTorch state dict of before version 1.6"
    EXPORTED = "a torch.export program"
    HF_FOLDER = "a Hugging Face model folder"
    PICKLED_MODULE = "a pickled PyTorch object"
    OLD_EXPORTED = "a torch.export program of before version 2.8"
    TORCH_SCRIPT = "a TorchScript archive"
    PICKLE = "a pickle"
    GGUF = "a GGUF file"
    TAR = "a tar archive"
    ZIP = "a zip archive that is no PyTorch file"
    HDF5 = "an HDF5 file"
    NUMPY = "a NumPy array"
    COMPRESSED = "a compressed file"
    JSON = "a JSON text"
    EMPTY = "an empty file"
    FOLDER = "a folder without config.json and weights"
    UNKNOWN = "no kind of file that cgptc knows"


_PREFIXES = (
    (MAGIC[:8], Kind.LEGACY_STATE_DICT),
    (b"GGUF", Kind.GGUF),
    (b"GGML", Kind.GGUF),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"\x93NUMPY", Kind.NUMPY),
    (b"\x1f\x8b", Kind.COMPRESSED),
    (b"BZh", Kind.COMPRESSED),
    (b"\xfd7zXZ\x00", Kind.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", Kind.COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", Kind.COMPRESSED),
)
_HEAD_BYTES = 512
_SMALL_BYTES = 1 << 20


def kind_of(file: InputFile) -> tuple[Kind, ZipArchive | None]:
    """The kind of an open file, and its directory where it is a zip archive.

    A PyTorch file counts as a state dict here, whatever its pickle holds: reading that is its reader's work.
    """
    if file.size == 0:
        return Kind.EMPTY, None
    head = file.read(0, min(file.size, _HEAD_BYTES))
    if head.startswith((LOCAL_SIGNATURE, EMPTY_SIGNATURE)):
        archive = ZipArchive(file)
        return _kind_of_zip(archive), archive
    return _kind_of_head(head, file), None


def _kind_of_head(head: bytes, file: InputFile) -> Kind:
    # A header's length may read as the start of anything else, 640 as that of a pickle; nothing else fits the file and a brace behind it.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.size - 8:
        return Kind.SAFETENSORS
    for prefix, kind in _PREFIXES:
        if head.startswith(prefix):
            return kind
    if head[257:262] == b"ustar":
        return Kind.TAR
    if head[:2] in {b"\x80" + bytes([protocol]) for protocol in range(2, 6)}:
        return Kind.PICKLE
    if head[8:9] == b"{":
        return Kind.SAFETENSORS
    if head.lstrip()[:1] in (b"{", b"["):
        return Kind.JSON
    return Kind.PICKLE if _is_old_pickle(file) else Kind.UNKNOWN


def _is_old_pickle(file: InputFile) -> bool:
    """Whether a small file is a pickle of protocol 0 or 1, which starts in no particular way. Nothing is executed."""
    if file.size > _SMALL_BYTES:
        return False
    data = file.read(0, file.size)
    if not data.endswith(b"."):
        return False
    try:
        position = max((position or 0 for _, _, position in pickletools.genops(data)), default=-1)
    except Exception:  # any failure says that it is none
        return False
    return position == len(data) - 1 and len(data) > 1


def _kind_of_zip(archive: ZipArchive) -> Kind:
    names = list(archive.members)
    root = common_root(names)
    members = {name.removeprefix(root) for name in names}
    if "archive_format" in members:
        return Kind.EXPORTED
    if "serialized_exported_program.json" in members:
        return Kind.OLD_EXPORTED
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return Kind.TORCH_SCRIPT
    if "data.pkl" in members and root:
        return Kind.STATE_DICT
    return Kind.NUMPY if names and all(name.endswith(".npy") for name in names) else Kind.ZIP
