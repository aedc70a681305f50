"""Zeros that a gather turns into smaller matrices: layers read the features that they use, and compute the outputs that differ from 0.

What a norm or a residual sum gives keeps its width, whatever one layer reads of it, so these zeros stay where `remove-dead` looks. A gather
leaves out what a layer multiplies by zeros, another puts its outputs back into their places: one node each, where the target says that
it costs less than the zeros do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.cost import CostModel
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Array
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.sparsity import living_lines
from cgptc.ir.weight_expressions import taken
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.weight_names import weight_of

TOKENS = (1, 128)
"""Rows of the products that must all gain: decode and prefill."""


@dataclass(frozen=True)
class Pick:
    """What is left of a layer's weight of shape ``whole``: the ``rows`` whose features it reads, and for each output the column in
    ``sources`` that gives it: its own, or for one that is always 0 the first of that kind. None stands for all as they are.
    """

    whole: tuple[int, int]
    rows: tuple[int, ...] | None = None
    sources: tuple[int, ...] | None = None

    @property
    def left(self) -> tuple[int, int]:
        """The shape of what is left."""
        height, width = self.whole
        return height if self.rows is None else len(self.rows), width if self.sources is None else len(set(self.sources))

    def time(self, model: CostModel, tokens: int, dtype: DType) -> float:
        """The product of what is left, and the gathers. Infinite where the target has none."""
        read = [(self.whole[0], self.left[0])] if self.rows is not None else []
        put_back = [(self.left[1], self.whole[1])] if self.sources is not None else []
        prices = [model.matmul(tokens, *self.left, dtype), *(model.pick(tokens, *sizes) for sizes in (*read, *put_back))]
        return sum(price.time if price is not None else math.inf for price in prices)


@dataclass(frozen=True)
class PickLiving(Pass, name="pick-living", optional=False):
    """Where a weight's pattern has whole rows or columns of zeros, multiply by the others: a gather takes the features that they read, one
    gather for all layers that read the same, or puts the outputs back. Only where the target's prices say that one token and 128 gain.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.cost_model is None:
            return False
        read: dict[tuple[Value, tuple[int, ...]], Value] = {}
        changed = False
        for layer, pick in find_picks(graph, context.cost_model).items():
            if pick is None:
                context.missed("zeros", layer.location, "a gather around its zero rows or columns costs what they do", node=layer)
                continue
            height, width = pick.left
            made = _replace(graph, layer, pick, read)
            context.done("zeros", made.location, f"{height} x {width} of {pick.whole[0]} x {pick.whole[1]} are left", node=made)
            changed = True
        return changed


def find_picks(graph: Graph, model: CostModel) -> dict[Node, Pick | None]:
    """For each linear layer with dead rows or columns, as its weight's pattern says: what to pick, None where that gains nothing."""
    found: dict[Node, Pick | None] = {}
    if model.pick(1, 1, 1) is None:
        return found
    for node in graph.nodes:
        weight = weight_of(node, 1) if isinstance(node.op, Linear) else None
        if weight is None:
            continue
        height, width = weight.shape
        rows, columns = (living_lines(weight, axis, graph.store) for axis in (0, 1))
        if node.result.is_output:  # by which a head is known
            columns = None
        choices = product(dict.fromkeys((None, _living(rows))), dict.fromkeys((None, _sources(columns))))
        if picks := [Pick((height, width), *chosen) for chosen in choices if chosen != (None, None)]:
            found[node] = _best(model, picks, weight.dtype)
    return found


def _living(lines: Array | None) -> tuple[int, ...] | None:
    """The lines that live, of none the first; None where all do."""
    if lines is None or lines.all():
        return None
    return tuple(map(int, np.flatnonzero(lines))) or (0,)


def _sources(lines: Array | None) -> tuple[int, ...] | None:
    """Each line that lives, and the first dead one for each that does not; None where all live."""
    if lines is None or lines.all():
        return None
    return tuple(map(int, np.where(lines, np.arange(len(lines)), np.argmin(lines))))


def _best(model: CostModel, picks: Sequence[Pick], dtype: DType) -> Pick | None:
    """The one that saves most of the time, of those that save some of it with one token and with many."""
    whole = [model.matmul(tokens, *picks[0].whole, dtype).time for tokens in TOKENS]
    times = {pick: [pick.time(model, tokens, dtype) for tokens in TOKENS] for pick in picks}
    worth = [pick for pick in picks if all(less < more for less, more in zip(times[pick], whole, strict=True))]
    return min(worth, key=lambda pick: sum(less / more for less, more in zip(times[pick], whole, strict=True)), default=None)


def _replace(graph: Graph, layer: Node, pick: Pick, read: dict[tuple[Value, tuple[int, ...]], Value]) -> Node:
    """The smaller layer in the place of the old one; ``read`` are the gathers of features that stand already."""
    x, weight = layer.inputs[0], weight_of(layer, 1)
    assert weight is not None
    build = Builder(graph, before=layer, location=layer.location, stage=layer.stage)
    bias = layer.operands[2] if len(layer.operands) > 2 else None
    axis = x.type.rank - 1
    if pick.rows is not None:
        weight = taken(weight, 0, pick.rows)
        if (x, pick.rows) not in read:
            read[x, pick.rows] = build(Gather(axis), x, build.constant(np.asarray(pick.rows, np.int64)))
        x = read[x, pick.rows]
    if pick.sources is None:
        made = build.node(Linear(), x, build.weight(weight), bias)
        result = made.result
    else:
        columns, places = np.unique(pick.sources, return_inverse=True)
        made = build.node(Linear(), x, build.weight(taken(weight, 1, columns.tolist())))
        result = build(Gather(axis), made.result, build.constant(places.astype(np.int64)))
        result = result if bias is None else build(Add(), result, bias)
    result.name = layer.result.name
    graph.replace_uses(layer.result, result)
    erase_dead(graph, [layer])
    return made
