"""The checks of any other model: drawn inputs of several sizes, in a batch of one and of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cgptc.driver.numeric_check import left_mask
from cgptc.driver.verification.checks import Check, compare, compare_exactly
from cgptc.driver.verification.reference import Reference, artifact_graph
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import MASK, Interface
from cgptc.testing.input_data import random_inputs

IGNORED = 1 / 8
"""Share of the labels that a loss in the model is to leave out."""


def drawn_inputs(graph: Graph, length: int, batch: int) -> dict[str, Array]:
    """Inputs of these sizes, where the graph has such symbols, with padding on the left where it has a mask."""
    sizes = {name: size for name, size in (("batch", batch), ("seq", length)) if name in graph.symbols}
    inputs = random_inputs(graph, seed=length, sizes=sizes, ignored=IGNORED)
    if MASK in inputs:
        inputs[MASK] = left_mask(inputs[MASK])
    return inputs


@dataclass(frozen=True)
class GeneralChecks:
    """The checks of one artifact against one reference."""

    artifact: Artifact
    reference: Reference

    def run(self, lengths: Sequence[int]) -> Iterator[Check]:
        """Every output, at every length (of the size ``seq``, where there is one) and batch."""
        symbols = self.reference.graph.symbols
        symbol = symbols.get("batch")
        batches = [batch for batch in (1, 2) if symbol is not None and symbol.low <= batch <= symbol.high] or [1]
        for length in lengths if "seq" in symbols else [0]:
            for batch in batches:
                inputs = drawn_inputs(self.reference.graph, length, batch)
                yield from self._compare(self.reference.prepared(inputs), length, batch)

    def _compare(self, inputs: dict[str, Array], length: int, batch: int) -> Iterator[Check]:
        answer = self.reference.answer(inputs)
        outputs = self.artifact.run(inputs)
        graph = artifact_graph(self.artifact, self.reference)
        exact = evaluate_graph(graph, complete_inputs(Interface.of(graph), inputs), wide=True)
        real = inputs[MASK].astype(bool) if MASK in inputs and inputs[MASK].ndim == 2 else None
        for name, expected in answer.outputs.items():
            wide, actual = exact[name], outputs[name]
            if real is not None and expected.shape[: real.ndim] == real.shape == actual.shape[: real.ndim] == wide.shape[: real.ndim]:
                expected, wide, actual = expected[real], wide[real], actual[real]
            expected, wide, actual = (np.atleast_1d(array) for array in (expected, wide, actual))
            for check in (
                compare_exactly(f"'{name}' of the graph in float64", batch, expected, wide, graph_depth(graph)),
                compare(f"output '{name}'", batch, expected, actual, answer.floors[name], classes=False),
            ):
                yield replace(check, length=length)
