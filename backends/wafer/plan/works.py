"""Kinds of work on one item: what a kernel is asked for, before anything says where or how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cgptc.backends.wafer.kernels.loss import Summary
from cgptc.backends.wafer.kernels.pooling import Mode as PoolMode
from cgptc.backends.wafer.kernels.rearrange import Piece
from cgptc.backends.wafer.plan.zero_patterns import Zeros


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
