"""What the planner counts of a PE's SRAM is what the program takes, and what is one tensor is kept once where one region uses it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.planned import Planned, planned, token_inputs

from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.plan.choose import DoesNotFitError
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.summary import facts_of
from cgptc.backends.wafer.verify import peak_bytes
from cgptc.cli.wafer_rows import tied_rows
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.elementwise import Tanh
from cgptc.testing.tolerances import assert_t1

Engine = Literal["fast", "pe"]

TIED = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4)


def _across_layers() -> Graph:
    """What the first layer makes early, the last one takes, and much is wider in between."""
    drawing = Drawing()
    x = drawing.start(crosses=False)
    drawing.layer(0)
    early = drawing.linear(x)
    late = drawing.linear(drawing.build(Tanh(), drawing.linear(early, 96)))
    drawing.layer(1)
    late = drawing.linear(drawing.build(Tanh(), drawing.linear(late, 96)))
    drawing.layer(2)
    drawing.graph.add_output("y", drawing.build(Add(), late, early))
    return drawing.graph


@pytest.mark.parametrize(
    ("graph", "strategy"),
    [(_across_layers(), "pipeline"), (TinyGpt(layers=2, rotary=True).graph(), "pipeline"), (TIED.graph(), "weight-streaming")],
)
def test_a_region_takes_the_sram_for_which_it_was_chosen(graph: Graph, strategy: str) -> None:
    made = planned(graph, (2, 3), strategy, "f16").plan
    assert {region.name: peak_bytes(made.program, region) for region in made.program.regions} == {
        one.group.name: cost.bytes for one, cost in zip(made.fitted, made.choice.costs, strict=True)
    }


def test_what_a_later_region_takes_is_held_until_it_goes() -> None:
    made = planned(_across_layers(), (2, 3), "pipeline", "f32").plan
    assert set(made.fitted[1].group.sent) == {made.fitted[1].group.tasks[place].name for place in (0, -1)}
    region = made.program.regions[1]
    early, wide = (region.buffer(f"{made.fitted[1].group.tasks[at].name}.y") for at in (0, 1))
    assert early.address + early.bytes <= wide.address or wide.address + wide.bytes <= early.address


def test_a_region_that_does_not_fit_says_what_it_needs_to_the_byte() -> None:
    graph = TinyGpt(layers=2).graph()
    need = planned(graph, (6, 6), "resident", "f32").plan.choice.costs[0].bytes
    tight = small_machine(6, 6, sram_bytes=6144 + 512)
    with pytest.raises(DoesNotFitError, match=f"needs {need} bytes"):
        planned(graph, (6, 6), "resident", "f32", tight)


def _made(strategy: str, grid: tuple[int, int] = (5, 4), *, tied: bool = True) -> Planned:
    return planned(TinyGpt(layers=1, heads=2, key_heads=1, head_width=4, tied=tied).graph(), grid, strategy)


def test_a_tied_head_and_its_embedding_are_one_buffer_in_one_region() -> None:
    once, twice = _made("resident"), _made("resident", tied=False)
    (pair,) = once.plan.fitted[0].shared.items()
    lookup, head = pair
    assert f"{lookup}.table" not in once.plan.weights
    assert f"{head}.weight" in once.plan.weights
    weight = once.plan.program.regions[0].buffer(f"{head}.weight")
    assert once.plan.choice.costs[0].bytes <= twice.plan.choice.costs[0].bytes - weight.bytes
    assert not twice.plan.fitted[0].shared
    graph = once.graph
    inputs = token_inputs(graph, 2, 4)
    assert_t1(evaluate_graph(graph, inputs, wide=True)["logits"], once.session.run(inputs)["logits"], depth=graph_depth(graph))


def test_a_head_whose_table_stays_does_not_come_from_off_the_wafer() -> None:
    made = _made("weight-streaming").plan
    assert made.program.inflow is not None
    (head,) = made.fitted[0].shared.values()
    assert f"{head}.weight" not in {parcel.tensor for parcel in made.program.inflow.parcels}
    assert f"{head}.weight" in {one.tensor for one in made.program.bindings if one.role == "weight"}


def _in_a_pipeline(
    height: int, objective: str = "throughput", *, tied: bool = True, chunk: int = 1, dtype: str = "f32", engine: Engine = "fast"
) -> Planned:
    """Regions of 3 by 2 PEs on a machine of 3 by ``height``."""
    graph = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4, tied=tied).graph()
    return planned(graph, (3, 2), "pipeline", dtype, small_machine(3, height, sram_bytes=1 << 18), objective, engine, chunk)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_pipeline_keeps_a_tied_head_once_where_two_copies_have_no_room(chunk: int) -> None:
    fast, slow = (_in_a_pipeline(4, chunk=chunk, engine=engine) for engine in ("fast", "pe"))
    assert [region.name for region in fast.plan.program.regions] == ["embedding+head", "transformer.h.0"]
    assert fast.plan.fitted[0].shared
    used = {region.name: peak_bytes(fast.plan.program, region) for region in fast.plan.program.regions}
    if chunk == 1:
        assert used == {one.group.name: cost.bytes for one, cost in zip(fast.plan.fitted, fast.plan.choice.costs, strict=True)}
    inputs = token_inputs(fast.graph, 1, 4)
    expected, found = (one.session.run(inputs) for one in (fast, slow))
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert fast.session.usage.cycles == slow.session.usage.cycles
    exact = _in_a_pipeline(4, chunk=chunk, dtype="f64").session.run(inputs)
    assert_t1(evaluate_graph(fast.graph, inputs, wide=True)["logits"], exact["logits"], depth=graph_depth(fast.graph))


def test_one_copy_of_a_tied_head_is_taken_where_it_is_better_by_the_objective() -> None:
    counts = {objective: len(_in_a_pipeline(6, objective).plan.program.regions) for objective in ("throughput", "area")}
    assert counts == {"throughput": 3, "area": 2}
    with pytest.raises(DoesNotFitError) as alone:
        _in_a_pipeline(4, tied=False)
    assert not alone.value.lines
    with pytest.raises(DoesNotFitError) as both:
        _in_a_pipeline(2)
    assert both.value.lines == ("with one copy of the tied table: 2 regions of 3x2 PEs do not fit on small-3x2",)


def test_a_pipeline_keeps_a_tied_head_twice_and_says_why() -> None:
    made_once = _in_a_pipeline(4)
    for made, copies, reason in (
        (_made("pipeline"), 2, "before it began"),
        (_made("resident"), 1, "kept once"),
        (made_once, 1, "before it begins"),
    ):
        tasks, _ = lift(made.graph)
        assert tasks is not None
        facts = facts_of(tasks, made.plan, "f32")
        assert (facts["slowest"] == "embedding+head") == (made is made_once)
        (row,) = facts["tied"]  # type: ignore[misc]
        assert row["copies"] == copies
        ((_, named, told),) = tied_rows(facts)
        assert f"{row['bytes']:,} B" in named
        assert reason in told
