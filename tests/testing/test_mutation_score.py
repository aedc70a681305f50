"""The mutants of `benchmarks/mutation_score.py`: one change each, and only the process that asked for it sees it."""

from __future__ import annotations

import ast

import pytest
from benchmarks.mutation_score import AREAS, Mutator, mutants, run_tests, sample, targeted

SOURCE = '''
def count(values: list[int], step: int = 1) -> int:
    """How many."""
    if not values:
        return 0
    values.sort()
    return len(values) // step
'''
CHANGES = {
    "not x → x": "if values:",
    "0 → 1": "return 1",
    "if x → if not x": "if not not values:",
    "statement left out": "pass",
    "FloorDiv → Mult": "len(values) * step",
    "1 → 2": "step: int=2",
}


def test_every_mutant_changes_one_place() -> None:
    mutator = Mutator()
    sound = ast.unparse(mutator.visit(ast.parse(SOURCE)))
    assert sound == ast.unparse(ast.parse(SOURCE))
    assert [what for _, what in mutator.found] == list(CHANGES)
    for number, (_, what) in enumerate(mutator.found):
        changed = ast.unparse(ast.fix_missing_locations(Mutator(number).visit(ast.parse(SOURCE))))
        assert sum(left != right for left, right in zip(sound.splitlines(), changed.splitlines(), strict=True)) == 1
        assert CHANGES[what] in changed


def test_a_sample_has_as_many_of_every_area_and_is_the_same_again() -> None:
    everything = list(mutants())
    drawn = sample(everything, 9, 0)
    assert [mutant.area for mutant in drawn] == [area for area in AREAS for _ in range(3)]
    assert drawn == sample(everything, 9, 0) != sample(everything, 9, 1)
    assert all(targeted(mutant) for mutant in drawn)


@pytest.mark.parametrize(
    ("body", "seconds", "outcome"), [("assert True", 300, "survived"), ("assert False", 300, "killed"), ("while True: pass", 1, "timeout")]
)
def test_the_outcome_is_that_of_the_tests(body: str, seconds: int, outcome: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tests") / "test_it.py"
    file.write_text(f"def test_it() -> None:\n    {body}\n")
    assert run_tests(None, [str(file), f"--rootdir={file.parent}", "-c", "/dev/null"], seconds) == outcome
