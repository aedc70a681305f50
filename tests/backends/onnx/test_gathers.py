"""Gathers along the last axis: by turned axes where most of a row is taken, as they are where turning the rest would cost more."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.onnx.execution import STANDARD, graph_of, model_of, run, session_of

from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.types import TensorType

seq = Symbol("seq", 1, 64)


@pytest.mark.parametrize(
    ("width", "taken", "turned"),
    [(64, 64, True), (64, 8, True), (64, 7, False), (64, 1, False), (4, 9, True), (64, None, False), (None, 8, False)],
)
def test_a_row_is_turned_where_an_eighth_of_it_is_taken(width: int | None, taken: int | None, turned: bool) -> None:
    types = TensorType(f32, (2, 3, width or seq.dim)), TensorType(i64, (taken or seq.dim,))
    model = model_of(graph_of(Gather(2), types), STANDARD)
    assert ("Transpose" in {node.op_type for node in model.graph.node}) == turned
    x = np.random.default_rng(0).standard_normal((2, 3, width or 5)).astype(np.float32)
    indices = np.random.default_rng(1).integers(0, x.shape[2], taken or 5)
    (y,) = run(session_of(model), {"x0": x, "x1": indices})
    np.testing.assert_array_equal(y, x[:, :, indices])
