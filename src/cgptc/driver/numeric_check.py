"""``--verify-each numeric``: every pass is run against the graph before it, in float64, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.passes.instruments import NumericCheck
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import MASK, PAST, Interface
from cgptc.testing.input_data import random_inputs
from cgptc.testing.tolerances import assert_t1

FLOAT32_UNITS = 2 ** (53 - 24)
"""Units of rounding of float64 in one of float32."""

PREFERRED = {"batch": 2, "seq": 5, PAST: 3}
"""Sizes of the example inputs, where a symbol's bounds allow them."""


def numeric_check() -> NumericCheck:
    """The instrument."""
    examples = ExampleInputs()
    return NumericCheck(
        inputs=examples,
        evaluate=lambda graph, inputs: evaluate_graph(graph, inputs, wide=True),
        compare=examples.compare,
    )


@dataclass
class ExampleInputs:
    """Inputs for a graph: seeded, with a past, and with padding on the left of the last row.

    Where a pass has just changed the graph's inputs, those before it are completed by their defaults, an empty past for one, so that
    both graphs are asked the same question.
    """

    seed: int = 0
    _interface: Interface | None = None
    _last: dict[str, Array] = field(default_factory=dict)

    def __call__(self, graph: Graph) -> Mapping[str, Array]:
        interface = Interface.of(graph)
        if self._interface is None or self._interface.inputs == interface.inputs:
            self._last = draw_inputs(graph, self.seed)
        else:
            known = {port.name for port in interface.inputs}
            self._last = complete_inputs(interface, {name: array for name, array in self._last.items() if name in known})
        self._interface = interface
        return self._last

    def compare(self, graph: Graph, before: Mapping[str, Array], after: Mapping[str, Array], rounded: bool) -> None:
        """AssertionError where an output differs by more than T1 allows, padded positions aside: in units of float32 where constants were
        taken as ``rounded``.
        """
        depth = graph_depth(graph) * (FLOAT32_UNITS if rounded else 1)
        mask = self._last.get(MASK)
        for name, expected in before.items():
            actual = after[name]
            if mask is not None and expected.ndim >= 2 and expected.shape[0] == len(mask) and expected.shape[1] <= mask.shape[1]:
                real = mask[:, mask.shape[1] - expected.shape[1] :].astype(bool)
                expected, actual = expected[real], actual[real]
            assert_t1(expected, actual, depth=depth, where=f"output '{name}'", seed=self.seed)


def draw_inputs(graph: Graph, seed: int) -> dict[str, Array]:
    """Example inputs by name, with padding on the left of the last of several rows where there is a mask."""
    symbols = graph.symbols
    sizes = {name: min(max(PREFERRED.get(name, 2), symbol.low), symbol.high) for name, symbol in symbols.items()}
    inputs = random_inputs(graph, seed=seed, sizes=sizes)
    if MASK in inputs:
        inputs[MASK] = left_mask(inputs[MASK])
    return inputs


def left_mask(like: Array) -> Array:
    """A mask of ones, but for padding on the left of the last of several rows."""
    mask = np.ones_like(like)
    if mask.ndim == 2 and len(mask) > 1:
        mask[-1, : mask.shape[1] // 2] = 0
    return mask
