"""A model in stages as a session: a batch goes through in micro-batches, several under way at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cgptc.ir.dims import Expr
from cgptc.ir.op import Array
from cgptc.ir.stage_plan import StagePlan
from cgptc.runtime.engine import Ids, Logits, Mask
from cgptc.runtime.interface import IDS, LOGITS, MASK, Interface, Port
from cgptc.runtime.stage_engine import StageEngine
from cgptc.runtime.stage_schedule import Schedule
from cgptc.runtime.stage_worker import Call

BATCH = "batch"


@dataclass(frozen=True)
class Item:
    """A micro-batch: what every stage's `Call` for it has in common; ``inputs`` are the model's."""

    rows: int
    slot: int | None
    fresh: bool
    inputs: Mapping[str, Array]


class StagedSession:
    """A model whose stages an engine runs. ``micro_batches`` is into how many parts a batch is cut at most: by default one per stage.

    Outputs are the same for any number of stages and of micro-batches, up to rounding.
    """

    def __init__(self, plan: StagePlan, interface: Interface, engine: StageEngine, micro_batches: int | None = None) -> None:
        self._plan = plan
        self._engine = engine
        self._parts = micro_batches or len(plan.stages)
        self._ports = {port.name: port for port in (*interface.inputs, *interface.outputs)}
        self._pasts = [past for past, _ in interface.pasts]
        self._sequence = 0

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._plan.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._plan.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name from all inputs by name."""
        axes = {name: axis for name in inputs if (axis := _batch_axis(self._ports[name])) is not None}
        rows = next((inputs[name].shape[axis] for name, axis in axes.items()), 1)
        # Some forms of attention take several tokens after a past from one row at a time only.
        several = any(inputs[name].shape[2] for name in self._pasts if name in inputs) and IDS in inputs and inputs[IDS].shape[1] > 1
        items = [
            Item(stop - start, None, False, {name: _rows(array, axes.get(name), start, stop) for name, array in inputs.items()})
            for start, stop in self._ranges(rows, rows if several else self._parts)
        ]
        parts = self.drive(items)
        if len(parts) == 1:
            return {name: parts[0][name] for name in self._plan.outputs}
        joined = {name: _batch_axis(self._ports[name]) for name in self._plan.outputs}
        return {name: np.concatenate([part[name] for part in parts], axis=axis or 0) for name, axis in joined.items()}

    def decoder(self) -> StagedDecoder:
        """A decoder over the model, which is a cached causal one with a mask; each stage keeps the caches of its own layers."""
        return StagedDecoder(self, self._ports[MASK])

    def decoder_ranges(self, rows: int) -> list[tuple[int, int]]:
        """The rows of each micro-batch."""
        return list(self._ranges(rows, self._parts))

    def close(self) -> None:
        """Let the stages go."""
        self._engine.close()

    def drive(self, items: Sequence[Item]) -> list[dict[str, Array]]:
        """Send items through all stages; the model's outputs of each. `StageError` names a stage that failed."""
        try:
            return self._drive(items)
        except BaseException:
            self._engine.abandon()
            raise
        finally:
            self._sequence += len(items)

    def _drive(self, items: Sequence[Item]) -> list[dict[str, Array]]:
        schedule = Schedule(self._plan, len(items))
        outputs: list[dict[str, Array]] = [{} for _ in items]
        buffers: dict[tuple[str, int], object] = {}
        while not schedule.done:
            for stage in schedule.ready():
                number = schedule.start(stage)
                messages = [buffers[edge.name, number] for edge in self._plan.received(stage)]
                self._engine.submit(stage, self._call(stage, number, items[number]), messages)
            finished = self._engine.wait()
            number = schedule.finished[finished.stage]
            schedule.finish(finished.stage)
            outputs[number] |= finished.outputs
            for edge, handle in zip(self._plan.sent(finished.stage), finished.sent, strict=True):
                buffers[edge.name, number] = handle
            for edge in self._plan.received(finished.stage):
                if schedule.consumed(edge.consumers) > number:
                    del buffers[edge.name, number]
        return outputs

    def _call(self, stage: int, number: int, item: Item) -> Call:
        names = [name for name in self._plan.stages[stage].inputs if name in item.inputs]
        inputs = {name: item.inputs[name] for name in names}
        return Call(self._sequence + number, item.rows, item.slot, item.fresh, inputs)

    def _ranges(self, rows: int, parts: int) -> Iterator[tuple[int, int]]:
        """Rows in parts as equal as can be; all in one where they must not go apart."""
        count = max(1, min(parts, rows)) if self._plan.rows_apart else 1
        bounds = [rows * index // count for index in range(count + 1)]
        yield from pairwise(bounds)


class StagedDecoder:
    """Next-token logits from a model in stages; each micro-batch has a slot of its own in every stage."""

    def __init__(self, session: StagedSession, mask: Port) -> None:
        self._session = session
        self._mask_dtype = mask.type.dtype.numpy
        self._mask: Mask = np.zeros((0, 0), np.bool_)

    def prefill(self, ids: Ids, mask: Mask) -> Logits:
        self._mask = mask
        return self._read(ids, fresh=True)

    def step(self, ids: Ids) -> Logits:
        self._mask = np.concatenate([self._mask, np.ones((len(ids), 1), np.bool_)], axis=1)
        return self._read(ids[:, None], fresh=False)

    def _read(self, ids: Ids, *, fresh: bool) -> Logits:
        mask = self._mask.astype(self._mask_dtype)
        items = [
            Item(stop - start, slot, fresh, {IDS: ids[start:stop], MASK: mask[start:stop]})
            for slot, (start, stop) in enumerate(self._session.decoder_ranges(len(ids)))
        ]
        logits: Logits = np.concatenate([part[LOGITS][:, -1] for part in self._session.drive(items)])
        return logits


def _batch_axis(port: Port) -> int | None:
    """Where a tensor has the rows of the batch."""
    for axis, dim in enumerate(port.type.shape):
        if isinstance(dim, Expr) and str(dim) == BATCH:
            return axis
    return None


def _rows(array: Array, axis: int | None, start: int, stop: int) -> Array:
    return array if axis is None else array[(slice(None),) * axis + (slice(start, stop),)]
