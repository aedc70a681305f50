"""Mutation testing (`benchmarks/mutants`): one change each, seen by the process that asked for it alone, and the tests that come to it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from benchmarks.mutants.areas import AREAS, ROOT, area_of
from benchmarks.mutants.reach import Reach, statement_lines
from benchmarks.mutants.trial import Outcome, put_in_place, try_tests

SOURCE = '''
@cache
def count(values: list[int] | None, step: int = 1) -> int | None:
    """How many."""
    if values is None:
        return 0
    values.sort()
    return len(values) // step if step in (1, 2) else None
'''
CHANGES = {
    "if values is not None:",
    "if not values is None:",
    "return 1",
    "return -1",
    "pass",
    "len(values) * step if",
    "len(values) - step if",
    "if not step in (1, 2) else",
    "step not in (1, 2)",
    "step in ( 2, 2)",
    "step in ( 0, 2)",
    "step in (1, 3)",
    "step in (1, 1)",
    "step: int = 2",
    "step: int = 0",
}


def test_every_area_has_files_and_tests_of_its_own() -> None:
    for area in AREAS.values():
        assert area.sources() and area.test_files()
        assert all((ROOT / path).is_file() and area_of(path) is area for path in area.sources())


def test_a_mutant_changes_one_place_and_never_an_annotation_or_a_decorator(tmp_path: Path) -> None:
    pytest.importorskip("cosmic_ray", reason="mutants are made by cosmic-ray: pip install cosmic-ray -c constraints.txt")
    from benchmarks.mutants.drawing import mutants, sample
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    (tmp_path / "counted.py").write_text(SOURCE)
    found = mutants(tmp_path / "counted.py")
    changed = [mutate_code(SOURCE, get_operator(mutant.operator_name)(), mutant.occurrence) for mutant in found]
    texts = set()
    for text in changed:
        pairs = zip(SOURCE.splitlines(), text.splitlines(), strict=True)
        ((_, line),) = [(before, after) for before, after in pairs if before != after]
        texts.add(line)
    squeezed = {" ".join(text.split()) for text in texts}
    assert len(squeezed) == len(found) == len(CHANGES)
    for change in CHANGES:
        assert any(change.replace("( ", "(") in text.replace("( ", "(") for text in squeezed), (change, squeezed)
    drawn = sample(found, 5, "a seed")
    assert len({mutant.start_pos for mutant in drawn}) == 5
    assert drawn == sample(found, 5, "a seed") != sample(found, 5, "another")


@pytest.mark.parametrize(
    ("line", "lines"),
    [(1, range(1, 3)), (2, range(1, 3)), (3, range(3, 4)), (4, range(4, 6)), (5, range(4, 6)), (6, range(6, 7)), (7, range(7, 8))],
)
def test_a_line_belongs_to_a_statement_and_the_head_of_one_that_holds_others(line: int, lines: range) -> None:
    text = "def f(\n    a):\n    if a:\n        g(\n            a)\n    else:\n        h()\n"
    assert statement_lines(text, line) == lines


def test_the_tests_that_come_to_a_line_are_chosen_by_name_and_time() -> None:
    path = Path("passes/rewrite.py")
    source = (ROOT / path).read_text().splitlines()
    inside = next(number for number, line in enumerate(source, 1) if line.startswith("    ") and line.strip().startswith("return"))
    everything = {"a.py::slow": 5.0, "a.py::fast": 1.0, "test_rewrite.py::slowest": 9.0, "b.py::elsewhere": 1.0}
    reach = Reach({str(path): {str(inside): ["a.py::slow", "a.py::fast", "test_rewrite.py::slowest"], "1": [""]}}, everything)
    assert reach.of(path, inside, 99) == ["test_rewrite.py::slowest", "a.py::fast", "a.py::slow"]
    assert reach.of(path, inside, 10) == ["test_rewrite.py::slowest", "a.py::fast"]
    assert reach.of(path, 1, 99) == reach.of(path, inside, 99)  # what runs on import is run by whoever comes to the file
    assert reach.of(path, len(source) + 9, 99) == []


@pytest.mark.parametrize(
    ("body", "seconds", "outcome"),
    [("assert True", 300, None), ("assert False", 300, "test_it.py::test_it"), ("while True: pass", 1, "timeout"), ("):", 300, "import")],
)
def test_the_outcome_is_that_of_the_tests(body: str, seconds: int, outcome: str | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tests") / "test_it.py"
    file.write_text(f"def test_it() -> None:\n    {body}\n")
    assert try_tests(None, [str(file), f"--rootdir={file.parent}", "-c", "/dev/null"], seconds) == Outcome(outcome)


def test_a_change_is_seen_by_who_imports_it_and_stands_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_mutated_module.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from importlib.machinery import SourceFileLoader

    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)
    put_in_place(tmp_path / "a_mutated_module.py", "VALUE = 2\n")
    assert importlib.import_module("a_mutated_module").VALUE == 2
    assert (tmp_path / "a_mutated_module.py").read_text() == "VALUE = 1\n"
