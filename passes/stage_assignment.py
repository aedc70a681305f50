"""Giving each node its stage, and each stage its own copy of what it does not receive."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np

from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.shape import Transpose
from cgptc.passes.stage_chain import SharedWeight, WorkChain, permutation_between

InStage: TypeAlias = dict[tuple[Value, int], Value]
"""What stands for a value in a stage."""


def assign_stages(work: WorkChain, ends: Sequence[int], sent: Collection[SharedWeight]) -> None:
    """Set the stage of every node: ``ends`` are the places behind the last work of each stage.

    Weights that are ``sent`` stay in the first stage that needs them; every other constant, and every value that is made again, is
    copied to each stage that needs it.
    """
    graph = work.graph
    stage_of = [int(stage) for stage in np.searchsorted(np.array(ends), np.arange(len(work.work)), side="right")]
    for place, node in enumerate(work.work):
        graph.set_stage(node, stage_of[place])
    sources = {constant: weight for weight in sent for constant in weight.constants}
    standing: InStage = {}
    for node, places in work.needed_at.items():
        first_users: dict[int, Node] = {}
        for place in places:
            first_users.setdefault(stage_of[place], work.work[place])
        weight = sources.get(node)
        for number, stage in enumerate(first_users or [0]):
            if weight is not None and stage != stage_of[weight.places[0]]:
                standing[node.result, stage] = _received(graph, weight.constants[0], node, first_users[stage])
            else:
                _copy(graph, node, stage, standing, itself=number == 0)
    for node in work.needed_at:
        _use_standing(graph, node, standing)
    for node in sources:
        if not node.result.use_count:
            graph.erase(node)


def _copy(graph: Graph, node: Node, stage: int, standing: InStage, *, itself: bool) -> None:
    """The node itself for the first stage that needs it, a twin behind it for any other; its operands are those of its stage."""
    operands = [standing.get((operand, stage), operand) if operand is not None else None for operand in node.operands]
    if itself:
        for index, operand in enumerate(operands):
            if operand is not node.operands[index]:
                graph.set_operand(node, index, operand)
        graph.set_stage(node, stage)
        copy = node
    else:
        copy = graph.insert(node.op, operands, before=node._next, location=node.location, stage=stage)
    for old, new in zip(node.results, copy.results, strict=True):
        new.name = old.name
        standing[old, stage] = new


def _received(graph: Graph, source: Node, wanted: Node, user: Node) -> Value:
    """A constant as a stage makes it from what the first stage sends; ``user`` is the first of the stage to need it."""
    permutation = permutation_between(source, wanted)
    assert permutation is not None
    if permutation == tuple(range(len(permutation))):
        return source.result
    return graph.insert(Transpose(permutation), [source.result], before=user, location=wanted.location, stage=user.stage).result


def _use_standing(graph: Graph, node: Node, standing: InStage) -> None:
    """Give work what stands for a node's results in its stage. Copies have theirs already."""
    for value in node.results:
        for use in value.uses:
            if use.user is None or use.user.stage is None:
                continue
            found = standing.get((value, use.user.stage), value)
            if found is not value and found.producer is not use.user:
                graph.set_operand(use.user, use.index, found)
