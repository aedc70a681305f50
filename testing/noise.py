"""The noise of a dtype: one graph evaluated with its sums in random orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import from_numpy
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph, evaluate_op
from cgptc.ir.op import Array, Op, Role, is_composite, result_types
from cgptc.ir.ops.precision import computing_dtype
from cgptc.ir.types import TensorType

ORDERS = 5
"""Random orders that a noise floor is made of."""


@dataclass(frozen=True)
class RandomOrder:
    """Evaluates ops with the axes that they fold in a random order: as right as the definition, with other roundings.

    A composite op is spelled out, computed in the type that its definition computes in, and rounded once, as its definition does.
    """

    generator: np.random.Generator

    def __call__(self, op: Op, operands: tuple[Array | None, ...]) -> tuple[Array, ...]:
        types = tuple(None if array is None else TensorType(from_numpy(array.dtype), array.shape) for array in operands)
        if is_composite(op):
            return self._spelled(op, operands, types)
        shuffled = list(operands)
        for axis in op.axis_roles(*types):
            if axis.role is Role.REDUCTION:
                self._shuffle(shuffled, axis.operands)
        return evaluate_op(op, tuple(shuffled))

    def _shuffle(self, operands: list[Array | None], positions: tuple[int | None, ...]) -> None:
        """Put all operands in one random order along the axis that they fold together."""
        order: Array | None = None
        for index, position in enumerate(positions):
            array = operands[index]
            if position is not None and array is not None:
                order = self.generator.permutation(array.shape[position]) if order is None else order
                operands[index] = np.take(array, order, axis=position)

    def _spelled(self, op: Op, operands: tuple[Array | None, ...], types: tuple[TensorType | None, ...]) -> tuple[Array, ...]:
        graph = Graph()
        inputs: dict[str, Array] = {}
        values: list[Value | None] = []
        for index, (array, type_) in enumerate(zip(operands, types, strict=True)):
            if array is None or type_ is None:
                values.append(None)
                continue
            wide = computing_dtype(type_.dtype)
            values.append(graph.add_input(f"x{index}", type_.with_dtype(wide)))
            inputs[f"x{index}"] = array.astype(wide.numpy, copy=False)
        made = op.decompose(Builder(graph), *values)
        assert made is not None
        for index, value in enumerate(made if isinstance(made, tuple) else (made,)):
            graph.add_output(f"y{index}", value)
        arrays = evaluate_graph(graph, inputs, evaluate_op=self)
        declared = result_types(op.infer(*types))
        with np.errstate(all="ignore"):
            return tuple(arrays[f"y{index}"].astype(type_.dtype.numpy, copy=False) for index, type_ in enumerate(declared))


def random_orders(
    graph: Graph, inputs: Mapping[str, Array], *, seed: int = 0, count: int = ORDERS, wide: bool = False
) -> Iterator[dict[str, Array]]:
    """The outputs of ``graph`` under several random orders of its sums, in its real dtypes: samples for `noise_floor`."""
    for generator in np.random.default_rng(seed).spawn(count):
        yield evaluate_graph(graph, inputs, wide=wide, evaluate_op=RandomOrder(generator))
