"""How good a placed program is: what its clock counts of items at the last positions of a full row.

Plans are compared by these figures and not by the prices that they were sized with, which know of no queue, no distance between regions and
no neighbour on another grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.plan.choose import Choice
from cgptc.backends.wafer.plan.layouts import LENGTH, PAST
from cgptc.backends.wafer.plan.tasks import Tasks
from cgptc.backends.wafer.program import Program

STREAMED = 8
"""Items after which a pipeline's steady state is read off."""


@dataclass(frozen=True)
class Figures:
    """Steady cycles between items, cycles of an item alone, and PEs."""

    interval: float
    latency: int
    area: int

    def merit(self, objective: str) -> tuple[float, float]:
        """The less the better, by ``throughput``, ``latency`` or ``area``."""
        match objective:
            case "latency":
                return self.latency, self.area
            case "area":
                return self.area, self.interval
            case _:
                return self.interval, self.area


def last_items(tasks: Tasks) -> dict[str, int]:
    """The scalars of a run of the last tokens of a full row, or of whole rows."""
    count = STREAMED if tasks.whole else min(STREAMED, tasks.context)
    return {PAST: tasks.context - count, LENGTH: count, **tasks.sequences}


def last_item(tasks: Tasks) -> Mapping[str, int]:
    """The scalars of a run of one item, the last token of a full row."""
    return {PAST: tasks.context - 1, LENGTH: 1, **tasks.sequences}


def figures(program: Program, entry: str, tasks: Tasks) -> Figures:
    """By the program's own clock."""
    pricer = Pricer(program.machine)
    streamed = timeline(program, entry, last_items(tasks), pricer)
    alone = timeline(program, entry, last_item(tasks), pricer)
    return Figures(streamed.initiation_interval(), alone.cycles, sum(region.rectangle.area for region in program.regions))


def least(choice: Choice, objective: str) -> float:
    """What the first figure of a choice's merit cannot be below, so that it need not be placed where another is better already.

    An item takes at least as long as its slowest region. Of the items that give the steady state, those that count are in the latter half
    of a row, where no step takes less than half of what it takes at its end.
    """
    match objective:
        case "latency":
            return choice.bottleneck
        case "area":
            return choice.area
        case _:
            return choice.bottleneck / 2
