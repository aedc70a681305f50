"""Which grid every group gets."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.grids import cells, chains, lines, tight, whole
from cgptc.backends.wafer.plan.pack import Place, pack
from cgptc.backends.wafer.plan.size import ROOMY, Cost, Sizer, best_alone, prices
from cgptc.backends.wafer.plan.stages import Group

SPARE = 1 / 8
"""Of the SRAM of a region's PEs, what is better left for prompts."""

HARDLY = 1000
"""That part of all regions' cycles is as good as nothing."""

MOST_TRIED = 1 << 12
"""Ways to size regions that are tried for the fewest cycles in all."""


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
    """The ways to size regions that may be best by some objective, each once: least bottleneck, fewest cycles in all, least area.

    Of `nested_ways` every machine with more PEs or SRAM has one that is as good; grids that fill this very machine are taken where they are
    better still. Raises DoesNotFitError where there is none.
    """
    machine = sizer.machine
    if len(groups) == 1:
        nested = [grid for chain in chains(machine, 1) for grid in chain]
        alone = _alone(sizer, groups[0], [*nested, *lines(machine, 1)]) or _alone(sizer, groups[0], [whole(machine)])
        if not alone:
            raise _too_large(sizer, groups[0])
        return alone
    found = [*nested_ways(sizer, groups), *_filling(sizer, groups)]
    if found:
        *timed, smallest = (min(found, key=merit) for merit in MERITS)
        return _placed_once([*(_roomier(way, sizer, groups) for way in timed), smallest], sizer, groups)
    return _uniform_ways(sizer, groups)


def nested_ways(sizer: Sizer, groups: Sequence[Group]) -> list[_Way]:
    """The ways to size several regions on grids of one chain, the best of each chain by each objective."""
    machine, kinds = sizer.machine, [sizer.kind(group) for group in groups]
    found: list[_Way] = []
    for chain in chains(machine, len(groups)):
        tables = _tables(sizer, groups, chain)
        if tables is not None and _packed([table[0] for table in tables], machine) is not None:
            fewest = min((sum(cost.cycles for cost in way) for way in found), default=None)
            shortest = _shortest(tables, kinds, machine, fewest)
            found += [_bisected(tables, machine), *([shortest] if shortest else []), [table[0] for table in tables]]
    return found


_Way = list[Cost]

MERITS: tuple[Callable[[Sequence[Cost]], tuple[int, int]], ...] = (
    lambda costs: (max(cost.cycles for cost in costs), sum(cost.area for cost in costs)),
    lambda costs: (sum(cost.cycles for cost in costs), sum(cost.area for cost in costs)),
    lambda costs: (sum(cost.area for cost in costs), max(cost.cycles for cost in costs)),
)
"""By throughput, latency, area: what regions cost before they are placed."""


def _alone(sizer: Sizer, group: Group, candidates: Sequence[Grid]) -> list[Choice]:
    """A group that has the machine for itself: the smallest and the fastest grid."""
    found = (best_alone(sizer, group, dict.fromkeys(candidates), smallest=smallest) for smallest in (False, True))
    return [Choice((cost,), ((0, 0),)) for cost in dict.fromkeys(found) if cost is not None]


def _tables(sizer: Sizer, groups: Sequence[Group], candidates: Sequence[Grid]) -> list[list[Cost]] | None:
    """For each group its grids, see `prices`; None where one fits on none."""
    found: dict[int, list[Cost]] = {}
    for group in groups:
        kind = sizer.kind(group)
        if kind not in found:
            found[kind] = prices(sizer, group, candidates)
        if not found[kind]:
            return None
    return [found[sizer.kind(group)] for group in groups]


def _roomier(costs: _Way, sizer: Sizer, groups: Sequence[Group]) -> _Way:
    """The same with larger grids for regions that leave less than `SPARE` of their SRAM, where they find room and no region takes longer
    than the slowest, and all together hardly longer: what is left holds more tokens of a prompt at a time.
    """
    machine, kinds = sizer.machine, [sizer.kind(group) for group in groups]
    limit, most, total = int(machine.usable_bytes * (1 - SPARE)), *(merit(costs)[0] for merit in MERITS[:2])
    left, counts = total // HARDLY, Counter(kinds)
    candidates = sorted(tight(machine, len(groups)), key=lambda one: one.height * one.width)
    for kind, (group, cost) in dict(zip(kinds, zip(groups, costs, strict=True), strict=True)).items():
        laid = sizer.cost(group, cost.grid)
        if laid is None or laid.bytes <= limit:
            continue
        longest = min(most, cost.cycles + left // counts[kind])
        for grid in candidates:
            # What stays on a PE becomes less as there are more of them.
            if grid.height * grid.width * limit < cost.area * laid.bytes or (sizer.cycles(group, grid) or ROOMY) > longest:
                continue
            larger = sizer.cost(group, grid)
            if larger is not None and larger.bytes <= limit:
                wider = [larger if one == kind else old for one, old in zip(kinds, costs, strict=True)]
                if _packed(wider, machine) is not None:
                    costs, left = wider, left - counts[kind] * max(0, larger.cycles - cost.cycles)
                break
    return costs


def _filling(sizer: Sizer, groups: Sequence[Group]) -> list[_Way]:
    """The ways to size regions on grids of any shape, those among them that fill this machine; none where the smallest find no room.

    Raises DoesNotFitError where a region fits on no grid.
    """
    machine = sizer.machine
    tables = _tables(sizer, groups, tight(machine, len(groups)))
    if tables is None:
        raise _too_large(sizer, next(group for group in groups if not prices(sizer, group, tight(machine, len(groups)))))
    smallest = [table[0] for table in tables]
    return [_bisected(tables, machine), smallest] if _packed(smallest, machine) is not None else []


def _uniform_ways(sizer: Sizer, groups: Sequence[Group]) -> list[Choice]:
    """All regions on the same grid, which fills this machine. Raises DoesNotFitError where there is none."""
    machine = sizer.machine
    uniform = [costs for grid in cells(machine, len(groups)) if (costs := _uniform(sizer, groups, grid)) is not None]
    if not uniform:
        tables = _tables(sizer, groups, tight(machine, len(groups)))
        raise _too_many([table[0] for table in tables or []], groups, machine)
    return _placed_once([min(uniform, key=merit) for merit in MERITS], sizer, groups)


def _shortest(tables: Sequence[Sequence[Cost]], kinds: Sequence[int], machine: Machine, most: int | None) -> _Way | None:
    """The grids with the fewest cycles in all with which groups find room, those of a kind on the same: tried from the fastest on.

    None where that is not less than ``most``, or where `MOST_TRIED` were too many.
    """
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    counts = Counter(kinds)
    faster = {kind: table[::-1] for kind, table in zip(kinds, tables, strict=True)}

    def total(at: tuple[int, ...]) -> int:
        return sum(counts[kind] * faster[kind][at[number]].cycles for kind, number in numbers.items())

    first = (0,) * len(numbers)
    waiting, seen = [(total(first), first)], {first}
    for _ in range(MOST_TRIED):
        cycles, at = heapq.heappop(waiting)
        if most is not None and cycles >= most:
            return None
        costs = [faster[kind][at[numbers[kind]]] for kind in kinds]
        if sum(cost.area for cost in costs) <= machine.width * machine.height and _packed(costs, machine) is not None:
            return costs
        for kind, number in numbers.items():
            after = (*at[:number], at[number] + 1, *at[number + 1 :])
            if after[number] < len(faster[kind]) and after not in seen:
                seen.add(after)
                heapq.heappush(waiting, (total(after), after))
    return None


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


def _placed_once(ways: Sequence[Sequence[Cost]], sizer: Sizer, groups: Sequence[Group]) -> list[Choice]:
    """Those that find room, each once."""
    found: dict[Choice, None] = {}
    for costs in ways:
        places = _packed(costs, sizer.machine)
        if places is not None:
            laid = (sizer.cost(group, cost.grid) for group, cost in zip(groups, costs, strict=True))
            found[Choice(tuple(cost for cost in laid if cost is not None), tuple(places))] = None
    return list(found)


def _uniform(sizer: Sizer, groups: Sequence[Group], grid: Grid) -> list[Cost] | None:
    """Every group on the same grid, where all fit and find room."""
    found: list[Cost] = []
    for group in groups:
        cycles = sizer.cycles(group, grid)
        if cycles is None or not sizer.has_room(group, grid):
            return None
        found.append(Cost(grid, cycles, 0))
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
    everything = whole(machine)
    cost = sizer.cost(group, everything)
    limit = machine.usable_bytes
    if cost is None:
        what = f"region '{group.name}' has no layout on {everything.width} × {everything.height} PEs"
        return DoesNotFitError(what, "take a larger machine", ())
    weights, caches = sizer.resident(group, everything)
    need = sizer.need(group, everything)
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
