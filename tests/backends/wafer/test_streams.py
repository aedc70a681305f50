"""Streams: the family of routes equals its element-wise definition, regions overlap in time, and both engines agree."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from tests.backends.wafer.harness import run_both, twenty_schedules

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ExecutionError, ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.layout import Cut, Layout
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Binding, Buffer, Code, Entry, Program, Rectangle, Region, Scalar, Stream
from cgptc.backends.wafer.routes import _colour_intervals, _Group, family, loads, pieces, stream_cost
from cgptc.backends.wafer.steps import Receive, Send, View, whole
from cgptc.backends.wafer.verify import verify

MACHINE = small_machine(8, 8)
LINE_X = replace(Grid(2, 3).spread((2, 7), "x"), row=1)
LINE_Y = replace(Grid(3, 2).spread((2, 7), "y"), column=0)
LAYOUTS = {
    "along x to the right": (LINE_X, (0, 0), Grid(3, 2).spread((2, 7), "x"), (4, 1), "x"),
    "along x downward": (LINE_X, (1, 0), Grid(2, 4).spread((2, 7), "x"), (0, 4), "x"),
    "along y to the right": (LINE_Y, (0, 1), Grid(4, 3).spread((2, 7), "y"), (3, 0), "y"),
    "along y to the left": (LINE_Y, (5, 1), Grid(2, 3).spread((2, 7), "y"), (0, 3), "y"),
    "from x to y": (LINE_X, (0, 0), Grid(3, 2).spread((2, 7), "y"), (4, 1), "x"),
    "tiles to tiles": (Grid(2, 3).tiled((5, 7), 0, 1), (0, 0), Grid(3, 2).tiled((5, 7), 0, 1), (4, 2), "x"),
    "cyclic to blocks": (
        Layout(3, 2, (7,), (Cut("rows"),), column=1), (0, 0), Layout(4, 3, (7,), (Cut("rows", 2),)), (3, 2), "y",
    ),
    "cut to all": (Layout(3, 2, (7,), (Cut("columns"),), row=0), (0, 0), Layout(3, 4, (7,), (None,)), (4, 1), "x"),
    "cut to one line": (Layout(3, 2, (7,), (Cut("columns"),), row=1), (0, 0), Layout(3, 4, (7,), (None,), column=2), (4, 1), "y"),
    "whole to one PE": (Layout(2, 2, (3,), (None,), row=0, column=1), (0, 0), Layout(2, 3, (3,), (None,), row=1, column=2), (3, 3), "x"),
}  # fmt: skip


def _stream(name: str) -> tuple[Stream, Rectangle, Rectangle]:
    source, at, target, to, first = LAYOUTS[name]
    stream = Stream("s", "a", "b", "f32", source, target, first, (10,), 2, 0)  # type: ignore[arg-type]
    return stream, Rectangle(*at, source.width, source.height), Rectangle(*to, target.width, target.height)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_family_equals_its_pieces_and_their_links(name: str) -> None:
    stream, producer, consumer = _stream(name)
    found = family(stream, producer, consumer)
    expected = set()
    links: dict[tuple[int, int, str], int] = defaultdict(int)
    for piece in pieces(stream):
        source = (piece.source[0] + producer.x, piece.source[1] + producer.y)
        xs = [x + consumer.x for x, _ in piece.targets]
        ys = [y + consumer.y for _, y in piece.targets]
        assert len(piece.targets) == (max(xs) - min(xs) + 1) * (max(ys) - min(ys) + 1), "targets form a rectangle"
        expected.add((*source, min(xs), max(xs), min(ys), max(ys), len(piece.taken)))
        for link in _tree(source, [(x + consumer.x, y + consumer.y) for x, y in piece.targets], stream.first):
            links[link] += len(piece.taken)
    columns = (found.source_x, found.source_y, found.low_x, found.high_x, found.low_y, found.high_y, found.words)
    assert {tuple(int(value) for value in row) for row in zip(*columns, strict=True)} == expected
    assert found.piece_count == len(expected)
    summed = loads(found, stream.first)
    for direction in ("east", "west", "south", "north"):
        array = getattr(summed, direction)
        for (y, x), words in np.ndenumerate(array):
            assert words == links.pop((x + summed.x, y + summed.y, direction), 0), (x, y, direction)
    assert not links


@pytest.mark.parametrize("seed", range(10))
def test_intervals_that_meet_get_phases_of_their_own_and_no_more_than_meet_at_once(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for _ in range(20):
        groups = [
            _Group(*map(int, (source, low, low + length, 1))) for source, low, length in draw.integers(0, 8, (draw.integers(0, 7), 3))
        ]
        spans = [(min(one.source, one.low), max(one.source, one.high)) for one in groups]
        phases = _colour_intervals(groups)
        for (one, first), (other, second) in combinations(zip(spans, phases, strict=True), 2):
            assert one[1] < other[0] or other[1] < one[0] or first != second
        assert len(set(phases)) == max((sum(low <= place <= high for low, high in spans) for place in range(16)), default=0)


def _tree(source: tuple[int, int], targets: list[tuple[int, int]], first: str) -> set[tuple[int, int, str]]:
    links: set[tuple[int, int, str]] = set()
    for x, y in targets:
        corner = (x, source[1]) if first == "x" else (source[0], y)
        for (from_x, from_y), (to_x, to_y) in pairwise([source, corner, (x, y)]):
            step = 1 if to_x > from_x else -1
            links.update((at, from_y, "east" if step > 0 else "west") for at in range(from_x, to_x, step))
            step = 1 if to_y > from_y else -1
            links.update((from_x, at, "south" if step > 0 else "north") for at in range(from_y, to_y, step))
    return links


@pytest.mark.parametrize("name", LAYOUTS)
def test_pieces_of_one_phase_touch_no_common_router(name: str) -> None:
    stream, producer, consumer = _stream(name)
    found = family(stream, producer, consumer)
    routers = []
    for i in range(found.piece_count):
        source = (int(found.source_x[i]), int(found.source_y[i]))
        targets = [(x, y) for x in range(found.low_x[i], found.high_x[i] + 1) for y in range(found.low_y[i], found.high_y[i] + 1)]
        touched = {source, *targets}
        for x, y, direction in _tree(source, targets, stream.first):
            offset = {"east": (1, 0), "west": (-1, 0), "south": (0, 1), "north": (0, -1)}[direction]
            touched |= {(x, y), (x + offset[0], y + offset[1])}
        routers.append((int(found.phase[i]), touched))
    for (phase, one), (other_phase, other) in combinations(routers, 2):
        assert phase != other_phase or one.isdisjoint(other)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_element_of_every_target_is_delivered_once(name: str) -> None:
    stream, _, _ = _stream(name)
    delivered: dict[tuple[int, int], list[int]] = defaultdict(list)
    for piece in pieces(stream):
        for target in piece.targets:
            delivered[target].extend(piece.put)
    for y in range(stream.target.height):
        for x in range(stream.target.width):
            places = enumerate(np.ndindex(*stream.target.local_shape))
            valid = [number for number, local in places if stream.target.logical(x, y, local) is not None]
            assert sorted(delivered[x, y]) == valid


def relay(name: str, *, depth: int = 2) -> Program:
    """Two regions: the first passes its input on, the second gives what arrives."""
    stream, producer, consumer = _stream(name)
    shape, other = stream.source.local_shape, stream.target.local_shape
    stream = replace(stream, depth=depth, address=256)
    held, got = Buffer("held", "f32", shape, 0, resident=True), Buffer("got", "f32", other, 0, resident=True)
    return Program(
        MACHINE,
        (
            Region("a", producer, (held,), (Code("run", (Send("s", whole("held", shape)),)),)),
            Region("b", consumer, (got,), (Code("run", (Receive("s", whole("got", other)),)),)),
        ),
        (stream,),
        (Entry("run", (Scalar("length", 1, 6),), var("length")),),
        (Binding("x", "input", "a", "held", stream.source, ("run",)), Binding("y", "output", "b", "got", stream.target, ("run",))),
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_items_arrive_whole_and_in_order_under_every_schedule(name: str) -> None:
    program = relay(name)
    x = np.random.default_rng(1).normal(size=(4, *program.streams[0].source.shape)).astype(np.float32)
    run = run_both(program, {}, {"x": x}, {"length": 4}, schedules=twenty_schedules(program)[::4])
    np.testing.assert_array_equal(run.outputs["y"], x)


def test_a_deeper_queue_lets_the_producer_run_ahead() -> None:
    finish = {depth: timeline(relay("along y to the right", depth=depth), "run", {"length": 6}).of("a")[-1].finish for depth in (1, 2, 6)}
    assert finish[1] > finish[2] > finish[6]
    program = relay("along y to the right")
    clock = timeline(program, "run", {"length": 6})
    cost = stream_cost(program.streams[0], *program.regions, MACHINE)
    assert clock.of("b")[0].start == cost.cycles
    assert clock.initiation_interval() > 0
    assert clock.cycles == clock.of("b")[-1].finish


def test_a_replicated_source_must_name_its_line() -> None:
    stream, producer, consumer = _stream("along x downward")
    with pytest.raises(ProgramError, match="replicated along rows"):
        family(replace(stream, source=replace(stream.source, row=None)), producer, consumer)


def test_regions_that_wait_for_each_other_are_found_by_all() -> None:
    program = relay("along y to the right")
    back = replace(
        program.streams[0], name="back", producer="b", consumer="a", source=replace(program.streams[0].target, column=0),
        target=replace(program.streams[0].source, column=None), colours=(11,),
    )  # fmt: skip
    shape, other = back.target.local_shape, back.source.local_shape
    first = replace(program.regions[0], code=(Code("run", (Receive("back", whole("held", shape)), Send("s", whole("held", shape)))),))
    second = replace(program.regions[1], code=(Code("run", (Receive("s", whole("got", other)), Send("back", whole("got", other)))),))
    stuck = replace(program, regions=(first, second), streams=(*program.streams, back))
    assert [issue.code for issue in verify(stuck)] == ["deadlock"]
    assert "waits for an item" in verify(stuck)[0].what
    x = {"x": np.zeros((1, 2, 7), np.float32)}
    for engine in (FastEngine(stuck), PeEngine(stuck)):
        with pytest.raises(ExecutionError, match="stall"):
            engine.run("run", x, {"length": 1})


def test_a_view_of_another_shape_than_the_tile_is_refused() -> None:
    program = relay("along y to the right")
    region = program.regions[1]
    wrong = replace(region, code=(Code("run", (Receive("s", View("got", (1, 1), (1, 1))),)),))
    assert {issue.code for issue in verify(replace(program, regions=(program.regions[0], wrong)))} == {"operands"}
