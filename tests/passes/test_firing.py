"""Every pass, on graphs that it changes: it fires in most of them, says so, and keeps what it promises; optional ones in any order.

The soak profile tries 1,000 graphs for each pass.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passes.attention_graphs import token_inputs
from tests.passes.firing_graphs import CASES, Case
from tests.passes.test_add_cache import run_in_steps

from cgptc.ir.comparison import name_values
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import Constant, Linear, QuantizedLinear
from cgptc.ir.verify import verify
from cgptc.ir.weights import MemoryStore, WeightStore
from cgptc.passes.instruments import HonestyCheck, VerifyEach
from cgptc.passes.manager import PASSES, Pipeline
from cgptc.passes.quantize import Quantize
from cgptc.testing import assert_equivalent, assert_pass_preserves, assert_t1, pipelines
from cgptc.testing.seeded_bugs import SEEDED_BUGS

LEAST_FIRING = 0.6
"""Share of the examples that a pass must change."""

PUTS_ZEROS = ("sparsify", "prune-neurons", "prune-heads", "apply-masks")
CHANGES_INTERFACE = ("add-cache", "last-token-logits")


def example_count() -> int:
    """For each pass: 1,000 in a profile as long as soak, else few, since there are many passes."""
    return 1000 if settings.default.max_examples >= 1000 else 15  # type: ignore[union-attr]


def test_every_pass_has_graphs_that_it_changes() -> None:
    assert set(CASES) == {name for name, cls in PASSES.items() if cls.__module__.startswith("cgptc.")}


def test_every_pass_has_a_seeded_bug() -> None:
    """In its module, or in what only it uses."""
    spoilt = {bug.where.partition(":")[0] for bug in SEEDED_BUGS.values()}
    parts = {"cgptc.passes.pipeline": "cgptc.passes.stage_assignment"}
    modules = {cls.__module__ for cls in PASSES.values() if cls.__module__.startswith("cgptc.")}
    assert {parts.get(module, module) for module in modules} <= spoilt


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_pass_fires_in_most_examples_and_keeps_what_it_promises(name: str, record_property: pytest.RecordProperty) -> None:
    fired: list[bool] = []

    @settings(max_examples=example_count())
    @given(CASES[name])
    def keeps_its_promise(case: Case) -> None:
        name_values(case.graph)
        before = str(case.graph)
        fired.append(str(kept(name, case)) != before)
        assert str(case.graph) == before

    keeps_its_promise()
    record_property("fired", f"{sum(fired)} of {len(fired)}")
    assert sum(fired) >= LEAST_FIRING * len(fired)


def kept(name: str, case: Case) -> Graph:
    """The graph after the pass, held to what a pass of its kind promises."""
    if name in PUTS_ZEROS or name in CHANGES_INTERFACE or name in ("convert", "quantize"):
        after = case.graph.clone()
        Pipeline((case.pass_,)).run(after, case.context(), [VerifyEach(), HonestyCheck()])
        if name in PUTS_ZEROS:
            only_zeros_were_put(case, after)
        elif name == "convert":
            assert_equivalent(case.graph, after)
        elif name == "quantize":
            weights_moved_a_step(case, after)
        else:
            last_logits_are_the_same(name, case.graph, after)
        return after
    after = assert_pass_preserves(case.pass_, case.graph, inputs_of(case.graph), context=case.context())
    if type(case.pass_).optional:
        text = str(after)
        assert not case.pass_.run(after, case.context()), "it changes what it has made"
        assert str(after) == text
    return after


def inputs_of(graph: Graph) -> dict[str, Array] | None:
    """Ids with a mask of ones for decoders, else None: whatever fits."""
    return token_inputs(graph, 2, 5) if any(value.name == "input_ids" for value in graph.inputs) else None


def only_zeros_were_put(case: Case, after: Graph) -> None:
    """Weights stay as they were or are 0, where a mask says so; nothing else is another: the graph is the same but for its constants."""
    numbers = [node.op for node in after.nodes if not isinstance(node.op, Constant)]
    assert numbers == [node.op for node in case.graph.nodes if not isinstance(node.op, Constant)]
    old, new = constants_read(case.graph, case.graph.store), constants_read(after, after.store)
    for left, right in zip(old, new, strict=True):
        assert ((left == right) | (right == 0)).all()
    if case.masks:
        assert isinstance(case.graph.store, MemoryStore)
        masks = {name: mask.read(case.graph.store) for name, mask in case.masks.items()}
        masked = MemoryStore({name: tensor * masks.get(name, True) for name, tensor in case.graph.store.tensors.items()})
        for left, right in zip(constants_read(case.graph, masked), new, strict=True):
            np.testing.assert_array_equal(left, right)


def constants_read(graph: Graph, store: WeightStore) -> list[Array]:
    """The constants in the order in which operands read them, however the nodes that give them are placed."""
    operands = [operand for node in graph.nodes for operand in node.inputs]
    return [operand.op.weight.read(store) for operand in operands if isinstance(operand.op, Constant)]


def weights_moved_a_step(case: Case, after: Graph) -> None:
    """What a quantised layer multiplies by lies within a step of its weight: half of one, but where the largest number is cut off."""
    assert isinstance(case.pass_, Quantize)
    levels = 2 ** (case.pass_.bits - 1)
    old = iter([node for node in case.graph.nodes if isinstance(node.op, Linear)])
    for node in after.nodes:
        if not isinstance(node.op, QuantizedLinear | Linear):
            continue
        layer = next(old)
        if not isinstance(node.op, QuantizedLinear):
            continue
        weight = layer.inputs[1].op.weight.read(case.graph.store).astype(np.float64)  # type: ignore[union-attr]
        operands = [each.op.weight.read(after.store) if each is not None else None for each in node.operands[1:3]]  # type: ignore[union-attr]
        used = node.op.evaluate(np.eye(len(weight)), *operands, *([None] * (len(node.operands) - 3)))
        assert (np.abs(used - weight) <= np.abs(weight).max() / levels * (1 + 2.0**-10)).all()


def last_logits_are_the_same(name: str, before: Graph, after: Graph) -> None:
    inputs = token_inputs(before, 2, 5)
    whole = evaluate_graph(before, inputs, wide=True)["logits"]
    if name == "last-token-logits":
        assert_t1(whole[:, -1:], evaluate_graph(after, inputs, wide=True)["logits"], depth=before.node_count)
    else:
        stepped = run_in_steps(after, inputs["input_ids"], np.ones((2, 5), np.int64), [3, 1, 1])
        assert_t1(whole, stepped, depth=after.node_count)


SAME_MEANING = [name for name in sorted(CASES) if PASSES[name].optional]


@given(st.sampled_from(SAME_MEANING).flatmap(lambda name: CASES[name]), pipelines(), pipelines())
def test_optional_passes_around_what_one_of_them_changes_keep_the_meaning(case: Case, before: Pipeline, behind: Pipeline) -> None:
    whole = Pipeline((*before.passes[:3], case.pass_, *behind.passes[:3]))
    verify(assert_pass_preserves(whole, case.graph, inputs_of(case.graph), context=case.context()))
