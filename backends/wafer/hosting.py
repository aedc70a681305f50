"""How the host turns a model's arrays to items and items to a model's arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, ONE, is_time, parts
from cgptc.backends.wafer.host import Host

Array = NDArray[Any]


def by_rows(array: Array, axes: str) -> Array:
    """An input with axes of these kinds as ``[batch, time]`` or ``[batch, time, features]``; of one token where it has no time."""
    kinds = axes.split()
    return np.moveaxis(array, kinds.index(BATCH), 0) if len(kinds) > 1 else array[:, None]


def length_of(array: Array, axes: str) -> tuple[str, int]:
    """The kind of an input's axis of tokens, and how many there are; none and one where it has no such axis."""
    kind = next((kind for kind in axes.split() if is_time(kind)), "")
    return kind, array.shape[axes.split().index(kind)] if kind else 1


def lengths_of(host: Host, inputs: Mapping[str, Array]) -> dict[str, int]:
    """How many tokens each sequence has, by its kind: those of inputs, and those that are so many tokens longer or shorter."""
    found = dict(length_of(inputs[one.name], one.axes) for one in host.inputs)
    return found | {part.sequence: max(0, found[part.of] + part.difference) for part in host.parts if part.of in found}


def arranged(values: Array, axes: str, features: Sequence[int]) -> Array:
    """An output of these axes from ``values [batch, time, features]``: of the last token or item where it has no such axis."""
    kinds = parts(axes.split())
    if not any(map(is_time, kinds)):
        values = values[:, -1:]
    if BATCH not in kinds:
        values = values[-1:]
    rows, tokens = values.shape[:2]
    full = values.reshape(rows, tokens, *features)
    order: list[int] = []
    shape: list[int] = []
    taken = 0
    for axis in axes.split():
        size = 1
        for kind in parts([axis]):
            if kind == ONE:
                continue
            place = 0 if kind == BATCH else 1
            if kind == FEATURE:
                place, taken = 2 + taken, taken + 1
            order.append(place)
            size *= full.shape[place]
        shape.append(size)
    left = [place for place in range(full.ndim) if place not in order]
    assert math.prod(full.shape[place] for place in left) == 1
    return full.transpose(*order, *left).reshape(shape)
