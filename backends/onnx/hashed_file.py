"""A file that is hashed beside its writing, in a thread: hashing leaves the interpreter free and takes longer than writing."""

from __future__ import annotations

import hashlib
import queue
import threading
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

HOLE_BYTES = 64 << 10
"""A stretch of so many zero bytes is skipped, so that a hole of a sparse source stays a hole."""


class HashedFile:
    """A new file, written from its beginning to its end. Use as a context manager; `sha256` holds once it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._blocks: queue.Queue[Bytes | int | None] = queue.Queue()
        self._thread = threading.Thread(target=self._hash, name="hash", daemon=True)
        self._thread.start()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._file:
                if error is None:
                    self._file.truncate()  # a hole at the end
        finally:
            self._hand_over(None)
            self._thread.join()

    @property
    def position(self) -> int:
        """Bytes so far, holes included."""
        return self._file.tell()

    @property
    def sha256(self) -> str:
        """The digest of all bytes, in hexadecimal digits."""
        return self._digest.hexdigest()

    def skip_to(self, offset: int) -> None:
        """Zeros up to an offset. ValueError for one that is behind."""
        if offset < self.position:
            raise ValueError(f"{self.position} bytes are written, and the next are to stand at {offset}")
        self._hand_over(offset - self.position)
        self._file.seek(offset)

    def write(self, block: Bytes) -> None:
        """Append a block, which must not change afterwards."""
        self._hand_over(block)
        for start in range(0, len(block), HOLE_BYTES):
            part = block[start : start + HOLE_BYTES]
            if len(part) == HOLE_BYTES and not part.view(np.uint64).any():
                self._file.seek(HOLE_BYTES, 1)
            else:
                self._file.write(part.data)

    def _hand_over(self, block: Bytes | int | None) -> None:
        self._blocks.join()  # no more than the block before this one is in memory
        self._blocks.put(block)

    def _hash(self) -> None:
        while (block := self._blocks.get()) is not None:
            self._digest.update(bytes(block) if isinstance(block, int) else block.data)
            del block
            self._blocks.task_done()
