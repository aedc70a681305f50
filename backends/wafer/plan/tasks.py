"""A model as work on one item, between the tensor graph and the kernels.

An item is one token of one row: the graph's batch and sequence axes are gone, what is left of a value is its features, a vector. Where
tokens see later ones an item is a whole row, and a value has as many vectors as a row has tokens. Weights are expressions, so that a model
is planned without reading a byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cgptc.backends.wafer.axis_kinds import is_time, parts
from cgptc.backends.wafer.plan.works import (
    AnglesWork,
    AttendWork,
    EntropyWork,
    HeadNormWork,
    LookupWork,
    PoolWork,
    RotateWork,
    ShiftWork,
    SquaresWork,
    Work,
)
from cgptc.ir.weight_expressions import sliced
from cgptc.ir.weights import Weight

PADDING = "padding"
"""How values begin that say which tokens of a whole row are real: 1, else 0."""

IDS_WIDTH = 0
"""The width of a value that holds an index."""


@dataclass(frozen=True)
class Task:
    """One kernel's work. ``name`` is unique and names its output, of ``rows`` vectors; ``path`` is the module that it comes from.

    ``sequence`` is the sequence of whose tokens a whole row has that many vectors at most; empty for a row's only one.
    """

    name: str
    work: Work
    inputs: tuple[str, ...]
    weights: tuple[tuple[str, Weight], ...] = ()
    path: str = ""
    stage: int | None = None
    rows: int = 1
    sequence: str = ""


@dataclass(frozen=True)
class Feed:
    """A model input that the host gives item by item: an index where ``width`` is `IDS_WIDTH`, else that many features.

    ``axes`` are the kinds of the input's axes; an item has ``rows`` tokens, from token ``start`` of the row on, and ``filler`` where the
    row has fewer. Indices that are not ``exact`` are given as numbers.
    """

    name: str
    value: str
    width: int = IDS_WIDTH
    axes: tuple[str, ...] = ()
    rows: int = 1
    filler: int = 0
    exact: bool = True
    start: int = 0


@dataclass(frozen=True)
class Part:
    """A sequence that has ``difference`` more tokens than another: fewer, where some of them are left out."""

    sequence: str
    of: str
    difference: int


@dataclass(frozen=True)
class Mark:
    """A value that says which of a whole row's ``rows`` tokens are real, 1, else 0: by the model's input ``mask`` where there is one."""

    value: str
    sequence: str
    rows: int
    mask: str = ""
    inverted: bool = False


@dataclass(frozen=True)
class Output:
    """The model's output ``name`` is a value; ``axes`` are the kinds of its axes, ``features`` the sizes of feature kinds among them."""

    name: str
    value: str
    axes: tuple[str, ...]
    features: tuple[int, ...]


@dataclass(frozen=True)
class Cache:
    """The keys and values of an attention task, and by which names the model takes and gives them (empty where it does not)."""

    task: str
    past_key: str = ""
    past_value: str = ""
    present_key: str = ""
    present_value: str = ""


@dataclass(frozen=True)
class Tasks:
    """All work on an item, in an order that can be run.

    ``context`` is the most tokens of a row; ``mask`` the name of the padding mask's input, where there is one. ``whole``: an item is a
    row, ``marks`` say which of its tokens are real, and ``parts`` are sequences whose lengths follow from others'.
    """

    tasks: tuple[Task, ...]
    feeds: tuple[Feed, ...]
    outputs: tuple[Output, ...]
    caches: tuple[Cache, ...]
    context: int
    dtype: str
    mask: str = ""
    whole: bool = False
    marks: tuple[Mark, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def hosted(self) -> dict[str, int]:
        """Values that the host gives, by name, and their widths."""
        marks = [name for mark in self.marks for name in (mark.value, *(f"{mark.value}@{place}" for place in ("x", "y", "all")))]
        return {feed.value: feed.width for feed in self.feeds} | dict.fromkeys(marks, IDS_WIDTH)

    @property
    def sequences(self) -> dict[str, int]:
        """Sequences of which a run says how many tokens its rows have, and the most of each; none where items are tokens."""
        if not self.whole:
            return {}
        return {kind: feed.rows for feed in self.feeds for kind in parts(feed.axes) if is_time(kind)}

    @property
    def fewest(self) -> dict[str, int]:
        """Tokens without which a row of each of these sequences is none: a task counts on them."""
        found = dict.fromkeys(self.sequences, 1)
        for task in self.tasks:
            match task.work:
                case PoolWork(mode="row", at=at, sequence=sequence) if sequence in found:
                    found[sequence] = max(found[sequence], at + 1)
                case ShiftWork(start=start) if task.sequence in found:
                    found[task.sequence] = max(found[task.sequence], min(start, task.rows))
                case _:
                    pass
        return found


def shortened(tasks: Tasks, context: int) -> Tasks:
    """The same for rows of at most ``context`` tokens: tables by position lose the rows that no token reaches."""
    feeds = tuple(replace(feed, rows=min(feed.rows, context)) for feed in tasks.feeds)
    marks = tuple(replace(mark, rows=min(mark.rows, context)) for mark in tasks.marks)
    kept = tuple(replace(_shortened(task, context), rows=min(task.rows, context)) for task in tasks.tasks)
    return replace(tasks, context=min(context, tasks.context), tasks=kept, feeds=feeds, marks=marks)


def _shortened(task: Task, context: int) -> Task:
    match task.work:
        case LookupWork(rows, width, int() as offset) if rows > context + offset:
            work: Work = LookupWork(context + offset, width, offset)
            rows = context + offset
        case AnglesWork(attend, rows):
            rows = min(rows, context)
            work = AnglesWork(_shortened_attention(attend, context), rows)
        case AttendWork() as attend:
            within = _shortened_attention(attend, context)
            biases = tuple((role, _shortened_table(one, context)) for role, one in task.weights)
            return replace(task, work=within, weights=biases)
        case RotateWork(attend) | HeadNormWork(attend):
            return replace(task, work=replace(task.work, attend=_shortened_attention(attend, context)))
        case PoolWork(rows=rows) | EntropyWork(rows=rows) | SquaresWork(rows=rows):
            return replace(task, work=replace(task.work, rows=min(rows, context)))
        case _:
            return task
    return replace(task, work=work, weights=tuple((role, sliced(weight, 0, 0, rows)) for role, weight in task.weights))


def _shortened_table(weight: Weight, context: int) -> Weight:
    """The part of ``[…, queries, keys]`` for rows of at most ``context`` tokens."""
    queries, keys = (min(context, size) for size in weight.shape[1:])
    return sliced(sliced(weight, 1, 0, queries), 2, 0, keys)


def _shortened_attention(work: AttendWork, context: int) -> AttendWork:
    return replace(work, queries=min(work.queries, context), keys=min(work.keys, context))
