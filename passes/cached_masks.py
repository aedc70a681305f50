"""Explicit attention masks over a past: rebuilt for all keys from the positions that each row's tokens have.

A mask or bias that is made of positions, lengths, tables and padding alone is a function of a sequence's length. The rows of the new
tokens are the last rows of what that function gives for all tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol, symbols
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.mask_bounds import hides_later_keys
from cgptc.ir.op import Role
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Select
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.embedding import Positions
from cgptc.ir.ops.reduction import ReduceSum
from cgptc.ir.ops.shape import Expand, Reshape, Slice
from cgptc.passes.lift import lift
from cgptc.passes.normalize_masks import MASK
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.sink_slices import sink


def explicit_mask(node: Node) -> Value | None:
    """The additive mask ``[batch|1, heads|1, seq, keys]`` of an attention."""
    mask = node.operands[MASK] if isinstance(node.op, Attention) and len(node.operands) > MASK else None
    return mask if mask is not None and mask.type.rank == 4 else None


def is_causal(graph: Graph, node: Node) -> bool:
    """Whether no query of an attention sees a later key, by its flag or by its explicit mask."""
    assert isinstance(node.op, Attention)
    mask = explicit_mask(node)
    return node.op.causal or (mask is not None and hides_later_keys(mask, graph.store))


@dataclass
class CachedMasks:
    """Rebuilds explicit masks of one graph, each once however many attentions use it.

    ``real`` is the Boolean mask over ``[batch, past + seq]``. ``refuse`` gives the error for a node that has no cached form.
    """

    graph: Graph
    real: Value
    batch: Dim
    seq: Symbol
    past: Symbol
    refuse: Callable[[Node, str], Exception]
    _rebuilt: dict[Value, Value] = field(default_factory=dict)

    def rebuild(self, mask: Value, before: Node) -> Value:
        """The mask ``[batch, heads|1, seq, past + seq]``, with minus infinity for padding."""
        if mask not in self._rebuilt:
            self._rebuilt[mask] = self._build(mask, before)
        return self._rebuilt[mask]

    @property
    def made(self) -> list[Value]:
        """All masks rebuilt so far."""
        return list(self._rebuilt.values())

    def _build(self, mask: Value, before: Node) -> Value:
        total = self.past.dim + self.seq.dim
        build = Builder(
            self.graph, before=before, location=mask.producer.location if mask.producer else before.location, stage=before.stage
        )
        whole = self._by_position(self._for_all_tokens(mask, before, total), total)
        for node in cone(whole):
            if _makes_tokens(node, self.seq):
                raise self.refuse(node, "it makes an attention mask of the length in a way that has no form after a past")
        if whole.type.rank == 5:  # each row has its own, in front of the axis that was one for all
            whole = build(Reshape((self.batch, *whole.type.shape[2:])), whole)
        rows = build.node(Slice(2, self.past.dim, total), whole)
        shown = build(Reshape((self.batch, 1, 1, total)), self.real)
        padded = build(Select(), shown, rows.result, build.constant(float("-inf"), whole.type.dtype))
        sink(self.graph, [rows], (node for node in cone(whole) if isinstance(node.op, Slice)))
        for node in cone(padded):
            if isinstance(node.op, Slice) and isinstance(node.inputs[0].op, Positions):
                place = Builder(self.graph, before=node, location=node.location, stage=node.stage)
                self.graph.replace_uses(node.result, place(self._positions(self.seq.dim, self.past.dim), self.real))
                erase_dead(self.graph, [node])
        return padded

    def _positions(self, count: Dim, past: Dim) -> Positions:
        return Positions(self.batch, count, past)

    def _for_all_tokens(self, mask: Value, before: Node, total: Dim) -> Value:
        """The mask as the model itself makes it of ``past + seq`` tokens: a copy of all that knows their number."""
        copies: dict[Value, Value] = {}
        for node in cone(mask):
            of_input = any(value in copies or value.producer is None for value in node.inputs)
            of_length = node.op.attribute_symbols() or symbols(dim for value in node.results for dim in value.type.shape)
            if not of_input and not of_length:
                continue
            operands = [None if value is None else copies.get(value, value) for value in node.operands]
            twin = self.graph.insert(
                node.op.substitute({self.seq.name: total}), operands, before=before, location=node.location, stage=before.stage
            )
            copies.update(zip(node.results, twin.results, strict=True))
        return copies.get(mask, mask)

    def _by_position(self, whole: Value, total: Dim) -> Value:
        """With what each row's own tokens have for positions and length instead of their places in the batch."""
        nodes = cone(whole)
        starts: dict[Value, Value] = {}
        for source in nodes:
            if not self._counts(source, total):
                continue
            place = Builder(self.graph, before=source, location=source.location, stage=source.stage)
            dtype = source.result.type.dtype
            if isinstance(source.op, Iota):
                own = place(self._positions(total, 0), self.real)
            else:
                own = place(ReduceSum((1,), keepdims=False), place(Cast(i64), self.real))
            starts[source.result] = own if own.type.dtype == dtype else place(Cast(dtype), own)
        replaced = lift(self.graph, starts, self.batch, total, self.refuse, nodes)
        erase_dead(self.graph, [value.producer for value in starts if value.producer is not None])
        return replaced.get(whole, whole)

    def _counts(self, node: Node, total: Dim) -> bool:
        return (isinstance(node.op, Iota) and node.op.size == total) or (isinstance(node.op, DimSize) and node.op.dim == total)


def cone(value: Value) -> list[Node]:
    """All nodes that a value is made of, operands first."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(value.producer, False)]
    while stack:
        node, done = stack.pop()
        if node is None or (node in seen and not done):
            continue
        if done:
            order.append(node)
            continue
        seen.add(node)
        stack.append((node, True))
        stack += [(operand.producer, False) for operand in node.inputs]
    return order


def _makes_tokens(node: Node, seq: Symbol) -> bool:
    """Whether a node gives an axis of the sequence that no operand has, other than by spreading one number over it."""
    if isinstance(node.op, Expand | Positions):
        return False
    brought: set[tuple[int, int]] = set()
    for axis in node.op.axis_roles(*node.operand_types):
        if axis.role is Role.PARALLEL and any(place is not None for place in axis.operands):
            brought |= {(index, place) for index, place in enumerate(axis.results) if place is not None}
    return any(
        seq.name in symbols([dim]) and (index, place) not in brought and not any(_has(value, place, dim) for value in node.inputs)
        for index, result in enumerate(node.results)
        for place, dim in enumerate(result.type.shape)
    )


def _has(value: Value, place: int, dim: Dim) -> bool:
    return value.type.rank > place and value.type.shape[place] == dim
