"""What a group of tasks costs on a grid, and which grids are worth pricing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.inflow import PLACES, parcel_cost
from cgptc.backends.wafer.kernels.assembly import Joined, furnished, join, queue_bytes, renamed, slot_bytes
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Fragment, Grid, Kernel, arriving
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.fragments import buffer_of, fragment_of, ordered_weights
from cgptc.backends.wafer.plan.layouts import Directed, arrange
from cgptc.backends.wafer.plan.select import Ground, kernel_of
from cgptc.backends.wafer.plan.stages import DEPTH, Group
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.ties import one_copy, ties
from cgptc.backends.wafer.plan.works import AnglesWork, AttendWork, LinearWork, LookupWork, width_of
from cgptc.backends.wafer.program import Nonzeros, Parcel, Rectangle
from cgptc.ir.weights import Weight

ROOMY = 1 << 40


Counted = Callable[[Weight, Layout], Nonzeros]


@dataclass(frozen=True)
class Cost:
    """Cycles of an item at the last position, streams as between equal grids, and SRAM per PE without the reserve: 0 where nobody asked."""

    grid: Grid
    cycles: int
    bytes: int

    @property
    def area(self) -> int:
        return self.grid.height * self.grid.width


@dataclass(frozen=True)
class Fitted:
    """A group with a kernel for each of its tasks. ``shared``: lookups that read the weight of a linear layer, and which."""

    group: Group
    ground: Ground
    kernels: tuple[Kernel, ...]
    fragments: tuple[Fragment, ...]
    shared: Mapping[str, str]


@dataclass(frozen=True)
class _Priced:
    """A kernel and what it comes to wherever it stands: cycles, bytes that stay, and where its weights come, their cycles.

    ``moved`` are those of taking weights out of their queue, ``come`` those for which they hold up the host's link. ``all_bytes`` are those
    of all its buffers, each on an address of its own.
    """

    kernel: Kernel
    cycles: int
    weight_bytes: int
    state_bytes: int
    all_bytes: int
    arrives: bool
    moved: int
    come: int


@dataclass
class Sizer:
    """Prices groups on grids. Groups of the same shape are priced once. ``streamed``: weights come from off the wafer for every item.
    ``sequences`` are those of whose tokens a run says how many a row has, at most so many.
    """

    machine: Machine
    directed: Directed
    feeds: Mapping[str, int]
    dtype: str
    context: int
    outputs: Sequence[str]
    whole: bool = False
    streamed: bool = False
    sequences: Mapping[str, int] = field(default_factory=dict)
    _shapes: dict[str, int] = field(default_factory=dict, init=False)
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict, init=False)
    _known: dict[tuple[object, ...], Cost | None] = field(default_factory=dict, init=False)
    _sums: dict[tuple[object, ...], tuple[int, int, int] | None] = field(default_factory=dict, init=False)
    _kernels: dict[tuple[object, ...], _Priced] = field(default_factory=dict, init=False)

    def fit(self, group: Group, grid: Grid, counted: Counted | None = None) -> Fitted:
        """The group's kernels on that grid. Raises ProgramError where a layout does not exist on it.

        ``counted`` gives the non-zeros of streamed matrices: what is cheaper to send without its zeros comes without them.
        """
        ground = self._ground(group, grid)
        kernels = [self._kernel(task, ground).kernel for task in group.tasks]
        shared = one_copy(self.ties, group.tasks, kernels, ground)
        fragments = []
        for number, task in enumerate(group.tasks):
            kernel = kernels[number]
            if task.name in shared and isinstance(kernel, Embedding):
                kernel = kernels[number] = replace(kernel, shared=True)
            fragment = fragment_of(task, kernel, self.feeds)
            if task.name in shared:
                fragment = renamed(fragment, {f"{task.name}.table": f"{shared[task.name]}.weight"})
            elif self.streamed and task.name not in shared.values() and self._arrives(task, fragment):
                fragment = arriving(fragment, self._thin(task, kernel, fragment, ground, counted))
            fragments.append(fragment)
        return Fitted(group, ground, tuple(kernels), tuple(fragments), shared)

    @cached_property
    def ties(self) -> dict[str, str]:
        """As `plan.ties.ties` finds them."""
        return ties(self.directed.tasks)

    @cached_property
    def _makers(self) -> dict[str, Task]:
        return {task.name: task for task in self.directed.tasks}

    def _arrives(self, task: Task, fragment: Fragment) -> bool:
        """Whether a streamed task's weights come when they are needed: of a table an item needs a row, so that tables stay on the wafer."""
        if isinstance(task.work, (LookupWork, AnglesWork)) or (isinstance(task.work, AttendWork) and not self.whole):
            return False
        weights = {slot.buffer for slot in fragment.weights}
        kinds = {one.dtype for one in fragment.buffers if one.name in weights}
        return kinds <= {self.dtype}

    def _thin(self, task: Task, kernel: Kernel, fragment: Fragment, ground: Ground, counted: Counted | None) -> dict[str, Nonzeros]:
        """The matrix of a linear layer, where its non-zeros alone come and are absorbed in less time than all of it."""
        if counted is None or not isinstance(task.work, LinearWork):
            return {}
        slot = fragment.slot("weight")
        tile = slot.layout.local_shape
        if format_of(self.dtype).bytes != 2 or math.prod(tile) > PLACES:
            return {}
        box = Rectangle(0, 0, ground.grid.width, ground.grid.height)
        found = counted(ordered_weights(task, ground, kernel)[slot.buffer], slot.layout)
        dense, thin = (parcel_cost(Parcel("", slot.layout, one), self.dtype, box, self.machine).occupied for one in (None, found))
        work = self.machine.mac_cycles(ground.accumulate, found.tile, task.rows, aligned=True)
        return {slot.buffer: found} if max(thin, work) < dense else {}

    def _ground(self, group: Group, grid: Grid) -> Ground:
        lies = arrange(group.tasks, self.directed.along, grid, self.context, self.dtype)
        return Ground(self.machine, grid, lies, self.dtype, self.context, self.whole, sequences=self.sequences)

    def _kernel(self, task: Task, ground: Ground) -> _Priced:
        """The kernel of a task and its price; tasks of equal work that lie alike share it."""
        if self.streamed and isinstance(task.work, LinearWork) and task.work.zeros is not None:
            # What a sparse kernel would keep on its PEs is not there: zeros are left out on the way, see `_thin`.
            task = replace(task, work=replace(task.work, zeros=None))
        key = (
            task.work,
            task.rows,
            task.sequence,
            ground.grid,
            *((lie.along, lie.block) for name in (*task.inputs, task.name) if (lie := ground.lies.get(name))),
        )
        if key not in self._kernels:
            self._kernels[key] = self._priced(task, kernel_of(task, ground), ground)
        return self._kernels[key]

    def _priced(self, task: Task, kernel: Kernel, ground: Ground) -> _Priced:
        fragment = kernel.fragment("one")
        sizes = {one.name: one.bytes for one in fragment.buffers}
        weights, states = (sum(sizes[slot.buffer] for slot in slots) for slots in (fragment.weights, fragment.states))
        arrives = self.streamed and self._arrives(task, fragment)
        layouts = [slot.layout for slot in fragment.weights] if arrives else []
        box = Rectangle(0, 0, ground.grid.width, ground.grid.height)
        come = sum(parcel_cost(Parcel("", layout), self.dtype, box, self.machine).occupied for layout in layouts)
        moved = sum(self.machine.vector_cycles(self.dtype, math.prod(layout.local_shape)) for layout in layouts)
        apart = sum(_aligned(size, self.machine) for size in sizes.values())
        return _Priced(kernel, kernel.cycles(self.machine, ground.scalars), weights, states, apart, arrives, moved, come)

    def _sum(self, group: Group, grid: Grid) -> tuple[int, int, int] | None:
        """Cycles of an item in a group, bytes per PE of the weights that stay, and of the caches; None where the grid gives no layout."""
        key = (self.kind(group), grid)
        if key not in self._sums:
            try:
                self._sums[key] = self._added(group, self._ground(group, grid))
            except ProgramError:
                self._sums[key] = None
        return self._sums[key]

    def _added(self, group: Group, ground: Ground) -> tuple[int, int, int]:
        priced = [self._kernel(task, ground) for task in group.tasks]
        shared = one_copy(self.ties, group.tasks, [one.kernel for one in priced], ground)
        tables = set(shared.values())
        cycles = come = weights = states = 0
        for task, one in zip(group.tasks, priced, strict=True):
            arrives = one.arrives and task.name not in tables
            cycles += one.cycles + (one.moved if arrives else 0)
            come += one.come if arrives else 0
            weights += 0 if arrives or task.name in shared else one.weight_bytes
            states += one.state_bytes
        # The host sends ahead, so that the slower of both is what an item costs once the first parcels have come.
        return max(cycles, come) + self._streams(group, ground), weights, states

    def _streams(self, group: Group, ground: Ground) -> int:
        """Cycles of taking what comes from other groups, and of sending to each as if it had the same grid."""
        taken = sum(self.machine.vector_cycles(self.dtype, self._elements(name, ground)) for name, _ in group.received)
        return taken + sum(format_of(self.dtype).words(self._elements(name, ground)) for name in group.sent)

    def _elements(self, name: str, ground: Ground) -> int:
        """Elements of a value on each PE."""
        maker = self._makers[name]
        return math.prod(ground.spread(name, maker.rows, width_of(maker.work)).local_shape)

    def cycles(self, group: Group, grid: Grid) -> int | None:
        """Cycles of an item in a group; None where it cannot be laid out on the grid at all."""
        found = self._sum(group, grid)
        return None if found is None else found[0]

    def cost(self, group: Group, grid: Grid) -> Cost | None:
        """The group's price; None where it cannot be laid out on the grid at all.

        Where what stays is too much already, its ``bytes`` are those: where buffers in use would lie is of no interest then.
        """
        key = (self.kind(group), grid)
        if key not in self._known:
            found = self._sum(group, grid)
            if found is None:
                self._known[key] = None
            else:
                cycles, kept = found[0], sum(found[1:])
                self._known[key] = Cost(grid, cycles, kept if kept > self.machine.usable_bytes else self.need(group, grid))
        return self._known[key]

    def has_room(self, group: Group, grid: Grid) -> bool:
        """Whether the grid gives a layout and each of its PEs room for the group: as `cost` says, mostly without laying anything out."""
        found, limit = self._sum(group, grid), self.machine.usable_bytes
        if found is None or sum(found[1:]) > limit:
            return False
        if (self.kind(group), grid) not in self._known and self._apart(group, grid) <= limit:
            return True
        cost = self.cost(group, grid)
        return cost is not None and cost.bytes <= limit

    def _apart(self, group: Group, grid: Grid) -> int:
        """Bytes per PE with an address of its own for each buffer and queue: no layout needs more."""
        ground = self._ground(group, grid)
        priced = [self._kernel(task, ground) for task in group.tasks]
        size = format_of(self.dtype).bytes
        queues = (_aligned(depth * size * self._elements(name, ground), self.machine) for name, depth in group.received)
        parcels = DEPTH * max((_aligned(one.weight_bytes, self.machine) for one in priced if one.arrives), default=0)
        return sum(one.all_bytes for one in priced) + sum(queues) + parcels

    def resident(self, group: Group, grid: Grid) -> tuple[int, int]:
        """Bytes per PE of the weights that stay, and of the caches; none where the grid gives no layout."""
        found = self._sum(group, grid)
        return (0, 0) if found is None else found[1:]

    def need(self, group: Group, grid: Grid) -> int:
        """SRAM per PE of a group's buffers and queues without the reserve, laid out by what lays out the region; also where it is too much.

        Raises ProgramError as `fit` does.
        """
        fitted = self.fit(group, grid)
        given = [buffer_of(name, self.feeds) for name in self.outputs]
        sent = [buffer_of(name, self.feeds) for name in group.sent]
        joined = join(fitted.fragments, (*given, *sent), group.turn)
        received = {buffer_of(name, self.feeds): depth for name, depth in group.received}
        taken = sum(queue_bytes(joined.buffers[name], depth, self.machine) for name, depth in received.items())
        taken += DEPTH * slot_bytes(joined, self.machine)
        roomy = replace(self.machine, sram_bytes=ROOMY)
        come, go = ([(name, name) for name in names] for names in (received, sent))
        back = {buffer_of(name, self.feeds) for name in group.back}
        _, placed = furnished(joined, come, go, self._bound(joined, given, sent), roomy, back=back, taken=taken)
        return max((one.address + one.bytes for one in placed), default=taken)

    def _bound(self, joined: Joined, given: Sequence[str], sent: Sequence[str]) -> set[str]:
        """Buffers that the host reads or writes."""
        inputs = (name for name in joined.inputs if name in self.feeds)
        outputs = (name for name in joined.outputs if name in given or name not in sent)
        return {*joined.weights, *joined.states, *inputs, *outputs}

    def kind(self, group: Group) -> int:
        """A number for what a group's price depends on: its works, how they hang together, directions; not names."""
        if group.name not in self._shapes:
            self._shapes[group.name] = self._numbers.setdefault(self._signature(group), len(self._numbers))
        return self._shapes[group.name]

    def _signature(self, group: Group) -> tuple[object, ...]:
        numbers: dict[str, int] = {}
        shape: list[object] = []
        sent, received = set(group.sent), dict(group.received)
        for task in group.tasks:
            taken = tuple(numbers.setdefault(name, len(numbers)) for name in task.inputs)
            made = numbers.setdefault(task.name, len(numbers))
            come = tuple((received.get(name, 0), name in group.back, name in sent) for name in task.inputs)
            lasts = (task.name in self.outputs, task.name in sent)
            shape.append((task.work, task.rows, task.sequence, taken, come, made, self.directed.along[task.name], *lasts))
            shape.append(tuple((role, weight.shape) for role, weight in task.weights))
        shape.append(tuple((numbers[one], numbers[other]) for one, other in self.ties.items() if one in numbers and other in numbers))
        shape.append(group.turn)
        return tuple(shape)


def _aligned(size: int, machine: Machine) -> int:
    return -(-size // machine.alignment_bytes) * machine.alignment_bytes


def prices(sizer: Sizer, group: Group, candidates: Iterable[Grid]) -> list[Cost]:
    """The grids on which a group fits, from small to large, each faster than all smaller ones. What they need is not laid out yet: see
    `Sizer.cost`.
    """
    found: list[Cost] = []
    for grid in sorted(candidates, key=lambda one: one.height * one.width):
        cycles = sizer.cycles(group, grid)
        if cycles is not None and (not found or cycles < found[-1].cycles) and sizer.has_room(group, grid):
            found.append(Cost(grid, cycles, 0))
    return found


def best_alone(sizer: Sizer, group: Group, candidates: Iterable[Grid], *, smallest: bool) -> Cost | None:
    """The smallest grid on which a group fits, or the fastest and of equals the smallest; None where there is none.

    The first or the last that `prices` gives, without asking for room on what lies between.
    """
    timed = [(cycles, grid) for grid in candidates if (cycles := sizer.cycles(group, grid)) is not None]
    area = {grid: grid.height * grid.width for _, grid in timed}
    for _, grid in sorted(timed, key=lambda one: (area[one[1]], one[0]) if smallest else (one[0], area[one[1]])):
        if sizer.has_room(group, grid):
            return sizer.cost(group, grid)
    return None
