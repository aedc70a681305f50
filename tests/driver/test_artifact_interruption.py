"""SIGKILL and a full disk at every file-changing system call of a write, injected by strace: the old artifact or the new one, whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.driver.test_artifact_writer import content_of, hidden, write
from tests.driver.test_interrupted_commands import Commands
from tests.driver.test_reproducibility import SMALL

from cgptc.frontend.new_model import write_model
from cgptc.ir.diagnostics import Exit

SOURCE = Path(__file__).parents[2] / "src"
CHANGING = (
    "mkdir,mkdirat,openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,ftruncate,"
    "fallocate,copy_file_range,sendfile,flock"
)
PERHAPS = ",".join(f"?{name}" for name in CHANGING.split(","))  # not every machine has all of them


class Traced:
    """Writes in processes of their own under strace."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "trace"
        # What is imported late is read from source, not written as bytecode: that is no call of the writer's.
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
        program = Path(__file__).with_name("traced_writer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def say(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def run(self, place: Path, word: str, *options: str) -> int:
        """Write ``word`` at ``place``, traced with the options; the exit status."""
        number = self.say(f"{place} {word}")
        command = ["strace", "-f", "-p", number, "-o", str(self.log), "-e", f"trace={PERHAPS}", *options]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        status = int(self.say("go"))
        tracer.communicate()
        if "attached" not in first:
            pytest.skip(f"this system forbids tracing: {first.strip()}")
        return status

    def calls(self) -> Counter[str]:
        """How often each call occurs in the last run."""
        return Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", self.log.read_text(), re.MULTILINE))

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    writer = Traced(tmp_path_factory.mktemp("traced"))
    yield writer
    writer.close()


def places(traced: Traced, tmp_path: Path, over: bool) -> list[tuple[str, int]]:
    """Each call of an undisturbed write, by name and count."""
    place = tmp_path / "undisturbed"
    if over:
        write(place, b"one")
    assert traced.run(place, "two") == 0
    found = [(name, number) for name, count in sorted(traced.calls().items()) for number in range(1, count + 1)]
    assert {"mkdir", "openat", "write", "fsync", "rename"} <= {name for name, _ in found}
    shutil.rmtree(place)
    return found


@pytest.mark.parametrize("over", [False, True], ids=["fresh", "over-old"])
@pytest.mark.parametrize("what", ["signal=KILL", "error=ENOSPC", "error=EIO"])
def test_a_write_that_is_cut_short_leaves_the_old_artifact_or_the_new_one(traced: Traced, tmp_path: Path, what: str, over: bool) -> None:
    place = tmp_path / "out"
    cut = 0
    for name, number in places(traced, tmp_path, over):
        if over and not place.exists():
            write(place, b"one")
        status = traced.run(place, "two", "-e", f"inject={name}:{what}:when={number}")
        at = f"{name} number {number}"
        if what == "signal=KILL":
            assert status == -signal.SIGKILL, at
        else:
            assert status in (Exit.OK, Exit.IO), at  # an error of ours, or one that does not matter, such as of the clean-up
        cut += status != 0
        if place.exists() or over:
            assert content_of(place) in ((b"one", b"two") if over else (b"two",)), at
            assert status != 0 or content_of(place) == b"two", at
        else:
            assert status != 0, at
        write(place, b"one")
        assert content_of(place) == b"one", at
        assert hidden(tmp_path) == [], at
        if not over:
            shutil.rmtree(place)
    assert cut > 10


COMPILES = {
    "onnx": '{"target": "onnx"}',
    "stages": '{"target": "onnx", "stages": "2"}',
    "wafer": '{"target": "wafer", "target_options": {"grid": "2x2"}}',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILES)
@pytest.mark.parametrize("what", ["signal=KILL", "error=ENOSPC"])
def test_a_compile_that_is_cut_short_leaves_the_old_artifact_or_the_new_one(traced: Traced, tmp_path: Path, name: str, what: str) -> None:
    """At every call of every target, over an artifact that stands there."""
    write_model(SMALL, tmp_path / "model.pt")
    word = f"compiled:{tmp_path / 'model.pt'}:{COMPILES[name]}"
    place, new = tmp_path / "out", tmp_path / "undisturbed"
    write(place, b"one")
    old = Commands.digest(place)
    write(new, b"one")
    assert traced.run(new, word) == 0
    calls, wanted = traced.calls(), Commands.digest(new)
    assert wanted != old and calls.total() > 60
    ends = Counter[int]()
    for call, number in [(call, number) for call, count in sorted(calls.items()) for number in range(1, count + 1)]:
        if Commands.digest(place) != old:
            write(place, b"one")
        status = traced.run(place, word, "-e", f"inject={call}:{what}:when={number}")
        at = f"{call} number {number}"
        assert status in ((0, -signal.SIGKILL) if what == "signal=KILL" else (Exit.OK, Exit.IO)), at
        assert Commands.digest(place) in ((old, wanted) if status else (wanted,)), at
        ends[status] += 1
        if status == Exit.IO:
            assert hidden(tmp_path) == [], at
    write(place, b"one")  # the next run clears debris
    assert hidden(tmp_path) == []
    assert ends[Exit.IO if what == "error=ENOSPC" else -signal.SIGKILL] > 40, ends


def forbid_tracing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on strace says what it does where it may not attach."""
    strace = folder / "bin" / "strace"
    strace.parent.mkdir()
    strace.write_text("#!/bin/sh\necho 'strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted' >&2\nexit 1\n")
    strace.chmod(0o755)
    monkeypatch.setenv("PATH", f"{strace.parent}{os.pathsep}{os.environ['PATH']}")


def test_where_tracing_is_forbidden_the_tests_are_skipped_with_the_reason(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_tracing(tmp_path, monkeypatch)
    with pytest.raises(pytest.skip.Exception, match=r"forbids tracing: strace: attach: .*Operation not permitted"):
        traced.run(tmp_path / "out", "two")


def test_a_write_touches_nothing_but_its_place(traced: Traced, tmp_path: Path) -> None:
    assert traced.run(tmp_path / "out", "two") == 0
    named = re.findall(r'^(?!.*O_RDONLY)(?:\d+ +)?\w+\([^"]*"(/[^"]*)"', traced.log.read_text(), re.MULTILINE)
    assert named
    assert all(path.startswith(str(tmp_path)) for path in named), named
