"""What computes no floating-point number is exact: integers, booleans, indices and whatever only moves elements."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.cases import ALL_CASES, SIZES, Case
from tests.backends.onnx.execution import ORT, graph_of, model_of, run, session_of

from cgptc.ir.op import result_arrays
from cgptc.ir.ops import indexing, ordering, shape

MOVERS = (shape, ordering)


def is_exact(case: Case) -> bool:
    if type(case.op).__module__ in {module.__name__ for module in MOVERS}:
        return True
    if isinstance(case.op, (indexing.Gather, indexing.GatherElements, indexing.GatherNd)):
        return True
    return not any(type_ is not None and type_.dtype.is_float for type_ in case.types)


EXACT = [case for case in ALL_CASES if is_exact(case)]


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_lowering_is_exact_at_every_size(case: Case) -> None:
    session = session_of(model_of(graph_of(case.op, case.types), ORT))
    for sizes in SIZES:
        operands = case.operands(sizes)
        expected = result_arrays(case.op.bind(sizes).evaluate(*operands))
        given = {f"x{i}": array for i, array in enumerate(operands) if array is not None}
        for wanted, got in zip(expected, run(session, given), strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
