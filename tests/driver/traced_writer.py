"""A process that has imported the artifact writer and forks a copy of itself for every write: a traced write then takes milliseconds.

It reads ``PLACE WORD`` from its input, forks, prints the copy's process id, and waits for a line more, so that a tracer can attach. Then
the copy writes an artifact, and its exit status is printed: 0, the error's exit code, 99 for an error that is not ours, -9 when killed.
The word is what a small artifact holds, or ``compiled:MODEL:OPTIONS``, such as ``compiled:model.pt:{"stages": "2"}``: the model is captured
and goes through its passes once, in the first process, and every copy writes what they gave.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cgptc.artifact import ArtifactWriter, Manifest
from cgptc.artifact.writer import file_errors
from cgptc.ir.diagnostics import CgptcError, Exit

PR_SET_PTRACER, ANYBODY = 0x59616D61, -1


def write(place: Path, content: bytes) -> None:
    with ArtifactWriter(place) as writer:
        with file_errors(writer.shown):
            (writer.folder / "graph.cgir").write_bytes(content)
            (writer.folder / "model.bin").write_bytes(content * 100)
        writer.commit(Manifest(target="onnx", files={}))


@cache
def compiled(path: str, options: str) -> Callable[[Path], None]:
    """Writes a model that is captured and optimised already."""
    from cgptc.driver.compilation import optimise, target_of, write_artifact
    from cgptc.driver.options import CompileOptions
    from cgptc.frontend.source import open_model

    chosen = CompileOptions(**json.loads(options))
    target = target_of(chosen)

    def prepared() -> Callable[[Path], None]:
        model = open_model(path, chosen.source).__enter__()
        optimised = optimise(model, target, chosen)

        def write_compiled(place: Path) -> None:
            with ArtifactWriter(place) as writer:
                write_artifact(writer, model, optimised, target, chosen, None)

        return write_compiled

    with tempfile.TemporaryDirectory() as folder:
        prepared()(Path(folder) / "first")  # imports what a copy would import under the tracer
    return prepared()


def forked(place: str, word: str) -> int:
    """The exit status of a copy of this process that writes."""
    kind, _, rest = word.partition(":")
    job = compiled(*rest.split(":", 1)) if kind == "compiled" else lambda place: write(place, word.encode())
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY)  # Yama otherwise lets ancestors trace only
            os.read(reading, 1)
            job(Path(place))
            code = 0
        except CgptcError as error:
            code = error.exit
        except OSError:
            code = Exit.IO  # as the command line has it
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
        place, word = line.rstrip().split(maxsplit=1)
        print(forked(place, word), flush=True)  # noqa: T201
