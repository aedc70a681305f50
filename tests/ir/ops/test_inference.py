"""What every operation declares of itself, for operands drawn for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir.dtypes import from_numpy
from cgptc.ir.op import OPS, Op, result_arrays, result_types
from cgptc.ir.ops import Constant
from cgptc.ir.types import TensorType
from cgptc.testing.op_case import CASES
from cgptc.testing.op_cases import op_cases

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

OPERATIONS = [op for op in OPS.values() if op.__module__.startswith("cgptc.") and op is not Constant]
FEW = settings(max_examples=max(6, settings().max_examples // 16), deadline=None)


def test_every_operation_has_a_strategy() -> None:
    assert set(CASES) == set(OPERATIONS)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
@given(data=st.data())
@FEW
def test_evaluation_gives_what_inference_says_and_keeps_its_operands(op: type[Op], data: st.DataObject) -> None:
    case = data.draw(op_cases(op))
    arrays = case.arrays(seed=0)
    results = result_arrays(case.op.evaluate(*arrays))
    assert all(isinstance(result, np.ndarray) for result in results)
    types = tuple(TensorType(from_numpy(result.dtype), result.shape) for result in results)
    assert types == result_types(case.op.infer(*case.types))
    for before, after in zip(case.arrays(seed=0), arrays, strict=True):
        assert before is None or after is None or before.tobytes() == after.tobytes()


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
@given(data=st.data())
@FEW
def test_cost_counts_every_byte_that_moves(op: type[Op], data: st.DataObject) -> None:
    case = data.draw(op_cases(op))
    cost = case.op.cost(*case.types)
    tensors = [type_ for type_ in (*case.types, *result_types(case.op.infer(*case.types))) if type_ is not None]
    assert cost.bytes == sum(int(type_.bytes) for type_ in tensors)
    assert isinstance(cost.flops, int)
    assert cost.flops >= 0
