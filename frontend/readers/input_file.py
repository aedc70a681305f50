"""Regular files, opened once and read at given positions.

Nothing here follows what a file says about itself: positions and sizes are checked by the reader of its format.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgptc.frontend.readers.quoting import quoted
from cgptc.ir.diagnostics import FileError, MalformedError
from cgptc.ir.printable import printable

CHUNK_BYTES = 1 << 20
_NOT_REGULAR = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


@contextlib.contextmanager
def reporting(label: str) -> Iterator[None]:
    """Turn the operating system's errors into `FileError`."""
    try:
        yield
    except OSError as error:
        code = {errno.ENOENT: "not-found", errno.EACCES: "no-permission"}.get(error.errno or 0, "read-failed")
        reason = error.strerror or type(error).__name__
        raise FileError(code, reason.lower(), file=label, fix="check the path and its permissions") from error


def file_mode(path: Path, label: str) -> int:
    """What ``stat`` says the path is, links followed; `FileError` where there is nothing."""
    with reporting(label):
        try:
            return path.stat().st_mode
        except ValueError as error:  # a NUL, or half a surrogate pair
            raise FileError("not-found", "not a path", file=quoted(label), fix="check the path") from error


class InputFile:
    """A regular file open for reading. Reads from several threads are safe.

    ``label`` is what messages call it, ``name`` its last part. A file whose size or modification time changes while it
    is open raises `FileError`. Anything but a regular file is refused before it is opened, without blocking.
    """

    def __init__(self, path: Path, label: str = "") -> None:
        self._descriptor: int | None = None
        self.label = label or printable(str(path))
        self.name = path.name
        with reporting(self.label):
            self._require_regular(file_mode(path, self.label))
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(path, flags)
            try:
                status = os.fstat(descriptor)
                self._require_regular(status.st_mode)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        self.size = status.st_size
        self._modified = status.st_mtime_ns

    def _require_regular(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            what = _NOT_REGULAR.get(stat.S_IFMT(mode), "something else")
            raise FileError("not-a-file", f"{what}, not a regular file", file=self.label, fix="give a file on disk")

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, both already known to lie within the file."""
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``."""
        if self._descriptor is None:
            raise ValueError(f"{self.label} is closed")
        self._require_unchanged(self._descriptor)
        done = 0
        with reporting(self.label):
            while done < len(buffer):
                count = os.preadv(self._descriptor, [buffer[done : done + (1 << 30)]], offset + done)
                if count == 0:
                    raise self._changed()
                done += count

    def _require_unchanged(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise self._changed()

    def _changed(self) -> FileError:
        return FileError("changed", "the file changed while it was being read", file=self.label, fix="run again")

    def chunks(self, offset: int, size: int) -> Iterator[memoryview]:
        """The bytes from ``offset`` in pieces. The buffer is reused: a piece is valid until the next one."""
        buffer = memoryview(bytearray(min(CHUNK_BYTES, size)))
        for start in range(offset, offset + size, CHUNK_BYTES):
            piece = buffer[: min(CHUNK_BYTES, offset + size - start)]
            self.read_into(start, piece)
            yield piece

    def sha256(self) -> str:
        """The digest of the whole file."""
        digest = hashlib.sha256()
        for piece in self.chunks(0, self.size):
            digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Blob:
    """A run of bytes in a file that holds one storage, with its CRC-32 where the format keeps one."""

    file: InputFile
    name: str
    start: int
    size: int
    crc: int | None = None

    def verify(self) -> None:
        """Read all of it and compare the checksum; MalformedError where it differs."""
        if self.crc is None:
            return
        crc = 0
        for piece in self.file.chunks(self.start, self.size):
            crc = zlib.crc32(piece, crc)
        if crc != self.crc:
            raise MalformedError(
                "wrong-checksum",
                f"the bytes of {quoted(self.name)} do not match their checksum",
                file=self.file.label,
                fix="the file is damaged: copy or download it again",
            )

    def read(self) -> bytes:
        """All of it, verified. For small blobs."""
        self.verify()
        return self.file.read(self.start, self.size)
