"""Rows that are one item take the cycles of their length: a run says how many tokens the longest of its rows has, of each sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.planned import planned

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.program import Program, Scalar
from cgptc.backends.wafer.session import WaferSession
from cgptc.backends.wafer.verify import verify
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.ops.reduction import ReduceMean
from cgptc.ir.ops.shape import Slice
from cgptc.testing.tolerances import assert_t1


def _run(session: WaferSession, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Outputs, and the cycles of this run alone."""
    before = session.usage.cycles
    return session.run(inputs), session.usage.cycles - before


@cache
def _small() -> Graph:
    """A layer of attention, a layer behind it, and the mean of what that makes."""
    here = Drawing(seed=1, masked=True)
    x = here.start(crosses=False)
    here.layer(0)
    x = here.build(Add(), x, here.attention(x, x, here.mask, causal=False))
    here.layer(1)
    x = here.build(LayerNorm(1e-5), here.linear(x), here.weight(8), here.weight(8))
    here.graph.add_output("y", x)
    here.graph.add_output("pooled", here.build(ReduceMean((1,), False), x))
    return here.graph


def test_cycles_fall_with_the_length_and_both_engines_agree() -> None:
    made, slow = (planned(_small(), (2, 1), "pipeline", "f32", fidelity=name) for name in ("fast", "pe"))
    cycles = []
    for time in (1, 3, 6):
        inputs = {"input_ids": np.arange(time)[None], "attention_mask": np.ones((1, time), np.int64)}
        found, taken = _run(made.session, inputs)
        for name, array in slow.session.run(inputs).items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found["y"].shape == (1, time, 8)
        assert taken == timeline(made.plan.program, "run", {"length": 1, "time": time}).cycles
        cycles.append(taken)
    assert slow.session.usage.cycles == sum(cycles)
    assert cycles == sorted(set(cycles))


def test_what_a_plan_says_of_kernels_is_what_the_clock_counts_at_every_length() -> None:
    made = planned(_small(), (3, 2), "resident", "f32").plan
    (fitted,) = made.fitted
    for time in range(1, 7):
        scalars = {"length": 1, "time": time}
        priced = sum(kernel.cycles(made.program.machine, scalars) for kernel in fitted.kernels)
        assert timeline(made.program, "run", scalars).cycles == priced


def test_sequences_have_lengths_of_their_own() -> None:
    here = Drawing(seed=2)
    x = here.start(crosses=True)
    assert here.memory is not None
    here.graph.add_output("y", here.attention(x, here.memory, None, causal=False))
    here.graph.add_output("pooled", here.build(ReduceMean((1,), False), here.memory))
    made = planned(here.graph, (3, 2))
    assert made.plan.program.entry("run").scalars[1:] == (Scalar("time", 1, 6), Scalar("time.1", 1, 5))
    cycles = {}
    for time, source in ((1, 5), (6, 1), (6, 5), (2, 2)):
        inputs = {"input_ids": np.arange(time)[None], "memory": here.random.standard_normal((1, source, 8)).astype(np.float32)}
        found, cycles[time, source] = _run(made.session, inputs)
        for name, expected in evaluate_graph(here.graph, inputs, wide=True).items():
            assert_t1(expected, found[name], depth=graph_depth(here.graph), where=f"{name}, {time} and {source} tokens")
    assert cycles[2, 2] < min(cycles[1, 5], cycles[6, 1]) < cycles[6, 5]


def test_a_row_is_as_long_as_what_is_taken_out_of_it_needs() -> None:
    here = Drawing(seed=4)
    x = here.start(crosses=False)
    x = here.build(Add(), x, here.attention(x, x, None, causal=False))
    here.graph.add_output("third", here.build(Slice(1, 2, 3), x))
    made = planned(here.graph, (2, 2))
    assert made.plan.program.entry("run").scalars[1] == Scalar("time", 3, 6)
    inputs = {"input_ids": np.array([[3, 1, 4]])}
    expected = evaluate_graph(here.graph, inputs, wide=True)["third"]
    assert_t1(expected, made.session.run(inputs)["third"], depth=graph_depth(here.graph))


@cache
def _pipeline() -> Program:
    return planned(_small(), (2, 1), "pipeline", "f32").plan.program


def _of_outputs(rows: Affine) -> Callable[[Program], Program]:
    def damaged(program: Program) -> Program:
        return replace(program, bindings=tuple(replace(one, rows=rows) if one.rows else one for one in program.bindings))

    return damaged


def _of_streams(rows: Affine) -> Callable[[Program], Program]:
    def damaged(program: Program) -> Program:
        return replace(program, streams=tuple(replace(one, rows=rows) for one in program.streams))

    return damaged


def _of_inputs(program: Program) -> Program:
    return replace(program, bindings=tuple(replace(one, rows=var("time")) if one.role == "input" else one for one in program.bindings))


DAMAGED = {
    "more than the layout has": (_of_outputs(var("time") + 1), "rows"),
    "fewer than none": (_of_streams(var("time") - 2), "rows"),
    "of no scalar": (_of_outputs(var("item")), "variable-unknown"),
    "no sum": (_of_outputs((var("time") + 3) // 2), "rows"),
    "of an input": (_of_inputs, "rows"),
    "of a longer item than is sent": (_of_streams(Affine(6)), "operands"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_rows_that_are_not_there_are_refused(name: str) -> None:
    damage, code = DAMAGED[name]
    issues = verify(damage(_pipeline()))
    assert {issue.code for issue in issues} == {code}, [str(issue) for issue in issues]
