"""Regions that fill their PEs' memory give way to larger ones where that costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine, small_machine
from cgptc.backends.wafer.plan import choose
from cgptc.backends.wafer.plan.size import Cost

MACHINE = small_machine(16, 16)
CYCLES = 10_000


FULL, SLOWEST = "full", "slowest"


@dataclass
class Priced:
    """A sizer of two kinds of groups: ``bytes`` of one on all PEs together, whose cycles grow with a grid by some for each PE."""

    bytes: int
    growth: int
    machine: Machine = MACHINE

    def kind(self, group: str) -> int:
        return int(group == SLOWEST)

    def cycles(self, group: str, grid: Grid) -> int:
        return CYCLES if group == SLOWEST else CYCLES - 1000 + self.growth * grid.height * grid.width

    def cost(self, group: str, grid: Grid) -> Cost:
        return Cost(grid, self.cycles(group, grid), 0 if group == SLOWEST else self.bytes // (grid.height * grid.width))


def _roomier(sizer: Priced, count: int) -> list[Cost]:
    groups = [*[FULL] * count, SLOWEST]
    costs = [sizer.cost(group, Grid(2, 2) if group == SLOWEST else Grid(4, 4)) for group in groups]
    return choose._roomier(costs, cast(Any, sizer), cast(Any, groups))


@pytest.mark.parametrize("count", [1, 3])
def test_a_full_region_gets_more_pes(count: int) -> None:
    full = MACHINE.usable_bytes * 16
    *found, slowest = _roomier(Priced(full, 0), count)
    assert slowest.grid == Grid(2, 2)
    assert len({cost.grid for cost in found}) == 1
    assert found[0].area > 16
    assert found[0].bytes <= MACHINE.usable_bytes * 7 / 8


def test_one_with_room_stays() -> None:
    assert _roomier(Priced(MACHINE.usable_bytes * 8, 0), 1)[0].grid == Grid(4, 4)


def test_none_gets_slower_for_it() -> None:
    assert _roomier(Priced(MACHINE.usable_bytes * 16, 100), 1)[0].grid == Grid(4, 4)


def test_what_finds_no_room_stays() -> None:
    assert _roomier(Priced(MACHINE.usable_bytes * 16, 0), 15)[0].grid == Grid(4, 4)


@pytest.mark.parametrize("growth", [0, 1, 2, 4, 8, 15])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_all_together_take_hardly_longer(count: int, growth: int) -> None:
    before = [*[CYCLES - 1000 + 16 * growth] * count, CYCLES]
    after = [cost.cycles for cost in _roomier(Priced(MACHINE.usable_bytes * 16, growth), count)]
    assert max(after) <= max(before)
    assert sum(after) <= sum(before) * (1 + 1 / choose.HARDLY)
