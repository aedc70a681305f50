"""Public property-testing kit for tensor compilers: strategies, oracles and tolerances.

    from cgptc.testing import assert_equivalent, graphs

Strategies need Hypothesis (``pip install cgptc[test]``), which is imported when the first of them is used; nothing else here does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cgptc.testing.arrays import KINDS, random_array
from cgptc.testing.equivalence import assert_equivalent
from cgptc.testing.input_data import random_inputs
from cgptc.testing.noise import random_orders
from cgptc.testing.preservation import assert_lowering_preserves, assert_pass_preserves
from cgptc.testing.tolerances import (
    Agreement,
    Fault,
    NoiseFloor,
    assert_t0,
    assert_t1,
    assert_t2,
    assert_t3,
    noise_floor,
    t0_fault,
    t1_fault,
    t2_fault,
    t3_fault,
    top1_agreement,
)

if TYPE_CHECKING:
    from cgptc.testing.gpt_strategies import gpt_configs
    from cgptc.testing.graph_strategies import Feed, feeds, graphs, graphs_with_inputs
    from cgptc.testing.module_strategies import gpt_modules
    from cgptc.testing.pipeline_strategies import pipelines
    from cgptc.testing.sparsity_strategies import SparsityMask, sparsity_masks
    from cgptc.testing.type_strategies import dtypes, float_dtypes, shapes, tensor_types
    from cgptc.testing.wafer_strategies import SpatialSample, layouts, machines, spatial_programs
    from cgptc.testing.weight_strategies import WeightSample, weights

__all__ = [
    "KINDS",
    "Agreement",
    "Fault",
    "Feed",
    "NoiseFloor",
    "SparsityMask",
    "SpatialSample",
    "WeightSample",
    "assert_equivalent",
    "assert_lowering_preserves",
    "assert_pass_preserves",
    "assert_t0",
    "assert_t1",
    "assert_t2",
    "assert_t3",
    "dtypes",
    "feeds",
    "float_dtypes",
    "gpt_configs",
    "gpt_modules",
    "graphs",
    "graphs_with_inputs",
    "layouts",
    "machines",
    "noise_floor",
    "pipelines",
    "random_array",
    "random_inputs",
    "random_orders",
    "shapes",
    "sparsity_masks",
    "spatial_programs",
    "t0_fault",
    "t1_fault",
    "t2_fault",
    "t3_fault",
    "tensor_types",
    "top1_agreement",
    "weights",
]

_NEEDS_HYPOTHESIS = {
    "Feed": "graph_strategies",
    "SparsityMask": "sparsity_strategies",
    "SpatialSample": "wafer_strategies",
    "WeightSample": "weight_strategies",
    "dtypes": "type_strategies",
    "feeds": "graph_strategies",
    "float_dtypes": "type_strategies",
    "gpt_configs": "gpt_strategies",
    "gpt_modules": "module_strategies",
    "graphs": "graph_strategies",
    "graphs_with_inputs": "graph_strategies",
    "layouts": "wafer_strategies",
    "machines": "wafer_strategies",
    "pipelines": "pipeline_strategies",
    "shapes": "type_strategies",
    "sparsity_masks": "sparsity_strategies",
    "spatial_programs": "wafer_strategies",
    "tensor_types": "type_strategies",
    "weights": "weight_strategies",
}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_HYPOTHESIS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"cgptc.testing.{_NEEDS_HYPOTHESIS[name]}"), name)
