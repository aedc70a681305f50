"""The pass and the backend keep what graphs mean."""

import pytest
from cgptc_downstream.numpy_backend import BACKEND, FUNCTIONS
from cgptc_downstream.subtract_negatives import SubtractNegatives
from hypothesis import given

from cgptc.ir.dtypes import f64
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Add, Mul, Neg
from cgptc.ir.parser import parse_graph
from cgptc.passes.manager import Pipeline
from cgptc.testing import assert_lowering_preserves, assert_pass_preserves, graphs, pipelines
from cgptc.testing.seeded_bugs import SeededBug


@given(graphs(ops=[Add, Mul, Neg], stable=True))
def test_the_pass_keeps_what_a_graph_computes(graph: Graph) -> None:
    assert_pass_preserves(SubtractNegatives(), graph)


def test_a_pass_that_exchanges_its_operands_is_noticed() -> None:
    graph = parse_graph("graph @main { input %x : f32[2] input %y : f32[2] %n = neg(%y) %z = add(%x, %n) return z=%z }")
    assert_pass_preserves(SubtractNegatives(), graph)
    where = "cgptc_downstream.subtract_negatives:add_of_negative.build"
    with SeededBug("operands-exchanged", where, "Sub(), x, y", "Sub(), y, x").applied(), pytest.raises(AssertionError, match="meaning"):
        assert_pass_preserves(SubtractNegatives(), graph)


@given(graphs(stable=True), pipelines())
def test_the_pass_fits_among_the_others(graph: Graph, pipeline: Pipeline) -> None:
    assert_pass_preserves(Pipeline((*pipeline.passes, SubtractNegatives())), graph)


@given(graphs(ops=FUNCTIONS, stable=True, floats=(f64,)))
def test_the_program_computes_what_the_graph_says(graph: Graph) -> None:
    assert_lowering_preserves(BACKEND, graph)
