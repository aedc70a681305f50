"""Whether a program keeps the rules of its machine, told from the program alone. Every rule has its own code.

* `structure`: names, rectangles, bindings, entries;
* `rows`: items that are shorter than what there is room for;
* `inflow`: what comes from off the wafer;
* `memory`: SRAM, addresses, lifetimes;
* `steps`: views, instructions, overlap declared by loops; `filled`: what is read was written, outputs are written once, sums are whole;
* `fabric`: colours, router configurations, streams;
* `waits`: every wait ends, by one abstract run of tokens.

Later groups run only where earlier ones found nothing that would make them meaningless. A verified program completes under every schedule.
Of regions that are alike (`likeness`), such as the layers of a model, one is looked at.
"""

from __future__ import annotations

from cgptc.backends.wafer.faults import InvalidProgramError, Issue
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.verify.fabric import fabric_issues
from cgptc.backends.wafer.verify.inflow import inflow_issues
from cgptc.backends.wafer.verify.likeness import Kinds
from cgptc.backends.wafer.verify.memory import memory_issues, peak_bytes
from cgptc.backends.wafer.verify.rows import row_issues
from cgptc.backends.wafer.verify.steps import step_issues
from cgptc.backends.wafer.verify.structure import structure_issues
from cgptc.backends.wafer.verify.waits import wait_issues

__all__ = ["check", "peak_bytes", "verify"]


def verify(program: Program) -> list[Issue]:
    """All broken rules of the first group that has any; empty for a program that may run."""
    issues = list(structure_issues(program))
    if issues:
        return issues
    kinds = Kinds(program)
    for group in (row_issues, inflow_issues, memory_issues, step_issues, fabric_issues, wait_issues):
        issues = list(group(program, kinds))
        if issues:
            return issues
    return []


def check(program: Program) -> Program:
    """The program itself. Raises InvalidProgramError with all issues where it breaks rules."""
    issues = verify(program)
    if issues:
        raise InvalidProgramError(issues)
    return program
