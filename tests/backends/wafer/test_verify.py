"""The verifier: every rule has a smallest program that breaks it, kernels' own programs break none, damage is rejected or noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tests.backends.wafer.test_streams import relay

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.collectives import Action, Expansion, Message, Pattern
from cgptc.backends.wafer.faults import ExecutionError, InvalidProgramError
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.gemm import Summa
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Binding, Buffer, Code, Entry, Live, Program, Rectangle, Region, Scalar
from cgptc.backends.wafer.resolve import Placed
from cgptc.backends.wafer.routes import Loads, share_links
from cgptc.backends.wafer.steps import Collective, Local, Loop, Receive, Send, Span, Step, View, Where, line, numbered, whole
from cgptc.backends.wafer.verify import check, peak_bytes, verify
from cgptc.backends.wafer.verify.corners import corners
from cgptc.backends.wafer.verify.likeness import Kinds
from cgptc.backends.wafer.verify.waits import stalled

MACHINE = small_machine(4, 4)
A, B = whole("a", (4,)), whole("b", (4,))
COPY = Local("mov", B, (A,), "f32")
BROADCAST = Collective("broadcast", "multicast", "x", A, B, (0,))
SHIFT = Collective("shift", "neighbour", "x", A, B, (0, 1), hops=1)
C = whole("c", (4,))
FILLED = replace(COPY, out=C)
NEGATED = Local("neg", C, (C,), "f32")
SUM = Collective("allreduce", "chain", "x", C, C, (0, 1, 2, 3, 4))
TO_ROOT = Collective("reduce", "chain", "x", C, C, (0, 1, 2, 3))
GATHER = Collective("gather", "direct", "x", A, whole("c", (2, 4)), (0, 1))


def program(*steps: Step, **changes: object) -> Program:
    """Region ``r`` of 2 × 2 PEs with input ``a`` and output ``b``, four f32 each."""
    layout = Layout(2, 2, (4,), (None,))
    region = Region(
        "r",
        Rectangle(0, 0, 2, 2),
        (Buffer("a", "f32", (4,), 0, resident=True), Buffer("b", "f32", (4,), 16, resident=True)),
        (Code("run", steps or (COPY,)),),
    )
    region = replace(region, **{name: value for name, value in changes.items() if name in ("rectangle", "buffers", "code", "name")})  # type: ignore[arg-type]
    bindings = (Binding("a", "input", "r", "a", layout, ("run",)), Binding("b", "output", "r", "b", layout, ("run",)))
    whole_program = Program(MACHINE, (region,), (), (Entry("run"),), bindings)
    others = {name: value for name, value in changes.items() if name in ("machine", "regions", "streams", "entries", "bindings")}
    return replace(whole_program, **others)  # type: ignore[arg-type]


def _buffers(**second: object) -> tuple[Buffer, ...]:
    return (Buffer("a", "f32", (4,), 0, resident=True), replace(Buffer("b", "f32", (4,), 16, resident=True), **second))  # type: ignore[arg-type]


def _relay(**changes: object) -> Program:
    found = relay("along y to the right")
    return replace(found, streams=(replace(found.streams[0], **changes),))  # type: ignore[arg-type]


REJECTED: dict[str, list[Callable[[], Program]]] = {
    "region-off-fabric": [
        lambda: program(rectangle=Rectangle(3, 0, 2, 2)),
        lambda: program(rectangle=Rectangle(-1, 0, 2, 2)),
        lambda: program(rectangle=Rectangle(0, 3, 2, 2)),
        lambda: program(rectangle=Rectangle(0, -1, 2, 2)),
        lambda: program(rectangle=Rectangle(0, 0, 0, 2)),
        lambda: program(rectangle=Rectangle(0, 0, 2, 0)),
    ],
    "region-overlap": [lambda: replace(program(), regions=(program().regions[0], replace(program().regions[0], name="other")))],
    "name-twice": [
        lambda: program(buffers=(*_buffers(), Buffer("a", "f32", (1,), 64, resident=True))),
        lambda: program(code=(Code("run", (COPY,)), Code("run", (COPY,)))),
        lambda: program(entries=(Entry("run"), Entry("run"))),
        lambda: program(regions=(program().regions[0], replace(program().regions[0], rectangle=Rectangle(2, 2, 2, 2)))),
        lambda: program(bindings=(*program().bindings, program().bindings[0])),
        lambda: replace(_relay(), streams=_relay().streams * 2),
    ],
    "format-unknown": [lambda: program(buffers=_buffers(dtype="f8"))],
    "buffer-shape": [lambda: program(buffers=_buffers(shape=(-4,))), lambda: program(buffers=_buffers(copies=0))],
    "entry-unknown": [
        lambda: program(code=(Code("walk", (COPY,)),)),
        lambda: program(bindings=(*program().bindings, replace(program().bindings[0], tensor="c", entries=("walk",)))),
    ],
    "variable-unknown": [
        lambda: program(replace(COPY, out=replace(B, offset=var("k")))),
        lambda: program(Local("keep", B, (A, 0.0), "f32", (("where", (var("k"),)),))),
        lambda: program(entries=(Entry("run", items=var("k")),)),
        lambda: program(entries=(Entry("run", limits=(var("k"),)),)),
    ],
    "variable-twice": [lambda: program(Loop("k", 2, (Loop("k", 2, (COPY,)),))), lambda: program(Loop("row", 2, (COPY,)))],
    "loop-depth": [lambda: program(_nested(9))],
    "view-size": [lambda: program(Local("sum", whole("b", (1,)), (View("a", (1, MACHINE.sram_bytes + 1), (1, 0)),), "f32"))],
    "scalar-count": [lambda: program(entries=(Entry("run", tuple(Scalar(f"n{i}", 0, 1) for i in range(9))),))],
    "scalar-range": [lambda: program(entries=(Entry("run", (Scalar("n", 2, 1),)),))],
    "binding-unknown": [
        lambda: program(bindings=(Binding("w", "weight", "r", "w", Layout(2, 2, (4,), (None,))),)),
        lambda: program(bindings=(Binding("w", "weight", "q", "a", Layout(2, 2, (4,), (None,))),)),
    ],
    "binding-layout": [lambda: program(bindings=(Binding("w", "weight", "r", "a", Layout(2, 3, (4,), (None,))),))],
    "binding-size": [lambda: program(bindings=(Binding("w", "weight", "r", "a", Layout(2, 2, (5,), (None,))),))],
    "binding-reused": [lambda: program(buffers=_buffers(resident=False, live=(Live("run", 0, 0),)))],
    "sram": [lambda: program(buffers=_buffers(address=MACHINE.usable_bytes - 12 - (MACHINE.usable_bytes - 12) % 16 + 16))],
    "sram-alignment": [lambda: program(buffers=_buffers(address=20))],
    "sram-overlap": [lambda: program(buffers=_buffers(address=0)), lambda: _relay(address=0)],
    "buffer-unused": [lambda: program(buffers=(*_buffers(), Buffer("c", "f32", (1,), 64)))],
    "live-range": [lambda: _with_scratch((Live("run", 0, 0),))],
    "buffer-unknown": [lambda: program(replace(COPY, inputs=(whole("c", (4,)),)))],
    "instruction-unknown": [lambda: program(replace(COPY, instruction="jump")), lambda: program(replace(COPY, format="f8"))],
    "view-bounds": [
        lambda: program(replace(COPY, inputs=(replace(A, offset=1),))),
        lambda: program(replace(COPY, out=replace(B, offset=-1))),
    ],
    "view-shape": [lambda: program(replace(COPY, out=View("b", (4,), ())))],
    "operands": [
        lambda: program(replace(COPY, inputs=(A, A))),
        lambda: program(replace(COPY, inputs=(whole("a", (3,)),))),
        lambda: program(replace(SHIFT, target=whole("b", (3,)))),
        lambda: _sending_more(),
    ],
    "output-repeats": [lambda: program(replace(COPY, out=View("b", (4,), (0,))))],
    "operand-format": [
        lambda: program(replace(COPY, format="i32")),
        lambda: program(SHIFT, buffers=_buffers(dtype="i32")),
    ],
    "step-lines": [
        lambda: program(replace(COPY, where=Where(rows=(Span(2),)))),
        lambda: program(replace(COPY, where=Where(rows=(Span(0, 2), Span(1))))),
    ],
    "collective-line": [lambda: program(replace(SHIFT, where=Where(columns=(Span(0, 1, 3),))))],
    "collective-segment": [lambda: program(replace(SHIFT, segment=3))],
    "collective-alias": [lambda: program(COPY, replace(SHIFT, source=View("b", (2,), (1,)), target=View("b", (2,), (1,), 1)))],
    "collective": [lambda: program(replace(SHIFT, hops=2)), lambda: program(replace(SHIFT, algorithm="chain"))],
    "colour-count": [lambda: program(replace(SHIFT, colours=(0,)))],
    "colour-range": [lambda: program(replace(SHIFT, colours=(0, 21))), lambda: _relay(colours=(24,))],
    "colour-twice": [lambda: program(replace(SHIFT, colours=(3, 3)))],
    "switch-positions": [
        lambda: program(BROADCAST, replace(BROADCAST, source=B, root=1), machine=replace(MACHINE, switch_positions=1)),
    ],
    "read-before-write": [
        lambda: _with_scratch((Live("run", 0, 1),)),
        lambda: _with_scratch((Live("run", 0, 3),), 3),
        lambda: _through_scratch(replace(COPY, out=C, where=Where(columns=line(0)))),
        lambda: _through_scratch(replace(BROADCAST, target=C, where=Where(rows=line(1)))),
        lambda: _through_scratch(GATHER),
        lambda: _chosen_line(low=1),
        lambda: _through_scratch(replace(FILLED, where=Where(rows=line(0))), replace(NEGATED, where=Where((Span(0), Span(1)))), FILLED),
        lambda: _at_times(replace(FILLED, where=Where((Span(0, var("n") % 2 * 2),)))),
        lambda: _at_times(replace(FILLED, where=Where(line(0))), replace(NEGATED, where=Where(line((var("n") + 1) % 2))), FILLED),
        lambda: replace(_through_scratch(Loop("k", 1 - var("item"), (FILLED,))), entries=(Entry("run", items=2),)),
    ],
    "output-unwritten": [
        lambda: program(replace(COPY, out=A)),
        lambda: program(Local("mov", whole("b", (3,)), (whole("a", (3,)),), "f32")),
        lambda: program(Loop("k", 3, (Local("mov", View("b", (1,), (1,), var("k")), (whole("a", (1,)),), "f32"),))),
        lambda: program(replace(COPY, where=Where(rows=line(0)))),
        lambda: program(replace(SHIFT, where=Where(rows=line(1)))),
        lambda: program(replace(COPY, where=Where(columns=(Span(0, var("n")),))), entries=(Entry("run", (Scalar("n", 1, 2),)),)),
        lambda: program(Loop("k", 1 - var("item"), (COPY,)), entries=(Entry("run", items=2),)),
    ],
    "output-rewritten": [
        lambda: program(COPY, COPY),
        lambda: program(COPY, Local("mov", View("b", (1,), (1,), 3), (View("b", (1,), (1,), 2),), "f32")),
        lambda: program(COPY, replace(COPY, where=Where((Span(1),), (Span(1),)))),
        lambda: program(replace(COPY, where=Where(columns=(Span(0, 1),))), BROADCAST),
        lambda: program(Loop("k", 2, (COPY,))),
        lambda: program(COPY, Local("mov", A, (B,), "f32", where=Where(rows=line(0))), COPY),
        lambda: program(COPY, Loop("k", var("item"), (COPY,)), entries=(Entry("run", items=2),)),
    ],
    "reduction-lines": [
        lambda: program(COPY, replace(SUM, source=B, target=B, where=Where(rows=line(0)))),
        lambda: _through_scratch(replace(COPY, out=C), replace(SUM, where=Where(rows=line(0)))),
        lambda: _through_scratch(replace(COPY, out=C), TO_ROOT),
        lambda: _through_scratch(FILLED, TO_ROOT, NEGATED),
        lambda: _through_scratch(FILLED, TO_ROOT, replace(NEGATED, where=Where(columns=line(0)))),
    ],
    "loop-count": [lambda: program(Loop("k", -1, (COPY,))), lambda: program(Loop("k", (1 << 20) + 1, (COPY,)))],
    "loop-overlap": [lambda: program(Loop("k", 2, (SHIFT, Local("mov", A, (B,), "f32")), ahead=0))],
    "stream-unknown": [lambda: replace(_relay(), streams=())],
    "stream-end": [lambda: _relay(consumer="a", producer="b")],
    "stream-depth": [lambda: _relay(depth=0)],
    "stream-layout": [lambda: _relay(source=replace(relay("along y to the right").streams[0].source, column=None))],
    "stream-balance": [lambda: _silent()],
    "stream-conflict": [lambda: _twins(), lambda: _shifting_on(10)],
}


def _nested(depth: int) -> Step:
    step: Step = COPY
    for level in range(depth):
        step = Loop(f"k{level}", 1, (step,))
    return step


def _with_scratch(live: tuple[Live, ...], written: int = 0) -> Program:
    """Scratch memory that is read when so many of its elements are written, the last of them one by one."""
    scratch = whole("c", (4,))
    one = Local("mov", View("c", (1,), (1,), var("k")), (whole("a", (1,)),), "f32")
    steps = (Loop("k", written, (one,)),) if written else ()
    steps += (replace(COPY, inputs=(scratch,)), replace(COPY, out=scratch))
    return program(*steps, buffers=(*_buffers(), Buffer("c", "f32", (4,), 32, live=live)))


def _apart() -> Program:
    """Two relays on the same colour, where they do not meet."""
    found = _relay()
    regions = tuple(
        replace(region, name=f"far {region.name}", rectangle=replace(region.rectangle, y=region.rectangle.y + 4))
        for region in found.regions
    )
    (stream,) = found.streams
    twin = replace(stream, name="far", producer=f"far {stream.producer}", consumer=f"far {stream.consumer}")
    regions = tuple(replace(region, code=tuple(_renamed(code) for code in region.code)) for region in regions)
    bindings = tuple(replace(one, tensor=f"far {one.tensor}", region=f"far {one.region}") for one in found.bindings)
    return replace(found, regions=(*found.regions, *regions), streams=(stream, twin), bindings=(*found.bindings, *bindings))


def _renamed(code: Code) -> Code:
    return replace(code, steps=tuple(replace(step, stream="far") if isinstance(step, (Send, Receive)) else step for step in code.steps))


def _through_scratch(*steps: Step, taken: View = C) -> Program:
    """What is taken of scratch memory of eight elements, which these steps write, is the output."""
    live = (Live("run", 0, len(list(numbered(steps)))),)
    return program(*steps, replace(COPY, inputs=(taken,)), buffers=(*_buffers(), Buffer("c", "f32", (8,), 32, live=live)))


def _down_the_first_column() -> tuple[Step, ...]:
    """The roots of the rows reduce to the corner, which sends the sum to all."""
    column = Where(columns=line(0))
    down = replace(TO_ROOT, along="y", colours=(5, 6, 7, 8), where=column)
    back = replace(BROADCAST, source=C, target=C, colours=(9,))
    return down, replace(back, along="y", colours=(10,), where=column), back


def _at_times(*steps: Step) -> Program:
    """With a scalar from 1 to 3, at whose ends the steps may be right."""
    return replace(_through_scratch(*steps), entries=(Entry("run", (Scalar("n", 1, 3),)),))


def _half(start: int) -> Local:
    """Two elements of the scratch memory are filled."""
    return Local("mov", View("c", (2,), (1,), start), (whole("a", (2,)),), "f32")


def _chosen_line(low: int) -> Program:
    """Scratch memory is written on as many lines as a scalar says, from ``low`` up to both, and read on both."""
    scratch = replace(COPY, out=C, where=Where(rows=(Span(0, var("n")),)))
    return replace(_through_scratch(scratch), entries=(Entry("run", (Scalar("n", low, 2),)),))


def _shifting_beside(place: int, filled: int = 0) -> Program:
    """In turns that overlap, a shift fills two elements of scratch memory, and a move reads another one."""
    shift = replace(SHIFT, source=whole("a", (2,)), target=View("c", (2,), (1,), filled))
    move = Local("mov", View("a", (1,), (1,), 3), (View("c", (1,), (1,), place),), "f32")
    return _through_scratch(replace(COPY, out=C), Loop("k", 2, (shift, move), ahead=0))


def _on_one_column(*steps: Step) -> Program:
    """The output lies on column 1 alone."""
    (given, made) = program().bindings
    return program(*steps, bindings=(given, replace(made, layout=replace(made.layout, column=1))))


def _silent() -> Program:
    found = _relay()
    return replace(found, regions=(replace(found.regions[0], code=(Code("run", ()),)), found.regions[1]))


def _shifting_on(colour: int) -> Program:
    """The region that sends shifts within itself too, on this colour and another."""
    found = _relay()
    sender = found.regions[0]
    held, moved = whole("held", sender.buffers[0].shape), whole("moved", sender.buffers[0].shape)
    shift = Collective("shift", "neighbour", "x", held, moved, (colour, 0), hops=1)
    buffers = (*sender.buffers, Buffer("moved", "f32", sender.buffers[0].shape, 128, resident=True))
    sender = replace(sender, buffers=buffers, code=(Code("run", (*sender.code[0].steps, shift)),))
    return replace(found, regions=(sender, found.regions[1]))


def _sending_more() -> Program:
    """The sender's view has an element more than the tile, which its buffer holds."""
    found = _relay()
    sender = found.regions[0]
    steps = tuple(
        replace(step, source=whole(step.source.buffer, (*step.source.shape[:-1], step.source.shape[-1] + 1)))
        if isinstance(step, Send)
        else step
        for step in sender.code[0].steps
    )
    buffers = tuple(replace(one, shape=(*one.shape[:-1], one.shape[-1] + 1)) for one in sender.buffers)
    return replace(found, regions=(replace(sender, buffers=buffers, code=(Code("run", steps),)), found.regions[1]))


def _twins() -> Program:
    found = _relay()
    twin = replace(found.streams[0], name="t", address=1024)
    return replace(found, streams=(found.streams[0], twin))


@pytest.mark.parametrize("code", REJECTED)
def test_each_rule_rejects_its_smallest_example(code: str) -> None:
    for broken in REJECTED[code]:
        issues = verify(broken())
        assert code in {issue.code for issue in issues}
        with pytest.raises(InvalidProgramError):
            check(broken())


def test_the_smallest_program_is_accepted() -> None:
    assert verify(program()) == []
    assert verify(program(SHIFT)) == []
    assert verify(_relay()) == []
    assert check(program()) == program()


@pytest.mark.parametrize(
    "edge",
    [
        lambda: program(rectangle=Rectangle(2, 2, 2, 2)),
        lambda: program(_nested(8)),
        lambda: program(entries=(Entry("run", (Scalar("n", 2, 2),)),)),
        lambda: program(Loop("k", 0, (COPY,)), COPY),
        lambda: program(replace(SHIFT, colours=(0, MACHINE.colours - 1))),
        lambda: program(entries=(Entry("run", (Scalar("n", 1, 2),), items=var("n"), limits=(var("n"),)),)),
        lambda: _shifting_on(11),
        lambda: _apart(),
        lambda: _shifting_beside(2),
        lambda: _shifting_beside(3),
        lambda: _shifting_beside(0, filled=2),
        lambda: _with_scratch((Live("run", 0, 3),), 4),
        lambda: _through_scratch(*(replace(COPY, out=C, where=Where(columns=line(column))) for column in (0, 1))),
        lambda: _through_scratch(GATHER, taken=View("c", (4,), (1,), 4)),
        lambda: _chosen_line(low=2),
        lambda: _through_scratch(replace(COPY, out=C), SUM, Local("neg", C, (C,), "f32")),
        lambda: _through_scratch(replace(COPY, out=C), *(replace(SUM, where=Where(rows=line(row))) for row in (0, 1))),
        lambda: _through_scratch(replace(COPY, out=C), TO_ROOT, replace(BROADCAST, source=C, target=C)),
        lambda: _through_scratch(replace(COPY, out=C), TO_ROOT, replace(COPY, out=C)),
        lambda: _through_scratch(FILLED, replace(SUM, where=Where(columns=line(0)))),
        lambda: _through_scratch(_half(0), *(replace(_half(2), where=Where(line(row))) for row in (0, 1))),
        lambda: _on_one_column(replace(COPY, where=Where(columns=line(1)))),
        lambda: _through_scratch(replace(COPY, out=C), TO_ROOT, *_down_the_first_column()),
        lambda: program(*(replace(COPY, where=Where(rows=line(row))) for row in (1, 0))),
        lambda: program(COPY, replace(COPY, instruction="add", inputs=(B, A)), replace(BROADCAST, source=B)),
        lambda: program(COPY, Local("mov", A, (B,), "f32"), COPY),
        lambda: _on_one_column(COPY, replace(COPY, where=Where(columns=line(0)))),
    ],
    ids=[
        "corner",
        "eight loops",
        "one value",
        "no iteration",
        "last colour",
        "items and a limit by a scalar",
        "another colour",
        "one colour twice, far apart",
        "a move right behind what a shift fills",
        "a move further behind",
        "a move before",
        "all elements read after they are written",
        "column by column",
        "of a gather what the root and the last one have",
        "a scalar of one value",
        "sums on every line",
        "sums line by line",
        "sums sent back from the root",
        "sums that something else replaces",
        "sums on a part of every line",
        "half of it everywhere, half row by row",
        "an output on one column",
        "sums in both directions",
        "an output row by row",
        "an output in place",
        "an output that was scratch memory",
        "an output on one column, written twice beside it",
    ],
)
def test_what_a_rule_just_allows_is_accepted(edge: Callable[[], Program]) -> None:
    assert verify(edge()) == []


def test_the_first_and_the_last_item_are_looked_at() -> None:
    assert {corner["item"] for corner in corners(program(), Entry("run", (Scalar("n", 1, 4),), items=var("n")))} == {0, 3}
    for last, fits in ((3, True), (4, False)):
        step = Local("mov", View("b", (1,), (1,), var("item")), (1.0,), "f32")
        codes = {issue.code for issue in verify(program(COPY, step, entries=(Entry("run", items=last + 1),)))}
        assert ("view-bounds" in codes) is not fits


def test_a_region_whose_first_pattern_is_known_is_looked_at_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`BROADCAST` completes wherever it is; the shift behind it, in the second region only, is made to stall."""
    monkeypatch.setattr(
        "cgptc.backends.wafer.verify.waits.stalled", lambda expansion, words, capacity: ["stuck"] * (len(expansion.messages) > 1)
    )

    ring = Pattern("shift", "neighbour", 2, hops=1, ring=True)
    turning = replace(SHIFT, ring=True, colours=tuple(range(ring.colour_count)))

    def both(region: Region) -> Region:
        views = {"a": whole("s.a", (4,)), "b": whole("s.b", (4,))}
        steps = (replace(BROADCAST, source=views["a"], target=views["b"]), replace(turning, source=views["b"], target=views["b"]))
        return replace(region, code=(Code("run", steps),))

    twins = _alike(both)
    first = replace(twins.regions[0], code=(Code("run", (BROADCAST,)),))
    issues = verify(replace(twins, regions=(first, twins.regions[1])))
    assert [(issue.code, issue.where) for issue in issues] == [("deadlock", "region 's'")]


@pytest.mark.parametrize("seed", range(20))
def test_streams_share_a_link_where_both_have_words_on_it(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def drawn() -> Loads:
        height, width = draw.integers(1, 5, 2)
        return Loads(*map(int, draw.integers(0, 4, 2)), *((draw.random((4, height, width)) < 0.15).astype(np.int64) * 7))

    def links(one: Loads) -> set[tuple[str, int, int]]:
        ways = {"east": one.east, "west": one.west, "south": one.south, "north": one.north}
        return {(way, x + one.x, y + one.y) for way, words in ways.items() for y, x in zip(*np.nonzero(words), strict=True)}

    pairs = [(drawn(), drawn()) for _ in range(40)]
    assert [share_links(one, other) for one, other in pairs] == [bool(links(one) & links(other)) for one, other in pairs]


def test_steps_that_tell_too_many_pes_apart_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both rows and both columns write an element of their own."""
    ways = {0: Where(rows=line(var("k"))), 2: Where(columns=line(var("k")))}
    one = Local("mov", View("b", (1,), (1,)), (1.0,), "f32")
    loops = (Loop("k", 2, (replace(one, out=replace(one.out, offset=var("k") + at), where=where),)) for at, where in ways.items())
    found = program(*loops)
    for most, code in ((16, "output-unwritten"), (15, "step-kinds")):
        monkeypatch.setattr("cgptc.backends.wafer.verify.presence.MOST_CELLS", most)
        assert {issue.code for issue in verify(found)} == {code}


def test_the_bounds_of_a_view_are_its_first_and_last_element_whatever_its_strides() -> None:
    held = Buffer("a", "f32", (99,), 0)
    for strides in product((-7, -1, 0, 1, 7), repeat=2):
        touched = [40 + strides[0] * i + strides[1] * j for i in range(3) for j in range(4)]
        assert Placed(held, (3, 4), strides, 40).bounds == (min(touched), max(touched) + 1)
    assert Placed(held, (3, 0), (1, 1), 40).bounds == (0, 0)


def test_sram_is_exact_to_the_byte() -> None:
    found = program()
    need = peak_bytes(found, found.regions[0])
    fits = replace(MACHINE, sram_bytes=MACHINE.reserved_bytes + need)
    assert verify(replace(found, machine=fits)) == []
    assert {issue.code for issue in verify(replace(found, machine=replace(fits, sram_bytes=fits.sram_bytes - 4)))} == {"sram"}


def test_a_stalling_expansion_names_who_waits_for_what() -> None:
    """Two PEs that both send before they receive: fine with room for the message, a deadlock without."""
    there, back = Message(0, (1,), 0), Message(1, (0,), 1)
    turns = (
        ((Action("send", there),), (Action("receive", back),)),
        ((Action("send", back),), (Action("receive", there),)),
    )
    expansion = Expansion((there, back), turns)
    assert stalled(expansion, 4, 4) == []
    found = stalled(expansion, 5, 4)
    assert found == [
        "position 0 waits to send on colour 0, whose queue is full",
        "position 1 waits to send on colour 1, whose queue is full",
    ]


def test_a_dropped_message_is_noticed() -> None:
    pattern = Pattern("reduce", "chain", 4)
    whole_one = pattern.expand()
    for position in range(4):
        turns = tuple(one[:-1] if i == position else one for i, one in enumerate(whole_one.turns))
        assert stalled(Expansion(whole_one.messages, turns), 9, 4), position


def test_reading_memory_that_nobody_wrote_is_poison_in_the_defining_engine() -> None:
    partial = program(Local("mov", whole("b", (2,)), (whole("a", (2,)),), "f32"))
    assert {issue.code for issue in verify(partial)} == {"output-unwritten"}
    engine = PeEngine(partial)
    with pytest.raises(ExecutionError, match="reads 'b' before it is written"):
        engine.run("run", {"a": np.zeros(4)}, {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_buffer_that_lives_nowhere_must_not_lie_in_one_that_always_does(order: int) -> None:
    def codes(*scratch: Buffer) -> list[str]:
        return sorted(issue.code for issue in verify(program(buffers=(*_buffers(), *scratch)[::order])))

    assert codes(Buffer("c", "f32", (1,), 0)) == ["buffer-unused", "sram-overlap"]
    assert codes(Buffer("c", "f32", (1,), 64), Buffer("d", "f32", (1,), 64)) == ["buffer-unused", "buffer-unused"]


def test_overlap_ahead_needs_a_double_buffer() -> None:
    found = single_region(MACHINE, [Summa(4, 4, 4, Grid(2, 2)).fragment("g")])
    assert verify(found) == []
    region = found.regions[0]
    loop = region.code[0].steps[1]
    assert isinstance(loop, Loop)
    single = tuple(_without_copies(step) for step in loop.steps)
    broken = replace(region, code=(Code("run", (region.code[0].steps[0], replace(loop, steps=single))),))
    assert {issue.code for issue in verify(replace(found, regions=(broken,)))} == {"loop-overlap"}


def _without_copies(step: Step) -> Step:
    def still(view: View) -> View:
        return replace(view, offset=0) if isinstance(view.offset, Affine) and view.buffer in ("g.left", "g.right") else view

    if isinstance(step, Collective):
        return replace(step, target=still(step.target))
    assert isinstance(step, Local)
    return replace(step, inputs=tuple(still(one) if isinstance(one, View) else one for one in step.inputs))


def test_swapped_colours_that_collide_are_rejected() -> None:
    found = single_region(MACHINE, [Linear(1, 8, 8, Grid(4, 4), "x", reduction=Reduction("two-phase", 2)).fragment("a")])
    region = found.regions[0]
    steps = tuple(replace(step, colours=(step.colours[0],) * 5) if isinstance(step, Collective) else step for step in region.code[0].steps)
    damaged = replace(found, regions=(replace(region, code=(Code("run", steps),)),))
    assert "colour-twice" in {issue.code for issue in verify(damaged)}


def _alike(change: Callable[[Region], Region] = lambda region: region) -> Program:
    """Two regions that are alike but for names and places, the second one changed."""
    one = program()
    first = one.regions[0]
    second = replace(
        first,
        name="s",
        rectangle=Rectangle(2, 0, 2, 2),
        buffers=tuple(replace(buffer, name=f"s.{buffer.name}") for buffer in first.buffers),
        code=(Code("run", (replace(COPY, out=whole("s.b", (4,)), inputs=(whole("s.a", (4,)),), part="another layer"),)),),
    )
    more = tuple(replace(binding, tensor=f"s.{binding.tensor}", region="s", buffer=f"s.{binding.buffer}") for binding in one.bindings)
    return replace(one, regions=(first, change(second)), bindings=(*one.bindings, *more))


def test_regions_that_are_alike_are_looked_at_once() -> None:
    twins = _alike()
    kinds = Kinds(twins)
    looked: list[str] = []
    assert list(kinds.issues(lambda region: looked.append(region.name) or ())) == []  # type: ignore[func-returns-value]
    assert looked == ["r"]
    assert verify(twins) == []


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("sram-overlap", lambda region: replace(region, buffers=tuple(replace(one, address=0) for one in region.buffers))),
        ("view-bounds", lambda region: replace(region, code=(Code("run", (replace(COPY, out=whole("s.b", (5,)), inputs=(1.0,)),)),))),
        ("output-unwritten", lambda region: replace(region, code=(Code("run", (replace(COPY, out=whole("s.a", (4,)), inputs=(1.0,)),)),))),
    ],
)
def test_the_second_of_two_regions_is_rejected_where_it_differs(code: str, change: Callable[[Region], Region]) -> None:
    found = verify(_alike(change))
    assert {issue.code for issue in found} == {code}
    assert all("'s'" in issue.where for issue in found)


def test_what_is_wrong_with_both_of_two_regions_is_told_of_both() -> None:
    twins = _alike()
    worse = tuple(replace(one, buffers=tuple(replace(buffer, address=0) for buffer in one.buffers)) for one in twins.regions)
    assert [issue.where for issue in verify(replace(twins, regions=worse))] == ["region 'r'", "region 's'"]
