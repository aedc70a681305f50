"""Rules about what buffers hold: every element is written before it is read, and outputs are written whole.

Told element by element, as of an entry's first item, at each outermost admissible value of its scalars. What a step writes counts as
written on all PEs, also where some take no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import ITEM, Binding, Code, Collective, Local, Loop, Program, Region, Step, View, views
from cgptc.backends.wafer.resolve import Placed, blocks, iterations, place
from cgptc.backends.wafer.verify.corners import MAX_ITERATIONS, corners

Array = NDArray[Any]


class _Filled:
    """Which elements of a region's buffers hold something."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._whole: set[str] = set()
        self._some: dict[str, NDArray[np.bool_]] = {}

    def whole(self, name: str) -> None:
        self._whole.add(name)

    def write(self, placed: Placed) -> None:
        name, size = placed.buffer.name, placed.buffer.size
        if name in self._whole or not placed.size:
            return
        if placed.size == size and placed.bounds == (0, size) and 0 not in placed.strides:
            self._whole.add(name)
            return
        some = self._some.setdefault(name, np.zeros(size, np.bool_))
        some[_indices(placed.shape, placed.strides, placed.offset)] = True

    def holds(self, placed: Placed) -> bool:
        """Whether every element of a view does."""
        if placed.buffer.name in self._whole or not placed.size:
            return True
        some = self._some.get(placed.buffer.name)
        return some is not None and bool(some[_indices(placed.shape, placed.strides, placed.offset)].all())

    def tile(self, binding: Binding) -> Placed:
        """Where a binding's tile lies."""
        return Placed(self._region.buffer(binding.buffer), (math.prod(binding.layout.local_shape),), (1,), 0)


@lru_cache(maxsize=4096)
def _indices(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    total: Array = np.full((), offset)
    for size, stride in zip(shape, strides, strict=True):
        total = np.add.outer(total, np.arange(size) * stride)
    return total


def filled_issues(program: Program, region: Region, code: Code) -> Iterator[Issue]:
    """Broken rules of one entry's steps, whose views must be sound."""
    where = f"region '{region.name}', entry '{code.entry}'"
    mine = [one for one in program.bindings if one.region == region.name]
    for corner in corners(program, program.entry(code.entry)):
        if corner[ITEM]:
            continue
        filled = _Filled(region)
        for one in mine:
            if one.role == "state":
                filled.whole(one.buffer)
            elif one.role == "weight" or (one.role == "input" and code.entry in one.entries):
                filled.write(filled.tile(one))
        for name in _unfilled(region, code.steps, corner, filled):
            yield Issue("read-before-write", where, f"'{name}' is read before all that is read of it is written")
        for one in mine:
            if one.role == "output" and code.entry in one.entries and not filled.holds(filled.tile(one)):
                yield Issue("output-unwritten", where, f"output '{one.tensor}' is not written, or not all of it")


def _unfilled(region: Region, steps: Iterable[Step], corner: Mapping[str, int], filled: _Filled) -> Iterator[str]:
    """Buffers of which a step reads what none before has written; ``filled`` is then as the steps leave it."""
    pending: list[tuple[Step, Mapping[str, int]]] = [(step, corner) for step in reversed(tuple(steps))]
    while pending:
        step, environment = pending.pop()
        if isinstance(step, Loop):
            if value_of(step.count, environment) > MAX_ITERATIONS:
                _take_as_filled(step, filled)
            else:
                pending.extend((inner, one) for one in reversed(list(iterations(step, environment))) for inner in reversed(step.steps))
            continue
        if isinstance(step, (Local, Collective)) and not any(one.area for one in blocks(step.where, region.rectangle, environment)):
            continue
        reads, writes = ([_placed(region, view, environment) for view in group] for group in views(step))
        yield from (one.buffer.name for one in reads if not filled.holds(one))
        for one in writes:
            filled.write(one)


def _placed(region: Region, view: View, environment: Mapping[str, int]) -> Placed:
    return place(view, region.buffer(view.buffer), environment)


def _take_as_filled(loop: Loop, filled: _Filled) -> None:
    """What a loop of very many iterations writes, all of it."""
    pending: list[Step] = list(loop.steps)
    while pending:
        step = pending.pop()
        for view in views(step)[1]:
            filled.whole(view.buffer)
        if isinstance(step, Loop):
            pending.extend(step.steps)
