"""Whether two graphs compute the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cgptc.ir.comparison import first_difference, graph_depth
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.testing.input_data import random_inputs
from cgptc.testing.tolerances import Fault, t1_fault

DEFAULT_KINDS = ("normal", "integers")


def assert_equivalent(before: Graph, after: Graph, inputs: Mapping[str, Array] | None = None, *, seed: int = 0) -> None:
    """Raise AssertionError unless two graphs have the same outputs and give the same values in float64, under T1.

    Without ``inputs``, normal and integer ones are drawn from ``seed``. The bound's depth is that of the deeper graph, its magnitude the
    largest that any value has in ``before``. The message names the first node of ``after`` that differs from its namesake.
    """
    names, others = [name for name, _ in before.outputs], [name for name, _ in after.outputs]
    if names != others:
        raise AssertionError(f"outputs differ: {names} before, {others} after")
    if inputs is not None:
        _compare(before, after, inputs, "given inputs")
        return
    for number, kind in enumerate(DEFAULT_KINDS):
        drawn = random_inputs(before, seed=seed + number, kind=kind)
        _compare(before, after, drawn, f"{kind} inputs, seed {seed + number}")


def _compare(before: Graph, after: Graph, inputs: Mapping[str, Array], where: str) -> None:
    largest = 0.0

    def measure(value: Value, array: Array) -> None:
        nonlocal largest
        if value.type.dtype.is_float:
            largest = max(largest, float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))))

    expected = evaluate_graph(before, inputs, wide=True, on_value=measure)
    actual = evaluate_graph(after, inputs, wide=True)
    depth = max(graph_depth(before), graph_depth(after))

    def fault(left: Array, right: Array) -> Fault | None:
        return t1_fault(left, right, depth=depth, magnitude=largest)

    for name, array in expected.items():
        if found := fault(array, actual[name]):
            first = first_difference(before, after, inputs, fault)
            raise AssertionError(f"output '{name}' differs with {where}: {found}\n{first or ''}")
