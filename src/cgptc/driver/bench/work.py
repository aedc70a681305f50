"""What a compiled model has to do at the least: operations of a prefill, bytes of a decoded token."""

from __future__ import annotations

from cgptc.ir.dims import evaluate, symbols
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather

LOOKUPS = (Embedding, Gather)
"""Operations that read a few rows of their first operand."""


def weight_bytes_per_token(graph: Graph) -> int:
    """Bytes of the weights that one step reads whole, each once however many nodes share it. Tables that are looked up do not count."""
    read: dict[str, int] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Constant) or not node.op.weight.shape or not any(_reads_all(node, user) for user in node.result.users):
            continue
        weight = node.op.weight
        read[weight.key] = evaluate(weight.type.bytes, {})
    return sum(read.values())


def cache_bytes_per_token(graph: Graph, past: int) -> int:
    """Bytes of cached keys and values that one row's step reads."""
    total = 0
    for value in graph.inputs:
        if "past" in symbols(value.type.shape) and value.type.rank == 4:
            sizes = dict.fromkeys(symbols(value.type.shape), 1) | {"past": past}
            total += evaluate(value.type.bytes, sizes)
    return total


def operations(graph: Graph, batch: int, seq: int, past: int) -> int:
    """Arithmetic operations of one call; a graph that keeps logits keeps those of the last token."""
    sizes = {"batch": batch, "seq": seq, "past": past, "kept": 1}
    return sum(evaluate(node.op.cost(*node.operand_types).flops, sizes) for node in graph.nodes if not isinstance(node.op, Constant))


def _reads_all(node: Node, user: Node) -> bool:
    return not (isinstance(user.op, LOOKUPS) and user.operands[0] is node.result)
