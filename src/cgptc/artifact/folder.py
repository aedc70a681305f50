"""Reading an artifact: nothing is believed before its digest is checked."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cgptc.artifact.canonical import MAXIMUM_BYTES, Json, parse_json
from cgptc.artifact.manifest import MANIFEST, Manifest, ManifestError, NotAnArtifactError, UnknownVersionError
from cgptc.artifact.replacement import recover
from cgptc.ir.diagnostics import CompileError, FileError, MalformedError, UsageError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ArtifactFolder:
    """An artifact whose manifest was read. ``digest`` is the manifest's sha256, which covers every file."""

    path: Path
    manifest: Manifest
    digest: str

    def file(self, name: str) -> Path:
        """Where a listed file is; `MalformedError` where the manifest lists no such file."""
        if name not in self.manifest.files:
            raise MalformedError("missing-file", f"{MANIFEST} does not list '{name}'", file=str(self.path), fix="compile it again")
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of a small listed file, checked against its digest as it is read."""
        self.file(name)
        entry = self.manifest.files[name]
        if entry.size > MAXIMUM_BYTES:
            raise MalformedError("too-large", f"'{name}' is {entry.size} bytes, more than {MAXIMUM_BYTES}", file=str(self.path))
        with _open_regular(self.path, name) as descriptor:
            data = _read_all(descriptor, MAXIMUM_BYTES)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise _damaged(self.path, name)
        return data

    def read_json(self, name: str) -> Json:
        """The content of a small listed JSON file."""
        try:
            return parse_json(self.read(name))
        except ValueError as error:
            raise MalformedError("malformed-json", f"'{name}' {error}", file=str(self.path), fix="compile it again") from None

    @property
    def extra_files(self) -> list[str]:
        """Files in the folder that the manifest does not list; nothing reads them."""
        return [name for name in list_files(self.path) if name != MANIFEST and name not in self.manifest.files]


def open_folder(path: Path) -> ArtifactFolder:
    """Read the manifest of the artifact at ``path``; no other file is looked at.

    Raises `FileError` where nothing is there, `UsageError` where it is not an artifact, `MalformedError` where the manifest is
    damaged, and `CompileError` where its major version is unknown.
    """
    shown = str(path)
    try:
        recover(path)
    except OSError as error:
        raise FileError("read", f"cannot be read: {(error.strerror or str(error)).lower()}", file=shown) from error
    if not os.path.lexists(path):
        raise FileError("not-found", "no such artifact", file=shown, fix="cgptc compile MODEL -o OUT makes one")
    if not path.is_dir():
        raise UsageError("not-an-artifact", "is not an artifact folder", file=shown, fix="give the folder that cgptc compile wrote")
    try:
        data = _manifest_bytes(path)
        manifest = Manifest.from_json(data)
    except FileNotFoundError:
        raise UsageError("not-an-artifact", f"holds no {MANIFEST}", file=shown, fix="give the folder that cgptc compile wrote") from None
    except OSError as error:
        raise FileError("read", f"{MANIFEST} cannot be read: {(error.strerror or str(error)).lower()}", file=shown) from error
    except NotAnArtifactError as error:
        raise UsageError("not-an-artifact", f"{MANIFEST} {error}", file=shown, fix="give the folder that cgptc compile wrote") from None
    except UnknownVersionError as error:
        raise CompileError(
            "format-version", f"{MANIFEST} {error}", file=shown, fix="compile the model again, or use the cgptc that wrote it"
        ) from None
    except ManifestError as error:
        raise MalformedError("manifest", f"{MANIFEST} {error}", file=shown, fix="compile the model again") from None
    return ArtifactFolder(path, manifest, hashlib.sha256(data).hexdigest())


def check_files(folder: ArtifactFolder) -> None:
    """Compare every listed file with its size and digest; `MalformedError` names the first that differs."""
    for name, entry in sorted(folder.manifest.files.items()):
        with _open_regular(folder.path, name) as descriptor:
            if os.fstat(descriptor).st_size != entry.size or _hash(descriptor) != entry.sha256:
                raise _damaged(folder.path, name)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a folder; `ManifestError` or FileNotFoundError where there is none that can be read."""
    return Manifest.from_json(_manifest_bytes(path))


def list_files(path: Path) -> list[str]:
    """Names of everything below a folder that is not itself a folder, with ``/``, sorted. Links are not followed."""

    def refuse(error: OSError) -> NoReturn:  # os.walk would take a folder that it may not read for an empty one
        raise error

    names: list[str] = []
    for parent, folders, files in os.walk(path, onerror=refuse):
        relative = Path(parent).relative_to(path)
        names += [(relative / name).as_posix() for name in files]
        names += [(relative / name).as_posix() for name in folders if (Path(parent) / name).is_symlink()]
    return sorted(names)


def _manifest_bytes(path: Path) -> bytes:
    try:
        descriptor = os.open(path / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # what O_NOFOLLOW gives on Linux and macOS, and on FreeBSD
            raise ManifestError("is a symbolic link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ManifestError("is not a regular file")
        return _read_all(descriptor, MAXIMUM_BYTES)
    finally:
        os.close(descriptor)


@contextmanager
def _open_regular(folder: Path, name: str) -> Iterator[int]:
    # O_NOFOLLOW guards the last component only, so folders on the way are looked at one by one.
    shown = str(folder)
    at = folder
    for part in name.split("/")[:-1]:
        at = at / part
        if at.is_symlink():
            raise MalformedError("link", f"'{name}' is reached through a symbolic link", file=shown, fix="compile the model again")
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MalformedError("missing-file", f"'{name}' is missing", file=shown, fix="compile the model again") from None
    except OSError as error:
        if (folder / name).is_symlink():
            raise MalformedError("link", f"'{name}' is a symbolic link", file=shown, fix="compile the model again") from None
        raise FileError("read", f"'{name}' cannot be read: {(error.strerror or str(error)).lower()}", file=shown) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MalformedError("not-a-file", f"'{name}' is not a regular file", file=shown, fix="compile the model again")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, limit: int) -> bytes:
    """At most one byte more than ``limit``, which then tells the caller that there was more."""
    chunks: list[bytes] = []
    left = limit + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK_BYTES))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _hash(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _damaged(folder: Path, name: str) -> MalformedError:
    what = f"'{name}' does not match its digest in {MANIFEST}: it was changed or damaged"
    return MalformedError("damaged-file", what, file=str(folder), fix="compile the model again")
