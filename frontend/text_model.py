"""Seeing by its interface that a graph is a language model."""

from __future__ import annotations

from cgptc.frontend.source import TextModel
from cgptc.ir.dims import Dim, bounds
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.shape import Reshape


def as_text_model(graph: Graph) -> TextModel | None:
    """What generation needs, where ids ``[batch, seq]`` go in and ``[batch, seq, vocabulary]`` comes out.

    The vocabulary is as many as the table has rows that the ids choose from: a model that gives hidden states is none. Input and output
    then get the names that runtimes know.
    """
    if len(graph.outputs) != 1 or not graph.inputs:
        return None
    ids, (_, result) = graph.inputs[0], graph.outputs[0]
    shape = result.type.shape
    vocabulary = shape[-1] if shape else 0
    if ids.type.dtype is not i64 or ids.type.rank != 2 or shape[:-1] != ids.type.shape or not isinstance(vocabulary, int):
        return None
    if not result.type.dtype.is_float or any(value.name != "attention_mask" for value in graph.inputs[1:]):
        return None
    if vocabulary not in _table_sizes(ids):
        return None
    ids.name = "input_ids"
    graph.set_outputs([("logits", result)])
    return TextModel(vocabulary, bounds(ids.type.shape[1])[1])


def _table_sizes(ids: Value) -> set[Dim]:
    """The number of rows of every table that these ids index."""
    sizes: set[Dim] = set()
    pending = [ids]
    while pending:
        for use in pending.pop().uses:
            if use.user is None:
                continue
            match use.user.op:
                case Embedding() | Gather() if use.index == 1:
                    sizes.add(use.user.inputs[0].type.shape[0])
                case Cast() | Reshape():
                    pending.append(use.user.result)
                case _:
                    pass
    return sizes
