"""The pass and the backend keep what graphs mean."""

from cgptc_downstream.numpy_backend import BACKEND, FUNCTIONS
from cgptc_downstream.subtract_negatives import SubtractNegatives
from hypothesis import given

from cgptc.ir.dtypes import f64
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Add, Mul, Neg
from cgptc.passes.manager import Pipeline
from cgptc.testing import assert_lowering_preserves, assert_pass_preserves, graphs, pipelines


@given(graphs(ops=[Add, Mul, Neg], stable=True))
def test_the_pass_keeps_what_a_graph_computes(graph: Graph) -> None:
    assert_pass_preserves(SubtractNegatives(), graph)


@given(graphs(stable=True), pipelines())
def test_the_pass_fits_among_the_others(graph: Graph, pipeline: Pipeline) -> None:
    assert_pass_preserves(Pipeline((*pipeline.passes, SubtractNegatives())), graph)


@given(graphs(ops=FUNCTIONS, stable=True, floats=(f64,)))
def test_the_program_computes_what_the_graph_says(graph: Graph) -> None:
    assert_lowering_preserves(BACKEND, graph)
