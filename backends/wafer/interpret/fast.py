"""The fast engine: each step over a whole region at once.

A buffer of a region is one array ``[elements, PEs]`` of carrier values; steps see it as ``[rows, columns, *view shape]``. A step reads and
writes only what its PEs hold; collectives and streams are the only way from one PE to another. No logical tensor is formed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.arithmetic.formats import COMBINERS, Format, format_of
from cgptc.backends.wafer.arithmetic.instructions import Call, instruction_of
from cgptc.backends.wafer.arithmetic.matrix import Strided, gemm_planes
from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.collectives import Combiner
from cgptc.backends.wafer.faults import ExecutionError, ProgramError
from cgptc.backends.wafer.interpret.account import Account, Run
from cgptc.backends.wafer.interpret.transfer import tile_map
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import ITEM, Binding, Buffer, Collective, Local, Loop, Program, Receive, Region, Send, Step, View
from cgptc.backends.wafer.resolve import Block, Environment, Placed, blocks, iterations, local_price, pattern_of, place

Array = NDArray[Any]


class FastEngine:
    """A loaded program. Weights and states stay between runs; `run` may be called for any entry, in any order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pricer = Pricer(program.machine)
        self._memory: dict[tuple[str, str], Array] = {}
        for region in program.regions:
            for buffer in region.buffers:
                carrier = format_of(buffer.dtype).carrier
                poison: Any = np.nan if format_of(buffer.dtype).is_float else np.iinfo(np.int32).min
                self._memory[region.name, buffer.name] = np.full((buffer.size, region.rectangle.area), poison, carrier)
        for binding in program.bindings:
            if binding.role == "state":
                self._memory[binding.region, binding.buffer][...] = 0

    def load(self, weights: Mapping[str, Array]) -> None:
        """Scatter logical weights. Raises ProgramError for a missing one."""
        for binding in self.program.bindings:
            if binding.role == "weight":
                if binding.tensor not in weights:
                    raise ProgramError("weight-missing", f"the program needs weight '{binding.tensor}'")
                self._write(binding, weights[binding.tensor])

    def run(self, entry: str, inputs: Mapping[str, Array], scalars: Mapping[str, int]) -> Run:
        """Run an entry. Inputs and outputs have a leading axis of items where the entry's item count is not the constant 1."""
        described = self.program.entry(entry)
        account = Account(self.program.machine)
        items = value_of(described.items, scalars)
        single = described.items == 1
        outputs: dict[str, list[Array]] = {one.tensor: [] for one in self.program.bindings if one.role == "output" and entry in one.entries}
        self._queues: dict[str, deque[Array]] = {stream.name: deque() for stream in self.program.streams}
        work = {region.name: self._work(region, entry, items, single, inputs, scalars, outputs, account) for region in self.program.regions}
        with np.errstate(all="ignore"):
            while work:
                before = {name: len(queue) for name, queue in self._queues.items()}
                done = [name for name in list(work) if next(work[name], "done") == "done"]
                for name in done:
                    del work[name]
                if not done and before == {name: len(queue) for name, queue in self._queues.items()}:
                    raise ExecutionError("stall", f"regions {sorted(work)} wait for one another")
        account.timeline = timeline(self.program, entry, scalars)
        return Run({name: found[0] if single else np.stack(found) for name, found in outputs.items()}, account)

    def tensor(self, name: str) -> Array:
        """The logical tensor of a binding as it stands: for hosts and tests."""
        for binding in self.program.bindings:
            if binding.tensor == name:
                return self._read(binding)
        raise KeyError(name)

    def tiles(self, region: str, buffer: str) -> Array:
        """A buffer's content ``[rows, columns, elements]``: for tests."""
        rectangle = self.program.region(region).rectangle
        return np.moveaxis(self._memory[region, buffer].reshape(-1, rectangle.height, rectangle.width), 0, 2)

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
        for item in range(items if steps else 0):
            for binding in bindings:
                if binding.role == "input":
                    if binding.tensor not in inputs:
                        raise ProgramError("input-missing", f"entry '{entry}' needs input '{binding.tensor}'")
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
                        queue, stream = self._queues[step.stream], self.program.stream(step.stream)
                        while len(queue) >= stream.depth:
                            yield "room"
                        queue.append(self._whole(region, step.source, stream.source, environment, account).copy())
                        consumer = self.program.region(stream.consumer).rectangle
                        account.stream_traffic(stream, region.rectangle, consumer)
                    case Receive():
                        queue, stream = self._queues[step.stream], self.program.stream(step.stream)
                        while not queue:
                            yield "an item"
                        self._whole(region, step.target, stream.target, environment, account)[...] = tile_map(stream).move(queue.popleft())
                if not isinstance(step, Loop):
                    account.spend(region.name, self.pricer.cycles(step, region, environment))
            for binding in bindings:
                if binding.role == "output":
                    outputs[binding.tensor].append(self._read(binding))

    def _local(self, step: Local, region: Region, environment: Environment, account: Account) -> None:
        declared = instruction_of(step.instruction)
        target = format_of(step.format)
        out = self._place(region, step.out, environment, account)
        price = local_price(step, region, self.program.machine, environment)
        parameters = dict(step.parameters)
        placed = [self._place(region, one, environment, account) if isinstance(one, View) else one for one in step.inputs]
        cycles = declared.cycles(price)
        for block in blocks(step.where, region.rectangle, environment):
            account.busy += cycles * block.area
            account.macs += declared.macs(price) * block.area
            if step.instruction == "gemm" and self._gemm(region, target, out, placed, block):
                continue
            values = tuple(
                self._operand(region, one, block, target, keep=i in declared.integers) if isinstance(one, Placed) else _number(one, target)
                for i, one in enumerate(placed)
            )
            call = Call(target, values, out.shape, coordinates(environment, block.rows, block.columns, out.shape), parameters)
            result = declared.body(call)
            stored = format_of(out.buffer.dtype)
            self._view(region, out, block)[...] = result if stored is target else stored.round(result)

    def _gemm(self, region: Region, target: Format, out: Placed, inputs: list[Any], block: Block) -> bool:
        """Run the compiled loop where the operands are as it needs them."""
        total, left, right = inputs
        if not all(isinstance(one, Placed) for one in inputs) or total != out or format_of(out.buffer.dtype) is not target:
            return False
        if block.columns.step != 1 or out.buffer.name in (left.buffer.name, right.buffer.name):
            return False
        arrays = [self._memory[region.name, one.buffer.name] for one in (out, left, right)]
        if any(array.dtype != target.carrier for array in arrays):
            return False
        (m, n), k = out.shape, left.shape[1]
        places = (_strided(out), _strided(left), _strided(right))
        rows = (block.rows.start, block.rows.stop, block.rows.step)
        columns = (block.columns.start, block.columns.stop)
        total_memory, left_memory, right_memory = arrays
        gemm_planes(target, total_memory, left_memory, right_memory, places, (m, k, n), rows, columns, region.rectangle.width)
        return True

    def _collective(self, step: Collective, region: Region, environment: Environment, account: Account) -> None:
        source = self._place(region, step.source, environment, account)
        target = self._place(region, step.target, environment, account)
        form = format_of(target.buffer.dtype)
        combiner: Combiner = partial(COMBINERS[step.combine], form)
        for block in blocks(step.where, region.rectangle, environment):
            if block.area == 0:
                continue
            pattern, segments = pattern_of(step, block, environment)
            account.line_traffic(pattern, source.words, segments, step.along, block, region.rectangle)
            moved = self._on_lines(self._view(region, source, block), step.along, segments)
            result = self._on_lines(self._view(region, target, block), step.along, segments)
            if step.kind == "gather":
                result = np.moveaxis(result, 3, 2)
            elif source == target:
                moved = moved.copy() if step.kind == "shift" else result
            pattern.apply(moved, result, combiner)

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

    def _view(self, region: Region, placed: Placed, block: Block) -> Array:
        """The view's elements in the PEs of a block, ``[rows, columns, *shape]``, sharing memory."""
        memory = self._memory[region.name, placed.buffer.name]
        width, item = region.rectangle.width, memory.itemsize
        plane = region.rectangle.area * item
        origin = memory.reshape(-1)[placed.offset * region.rectangle.area + block.rows.start * width + block.columns.start :]
        shape = (len(block.rows), len(block.columns), *placed.shape)
        strides = (block.rows.step * width * item, block.columns.step * item, *(stride * plane for stride in placed.strides))
        return as_strided(origin, shape, strides)

    def _operand(self, region: Region, placed: Placed, block: Block, target: Format, *, keep: bool) -> Array:
        values = self._view(region, placed, block)
        return values if keep or values.dtype == target.carrier else values.astype(target.carrier)

    def _whole(self, region: Region, view: View, layout: Layout, environment: Environment, account: Account) -> Array:
        """The tile ``[rows, columns, *local shape]`` that a stream takes or gives."""
        placed = self._place(region, view, environment, account)
        if placed.shape != layout.local_shape:
            raise ProgramError("stream-shape", f"a view of {placed.shape} for tiles of {layout.local_shape}")
        return self._view(region, placed, Block(range(region.rectangle.height), range(region.rectangle.width)))

    def _bound(self, binding: Binding) -> tuple[Buffer, Array]:
        region = self.program.region(binding.region)
        buffer = region.buffer(binding.buffer)
        memory = self._memory[binding.region, binding.buffer]
        shape = (*binding.layout.local_shape, region.rectangle.height, region.rectangle.width)
        return buffer, memory[: math.prod(binding.layout.local_shape)].reshape(shape)

    def _write(self, binding: Binding, tensor: Array) -> None:
        buffer, planes = self._bound(binding)
        form = format_of(buffer.dtype)
        rank = len(binding.layout.shape)
        tiles = binding.layout.scatter(form.round(np.asarray(tensor).astype(form.carrier, copy=False)))
        planes[...] = np.moveaxis(tiles, (0, 1), (rank, rank + 1))

    def _read(self, binding: Binding) -> Array:
        buffer, planes = self._bound(binding)
        rank = len(binding.layout.shape)
        form = format_of(buffer.dtype)
        return form.stored(binding.layout.gather(np.moveaxis(planes, (rank, rank + 1), (0, 1))))


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
