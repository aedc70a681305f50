"""Each seeded bug is noticed by the test that it names, run alone, in this process, with the bug applied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from cgptc.testing.seeded_bugs import SEEDED_BUGS, SeededBug, SeededBugError

ROOT = Path(__file__).parents[2]

# Derandomised, so that a bug is noticed always or never; what it finds is neither shrunk nor remembered.
settings.register_profile(
    "seeded-bugs",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)


class Outcomes:
    """A pytest plugin that counts how many tests ran and how many failed in their body."""

    def __init__(self) -> None:
        self.ran = 0
        self.failed = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """The number of examples that a test asks for was read when its module was imported, perhaps under another profile."""
        test = getattr(item, "obj", None)
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if own is None:
            return (yield)
        profile = settings.get_profile("seeded-bugs")
        test._hypothesis_internal_use_settings = settings(profile, max_examples=max(profile.max_examples, own.max_examples))
        try:
            return (yield)
        finally:
            test._hypothesis_internal_use_settings = own

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.ran += 1
            self.failed += report.failed


@contextmanager
def same_hypothesis_profile() -> Iterator[None]:
    """A run inside loads a profile of its own: put the outer one back."""
    outer = settings.get_current_profile_name()
    try:
        yield
    finally:
        settings.load_profile(outer)


def run_alone(test: str, *more: str) -> Outcomes:
    outcomes = Outcomes()
    options = [*more, "-q", "--no-header", "--no-summary", "--tb=no", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["-p", "no:unraisableexception"]  # which collects garbage five times at the end, seconds in a process as large as this
    with same_hypothesis_profile():
        pytest.main([*options, f"--rootdir={ROOT}", "--hypothesis-profile=seeded-bugs", str(ROOT / test)], plugins=[outcomes])
    return outcomes


@pytest.mark.parametrize("bug", SEEDED_BUGS.values(), ids=SEEDED_BUGS)
def test_its_killer_notices_a_seeded_bug(bug: SeededBug) -> None:
    assert bug.killer
    with bug.applied():
        outcomes = run_alone(bug.killer)
    assert outcomes.ran >= 1, f"no test is named {bug.killer}"
    assert outcomes.failed, f"{bug.killer} passes with the bug '{bug.name}' in place"


def test_a_bug_can_be_put_in_place_for_a_whole_run() -> None:
    bug = SEEDED_BUGS["window-one-too-long"]
    assert run_alone(bug.killer, "--seeded-bug", bug.name).failed
    assert not run_alone(bug.killer).failed


@pytest.mark.parametrize(
    ("where", "right", "says"),
    [
        ("cgptc.ir.ops.reduction:Softmax.evaluate", "no such text", "0 times, not once"),
        ("cgptc.ir.ops.reduction:Softmax.evaluate", "axis", "not once"),
        ("cgptc.ir.ops.reduction:Softmax.gone", "x", "has no 'Softmax.gone'"),
        ("cgptc.ir.ops.reduction:Softmax", "x", "is no function"),
    ],
)
def test_a_bug_that_fits_its_source_no_more_is_an_error(where: str, right: str, says: str) -> None:
    with pytest.raises(SeededBugError, match=says), SeededBug("moved", where, right, "y", "").applied():
        pass


def test_no_two_bugs_change_the_same_text() -> None:
    changes = {(bug.where, bug.right, bug.wrong) for bug in SEEDED_BUGS.values()}
    assert len(changes) == len(SEEDED_BUGS)
