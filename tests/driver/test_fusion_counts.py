"""What is counted as whole, what a missing fusion does, and how far optimisation goes, on graphs without PyTorch."""

from __future__ import annotations

import pytest
from tests.passes.attention_graphs import Spelling, decoder

from cgptc.driver.compilation import Optimised, optimise, target_of
from cgptc.driver.options import CompileOptions
from cgptc.frontend.source import CapturedModel
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, Exit, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Linear, Softmax, Tanh


def with_tanh(graph: Graph) -> Graph:
    """The first layer's scores squashed before the softmax, which is no attention any more."""
    node = next(node for node in graph.nodes if isinstance(node.op, Softmax))
    graph.set_operand(node, 0, Builder(graph, before=node)(Tanh(), node.inputs[0]))
    return graph


def optimised(graph: Graph, layers: int = 2, **options: object) -> Optimised:
    model = CapturedModel(graph, "decoder", "graph", 0, layers)
    chosen = CompileOptions(cache="none", **options)  # type: ignore[arg-type]
    return optimise(model, target_of(chosen), chosen)


def counts(found: Optimised) -> dict[str, tuple[int, int]]:
    return {each.subject: (each.fused, each.total) for each in found.fusions.counts}


def test_whole_operations_are_counted_once_however_many_rewrites_made_them() -> None:
    found = counts(optimised(decoder(Spelling(layers=2))))
    assert found == {"attention": (2, 2), "layer-norm": (3, 3), "linear": (5, 5), "embedding": (2, 2)}


def test_attention_is_counted_by_the_models_layers_even_where_nothing_looks_like_it() -> None:
    found = optimised(decoder(Spelling(layers=1)), layers=3)
    assert counts(found)["attention"] == (1, 3)
    assert found.fusions.missed[-1].reason == "2 of 3 layers have nothing that looks like attention"


def test_a_required_fusion_that_was_missed_is_an_error_that_lists_the_places() -> None:
    optimised(decoder(Spelling(layers=2)), required_fusions=("attention", "layer-norm"))
    with pytest.raises(CompileError) as caught:
        optimised(with_tanh(decoder(Spelling(layers=2))), required_fusions=("layer-norm", "attention"))
    assert caught.value.exit == Exit.UNSUPPORTED
    assert "1 of 2 'attention' are fused" in str(caught.value)
    place, reason = caught.value.details
    assert place.startswith("  --> ")
    assert "'tanh' stands between softmax" in reason


def test_a_required_fusion_that_the_model_has_nowhere_is_an_error() -> None:
    with pytest.raises(CompileError, match="the model has no 'rotary'"):
        optimised(decoder(Spelling()), layers=1, required_fusions=("rotary",))


def test_an_unknown_fusion_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'attention'"):
        optimised(decoder(Spelling()), required_fusions=("atention",))


def test_level_0_leaves_what_the_target_can_run_as_it_is() -> None:
    plain, whole = (optimised(decoder(Spelling(layers=1)), layers=1, level=level).graph for level in (0, 2))
    assert not any(isinstance(node.op, Linear) and len(node.inputs) == 3 for node in plain.nodes)
    assert sum(isinstance(node.op, Linear) and len(node.inputs) == 3 for node in whole.nodes) == 2
    assert plain.node_count > whole.node_count


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_bisection_limit_stops_after_so_many_rewrites_and_names_the_last(limit: int) -> None:
    found = optimised(decoder(Spelling(layers=1)), layers=1, bisect_limit=limit)
    assert found.context.counters.get("rewrites", 0) == limit
    (warning,) = found.context.warnings.lines
    assert f"{limit} rewrites were made" in warning
    assert ("none" in warning) == (limit == 0)


@pytest.mark.parametrize("wrong", [{"level": 3}, {"bisect_limit": -1}])
def test_levels_and_limits_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        optimised(decoder(Spelling()), **wrong)
