"""The seam between the schedule and whatever runs the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cgptc.ir.op import Array
from cgptc.runtime.stage_worker import Call


@dataclass(frozen=True)
class Finished:
    """A stage is done with a call: the model's outputs that it made, and a handle for each message that it sends, in the plan's order."""

    stage: int
    outputs: Mapping[str, Array]
    sent: tuple[object, ...]


class StageEngine(Protocol):
    """Runs calls of stages, several at a time but one per stage."""

    def submit(self, stage: int, call: Call, messages: Sequence[object]) -> None:
        """Begin a call; ``messages`` are handles that `wait` gave, in the order of the stage's edges."""
        ...

    def wait(self) -> Finished:
        """The next call to end. `StageError` names a stage that failed, died, or stands still."""
        ...

    def abandon(self) -> None:
        """Give up the calls that are under way, after an error."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...
