"""Drawn machines, layouts and programs: exact maps, one set of bits under every schedule, monotone prices, damage that is rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.wafer.harness import run_both, twenty_schedules
from tests.backends.wafer.test_pipeline import gpt

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import WaferError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import Stage, pipeline, renamed, single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.gemm import Summa
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine, machine_fields, machine_from, small_machine
from cgptc.backends.wafer.program import Code, Program, Rectangle, Region
from cgptc.backends.wafer.steps import Collective, Local, Receive, Send, Span, Step, View, Where, views
from cgptc.backends.wafer.verify import peak_bytes, verify
from cgptc.testing import SpatialSample, assert_t0, layouts, machines, spatial_programs


@given(machines())
def test_a_machine_is_what_its_description_says(machine: Machine) -> None:
    assert machine_from(machine_fields(machine)) == machine


@given(layouts())
def test_a_layout_places_every_element_once_and_gives_it_back(layout: Layout) -> None:
    tensor = np.arange(1, 1 + int(np.prod(layout.shape, dtype=np.int64)), dtype=np.float32).reshape(layout.shape)
    tiles = layout.scatter(tensor)
    assert_t0(tensor, layout.gather(tiles))
    for index in np.ndindex(*layout.shape):
        x, y, local = layout.locate(index)
        assert layout.logical(x, y, local) == index
        assert tiles[(y, x, *local)] == tensor[index]
    for y, x in np.ndindex(layout.height, layout.width):
        valid = sum(layout.logical(x, y, local) is not None for local in np.ndindex(*layout.local_shape))
        assert valid == int(np.prod(layout.extents(x, y), dtype=np.int64)) * layout.holds(x, y)


@settings(deadline=None, max_examples=6)
@given(spatial_programs(), st.integers(0, 19))
def test_both_engines_give_the_same_bits_under_any_schedule(sample: SpatialSample, number: int) -> None:
    run_both(sample.program, sample.weights, sample.inputs, schedules=[twenty_schedules(sample.program)[number]])


def test_twenty_different_schedules_give_one_set_of_bits() -> None:
    """A sum in two phases, a stream, a sum by a tree, then tile products whose panels travel ahead."""
    first = Linear(2, 5, 7, Grid(2, 3), reduction=Reduction("two-phase", 2))
    second = renamed(Linear(2, 7, 4, Grid(3, 2), "y", reduction=Reduction("tree")).fragment("b"), {"b.x": "a.y"})
    relayed = pipeline(small_machine(5, 3), [Stage("a", (0, 0), (first.fragment("a"),)), Stage("b", (3, 0), (second,))], items=2)
    panels = single_region(small_machine(2, 3), [Summa(3, 4, 5, Grid(3, 2)).fragment("g")])
    random = np.random.default_rng(1)
    for program in (relayed, panels):
        schedules = twenty_schedules(program)
        boxes = [region.rectangle for region in program.regions]
        pes = [(box.x + x, box.y + y) for box in boxes for y, x in np.ndindex(box.height, box.width)]
        assert len({str([list(schedule(pes, turn)) for turn in range(8)]) for schedule in twenty_schedules(program)}) == 20
        given = {one.tensor: random.normal(size=one.layout.shape).astype(np.float32) for one in program.bindings if one.role != "output"}
        inputs = {name: np.stack([one] * 2) if name == "a.x" else one for name, one in given.items()}
        run_both(program, given, inputs, schedules=schedules)


@settings(deadline=None, max_examples=15)
@given(spatial_programs(exact=True))
def test_exact_programs_equal_numpy(sample: SpatialSample) -> None:
    assert sample.expected is not None
    run = run_both(sample.program, sample.weights, sample.inputs, schedules=())
    assert_t0(sample.expected, run.outputs[sample.output])


@settings(deadline=None, max_examples=6)
@given(spatial_programs(), st.integers(0, 3), st.integers(0, 3))
def test_a_program_that_is_moved_gives_the_same_bits_at_the_same_cost(sample: SpatialSample, right: int, down: int) -> None:
    program = sample.program

    def moved(box: Rectangle) -> Rectangle:
        return replace(box, x=box.x + right, y=box.y + down)

    regions = tuple(replace(region, rectangle=moved(region.rectangle)) for region in program.regions)
    machine = replace(program.machine, width=program.machine.width + right, height=program.machine.height + down)
    found = []
    for one in (program, replace(program, regions=regions, machine=machine)):
        engine = FastEngine(one)
        engine.load(sample.weights)
        found.append(engine.run("run", sample.inputs, {}))
    np.testing.assert_array_equal(found[0].outputs[sample.output], found[1].outputs[sample.output])
    assert found[0].account.cycles == found[1].account.cycles
    assert found[0].account.timeline == found[1].account.timeline
    assert found[0].account.link_bytes == found[1].account.link_bytes


BETTER: dict[str, Callable[[Machine], Machine]] = {
    "wider vectors": lambda machine: replace(machine, vector_lanes=tuple((name, 2 * lanes) for name, lanes in machine.vector_lanes)),
    "wider products": lambda machine: replace(machine, mac_lanes=tuple((name, 2 * lanes) for name, lanes in machine.mac_lanes)),
    "wider links": lambda machine: replace(machine, link_words=2 * machine.link_words),
    "shorter starts": lambda machine: replace(machine, vector_start_cycles=machine.vector_start_cycles // 2),
    "nearer routers": lambda machine: replace(machine, ramp_cycles=machine.ramp_cycles // 2),
    "more memory": lambda machine: replace(machine, sram_bytes=2 * machine.sram_bytes),
}


@settings(deadline=None, max_examples=20)
@given(spatial_programs(), machines(), st.sampled_from(sorted(BETTER)))
def test_a_better_machine_never_costs_more(sample: SpatialSample, machine: Machine, way: str) -> None:
    here = replace(machine, width=sample.program.machine.width, height=sample.program.machine.height)
    plain, better = (timeline(replace(sample.program, machine=one), "run", {}).cycles for one in (here, BETTER[way](here)))
    assert better <= plain


def _with_steps(region: Region, change: Callable[[tuple[Step, ...]], tuple[Step, ...]]) -> Region:
    return replace(region, code=tuple(Code(code.entry, change(code.steps)) for code in region.code))


def _first(program: Program, kind: type[Step], change: Callable[[Step], Step | None]) -> Program | None:
    """The first step of a kind changed, or left out where the change gives None; None for a program without one."""
    for at, region in enumerate(program.regions):
        for code in region.code:
            for number, step in enumerate(code.steps):
                if isinstance(step, kind):
                    changed = change(step)
                    steps = (*code.steps[:number], *([changed] if changed is not None else []), *code.steps[number + 1 :])
                    regions = list(program.regions)
                    regions[at] = _with_steps(region, lambda _, steps=steps: steps)  # type: ignore[misc]
                    return replace(program, regions=tuple(regions))
    return None


def _shifted(step: Step) -> Step:
    assert isinstance(step, Local)
    out = step.out
    assert isinstance(out.offset, int)
    return replace(step, out=replace(out, offset=out.offset + 1))


def _stream(program: Program, **changes: object) -> Program | None:
    if not program.streams:
        return None
    return replace(program, streams=(replace(program.streams[0], **changes), *program.streams[1:]))  # type: ignore[arg-type]


def _region(program: Program, change: Callable[[Region], Region | None]) -> Program | None:
    for at, region in enumerate(program.regions):
        changed = change(region)
        if changed is not None:
            return replace(program, regions=(*program.regions[:at], changed, *program.regions[at + 1 :]))
    return None


def _two_in_one_place(region: Region) -> Region | None:
    kept = [one for one in region.buffers if one.resident and one.bytes]
    if len(kept) < 2:
        return None
    return replace(region, buffers=tuple(replace(one, address=kept[0].address) if one == kept[1] else one for one in region.buffers))


def _too_short(region: Region) -> Region | None:
    for one in region.buffers:
        if not one.resident and one.live and one.live[0].last > one.live[0].first:
            cut = replace(one, live=(replace(one.live[0], last=one.live[0].last - 1),))
            return replace(region, buffers=tuple(cut if other == one else other for other in region.buffers))
    return None


def _unwritten(program: Program) -> Program | None:
    binding = next(one for one in program.bindings if one.role == "output")

    def without(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(step for step in steps if all(view.buffer != binding.buffer for view in views(step)[1]))

    return _region(program, lambda region: _with_steps(region, without) if region.name == binding.region else None)


def _opening(program: Program) -> tuple[Region, int] | None:
    """Region and number of the last step that writes an output without reading it; None where it only arrives."""
    binding = next(one for one in program.bindings if one.role == "output")
    region = program.region(binding.region)
    found = [
        number
        for number, step in enumerate(region.code[0].steps)
        if isinstance(step, Local) and step.out.buffer == binding.buffer and all(view.buffer != binding.buffer for view in views(step)[0])
    ]
    return (region, found[-1]) if found else None


def _written_twice(program: Program) -> Program | None:
    found = _opening(program)
    if found is None:
        return None
    region, number = found
    return _region(program, lambda one: _with_steps(one, lambda steps: (*steps, steps[number])) if one == region else None)


def _a_column_left_out(program: Program) -> Program | None:
    found = _opening(program)
    if found is None or found[0].rectangle.width == 1:
        return None
    region, number = found
    where = Where(columns=(Span(0, region.rectangle.width - 1),))

    def limited(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(replace(step, where=where) if at == number else step for at, step in enumerate(steps))  # type: ignore[call-arg]

    return _region(program, lambda one: _with_steps(one, limited) if one == region else None)


def _a_line_not_reduced(program: Program) -> Program | None:
    """The first reduction of a region leaves out the last of the lines that it runs on."""

    def limited(region: Region) -> Region | None:
        box, steps = region.rectangle, region.code[0].steps
        for step in steps:
            if isinstance(step, Collective) and step.kind == "allreduce" and step.where == Where():
                lines = box.height if step.along == "x" else box.width
                fewer = (Span(0, lines - 1),)
                if lines > 1:
                    changed = replace(step, where=Where(rows=fewer) if step.along == "x" else Where(columns=fewer))
                    at = steps.index(step)
                    return replace(region, code=(Code("run", (*steps[:at], changed, *steps[at + 1 :])), *region.code[1:]))
        return None

    return _region(program, limited)


def _four_bytes_less(program: Program) -> Program:
    need = max(peak_bytes(program, region) for region in program.regions)
    return replace(program, machine=replace(program.machine, sram_bytes=program.machine.reserved_bytes + need - 4))


DAMAGE: dict[str, Callable[[Program], Program | None]] = {
    "a colour dropped": lambda program: _first(program, Collective, lambda step: replace(step, colours=step.colours[:-1])),  # type: ignore[union-attr]
    "colours made one": lambda program: _first(
        program,
        Collective,
        lambda step: replace(step, colours=step.colours[:1] * len(step.colours)),  # type: ignore[union-attr]
    ),
    "a segment that does not divide": lambda program: _first(program, Collective, lambda step: replace(step, segment=97)),  # type: ignore[arg-type]
    "a message into too small a place": lambda program: _first(
        program,
        Collective,
        lambda step: replace(step, target=View(step.target.buffer, (), ())) if step.target.shape else replace(step, colours=()),  # type: ignore[union-attr]
    ),
    "a tile off by one": lambda program: _first(program, Local, _shifted),
    "an unknown instruction": lambda program: _first(program, Local, lambda step: replace(step, instruction="jump")),  # type: ignore[arg-type]
    "a queue without room": lambda program: _stream(program, depth=0),
    "a stream to nowhere": lambda program: _stream(program, consumer="nowhere"),
    "a send left out": lambda program: _first(program, Send, lambda step: None),
    "a receive left out": lambda program: _first(program, Receive, lambda step: None),
    "two buffers in one place": lambda program: _region(program, _two_in_one_place),
    "a life too short": lambda program: _region(program, _too_short),
    "a region beyond the edge": lambda program: _region(
        program, lambda region: replace(region, rectangle=replace(region.rectangle, x=program.machine.width - region.rectangle.width + 1))
    ),
    "an output never written": _unwritten,
    "an output written twice": _written_twice,
    "an output on all columns but one": _a_column_left_out,
    "a reduction on all lines but one": _a_line_not_reduced,
    "four bytes too many": _four_bytes_less,
}


@settings(deadline=None, max_examples=8)
@given(spatial_programs())
def test_damaged_programs_are_rejected(sample: SpatialSample) -> None:
    assert verify(sample.program) == []
    for name, damage in DAMAGE.items():
        damaged = damage(sample.program)
        if damaged is not None:
            assert _rejected(damaged), name


CODES = {
    "an output written twice": {"output-rewritten"},
    "an output on all columns but one": {"read-before-write"},
    "a reduction on all lines but one": {"reduction-lines"},
}
"""What is wrong with some of them when they are done to a GPT."""


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_can_be_done_to_a_gpt(name: str) -> None:
    damaged = DAMAGE[name](gpt("f32"))
    assert damaged is not None
    assert _rejected(damaged)
    if name in CODES:
        assert {issue.code for issue in verify(damaged)} == CODES[name]


def _rejected(program: Program) -> bool:
    try:
        return verify(program) != []
    except WaferError:
        return True
