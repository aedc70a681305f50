"""Explicit attention masks become what they mean: causality, a window, a padding vector."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.masks import describe
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import NotEqual
from cgptc.ir.ops.elementwise import Not
from cgptc.ir.ops.shape import Expand, Reshape, Slice
from cgptc.ir.predicates import Flag, Index, Negated, UnknownError, Visibility, classify, reindex_predicate, visible
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead

MASK = 3
"""Index of the mask among the attention operation's operands."""


@dataclass(frozen=True)
class NormalizeMasks(Pass, name="normalize-masks"):
    """Replace explicit masks of attention by flags and padding where the analysis proves them equal.

    A mask that attention has no word for stays, and is reported with the reason.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for node in graph.nodes:
            context.count("nodes visited")
            mask = node.operands[MASK] if isinstance(node.op, Attention) and len(node.operands) > MASK else None
            if mask is None or mask.type.rank == 2:
                continue
            meaning = understand(graph, node, mask)
            if isinstance(meaning, str):
                context.missed("mask", node.location, meaning, node=node)
                continue
            if not context.take_rewrite("mask", node.location):
                return changed
            _apply(graph, node, mask, meaning)
            context.done("mask", node.location, node=node)
            changed = True
        return changed


def understand(graph: Graph, node: Node, mask: Value) -> Visibility | str:
    """What the explicit mask of an attention node means, or why that is not known."""
    query, key = node.operands[0], node.operands[1]
    assert query is not None
    assert key is not None
    element = describe(mask, graph.store)
    if element is None:
        return f"the mask is built in a way that is not understood, from '{mask.op.name if mask.op else mask.name}'"
    shown = visible(element)
    if shown is None:
        return "the mask adds finite numbers: it is a bias"
    shape: tuple[Dim, Dim, Dim, Dim] = (query.type.shape[0], query.type.shape[1], query.type.shape[2], key.type.shape[2])
    lead = len(shape) - mask.type.rank
    index: list[Index] = [(axis + lead, 0) for axis in range(mask.type.rank)]
    try:
        return classify(reindex_predicate(shown, index), shape)
    except UnknownError:
        return "the mask reads a padding vector at shifted positions"


def _apply(graph: Graph, node: Node, mask: Value, meaning: Visibility) -> None:
    assert isinstance(node.op, Attention)
    query, key = node.operands[0], node.operands[1]
    assert query is not None
    assert key is not None
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    padding = _padding(build, meaning.padding, query.type.shape[0], key.type.shape[2]) if meaning.padding is not None else None
    graph.set_operand(node, MASK, padding)
    window = meaning.window if node.op.window is None else min(node.op.window, meaning.window or node.op.window)
    graph.set_op(node, dataclasses.replace(node.op, causal=node.op.causal or meaning.causal, window=window))
    if mask.producer is not None:
        erase_dead(graph, [mask.producer])


def _padding(build: Builder, padding: Flag | Negated, batch: Dim, keys: Dim) -> Value:
    """The flag's tensor, or its opposite, as bool ``[batch, keys]``."""
    flag = padding.flag if isinstance(padding, Negated) else padding
    source = flag.source
    used = [axis for axis in flag.axes if axis is not None]
    flat = (batch, keys) if len(used) == 2 else (1, keys)
    for axis, dim in enumerate(source.type.shape):
        if flag.axes[axis] is None and dim != 1:
            source = build(Slice(axis, 0, 1), source)
    if source.type.shape != flat:
        source = build(Reshape(flat), source)
    if source.type.dtype.name != "bool":
        source = build(NotEqual(), source, build.constant(0, source.type.dtype))
    if isinstance(padding, Negated):
        source = build(Not(), source)
    return source if flat == (batch, keys) else build(Expand((batch, keys)), source)
