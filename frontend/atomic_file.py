"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cgptc.ir.diagnostics import FileError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write and seek in; it takes ``path``'s place once the block ends, and leaves nothing behind if it raises.

    A partial file is a hidden sibling that names its process; those of dead processes are removed first. Raises `FileError`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _clear_debris(path)
        try:
            with partial.open("wb+") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError("cannot-write", error.strerror or str(error), file=str(path), fix="choose another output path") from error


def _clear_debris(path: Path) -> None:
    for partial in path.parent.glob(f".{_escaped(path.name)}.*.partial"):
        process = partial.name.removesuffix(".partial").rpartition(".")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            partial.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
