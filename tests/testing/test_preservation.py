"""`assert_pass_preserves` and `assert_lowering_preserves` pass what is right, and name the first node that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from cgptc.backends.onnx.backend import BACKEND
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.registry import Emitted, Refusal
from cgptc.ir.dtypes import f64
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import OPS, Array, Op
from cgptc.ir.ops.elementwise import Gelu
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.parser import parse_graph
from cgptc.passes.manager import Pass, PassContext, Pipeline
from cgptc.testing import assert_lowering_preserves, assert_pass_preserves, graphs, pipelines

BLOCK = """
graph @main(batch: 1..8) {
  input %x : DTYPE[batch, 4]
  %h = layer_norm(%x) {eps=1e-05} loc("block.norm" "gpt.py":7)
  %g = tanh(%h) loc("block.act" "gpt.py":8)
  %y = add(%g, %x)
  return y=%y
}
"""


def block(dtype: str = "f32") -> Graph:
    return parse_graph(BLOCK.replace("DTYPE", dtype))


@given(graphs(stable=True), pipelines())
def test_any_passes_in_any_order_keep_the_meaning(graph: Graph, pipeline: Pipeline) -> None:
    text = str(graph)
    after = assert_pass_preserves(pipeline, graph)
    assert [name for name, _ in after.outputs] == [name for name, _ in graph.outputs]
    assert text.count("\n") == str(graph).count("\n")


@dataclass(frozen=True)
class Replaced(Pass):
    """Replaces an operation by another of the same operands, and says so or not."""

    name = "replaced"  # not registered: no pipeline shall draw it

    old: type[Op]
    new: Op
    says: bool = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        from cgptc.ir.builder import Builder

        for node in graph.nodes:
            if isinstance(node.op, self.old):
                made = Builder(graph, before=node, location=node.location)(self.new, *node.operands)
                made.name = node.result.name
                graph.replace_uses(node.result, made)
                graph.erase(node)
        return self.says


def test_a_pass_that_changes_the_meaning_is_named_with_the_first_node() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_pass_preserves(Replaced(LayerNorm, LayerNorm(1e-6)), block(), seed=5)
    message = str(caught.value)
    for part in (
        "changed the meaning",
        "replaced",
        "first difference: %h = layer_norm",
        "block.norm (gpt.py:7)",
        "seed 5",
        "bound",
        "at [",
    ):
        assert part in message


def test_a_pass_that_hides_a_change_is_caught() -> None:
    with pytest.raises(AssertionError, match="said 'unchanged', but the graph is changed"):
        assert_pass_preserves(Replaced(LayerNorm, LayerNorm(2e-5), says=False), block())


class InterpretedSession:
    input_names = output_names = ()

    def __init__(self, graph: Graph, wrong: str) -> None:
        self.graph, self.wrong = graph, wrong

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        def evaluate(op: Op, operands: tuple[Array | None, ...]) -> tuple[Array, ...]:
            result = op.evaluate(*operands)
            assert isinstance(result, np.ndarray)
            return (result * (1.001 if op.name == self.wrong else 1),)

        return evaluate_graph(self.graph, inputs, evaluate_op=evaluate)


@dataclass
class Interpreted:
    """A backend that hands the graph on, with one operation slightly wrong."""

    wrong: str = ""
    refused: str = ""
    name: str = "interpreted"
    options: type[OnnxOptions] = OnnxOptions
    graph: Graph | None = None

    def default_pipeline(self, options: object) -> str:
        return ""

    def legal_ops(self, options: object) -> frozenset[type[Op]]:
        return frozenset(OPS.values()) - {Gelu}

    def check(self, graph: Graph, options: object) -> Sequence[Refusal]:
        return [Refusal(node.location, str(node), "is refused") for node in graph.nodes if node.op.name == self.refused]

    def emit(self, graph: Graph, folder: Path, options: object) -> Emitted:
        self.graph = graph
        return Emitted(())

    def load(self, folder: Path, options: object) -> InterpretedSession:
        assert self.graph is not None
        return InterpretedSession(self.graph, self.wrong)

    def cost_model(self, options: object) -> None:
        raise NotImplementedError


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(ops=[op for op in OPS.values() if op is not LayerNorm], stable=True, floats=(f64,), max_nodes=4))
def test_a_backend_that_is_right_passes(graph: Graph) -> None:
    class Right(InterpretedSession):
        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return evaluate_graph(self.graph, inputs)

    @dataclass
    class RightBackend(Interpreted):
        def load(self, folder: Path, options: object) -> InterpretedSession:
            assert self.graph is not None
            return Right(self.graph, "")

    assert_lowering_preserves(RightBackend(), graph)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_backend_that_is_wrong_is_named_with_the_first_node(dtype: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_lowering_preserves(Interpreted(wrong="tanh"), block(dtype), seed=5)  # type: ignore[arg-type]
    message = str(caught.value)
    for part in ("interpreted: output 'y' differs", "first difference: %g = tanh(%h)", "block.act (gpt.py:8)", "seed 5", "bound", "at ["):
        assert part in message


def test_a_refused_node_is_an_assertion_that_names_it() -> None:
    with pytest.raises(AssertionError, match=r"cannot lower 1 of the graph's nodes(.|\n)*block\.act(.|\n)*is refused"):
        assert_lowering_preserves(Interpreted(refused="tanh"), block())  # type: ignore[arg-type]


def test_a_narrow_graph_is_refused_since_its_noise_hides_bugs() -> None:
    with pytest.raises(ValueError, match="computes in f16"):
        assert_lowering_preserves(Interpreted(), block("f16"))  # type: ignore[arg-type]


@pytest.mark.parametrize("ops", ["ort", "standard"])
def test_onnx_keeps_the_meaning(ops: str) -> None:
    assert_lowering_preserves(BACKEND, block(), options=OnnxOptions(ops=ops))
