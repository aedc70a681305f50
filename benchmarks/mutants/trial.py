"""The tests against one mutant, in a process of its own: the import system puts the change in place, no file changes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest
from benchmarks.mutants.areas import ROOT

OPTIONS = ["-q", "--no-header", "--no-summary", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
OPTIONS += ["-p", "no:unraisableexception"]  # which collects garbage five times at the end, seconds in a fork of a process as large as this


@dataclass(frozen=True)
class Outcome:
    """``killer`` is the test that noticed, "timeout", "import", or None where none did."""

    killer: str | None

    @property
    def noticed(self) -> bool:
        return self.killer is not None


def put_in_place(path: Path, source: str) -> None:
    """From now on this process imports ``source`` where it would import the file."""
    replaced = path.resolve()
    compiled = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        if Path(loader.path).resolve() != replaced:
            return compiled(loader, name)
        return compile(source, str(replaced), "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


class _FirstFailure:
    """A pytest plugin: writes the first test that fails, or "import" where one cannot be collected."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.pipe, f"{report.nodeid}\n".encode())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            os.write(self.pipe, b"import\n")


def try_tests(mutant: tuple[Path, str] | None, tests: Sequence[str], seconds: float) -> Outcome:
    """Run tests until one fails, with a file's source replaced where ``mutant`` names it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.setpgid(0, 0)
        code = 1
        try:
            if mutant is not None:
                put_in_place(*mutant)
            code = pytest.main(["-x", *OPTIONS, f"--rootdir={ROOT}", *tests], plugins=[_FirstFailure(writing)])
        finally:
            os._exit(code)
    os.close(writing)
    end = time.monotonic() + seconds
    while not (done := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.02)
    if not done[0]:
        os.killpg(process, signal.SIGKILL)
        done = os.waitpid(process, 0)
    with os.fdopen(reading) as said:
        failed = said.readline().strip()
    if time.monotonic() >= end and not failed:
        return Outcome("timeout")
    return Outcome(None if os.waitstatus_to_exitcode(done[1]) == 0 else failed or "import")
