"""A legal graph as work on one item: each node by the rule of its op, or refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from cgptc.backends.wafer.plan.held import (
    BATCH,
    FEATURE,
    TIME,
    Features,
    Held,
    Ids,
    Item,
    Padding,
    Past,
    Present,
    Product,
    RefusedError,
    Table,
    plain,
)
from cgptc.backends.wafer.plan.tables import tabulate
from cgptc.backends.wafer.plan.tasks import PADDING, Cache, Feed, LinearWork, LookupWork, PickWork, Task, Tasks, Work, width_of
from cgptc.ir.dims import Dim, symbols
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Op
from cgptc.ir.ops.attention import Attention
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import reshaped, taken
from cgptc.ir.weights import Weight

MASK, PAST_PREFIX = "attention_mask", "past_key_values."

OpT = TypeVar("OpT", bound=Op)
Rule = Callable[["Lift", Any, Node], tuple[Item, ...]]

RULES: dict[type[Op], Rule] = {}
"""What reads each op; its keys are the operations that the wafer takes."""


def lifts(kind: type[OpT]) -> Callable[[Callable[[Lift, OpT, Node], tuple[Item, ...]]], Callable[[Lift, OpT, Node], tuple[Item, ...]]]:
    """Declare the rule of an op. A second one for the same op is an error."""

    def declare(rule: Callable[[Lift, OpT, Node], tuple[Item, ...]]) -> Callable[[Lift, OpT, Node], tuple[Item, ...]]:
        if kind in RULES:
            raise ValueError(f"'{kind.__name__}' is lifted twice")
        RULES[kind] = rule
        return rule

    return declare


@dataclass(frozen=True)
class Refused:
    """A node that has no place on the wafer, and why."""

    node: Node
    reason: str


@dataclass(eq=False)
class Lift:
    """A graph being read. ``items`` says what each value is for one item; rules add to ``tasks``."""

    graph: Graph
    batch: Dim
    time: Dim
    past: Dim
    tasks: list[Task] = field(default_factory=list)
    caches: dict[str, Cache] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    items: dict[Value, Item] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    mask: str = ""
    whole: bool = False
    angles: dict[tuple[object, ...], str] = field(default_factory=dict)
    _made: dict[tuple[int, bytes], str] = field(default_factory=dict)
    _kept: list[Product] = field(default_factory=list)
    _widths: dict[str, int] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Tokens of an item."""
        return self.context if self.whole else 1

    @property
    def context(self) -> int:
        """The most tokens of a row."""
        return max(
            (symbol.high for symbol in symbols([self.time, self.past]).values()), default=self.time if isinstance(self.time, int) else 1
        )

    def operand(self, node: Node, index: int) -> Item:
        """An operand that is present."""
        value = node.operands[index] if index < len(node.operands) else None
        if value is None:
            raise RefusedError(f"its operand {index} is absent")
        return self.items[value]

    def optional(self, node: Node, index: int) -> Item | None:
        value = node.operands[index] if index < len(node.operands) else None
        return self.items[value] if value is not None else None

    def weight(self, node: Node, index: int) -> Weight:
        """An operand that is a constant."""
        item = self.operand(node, index)
        if not isinstance(item, Held):
            raise RefusedError(f"its operand {index} must be a constant")
        return item.weight

    def features(self, node: Node, index: int) -> Features:
        item = self.operand(node, index)
        if isinstance(item, Table):
            return self.fetched(node, index, item)
        if not isinstance(item, Features):
            raise RefusedError(f"its operand {index} is no vector of features per token")
        return item

    def fetched(self, node: Node, index: int, table: Table) -> Features:
        """What depends on positions alone, fetched row by row from a table of weights."""
        value = node.operands[index]
        rows, width = table.weight.shape[-2:]
        if value is None or table.axis != 1 or math.prod(table.weight.shape) != rows * width:
            raise RefusedError(f"its operand {index} is no vector of features per position")
        key = (id(value), b"")
        if key not in self._made:
            weight = reshaped(table.weight, (rows, width))
            path = value.producer.location.path if value.producer is not None else ""
            self._made[key] = self.add_task(LookupWork(rows, width, table.offset), (), [("table", weight)], path or "positions", node.stage)
        return plain(self._made[key], width)

    def flat(self, node: Node, index: int) -> Features:
        """An operand that has features along its last axis alone."""
        found = self.features(node, index)
        if not found.flat:
            raise RefusedError(f"its operand {index} must be [batch, time, features], its axes are {', '.join(found.axes)}")
        return found

    def value(self, item: Features) -> str:
        """The name of a value that holds these features in their order; a linear layer is made here, with the columns that are wanted."""
        if isinstance(item.source, str):
            if not np.array_equal(item.columns.reshape(-1), np.arange(self.width(item.source))):
                raise RefusedError("it takes some features of a tensor, or takes them in another order, which no kernel does yet")
            return item.source
        product = item.source
        columns = item.columns.reshape(-1)
        key = (id(product), columns.tobytes())
        if key not in self._made:
            self._kept.append(product)
            k, n = product.weight.shape
            chosen = [int(column) for column in columns]
            weight = product.weight if chosen == list(range(n)) else taken(product.weight, 1, chosen)
            weights = [("weight", weight)]
            if product.bias is not None:
                weights.append(("bias", product.bias if chosen == list(range(n)) else taken(product.bias, 0, chosen)))
            work = LinearWork(k, len(chosen), product.bias is not None)
            self._made[key] = self.add_task(work, (product.x,), weights, product.path, product.stage)
        return self._made[key]

    def width(self, source: str) -> int:
        """Features of a value."""
        return self._widths[source]

    def add(self, node: Node, work: Work, inputs: Sequence[str], weights: Sequence[tuple[str, Weight]] = ()) -> str:
        """A task for a node; its output's name."""
        return self.add_task(work, inputs, weights, node.location.path or node.op.name, node.stage)

    def add_task(self, work: Work, inputs: Sequence[str], weights: Sequence[tuple[str, Weight]], path: str, stage: int | None) -> str:
        name = self.unique(path)
        rows = 1 if isinstance(work, PickWork) else self._rows.get(inputs[0], self.rows) if inputs else self.rows
        self.tasks.append(Task(name, work, tuple(inputs), tuple(weights), path, stage, rows))
        self._rows[name] = rows
        self._widths[name] = width_of(work)
        return name

    def unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}#{number}"
        self.names.add(name)
        return name

    def is_rows(self, dims: Sequence[Dim]) -> bool:
        """Whether dimensions are those of batch and time."""
        return tuple(dims) == (self.batch, self.time)


def lift(graph: Graph) -> tuple[Tasks | None, list[Refused]]:
    """The graph as tasks, and every node that has none; no tasks where any is refused.

    Nodes that depend on a refused one are not refused for it. No weight is read but small constants of the graph's own.
    """
    import cgptc.backends.wafer.plan.rules  # noqa: F401  (declares the rules)

    refused: list[Refused] = []
    state = _start(graph)
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
    outputs: list[tuple[str, str]] = []
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
    used = {name for task in state.tasks for name in task.inputs}
    feeds = tuple(feed for feed in state.feeds if feed.value in used)
    dtype = next((value.type.dtype.name for _, value in graph.outputs if value.type.dtype.is_float), "f32")
    caches = () if state.whole else tuple(state.caches.values())
    return Tasks(tuple(state.tasks), feeds, tuple(outputs), caches, state.context, dtype, state.mask, state.whole), []


def _read(state: Lift, node: Node) -> tuple[Item, ...]:
    """A node by its rule, or as a table where it depends on positions alone."""
    rule = RULES.get(type(node.op))
    tabulated = tabulate(state, node)
    if tabulated is not None:
        return tabulated
    if rule is None:
        raise RefusedError("the wafer has no kernel for it")
    return rule(state, node.op, node)


def _start(graph: Graph) -> Lift | str:
    """The inputs read; why they cannot be, else."""
    lead = next((value.type for value in graph.inputs if not value.name.startswith(PAST_PREFIX) and value.name != MASK), None)
    if lead is None or lead.rank < 2:
        return "the model's first input must be [batch, time] ids or [batch, time, features]"
    pasts = [value.type for value in graph.inputs if value.name.startswith(PAST_PREFIX)]
    state = Lift(graph, lead.shape[0], lead.shape[1], pasts[0].shape[2] if pasts else 0)
    state.whole = any(isinstance(node.op, Attention) and not node.op.causal for node in graph.nodes)
    state.names.add(PADDING)
    for value in graph.inputs:
        item = _input(state, value.name, value.type)
        if item is not None:
            state.items[value] = item
    return state


def _input(state: Lift, name: str, type_: TensorType) -> Item | None:
    if name.startswith(PAST_PREFIX):
        return Past(name)
    if name == MASK and type_.rank == 2:
        state.mask = name
        return Padding()
    if not state.is_rows(type_.shape[:2]):
        return None
    state.names.add(name)
    if type_.rank == 2 and type_.dtype.is_integer:
        state.feeds.append(Feed(name, name))
        return Ids(name)
    if type_.rank == 3 and type_.dtype.is_float and isinstance(type_.shape[2], int):
        state.feeds.append(Feed(name, name, type_.shape[2]))
        state._widths[name] = type_.shape[2]
        return plain(name, type_.shape[2])
    return None


def _input_reason(node: Node, state: Lift) -> str:
    """Why a node whose operands are not all known is to be refused itself; empty where the cause was named before."""
    for value in node.inputs:
        if value.producer is None and value not in state.items:
            return f"the input '{value.name}' of type {value.type} is neither ids nor features of each token"
    return ""


def _output(state: Lift, name: str, item: Item) -> list[tuple[str, str]]:
    match item:
        case Present(task, key):
            cache = state.caches[task]
            state.caches[task] = Cache(
                task, cache.past_key, cache.past_value, name if key else cache.present_key, cache.present_value if key else name
            )
            return []
        case Features() if item.axes in ((BATCH, TIME, FEATURE), (BATCH, FEATURE)):
            return [(name, state.value(item))]
        case _:
            raise RefusedError(f"the output '{name}' is no vector of features per token")
