"""A legal graph as work on one item: each node by the rule of its op, or refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cgptc.backends.wafer.plan.rules  # noqa: F401  (declares the rules)
from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, TIME, is_time, parts
from cgptc.backends.wafer.plan.gates import gated
from cgptc.backends.wafer.plan.held import Features, Ids, Item, Padding, Past, Present, RefusedError, TooLongError, plain
from cgptc.backends.wafer.plan.lift import RULES, Lift
from cgptc.backends.wafer.plan.tables import tabulate
from cgptc.backends.wafer.plan.tasks import PADDING, Cache, Feed, Output, Part, Task, Tasks
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.attention import Attention
from cgptc.ir.types import TensorType

MASK, PAST_PREFIX = "attention_mask", "past_key_values."

MOST_TOKENS, MOST_ROW_TOKENS = 2048, 128
"""The most tokens of a row where nobody says more: of rows that are read token by token, and of rows that are one item."""


@dataclass(frozen=True)
class Refused:
    """A node that has no place on the wafer, and why."""

    node: Node
    reason: str


def lift(graph: Graph, limit: int | None = None) -> tuple[Tasks | None, list[Refused]]:
    """The graph as tasks, and every node that has none; no tasks where any is refused. Rows have at most ``limit`` tokens.

    An item is a token where tokens see none that come later, else, and where something is made of a row's tokens together, a whole row.
    Nodes that depend on a refused one are not refused for it. No weight is read but small constants of the graph's own.
    """
    cached = any(value.name.startswith(PAST_PREFIX) for value in graph.inputs)
    ways = (False,) if cached else _ways(graph)
    found = [_within_tables(graph, limit, whole=whole) for whole in ways]
    return min(found, key=lambda one: len(one[1]))


def _within_tables(graph: Graph, limit: int | None, *, whole: bool) -> tuple[Tasks | None, list[Refused]]:
    """The graph for rows as long as the model's tables of positions have rows for."""
    while True:
        try:
            return _lift(graph, limit, whole=whole)
        except TooLongError as error:
            limit = error.tokens


def _ways(graph: Graph) -> tuple[bool, ...]:
    """Whether items may be whole rows, the better way first: they must be where tokens see later ones. Padding has outputs of its own in
    whole rows only, but token by token its mask may be counted.
    """
    attentions = [node for node in graph.nodes if isinstance(node.op, Attention)]
    if any(isinstance(node.op, Attention) and not node.op.causal for node in attentions):
        return (True,)
    masked = any(len(node.operands) > 3 and node.operands[3] is not None for node in attentions)
    return (True, False) if masked else (False, True)


def _lift(graph: Graph, limit: int | None, *, whole: bool) -> tuple[Tasks | None, list[Refused]]:
    refused: list[Refused] = []
    state = _start(graph, limit or (MOST_ROW_TOKENS if whole else MOST_TOKENS), whole=whole)
    if isinstance(state, str):
        first = next(graph.nodes, None)
        return None, [Refused(first, state)] if first is not None else []
    for node in graph.nodes:
        if any(value not in state.items for value in node.inputs):
            reason = _input_reason(node, state)
            if reason:
                refused.append(Refused(node, reason))
            continue
        try:
            state.items.update(zip(node.results, _read(state, node), strict=True))
        except RefusedError as error:
            refused.append(Refused(node, str(error)))
    outputs: list[Output] = []
    for name, value in graph.outputs:
        if value not in state.items:
            continue
        item = state.items[value]
        try:
            outputs += _output(state, name, item)
        except RefusedError as error:
            if value.producer is not None:
                refused.append(Refused(value.producer, str(error)))
    if refused:
        return None, refused
    kept = {one.value for one in outputs}
    tasks = gated(_needed(state.tasks, kept | set(state.caches)), kept)
    named = state.named | {kind for one in outputs for kind in parts(one.axes)}
    bases = tuple(Part(name, base, difference) for name, (base, difference) in state.bases.items() if name in named)
    used = {name for task in tasks for name in task.inputs} | {one.value for one in outputs}
    feeds = tuple(feed for feed in state.feeds.values() if feed.value in used)
    marks = tuple(mark for mark in state.marks.values() if mark.value in used)
    dtype = next((value.type.dtype.name for _, value in graph.outputs if value.type.dtype.is_float), "f32")
    caches = () if whole else tuple(state.caches.values())
    return Tasks(tuple(tasks), feeds, tuple(outputs), caches, state.context, dtype, state.mask, whole, marks, bases), []


def _needed(tasks: Sequence[Task], roots: set[str]) -> list[Task]:
    """The tasks that some value of ``roots`` comes from: a rule may replace what another made. Tasks come after what they read."""
    wanted = set(roots)
    found = []
    for task in reversed(tasks):
        if task.name in wanted:
            wanted.update(task.inputs)
            found.append(task)
    return found[::-1]


def _read(state: Lift, node: Node) -> tuple[Item, ...]:
    """A node by its rule, or as a table where it depends on positions alone."""
    rule = RULES.get(type(node.op))
    tabulated = tabulate(state, node)
    if tabulated is not None:
        return tabulated
    if rule is None:
        raise RefusedError("the wafer has no kernel for it")
    return rule(state, node.op, node)


def _start(graph: Graph, limit: int, *, whole: bool) -> Lift | str:
    """The inputs read; why they cannot be, else."""
    given = [value for value in graph.inputs if not value.name.startswith(PAST_PREFIX)]
    lead = next((value.type for value in given if value.name != MASK), None)
    if lead is None or lead.rank < 2:
        return "the model's first input must be [batch, time] ids or [batch, time, features]"
    pasts = [value.type for value in graph.inputs if value.name.startswith(PAST_PREFIX)]
    batch, time = lead.shape[:2] if str(lead.shape[1]) != BATCH else lead.shape[1::-1]
    state = Lift(graph, batch, time, pasts[0].shape[2] if pasts else 0, whole, limit)
    state.times[time] = TIME
    state.names.add(PADDING)
    for value in given:
        dims = value.type.shape[:2]
        if whole and value.type.rank > 1 and batch in dims and not pasts:
            other = dims[1] if dims[0] == batch else dims[0]
            state.times.setdefault(other, f"{TIME}.{len(state.times)}")
    for value in graph.inputs:
        if value.name == MASK and value.uses:
            state.mask = MASK
        item = _input(state, value.name, value.type)
        if item is not None:
            state.items[value] = item
    return state


def _input(state: Lift, name: str, type_: TensorType) -> Item | None:
    if name.startswith(PAST_PREFIX):
        return Past(name)
    if name == MASK and type_.rank == 2:
        return Padding(name=name)
    if type_.shape == (state.batch,) and type_.dtype.is_integer and state.whole:
        state.feeds[name] = Feed(name, name, axes=(BATCH,))
        return Ids(name, (BATCH,))
    axes = state.tokens_of(type_.shape[:2])
    if axes is None:
        return None
    sequence = next(kind for kind in axes if is_time(kind))
    if type_.rank == 2 and type_.dtype.name == "bool":
        return Padding(name=name) if axes[0] == BATCH and state.whole else None
    state.names.add(name)
    if type_.rank == 2 and type_.dtype.is_integer:
        state.feeds[name] = Feed(name, name, axes=axes, rows=state.rows(sequence))
        return Ids(name, axes)
    if type_.rank == 3 and type_.dtype.is_float and isinstance(type_.shape[2], int):
        width = type_.shape[2]
        state.feed_features(Feed(name, name, width, (*axes, FEATURE), state.rows(sequence)))
        return plain(name, width, (*axes, FEATURE))
    return None


def _input_reason(node: Node, state: Lift) -> str:
    """Why a node whose operands are not all known is to be refused itself; empty where the cause was named before."""
    for value in node.inputs:
        if value.producer is None and value not in state.items:
            return f"the input '{value.name}' of type {value.type} is neither ids nor features of each token"
    return ""


def _output(state: Lift, name: str, item: Item) -> list[Output]:
    match item:
        case Present(task, key):
            cache = state.caches[task]
            state.caches[task] = Cache(
                task, cache.past_key, cache.past_value, name if key else cache.present_key, cache.present_value if key else name
            )
            return []
        case Features():
            return [Output(name, state.value(item), item.axes, tuple(item.columns.shape))]
        case _:
            raise RefusedError(f"the output '{name}' is no vector of features per token")
