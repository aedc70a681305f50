"""Writing an artifact: build beside its place, make it durable, then put it there in one step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType

from cgptc.artifact.folder import list_files, read_manifest
from cgptc.artifact.manifest import MANIFEST, FileEntry, Manifest, ManifestError, UnknownVersionError, require_file_name
from cgptc.artifact.replacement import ASIDE, STAGING, leftovers, recover, replace_folder
from cgptc.ir.diagnostics import FileError, UsageError

_CHUNK_BYTES = 1 << 20
NOTHING: Mapping[str, str] = MappingProxyType({})
_LIVING: set[Path] = set()
"""Staging folders of this process, for `remove_staging`: a signal's watcher has no other way to reach them."""


class ArtifactWriter:
    """A folder under construction that becomes the artifact at ``place`` on `commit`, and nothing at all without it.

    Use as a context manager and write files under ``folder``. Entering raises `UsageError` where something stands at ``place`` that
    is not an artifact of ours, and `FileError` where its parent cannot be written.
    """

    def __init__(self, place: Path) -> None:
        # A link to an artifact stays a link: what it points to is replaced.
        self.place = place.resolve()
        self.shown = str(place)
        self._token = secrets.token_hex(6)
        self._lock: int | None = None
        self.folder = self.place.with_name(f".{self.place.name}{STAGING}{self._token}")

    def __enter__(self) -> ArtifactWriter:
        with file_errors(self.shown):
            if not self.place.parent.is_dir():
                raise FileError("no-folder", f"the folder '{Path(self.shown).parent}' does not exist", file=self.shown, fix="make it first")
            recover(self.place)
            require_replaceable(self.place, self.shown)
            clear_debris(self.place)
            self._stage()
        return self

    def _stage(self) -> None:
        """Make the staging folder and lock it. Between the two another run may take it for debris: then make another."""
        while True:
            _LIVING.add(self.folder)  # before it is there: an interruption may come right behind
            self.folder.mkdir()
            try:
                self._lock = _hold(self.folder)
            except (FileNotFoundError, BlockingIOError):
                _LIVING.discard(self.folder)
                self._token = secrets.token_hex(6)
                self.folder = self.place.with_name(f".{self.place.name}{STAGING}{self._token}")
            except OSError:
                self.__exit__(None, None, None)
                raise
            else:
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After a commit the folder holds the artifact that was replaced, or is gone.
        shutil.rmtree(self.folder, ignore_errors=True)
        _LIVING.discard(self.folder)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def commit(self, manifest: Manifest, digests: Mapping[str, str] = NOTHING) -> Manifest:
        """Hash and sync every file, write the manifest, put the folder in its place. Gives the manifest as written.

        ``digests`` are the SHA-256 of files whose writer knows them, by name.
        ``manifest.files`` is filled in here. Whatever fails (`FileError`) and whenever the process dies, ``place`` holds what stood
        there before or the new artifact, whole.
        """
        with file_errors(self.shown):
            entries: dict[str, FileEntry] = {}
            for name in list_files(self.folder):
                require_file_name(name)
                entries[name] = _sync_and_hash(self.folder / name, digests.get(name))
            written = replace(manifest, files=entries)
            target = self.folder / MANIFEST
            target.write_bytes(written.to_json().encode())
            _sync_and_hash(target)
            for folder, _, _ in os.walk(self.folder):
                _sync_folder(Path(folder))
            require_replaceable(self.place, self.shown)
            old = replace_folder(self.folder, self.place, self._token)
            _sync_folder(self.place.parent)
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)  # the artifact stands; the next run clears what stays
        return written


def remove_staging() -> None:
    """Remove what this process has under construction: the last act before a forced exit."""
    for folder in list(_LIVING):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def file_errors(shown: str) -> Iterator[None]:
    """Turn an OSError into a `FileError` about ``shown`` that says what to do."""
    try:
        yield
    except OSError as error:
        fixes = {
            errno.ENOSPC: "free some space, or choose another folder with -o",
            errno.EDQUOT: "free some space, or choose another folder with -o",
            errno.EACCES: "choose a folder that you may write to with -o",
            errno.EPERM: "choose a folder that you may write to with -o",
            errno.EROFS: "choose a folder that you may write to with -o",
            errno.ENAMETOOLONG: "choose a shorter name with -o",
        }
        what = f"writing failed: {(error.strerror or str(error)).lower()}"
        raise FileError("write", what, file=shown, fix=fixes.get(error.errno or 0, "")) from error


def require_replaceable(place: Path, shown: str) -> None:
    """`UsageError` unless ``place`` is free, an empty folder, or an artifact that holds only what cgptc wrote."""
    if not os.path.lexists(place):
        return
    another = "choose another output with -o"
    if not place.is_dir():
        raise UsageError("not-an-artifact", "is not a folder that cgptc wrote", file=shown, fix=another)
    present = list_files(place)
    if not present:
        return
    try:
        manifest = read_manifest(place)
    except UnknownVersionError as error:
        raise UsageError("not-an-artifact", f"{MANIFEST} {error}", file=shown, fix=another) from None
    except (ManifestError, FileNotFoundError):
        raise UsageError("not-an-artifact", "is a folder that cgptc did not write", file=shown, fix=another) from None
    foreign = [name for name in present if name != MANIFEST and name not in manifest.files]
    if foreign:
        what = f"holds '{foreign[0]}', which cgptc did not write and would delete"
        raise UsageError("foreign-file", what, file=shown, fix=f"move it away, or {another}")


def clear_debris(place: Path) -> None:
    """Remove what killed writers of ``place`` left. What a living writer uses stays."""
    for folder in leftovers(place):
        if ASIDE in folder.name and not os.path.lexists(place):
            continue  # a living writer is between its two renames: this is the only whole artifact now
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone already, or not a folder: not ours to remove
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # a living writer holds it, or the file system has no locks and nobody can tell
        finally:
            os.close(lock)


def _hold(folder: Path) -> int | None:
    """Lock a new folder for the life of this process; None where the file system has no locks.

    FileNotFoundError or BlockingIOError where a run that clears debris was faster.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FileNotFoundError(errno.ENOENT, "another folder took the name", str(folder))
    except (FileNotFoundError, BlockingIOError):
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync_and_hash(path: Path, known: str | None = None) -> FileEntry:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        digest = known or _hash(descriptor)
        os.fsync(descriptor)
        return FileEntry(digest, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _hash(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
