"""Engines of staged models: bounded buffers, order, and errors that name a stage."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.op import Array
from cgptc.ir.stage_plan import PlannedEdge, PlannedStage, StagePlan
from cgptc.ir.types import TensorType
from cgptc.runtime.interface import Interface, Port
from cgptc.runtime.local_stages import LocalEngine
from cgptc.runtime.stage_schedule import Schedule
from cgptc.runtime.stage_worker import Call, Message, StageError, StageWorker
from cgptc.runtime.staged_session import StagedSession

ROWS = TensorType(f32, (Symbol("batch", 1, 64).dim, 2))
INTERFACE = Interface((Port("x", ROWS),), (Port("y", ROWS),))


def plan_of(stages: int, edges: Sequence[tuple[int, tuple[int, ...], int]], rows_apart: bool = True) -> StagePlan:
    """``x`` goes into the first stage, ``y`` comes out of the last."""
    planned = tuple(PlannedEdge(f"edge.{number}", *edge) for number, edge in enumerate(edges))
    made = tuple(
        PlannedStage(
            (*(["x"] if index == 0 else []), *(edge.name for edge in planned if index in edge.consumers)),
            (*(["y"] if index == stages - 1 else []), *(edge.name for edge in planned if edge.producer == index)),
        )
        for index in range(stages)
    )
    return StagePlan(("x",), ("y",), made, planned, rows_apart)


CHAIN = plan_of(3, [(0, (1, 2), 3), (1, (2,), 2)])


@dataclass
class Adding:
    """A stage that gives the sum of what it takes, plus one; it notes which rows it saw."""

    outputs: tuple[str, ...]
    seen: list[float] = field(default_factory=list)
    fails_at: int | None = None
    gate: threading.Event | None = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.fails_at == len(self.seen):
            raise ZeroDivisionError("no luck")
        self.seen.append(float(next(iter(inputs.values()))[0, 0]))
        total = np.add.reduce(list(inputs.values())) + 1
        return dict.fromkeys(self.outputs, total)

    def read(self, slot: int, rows: int, fresh: bool, inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise AssertionError("nothing is cached")


def stages_of(plan: StagePlan) -> list[Adding]:
    return [Adding(stage.outputs) for stage in plan.stages]


def session_of(plan: StagePlan, stages: Sequence[Adding], micro_batches: int | None = None) -> StagedSession:
    workers = [StageWorker(index, plan, stage) for index, stage in enumerate(stages)]
    return StagedSession(plan, INTERFACE, LocalEngine(workers), micro_batches)


@st.composite
def plans(draw: st.DrawFn) -> StagePlan:
    count = draw(st.integers(1, 5))
    edges = []
    for producer in range(count - 1):
        consumers = draw(st.sets(st.integers(producer + 1, count - 1), min_size=1))
        edges.append((producer, tuple(sorted(consumers)), draw(st.integers(1, 4))))
    return plan_of(count, edges)


@given(plans(), st.integers(0, 7), st.randoms(use_true_random=False))
def test_no_buffer_overflows_and_nothing_stands_still(plan: StagePlan, count: int, order: object) -> None:
    schedule = Schedule(plan, count)
    running: dict[int, int] = {}
    choose = np.random.default_rng(order.randint(0, 1 << 30))  # type: ignore[attr-defined]
    while not schedule.done:
        for stage in schedule.ready():
            running[stage] = schedule.start(stage)
            for edge in plan.received(stage):
                assert schedule.finished[edge.producer] > running[stage]
        for edge in plan.edges:
            assert schedule.started[edge.producer] - schedule.consumed(edge.consumers) <= edge.depth
        assert running, "it stands still"
        stage = int(choose.choice(list(running)))
        assert running.pop(stage) == schedule.finished[stage]
        schedule.finish(stage)


@given(st.integers(1, 7), st.integers(1, 9))
def test_rows_come_back_in_order_whatever_the_micro_batches(rows: int, micro_batches: int) -> None:
    stages = stages_of(CHAIN)
    session = session_of(CHAIN, stages, micro_batches)
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x + 4)
    assert len(stages[0].seen) == 2 * min(rows, micro_batches)
    session.close()


def test_rows_that_must_stay_together_do() -> None:
    plan = plan_of(2, [(0, (1,), 2)], rows_apart=False)
    stages = stages_of(plan)
    session_of(plan, stages, 4).run({"x": np.zeros((8, 2), np.float32)})
    assert len(stages[0].seen) == 1


def test_a_stage_that_is_waited_for_lets_only_as_many_items_in_as_its_buffer_holds() -> None:
    plan = plan_of(2, [(0, (1,), 2)])
    stages = stages_of(plan)
    stages[1].gate = threading.Event()
    session = session_of(plan, stages, 6)
    runner = threading.Thread(target=session.run, args=({"x": np.zeros((6, 2), np.float32)},))
    runner.start()
    runner.join(0.3)
    assert len(stages[0].seen) == 2
    stages[1].gate.set()
    runner.join(10)
    assert len(stages[0].seen) == 6


def test_a_stage_that_fails_is_named_and_the_session_goes_on() -> None:
    stages = stages_of(CHAIN)
    stages[1].fails_at = 1
    session = session_of(CHAIN, stages, 4)
    x = np.zeros((4, 2), np.float32)
    with pytest.raises(StageError, match="stage 1 failed: no luck") as caught:
        session.run({"x": x})
    assert caught.value.stage == 1
    assert caught.value.exit == 7
    stages[1].fails_at = None
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x + 4)


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "expected messages on"),
        ([Message("edge.0", 4, np.zeros((1, 2)))], "got number 4 on 'edge.0' for call 5"),
        ([Message("edge.0", 5, np.zeros((1, 2)))], None),
    ],
)
def test_a_worker_holds_the_order_of_its_messages(messages: list[Message], fault: str | None) -> None:
    plan = plan_of(2, [(0, (1,), 2)])
    worker = StageWorker(1, plan, Adding(("y",)))
    call = Call(5, 1, None, False, {})
    if fault is None:
        worker(call, messages)
        with pytest.raises(StageError, match="after 5"):
            worker(call, messages)  # the same again
        return
    with pytest.raises(StageError, match=fault):
        worker(call, messages)
