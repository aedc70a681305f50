"""More PEs, SRAM or bandwidth never cost more on grids that every larger machine has; others are taken only where they are better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine, small_machine
from cgptc.backends.wafer.plan.choose import MERITS, choices, nested_ways
from cgptc.backends.wafer.plan.grids import chains
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.merit import figures
from cgptc.backends.wafer.plan.pack import pack
from cgptc.backends.wafer.plan.planner import ENTRY, Aim, plan
from cgptc.backends.wafer.plan.size import Sizer
from cgptc.backends.wafer.plan.stages import groups, one_group

MODEL = TinyGpt(layers=2, heads=2, head_width=8, vocabulary=60)

GREATER: dict[str, Callable[[Machine], Machine]] = {
    "one PE more each way": lambda one: replace(one, width=one.width + 1, height=one.height + 1),
    "wider": lambda one: replace(one, width=one.width + 3),
    "higher": lambda one: replace(one, height=one.height + 2),
    "twice the SRAM": lambda one: replace(one, sram_bytes=2 * one.sram_bytes),
    "64 bytes of SRAM": lambda one: replace(one, sram_bytes=one.sram_bytes + 64),
    "two words on a link": lambda one: replace(one, link_words=2),
    "twice the host's link": lambda one: replace(one, host_bytes_per_second=2 * one.host_bytes_per_second),
}


@cache
def _sizer(strategy: str) -> Sizer:
    tasks, _ = lift(MODEL.graph())
    assert tasks is not None
    return plan(tasks, Aim(small_machine(8, 8), strategy, grid=Grid(2, 2), chunk=1), "f32").sizer


def _least(strategy: str, machine: Machine) -> list[float]:
    """The least figures by throughput, latency and area of the ways to size regions that a greater machine has too."""
    sizer = replace(_sizer(strategy), machine=machine)
    tasks = sizer.directed.tasks
    if strategy != "pipeline":
        return [min(merit(one.costs)[0] for one in choices(sizer, one_group(tasks))) for merit in MERITS]
    nested = nested_ways(sizer, groups(tasks))
    least = [min((merit(way)[0] for way in nested), default=math.inf) for merit in MERITS]
    chosen = [min(merit(one.costs)[0] for one in choices(sizer, groups(tasks))) for merit in MERITS]
    assert all(one <= other for one, other in zip(chosen, least, strict=True))
    return least


@settings(deadline=None, max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(["pipeline", "resident", "weight-streaming"]),
    st.tuples(st.integers(4, 8), st.integers(4, 8)),
    st.sampled_from([16_384, 49_152]),
    st.sampled_from(sorted(GREATER)),
)
@example("pipeline", (4, 7), 16_384, "one PE more each way")
def test_no_greater_machine_has_worse_ways_to_size_regions(strategy: str, size: tuple[int, int], sram: int, change: str) -> None:
    machine = small_machine(*size, sram_bytes=sram)
    for before, after in zip(_least(strategy, machine), _least(strategy, GREATER[change](machine)), strict=True):
        assert after <= before


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 40), st.integers(0, 40), st.integers(1, 2))
def test_a_larger_machine_has_all_grids_of_a_smaller_one_each_within_the_next(width: int, height: int, x: int, y: int, count: int) -> None:
    for before, after in zip(chains(small_machine(width, height), count), chains(small_machine(width + x, height + y), count), strict=True):
        assert after[: len(before)] == before
        assert all(one.height <= two.height and one.width <= two.width for one, two in pairwise(after))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=9), st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_what_finds_room_finds_it_on_a_larger_machine_and_in_smaller_grids(sizes: list[tuple[int, int]], size: tuple[int, int]) -> None:
    grids = [Grid(*one) for one in sizes]
    width, height = size
    if pack(grids, small_machine(width, height)) is None:
        return
    for more in ((1, 0), (0, 1), (5, 0)):
        assert pack(grids, small_machine(width + more[0], height + more[1])) is not None
    smaller = [Grid(max(1, one.height - index % 3), max(1, one.width - index % 2)) for index, one in enumerate(grids)]
    places = pack(smaller, small_machine(width, height))
    assert places is not None
    taken = [(x + i, y + j) for (x, y), one in zip(places, smaller, strict=True) for i in range(one.width) for j in range(one.height)]
    assert len(taken) == len(set(taken))
    assert all(0 <= x < width and 0 <= y < height for x, y in taken)


def test_a_smaller_machine_is_never_better_by_the_placed_programs_own_clock() -> None:
    """For one region, whose price is what its clock counts."""
    tasks, _ = lift(MODEL.graph())
    assert tasks is not None
    made = [plan(tasks, Aim(small_machine(side, side), "resident", "latency", chunk=1), "f32") for side in (4, 5, 7)]
    cycles = [figures(one.program, ENTRY, tasks).latency for one in made]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles == [one.choice.bottleneck for one in made]
