"""What the planner counts of a PE's SRAM is what the program takes, and what is one tensor is kept once where one region uses it."""

from __future__ import annotations

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
    assert made.sizer.sent(made.fitted[1].group) == [made.fitted[1].group.tasks[0].name, made.fitted[1].group.tasks[-1].name]
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


def test_a_pipeline_keeps_a_tied_head_twice_and_says_why() -> None:
    for strategy, copies, reason in (("pipeline", 2, "before it began"), ("resident", 1, "kept once")):
        made = _made(strategy)
        tasks, _ = lift(made.graph)
        assert tasks is not None
        facts = facts_of(tasks, made.plan, "f32")
        (row,) = facts["tied"]  # type: ignore[misc]
        assert row["copies"] == copies
        ((_, named, told),) = tied_rows(facts)
        assert f"{row['bytes']:,} B" in named
        assert reason in told
