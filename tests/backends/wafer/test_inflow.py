"""Weights that come from off the wafer: the same bits as weights that stay, priced by the host's link, and checked before they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.harness import run_both
from tests.backends.wafer.planned import ROOMY, planned, token_inputs

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.inflow import edge_of, line_words, link_words, nonzeros, parcel_cost, tile_words
from cgptc.backends.wafer.interpret.account import Account
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.interpret.schedules import HOST, backwards, shuffled, starving
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.layout import Cut
from cgptc.backends.wafer.machine import WSE2, Machine, small_machine
from cgptc.backends.wafer.plan.choose import DoesNotFitError
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.planner import Aim, Plan, plan
from cgptc.backends.wafer.program import Code, Inflow, Nonzeros, Parcel, Program, Rectangle, Region
from cgptc.backends.wafer.report.figures import measure
from cgptc.backends.wafer.steps import Absorb, Loop, Take
from cgptc.backends.wafer.summary import linear_rows
from cgptc.backends.wafer.verify import peak_bytes, verify
from cgptc.ir.dtypes import DTYPES, f32
from cgptc.ir.weight_expressions import converted
from cgptc.ir.weights import Weight

SMALL = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4)
STREAMING = "weight-streaming"
Weights = dict[str, np.ndarray]


def test_streamed_weights_give_the_bits_that_resident_ones_give() -> None:
    graph = SMALL.graph()
    inputs = token_inputs(graph, 1, 3)
    stays, comes = (planned(graph, (3, 4), strategy, "f16") for strategy in ("resident", STREAMING))
    for name, array in stays.session.run(inputs).items():
        np.testing.assert_array_equal(array, comes.session.run(inputs)[name], err_msg=name)
    assert comes.plan.program.inflow is not None
    assert {one.tensor for one in comes.plan.program.bindings if one.role == "weight"} < set(comes.plan.weights)


def test_engines_agree_whoever_is_late_the_host_included() -> None:
    graph = SMALL.graph()
    made = planned(graph, (3, 2), STREAMING, "f32").plan
    weights = {name: converted(weight, f32).read(graph.store) for name, weight in made.weights.items()}
    inputs = {"input_ids": np.array([[3], [1]], np.int32)}
    late = (backwards, shuffled(1), starving(HOST), starving((2, 1)))
    run = run_both(made.program, weights, inputs, {"past": 0, "length": 2}, schedules=late)
    assert run.account.south.any()
    assert run.account.east.any()


def test_a_parcel_costs_the_slower_of_the_hosts_link_and_the_fullest_line() -> None:
    grid, box = Grid(4, 3), Rectangle(0, 0, 3, 4)
    matrix = grid.tiled((10, 7), 0, 1)
    # Tiles of 3 × 3 f16 at most; rows of PEs hold 3, 3, 3 and 1 rows, columns 3, 3 and 1.
    assert tile_words(matrix, "f16").tolist() == [[5, 5, 2], [5, 5, 2], [5, 5, 2], [2, 2, 1]]
    words, controls = line_words(matrix, "f16")
    assert (words.tolist(), controls) == ([17, 17, 7], 3)
    slow = replace(WSE2, host_bytes_per_second=WSE2.clock_hz)
    assert parcel_cost(Parcel("w", matrix), "f16", box, slow).occupied == 4 * 41
    assert parcel_cost(Parcel("w", matrix), "f16", box, replace(WSE2, host_bytes_per_second=1e15)).occupied == 17 + 3
    assert parcel_cost(Parcel("w", matrix), "f16", box, WSE2).latency == 4 + 5


def test_what_all_pes_of_a_line_take_comes_once() -> None:
    grid = Grid(4, 3)
    across, down = grid.spread((1, 7), "x"), grid.spread((1, 7), "y")
    assert (edge_of(across), edge_of(down)) == ("north", "west")
    assert line_words(across, "f32")[0].tolist() == [3, 3, 1]
    assert line_words(down, "f32")[0].tolist() == [2, 2, 2, 1]
    direction, words = link_words(down, tile_words(down, "f32"), Rectangle(1, 2, 3, 4))
    assert direction == "east"
    assert words[2].tolist() == [2, 2, 2, 0]
    assert not words[:2].any()


def test_an_item_takes_as_long_as_its_weights_need_to_come() -> None:
    machine = replace(small_machine(8, 8), host_bytes_per_second=1e8)
    made = planned(SMALL.graph(), (4, 4), STREAMING, "f32", machine).plan
    (cost,) = made.choice.costs
    sent = sum(
        parcel_cost(parcel, "f32", made.program.regions[0].rectangle, machine).occupied
        for parcel in made.program.inflow.parcels  # type: ignore[union-attr]
    )
    assert cost.cycles == sent
    interval = timeline(made.program, "run", {"past": 0, "length": 6}).initiation_interval()
    assert math.isclose(interval, sent, rel_tol=0.01)


def _pruned(density: float, dtype: str = "f16", grid: tuple[int, int] = (3, 2), machine: Machine = ROOMY) -> tuple[Plan, Weights]:
    """A model of which so much of every matrix is not 0, streamed without its zeros where that pays."""
    graph = SMALL.graph()

    def values(weight: Weight) -> np.ndarray:
        array = converted(weight, DTYPES[dtype]).read(graph.store)
        return np.where(np.random.default_rng(array.size).random(array.shape) < density, array, 0).astype(array.dtype)

    tasks, _ = lift(graph)
    assert tasks is not None
    aim = Aim(machine, STREAMING, grid=Grid(grid[1], grid[0]), chunk=1)
    made = plan(tasks, aim, dtype, lambda weight, layout: nonzeros(layout, values(weight))[0])
    matrices = {parcel.tensor for parcel in made.program.inflow.parcels if len(parcel.layout.shape) == 2}  # type: ignore[union-attr]
    read = {name: converted(weight, DTYPES[dtype]).read(graph.store) for name, weight in made.weights.items() if name not in matrices}
    return made, read | {name: values(made.weights[name]) for name in matrices}


def test_zeros_that_are_not_sent_change_no_bit_and_cost_nothing() -> None:
    slow = replace(ROOMY, host_bytes_per_second=1e8)
    made, weights = _pruned(0.2, machine=slow)
    sparse = [parcel for parcel in made.program.inflow.parcels if parcel.nonzeros]  # type: ignore[union-attr]
    # All seven linear layers but the head, which is the table that stays.
    assert len(sparse) == 6
    inputs = {"input_ids": np.array([[3], [1]], np.int32)}
    scalars = {"past": 0, "length": 2}
    run = run_both(made.program, weights, inputs, scalars, schedules=(backwards, shuffled(2), starving(HOST)))
    dense = FastEngine(planned(SMALL.graph(), (3, 2), STREAMING, "f16", slow).plan.program)
    dense.load(weights)
    whole = dense.run("run", inputs, scalars)
    for name, array in whole.outputs.items():
        np.testing.assert_array_equal(array, run.outputs[name])
    plain = planned(SMALL.graph(), (3, 2), STREAMING, "f16", slow).plan
    told = [[row["layers"] for row in linear_rows(one) if str(row["kernel"]).endswith("zeros not sent")] for one in (made, plain)]
    assert [sum(map(int, map(str, layers))) for layers in told] == [len(sparse), 0]
    assert run.account.macs < whole.account.macs
    assert run.account.timeline.cycles < 0.7 * whole.account.timeline.cycles


def test_a_report_counts_what_comes_as_the_engine_does() -> None:
    made = planned(SMALL.graph(), (3, 2), STREAMING, "f32")
    made.session.run(token_inputs(made.graph, 1, 1))
    account = made.session.usage.account
    assert account is not None
    found = measure(made.plan.program, account.timeline, scalars={"past": 0, "length": 1})
    for mine, other in zip(_links(found.account), _links(account), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert {bound.name: bound.cycles for bound in found.bounds}["off-wafer I/O"] > 4 * sum(
        math.prod(parcel.layout.shape)
        for parcel in made.plan.program.inflow.parcels  # type: ignore[union-attr]
    ) / made.plan.program.machine.host_bytes_per_second * made.plan.program.machine.clock_hz


def _links(account: Account) -> list[np.ndarray]:
    return [account.east, account.west, account.south, account.north]


def test_few_zeros_wide_numbers_and_what_comes_in_good_time_are_sent_whole() -> None:
    slow = replace(ROOMY, host_bytes_per_second=1e8)
    for density, dtype, machine in ((0.9, "f16", slow), (0.1, "f32", slow), (0.1, "f16", ROOMY)):
        made, _ = _pruned(density, dtype, machine=machine)
        assert not any(parcel.nonzeros for parcel in made.program.inflow.parcels)  # type: ignore[union-attr]


def test_weights_with_other_zeros_than_the_program_was_made_for_are_refused() -> None:
    made, weights = _pruned(0.2, machine=replace(ROOMY, host_bytes_per_second=1e8))
    name = next(parcel.tensor for parcel in made.program.inflow.parcels if parcel.nonzeros)  # type: ignore[union-attr]
    for engine in (FastEngine(made.program), PeEngine(made.program)):
        with pytest.raises(ProgramError, match="was made for"):
            engine.load({**weights, name: np.ones_like(weights[name])})


def test_non_zeros_are_counted_in_ragged_tiles() -> None:
    layout = Grid(4, 3).tiled((10, 7), 0, 1)
    matrix = np.random.default_rng(1).integers(-1, 2, (10, 7)).astype(np.float32)
    counts, words = nonzeros(layout, matrix)
    tiles = layout.scatter(matrix)
    assert words.tolist() == [[int(np.count_nonzero(tiles[y, x])) for x in range(3)] for y in range(4)]
    assert counts == Nonzeros(int(words.max()), int(words.sum(axis=0).max()), int(np.count_nonzero(matrix)))
    turned = Grid(3, 4).tiled((10, 7), 1, 0)
    assert nonzeros(turned, matrix)[1].T.sum() == counts.total


def _sparse(change: Callable[[Parcel], Parcel]) -> Program:
    """The smallest sparse program with its first sparse parcel changed."""
    program = _pruned(0.2, machine=replace(ROOMY, host_bytes_per_second=1e8))[0].program
    assert program.inflow is not None
    first = next(number for number, parcel in enumerate(program.inflow.parcels) if parcel.nonzeros)
    parcels = tuple(change(parcel) if number == first else parcel for number, parcel in enumerate(program.inflow.parcels))
    return replace(program, inflow=replace(program.inflow, parcels=parcels))


def _streamed(change: Callable[[Inflow], Inflow] = lambda inflow: inflow) -> Program:
    program = planned(SMALL.graph(), (2, 2), STREAMING, "f32").plan.program
    assert program.inflow is not None
    return replace(program, inflow=change(program.inflow))


def _with_first_take_in_a_loop(kept: int = 0) -> Program:
    """``kept`` 1: outside the loop too, where it belongs."""
    program = _streamed()
    (region,) = program.regions
    (code,) = region.code
    at = next(number for number, step in enumerate(code.steps) if isinstance(step, Take))
    steps = (*code.steps[: at + kept], Loop("again", 1, (code.steps[at],)), *code.steps[at + 1 :])
    return replace(program, regions=(replace(region, code=(replace(code, steps=steps),)),))


REJECTED: dict[str, Callable[[], Program]] = {
    "inflow-unknown": lambda: replace(_streamed(), inflow=None),
    "inflow-end": lambda: _streamed(lambda inflow: replace(inflow, region="elsewhere")),
    "inflow-depth": lambda: _streamed(lambda inflow: replace(inflow, depth=0)),
    "inflow-order": lambda: _streamed(lambda inflow: replace(inflow, parcels=inflow.parcels[::-1])),
    "inflow-layout": lambda: _streamed(
        lambda inflow: replace(inflow, parcels=(replace(inflow.parcels[0], layout=Grid(2, 3).replicated((4,))), *inflow.parcels[1:]))
    ),
    "inflow-slot": lambda: _streamed(lambda inflow: replace(inflow, slot_bytes=inflow.slot_bytes - 16)),
    "stream-conflict": lambda: _streamed(lambda inflow: replace(inflow, colours=(0, 20))),
    "colour-range": lambda: _streamed(lambda inflow: replace(inflow, colours=(19, 21))),
    "sram-overlap": lambda: _streamed(lambda inflow: replace(inflow, address=inflow.address + 16)),
    "inflow-nonzeros": lambda: _sparse(lambda parcel: replace(parcel, nonzeros=None)),
    "inflow-wavelet": lambda: _sparse(
        lambda parcel: replace(parcel, layout=replace(parcel.layout, shape=(300, 900), cuts=(Cut("columns", 300), Cut("rows", 900))))
    ),
    "switch-positions": lambda: replace(_streamed(), machine=replace(small_machine(40, 40, sram_bytes=1 << 18), switch_positions=2)),
}


def test_a_streamed_program_keeps_every_rule() -> None:
    assert verify(_streamed()) == []
    assert verify(_streamed(lambda inflow: replace(inflow, depth=1))) == []
    sparse = _sparse(lambda parcel: parcel)
    assert verify(sparse) == []
    assert any(isinstance(step, Absorb) for step in sparse.regions[0].steps("run"))


@pytest.mark.parametrize("code", REJECTED)
def test_a_broken_inflow_is_rejected_by_its_own_rule(code: str) -> None:
    assert code in {issue.code for issue in verify(REJECTED[code]())}


@pytest.mark.parametrize("name", ["0", "zz"])
def test_the_queue_of_the_inflow_takes_room_in_its_own_region_alone(name: str) -> None:
    program = _streamed()
    machine = replace(program.machine, width=program.machine.width + 1)
    other = Region(name, Rectangle(machine.width - 1, 0, 1, 1), (), (Code("run", ()),))
    more = replace(program, machine=machine, regions=(*program.regions, other))
    assert peak_bytes(more, other) == 0
    assert peak_bytes(more, program.regions[0]) == peak_bytes(program, program.regions[0]) > 0


def test_parcels_are_taken_outside_loops() -> None:
    for kept in (0, 1):
        assert "inflow-order" in {issue.code for issue in verify(_with_first_take_in_a_loop(kept))}


def test_what_has_no_room_streams_and_says_by_how_much_it_missed() -> None:
    model = TinyGpt(layers=4, heads=4, key_heads=4, head_width=8)
    tight = small_machine(6, 6, sram_bytes=10_000)
    with pytest.raises(DoesNotFitError) as caught:
        planned(model.graph(), None, "resident", "f32", tight)
    assert "B too many" in caught.value.lines[0]
    assert f"--execution-strategy {STREAMING}" in caught.value.fix
    made = planned(model.graph(), None, "auto", "f32", tight).plan
    assert made.strategy == STREAMING
    assert any("too many" in line for line in made.missed)
