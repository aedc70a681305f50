"""A model as work on one item, between the tensor graph and the kernels.

An item is one token of one row: the graph's batch and sequence axes are gone, what is left of a value is its features, a vector. Where
tokens see later ones an item is a whole row, and a value has as many vectors as a row has tokens. Weights are expressions, so that a model
is planned without reading a byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from cgptc.backends.wafer.axis_kinds import is_time, parts
from cgptc.backends.wafer.kernels.loss import Summary
from cgptc.backends.wafer.kernels.pooling import Mode as PoolMode
from cgptc.backends.wafer.kernels.rearrange import Piece
from cgptc.backends.wafer.plan.zero_patterns import Zeros
from cgptc.ir.weight_expressions import sliced
from cgptc.ir.weights import Weight

PADDING = "padding"
"""How values begin that say which tokens of a whole row are real: 1, else 0."""

IDS_WIDTH = 0
"""The width of a value that holds an index."""


@dataclass(frozen=True)
class LinearWork:
    """``y [n] = x [k] @ weight (+ bias)``; ``zeros`` are those of a weight that was made sparse."""

    k: int
    n: int
    bias: bool
    zeros: Zeros | None = None


@dataclass(frozen=True)
class MlpWork:
    """``down(activation(up(x)))`` by two linear layers: ``k`` features become ``hidden`` ones, and those ``n``.

    Where ``gated`` it is ``down(activation(gate(x)) · up(x))``.
    """

    k: int
    hidden: int
    n: int
    activation: str
    up_bias: bool
    down_bias: bool
    gated: bool = False
    gate_bias: bool = False


@dataclass(frozen=True)
class NormWork:
    """LayerNorm over all features, or RMSNorm where ``rms``."""

    width: int
    eps: float
    rms: bool
    weight: bool
    bias: bool


@dataclass(frozen=True)
class MapWork:
    """An element-wise operation of one or two values."""

    op: str
    width: int


@dataclass(frozen=True)
class ConstantWork:
    """An element-wise operation with a number, or with a weight of one number per feature where ``value`` is None."""

    op: str
    width: int
    value: float | None
    reverse: bool = False


@dataclass(frozen=True)
class LookupWork:
    """A row of a table: that of the item's id, or where ``offset`` is given that of its position plus the offset."""

    rows: int
    width: int
    offset: int | None = None


@dataclass(frozen=True)
class AttendWork:
    """Causal attention of the item's query to all keys so far; the region keeps them. In items of whole rows their own keys alone, of which
    a query sees those before it where ``causal``, and none of padding.

    Those are ``keys``, for ``queries`` of them, of ``key_sequence`` and ``query_sequence``. ``rotated`` is the number of features of each
    head that rotary positions turn, 0 where there are none; ``interleaved`` how they pair. ``biased``: a weight ``bias [biased, queries,
    keys]`` is added to the scores, that of all heads where it is 1; queries and keys are a whole row's, or all positions where the region
    keeps keys.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    rotated: int = 0
    interleaved: bool = False
    causal: bool = True
    queries: int = 0
    keys: int = 0
    biased: int = 0
    query_sequence: str = ""
    key_sequence: str = ""


@dataclass(frozen=True)
class PoolWork:
    """One vector out of a whole row's: their mean, sum or largest elements, the last one, or that of token ``at``.

    The second input, where there is one, says which tokens are the row's, which is one of ``sequence``.
    """

    mode: PoolMode
    width: int
    rows: int
    at: int = 0
    sequence: str = ""


@dataclass(frozen=True)
class SoftmaxWork:
    """Softmax over all features, or its logarithm."""

    width: int
    log: bool = False


@dataclass(frozen=True)
class ShiftWork:
    """A row's tokens from token ``start`` on, in the places of those from the first on; what is in the last places is not to be read."""

    width: int
    start: int


@dataclass(frozen=True)
class JoinWork:
    """Features of inputs of these widths, piece by piece."""

    widths: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class GateWork:
    """``activation(x) · z``."""

    activation: str
    width: int


@dataclass(frozen=True)
class EntropyWork:
    """Cross-entropy of rows of ``classes`` logits: of all items so far where it is summed up, else of each token."""

    classes: int
    rows: int
    summary: Summary
    ignore: int
    smoothing: float
    sequence: str = ""
    width: int = 1


@dataclass(frozen=True)
class SquaresWork:
    """Squared differences of vectors of ``features`` numbers: their mean or sum over all items so far."""

    features: int
    rows: int
    summary: Summary
    sequence: str = ""
    width: int = 1


@dataclass(frozen=True)
class HeadNormWork:
    """RMSNorm of each head of an attention's queries, or of its keys; the weight has one number for each feature of all heads."""

    attend: AttendWork
    keys: bool
    eps: float
    weight: bool


@dataclass(frozen=True)
class AnglesWork:
    """Cosines and sines of the item's position for the queries and keys of an attention, from weights ``cosines`` and ``sines``."""

    attend: AttendWork
    rows: int


@dataclass(frozen=True)
class RotateWork:
    """Rotary positions on an attention's queries, or on its keys; the second input is that of `AnglesWork`."""

    attend: AttendWork
    keys: bool


@dataclass(frozen=True)
class TurnWork:
    """The same values along the other direction of the grid; the planner inserts it."""

    width: int


Work: TypeAlias = (
    LinearWork
    | MlpWork
    | NormWork
    | MapWork
    | ConstantWork
    | LookupWork
    | AttendWork
    | AnglesWork
    | RotateWork
    | TurnWork
    | PoolWork
    | SoftmaxWork
    | ShiftWork
    | JoinWork
    | GateWork
    | EntropyWork
    | SquaresWork
    | HeadNormWork
)


def width_of(work: Work) -> int:
    """Features of what a task makes."""
    match work:
        case LinearWork() | MlpWork():
            return work.n
        case AttendWork():
            return work.heads * work.head_dim
        case RotateWork() | HeadNormWork():
            return (work.attend.kv_heads if work.keys else work.attend.heads) * work.attend.head_dim
        case AnglesWork():
            return work.attend.head_dim
        case JoinWork():
            return sum(piece.count for piece in work.pieces)
        case _:
            return work.width


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
