"""What runs one stage, in whatever process: checks the order of what arrives, runs the stage, and numbers what leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cgptc.backends.registry import Stage
from cgptc.ir.diagnostics import CgptcError, Exit
from cgptc.ir.op import Array
from cgptc.ir.stage_plan import StagePlan
from cgptc.runtime.interface import LOGITS


class StageError(CgptcError):
    """A stage failed, died or stands still (exit 7)."""

    def __init__(self, code: str, stage: int, what: str, *, fix: str = "") -> None:
        super().__init__(code, f"stage {stage} {what}", exit=Exit.IO, fix=fix)
        self.stage = stage


@dataclass(frozen=True)
class Message:
    """What an edge carries: the value, numbered by the call that made it."""

    edge: str
    sequence: int
    array: Array


@dataclass(frozen=True)
class Call:
    """One item for one stage: ``rows`` rows of a batch. With a ``slot`` the stage keeps their cache, which it forgets first where the call
    is ``fresh``; without one, pasts are among the inputs and presents among the outputs.
    """

    sequence: int
    rows: int
    slot: int | None
    fresh: bool
    inputs: Mapping[str, Array]


class StageWorker:
    """Stage ``index`` of a plan."""

    def __init__(self, index: int, plan: StagePlan, stage: Stage) -> None:
        self.index = index
        self._stage = stage
        self._outputs = plan.outputs
        self.sent = tuple(edge.name for edge in plan.sent(index))
        self._last = {edge.name: -1 for edge in plan.received(index)}

    def __call__(self, call: Call, messages: Sequence[Message]) -> tuple[dict[str, Array], list[Message]]:
        """The model's outputs that this stage makes, and what it sends. `StageError` where a message is missing or out of order.

        Of a call with a slot the logits are the last token's alone.
        """
        self._check_order(call, messages)
        inputs = {**call.inputs, **{message.edge: message.array for message in messages}}
        found = self._stage.run(inputs) if call.slot is None else self._stage.read(call.slot, call.rows, call.fresh, inputs)
        sent = [Message(name, call.sequence, found[name]) for name in self.sent]
        outputs = {name: array for name, array in found.items() if name in self._outputs}
        if call.slot is not None and LOGITS in outputs:
            outputs[LOGITS] = outputs[LOGITS][:, -1:]
        return outputs, sent

    def _check_order(self, call: Call, messages: Sequence[Message]) -> None:
        names = [message.edge for message in messages]
        if names != list(self._last):
            raise StageError("sequence", self.index, f"expected messages on {list(self._last)}, got {names}")
        for message in messages:
            if message.sequence != call.sequence or message.sequence <= self._last[message.edge]:
                what = f"got number {message.sequence} on '{message.edge}' for call {call.sequence}, after {self._last[message.edge]}"
                raise StageError("sequence", self.index, what)
            self._last[message.edge] = message.sequence
