"""Which tests come to a line, and how long they take: measured once for all mutants, by coverage with a context for each test."""

from __future__ import annotations

import ast
import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest
from benchmarks.mutants.areas import AREAS, ROOT, area_of
from benchmarks.mutants.trial import OPTIONS


@dataclass(frozen=True)
class Reach:
    """For each file and line the tests that run it, and the seconds of each test."""

    tests: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]

    def of(self, path: Path, line: int, limit: float) -> list[str]:
        """The tests that run the statement on a line, those named like the file first, then the fastest, up to so many seconds.

        What runs when a module is imported is run by every test that comes to the file.
        """
        lines = self.tests.get(str(path), {})
        found = {test for number in statement_lines((ROOT / path).read_text(encoding="utf-8"), line) for test in lines.get(str(number), ())}
        if not found - {""}:
            found = {test for tests in lines.values() for test in tests} if found else set()
        chosen, spent = [], 0.0
        for test in sorted(found - {""}, key=lambda test: (path.stem not in test.partition("::")[0], self.seconds[test], test)):
            if not chosen or spent + self.seconds[test] <= limit:
                chosen.append(test)
                spent += self.seconds[test]
        return chosen

    def everything(self, path: Path) -> list[str]:
        """All test files of the file's area, those named like it first, then the fastest. What is cached is run by whoever came first
        when the reach was measured: this misses nothing."""
        seconds: dict[str, float] = defaultdict(float)
        for test, taken in self.seconds.items():
            seconds[test.partition("::")[0]] += taken
        return sorted(area_of(path).test_files(), key=lambda file: (path.stem not in file, seconds[file], file))

    def save(self, place: Path) -> None:
        place.write_text(json.dumps({"tests": self.tests, "seconds": self.seconds}))

    @staticmethod
    def load(place: Path) -> Reach:
        return Reach(**json.loads(place.read_text()))


def statement_lines(source: str, line: int) -> range:
    """The lines of the innermost statement that a line belongs to; of one that holds others, its head."""
    best = range(0)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            body = getattr(node, "body", None)
            first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
            last = body[0].lineno - 1 if body else node.end_lineno
            lines = range(first, max(first, last or 0) + 1)
            if line in lines and first >= best.start:
                best = lines
    return best or range(line, line + 1)


class _Contexts:
    """A pytest plugin: tells coverage which test runs, and notes how long it takes."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.measured.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = round(time.monotonic() - began, 3)
            self.measured.switch_context("")


def measure(areas: Iterable[str]) -> Reach:
    """Run the tests of the areas in this process, once."""
    tests: dict[str, dict[str, list[str]]] = {}
    seconds: dict[str, float] = {}
    chosen = [AREAS[name] for name in areas]
    sources = sorted({path for area in chosen for path in area.sources()})
    measured = coverage.Coverage(data_file=None, include=[str(ROOT / path) for path in sources], config_file=False)
    plugin = _Contexts(measured)
    measured.start()
    code = pytest.main([*OPTIONS, *sorted({file for area in chosen for file in area.test_files()})], plugins=[plugin])
    measured.stop()
    if code != 0:
        raise SystemExit("the tests fail without any mutant: mend that first")
    seconds.update(plugin.seconds)
    data = measured.get_data()
    for path in sources:
        allowed = set(area_of(path).test_files()) | {""}
        lines: dict[str, list[str]] = defaultdict(list)
        for line, contexts in data.contexts_by_lineno(str(ROOT / path)).items():
            lines[str(line)] = [context for context in contexts if context.partition("::")[0] in allowed]
        tests[str(path)] = dict(lines)
    return Reach(tests, seconds)
