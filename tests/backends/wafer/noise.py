"""T3 for wafer programs: no further from float64 than right results in the program's type are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cgptc.driver.verification.orders import shuffled
from cgptc.driver.verification.rounding import converted_graph, in_types_of, rounded
from cgptc.ir.dtypes import DTYPES
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.testing.tolerances import assert_t3, noise_floor

ORDERS = 5


def assert_within_noise(graph: Graph, inputs: Mapping[str, Array], name: str, found: Array, dtype: str) -> None:
    """Hold an output of a program in ``dtype`` against float64 with weights and inputs rounded to it; AssertionError beyond the noise that
    five random orders of reduction make in ``dtype``.
    """
    of_type = converted_graph(graph, DTYPES[dtype])
    given = in_types_of(of_type, {key: rounded(array, DTYPES[dtype]) for key, array in inputs.items()})
    exact = evaluate_graph(of_type, given, wide=True)[name]
    orders = [evaluate_graph(of_type, given, evaluate_op=shuffled(seed))[name] for seed in range(ORDERS)]
    floor = noise_floor(exact, orders)
    np.testing.assert_equal(np.isfinite(found), np.isfinite(exact))
    assert_t3(exact, found, floor)
