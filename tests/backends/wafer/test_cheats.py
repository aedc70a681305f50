"""Planted cheats are caught: memory of a neighbour, a buffer of four bytes too many, routes that end a hop early."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import run_both
from tests.backends.wafer.planned import planned

from cgptc.backends.wafer.arithmetic.instructions import INSTRUCTIONS, Call
from cgptc.backends.wafer.collectives import Expansion, Pattern
from cgptc.backends.wafer.faults import WaferError
from cgptc.backends.wafer.interpret import pe
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Program, Stream
from cgptc.backends.wafer.routes import Piece, pieces
from cgptc.backends.wafer.verify import peak_bytes, verify

MACHINE = small_machine(8, 8)
CAUGHT = (AssertionError, WaferError)


def _sum() -> Program:
    return single_region(MACHINE, [Elementwise("add", Grid(3, 4).tiled((6, 8), 0, 1)).fragment("a")])


def _product() -> Program:
    return single_region(MACHINE, [Linear(1, 8, 8, Grid(1, 4)).fragment("l")])


def _given(program: Program) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {one.tensor: random.normal(size=one.layout.shape).astype(np.float32) for one in program.bindings if one.role != "output"}


def test_an_instruction_that_reads_a_neighbours_memory_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _sum()
    run_both(program, {}, _given(program))
    honest = INSTRUCTIONS["add"]

    def reading_west(call: Call) -> np.ndarray:
        return honest.body(replace(call, inputs=(np.roll(call.inputs[0], 1, axis=1), *call.inputs[1:])))

    monkeypatch.setitem(INSTRUCTIONS, "add", replace(honest, body=reading_west))
    with pytest.raises(CAUGHT):
        run_both(program, {}, _given(program))


def test_a_buffer_of_four_bytes_too_many_is_caught() -> None:
    program = _sum()
    need = peak_bytes(program, program.regions[0])
    full = replace(program, machine=replace(MACHINE, sram_bytes=MACHINE.reserved_bytes + need))
    assert verify(full) == []
    region = full.regions[0]
    last = max(region.buffers, key=lambda one: one.address)
    larger = tuple(replace(one, shape=(one.size + 1,)) if one == last else one for one in region.buffers)
    assert "sram" in {issue.code for issue in verify(replace(full, regions=(replace(region, buffers=larger),)))}


def test_a_line_message_that_ends_a_hop_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _product()
    given = _given(program)
    weights, inputs = {"l.weight": given["l.weight"]}, {"l.x": given["l.x"]}
    run_both(program, weights, inputs)
    honest = Pattern.expand

    def short(self: Pattern) -> Expansion:
        found = honest(self)
        far = max(found.messages, key=lambda one: one.hops)
        step = 1 if min(far.destinations) < far.source else -1
        less = replace(far, destinations=tuple(one + step for one in far.destinations))

        def turned(turn: tuple[object, ...]) -> tuple[object, ...]:
            return tuple(replace(action, message=less) if action.message == far else action for action in turn)  # type: ignore[attr-defined, type-var]

        turns = tuple(tuple(turned(turn) for turn in one) for one in found.turns)
        return Expansion(tuple(less if one == far else one for one in found.messages), turns)  # type: ignore[arg-type]

    monkeypatch.setattr(Pattern, "expand", short)
    with pytest.raises(CAUGHT):
        run_both(program, weights, inputs)


def test_a_stream_that_ends_a_hop_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.backends.wafer.test_plan import SMALL

    made = planned(SMALL.graph(), (2, 3), "pipeline", "f32")
    weights = {one.tensor: made.session.engine.tensor(one.tensor) for one in made.session.program.bindings if one.role == "weight"}
    inputs = {"input_ids": np.array([[3]], np.int32)}
    scalars = {"past": 0, "length": 1}
    run_both(made.session.program, weights, inputs, scalars, schedules=[pe.round_robin])

    def short(stream: Stream) -> list[Piece]:
        first, *rest = pieces(stream)
        x, y = first.targets[-1]
        return [replace(first, targets=(*first.targets[:-1], (x, y - 1 if y else y + 1))), *rest]

    monkeypatch.setattr(pe, "pieces", short)
    with pytest.raises((*CAUGHT, KeyError, IndexError)):
        run_both(made.session.program, weights, inputs, scalars, schedules=[pe.round_robin])
