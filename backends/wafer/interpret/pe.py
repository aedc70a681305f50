"""The engine that defines what a program means: PE by PE.

Every PE has its own memory as bytes, marked where it was written; a read of anything else is an error. It runs its region's steps from its
own place in them, until it must wait for a message or for room in a queue. Which PE runs next is a schedule, and must not matter.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.arithmetic.formats import COMBINERS, Format, format_of, multiply_add
from cgptc.backends.wafer.arithmetic.instructions import Call
from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.collectives import Action, Pattern
from cgptc.backends.wafer.faults import ExecutionError, ProgramError
from cgptc.backends.wafer.inflow import checked_words, edge_of
from cgptc.backends.wafer.interpret.account import Account, Run
from cgptc.backends.wafer.interpret.memory import Memory
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import (
    ITEM,
    Absorb,
    Binding,
    Collective,
    Inflow,
    Local,
    Loop,
    Program,
    Receive,
    Region,
    Send,
    Step,
    Stream,
    Take,
    View,
)
from cgptc.backends.wafer.resolve import Block, Environment, Placed, Ready, blocks, iterations, pattern_of, place, ready_local
from cgptc.backends.wafer.routes import Piece, pieces

Array = NDArray[Any]
Work = Generator[None, None, None]
HOST = (-1, -1)
"""Where the host stands among PEs in a schedule: off the wafer."""

Schedule = Callable[[Sequence[tuple[int, int]], int], Sequence[tuple[int, int]]]
"""Given all PEs still at work and the number of the pass, the order in which they run in it."""


def round_robin(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
    return pes


def backwards(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
    return pes[::-1]


def shuffled(seed: int) -> Schedule:
    """Another order in every pass, the same for the same seed."""
    source = random.Random(seed)

    def order(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
        return source.sample(pes, len(pes))

    return order


def starving(victim: tuple[int, int], period: int = 7) -> Schedule:
    """One PE runs in one pass of ``period`` only, or when no other is left."""

    def order(pes: Sequence[tuple[int, int]], turn: int) -> Sequence[tuple[int, int]]:
        others = [pe for pe in pes if pe != victim]
        return others if others and turn % period else pes

    return order


@dataclass
class _Channel:
    """A queue from one PE to another: whole payloads, of which so many words have entered and left."""

    capacity: int
    payloads: deque[Array] = field(default_factory=deque)
    inside: int = 0


@dataclass(frozen=True)
class _Place:
    """One PE: its region, its coordinates in it and on the fabric, its memory."""

    region: Region
    row: int
    column: int
    memory: Memory

    @property
    def x(self) -> int:
        return self.region.rectangle.x + self.column

    @property
    def y(self) -> int:
        return self.region.rectangle.y + self.row


class PeEngine:
    """A loaded program. `run` may be called for any entry, in any order; memory stays as it is between runs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._places: dict[tuple[int, int], _Place] = {}
        self._parcels: dict[str, Array] = {}
        for region in program.regions:
            box = region.rectangle
            for row in range(box.height):
                for column in range(box.width):
                    at = (box.x + column, box.y + row)
                    if at in self._places:
                        raise ExecutionError("overlap", f"two regions hold PE {at}")
                    self._places[at] = _Place(region, row, column, Memory(program.machine, f"PE {at}"))
        for binding in program.bindings:
            if binding.role == "state":
                region = program.region(binding.region)
                buffer = region.buffer(binding.buffer)
                for one in self._of(region):
                    one.memory.write(Placed(buffer, (buffer.size,), (1,), 0), np.zeros(buffer.size, format_of(buffer.dtype).storage))

    def load(self, weights: Mapping[str, Array]) -> None:
        """Scatter logical weights. Raises ProgramError for a missing one."""
        for binding in self.program.bindings:
            if binding.role == "weight":
                if binding.tensor not in weights:
                    raise ProgramError("weight-missing", f"the program needs weight '{binding.tensor}'")
                tiles = self._tiles(binding, weights[binding.tensor])
                for one in self._of(self.program.region(binding.region)):
                    self._put(binding, one, tiles)
        inflow = self.program.inflow
        for parcel in inflow.parcels if inflow is not None else ():
            if parcel.tensor not in weights:
                raise ProgramError("weight-missing", f"the program needs weight '{parcel.tensor}'")
            assert inflow is not None
            form = format_of(inflow.dtype)
            tensor = form.round(np.asarray(weights[parcel.tensor]).astype(form.carrier, copy=False))
            checked_words(parcel, inflow.dtype, tensor)
            self._parcels[parcel.tensor] = form.stored(parcel.layout.scatter(tensor))

    def run(self, entry: str, inputs: Mapping[str, Array], scalars: Mapping[str, int], schedule: Schedule = round_robin) -> Run:
        """Run an entry under a schedule; see `FastEngine.run` for inputs and outputs."""
        run = _PeRun(self, entry, inputs, dict(scalars))
        run.complete(schedule)
        return run.result()

    def tensor(self, name: str) -> Array:
        """The logical tensor of a binding as it stands: for hosts and tests. KeyError where there is none of that name."""
        for binding in self.program.bindings:
            if binding.tensor == name:
                box, placed, layout = self.program.region(binding.region).rectangle, self._bound(binding), binding.layout
                tiles = np.empty((box.height, box.width, *layout.local_shape), format_of(placed.buffer.dtype).storage)
                for one in self._of(self.program.region(binding.region)):
                    tiles[one.row, one.column] = one.memory.read(placed).reshape(layout.local_shape)
                return layout.gather(tiles)
        raise KeyError(name)

    def set_state(self, name: str, tensor: Array) -> None:
        """Write the logical tensor of a state, as a host does that swaps caches. KeyError where there is none of that name."""
        for binding in self.program.bindings:
            if binding.tensor == name and binding.role == "state":
                tiles = self._tiles(binding, tensor)
                for one in self._of(self.program.region(binding.region)):
                    self._put(binding, one, tiles)
                return
        raise KeyError(name)

    def _of(self, region: Region) -> Iterator[_Place]:
        return (place for place in self._places.values() if place.region is region)

    def _tiles(self, binding: Binding, tensor: Array) -> Array:
        buffer = self.program.region(binding.region).buffer(binding.buffer)
        form = format_of(buffer.dtype)
        return form.stored(binding.layout.scatter(form.round(np.asarray(tensor).astype(form.carrier, copy=False))))

    def _put(self, binding: Binding, one: _Place, tiles: Array) -> None:
        one.memory.write(self._bound(binding), tiles[one.row, one.column].reshape(-1))

    def _bound(self, binding: Binding) -> Placed:
        buffer = self.program.region(binding.region).buffer(binding.buffer)
        return Placed(buffer, (math.prod(binding.layout.local_shape),), (1,), 0)


class _PeRun:
    """One entry under way."""

    def __init__(self, engine: PeEngine, entry: str, inputs: Mapping[str, Array], scalars: dict[str, int]) -> None:
        self.engine = engine
        self.program = engine.program
        self.entry = entry
        self.pricer = Pricer(engine.program.machine)
        self.scalars = scalars
        described = self.program.entry(entry)
        refusal = described.refusal(scalars)
        if refusal:
            raise ProgramError("scalars", refusal)
        self.items = value_of(described.items, scalars)
        self.single = described.items == 1
        self.account = Account(self.program.machine)
        self.ready: dict[tuple[int, ...], Ready] = {}
        self.progress = 0
        self.channels: dict[tuple[Any, ...], _Channel] = {}
        self.pieces: dict[str, list[Piece]] = {stream.name: pieces(stream) for stream in self.program.streams}
        self.bindings = [one for one in self.program.bindings if entry in one.entries]
        self.inputs: dict[tuple[str, int], Array] = {}
        for binding in self.bindings:
            if binding.role == "input":
                if binding.tensor not in inputs:
                    raise ProgramError("input-missing", f"entry '{entry}' needs input '{binding.tensor}'")
                for item in range(self.items):
                    tensor = inputs[binding.tensor] if self.single else inputs[binding.tensor][item]
                    self.inputs[binding.tensor, item] = engine._tiles(binding, tensor)
        self.outputs: dict[tuple[str, int], Array] = {}

    def complete(self, schedule: Schedule) -> None:
        """Run all PEs to their ends. Raises ExecutionError on a stall, or if a message is left over."""
        alive = {at: self._work(place) for at, place in self.engine._places.items()}
        if self.program.inflow is not None:
            alive[HOST] = self._feed(self.program.inflow)
        turn = idle = 0
        with np.errstate(all="ignore"):
            while alive:
                before = self.progress
                for at in schedule(list(alive), turn):
                    if next(alive[at], "done") == "done":
                        del alive[at]
                        self.progress += 1
                turn += 1
                idle = idle + 1 if before == self.progress else 0
                if idle > 64:
                    raise ExecutionError("stall", f"{len(alive)} PEs wait for ever, first {min(alive)}")
        left = [key for key, channel in self.channels.items() if channel.inside]
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

    def _work(self, one: _Place) -> Work:
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
                    self.engine._put(binding, one, self.inputs[binding.tensor, item])
            pending: list[tuple[Step, dict[str, int]]] = [(step, {**self.scalars, ITEM: item}) for step in reversed(steps)]
            while pending:
                step, environment = pending.pop()
                match step:
                    case Loop():
                        inner = list(iterations(step, environment))
                        pending.extend((inside, within) for within in reversed(inner) for inside in reversed(step.steps))
                    case Local():
                        self._local(step, one, environment)
                    case Collective():
                        yield from self._collective(step, one, environment)
                    case Send():
                        yield from self._send(step, one, environment)
                    case Receive():
                        yield from self._receive(step, one, environment)
                    case Take():
                        yield from self._take_parcel(step, one, environment)
                    case Absorb():
                        yield from self._absorb(step, one, environment)
                if first and not isinstance(step, Loop):
                    self.account.spend(region.name, self.pricer.cycles(step, region, environment))
                self.progress += 1
            for binding in local:
                if binding.role == "output":
                    self._read_output(binding, one, item)

    def _local(self, step: Local, one: _Place, environment: Environment) -> None:
        key = self.pricer.key(step, environment)
        if key not in self.ready:
            self.ready[key] = ready_local(step, one.region, self.program.machine, environment)
        ready = self.ready[key]
        declared, target, out = ready.declared, ready.target, ready.out
        for placed in (out, *ready.inputs):
            if isinstance(placed, Placed):
                self.account.touch(one.region.name, placed.buffer.address + placed.buffer.bytes)
        if _block_of(ready.blocks, one) is None:
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

    def _collective(self, step: Collective, one: _Place, environment: Environment) -> Work:
        source, target = self._placed(step.source, one, environment), self._placed(step.target, one, environment)
        block = _block_of(blocks(step.where, one.region.rectangle, environment), one)
        if block is None:
            return
        pattern, _ = pattern_of(step, block, environment)
        form = format_of(target.buffer.dtype)
        along_x = step.along == "x"
        line = block.columns if along_x else block.rows
        at = (one.column if along_x else one.row) - line.start
        start, position = at - at % pattern.size, at % pattern.size
        own = one.memory.read(source)
        held = self._initial(pattern, position, own, one, target)
        for turn in pattern.expand().turns[position] if own.size else ():
            remaining = {index: form.words(own.size) for index in range(len(turn))}
            payload = own if step.kind in ("shift", "gather") else held
            while remaining:
                for index in list(remaining):
                    action = turn[index]
                    peers = action.message.destinations if action.kind == "send" else (action.message.source,)
                    keys = [self._key(step, one, start + line.start, position, peer, action) for peer in peers]
                    moved = self._advance(action, keys, remaining[index], payload)
                    if moved and action.kind == "send":
                        self._count(one, along_x, position, action, moved)
                    self.progress += moved
                    remaining[index] -= moved
                    if remaining[index] == 0:
                        del remaining[index]
                        if action.kind == "receive":
                            arrived = self.channels[keys[0]].payloads.popleft()
                            held = self._take(step, action, held, arrived, form)
                            self._keep(step, action, one, target, held, arrived)
                if remaining:
                    yield
        if step.kind == "broadcast":
            one.memory.write(target, held)

    def _initial(self, pattern: Pattern, position: int, own: Array, one: _Place, target: Placed) -> Array:
        """What a position holds, and has in its target, before the first message."""
        if pattern.kind == "gather":
            one.memory.write(_slot(target, position), own)
        elif pattern.kind == "shift":
            sources, places = pattern.shift_places
            stays = (position, position) in zip(sources, places, strict=True)
            one.memory.write(target, own if stays else np.zeros_like(own))
        elif pattern.kind != "broadcast":
            one.memory.write(target, own)
        return own

    def _take(self, step: Collective, action: Action, held: Array, arrived: Array, form: Format) -> Array:
        if not action.combine:
            return arrived
        return form.stored(COMBINERS[step.combine](form, form.carried(held), form.carried(arrived)))

    def _keep(self, step: Collective, action: Action, one: _Place, target: Placed, held: Array, arrived: Array) -> None:
        if step.kind == "gather":
            one.memory.write(_slot(target, action.slot), arrived)
        else:
            one.memory.write(target, held)

    def _key(self, step: Collective, one: _Place, start: int, position: int, peer: int, action: Action) -> tuple[Any, ...]:
        """The channel between two positions of a line: by fabric coordinates and colour, so that later steps queue behind earlier ones."""
        me = (one.x, one.y)
        box = one.region.rectangle
        other = (box.x + start + peer, one.y) if step.along == "x" else (one.x, box.y + start + peer)
        colour = step.colours[action.message.colour]
        return (me, other, colour) if action.kind == "send" else (other, me, colour)

    def _advance(self, action: Action, keys: list[tuple[Any, ...]], words: int, payload: Array) -> int:
        """Words of a message that move now: into all destinations' queues as far as all have room, or out of this PE's queue."""
        channels = [self.channels.setdefault(key, _Channel(self.program.machine.queue_words)) for key in keys]
        if action.kind == "send":
            room = min(channel.capacity - channel.inside for channel in channels)
            moved = min(room, words)
            for channel in channels:
                channel.inside += moved
                if moved == words:
                    channel.payloads.append(payload.copy())
            return moved
        moved = min(channels[0].inside, words)
        if moved == words and not channels[0].payloads:
            moved = 0
        channels[0].inside -= moved
        return moved

    def _count(self, one: _Place, along_x: bool, position: int, action: Action, words: int) -> None:
        """Walk the message's links."""
        forward, backward = ("east", "west") if along_x else ("south", "north")
        for other in range(position, max(action.message.destinations)):
            offset = other - position
            self.account.hop(one.x + offset * along_x, one.y + offset * (not along_x), forward, words)
        for other in range(position, min(action.message.destinations), -1):
            offset = other - position
            self.account.hop(one.x + offset * along_x, one.y + offset * (not along_x), backward, words)

    def _send(self, step: Send, one: _Place, environment: Environment) -> Work:
        stream = self.program.stream(step.stream)
        placed = self._placed(step.source, one, environment)
        if not stream.source.holds(one.column, one.row):
            return
        content = one.memory.read(placed).reshape(-1)
        consumer = self.program.region(stream.consumer).rectangle
        form = format_of(stream.dtype)
        for number, piece in enumerate(self.pieces[stream.name]):
            if piece.source != (one.column, one.row):
                continue
            targets = [(consumer.x + x, consumer.y + y) for x, y in piece.targets]
            channels = [self.channels.setdefault((stream.name, number, at), _Channel(stream.depth)) for at in targets]
            while any(channel.inside >= channel.capacity for channel in channels):
                yield
            for channel in channels:
                channel.payloads.append(content[list(piece.taken)])
                channel.inside += 1
            self.progress += 1
            self._count_tree(stream, (one.x, one.y), targets, form.words(len(piece.taken)))

    def _count_tree(self, stream: Stream, source: tuple[int, int], targets: list[tuple[int, int]], words: int) -> None:
        """Walk each link of a piece's tree once."""
        links: set[tuple[int, int, str]] = set()
        for x, y in targets:
            corner = (x, source[1]) if stream.first == "x" else (source[0], y)
            links.update(_straight(source, corner))
            links.update(_straight(corner, (x, y)))
        for at_x, at_y, direction in links:
            self.account.hop(at_x, at_y, direction, words)

    def _receive(self, step: Receive, one: _Place, environment: Environment) -> Work:
        stream = self.program.stream(step.stream)
        placed = self._placed(step.target, one, environment)
        content = np.zeros(placed.size, format_of(stream.dtype).storage)
        for number, piece in enumerate(self.pieces[stream.name]):
            if (one.column, one.row) in piece.targets:
                channel = self.channels.setdefault((stream.name, number, (one.x, one.y)), _Channel(stream.depth))
                while not channel.payloads:
                    yield
                content[list(piece.put)] = channel.payloads.popleft()
                channel.inside -= 1
                self.progress += 1
        one.memory.write(placed, content.reshape(placed.shape))

    def _feed(self, inflow: Inflow) -> Work:
        """The host's side of an inflow: every PE's part of every parcel, item after item, into queues that have room."""
        region = self.program.region(inflow.region)
        form = format_of(inflow.dtype)
        for _ in range(self.items if region.steps(self.entry) else 0):
            for parcel in inflow.parcels:
                for one in self.engine._of(region):
                    tile = self.engine._parcels[parcel.tensor][one.row, one.column]
                    if parcel.nonzeros is None:
                        channel = self.channels.setdefault(("inflow", (one.x, one.y)), _Channel(inflow.depth))
                        sent, words = [tile], form.words(math.prod(parcel.layout.extents(one.column, one.row)))
                    else:
                        channel = self.channels.setdefault(("wavelets", (one.x, one.y)), _Channel(self.program.machine.queue_words))
                        sent, words = [*wavelets(tile), END], int(np.count_nonzero(tile))
                    for payload in sent:
                        while channel.inside >= channel.capacity:
                            yield
                        channel.payloads.append(payload)
                        channel.inside += 1
                        self.progress += 1
                    self._count_way(parcel.layout, one, words)

    def _count_way(self, layout: Layout, one: _Place, words: int) -> None:
        """Walk the links from the edge to a PE; of what all PEs of a line take, only those to the last one, as it comes once."""
        if edge_of(layout) == "west":
            for x in range(one.x if one.column == layout.width - 1 else 0):
                self.account.hop(x, one.y, "east", words)
        elif layout.cut_axis("rows") is not None or one.row == layout.height - 1:
            for y in range(one.y):
                self.account.hop(one.x, y, "south", words)

    def _take_parcel(self, step: Take, one: _Place, environment: Environment) -> Work:
        placed = self._placed(step.target, one, environment)
        inflow = self.program.inflow
        assert inflow is not None
        channel = self.channels.setdefault(("inflow", (one.x, one.y)), _Channel(inflow.depth))
        while not channel.payloads:
            yield
        one.memory.write(placed, channel.payloads.popleft().reshape(placed.shape))
        channel.inside -= 1
        self.progress += 1

    def _absorb(self, step: Absorb, one: _Place, environment: Environment) -> Work:
        """One multiply-accumulate over the rows of x for each wavelet that arrives, until the control wavelet behind the last."""
        total, x = self._placed(step.total, one, environment), self._placed(step.x, one, environment)
        target, stored = format_of(step.format), format_of(total.buffer.dtype)
        sums = stored.carried(one.memory.read(total)).astype(target.carrier)
        given = format_of(x.buffer.dtype).carried(one.memory.read(x)).astype(target.carrier)
        channel = self.channels.setdefault(("wavelets", (one.x, one.y)), _Channel(self.program.machine.queue_words))
        self.account.busy += self.pricer.cycles(step, one.region, environment)
        while True:
            while not channel.payloads:
                yield
            place, value = channel.payloads.popleft()
            channel.inside -= 1
            self.progress += 1
            if place == END[0]:
                break
            k, n = divmod(int(place), sums.shape[1])
            sums[:, n] = multiply_add(target, sums[:, n], given[:, k], target.carrier.type(value))
            self.account.macs += len(sums)
        one.memory.write(total, stored.stored(sums if stored is target else stored.round(sums)))

    def _read_output(self, binding: Binding, one: _Place, item: int) -> None:
        layout = binding.layout
        key = (binding.tensor, item)
        if key not in self.outputs:
            buffer = one.region.buffer(binding.buffer)
            self.outputs[key] = np.zeros((layout.height, layout.width, *layout.local_shape), format_of(buffer.dtype).storage)
        if layout.holds(one.column, one.row):
            self.outputs[key][one.row, one.column] = one.memory.read(self.engine._bound(binding)).reshape(layout.local_shape)

    def _placed(self, view: View, one: _Place, environment: Environment) -> Placed:
        buffer = one.region.buffer(view.buffer)
        self.account.touch(one.region.name, buffer.address + buffer.bytes)
        return place(view, buffer, environment)


END: Array = np.array([-1, 0], np.float64)
"""The control wavelet behind a PE's non-zeros."""


def wavelets(tile: Array) -> list[Array]:
    """``(place, value)`` of the non-zeros of a tile ``[k, n]``, row by row: the order in which a dense product adds them."""
    places = np.flatnonzero(tile)
    return [np.array([place, value], np.float64) for place, value in zip(places, tile.reshape(-1)[places], strict=True)]


def _block_of(found: list[Block], one: _Place) -> Block | None:
    """The block of a step that a PE belongs to."""
    return next((block for block in found if one.row in block.rows and one.column in block.columns), None)


def _slot(target: Placed, slot: int) -> Placed:
    """One position's place in a gather's target."""
    return Placed(target.buffer, target.shape[1:], target.strides[1:], target.offset + slot * target.strides[0])


def _straight(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int, str]]:
    """Links of a straight way, each by the PE that it leaves."""
    (x, y), (end_x, end_y) = start, end
    while x != end_x:
        yield x, y, "east" if end_x > x else "west"
        x += 1 if end_x > x else -1
    while y != end_y:
        yield x, y, "south" if end_y > y else "north"
        y += 1 if end_y > y else -1
