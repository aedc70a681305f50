"""A model as work on one item, between the tensor graph and the kernels.

An item is one token of one row: the graph's batch and sequence axes are gone, what is left of a value is its features, a vector. Where
tokens see later ones an item is a whole row, and a value has as many vectors as a row has tokens. Weights are expressions, so that a model
is planned without reading a byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from cgptc.ir.weight_expressions import sliced
from cgptc.ir.weights import Weight

PADDING = "padding"
"""The value that says which tokens of a whole row are real: 1, else 0."""

IDS_WIDTH = 0
"""The width of a value that holds an index."""


@dataclass(frozen=True)
class LinearWork:
    """``y [n] = x [k] @ weight (+ bias)``."""

    k: int
    n: int
    bias: bool


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

    ``rotated`` is the number of features of each head that rotary positions turn, 0 where there are none; ``interleaved`` how they pair.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    rotated: int = 0
    interleaved: bool = False
    causal: bool = True


@dataclass(frozen=True)
class PickWork:
    """The first token's features of a whole row."""

    width: int


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


Work: TypeAlias = LinearWork | NormWork | MapWork | ConstantWork | LookupWork | AttendWork | AnglesWork | RotateWork | PickWork | TurnWork


def width_of(work: Work) -> int:
    """Features of what a task makes."""
    match work:
        case LinearWork():
            return work.n
        case AttendWork():
            return work.heads * work.head_dim
        case RotateWork():
            return (work.attend.kv_heads if work.keys else work.attend.heads) * work.attend.head_dim
        case AnglesWork():
            return work.attend.head_dim
        case _:
            return work.width


@dataclass(frozen=True)
class Task:
    """One kernel's work. ``name`` is unique and names its output, of ``rows`` vectors; ``path`` is the module that it comes from."""

    name: str
    work: Work
    inputs: tuple[str, ...]
    weights: tuple[tuple[str, Weight], ...] = ()
    path: str = ""
    stage: int | None = None
    rows: int = 1


@dataclass(frozen=True)
class Feed:
    """A model input that the host gives item by item: an index where ``width`` is `IDS_WIDTH`, else that many features."""

    name: str
    value: str
    width: int = IDS_WIDTH


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

    ``outputs`` pairs the model's names with values; ``context`` is the most tokens of a row; ``mask`` the name of the padding mask's
    input, where there is one. ``whole``: an item is a row, and the value `PADDING` holds which of its tokens are real.
    """

    tasks: tuple[Task, ...]
    feeds: tuple[Feed, ...]
    outputs: tuple[tuple[str, str], ...]
    caches: tuple[Cache, ...]
    context: int
    dtype: str
    mask: str = ""
    whole: bool = False

    @property
    def rows(self) -> int:
        """Tokens of an item."""
        return self.context if self.whole else 1


def shortened(tasks: Tasks, context: int) -> Tasks:
    """The same for rows of at most ``context`` tokens: tables by position lose the rows that no token reaches."""
    if context >= tasks.context:
        return tasks
    if tasks.whole:
        rows = {tasks.context: context, 1: 1}
        kept = tuple(replace(_shortened(task, context), rows=rows[task.rows]) for task in tasks.tasks)
        return replace(tasks, context=context, tasks=kept)
    return replace(tasks, context=context, tasks=tuple(_shortened(task, context) for task in tasks.tasks))


def _shortened(task: Task, context: int) -> Task:
    match task.work:
        case LookupWork(rows, width, int() as offset) if rows > context + offset:
            work: Work = LookupWork(context + offset, width, offset)
            rows = context + offset
        case AnglesWork(attend, rows) if rows > context:
            work, rows = AnglesWork(attend, context), context
        case _:
            return task
    return replace(task, work=work, weights=tuple((role, sliced(weight, 0, 0, rows)) for role, weight in task.weights))
