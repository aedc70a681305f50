"""What lifting knows of a graph's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, TIME, is_time, parts
from cgptc.ir.weights import Weight

Columns: TypeAlias = NDArray[np.int64]


class RefusedError(Exception):
    """Why a node has no place on the wafer."""


class TooLongError(Exception):
    """Rows are so long that their positions leave a table of the model: they have at most ``tokens``."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"a table has positions for rows of {tokens} tokens")
        self.tokens = tokens


@dataclass(frozen=True, eq=False)
class Product:
    """A linear layer that no task stands for yet: which of its columns are wanted is known when they are used."""

    x: str
    weight: Weight
    bias: Weight | None
    path: str
    stage: int | None


@dataclass(frozen=True, eq=False)
class Features:
    """A value of features per item: of a task's output, or of a linear layer, the elements ``columns``.

    ``axes`` are the kinds of the graph value's axes; ``columns`` has one axis per feature kind in them, in the graph value's order.
    """

    source: str | Product
    columns: Columns
    axes: tuple[str, ...]

    @property
    def flat(self) -> bool:
        """Whether the value has features along its last axis alone, but for axes of one, such as that of a single head."""
        return bool(self.axes) and self.axes[-1] == FEATURE and self.columns.shape[-1] == self.columns.size

    @property
    def sequence(self) -> str:
        """The kind of its time axis; empty where it is of one token of a row, or of none."""
        return next((kind for kind in parts(self.axes) if is_time(kind)), "")


@dataclass(frozen=True)
class Held:
    """A constant."""

    weight: Weight


@dataclass(frozen=True)
class Ids:
    """An index per token that the host gives, from the row's token ``start`` on; behind its last one ``filler`` where the model says so."""

    value: str
    axes: tuple[str, ...] = (BATCH, TIME)
    start: int = 0
    filler: int | None = None


@dataclass(frozen=True)
class Padding:
    """The padding mask that is the model's input ``name``, True at padding where ``inverted``; with ``count`` its running count."""

    count: bool = False
    name: str = ""
    inverted: bool = False


@dataclass(frozen=True)
class Count:
    """How many tokens the item's row of a sequence has."""

    sequence: str


@dataclass(frozen=True)
class Places:
    """Each item's position in its row of a sequence plus ``offset``."""

    offset: int = 0
    sequence: str = TIME


@dataclass(frozen=True)
class Table:
    """What depends on the position alone: ``weight [1 or rows, …]`` has the graph value's axes, its time axis ``axis`` counts positions.

    Where ``offset`` is not 0, position 0 is at that row.
    """

    weight: Weight
    axis: int = 1
    offset: int = 0
    sequence: str = TIME


@dataclass(frozen=True)
class Relation:
    """What depends on two positions of a row alone, such as a causal mask: ``weight`` has the graph value's axes.

    ``padding``: beside it, as a mask or as what is added to scores, a padding mask counts.
    """

    weight: Weight
    sequence: str = TIME
    padding: Padding | None = None


@dataclass(frozen=True)
class Past:
    """Keys or values from before, an input of the model."""

    name: str


@dataclass(frozen=True)
class Present:
    """Keys or values of an attention task: ``key`` says which."""

    task: str
    key: bool


Item: TypeAlias = Features | Held | Ids | Padding | Count | Places | Table | Relation | Past | Present


def plain(source: str, width: int, axes: Sequence[str] = (BATCH, TIME, FEATURE)) -> Features:
    """All features of a task's output in their own order."""
    return Features(source, np.arange(width), tuple(axes))


def shaped(source: str, like: Features) -> Features:
    """All features of a task's output, seen with the axes and shape of another value."""
    return Features(source, np.arange(like.columns.size).reshape(like.columns.shape), like.axes)
