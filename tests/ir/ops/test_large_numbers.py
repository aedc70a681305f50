"""Numbers whose powers overflow: what is formed from their differences stays finite."""

from __future__ import annotations

import numpy as np
import pytest

from cgptc.ir import ops
from cgptc.ir.op import Op
from cgptc.testing.tolerances import assert_t1

LARGE = np.array([[1000.0, 999.0, -1000.0]])


@pytest.mark.parametrize("op", [ops.Softmax(1), ops.LogSoftmax(1)], ids=lambda op: op.name)
def test_a_softmax_of_large_numbers_does_not_overflow(op: Op) -> None:
    assert_t1(op.evaluate(LARGE - 1000), op.evaluate(LARGE), depth=4)
