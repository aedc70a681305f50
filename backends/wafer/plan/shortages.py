"""What a machine has too few of for a program that is placed already: colours, or positions of a switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cgptc.backends.wafer.faults import InvalidProgramError, Issue, WaferError
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.choose import DoesNotFitError
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.verify import verify
from cgptc.backends.wafer.verify.fabric import colours_of

FIELDS = {"colour-range": "colours", "switch-positions": "switch_positions"}
"""Rules of the verifier that a field of the machine is the limit of."""

MOST = 64
"""Positions of a switch beyond which more is no remedy."""

SHOWN = 3


def legal(program: Program) -> Program:
    """The program itself, verified. Raises DoesNotFitError where a machine with more of `FIELDS`, which it names, would run it, and
    InvalidProgramError where it breaks any other rule.
    """
    issues = verify(program)
    if not issues:
        return program
    raise _shortage(program, issues)


def _shortage(program: Program, issues: Sequence[Issue]) -> WaferError:
    machine, larger, left = program.machine, program.machine, issues
    while left:
        fields = {FIELDS.get(issue.code, "") for issue in left}
        more = _more(program, larger, fields)
        if more is None:
            return InvalidProgramError(issues)
        larger = more
        left = verify(replace(program, machine=larger))
    needs = [(name, getattr(larger, name), getattr(machine, name)) for name in FIELDS.values()]
    needs = [(name, need, limit) for name, need, limit in needs if need > limit]
    said, limits = (" and ".join(f"{one[place]} {one[0].replace('_', ' ')}" for one in needs) for place in (1, 2))
    what = f"the program needs {said}, and {machine.name} has {limits}"
    fix = "it fits with a --machine of " + " and ".join(f"{name} = {need}" for name, need, _ in needs)
    return DoesNotFitError(what, fix, [f"{issue.where}: {issue.what}" for issue in issues[:SHOWN]])


def _more(program: Program, machine: Machine, fields: set[str]) -> Machine | None:
    """The machine with as many colours as the program names, else with one more position of a switch; None where that is no remedy."""
    if "" in fields:
        return None
    if "colours" in fields:
        named = {colour for region in program.regions for colour in colours_of(region)}
        named |= {colour for stream in program.streams for colour in stream.colours}
        named |= set(program.inflow.colours) if program.inflow is not None else set()
        return replace(machine, colours=max(named) + 1)
    return replace(machine, switch_positions=machine.switch_positions + 1) if machine.switch_positions < MOST else None
