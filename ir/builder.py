"""Inserting nodes at one place, with one location and stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cgptc.ir.dtypes import DType, f32
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import UNKNOWN, Location
from cgptc.ir.op import Array, Op
from cgptc.ir.weight_expressions import converted
from cgptc.ir.weights import Weight, dense


@dataclass
class Builder:
    """``build(op, *operands)`` inserts a node before ``before`` (at the end where None) and gives its result.

    New nodes take ``location`` and ``stage``: a rewrite sets them to the union of what it matched.
    """

    graph: Graph
    before: Node | None = None
    location: Location = UNKNOWN
    stage: int | None = None

    def node(self, op: Op, *operands: Value | None) -> Node:
        """Insert and give the node itself."""
        return self.graph.insert(op, operands, before=self.before, location=self.location, stage=self.stage)

    def __call__(self, op: Op, *operands: Value | None) -> Value:
        """Insert an op of one result and give it."""
        return self.node(op, *operands).result

    def all(self, op: Op, *operands: Value | None) -> tuple[Value, ...]:
        """Insert an op and give all its results."""
        return self.node(op, *operands).results

    def weight(self, weight: Weight) -> Value:
        """A constant that refers to a weight."""
        from cgptc.ir.ops.constant import Constant

        return self(Constant(weight))

    def constant(self, value: Array | float | int | bool, dtype: DType = f32) -> Value:
        """A small constant held in the graph itself; scalars take ``dtype``, arrays keep their own.

        A number that ``dtype`` would round is kept in f64 and converted, so that float64 evaluation has the number itself.
        """
        if isinstance(value, np.ndarray):
            return self.weight(dense(value))
        with np.errstate(all="ignore"):
            array: Any = np.asarray(value, dtype.numpy)
        if dtype.is_float and value == value and float(array) != value:
            return self.weight(converted(dense(np.asarray(value, np.float64)), dtype))
        return self.weight(dense(array))
