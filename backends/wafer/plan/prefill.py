"""Prompts in chunks: a second entry of a placed program, whose items are several tokens, with the weights and caches of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.inflow import parcel_cost
from cgptc.backends.wafer.kernels.assembly import renamed
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Fragment, Kernel, arriving
from cgptc.backends.wafer.kernels.further_entry import queue_bytes, region_with_entry, with_entry
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.sparse import SparseLinear
from cgptc.backends.wafer.plan.fragments import fragment_of
from cgptc.backends.wafer.plan.layouts import CHUNKS, LENGTH, PAST
from cgptc.backends.wafer.plan.select import Ground, kernel_of
from cgptc.backends.wafer.plan.size import Fitted, Sizer
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import LinearWork
from cgptc.backends.wafer.program import Entry, Parcel, Program, Scalar

PREFILL = "prefill"
CANDIDATES = (2, 4, 8, 16, 32, 64)
"""Tokens of a chunk that are priced."""

PROMPT = 128
"""Tokens of the prompt for which chunks are chosen, or as many as the context holds: larger chunks cost less per token, and a pipeline
waits longer until the first one has gone through.
"""

STREAMED = 8
"""Items after which a pipeline's steady state is read off."""


@dataclass
class Prefill:
    """A placed program of one entry, ``entry``, and its regions' kernels, for which the second is made."""

    program: Program
    entry: str
    fitted: Sequence[Fitted]
    sizer: Sizer
    context: int
    _kernels: dict[tuple[object, ...], tuple[Kernel, ...]] = field(default_factory=dict, init=False)

    def best(self) -> tuple[Program, int]:
        """The program with chunks of as many tokens as make a prompt cheapest, and their number.

        The program as it is, and 1, where no chunk that there is room for makes it cheaper than its tokens one by one.
        """
        if self.sizer.whole:
            return self.program, 1
        kinds = {(*self._kind(one), queue_bytes(self.program, self.program.region(one.group.name))): one for one in self.fitted}
        prompt = min(PROMPT, self.context)
        prices = {rows: self._price(rows, prompt) for rows in (1, *(size for size in CANDIDATES if size <= prompt))}
        order = sorted(prices, key=lambda rows: (prices[rows], rows))
        chunk = next(rows for rows in order if rows == 1 or all(self._has_room(one, rows) for one in kinds.values()))
        if chunk == 1:
            return self.program, 1
        made, chunks = self.made(chunk), prompt // chunk
        first = timeline(made, self.entry, {PAST: 0, LENGTH: chunks * chunk}, most=STREAMED)
        alone = first.cycles + max(0, chunks * chunk - STREAMED) * first.initiation_interval()
        return (made, chunk) if timeline(made, PREFILL, {PAST: 0, CHUNKS: chunks}).cycles < alone else (self.program, 1)

    def made(self, chunk: int) -> Program:
        """The program with chunks of so many tokens. Raises ProgramError where there is no room for them."""
        fragments = {one.group.name: self._fragments(one, chunk) for one in self.fitted}
        turns = {one.group.name: one.group.turn for one in self.fitted}
        return with_entry(self.program, self._entry(chunk), chunk, fragments, turns)

    def _entry(self, chunk: int) -> Entry:
        scalars = (Scalar(PAST, 0, self.context - chunk), Scalar(CHUNKS, 1, self.context // chunk))
        return Entry(PREFILL, scalars, var(CHUNKS), (self.context - var(PAST) - var(CHUNKS) * chunk,))

    def _kind(self, one: Fitted) -> tuple[object, ...]:
        return self.sizer.kind(one.group), one.ground.grid

    def _of_rows(self, one: Fitted, rows: int) -> tuple[Kernel, ...]:
        """A region's kernels for chunks."""
        key = (*self._kind(one), rows)
        if key not in self._kernels:
            ground = replace(one.ground, chunk=rows)
            pairs = zip(one.group.tasks, one.kernels, strict=True)
            self._kernels[key] = tuple(_kernel(replace(task, rows=rows), kernel, ground) for task, kernel in pairs)
        return self._kernels[key]

    def _fragments(self, one: Fitted, rows: int) -> tuple[Fragment, ...]:
        found: list[Fragment] = []
        for task, kernel, first in zip(one.group.tasks, self._of_rows(one, rows), one.fragments, strict=True):
            made = fragment_of(task, kernel, self.sizer.feeds)
            if task.name in one.shared:
                made = renamed(made, {f"{task.name}.table": f"{one.shared[task.name]}.weight"})
            thin = {slot.buffer: slot.nonzeros for slot in first.parcels if slot.nonzeros is not None}
            found.append(arriving(made, thin) if first.parcels else made)
        return tuple(found)

    def _has_room(self, one: Fitted, rows: int) -> bool:
        try:
            region = self.program.region(one.group.name)
            region_with_entry(self.program, region, self._entry(rows), rows, self._fragments(one, rows), one.group.turn)
        except ProgramError:
            return False
        return True

    def _price(self, rows: int, prompt: int) -> int:
        """Cycles of a prompt in chunks: the first goes through all regions, the others follow at the pace of the slowest."""
        each: list[int] = []
        machine = self.sizer.machine
        for one in self.fitted:
            scalars = replace(one.ground, chunk=rows).scalars
            cycles = sum(kernel.cycles(machine, scalars) for kernel in self._of_rows(one, rows))
            box = self.program.region(one.group.name).rectangle
            parcels = [Parcel("", slot.layout, slot.nonzeros) for fragment in one.fragments for slot in fragment.parcels]
            come = sum(parcel_cost(parcel, self.sizer.dtype, box, machine).occupied for parcel in parcels)
            each.append(max(cycles, come))
        return sum(each) + (-(-prompt // rows) - 1) * max(each)


def _kernel(task: Task, first: Kernel, ground: Ground) -> Kernel:
    """A task's kernel for several rows; its weights lie as those of its kernel for one."""
    if not isinstance(task.work, LinearWork):
        made = kernel_of(task, ground)
        return replace(made, shared=first.shared) if isinstance(made, Embedding) and isinstance(first, Embedding) else made
    dense = kernel_of(replace(task, work=replace(task.work, zeros=None)), ground)
    assert isinstance(dense, Linear)
    return replace(first, dense=dense) if isinstance(first, SparseLinear) else dense
