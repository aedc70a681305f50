"""What a seeded bug breaks, every public strategy shrinks to little: at most four nodes, and no dimension above three.

Graphs have a file of their own, `test_graph_strategies.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TypeVar

import numpy as np
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.frontend.gpt import Gpt, meta_gpt
from cgptc.frontend.gpt_config import GptConfig
from cgptc.ir.dtypes import f64
from cgptc.ir.ops import Softmax
from cgptc.ir.parser import parse_graph
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import depth
from cgptc.ir.weights import EMPTY_STORE, dense
from cgptc.passes.canonicalize import Canonicalize
from cgptc.passes.manager import Pipeline
from cgptc.passes.sparsify import detected
from cgptc.testing import (
    SparsityMask,
    SpatialSample,
    WeightSample,
    assert_pass_preserves,
    gpt_configs,
    gpt_modules,
    layouts,
    machines,
    pipelines,
    random_array,
    sparsity_masks,
    spatial_programs,
    t0_fault,
    t1_fault,
    t3_fault,
    tensor_types,
    weights,
)
from cgptc.testing.seeded_bugs import SEEDED_BUGS, SeededBug
from cgptc.testing.tolerances import NoiseFloor

T = TypeVar("T")
SETTINGS = settings(
    max_examples=200, database=None, deadline=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck)
)


def smallest(strategy: st.SearchStrategy[T], breaks: Callable[[T], bool], bug: SeededBug) -> T:
    """The smallest example that the bug breaks; without the bug it is whole."""
    with bug.applied():
        found = find(strategy, breaks, settings=SETTINGS, random=Random(0))
        assert breaks(found)
    return found


def test_types_shrink() -> None:
    def breaks(type_: TensorType) -> bool:
        x = random_array(type_.static_shape, f64, np.random.default_rng(0), "normal")
        return t1_fault(np.ones(x.shape[:-1]), np.asarray(Softmax(type_.rank - 1).evaluate(x)).sum(axis=-1), depth=1) is not None

    found = smallest(tensor_types(min_rank=1), breaks, SEEDED_BUGS["softmax-over-the-wrong-axis"])
    assert found.static_shape in ((1, 2), (2, 1))
    assert not breaks(found)


def test_weights_shrink() -> None:
    def breaks(sample: WeightSample) -> bool:
        if sample.weight.type.rank != 2 or not sample.weight.dtype.is_float:
            return False
        found = detected(sample.weight, sample.store)
        return found is not None and t0_fault(sample.weight.read(sample.store), found.read(sample.store)) is not None

    found = smallest(weights(), breaks, SEEDED_BUGS["negative-weights-taken-for-zeros"])
    assert depth(found.weight) == 0
    assert found.weight.type.static_shape == (1, 1)
    assert not breaks(found)


def test_sparsity_masks_shrink() -> None:
    def breaks(mask: SparsityMask) -> bool:
        weight = dense(-mask.keep.astype(np.float32))
        found = detected(weight, EMPTY_STORE)
        return found is not None and t0_fault(weight.read(EMPTY_STORE), found.read(EMPTY_STORE)) is not None

    found = smallest(sparsity_masks(), breaks, SEEDED_BUGS["negative-weights-taken-for-zeros"])
    assert found.keep.tolist() == [[True]]
    assert not breaks(found)


def test_pipelines_shrink_to_the_pass_that_is_wrong() -> None:
    turned = parse_graph(
        """
        graph @main {
          input %x : f32[2, 2, 2]
          %once = transpose(%x) {permutation=[1, 2, 0]}
          %twice = transpose(%once) {permutation=[0, 2, 1]}
          return y=%twice
        }
        """
    )

    def breaks(pipeline: Pipeline) -> bool:
        try:
            assert_pass_preserves(pipeline, turned)
        except AssertionError:
            return True
        return False

    found = smallest(pipelines(), breaks, SEEDED_BUGS["transposes-merged-in-the-wrong-order"])
    assert found.passes == (Canonicalize(),)
    assert not breaks(found)


def test_configurations_shrink() -> None:
    def breaks(config: GptConfig) -> bool:
        return dict(config.parameters()) != {name: tuple(one.shape) for name, one in meta_gpt(config).named_parameters()}

    where = "cgptc.frontend.gpt_config:GptConfig.parameters"
    bug = SeededBug("a-position-for-each-token", where, "(self.positions, self.width)", "(self.vocabulary, self.width)")
    found = smallest(gpt_configs(max_layers=2, max_heads=2), breaks, bug)
    assert (found.layers, found.heads, found.width, found.ffn_width) == (1, 1, 1, 1)
    assert found.vocabulary <= 3
    assert not breaks(found)


def test_modules_shrink() -> None:
    """To two features at least: a norm over one gives its bias, whatever comes in."""
    import torch

    def breaks(module: Gpt) -> bool:
        if module.config.positions < 2:
            return False
        alone, padded = torch.tensor([[1]]), torch.tensor([[0, 1]])
        with torch.no_grad():
            expected, got = module(alone)[:, -1], module(padded, torch.tensor([[0, 1]]))[:, -1]
        return t3_fault(expected.double().numpy(), got.double().numpy(), NOISE) is not None

    bug = SeededBug(
        "positions-count-padding",
        "cgptc.frontend.gpt:Transformer.forward",
        "(attention_mask.long().cumsum(-1) - 1).clamp(min=0)",
        "index.unsqueeze(0)",
    )
    found = smallest(gpt_modules(), breaks, bug)
    config = found.config
    assert max(config.layers, config.heads, config.width, config.ffn_width, config.vocabulary, config.positions) <= 3
    assert not breaks(found)


NOISE = NoiseFloor(1e-5, 1e-5)
"""Of float32 logits of about 1: a seeded bug makes a thousand times as much."""


def test_machines_shrink() -> None:
    def breaks(machine: Machine) -> bool:
        wider = replace(machine, vector_lanes=tuple((dtype, 2 * lanes) for dtype, lanes in machine.vector_lanes))
        return wider.vector_cycles("f32", 100) > machine.vector_cycles("f32", 100)

    where = "cgptc.backends.wafer.machine:Machine.vector_cycles"
    bug = SeededBug("lanes-that-cost-time", where, "length * operations / self", "length * operations * self")
    found = smallest(machines(), breaks, bug)
    assert (found.width, found.height, found.input_queue_words) == (1, 1, (1, 1, 1))
    assert not breaks(found)


def test_layouts_shrink() -> None:
    def breaks(layout: Layout) -> bool:
        tensor = np.arange(1.0, 1 + int(np.prod(layout.shape))).reshape(layout.shape)
        return t0_fault(tensor, layout.gather(layout.scatter(tensor))) is not None

    found = smallest(layouts(), breaks, SEEDED_BUGS["wafer-last-element-of-a-cut-dropped"])
    assert max(found.height, found.width, *found.shape) <= 3
    assert len(found.shape) == 1
    assert not breaks(found)


def test_programs_shrink() -> None:
    def breaks(sample: SpatialSample) -> bool:
        assert sample.expected is not None
        engine = FastEngine(sample.program)
        engine.load(sample.weights)
        return t0_fault(sample.expected, engine.run("run", sample.inputs, {}).outputs[sample.output]) is not None

    found = smallest(spatial_programs(exact=True), breaks, SEEDED_BUGS["wafer-partial-sums-not-added"])
    (region,) = found.program.regions
    assert found.kinds == ("linear",)
    shapes = [array.shape for array in (*found.weights.values(), *found.inputs.values())]
    assert max(region.rectangle.width, region.rectangle.height, *(size for shape in shapes for size in shape)) <= 3
