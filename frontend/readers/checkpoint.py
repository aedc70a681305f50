"""An opened set of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cgptc.frontend.readers.ahead import Ahead
from cgptc.frontend.readers.input_file import Blob, InputFile
from cgptc.frontend.readers.plain_json import JsonObject
from cgptc.frontend.readers.tensor_store import Extent, TensorStore, tensor_table
from cgptc.ir.weights import Stored


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors in files that stay open until `close`; a context manager.

    ``tensors`` gives every name its `Stored` reference into ``store``; names of one tied tensor share a reference, and
    ``aliases`` says under which name each further one is stored. ``config`` is plain data found with the weights
    (``config.json`` of the folder, the configuration in a state dict's dictionary, the ``config`` entry of a
    safetensors header), None where there is none. ``metadata`` is the text that a safetensors header carries. ``notes``
    are things a user should hear, such as tensors left out.

    Checksums that a format keeps are verified at the first read of each storage and, for all of the file, by `verify`
    and `digest`; so whoever records a digest has a file without a flipped byte in what its checksums cover. Safetensors
    and legacy ``.pt`` keep none.
    """

    format: str
    tensors: dict[str, Stored]
    aliases: dict[str, str]
    store: TensorStore
    files: tuple[InputFile, ...]
    config: JsonObject | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    blobs: tuple[Blob, ...] = ()
    hashing: Ahead[str] | None = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; reading weights afterwards is an error."""
        self.store.release()
        for file in self.files:
            file.close()

    def verify(self) -> None:
        """Verify every checksum in the files, read or not; `MalformedError` names the first that differs."""
        for blob in self.blobs:
            self.store.verify(blob)

    def digest(self) -> str:
        """The sha256 of the file, or one over name and sha256 of each of several, after `verify`."""
        if self.hashing is not None:
            return self.hashing.result()
        self.verify()
        return files_digest(self.files)

    def hashed_ahead(self) -> Checkpoint:
        """The same, with the digest begun in a thread of its own, for whoever will ask for it after other work."""
        return replace(self, hashing=Ahead(self.digest))


def files_digest(files: tuple[InputFile, ...]) -> str:
    """One file's sha256, or the sha256 of the lines ``sha256  name`` of several."""
    if len(files) == 1:
        return files[0].sha256()
    lines = "".join(f"{file.sha256()}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader found in a file: where each tensor is, every storage, and the plain data beside them."""

    format: str
    extents: Mapping[str, Extent]
    blobs: tuple[Blob, ...]
    config: JsonObject | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def make_checkpoint(contents: Contents, files: Iterable[InputFile]) -> Checkpoint:
    """The checkpoint of what was found in ``files``, which it then owns."""
    table = tensor_table(contents.extents)
    return Checkpoint(
        contents.format,
        table.tensors,
        table.aliases,
        table.store,
        tuple(files),
        contents.config,
        contents.metadata,
        contents.notes,
        contents.blobs,
    )
