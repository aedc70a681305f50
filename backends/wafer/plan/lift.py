"""What is known of a graph while it is lifted, and how the rule of an op is declared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, ONE, TIME, is_time, parts
from cgptc.backends.wafer.kernels.rearrange import pieces_of
from cgptc.backends.wafer.plan.held import Columns, Features, Held, Ids, Item, Padding, Product, RefusedError, Table, TooLongError, plain
from cgptc.backends.wafer.plan.regroup import Atom
from cgptc.backends.wafer.plan.tasks import PADDING, Cache, Feed, Mark, Task
from cgptc.backends.wafer.plan.works import JoinWork, LinearWork, LookupWork, Work, width_of
from cgptc.backends.wafer.plan.zero_patterns import zeros_of
from cgptc.ir.dims import Dim, symbols
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Op
from cgptc.ir.weight_expressions import reshaped, taken
from cgptc.ir.weights import Weight

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


@dataclass(eq=False)
class Lift:
    """A graph being read. ``items`` says what each value is for one item; rules add to ``tasks``.

    ``times`` are the lengths of the model's sequences and the kinds of their axes; a row has at most ``limit`` tokens. ``bases`` say of
    which sequence another is a part, and how many tokens more it has; ``named`` are those of which tasks are or marks are taken.
    """

    graph: Graph
    batch: Dim
    time: Dim
    past: Dim
    whole: bool
    limit: int
    times: dict[Dim, str] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    caches: dict[str, Cache] = field(default_factory=dict)
    feeds: dict[str, Feed] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    items: dict[Value, Item] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    mask: str = ""
    angles: dict[tuple[object, ...], str] = field(default_factory=dict)
    bases: dict[str, tuple[str, int]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    _made: dict[tuple[int, bytes], str] = field(default_factory=dict)
    _joins: dict[tuple[JoinWork, tuple[str, ...]], str] = field(default_factory=dict)
    _kept: list[Product] = field(default_factory=list)
    _widths: dict[str, int] = field(default_factory=dict)
    _sequences: dict[str, str] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """The most tokens of a row of the first sequence, those of the past included."""
        return self.tokens(TIME)

    def tokens(self, sequence: str) -> int:
        """The most tokens of a row of a sequence; of a part, those of the sequence that it is a part of."""
        dim = self.length(self.base(sequence))
        if isinstance(dim, int):
            return dim
        lengths = [dim, self.past] if sequence == TIME else [dim]
        return min(max(symbol.high for symbol in symbols(lengths).values()), self.limit)

    def base(self, sequence: str) -> str:
        """The sequence that one is a part of, or itself: rows have room for all tokens of it."""
        return self.bases.get(sequence, (sequence, 0))[0]

    def length(self, sequence: str) -> Dim:
        return next(dim for dim, kind in self.times.items() if kind == sequence)

    def derived(self, sequence: str, length: Dim) -> str:
        """The kind of the tokens of a part of a sequence, or of one that is longer by so many."""
        found = self.times.get(length)
        if found is None:
            base = self.base(sequence)
            difference = length - self.length(base)
            assert isinstance(difference, int)
            found = self.times[length] = f"{TIME}.{len(self.times)}"
            self.bases[found] = (base, difference)
        if self.tokens(found) != self.tokens(sequence):
            raise RefusedError(f"rows of {length} tokens are those of two sequences")
        return found

    def rows(self, sequence: str) -> int:
        """Vectors of an item that a value of a sequence has; of no sequence where that is empty."""
        return self.tokens(sequence) if self.whole and sequence else 1

    def size(self, kind: str) -> Dim:
        """The size of an axis of a kind other than features."""
        return self.batch if kind == BATCH else 1 if kind == ONE else self.length(kind)

    def atoms(self, axes: Sequence[str], features: Sequence[int] = ()) -> list[Atom]:
        """Axes taken apart, with the sizes of the feature kinds among them."""
        left = list(features)
        return [(kind, left.pop(0) if kind == FEATURE else self.size(kind)) for kind in parts(axes)]

    def mark(self, sequence: str, mask: Padding | None = None) -> str:
        """The value that says which tokens of a whole row are real: those that a mask tells, else those that the row has."""
        mask = mask or Padding()
        if mask.name and sequence in self.bases:
            raise RefusedError("its mask of padding is that of tokens some of which are left out")
        name = PADDING + "".join(f":{one}" for one in (mask.name, "not" if mask.inverted else "", sequence.removeprefix(TIME)) if one)
        self.named.add(sequence)
        self.marks[name] = Mark(name, sequence, self.rows(sequence), mask.name, mask.inverted)
        return name

    def feed(self, ids: Ids, *, target: int | None = None) -> str:
        """The value of a model's input of indices; its own where first tokens are left out, or it holds classes: padding has that one."""
        if ids.filler not in (None, target):
            raise RefusedError(f"its indices are {ids.filler} behind a row's last token")
        if target is None and not ids.start:
            return ids.value
        known = self.feeds[ids.value]
        name = f"{ids.value}:{'classes' if target is not None else 'ids'}{f'+{ids.start}' if ids.start else ''}"
        self.feeds[name] = replace(known, value=name, filler=target or 0, exact=target is None, start=ids.start)
        return name

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
        if len(table.weight.shape) < 2:
            raise RefusedError(f"its operand {index} is no vector of features per position")
        rows, width = table.weight.shape[-2:]
        if table.offset + self.tokens(table.sequence) > rows > table.offset and table.axis == 1:
            raise TooLongError(rows - table.offset)
        if value is None or table.axis != 1 or math.prod(table.weight.shape) != rows * width:
            raise RefusedError(f"its operand {index} is no vector of features per position")
        key = (id(value), b"")
        if key not in self._made:
            weight = reshaped(table.weight, (rows, width))
            path = value.producer.location.path if value.producer is not None else ""
            work = LookupWork(rows, width, table.offset)
            self._made[key] = self.add_task(work, (), [("table", weight)], path or "positions", node.stage, table.sequence)
        return plain(self._made[key], width, (BATCH, table.sequence, FEATURE))

    def flat(self, node: Node, index: int) -> Features:
        """An operand that has features along its last axis alone."""
        found = self.features(node, index)
        if not found.flat:
            raise RefusedError(f"its operand {index} must have its features last, its axes are {', '.join(found.axes)}")
        return found

    def value(self, item: Features) -> str:
        """The name of a value that holds these features in their order; a linear layer is made here, with the columns that are wanted."""
        if isinstance(item.source, str):
            wanted = item.columns.reshape(-1)
            return item.source if np.array_equal(wanted, np.arange(self.width(item.source))) else self.joined([(item.source, wanted)])
        product = item.source
        columns = item.columns.reshape(-1)
        key = (id(product), columns.tobytes())
        if key not in self._made:
            self._kept.append(product)
            k, n = product.weight.shape
            everything = np.array_equal(columns, np.arange(n))
            weights = [("weight", product.weight if everything else taken(product.weight, 1, columns.tolist()))]
            if product.bias is not None:
                weights.append(("bias", product.bias if everything else taken(product.bias, 0, columns.tolist())))
            work = LinearWork(k, columns.size, product.bias is not None, zeros_of(weights[0][1], self.graph.store))
            self._made[key] = self.add_task(work, (product.x,), weights, product.path, product.stage)
        return self._made[key]

    def joined(self, sources: Sequence[tuple[str, Columns]], path: str = "", stage: int | None = None) -> str:
        """The value that holds features of others, one after the other."""
        names = list(dict.fromkeys(name for name, _ in sources))
        pieces = pieces_of([(names.index(name), column) for name, columns in sources for column in columns.tolist()])
        work = JoinWork(tuple(self.width(name) for name in names), pieces)
        key = (work, tuple(names))
        if key not in self._joins:
            maker = next((task for task in reversed(self.tasks) if task.name == names[0]), None)
            path, stage = (path, stage) if path or maker is None else (maker.path, maker.stage)
            self._joins[key] = self.add_task(work, names, (), path or "join", stage)
        return self._joins[key]

    def width(self, source: str) -> int:
        """Features of a value."""
        return self._widths[source]

    def all_of(self, name: str, like: Features, axes: tuple[str, ...]) -> Features:
        """All features of a task's output in the shape of another value's."""
        return Features(name, np.arange(like.columns.size).reshape(like.columns.shape), axes)

    def add(
        self, node: Node, work: Work, inputs: Sequence[str], weights: Sequence[tuple[str, Weight]] = (), sequence: str | None = None
    ) -> str:
        """A task for a node; its output's name, which is of its first input's ``sequence`` where that is None, of none where empty."""
        return self.add_task(work, inputs, weights, node.location.path or node.op.name, node.stage, sequence)

    def add_task(
        self,
        work: Work,
        inputs: Sequence[str],
        weights: Sequence[tuple[str, Weight]],
        path: str,
        stage: int | None,
        sequence: str | None = None,
    ) -> str:
        name = self.unique(path)
        self.named.add(sequence or "")
        sequence = self._sequences[inputs[0]] if sequence is None else self.base(sequence) if self.whole else ""
        self.tasks.append(Task(name, work, tuple(inputs), tuple(weights), path, stage, self.rows(sequence), sequence))
        self._sequences[name] = sequence
        self._widths[name] = width_of(work)
        return name

    def feed_features(self, feed: Feed) -> None:
        """An input of features, which tasks read as they read the output of a task."""
        self.feeds[feed.value] = feed
        self._widths[feed.value] = feed.width
        self._sequences[feed.value] = next(kind for kind in feed.axes if is_time(kind)) if self.whole else ""

    def unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}#{number}"
        self.names.add(name)
        return name

    def tokens_of(self, dims: Sequence[Dim]) -> tuple[str, ...] | None:
        """The axes of dimensions that are those of a batch's tokens; None for others."""
        if len(dims) != 2 or self.batch not in dims:
            return None
        # The first of equal sizes is the batch's.
        first = dims[0] == self.batch
        kind = self.times.get(dims[1 if first else 0])
        return None if kind is None else (BATCH, kind) if first else (kind, BATCH)
