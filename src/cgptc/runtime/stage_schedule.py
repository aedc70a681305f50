"""When each stage may start its next item: the rule that every engine keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgptc.ir.stage_plan import StagePlan


@dataclass
class Schedule:
    """``count`` items go through the stages of a plan, each stage taking them in order and one at a time.

    A stage may start an item once every edge that it takes has brought it, and while each edge that it makes has room: an item occupies
    its slot of the buffer from when the producer starts on it until the last consumer is done with it. With a depth of at least one this
    cannot stand still: of the least item that is not through, the first stage that has not done it may always start.
    """

    plan: StagePlan
    count: int
    started: list[int] = field(init=False)
    finished: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.started = [0] * len(self.plan.stages)
        self.finished = [0] * len(self.plan.stages)

    @property
    def done(self) -> bool:
        return min(self.finished) == self.count

    def ready(self) -> list[int]:
        """The stages that may start now, the last first: what is furthest on makes room."""
        return [stage for stage in reversed(range(len(self.plan.stages))) if self._may_start(stage)]

    def start(self, stage: int) -> int:
        """Note that a stage starts, and give the item."""
        self.started[stage] += 1
        return self.started[stage] - 1

    def finish(self, stage: int) -> None:
        """Note that a stage is done with its item."""
        self.finished[stage] += 1

    def _may_start(self, stage: int) -> bool:
        item = self.started[stage]
        if item == self.count or item != self.finished[stage]:
            return False
        arrived = all(self.finished[edge.producer] > item for edge in self.plan.received(stage))
        return arrived and all(item - self.consumed(edge.consumers) < edge.depth for edge in self.plan.sent(stage))

    def consumed(self, consumers: tuple[int, ...]) -> int:
        """How many items all of these stages are done with."""
        return min(self.finished[stage] for stage in consumers)
