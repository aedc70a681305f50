"""The fast engine: each step over a whole region at once.

A buffer of a region is one array of carrier values (`planes`); steps see it as ``[rows, columns, *view shape]``. A step reads and
writes only what its PEs hold; collectives and streams are the only way from one PE to another. No logical tensor is formed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import COMBINERS, Format, format_of
from cgptc.backends.wafer.arithmetic.instructions import Call
from cgptc.backends.wafer.arithmetic.matrix import Strided, gemm_planes
from cgptc.backends.wafer.arithmetic.sparse import absorb
from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.collectives import Combiner, Pattern
from cgptc.backends.wafer.faults import ExecutionError, ProgramError
from cgptc.backends.wafer.inflow import given_parcels, given_tensor, link_words
from cgptc.backends.wafer.interpret.account import Account, Run
from cgptc.backends.wafer.interpret.given import items_of
from cgptc.backends.wafer.interpret.line_totals import line_totals, planes_like
from cgptc.backends.wafer.interpret.planes import Planes
from cgptc.backends.wafer.interpret.transfer import tile_map
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import ITEM, Binding, Program, Region
from cgptc.backends.wafer.resolve import Block, Environment, Placed, Ready, blocks, iterations, pattern_of, place, ready_local
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View

Array = NDArray[Any]


class FastEngine:
    """A loaded program. Weights and states stay between runs; `run` may be called for any entry, in any order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pricer = Pricer(program.machine)
        self._progress = 0
        self._ready: dict[tuple[int, ...], Ready] = {}
        self._parcels: dict[str, _Spread] = {}
        self._ways: dict[str, tuple[str, NDArray[np.int64]]] = {}
        self._memory: dict[tuple[str, str], Planes] = {}
        states = {(one.region, one.buffer) for one in program.bindings if one.role == "state"}
        for region in program.regions:
            box = region.rectangle
            for buffer in region.buffers:
                form = format_of(buffer.dtype)
                poison = np.nan if form.is_float else np.iinfo(np.int32).min
                filler = 0 if (region.name, buffer.name) in states else poison
                self._memory[region.name, buffer.name] = Planes(buffer.size, box.height, box.width, form.carrier, filler)

    def load(self, weights: Mapping[str, Array]) -> None:
        """Scatter logical weights. Raises ProgramError for a missing one."""
        for binding in self.program.bindings:
            if binding.role == "weight":
                self._write(binding, given_tensor(weights, binding.tensor))
        for parcel, form, tensor, words in given_parcels(self.program, weights):
            assert self.program.inflow is not None
            self._ways[parcel.tensor] = link_words(parcel.layout, words, self.program.region(self.program.inflow.region).rectangle)
            self._parcels[parcel.tensor] = _spread(parcel.layout, form, tensor)

    def run(self, entry: str, inputs: Mapping[str, Array], scalars: Mapping[str, int]) -> Run:
        """Run an entry. Inputs and outputs have a leading axis of items where the entry's item count is not the constant 1."""
        items, single = items_of(self.program, entry, inputs, scalars)
        account = Account(self.program.machine)
        outputs: dict[str, list[Array]] = {one.tensor: [] for one in self.program.bindings if one.role == "output" and entry in one.entries}
        self._queues: dict[str, deque[Array]] = {stream.name: deque() for stream in self.program.streams}
        work = {region.name: self._work(region, entry, items, single, inputs, scalars, outputs, account) for region in self.program.regions}
        with np.errstate(all="ignore"):
            while work:
                before = self._progress
                done = [name for name in list(work) if next(work[name], "done") == "done"]
                for name in done:
                    del work[name]
                if not done and before == self._progress:
                    raise ExecutionError("stall", f"regions {sorted(work)} wait for one another")
        account.timeline = timeline(self.program, entry, scalars, self.pricer)
        return Run({name: found[0] if single else np.stack(found) for name, found in outputs.items()}, account)

    def tensor(self, name: str) -> Array:
        """The logical tensor of a binding as it stands: for hosts and tests."""
        for binding in self.program.bindings:
            if binding.tensor == name:
                return self._read(binding)
        raise KeyError(name)

    def set_state(self, name: str, tensor: Array) -> None:
        """Write the logical tensor of a state, as a host does that swaps caches. KeyError where there is none of that name."""
        for binding in self.program.bindings:
            if binding.tensor == name and binding.role == "state":
                self._write(binding, tensor)
                return
        raise KeyError(name)

    def tiles(self, region: str, buffer: str) -> Array:
        """A buffer's content ``[rows, columns, elements]``: for tests."""
        planes = self._memory[region, buffer]
        return np.moveaxis(planes.tiles(len(planes.array)), 0, 2)

    def _work(
        self,
        region: Region,
        entry: str,
        items: int,
        single: bool,
        inputs: Mapping[str, Array],
        scalars: Mapping[str, int],
        outputs: dict[str, list[Array]],
        account: Account,
    ) -> Generator[str, None, None]:
        """A region at work; yields where it has to wait for another."""
        steps = region.steps(entry)
        bindings = [one for one in self.program.bindings if one.region == region.name and entry in one.entries]
        for stream in self.program.streams:
            if stream.consumer == region.name and steps:
                account.touch(region.name, stream.address + stream.queue_bytes)
        account.touch_inflow(self.program.inflow, region.name if steps else "")
        for item in range(items if steps else 0):
            for binding in bindings:
                if binding.role == "input":
                    self._write(binding, inputs[binding.tensor] if single else inputs[binding.tensor][item])
            pending: list[tuple[Step, dict[str, int]]] = [(step, {**scalars, ITEM: item}) for step in reversed(steps)]
            while pending:
                step, environment = pending.pop()
                match step:
                    case Loop():
                        inner = list(iterations(step, environment))
                        pending.extend((one, within) for within in reversed(inner) for one in reversed(step.steps))
                    case Local():
                        self._local(step, region, environment, account)
                    case Collective():
                        self._collective(step, region, environment, account)
                    case Send():
                        queue, stream = self._queues[step.stream], self.program.stream(step.stream).at(environment)
                        while len(queue) >= stream.depth:
                            yield "room"
                        placed = self._tile(region, step.source, stream.source, environment, account)
                        queue.append(self._planes(region, placed).view(placed, _all(region)).copy())
                        consumer = self.program.region(stream.consumer).rectangle
                        account.stream_traffic(stream, region.rectangle, consumer)
                    case Receive():
                        queue, stream = self._queues[step.stream], self.program.stream(step.stream).at(environment)
                        while not queue:
                            yield "an item"
                        placed = self._tile(region, step.target, stream.target, environment, account)
                        moved = tile_map(stream).move(queue.popleft())
                        same = (moved.shape[0] == 1, moved.shape[1] == 1)
                        self._planes(region, placed).write(placed, _all(region), moved, *same)
                    case Take():
                        self._take(step, region, environment, account)
                    case Absorb():
                        self._absorb(step, region, environment, account)
                self._progress += 1
                if not isinstance(step, Loop):
                    account.spend(region.name, self.pricer.cycles(step, region, environment))
            for binding in bindings:
                if binding.role == "output":
                    outputs[binding.tensor].append(self._read(binding.at(scalars)))

    def _local(self, step: Local, region: Region, environment: Environment, account: Account) -> None:
        ready = self._resolved(step, region, environment, account)
        declared, target, out = ready.declared, ready.target, ready.out
        operands = [self._planes(region, one) for one in ready.inputs if isinstance(one, Placed)]
        for block in ready.blocks:
            account.busy += ready.cycles * block.area
            account.macs += ready.macs * block.area
            whole_rows, whole_columns = len(block.rows) == region.rectangle.height, len(block.columns) == region.rectangle.width
            rows_same = whole_rows and "row" not in ready.named and all(one.same_rows for one in operands)
            columns_same = whole_columns and "column" not in ready.named and all(one.same_columns for one in operands)
            if step.instruction == "gemm" and self._gemm(region, ready, block, rows_same, columns_same):
                continue
            part = Block(range(1) if rows_same else block.rows, range(1) if columns_same else block.columns)
            values = tuple(
                self._operand(region, one, part, target, keep=i in declared.integers) if isinstance(one, Placed) else _number(one, target)
                for i, one in enumerate(ready.inputs)
            )
            variables = coordinates(environment, part.rows, part.columns, out.shape) if ready.named else {}
            result = declared.body(Call(target, values, out.shape, variables, ready.parameters))
            stored = format_of(out.buffer.dtype)
            final = result if stored is target else stored.round(result)
            self._planes(region, out).write(out, block, final, rows_same, columns_same)

    def _resolved(self, step: Local, region: Region, environment: Environment, account: Account) -> Ready:
        """The step with integers, resolved once for the values that it depends on."""
        key = self.pricer.key(step, environment)
        if key not in self._ready:
            self._ready[key] = ready_local(step, region, self.program.machine, environment)
        ready = self._ready[key]
        for one in (ready.out, *ready.inputs):
            if isinstance(one, Placed):
                account.touch(region.name, one.buffer.address + one.buffer.bytes)
        return ready

    def _gemm(self, region: Region, ready: Ready, block: Block, rows_same: bool, columns_same: bool) -> bool:
        """Run the compiled loop where the operands are as it needs them."""
        target, out = ready.target, ready.out
        total, left, right = ready.inputs
        if not isinstance(left, Placed) or not isinstance(right, Placed) or total != out or format_of(out.buffer.dtype) is not target:
            return False
        if block.columns.step != 1 or out.buffer.name in (left.buffer.name, right.buffer.name):
            return False
        planes = self._planes(region, out)
        planes.reserve(rows_same, columns_same, fresh=False)
        arrays = [planes.array, self._planes(region, left).array, self._planes(region, right).array]
        if any(array.dtype != target.carrier for array in arrays):
            return False
        (m, n), k = out.shape, left.shape[1]
        part = planes.stored(block)
        rows = (part.rows.start, part.rows.stop, part.rows.step)
        columns = (part.columns.start, part.columns.stop)
        total_memory, left_memory, right_memory = arrays
        places = (_strided(out), _strided(left), _strided(right))
        gemm_planes(target, total_memory, left_memory, right_memory, places, (m, k, n), rows, columns)
        return True

    def _collective(self, step: Collective, region: Region, environment: Environment, account: Account) -> None:
        source = self._place(region, step.source, environment, account)
        target = self._place(region, step.target, environment, account)
        for block in blocks(step.where, region.rectangle, environment):
            if block.area == 0:
                continue
            pattern, segments = pattern_of(step, block, environment)
            account.line_traffic(pattern, source.words, segments, step.along, block, region.rectangle)
            self._run_pattern(step, pattern, segments, region, source, target, block)

    def _run_pattern(
        self, step: Collective, pattern: Pattern, segments: int, region: Region, source: Placed, target: Placed, block: Block
    ) -> None:
        """One pattern on all lines of a block; lines that hold the same are worked on once."""
        along, form = step.along, format_of(target.buffer.dtype)
        combiner: Combiner = partial(COMBINERS[step.combine], form)
        box, given = region.rectangle, self._planes(region, source)
        whole = (len(block.rows) == box.height, len(block.columns) == box.width)
        rows_same = along == "x" and whole[0] and given.same_rows
        columns_same = along == "y" and whole[1] and given.same_columns
        part = Block(range(1) if rows_same else block.rows, range(1) if columns_same else block.columns)
        payload = self._on_lines(given.view(source, part), along, segments)
        if pattern.kind == "gather":
            # Slots that a position does not fill keep what was there, so this one works in place.
            planes = self._planes(region, target)
            planes.reserve(False, False, fresh=False)
            lines = np.moveaxis(self._on_lines(planes.view(target, block), along, segments), 3, 2)
            pattern.apply(self._on_lines(given.view(source, block), along, segments), lines, combiner)
            return
        ends_equal = pattern.kind in ("broadcast", "allreduce") and segments == 1 and whole[1 if along == "x" else 0]
        if ends_equal and pattern.kind == "broadcast":
            result = payload[:, pattern.root : pattern.root + 1]
        elif pattern.kind == "allreduce":
            result = line_totals(form, step.combine, pattern, payload)
            result = result if ends_equal else np.broadcast_to(result, payload.shape)
        else:
            result = planes_like(payload)
            pattern.apply(payload, result, combiner)
        lines = result.reshape(-1, *result.shape[2:])
        values = lines if along == "y" else np.swapaxes(lines, 0, 1)
        self._planes(region, target).write(
            target, block, values, rows_same or (along == "y" and ends_equal), columns_same or (along == "x" and ends_equal)
        )

    @staticmethod
    def _on_lines(view: Array, along: str, segments: int) -> Array:
        """``[rows, columns, …]`` as ``[segments, positions, other lines, …]``, sharing memory."""
        lines = view if along == "y" else np.swapaxes(view, 0, 1)
        size = lines.shape[0] // segments
        shape = (segments, size, *lines.shape[1:])
        strides = (lines.strides[0] * size, *lines.strides)
        return as_strided(lines, shape, strides)

    def _place(self, region: Region, view: View, environment: Environment, account: Account) -> Placed:
        buffer = region.buffer(view.buffer)
        account.touch(region.name, buffer.address + buffer.bytes)
        return place(view, buffer, environment)

    def _planes(self, region: Region, placed: Placed) -> Planes:
        return self._memory[region.name, placed.buffer.name]

    def _operand(self, region: Region, placed: Placed, block: Block, target: Format, *, keep: bool) -> Array:
        values = self._planes(region, placed).view(placed, block)
        return values if keep or values.dtype == target.carrier else values.astype(target.carrier)

    def _tile(self, region: Region, view: View, layout: Layout, environment: Environment, account: Account) -> Placed:
        """The view that a stream takes or gives."""
        placed = self._place(region, view, environment, account)
        if placed.shape != layout.local_shape:
            raise ProgramError("stream-shape", f"a view of {placed.shape} for tiles of {layout.local_shape}")
        return placed

    def _take(self, step: Take, region: Region, environment: Environment, account: Account) -> None:
        """What the host sent, as every PE's queue holds it."""
        inflow = self.program.inflow
        assert inflow is not None
        layout = inflow.parcel(step.tensor).layout
        placed = self._tile(region, step.target, layout, environment, account)
        spread = self._parcels[step.tensor]
        self._planes(region, placed).write(placed, _all(region), spread.tiles, spread.rows_same, spread.columns_same)
        account.inflow_traffic(step.tensor, self._ways[step.tensor])

    def _absorb(self, step: Absorb, region: Region, environment: Environment, account: Account) -> None:
        """Non-zeros in the order in which they arrive, which is that of a dense product."""
        inflow = self.program.inflow
        assert inflow is not None
        total, x = (self._place(region, view, environment, account) for view in (step.total, step.x))
        target, stored, block = format_of(step.format), format_of(total.buffer.dtype), _all(region)
        old, given = (self._operand(region, one, block, target, keep=False) for one in (total, x))
        spread = self._parcels[step.tensor]
        result = absorb(target, old, given, spread.tiles.astype(target.carrier))
        self._planes(region, total).write(total, block, result if stored is target else stored.round(result), False, False)
        counts = inflow.parcel(step.tensor).nonzeros
        assert counts is not None
        account.busy += self.pricer.cycles(step, region, environment) * block.area
        account.macs += counts.total * total.shape[0]
        account.inflow_traffic(step.tensor, self._ways[step.tensor])

    def _write(self, binding: Binding, tensor: Array) -> None:
        buffer = self.program.region(binding.region).buffer(binding.buffer)
        layout = binding.layout
        spread = _spread(layout, format_of(buffer.dtype), tensor)
        placed = Placed(buffer, layout.local_shape, _dense(layout.local_shape), 0)
        region = self.program.region(binding.region)
        self._planes(region, placed).write(placed, _all(region), spread.tiles, spread.rows_same, spread.columns_same)

    def _read(self, binding: Binding) -> Array:
        buffer = self.program.region(binding.region).buffer(binding.buffer)
        shape = binding.layout.local_shape
        rank = len(shape)
        planes = self._memory[binding.region, binding.buffer]
        tiles = planes.tiles(math.prod(shape)).reshape(*shape, planes.height, planes.width)
        return format_of(buffer.dtype).stored(binding.layout.gather(np.moveaxis(tiles, (rank, rank + 1), (0, 1))))


@dataclass(frozen=True, eq=False)
class _Spread:
    """A tensor's tiles ``[rows or 1, columns or 1, *local shape]`` as carriers: directions along which all are the same stand once."""

    tiles: Array
    rows_same: bool
    columns_same: bool


def _spread(layout: Layout, form: Format, tensor: Array) -> _Spread:
    rows_same = layout.row is None and layout.cut_axis("rows") is None
    columns_same = layout.column is None and layout.cut_axis("columns") is None
    once = replace(layout, height=1 if rows_same else layout.height, width=1 if columns_same else layout.width)
    return _Spread(once.scatter(form.round(np.asarray(tensor).astype(form.carrier, copy=False))), rows_same, columns_same)


def _all(region: Region) -> Block:
    return Block(range(region.rectangle.height), range(region.rectangle.width))


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a row-major array."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def coordinates(environment: Environment, rows: range, columns: range, shape: tuple[int, ...]) -> dict[str, Any]:
    """The variables of mask expressions: scalars, ``row`` and ``column`` of each PE, ``i0``, ``i1``, … of each element."""
    rank = len(shape)
    variables: dict[str, Any] = dict(environment)
    variables["row"] = np.arange(rows.start, rows.stop, rows.step).reshape(-1, 1, *[1] * rank)
    variables["column"] = np.arange(columns.start, columns.stop, columns.step).reshape(1, -1, *[1] * rank)
    for axis, size in enumerate(shape):
        variables[f"i{axis}"] = np.arange(size).reshape([-1 if other == axis else 1 for other in range(rank)])
    return variables


def _strided(placed: Placed) -> Strided:
    first, second = placed.strides
    return placed.offset, first, second


def _number(value: float, target: Format) -> Array:
    return target.round(np.asarray(value, target.carrier))
