"""Mutation testing of passes, verifiers and routing: how many small changes of the source do the tests notice?

    pip install cosmic-ray -c constraints.txt
    python -m benchmarks.mutants mutants.sqlite --count 180

cosmic-ray finds the places and makes the changes; a fixed seed draws a sample. Each mutant is imported in a process of its own, a fork of
one that has the heavy libraries loaded, and the tests that come to its line run until one fails. The file is a session of cosmic-ray:
an interrupted run goes on where it was, several processes share one with ``--part``, ``cr-report`` and ``cr-html`` read it. Some mutants
that survive are equivalent (no input tells them apart), which is for a reader to say.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cosmic_ray.plugins
import hypothesis  # noqa: F401  (these take seconds to load, once)
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import torch  # noqa: F401
from benchmarks.mutants.areas import AREAS, ROOT
from benchmarks.mutants.drawing import drawn
from benchmarks.mutants.reach import Reach, measure
from benchmarks.mutants.trial import try_tests
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult

WHOLE_AREA_SECONDS = 1200


def mutated(mutant: MutationSpec) -> tuple[str, str]:
    """The source with the change, and the change as a difference of lines."""
    source = (ROOT / mutant.module_path).read_text(encoding="utf-8")
    changed = mutate_code(source, cosmic_ray.plugins.get_operator(mutant.operator_name)(), mutant.occurrence)
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
    return changed, "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def try_item(item: WorkItem, reach: Reach, limit: float, everything: bool) -> WorkResult:
    """Run the tests that come to the mutant's line, or all of its area, the likely and the fast first."""
    (mutant,) = item.mutations
    source, difference = mutated(mutant)
    tests = reach.everything(mutant.module_path) if everything else reach.of(mutant.module_path, mutant.start_pos[0], limit)
    if not tests:
        return WorkResult(WorkerOutcome.NO_TEST, "no test comes here", TestOutcome.SURVIVED, difference)
    seconds = WHOLE_AREA_SECONDS if everything else 60 + 4 * sum(reach.seconds[test] for test in tests)
    outcome = try_tests((ROOT / mutant.module_path, source), tests, seconds)
    said = outcome.killer or f"{len(tests)} {'files of tests' if everything else 'tests'}"
    return WorkResult(WorkerOutcome.NORMAL, said, TestOutcome.KILLED if outcome.noticed else TestOutcome.SURVIVED, difference)


def report(session: WorkDB) -> None:
    """What survives, and the score of each area."""
    scores: dict[str, Counter[str]] = defaultdict(Counter)
    for item, result in sorted(session.completed_work_items, key=lambda found: found[0].job_id):
        (mutant,) = item.mutations
        survived = result.test_outcome == TestOutcome.SURVIVED
        how = "survived" if survived else result.output if result.output in ("timeout", "import") else "test"
        scores[item.job_id.partition("-")[0]][how] += 1
        if survived:
            print(f"{item.job_id} {mutant.module_path}:{mutant.start_pos[0]} ({result.output})\n{result.diff}")
    for area, score in scores.items():
        noticed = score.total() - score["survived"]
        print(f"{area}: {noticed} of {score.total()} noticed ({score['import']} on import, {score['timeout']} by a timeout)")


def main() -> None:
    """Draw, or go on with what was drawn, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("session", type=Path, help="a file; made where there is none")
    parser.add_argument("--count", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant")
    parser.add_argument("--part", default="1/1", help="such as 2/3: every third mutant, from the second")
    parser.add_argument("--again", action="store_true", help="try those that survived once more, with every test of their area")
    parser.add_argument("--report", action="store_true", help="only tell what a session holds")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    place = given.session.absolute()
    reach_file = place.with_suffix(".reach.json")
    if given.report:
        with use_db(place, WorkDB.Mode.open) as session:
            return report(session)
    if not place.exists():
        with use_db(place) as session:
            session.add_work_items(drawn(given.count, given.seed))
    if not reach_file.exists():
        measure_apart(reach_file)
    reach = Reach.load(reach_file)
    part, parts = map(int, given.part.split("/"))
    with use_db(place, WorkDB.Mode.open) as session:
        survivors = [item for item, result in session.completed_work_items if result.test_outcome == TestOutcome.SURVIVED]
        items = sorted(survivors if given.again else session.pending_work_items, key=lambda item: item.job_id)
        for item in items[part - 1 :: parts]:
            result = try_item(item, reach, given.seconds, given.again)
            session.set_result(item.job_id, result)
            print(item.job_id, result.test_outcome.value, result.output, flush=True)
        report(session)
    return None


def measure_apart(place: Path) -> None:
    """In a process of its own: this one must import nothing that is to be mutated."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            measure(AREAS).save(place)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(process, 0)[1] != 0:
        raise SystemExit("the tests fail without any mutant: mend that first")


if __name__ == "__main__":
    main()
