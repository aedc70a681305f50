"""A process that has imported the artifact writer and forks a copy of itself for every write: a traced write then takes milliseconds.

It reads ``PLACE WORD`` from its input, forks, prints the copy's process id, and waits for a line more, so that a tracer can attach. Then
the copy writes an artifact, and its exit status is printed: 0, the error's exit code, 99 for an error that is not ours, -9 when killed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from cgptc.artifact import ArtifactWriter, Manifest
from cgptc.artifact.writer import file_errors
from cgptc.ir.diagnostics import CgptcError

PR_SET_PTRACER, ANYBODY = 0x59616D61, -1


def write(place: Path, content: bytes) -> None:
    with ArtifactWriter(place) as writer:
        with file_errors(writer.shown):
            (writer.folder / "graph.cgir").write_bytes(content)
            (writer.folder / "model.bin").write_bytes(content * 100)
        writer.commit(Manifest(target="onnx", files={}))


def forked(place: str, word: str) -> int:
    """The exit status of a copy of this process that writes."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY)  # Yama otherwise lets ancestors trace only
            os.read(reading, 1)
            write(Path(place), word.encode())
            code = 0
        except CgptcError as error:
            code = error.exit
        finally:
            os._exit(code)
    print(process, flush=True)  # noqa: T201
    sys.stdin.readline()
    os.write(writing, b"x")
    os.close(reading)
    os.close(writing)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    while line := sys.stdin.readline():
        place, word = line.split()
        print(forked(place, word), flush=True)  # noqa: T201
