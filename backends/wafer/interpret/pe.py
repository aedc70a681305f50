"""The engine that defines what a program means: PE by PE.

Every PE has its own memory as bytes, marked where it was written; a read of anything else is an error. It runs its region's steps from its
own place in them, until it must wait for a message or for room in a queue. Which PE runs next is a schedule, and must not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.instructions import Call
from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.faults import ExecutionError
from cgptc.backends.wafer.interpret.account import Account, Run
from cgptc.backends.wafer.interpret.given import items_of
from cgptc.backends.wafer.interpret.inflow_messages import absorb, feed, take
from cgptc.backends.wafer.interpret.line_messages import collective
from cgptc.backends.wafer.interpret.mesh import Element, Mesh
from cgptc.backends.wafer.interpret.network import Network, Work
from cgptc.backends.wafer.interpret.schedules import HOST, Schedule, round_robin
from cgptc.backends.wafer.interpret.stream_messages import receive, send
from cgptc.backends.wafer.program import ITEM, Binding, Program
from cgptc.backends.wafer.resolve import Environment, Placed, Ready, iterations, place, ready_local
from cgptc.backends.wafer.routes import Piece, pieces
from cgptc.backends.wafer.steps import Absorb, Collective, Local, Loop, Receive, Send, Step, Take, View

Array = NDArray[Any]
MOST_IDLE_TURNS = 64
"""Passes in which nothing moves before a run is stuck: more than any schedule lets a PE rest."""


class PeEngine:
    """A loaded program. `run` may be called for any entry, in any order; memory stays as it is between runs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.mesh = Mesh(program)

    def load(self, weights: Mapping[str, Array]) -> None:
        """Scatter logical weights. Raises ProgramError for a missing one."""
        self.mesh.load(weights)

    def run(self, entry: str, inputs: Mapping[str, Array], scalars: Mapping[str, int], schedule: Schedule = round_robin) -> Run:
        """Run an entry under a schedule; see `FastEngine.run` for inputs and outputs."""
        run = _EntryRun(self.mesh, entry, inputs, dict(scalars))
        run.complete(schedule)
        return run.result()

    def tensor(self, name: str) -> Array:
        """The logical tensor of a binding as it stands: for hosts and tests. KeyError where there is none of that name."""
        return self.mesh.read(self._binding(name))

    def set_state(self, name: str, tensor: Array) -> None:
        """Write the logical tensor of a state, as a host does that swaps caches. KeyError where there is none of that name."""
        self.mesh.write(self._binding(name, "state"), tensor)

    def _binding(self, name: str, role: str = "") -> Binding:
        for binding in self.program.bindings:
            if binding.tensor == name and role in ("", binding.role):
                return binding
        raise KeyError(name)


class _EntryRun:
    """One entry under way."""

    def __init__(self, mesh: Mesh, entry: str, inputs: Mapping[str, Array], scalars: dict[str, int]) -> None:
        self.mesh, self.entry, self.scalars = mesh, entry, scalars
        self.program = mesh.program
        self.items, self.single = items_of(self.program, entry, inputs, scalars)
        self.pricer = Pricer(self.program.machine)
        self.account = Account(self.program.machine)
        self.net = Network(self.program.machine, self.account)
        self.ready: dict[tuple[int, ...], Ready] = {}
        self.streams = {stream.name: stream.at(self.scalars) for stream in self.program.streams}
        self.pieces: dict[str, list[Piece]] = {name: pieces(stream) for name, stream in self.streams.items()}
        self.bindings = [one.at(self.scalars) for one in self.program.bindings if entry in one.entries]
        self.inputs: dict[tuple[str, int], Array] = {}
        for binding in self.bindings:
            if binding.role == "input":
                for item in range(self.items):
                    tensor = inputs[binding.tensor] if self.single else inputs[binding.tensor][item]
                    self.inputs[binding.tensor, item] = mesh.tiles(binding, tensor)
        self.outputs: dict[tuple[str, int], Array] = {}

    def complete(self, schedule: Schedule) -> None:
        """Run all PEs to their ends. Raises ExecutionError on a stall, or if a message is left over."""
        alive = {at: self._work(one) for at, one in self.mesh.elements.items()}
        inflow = self.program.inflow
        if inflow is not None:
            region = self.program.region(inflow.region)
            items = self.items if region.steps(self.entry) else 0
            alive[HOST] = feed(self.net, inflow, self.mesh.of(region), self.mesh.parcels, items)
        turn = idle = 0
        with np.errstate(all="ignore"):
            while alive:
                before = self.net.progress
                for at in schedule(list(alive), turn):
                    if next(alive[at], "done") == "done":
                        del alive[at]
                        self.net.progress += 1
                turn += 1
                idle = idle + 1 if before == self.net.progress else 0
                if idle > MOST_IDLE_TURNS:
                    raise ExecutionError("stall", f"{len(alive)} PEs wait for ever, first {min(alive)}")
        left = self.net.left_over()
        if left:
            raise ExecutionError("left-over", f"{len(left)} queues are not empty, first {left[0]}")

    def result(self) -> Run:
        self.account.timeline = timeline(self.program, self.entry, self.scalars)
        found: dict[str, Array] = {}
        for binding in self.bindings:
            if binding.role == "output":
                tensors = [binding.layout.gather(self.outputs[binding.tensor, item]) for item in range(self.items)]
                found[binding.tensor] = tensors[0] if self.single else np.stack(tensors)
        return Run(found, self.account)

    def _work(self, one: Element) -> Work:
        """A PE's life: items, and in each the region's steps."""
        region = one.region
        steps = region.steps(self.entry)
        first = (one.row, one.column) == (0, 0)
        local = [binding for binding in self.bindings if binding.region == region.name]
        for stream in self.program.streams:
            if stream.consumer == region.name and steps:
                self.account.touch(region.name, stream.address + stream.queue_bytes)
        self.account.touch_inflow(self.program.inflow, region.name if steps else "")
        for item in range(self.items if steps else 0):
            for binding in local:
                if binding.role == "input":
                    self.mesh.put(binding, one, self.inputs[binding.tensor, item])
            pending: list[tuple[Step, dict[str, int]]] = [(step, {**self.scalars, ITEM: item}) for step in reversed(steps)]
            while pending:
                step, environment = pending.pop()
                if isinstance(step, Loop):
                    inner = list(iterations(step, environment))
                    pending.extend((inside, within) for within in reversed(inner) for inside in reversed(step.steps))
                else:
                    yield from self._step(step, one, environment)
                    if first:
                        self.account.spend(region.name, self.pricer.cycles(step, region, environment))
                self.net.progress += 1
            for binding in local:
                if binding.role == "output":
                    self._read_output(binding, one, item)

    def _step(self, step: Step, one: Element, environment: Environment) -> Work:
        """One PE's part of a step that is no loop."""

        def placed(view: View) -> Placed:
            buffer = one.region.buffer(view.buffer)
            self.account.touch(one.region.name, buffer.address + buffer.bytes)
            return place(view, buffer, environment)

        match step:
            case Local():
                self._local(step, one, environment)
            case Collective():
                yield from collective(self.net, step, one, environment, placed(step.source), placed(step.target))
            case Send():
                stream = self.streams[step.stream]
                consumer = self.program.region(stream.consumer).rectangle
                yield from send(self.net, stream, self.pieces[stream.name], consumer, one, placed(step.source))
            case Receive():
                stream = self.streams[step.stream]
                yield from receive(self.net, stream, self.pieces[stream.name], one, placed(step.target))
            case Take():
                assert self.program.inflow is not None
                yield from take(self.net, self.program.inflow, one, placed(step.target))
            case Absorb():
                self.account.busy += self.pricer.cycles(step, one.region, environment)
                yield from absorb(self.net, step, one, placed(step.total), placed(step.x))

    def _local(self, step: Local, one: Element, environment: Environment) -> None:
        key = self.pricer.key(step, environment)
        if key not in self.ready:
            self.ready[key] = ready_local(step, one.region, self.program.machine, environment)
        ready = self.ready[key]
        declared, target, out = ready.declared, ready.target, ready.out
        for placed in (out, *ready.inputs):
            if isinstance(placed, Placed):
                self.account.touch(one.region.name, placed.buffer.address + placed.buffer.bytes)
        if one.block(ready.blocks) is None:
            return
        self.account.busy += ready.cycles
        self.account.macs += ready.macs
        values: list[Array] = []
        for i, operand in enumerate(ready.inputs):
            if isinstance(operand, Placed):
                carried = format_of(operand.buffer.dtype).carried(one.memory.read(operand))
                values.append(carried if i in declared.integers else carried.astype(target.carrier, copy=False))
            else:
                values.append(target.round(np.asarray(operand, target.carrier)))
        variables: dict[str, Any] = {}
        if ready.named:
            variables = {**environment, "row": one.row, "column": one.column}
            for axis, size in enumerate(out.shape):
                variables[f"i{axis}"] = np.arange(size).reshape([-1 if other == axis else 1 for other in range(len(out.shape))])
        result = declared.body(Call(target, tuple(values), out.shape, variables, ready.parameters))
        form = format_of(out.buffer.dtype)
        rounded = result if form is target else form.round(np.asarray(result))
        one.memory.write(out, form.stored(np.broadcast_to(rounded, out.shape)))

    def _read_output(self, binding: Binding, one: Element, item: int) -> None:
        layout = binding.layout
        key = (binding.tensor, item)
        if key not in self.outputs:
            buffer = one.region.buffer(binding.buffer)
            self.outputs[key] = np.zeros((layout.height, layout.width, *layout.local_shape), format_of(buffer.dtype).storage)
        if layout.holds(one.column, one.row):
            self.outputs[key][one.row, one.column] = one.memory.read(self.mesh.bound(binding)).reshape(layout.local_shape)
