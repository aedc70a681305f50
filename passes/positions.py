"""Finding where a model computes its tokens' positions."""

from __future__ import annotations

from cgptc.ir.dims import Symbol
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Maximum, Mul, Sub
from cgptc.ir.ops.constant import Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.reduction import CumSum
from cgptc.passes.pattern import Match, OneOf, Pattern, Scalar, Var, match, op

mask = Var("mask")
_COUNT = op(CumSum, mask, axis=1, shared=True)
_COUNTED_REAL = OneOf((op(Mul, _COUNT, mask, shared=True), _COUNT))
_LESS_ONE = OneOf((op(Sub, _COUNTED_REAL, Scalar(value=1.0), shared=True), op(Add, _COUNTED_REAL, Scalar(value=-1.0), shared=True)))
FROM_MASK: tuple[Pattern, ...] = (op(Maximum, _LESS_ONE, Scalar(value=0.0)), _LESS_ONE)
"""Positions counted from a padding mask over ``[batch, seq]``: ``cumsum(mask) - 1``, at padding anything."""


def find_positions(graph: Graph, mask_input: Value | None, seq: Symbol) -> list[tuple[Value, bool]]:
    """Values that are the tokens' positions: with True over ``[batch, seq]``, counted from the mask; with False an iota over ``[seq]``."""
    found: list[tuple[Value, bool]] = []
    covered: set[Node] = set()
    for node in graph.reversed_nodes:
        if node in covered or len(node.results) != 1:
            continue
        if isinstance(node.op, Iota) and node.op.size == seq.dim:
            found.append((node.result, False))
        elif isinstance(node.op, Maximum | Sub | Add):
            matched = next((m for pattern in FROM_MASK if isinstance(m := match(pattern, node.result), Match)), None)
            in_tokens = node.result.type.rank == 2 and node.result.type.shape[1] == seq.dim
            if matched is not None and in_tokens and _source(matched.values["mask"]) is mask_input and mask_input is not None:
                found.append((node.result, True))
                covered.update(matched.nodes)
    return found[::-1]


def _source(value: Value) -> Value:
    while value.producer is not None and isinstance(value.producer.op, Cast):
        value = value.producer.inputs[0]
    return value
