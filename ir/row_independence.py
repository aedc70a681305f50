"""Whether the rows of a batch go through a graph without seeing each other, so that they may go apart."""

from __future__ import annotations

from cgptc.ir.attributes import attributes
from cgptc.ir.dims import Dim, Expr, symbols
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Role


def rows_are_independent(graph: Graph, name: str = "batch") -> bool:
    """Whether inputs and outputs may be split along the size ``name``, run part by part, and put together again.

    Every output has it as one axis and every input as at most one; every node is parallel along it, and none makes it from nothing,
    as an iota of the rows would. Sound, not complete: a node that says nothing of its axes counts as one that mixes them.
    """
    outputs = all(_axes(value, name) is not None and len(_axes(value, name) or ()) == 1 for _, value in graph.outputs)
    inputs = all(_axes(value, name) is not None and len(_axes(value, name) or ()) <= 1 for value in graph.inputs)
    return outputs and inputs and all(_keeps_rows_apart(node, name) for node in graph.nodes)


def _mentions(dim: Dim, name: str) -> bool:
    return isinstance(dim, Expr) and name in symbols([dim])


def _axes(value: Value, name: str) -> list[int] | None:
    """The axes that are the size itself; None where an axis is some other expression of it."""
    found = [axis for axis, dim in enumerate(value.type.shape) if _mentions(dim, name)]
    return found if all(value.type.shape[axis] == symbols([value.type.shape[axis]])[name].dim for axis in found) else None


def _keeps_rows_apart(node: Node, name: str) -> bool:
    if not node.inputs:
        return not any(_mentions(dim, name) for value in node.results for dim in value.type.shape) and not _attribute_mentions(node, name)
    parallel = [axis for axis in node.op.axis_roles(*node.operand_types) if axis.role is Role.PARALLEL]
    for index, operand in enumerate(node.operands):
        for position, dim in enumerate(operand.type.shape if operand is not None else ()):
            if _mentions(dim, name) and not any(axis.operands[index] == position for axis in parallel):
                return False
    for index, value in enumerate(node.results):
        for position, dim in enumerate(value.type.shape):
            if _mentions(dim, name) and not any(axis.results[index] == position for axis in parallel):
                return False
    return True


def _attribute_mentions(node: Node, name: str) -> bool:
    values = (getattr(node.op, attribute.name) for attribute in attributes(type(node.op)))
    return any(_mentions(item, name) for value in values for item in (value if isinstance(value, tuple) else (value,)))
