"""A file that is hashed beside its writing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cgptc.backends.onnx.hashed_file import HOLE_BYTES, HashedFile


def test_the_digest_is_that_of_the_bytes_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "data"
    numbers = np.arange(3 * HOLE_BYTES + 5, dtype=np.uint8)
    numbers[HOLE_BYTES : 2 * HOLE_BYTES] = 0
    with HashedFile(path) as file:
        file.write(numbers[:7])
        file.skip_to(4096)
        file.write(numbers)
        file.write(np.zeros(2 * HOLE_BYTES, np.uint8))
        assert file.position == 4096 + numbers.nbytes + 2 * HOLE_BYTES
    written = path.read_bytes()
    assert written == bytes(numbers[:7]) + bytes(4096 - 7) + bytes(numbers) + bytes(2 * HOLE_BYTES)
    assert file.sha256 == hashlib.sha256(written).hexdigest()


def test_a_full_disk_ends_the_thread_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), HashedFile(Path("/dev/full")) as file:
        file.write(np.ones(1 << 20, np.uint8))
    assert not file._thread.is_alive()


def test_what_would_stand_behind_is_refused(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "data") as file:
        file.write(np.ones(7, np.uint8))
        with pytest.raises(ValueError, match="7 bytes are written"):
            file.skip_to(4)
