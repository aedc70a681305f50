"""Rows of a table read in roundabout ways become one `embedding`."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Shape, product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather, GatherElements
from cgptc.ir.ops.shape import Expand, Reshape
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, erase_dead, rewrite

SUBJECT = "embedding"

weight = Var("weight", lambda value: isinstance(value.op, Constant) and value.type.rank == 2, "a weight matrix")
indices = Var("indices", lambda value: value.type.dtype.is_integer, "integers")


@rewrite(op(Gather, weight, indices, axis=0), subject=SUBJECT)
def gather_to_embedding(build: Builder, weight: Value, indices: Value) -> Value:
    """``gather(weight, indices)`` along the rows is ``embedding(weight, indices)``."""
    return build(Embedding(), weight, indices)


REWRITES: tuple[Rewrite, ...] = (gather_to_embedding,)


@dataclass(frozen=True)
class FuseEmbedding(Pass, name="fuse-embedding"):
    """Fuse gathers of whole rows of a weight, those that repeat table and indices to one shape included."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = apply_rewrites(graph, REWRITES, context)
        for node in graph.nodes:
            context.count("nodes visited")
            if isinstance(node.op, GatherElements):
                changed |= _fuse_repeated(graph, node, context)
        return changed


def _fuse_repeated(graph: Graph, node: Node, context: PassContext) -> bool:
    """``gather_elements`` of a table repeated for each row of the batch, at indices repeated for each feature."""
    assert isinstance(node.op, GatherElements)
    table, at = node.inputs
    if node.op.axis != 1 or table.type.rank != 3 or at.type.shape[2] != table.type.shape[2]:
        return False
    rows = _repeated(table, table.type.shape[1:], leading=True)
    places = _repeated(at, at.type.shape[:2], leading=False)
    if rows is None or places is None or not isinstance(rows[0].op, Constant) or not context.take_rewrite(SUBJECT, node.location):
        return False
    location = union(each.location for each in (node, *rows[1], *places[1]))
    build = Builder(graph, before=node, location=location, stage=node.stage)
    flat = build(Reshape(table.type.shape[1:]), rows[0])
    result = build(Embedding(), flat, build(Reshape(at.type.shape[:2]), places[0]))
    result.name = node.result.name
    graph.replace_uses(node.result, result)
    erase_dead(graph, [node])
    context.done(SUBJECT, location, node=result.producer)
    return True


def _repeated(value: Value, shape: Shape, leading: bool) -> tuple[Value, list[Node]] | None:
    """What has the elements of ``shape`` once and is only repeated, in front (``leading``) or behind, to give ``value``; and the nodes."""
    nodes: list[Node] = []
    while value.producer is not None and isinstance(value.op, Expand | Reshape):
        source = value.producer.inputs[0]
        if isinstance(value.op, Expand) and not _grows_at_one_end(source.type.shape, value.type.shape, leading):
            return None
        nodes.append(value.producer)
        value = source
    return (value, nodes) if value.type.size == product(shape) and nodes else None


def _grows_at_one_end(old: Shape, new: Shape, leading: bool) -> bool:
    """Whether every axis that grows lies before (or behind) all axes that had more than one element."""
    padded = (*[1] * (len(new) - len(old)), *old)
    kept = [axis for axis, dim in enumerate(padded) if dim != 1]
    grown = [axis for axis, (before, after) in enumerate(zip(padded, new, strict=True)) if before != after]
    return not kept or all(axis < kept[0] if leading else axis > kept[-1] for axis in grown)
