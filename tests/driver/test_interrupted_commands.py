"""Whole commands, interrupted, in each other's way, or without room: the old artifact or the new one, one line, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.driver.forked_command import FORBIDDEN
from tests.driver.test_artifact_writer import hidden

from cgptc.artifact import check_files, open_folder
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import Preset
from cgptc.ir.diagnostics import Exit

SOURCE = Path(__file__).parents[2] / "src"
SIGNALS = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: 143}
WATCHDOG_SECONDS = 60
SMALL = Preset("small", GptConfig(vocabulary=17, positions=128, layers=1, heads=2, width=8, ffn_width=16), "")
OTHER = ("--opset", "21")
"""Options that give another artifact."""


class Commands:
    """Command lines in processes of their own, all copies of one that has everything imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model.pt"
        write_model(SMALL, self.model)
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        program = Path(__file__).with_name("forked_command.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(self.model), str(folder / "first")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.old = self.digest(folder / "first")
        assert self.finish(self.start(folder, "compile", str(self.model), "-o", "second", *OTHER)) == 0
        self.new = self.digest(folder / "second")
        assert self.old != self.new

    def _ask(self, request: dict[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, folder: Path, *arguments: str, mount: tuple[Path, str] | None = None) -> int:
        """The process id of a command that runs in ``folder``; what it prints goes to ``messages`` there."""
        request: dict[str, object] = {"arguments": arguments, "folder": str(folder), "messages": str(folder / "messages")}
        return self._ask(request | ({"mount": [str(mount[0]), mount[1]]} if mount is not None else {}))

    def finish(self, process: int) -> int:
        return self._ask({"wait": process})

    @staticmethod
    def digest(place: Path) -> str:
        """Of a whole artifact; fails where it is torn."""
        folder = open_folder(place)
        check_files(folder)
        return folder.digest

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    found = Commands(tmp_path_factory.mktemp("commands"))
    yield found
    found.close()


def interrupt(commands: Commands, folder: Path, draw: random.Random, longest: float, *arguments: str) -> int:
    """Run a command, send it a signal after some time, and give its exit status; it must be gone soon, in one line."""
    number = draw.choice(list(SIGNALS))
    process = commands.start(folder, *arguments)
    time.sleep(draw.uniform(0, longest))
    began = time.monotonic()
    os.kill(process, number)
    status = commands.finish(process)
    assert time.monotonic() - began < WATCHDOG_SECONDS  # the promise is one second
    assert status in (Exit.OK, SIGNALS[number], -number), status  # - number: before the command line came to its first line
    said = (folder / "messages").read_text()
    assert "Traceback" not in said
    assert status == Exit.OK or "error[interrupted]" in said or "error[" not in said
    (folder / "messages").unlink()
    return status


def interrupted_compiles(commands: Commands, folder: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    assert commands.finish(commands.start(folder, "compile", str(commands.model), "-o", "out", "-q")) == 0
    began = time.monotonic()
    assert commands.finish(commands.start(folder, "compile", str(commands.model), "-o", "out", "-q")) == 0
    longest = 1.2 * (time.monotonic() - began)
    for _ in range(count):
        status = interrupt(commands, folder, draw, longest, "compile", str(commands.model), "-o", "out", "-q", *OTHER)
        found = commands.digest(folder / "out")
        assert found == commands.new if status == Exit.OK else found in (commands.old, commands.new)
        assert hidden(folder) == []
        if found == commands.new:
            assert commands.finish(commands.start(folder, "compile", str(commands.model), "-o", "out", "-q")) == 0


def interrupted_runs(commands: Commands, folder: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(count):
        arguments = ("run", str(commands.folder / "first"), "--prompt-ids", "1,2,3", "--max-new-tokens", "100", "-q")
        interrupt(commands, folder, draw, 1.0, *arguments)
        assert list(folder.iterdir()) == []
    assert commands.digest(commands.folder / "first") == commands.old


def test_a_compile_that_is_interrupted_leaves_the_old_artifact_or_the_new_one(commands: Commands, tmp_path: Path) -> None:
    interrupted_compiles(commands, tmp_path, 3, seed=0)


def test_a_run_that_is_interrupted_leaves_nothing(commands: Commands, tmp_path: Path) -> None:
    interrupted_runs(commands, tmp_path, 2, seed=0)


@pytest.mark.slow
def test_many_compiles_and_runs_are_interrupted(commands: Commands, tmp_path: Path) -> None:
    interrupted_compiles(commands, tmp_path, 200, seed=1)
    for file in tmp_path.iterdir():
        file.rename(commands.folder / f"moved-{file.name}")
    interrupted_runs(commands, tmp_path, 100, seed=1)


def test_two_compiles_into_one_output_give_one_whole_winner(commands: Commands, tmp_path: Path) -> None:
    both = [commands.start(tmp_path, "compile", str(commands.model), "-o", "out", "-q", *more) for more in ((), OTHER)]
    assert [commands.finish(process) for process in both] == [0, 0]
    assert commands.digest(tmp_path / "out") in (commands.old, commands.new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["messages", "out"]


@pytest.mark.parametrize(("options", "step"), [("ro", "choose a folder that you may write to"), ("size=16k", "free some space")])
def test_an_output_that_cannot_be_written_is_told_in_one_line_and_left_as_it_was(
    commands: Commands, tmp_path: Path, options: str, step: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    status = commands.finish(commands.start(tmp_path, "compile", str(commands.model), "-o", "place/out", "-q", mount=(place, options)))
    if status == FORBIDDEN:
        pytest.skip("this system lets nobody mount a file system of his own")
    line, left = (tmp_path / "messages").read_text().splitlines()
    assert status == Exit.IO, line
    assert line.startswith("error[") and step in line
    assert left == "left: []"
