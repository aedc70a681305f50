"""What a group of tasks costs on a grid, and which grids are worth pricing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cgptc.backends.wafer.allocation import allocate
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import join
from cgptc.backends.wafer.kernels.fragment import Fragment, Grid, Kernel
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.layouts import Directed, arrange
from cgptc.backends.wafer.plan.select import Ground, buffer_of, fragment_of, kernel_of
from cgptc.backends.wafer.plan.stages import Group
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.program import Code

DEPTH = 2
"""Items that wait in a stream's queue."""

ROOMY = 1 << 40


@dataclass(frozen=True)
class Cost:
    """Cycles of an item at the last position, and SRAM per PE without the reserve."""

    grid: Grid
    cycles: int
    bytes: int

    @property
    def area(self) -> int:
        return self.grid.height * self.grid.width


@dataclass(frozen=True)
class Fitted:
    """A group with a kernel for each of its tasks."""

    group: Group
    ground: Ground
    kernels: tuple[Kernel, ...]
    fragments: tuple[Fragment, ...]


@dataclass
class Sizer:
    """Prices groups on grids. Groups of the same shape are priced once."""

    machine: Machine
    directed: Directed
    feeds: Mapping[str, int]
    dtype: str
    context: int
    outputs: Sequence[str]
    whole: bool = False
    _shapes: dict[str, int] = field(default_factory=dict)
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Cost | None] = field(default_factory=dict)
    _cycles: dict[tuple[object, ...], int | None] = field(default_factory=dict)
    _kernels: dict[tuple[object, ...], tuple[Kernel, int]] = field(default_factory=dict)

    def fit(self, group: Group, grid: Grid) -> Fitted:
        """The group's kernels on that grid. Raises ProgramError where a layout does not exist on it."""
        ground = self._ground(group, grid)
        kernels = tuple(self._kernel(task, ground)[0] for task in group.tasks)
        fragments = tuple(fragment_of(task, kernel, self.feeds) for task, kernel in zip(group.tasks, kernels, strict=True))
        return Fitted(group, ground, kernels, fragments)

    def _ground(self, group: Group, grid: Grid) -> Ground:
        lies = arrange(group.tasks, self.directed.along, grid, self.context, self.dtype)
        return Ground(self.machine, grid, lies, self.dtype, self.context, self.whole)

    def _kernel(self, task: Task, ground: Ground) -> tuple[Kernel, int]:
        """The kernel of a task and its cycles; tasks of equal work that lie alike share it."""
        key = (
            task.work,
            task.rows,
            ground.grid,
            *((lie.along, lie.block) for name in (*task.inputs, task.name) if (lie := ground.lies.get(name))),
        )
        if key not in self._kernels:
            kernel = kernel_of(task, ground)
            self._kernels[key] = kernel, kernel.cycles(self.machine, ground.scalars)
        return self._kernels[key]

    def cycles(self, group: Group, grid: Grid) -> int | None:
        """Cycles of an item in a group; None where it cannot be laid out on the grid at all."""
        key = (self._shape(group), grid)
        if key not in self._cycles:
            try:
                ground = self._ground(group, grid)
                self._cycles[key] = sum(self._kernel(task, ground)[1] for task in group.tasks)
            except ProgramError:
                self._cycles[key] = None
        return self._cycles[key]

    def cost(self, group: Group, grid: Grid) -> Cost | None:
        """The group's price; None where it cannot be laid out on the grid at all."""
        key = (self._shape(group), grid)
        if key not in self._known:
            self._known[key] = self._price(group, grid)
        return self._known[key]

    def _price(self, group: Group, grid: Grid) -> Cost | None:
        cycles = self.cycles(group, grid)
        return Cost(grid, cycles, self._bytes(self.fit(group, grid))) if cycles is not None else None

    def _bytes(self, fitted: Fitted) -> int:
        """SRAM of the group's buffers and queues, laid out as the assembly will."""
        kept = [buffer_of(name, self.feeds) for name in self.outputs]
        resident = sum(fragment.resident_bytes for fragment in fitted.fragments)
        if resident > self.machine.usable_bytes:
            # Buffers in use only make it worse, and where each would lie is of no interest.
            return resident
        joined = join(fitted.fragments, kept)
        taken = 0
        step = self.machine.alignment_bytes
        for name in joined.inputs:
            if name not in self.feeds:
                taken += -(-DEPTH * joined.buffers[name].bytes // step) * step
        bound = {*joined.weights, *joined.states, *(name for name in joined.inputs if name in self.feeds)}
        bound |= {name for name in joined.outputs if name in kept}
        roomy = replace(self.machine, sram_bytes=ROOMY)
        buffers = [replace(one, resident=one.name in bound) for one in joined.buffers.values()]
        placed = allocate(buffers, (Code("run", joined.steps),), roomy, taken=taken)
        return max((one.address + one.bytes for one in placed), default=taken)

    def _shape(self, group: Group) -> int:
        """A number for what a group's price depends on: its works, how they hang together, directions; not names."""
        if group.name not in self._shapes:
            self._shapes[group.name] = self._numbers.setdefault(self._signature(group), len(self._numbers))
        return self._shapes[group.name]

    def _signature(self, group: Group) -> tuple[object, ...]:
        numbers: dict[str, int] = {}
        shape: list[object] = []
        for task in group.tasks:
            taken = tuple(numbers.setdefault(name, len(numbers)) for name in task.inputs)
            made = numbers.setdefault(task.name, len(numbers))
            shape.append((task.work, task.rows, taken, made, self.directed.along[task.name], task.name in self.outputs))
            shape.append(tuple((role, weight.shape) for role, weight in task.weights))
        return tuple(shape)


def sides(largest: int) -> list[int]:
    """Sides of square grids worth pricing, the largest included: about four per doubling."""
    found = {largest}
    side = 1.0
    while side <= largest:
        found.add(round(side))
        side *= 1.19
    return sorted(found)


def grids(machine: Machine) -> list[Grid]:
    """Square grids that the machine holds, and its whole rectangle, from small to large."""
    squares = [Grid(side, side) for side in sides(min(machine.width, machine.height))]
    whole = Grid(machine.height, machine.width)
    return squares if whole in squares else [*squares, whole]


def cells(machine: Machine, count: int) -> list[Grid]:
    """Equal grids of which the machine holds ``count`` in rows and columns, no side more than three times the other."""
    found: dict[Grid, None] = {}
    for columns in range(1, count + 1):
        grid = Grid(machine.height // -(-count // columns), machine.width // columns)
        if grid.height and grid.width and max(grid.height, grid.width) <= 3 * min(grid.height, grid.width):
            found[grid] = None
    return list(found)


def prices(sizer: Sizer, group: Group, candidates: Iterable[Grid]) -> list[Cost]:
    """The grids on which a group fits, from small to large, each faster than all smaller ones."""
    found: list[Cost] = []
    for grid in sorted(candidates, key=lambda one: one.height * one.width):
        cycles = sizer.cycles(group, grid)
        if cycles is None or (found and cycles >= found[-1].cycles):
            continue
        cost = sizer.cost(group, grid)
        if cost is not None and cost.bytes <= sizer.machine.usable_bytes:
            found.append(cost)
    return found
