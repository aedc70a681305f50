"""Where a weight's zeros lie in the tiles of a grid: what every PE stores, and orders of rows and columns that spread it evenly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.sparse import UNUSED
from cgptc.backends.wafer.kernels.fragment import Direction, Grid
from cgptc.backends.wafer.layout import Cut, Layout

Array = NDArray[Any]


def counts(pattern: Array, lines: tuple[int, int], block: tuple[int, int]) -> NDArray[np.int64]:
    """Non-zeros of ``pattern [k, n]`` per tile ``[k lines, n lines]``."""
    padded = np.zeros((lines[0] * block[0], lines[1] * block[1]), np.int64)
    padded[: pattern.shape[0], : pattern.shape[1]] = pattern != 0
    return np.asarray(padded.reshape(lines[0], block[0], lines[1], block[1]).sum(axis=(1, 3)))


def balanced_order(pattern: Array, lines: tuple[int, int], block: tuple[int, int]) -> tuple[int, ...]:
    """An order of n that lowers the largest tile of ``pattern [k, n]``: fullest columns first, each to the line where it hurts least.

    The order as it is where that is no worse. For k give the transposed pattern.
    """
    k_size, n_size = pattern.shape
    deep = np.zeros((lines[0] * block[0], n_size), np.int64)
    deep[:k_size] = pattern != 0
    parts = deep.reshape(lines[0], block[0], n_size).sum(axis=1)
    sizes = [min(max(n_size - line * block[1], 0), block[1]) for line in range(lines[1])]
    load, members = np.zeros((lines[0], lines[1]), np.int64), [list[int]() for _ in sizes]
    for column in np.argsort(-parts.sum(axis=0), kind="stable").tolist():
        worst = (load + parts[:, column, None]).max(axis=0)
        free = [line for line, size in enumerate(sizes) if len(members[line]) < size]
        best = min(free, key=lambda line: (int(worst[line]), int(load[:, line].sum()), line))
        load[:, best] += parts[:, column]
        members[best].append(column)
    order = tuple(column for line in members for column in sorted(line))
    before = int(counts(pattern, lines, block).max(initial=0))
    return order if int(counts(pattern[:, list(order)], lines, block).max(initial=0)) < before else tuple(range(n_size))


def lines_of(grid: Grid, along: Direction) -> tuple[int, int]:
    """Grid lines that cut k, which lies along ``along``, and those that cut n."""
    return (grid.width, grid.height) if along == "x" else (grid.height, grid.width)


def tiles(weight: Array, lines: tuple[int, int], block: tuple[int, int]) -> Array:
    """``[k lines, n lines, k block, n block]``, padded with zeros."""
    padded = np.zeros((lines[0] * block[0], lines[1] * block[1]), weight.dtype)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return np.asarray(np.moveaxis(padded.reshape(lines[0], block[0], lines[1], block[1]), 1, 2))


def stored_layout(grid: Grid, shape: tuple[int, ...]) -> Layout:
    """One block of ``shape`` for every PE: a tensor ``[height, width, *shape]``."""
    cuts = (Cut("rows", 1), Cut("columns", 1), *(None for _ in shape))
    return Layout(grid.height, grid.width, (grid.height, grid.width, *shape), cuts)


def stored(
    found: list[tuple[int, int, Array, Array]], grid: Grid, along: Direction, shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array]:
    """``(values, places)`` by PE from ``(k line, n line, values, places)``: what a PE does not use is 0 at `UNUSED`."""
    values = np.zeros((grid.height, grid.width, *shape), dtype)
    places = np.full((grid.height, grid.width, shape[0]), UNUSED, np.int32)
    for k_line, n_line, some, where in found:
        row, column = (n_line, k_line) if along == "x" else (k_line, n_line)
        values[row, column, : len(some)] = some
        places[row, column, : len(where)] = where
    return values, places
