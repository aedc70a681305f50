"""What a plan is chosen for: the best by throughput, latency or area is no worse by that measure than what the others give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.planned import planned

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.options import OBJECTIVES
from cgptc.backends.wafer.plan.layouts import LENGTH, PAST
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.merit import Figures, figures, last_item
from cgptc.backends.wafer.plan.planner import ENTRY, Aim, plan
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.elementwise import Tanh
from cgptc.testing.tolerances import assert_t1


@settings(deadline=None, max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(
    st.builds(
        TinyGpt,
        layers=st.just(1),
        heads=st.just(2),
        head_width=st.sampled_from([4, 8]),
        vocabulary=st.sampled_from([23, 300]),
        rotary=st.booleans(),
        tied=st.booleans(),
    ),
    st.tuples(st.integers(6, 10), st.integers(6, 10)),
    st.sampled_from(["auto", "pipeline", "resident"]),
    st.sampled_from(["f16", "f32"]),
)
def test_each_objective_gives_the_best_by_its_own_measure(model: TinyGpt, size: tuple[int, int], strategy: str, dtype: str) -> None:
    tasks, _ = lift(model.graph())
    assert tasks is not None
    found: dict[str, Figures] = {}
    for objective in OBJECTIVES:
        made = plan(tasks, Aim(small_machine(*size), strategy, objective, chunk=1), dtype)
        found[objective] = figures(made.program, ENTRY, tasks)
    for objective, own in found.items():
        assert own.merit(objective) == min(one.merit(objective) for one in found.values())


def _skipping(layers: int = 2, takers: tuple[int, ...] = (0, 1)) -> Graph:
    """What the first layer makes goes to some of those behind it."""
    drawing = Drawing()
    x = drawing.start(crosses=False)
    drawing.layer(0)
    first = last = drawing.linear(x)
    for number in range(layers):
        drawing.layer(number + 1)
        last = drawing.linear(drawing.linear(last))
        last = drawing.build(Add(), last, first) if number in takers else drawing.build(Tanh(), last)
    drawing.graph.add_output("y", last)
    return drawing.graph


@pytest.mark.parametrize("graph", [TinyGpt(rotary=True).graph(), _skipping()], ids=["gpt", "skipping"])
def test_regions_on_equal_grids_cost_what_the_clock_counts_streams_included(graph: Graph) -> None:
    made = planned(graph, (3, 3), "pipeline", "f32").plan
    tasks, _ = lift(graph)
    assert tasks is not None
    clock = timeline(made.program, ENTRY, last_item(tasks))
    counted = {one.group.name: clock.busy(one.group.name) for one in made.fitted}
    assert {one.group.name: cost.cycles for one, cost in zip(made.fitted, made.choice.costs, strict=True)} == counted


@pytest.mark.parametrize(("layers", "takers"), [(2, (0, 1)), (7, (6,)), (12, tuple(range(12)))], ids=["relayed", "far", "many"])
def test_what_skips_stages_holds_up_none_and_arrives(layers: int, takers: tuple[int, ...]) -> None:
    """Even where there are more takers than colours."""
    graph = _skipping(layers, takers)
    made = planned(graph, (2, 2), "pipeline")
    program = made.plan.program
    value = made.plan.fitted[1].group.sent[0]
    stops = [1, *sorted({2, *(taker + 2 for taker in takers)})]
    names = [region.name for region in program.regions]
    ways = [(names.index(one.producer), names.index(one.consumer)) for one in program.streams if one.name.startswith(f"{value}.y>")]
    assert ways == list(pairwise(stops))
    clock = timeline(program, ENTRY, {PAST: 0, LENGTH: 16})
    assert clock.initiation_interval() <= 1.05 * max(one.busy for one in clock.intervals)
    inputs = {"input_ids": np.array([[3, 0, 7]])}
    assert_t1(evaluate_graph(graph, inputs, wide=True)["y"], made.session.run(inputs)["y"], depth=graph_depth(graph))


@pytest.mark.parametrize("size", [(9, 1), (1, 9), (2, 17)], ids=str)
def test_a_thin_machine_is_used_in_its_length(size: tuple[int, int]) -> None:
    graph = TinyGpt(layers=1, heads=2, head_width=4).graph()
    tasks, _ = lift(graph)
    assert tasks is not None
    machine = small_machine(*size)
    (alone,) = plan(tasks, Aim(machine, "resident", "throughput", chunk=1), "f32").choice.costs
    asked = plan(tasks, Aim(machine, "resident", "throughput", grid=Grid(size[1], size[0]), chunk=1), "f32").choice.costs[0]
    assert max(alone.grid.height, alone.grid.width) > 2
    assert alone.cycles <= asked.cycles * 1.05


def test_regions_in_a_line_fill_a_machine_of_one_row() -> None:
    tasks, _ = lift(TinyGpt(layers=1, heads=2, head_width=4).graph())
    assert tasks is not None
    made = plan(tasks, Aim(small_machine(40, 1), "pipeline", "throughput", chunk=1), "f32")
    assert made.choice.area > 2 * len(made.choice.costs)
