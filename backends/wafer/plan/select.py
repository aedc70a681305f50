"""A kernel for every task. A kernel is added by one function and one line of `KERNELS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.constant import WithConstant
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Direction, Grid, Kernel, Reduction, best_reduction, other, reductions
from cgptc.backends.wafer.kernels.gated import Gated
from cgptc.backends.wafer.kernels.head_norm import HeadNorm
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.loss import CrossEntropy, SquaredError
from cgptc.backends.wafer.kernels.mlp import SpreadMlp, in_tiles
from cgptc.backends.wafer.kernels.norm import Norm, Statistics
from cgptc.backends.wafer.kernels.own_rows import Dealt, OwnRows
from cgptc.backends.wafer.kernels.pooling import Pool
from cgptc.backends.wafer.kernels.rearrange import JoinFeatures, ShiftRows, pieces_of
from cgptc.backends.wafer.kernels.rotary import Rotary
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.kernels.sparse import SparseLinear, best_form
from cgptc.backends.wafer.kernels.tiled_attention import TiledAttention
from cgptc.backends.wafer.kernels.turn import Turn
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.layouts import ITEM, PAST, Lie, attention_of, position_of
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import (
    AnglesWork,
    AttendWork,
    ConstantWork,
    EntropyWork,
    GateWork,
    HeadNormWork,
    JoinWork,
    LinearWork,
    LookupWork,
    MapWork,
    MlpWork,
    NormWork,
    PoolWork,
    RotateWork,
    ShiftWork,
    SoftmaxWork,
    SquaresWork,
    TurnWork,
    Work,
)


@dataclass(frozen=True)
class Ground:
    """What kernels stand on: a grid of a machine, how values lie there, the element type, the most tokens of a row, and those of an item
    where it is none that is ``whole``. Of ``sequences`` a run says how many tokens a row has, at most so many.
    """

    machine: Machine
    grid: Grid
    lies: Mapping[str, Lie]
    dtype: str
    context: int
    whole: bool = False
    chunk: int = 1
    sequences: Mapping[str, int] = field(default_factory=dict)

    def rows(self, sequence: str) -> Affine | None:
        """Tokens of an item's row; None where they are always as many."""
        return var(sequence) if sequence in self.sequences else None

    @property
    def position(self) -> Affine:
        """An item's first position in its row."""
        return Affine() if self.whole else position_of(self.chunk)

    @property
    def accumulate(self) -> str:
        """The format of products and sums."""
        return format_of(self.dtype).wide.name

    @property
    def scalars(self) -> dict[str, int]:
        """Where kernels are priced: at the last position of a full row."""
        return {PAST: self.context - self.chunk, ITEM: 0, **self.sequences}

    def block(self, name: str) -> int:
        return self.lies[name].block

    def cheapest(self, candidates: Iterable[Kernel]) -> Kernel:
        """The first of the candidates with the fewest cycles."""
        return min(candidates, key=lambda kernel: kernel.cycles(self.machine, self.scalars))

    def spread(self, name: str, rows: int, width: int) -> Layout:
        lie = self.lies[name]
        return self.grid.spread((rows, width), lie.along, lie.block)

    def attention(self, task: Task, work: AttendWork) -> CachedAttention:
        """The kernel of an attention whose values lie as the task's output."""
        where = self.grid, self.lies[task.name].along, self.context, self.dtype
        return attention_of(work, *where, whole=self.whole, chunk=self.chunk, sequences=self.sequences)


Selector = Callable[[Task, Any, Ground], Kernel]


def _linear(task: Task, work: LinearWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.inputs[0]]
    dense = _dense(task, work.k, work.n, lie.along, ground, bias=work.bias, k_block=lie.block, n_block=ground.block(task.name))
    if work.zeros is None:
        return dense
    pattern = work.zeros.pattern
    into, out = ground.lies[task.inputs[0]].order, ground.lies[task.name].order
    pattern = pattern if into is None else pattern[list(into)]
    best = best_form(pattern if out is None else pattern[:, list(out)], replace(dense, rows=None), ground.machine)
    return replace(best, dense=dense) if isinstance(best, SparseLinear) else dense


def _dense(task: Task, k: int, n: int, along: Direction, ground: Ground, *, bias: bool, k_block: int = 0, n_block: int = 0) -> Linear:
    """A linear layer of a task that adds up along its line as is cheapest."""
    where, rows = (ground.grid, along, ground.dtype, ground.accumulate), ground.rows(task.sequence)
    kernel = Linear(task.rows, k, n, *where, bias=bias, k_block=k_block, n_block=n_block, rows=rows)
    words = format_of(ground.accumulate).words(task.rows * kernel.y_layout.local_shape[1])
    return replace(kernel, reduction=best_reduction(ground.grid.lines(along), words, ground.machine))


def _mlp(task: Task, work: MlpWork, ground: Ground) -> Kernel:
    """Spread, with what is between on all rows or dealt out, or in tiles, as is fastest and takes no more memory."""
    lie = ground.lies[task.inputs[0]]
    up = _dense(task, work.k, work.hidden, lie.along, ground, bias=work.up_bias, k_block=lie.block)
    down = _dense(task, work.hidden, work.n, other(lie.along), ground, bias=work.down_bias, n_block=ground.block(task.name))
    gate = replace(up, bias=work.gate_bias) if work.gated else None
    merged = _merged(Dealt(task.rows, ground.grid.lines(lie.along), other(lie.along), ground.dtype), up.y_layout, ground)
    every = SpreadMlp(up, work.activation, down, gate)
    own = replace(every, dealt=merged)
    spread = [every, own] if _has_room(own.between, every.between) else [every]
    if lie.along == "y":
        return ground.cheapest(spread)
    reduction = _merged(Dealt(task.rows, ground.grid.height, "x", ground.dtype), down.y_layout, ground)
    room = every.fragment("one").bytes
    tiled = (replace(one, reduction=reduction) for one in in_tiles(every))
    return ground.cheapest([*spread, *(one for one in tiled if one.fragment("one").bytes <= room)])


def _merged(dealt: Dealt, layout: Layout, ground: Ground) -> Reduction:
    """The cheapest merge of rows of that layout."""
    return best_reduction(dealt.lines, dealt.words(layout.local_shape[1]), ground.machine)


def _by_rows(task: Task, width: int, ground: Ground, made: Callable[[int, Affine | None], Kernel]) -> Kernel:
    """A kernel that treats every row alike, ``made`` for so many of which an item may have fewer: on all rows, or on each line's own where
    that is faster and has room.
    """
    lie, rows, count = ground.lies[task.name], task.rows, ground.rows(task.sequence)
    every = made(rows, count)
    if rows == 1:
        return every
    dealt = Dealt(rows, ground.grid.lines(other(lie.along)), lie.along, ground.dtype, count)
    reduction = _merged(dealt, ground.spread(task.name, rows, width), ground)
    own = OwnRows(made(dealt.rows, dealt.own), rows, lie.along, ground.dtype, reduction, rows=count)
    return ground.cheapest([every, own] if _has_room(own, every) else [every])


def _has_room(own: Kernel, every: Kernel) -> bool:
    """Whether dealing rows out takes no more memory: the result begins where the input ends."""
    one = own.fragment("one")
    (result,) = (held for held in one.buffers if held.name == one.outputs[0].buffer)
    return one.bytes - result.bytes <= every.fragment("one").bytes


def _norm(task: Task, work: NormWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.name]
    statistics: Statistics = "rms" if work.rms else "two-pass"

    def made(m: int, rows: Affine | None) -> Norm:
        kernel = Norm(
            m,
            work.width,
            ground.grid,
            lie.along,
            ground.dtype,
            statistics,
            eps=work.eps,
            weight=work.weight,
            bias=work.bias,
            block=lie.block,
            rows=rows,
        )
        words = format_of(kernel.form).words((1 if work.rms else 2) * m)
        return replace(kernel, reduction=best_reduction(ground.grid.lines(lie.along), words, ground.machine))

    return _by_rows(task, work.width, ground, made)


def _map(task: Task, work: MapWork, ground: Ground) -> Kernel:
    def made(m: int, rows: Affine | None) -> Elementwise:
        return Elementwise(work.op, ground.spread(task.name, m, work.width), ground.dtype, rows=rows)

    return _by_rows(task, work.width, ground, made)


def _constant(task: Task, work: ConstantWork, ground: Ground) -> Kernel:
    layout, rows = ground.spread(task.name, task.rows, work.width), ground.rows(task.sequence)
    return WithConstant(work.op, layout, work.value, ground.dtype, work.reverse, rows=rows)


def _lookup(task: Task, work: LookupWork, ground: Ground) -> Kernel:
    along: Direction = ground.lies[task.name].along
    position = None if work.offset is None else ground.position + work.offset
    rows = ground.rows(task.sequence)
    kernel = Embedding(task.rows, work.rows, work.width, ground.grid, along, ground.dtype, position=position, rows=rows)
    words = format_of(ground.dtype).words(task.rows * kernel.y_layout.local_shape[1])
    return replace(kernel, reduction=best_reduction(ground.grid.lines(other(along)), words, ground.machine))


def _attend(task: Task, work: AttendWork, ground: Ground) -> Kernel:
    """Keys dealt out, or of whole rows queries where that is faster and takes no more memory."""
    kernel = ground.attention(task, work)
    spread = [replace(kernel, reduction=reduction) for reduction in reductions(kernel.token_lines)]
    if kernel.kept:
        return ground.cheapest(spread)
    dealt = Dealt(kernel.m, kernel.token_lines, kernel.along, ground.dtype)
    tiled = TiledAttention(kernel, _merged(dealt, kernel.q_layout, ground))
    fits = tiled.fragment("one").bytes <= kernel.fragment("one").bytes
    return ground.cheapest([*spread, tiled] if fits else spread)


def _rotate(task: Task, work: RotateWork, ground: Ground) -> Kernel:
    return _rotary(task, work.attend, ground, keys=work.keys)


def _rotary(task: Task, work: AttendWork, ground: Ground, *, keys: bool = False) -> Rotary:
    return Rotary(ground.attention(task, work), keys)


def _angles(task: Task, work: AnglesWork, ground: Ground) -> Kernel:
    rotary = _rotary(task, work.attend, ground)
    words = format_of(ground.dtype).words(task.rows * rotary.attention.piece)
    lines = ground.grid.lines(other(rotary.attention.along))
    return rotary.angles(work.rows, ground.position, best_reduction(lines, words, ground.machine), ground.rows(task.sequence))


def _turn(task: Task, work: TurnWork, ground: Ground) -> Kernel:
    source, target = ground.lies[task.inputs[0]], ground.lies[task.name]
    where, rows = (ground.grid, source.along, ground.dtype), ground.rows(task.sequence)
    kernel = Turn(task.rows, work.width, *where, x_block=source.block, y_block=target.block, rows=rows)
    words = format_of(ground.dtype).words(kernel.y_layout.local_shape[1])
    return replace(kernel, reduction=best_reduction(ground.grid.lines(source.along), words, ground.machine))


def _pool(task: Task, work: PoolWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.name]
    masked, rows = len(task.inputs) > 1, ground.rows(work.sequence)
    return Pool(work.rows, work.width, ground.grid, lie.along, ground.dtype, work.mode, masked, work.at, lie.block, rows=rows)


def _softmax(task: Task, work: SoftmaxWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.name]

    def made(m: int, rows: Affine | None) -> Softmax:
        kernel = Softmax(m, work.width, ground.grid, lie.along, ground.dtype, block=lie.block, log=work.log, rows=rows)
        words = format_of(ground.accumulate).words(m)
        return replace(kernel, reduction=best_reduction(ground.grid.lines(lie.along), words, ground.machine))

    return _by_rows(task, work.width, ground, made)


def _shift(task: Task, work: ShiftWork, ground: Ground) -> Kernel:
    lie, start = ground.lies[task.name], min(work.start, task.rows)
    rows = ground.rows(task.sequence)
    return ShiftRows(task.rows, work.width, start, ground.grid, lie.along, ground.dtype, lie.block, rows=rows)


def _gate(task: Task, work: GateWork, ground: Ground) -> Kernel:
    def made(m: int, rows: Affine | None) -> Gated:
        return Gated(work.activation, ground.spread(task.name, m, work.width), ground.dtype, rows=rows)

    return _by_rows(task, work.width, ground, made)


def _join(task: Task, work: JoinWork, ground: Ground) -> Kernel:
    """Pieces of features in the order of the model, as pieces of places in the orders in which they lie."""
    places = []
    for name, width in zip(task.inputs, work.widths, strict=True):
        order = ground.lies[name].order or tuple(range(width))
        places.append({feature: place for place, feature in enumerate(order)})
    features = [(one.source, one.start + i * one.step) for one in work.pieces for i in range(one.count)]
    lie = ground.lies[task.name]
    if lie.order is not None:
        features = [features[feature] for feature in lie.order]
    pieces = pieces_of([(source, places[source][feature]) for source, feature in features])
    blocks = tuple(ground.block(name) for name in task.inputs)
    kernel = JoinFeatures(
        task.rows,
        work.widths,
        pieces,
        ground.grid,
        lie.along,
        ground.dtype,
        blocks=blocks,
        y_block=lie.block,
        rows=ground.rows(task.sequence),
    )
    words = format_of(ground.dtype).words(kernel.width * task.rows)
    return replace(kernel, reduction=best_reduction(ground.grid.lines(lie.along), words, ground.machine))


def _entropy(task: Task, work: EntropyWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.inputs[0]]
    if lie.order is not None:
        raise ProgramError("layout", "classes cannot be told apart where attention lies")
    kernel = CrossEntropy(work.rows, work.classes, ground.grid, lie.along, ground.dtype, work.summary, work.ignore, work.smoothing)
    kernel = replace(kernel, running=True, block=lie.block, rows=ground.rows(work.sequence))
    candidates = (replace(kernel, reduction=one) for one in reductions(ground.grid.lines(lie.along)))
    return ground.cheapest(candidates)


def _squares(task: Task, work: SquaresWork, ground: Ground) -> Kernel:
    lie = ground.lies[task.inputs[0]]
    kernel = SquaredError(work.rows, work.features, ground.grid, lie.along, ground.dtype, work.summary)
    rows = ground.rows(work.sequence)
    kernel = replace(kernel, running=True, masked=len(task.inputs) > 2, block=lie.block, rows=rows)
    return ground.cheapest(replace(kernel, reduction=one) for one in reductions(ground.grid.lines(lie.along)))


def _head_norm(task: Task, work: HeadNormWork, ground: Ground) -> Kernel:
    kernel = HeadNorm(ground.attention(task, work.attend), work.keys, work.eps, work.weight)
    return ground.cheapest(replace(kernel, reduction=one) for one in reductions(kernel.attention.segment))


KERNELS: dict[type[Work], Selector] = {
    LinearWork: _linear,
    MlpWork: _mlp,
    NormWork: _norm,
    MapWork: _map,
    ConstantWork: _constant,
    LookupWork: _lookup,
    AttendWork: _attend,
    AnglesWork: _angles,
    RotateWork: _rotate,
    TurnWork: _turn,
    PoolWork: _pool,
    SoftmaxWork: _softmax,
    ShiftWork: _shift,
    GateWork: _gate,
    JoinWork: _join,
    EntropyWork: _entropy,
    SquaresWork: _squares,
    HeadNormWork: _head_norm,
}


def kernel_of(task: Task, ground: Ground) -> Kernel:
    """The kernel that serves a task."""
    return KERNELS[type(task.work)](task, task.work, ground)
