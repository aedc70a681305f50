"""How every value lies: along which direction of the grid, in which blocks, in which order of features.

Linear layers turn a vector from one direction to the other, everything else keeps it; where two operands of a task lie differently, a turn
is inserted. Blocks and orders come from attention, which needs whole heads, or equal parts of them, on a line.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.attention import CachedAttention, full_attention
from cgptc.backends.wafer.kernels.fragment import Direction, Grid, other
from cgptc.backends.wafer.kernels.rotary import pair_order
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import (
    AnglesWork,
    AttendWork,
    ConstantWork,
    GateWork,
    HeadNormWork,
    LinearWork,
    LookupWork,
    MapWork,
    NormWork,
    PoolWork,
    RotateWork,
    ShiftWork,
    SquaresWork,
    TurnWork,
)

PAST, LENGTH, CHUNKS, ITEM = "past", "length", "chunks", "item"


def position_of(chunk: int) -> Affine:
    """The position in its row of an item's first token, where items are chunks of so many tokens."""
    return var(PAST) + var(ITEM) * chunk


@dataclass(frozen=True)
class Lie:
    """How a value lies on its region. ``block`` 0 is the smallest; ``order`` gives for each place the model's feature there."""

    along: Direction
    block: int = 0
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Directed:
    """Tasks with turns inserted, and the direction of every value."""

    tasks: tuple[Task, ...]
    along: dict[str, Direction]


def direct(tasks: Iterable[Task], widths: dict[str, int], feeds: Mapping[str, tuple[int, str]]) -> Directed:
    """Choose directions in order: a task takes its first operand as it lies, and the others are turned to it.

    ``widths`` gains the widths of turned values. Features from the host, which have the rows and the sequence that ``feeds`` give, lie
    along x, as those of embeddings do.
    """
    along: dict[str, Direction] = dict.fromkeys(feeds, "x")
    made: list[Task] = []
    turned: dict[str, str] = {}
    tasks = tuple(tasks)
    rows = {**feeds, **{task.name: (task.rows, task.sequence) for task in tasks}}
    turners = {task.inputs[1]: task.inputs[0] for task in reversed(tasks) if isinstance(task.work, RotateWork)}
    for task in tasks:
        if isinstance(task.work, (LookupWork, AnglesWork)):
            along[task.name] = along[turners[task.name]] if task.name in turners else "x"
            made.append(task)
            continue
        first = along[task.inputs[0]]
        inputs: list[str] = []
        for name in task.inputs:
            if name not in along or along[name] == first:
                inputs.append(name)
                continue
            if name not in turned:
                turned[name] = f"{name}~turned"
                made.append(Task(turned[name], TurnWork(widths[name]), (name,), (), task.path, task.stage, *rows[name]))
                along[turned[name]], widths[turned[name]] = first, widths[name]
            inputs.append(turned[name])
        made.append(replace(task, inputs=tuple(inputs)))
        along[task.name] = other(first) if isinstance(task.work, LinearWork) else first
    return Directed(tuple(made), along)


@dataclass
class _Spaces:
    """Values whose features lie alike, as disjoint sets."""

    parents: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> str:
        while self.parents.setdefault(name, name) != name:
            self.parents[name] = self.parents[self.parents[name]]
            name = self.parents[name]
        return name

    def join(self, one: str, another: str) -> None:
        self.parents[self.find(one)] = self.find(another)


def attention_of(
    work: AttendWork,
    grid: Grid,
    along: Direction,
    context: int,
    dtype: str,
    *,
    whole: bool = False,
    chunk: int = 1,
    sequences: Container[str] = (),
) -> CachedAttention:
    """The attention kernel of a task, its reduction still the default; of ``whole`` rows of ``context`` tokens, or of ``chunk`` tokens.

    Rows of ``sequences`` have as many tokens as the scalar of that name says.
    """
    unit, window = 2 if work.rotated else 1, work.window or 0
    if whole:
        return full_attention(
            work.queries or context,
            work.keys or context,
            work.heads,
            work.kv_heads,
            work.head_dim,
            work.scale,
            grid,
            along=along,
            dtype=dtype,
            causal=work.causal,
            window=window,
            masked=True,
            unit=unit,
            biased=work.biased,
            query_rows=var(work.query_sequence) if work.query_sequence in sequences else None,
            key_rows=var(work.key_sequence) if work.key_sequence in sequences else None,
        )
    return CachedAttention(
        chunk,
        work.heads,
        work.kv_heads,
        work.head_dim,
        context,
        work.scale,
        grid,
        position_of(chunk),
        along,
        dtype,
        window=window,
        unit=unit,
        biased=work.biased,
    )


@dataclass(frozen=True)
class AttentionLies:
    """How the operands of an attention lie. Rotary positions pair features, which queries and keys share and values do not."""

    queries: Lie
    keys: Lie
    values: Lie
    result: Lie
    angles: Lie


def attention_lies(work: AttendWork, grid: Grid, along: Direction, context: int, dtype: str) -> AttentionLies:
    """For an attention on a grid."""
    kernel = attention_of(work, grid, along, context, dtype)
    wide, narrow = kernel.q_layout.local_shape[1], kernel.kv_layout.local_shape[1]
    within = pair_order(work.head_dim, work.rotated, interleaved=work.interleaved) if work.rotated else None
    result = Lie(along, wide, _order(kernel.query_order()) if kernel.group > 1 else None)
    values = Lie(along, narrow)
    angles = Lie(along, kernel.piece)
    if within is None:
        return AttentionLies(result, values, values, result, angles)
    queries, keys = Lie(along, wide, _order(kernel.query_order(within))), Lie(along, narrow, _order(kernel.key_order(within)))
    return AttentionLies(queries, keys, values, result, angles)


def _order(places: tuple[int, ...]) -> tuple[int, ...] | None:
    """None for the model's own order."""
    return places if places != tuple(range(len(places))) else None


def arrange(tasks: Sequence[Task], along: dict[str, Direction], grid: Grid, context: int, dtype: str) -> dict[str, Lie]:
    """How every value of a region's tasks lies on a grid. Raises ProgramError where two attentions want one value differently."""

    @cache
    def known(work: AttendWork, direction: Direction) -> AttentionLies:
        return attention_lies(work, grid, direction, context, dtype)

    spaces = _Spaces()
    wanted: dict[str, tuple[Lie, str]] = {}
    demands: list[tuple[str, Lie]] = []
    for task in tasks:
        match task.work:
            case NormWork() | MapWork() | ConstantWork() | TurnWork() | PoolWork() | GateWork() | ShiftWork() | HeadNormWork():
                for name in task.inputs:
                    if name in along:
                        spaces.join(name, task.name)
            case SquaresWork():
                spaces.join(task.inputs[0], task.inputs[1])
            case AttendWork():
                lies = known(task.work, along[task.name])
                q, k, v = task.inputs[:3]
                demands += [(q, lies.queries), (k, lies.keys), (v, lies.values), (task.name, lies.result)]
            case RotateWork():
                spaces.join(task.inputs[0], task.name)
                demands.append((task.inputs[1], known(task.work.attend, along[task.name]).angles))
            case _:
                pass
    for name, lie in demands:
        space = spaces.find(name)
        if space in wanted and wanted[space][0] != lie:
            raise ProgramError("layout", f"'{name}' and '{wanted[space][1]}' would have to lie differently, and are one value")
        wanted[space] = (lie, name)
    found: dict[str, Lie] = {}
    for name in dict.fromkeys(name for task in tasks for name in (*task.inputs, task.name)):
        if name not in along:
            continue
        direction = along[name]
        lie = wanted.get(spaces.find(name), (Lie(direction), ""))[0]
        # Blocks are those of a direction's lines; turned, a value takes the smallest again.
        found[name] = lie if lie.along == direction else Lie(direction, 0, lie.order)
    return found
