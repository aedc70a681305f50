"""Structural equality of graphs, strict to the bit of an attribute."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

from cgptc.ir.graph import Graph, Node, Value


def graphs_equal(left: Graph, right: Graph, *, hints: bool = False) -> bool:
    """Whether two graphs hold the same nodes in the same order; see `difference`."""
    return difference(left, right, hints=hints) == ""


def difference(left: Graph, right: Graph, *, hints: bool = False) -> str:
    """The first difference in a few words, "" for equal graphs.

    Compared are the graph's name, inputs and outputs with their names, and of every node op, attributes, operands, result types, stage and
    location; names of other values only with ``hints``. Weight stores are not compared.
    """
    if left.name != right.name:
        return f"names '{left.name}' and '{right.name}'"
    if len(left.inputs) != len(right.inputs):
        return f"{len(left.inputs)} and {len(right.inputs)} inputs"
    numbers: dict[Value, int] = {}
    others: dict[Value, int] = {}
    for a, b in zip(left.inputs, right.inputs, strict=True):
        numbers[a] = others[b] = len(numbers)
        if (a.name, a.type) != (b.name, b.type):
            return f"inputs {a!r} and {b!r}"
    if left.node_count != right.node_count:
        return f"{left.node_count} and {right.node_count} nodes"
    for node, other in zip(left.nodes, right.nodes, strict=True):
        if what := _node_difference(node, other, numbers, others, hints):
            return f"{what} of {node!r} and {other!r}"
        for a, b in zip(node.results, other.results, strict=True):
            numbers[a] = others[b] = len(numbers)
    outputs = [(name, numbers.get(value)) for name, value in left.outputs]
    if outputs != [(name, others.get(value)) for name, value in right.outputs]:
        return f"outputs {[name for name, _ in left.outputs]} and {[name for name, _ in right.outputs]}, or their values"
    return ""


def _node_difference(a: Node, b: Node, numbers: dict[Value, int], others: dict[Value, int], hints: bool) -> str:
    if not same_attribute(a.op, b.op):
        return "ops"
    if [value and numbers.get(value) for value in a.operands] != [value and others.get(value) for value in b.operands]:
        return "operands"
    if [value.type for value in a.results] != [value.type for value in b.results]:
        return "result types"
    if a.stage != b.stage:
        return "stages"
    if a.location != b.location:
        return "locations"
    if hints and [value.name for value in a.results] != [value.name for value in b.results]:
        return "names"
    return ""


def same_attribute(left: Any, right: Any) -> bool:
    """Whether two ops, attributes or weights are the same value: nan equals itself, 0.0 is not -0.0, True is not 1, but 1 is 1.0."""
    pending = [(left, right)]
    while pending:
        a, b = pending.pop()
        if (type(a) is float and type(b) in (int, float)) or (type(b) is float and type(a) is int):
            if struct.pack("<d", a) != struct.pack("<d", b):
                return False
        elif type(a) is not type(b):
            return False
        elif isinstance(a, tuple):
            if len(a) != len(b):
                return False
            pending.extend(zip(a, b, strict=True))
        elif dataclasses.is_dataclass(a):
            pending.extend((getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
        elif a != b:
            return False
    return True
