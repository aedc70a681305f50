"""What a graph means: node after node, by each op's own ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from cgptc.ir.binding import bind_symbols
from cgptc.ir.diagnostics import UsageError, VerifyError
from cgptc.ir.dims import evaluate
from cgptc.ir.dtypes import f64, from_numpy
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Array, Op, result_arrays
from cgptc.ir.ops.constant import Constant
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import widened
from cgptc.ir.weights import WeightStore

OpEvaluator: TypeAlias = Callable[[Op, tuple[Array | None, ...]], tuple[Array, ...]]
"""Evaluates one op, whose attributes are bound, on operands of its types."""


def evaluate_op(op: Op, operands: tuple[Array | None, ...]) -> tuple[Array, ...]:
    """The definition: the op's own ``evaluate``, under IEEE arithmetic without warnings."""
    with np.errstate(all="ignore"):
        return result_arrays(op.evaluate(*operands))


def evaluate_graph(
    graph: Graph,
    inputs: Mapping[str, Array],
    *,
    wide: bool = False,
    on_value: Callable[[Value, Array], None] | None = None,
    evaluate_op: OpEvaluator = evaluate_op,
) -> dict[str, Array]:
    """The outputs by name, for inputs by name.

    ``wide`` evaluates in float64: floating inputs and weights are converted, no intermediate is rounded. ``on_value`` sees every input
    and every result as it is computed; a value is dropped after its last use. Outputs may share memory with inputs.

    Raises `UsageError` for inputs that do not fit, KeyError for a weight that the store lacks, and `VerifyError` where an op's result is
    not of its type.
    """
    wanted = {value for _, value in graph.outputs}
    kept: dict[Value, Array] = {}
    for values, arrays in _steps(graph, inputs, wide, evaluate_op):
        for value, array in zip(values, arrays, strict=True):
            if on_value is not None:
                on_value(value, array)
            if value in wanted:
                kept[value] = array
    return {name: kept[value] for name, value in graph.outputs}


def evaluate_nodes(
    graph: Graph, inputs: Mapping[str, Array], *, wide: bool = False, evaluate_op: OpEvaluator = evaluate_op
) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    """Every node with its results, as they are computed; see `evaluate_graph`."""
    for values, arrays in _steps(graph, inputs, wide, evaluate_op):
        if values and values[0].producer is not None:
            yield values[0].producer, arrays


def _steps(
    graph: Graph, inputs: Mapping[str, Array], wide: bool, evaluate_op: OpEvaluator
) -> Iterator[tuple[tuple[Value, ...], tuple[Array, ...]]]:
    """The inputs, then the results of each node, in order."""
    alive = {value: _input(value, inputs[value.name], wide) for value in graph.inputs if value.name in inputs}
    sizes = bind_symbols(graph.inputs, {name: np.shape(array) for name, array in inputs.items()})
    yield graph.inputs, tuple(alive[value] for value in graph.inputs)
    remaining = {value: _node_uses(value) for value in graph.inputs}
    for node in graph.nodes:
        operands = tuple(alive[operand] if operand is not None else None for operand in node.operands)
        try:
            arrays = _evaluate_node(node, operands, sizes, graph.store, wide, evaluate_op)
        except Exception as error:
            error.add_note(f"while evaluating {node!r} from {node.location}")
            raise
        for value, array in zip(node.results, arrays, strict=True):
            remaining[value] = _node_uses(value)
            if remaining[value]:
                alive[value] = array
        del operands
        for operand in node.inputs:
            remaining[operand] -= 1
            if not remaining[operand]:
                del alive[operand]
        yield node.results, arrays


def _node_uses(value: Value) -> int:
    return sum(use.user is not None for use in value.uses)


def _evaluate_node(
    node: Node, operands: tuple[Array | None, ...], sizes: Mapping[str, int], store: WeightStore, wide: bool, evaluate_op: OpEvaluator
) -> tuple[Array, ...]:
    op = node.op
    if isinstance(op, Constant):
        arrays: tuple[Array, ...] = ((widened(op.weight) if wide else op.weight).read(store),)
    else:
        bound = op.bind(sizes)
        arrays = evaluate_op(bound.widened() if wide else bound, operands)
    if len(arrays) != len(node.results):
        raise VerifyError(f"'{op.name}' evaluates to {len(arrays)} results, its types are {len(node.results)}")
    for value, array in zip(node.results, arrays, strict=True):
        _check(op, value.type, array, sizes, wide)
    return arrays


def _check(op: Op, type: TensorType, array: Array, sizes: Mapping[str, int], wide: bool) -> None:
    shape = tuple(evaluate(dim, sizes) for dim in type.shape)
    dtype = f64 if wide and type.dtype.is_float else type.dtype
    if array.shape != shape or array.dtype != dtype.numpy:
        raise VerifyError(f"'{op.name}' evaluates to {array.dtype}{list(array.shape)}, its type {type} says {dtype}{list(shape)}")


def _input(value: Value, array: Array, wide: bool) -> Array:
    if not isinstance(array, np.ndarray):
        raise UsageError("input-dtype", f"input '{value.name}' must be a numpy array of {value.type}, got {type(array).__name__}")
    expected = value.type.dtype
    if array.dtype == expected.numpy or (wide and expected.is_float and array.dtype == np.float64):
        return array.astype(np.float64) if wide and expected.is_float else array
    try:
        given = str(from_numpy(array.dtype))
    except KeyError:
        given = str(array.dtype)
    raise UsageError("input-dtype", f"input '{value.name}' must be {value.type}, got elements of {given}")
