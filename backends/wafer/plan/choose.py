"""Which grid every group gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.pack import Place, pack
from cgptc.backends.wafer.plan.size import Cost, Sizer, best_alone, cells, grids, prices
from cgptc.backends.wafer.plan.stages import Group


class DoesNotFitError(ProgramError):
    """A model that the machine has no room for: ``lines`` say what is needed where, and what would change it."""

    def __init__(self, what: str, fix: str, lines: Sequence[str]) -> None:
        super().__init__("does-not-fit", what, fix=fix)
        self.lines = tuple(lines)


@dataclass(frozen=True)
class Choice:
    """A grid and a place for every group."""

    costs: tuple[Cost, ...]
    places: tuple[Place, ...]

    @property
    def bottleneck(self) -> int:
        """Cycles of the slowest group: what an item costs once the pipeline is full."""
        return max(cost.cycles for cost in self.costs)

    @property
    def area(self) -> int:
        return sum(cost.area for cost in self.costs)


def choices(sizer: Sizer, groups: Sequence[Group]) -> list[Choice]:
    """The ways to size regions that may be best by some objective, each once: by bisection on the bottleneck, the fastest each, the
    smallest each; equal ones where the smallest find no room.

    Raises DoesNotFitError where there is none.
    """
    machine = sizer.machine
    equal = cells(machine, len(groups))
    candidates = [*grids(machine), *equal]
    if len(groups) == 1:
        alone = {smallest: best_alone(sizer, groups[0], dict.fromkeys(candidates), smallest=smallest) for smallest in (False, True)}
        found = [Choice((cost,), ((0, 0),)) for cost in dict.fromkeys(alone.values()) if cost is not None]
        if not found:
            raise _too_large(sizer, groups[0])
        return found
    tables = [prices(sizer, group, candidates) for group in groups]
    for group, table in zip(groups, tables, strict=True):
        if not table:
            raise _too_large(sizer, group)
    smallest = [table[0] for table in tables]
    if _packed(smallest, machine) is not None:
        return _placed_once([_bisected(tables, machine), [table[-1] for table in tables], smallest], machine)
    uniform = [costs for grid in equal if (costs := _uniform(sizer, groups, grid)) is not None]
    if not uniform:
        raise _too_many(smallest, groups, machine)
    merits: list[Callable[[Sequence[Cost]], tuple[int, int]]] = [
        lambda costs: (max(cost.cycles for cost in costs), costs[0].area),
        lambda costs: (sum(cost.cycles for cost in costs), costs[0].area),
        lambda costs: (costs[0].area, max(cost.cycles for cost in costs)),
    ]
    return _placed_once([min(uniform, key=merit) for merit in merits], machine)


def _bisected(tables: Sequence[Sequence[Cost]], machine: Machine) -> list[Cost]:
    """The smallest grids with which no group takes longer than the slowest must, where the smallest of all find room."""
    limits = sorted({cost.cycles for table in tables for cost in table})
    found = [table[0] for table in tables]
    low, high = 0, len(limits) - 1
    while low <= high:
        middle = (low + high) // 2
        within = _within(tables, limits[middle])
        if within is not None and _packed(within, machine) is not None:
            found, high = within, middle - 1
        else:
            low = middle + 1
    return found


def _placed_once(ways: Sequence[Sequence[Cost]], machine: Machine) -> list[Choice]:
    """Those that find room, each once."""
    found: dict[Choice, None] = {}
    for costs in ways:
        places = _packed(costs, machine)
        if places is not None:
            found[Choice(tuple(costs), tuple(places))] = None
    return list(found)


def _uniform(sizer: Sizer, groups: Sequence[Group], grid: Grid) -> list[Cost] | None:
    """Every group on the same grid, where all fit and find room."""
    found: list[Cost] = []
    for group in groups:
        cost = sizer.cost(group, grid)
        if cost is None or cost.bytes > sizer.machine.usable_bytes:
            return None
        found.append(cost)
    return found if _packed(found, sizer.machine) is not None else None


def _within(tables: Sequence[Sequence[Cost]], cycles: int) -> list[Cost] | None:
    """For each group the smallest grid that takes at most so many cycles."""
    found = [next((cost for cost in table if cost.cycles <= cycles), None) for table in tables]
    return [cost for cost in found if cost is not None] if None not in found else None


def _packed(costs: Sequence[Cost], machine: Machine) -> list[Place] | None:
    return pack([cost.grid for cost in costs], machine)


FIX = "halve the bytes (--dtype f16), shorten the rows (--context N), or take a larger --machine"


def _too_large(sizer: Sizer, group: Group) -> DoesNotFitError:
    """One group alone is too much for all PEs."""
    machine = sizer.machine
    whole = grids(machine)[-1]
    cost = sizer.cost(group, whole)
    limit = machine.usable_bytes
    if cost is None:
        return DoesNotFitError(f"region '{group.name}' has no layout on {whole.width} × {whole.height} PEs", "take a larger machine", ())
    weights, caches = sizer.resident(group, whole)
    need = sizer.need(group, whole)
    over = need - limit
    lines = [
        f"SRAM: region '{group.name}' needs {need:,} B per PE on all {cost.area:,} PEs, the limit is {limit:,} B: {over:,} B too many"
        f" ({over / limit:.1%})",
        f"{weights:,} B of it are weights, {caches:,} B caches of {sizer.context} tokens; {machine.reserved_bytes:,} B more are reserved",
    ]
    what = f"'{group.name}' needs {need:,} bytes of SRAM per PE and has {limit:,}, on all {cost.area:,} PEs"
    return DoesNotFitError(what, FIX, lines)


def _too_many(smallest: Sequence[Cost], groups: Sequence[Group], machine: Machine) -> DoesNotFitError:
    """Every group fits alone, and together they do not."""
    need, have = sum(cost.area for cost in smallest), machine.width * machine.height
    ranked = sorted(zip(smallest, groups, strict=True), key=lambda pair: -pair[0].area)[:3]
    what = f"the {len(groups)} regions need at least {need:,} PEs and {machine.name} has {have:,}"
    over = f"{need - have:,} too many ({(need - have) / have:.1%})"
    if need <= have:
        box = f"{machine.width} × {machine.height}"
        what = f"the {len(groups)} regions need {need:,} of {have:,} PEs, and their rectangles find no room on {box}"
        over = f"{have - need:,} are left between rectangles"
    lines = [f"PEs: {need:,} needed, the limit is {have:,}: {over}"]
    lines += [f"region '{group.name}' needs at least {cost.grid.width} × {cost.grid.height} PEs" for cost, group in ranked]
    return DoesNotFitError(what, FIX, lines)
