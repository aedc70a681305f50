"""Logits of the last tokens alone, where the caller wants no others: generation reads one row of a prefill's.

The model gets an input ``logits_to_keep`` whose default, an initializer of the same name, keeps all: runtimes that do not know it need not
give it. Everything behind the last mixing of tokens is computed for the kept ones only: the head, and the last layer's MLP. A layer whose
activations are rounded at one scale for the whole tensor takes that scale from the kept ones, to which it is the closer.
"""

from __future__ import annotations

from cgptc.backends.onnx.interface_names import IDS, LOGITS
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Expr, Symbol, bounds
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Axis, Role
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.ops.shape import Slice

ALL = (1 << 31) - 1
"""The input's default: more than any sequence has."""


def with_kept_logits(graph: Graph) -> tuple[Graph, Symbol] | None:
    """A copy whose logits are ``[batch, kept, …]``, those of the last ``kept`` tokens, and that symbol; None where nothing is saved.

    No input's shape tells ``kept``: the caller provides it.
    """
    seq = _new_tokens(graph)
    if seq is None or not _tail(graph, seq):
        return None
    copy = graph.clone()
    kept = Symbol("kept", 1, bounds(seq)[1])
    tail = _tail(copy, seq)
    cuts: dict[tuple[Value, int], Value] = {}
    for node in [node for node in copy.nodes if node in tail]:
        for index, (operand, position) in enumerate(zip(node.operands, tail[node].operands, strict=False)):
            if operand is None or position is None or operand.producer in tail:
                continue
            if (operand, position) not in cuts:
                build = Builder(copy, before=node, location=node.location, stage=node.stage)
                cuts[operand, position] = build(Slice(position, seq - kept.dim, seq), operand)
            copy.set_operand(node, index, cuts[operand, position])
        copy.reinfer(node)
    return copy, kept


def _new_tokens(graph: Graph) -> Expr | None:
    """The length of the ids, where it is symbolic and the logits have as many rows."""
    inputs = {value.name: value for value in graph.inputs}
    outputs = dict(graph.outputs)
    if IDS not in inputs or LOGITS not in outputs or inputs[IDS].type.rank != 2 or outputs[LOGITS].type.rank != 3:
        return None
    seq = inputs[IDS].type.shape[1]
    return seq if isinstance(seq, Expr) and outputs[LOGITS].type.shape[1] == seq else None


def _tail(graph: Graph, seq: Expr) -> dict[Node, Axis]:
    """The nodes that serve the logits alone and work token by token, each with its axis of tokens."""
    names = [name for name, _ in graph.outputs]
    tail: dict[Node, Axis] = {}
    for node in graph.reversed_nodes:
        if len(node.results) != 1 or not node.result.uses or node.result.type.rank != 3 or node.result.type.shape[1] != seq:
            continue
        if not all(use.user in tail if use.user is not None else names[use.index] == LOGITS for use in node.result.uses):
            continue
        if (axis := _token_axis(node, seq)) is not None:
            tail[node] = axis
    return tail


def _token_axis(node: Node, seq: Expr) -> Axis | None:
    if node.op.attribute_symbols():
        return None
    if isinstance(node.op, QuantizedLinear) and node.op.activations == "tensor":
        return Axis(Role.PARALLEL, (1, *(None for _ in node.operands[1:])), (1,))
    for axis in node.op.axis_roles(*node.operand_types):
        positions = [position for position in axis.operands if position is not None]
        if axis.role is Role.PARALLEL and axis.results == (1,) and positions:
            return axis
    return None
