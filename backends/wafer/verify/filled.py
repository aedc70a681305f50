"""Rules about what buffers hold: every element is written before it is read, and every output once.

*Read before write*: whatever a step reads on a PE was written there, by the host or by a step before.

*Output written once*: on every PE that holds a part of an output, steps of the item write each of its elements, and none of what they write
there is lost: before an element is written again, a step must have read it. So a sum may grow, a function or a reduction be computed in
place, and an output serve as scratch memory before it is made; a second write of what is done is an error. What the host put there (an
output that is an input or a state too) counts for the first half and not for the second.

Both are told element by element and line by line, at the outermost admissible values of an entry's scalars, for the first item, and for the
last one where steps depend on it. Between these values nothing is looked at; therefore a step on lines that depend on them counts as
writing nowhere and as reading on all lines, save that lost writes are told by the lines as they are. Of loops of very many
iterations, which are not followed, it is taken that they write all of what they write to. What comes over a stream or from the host is
there on all PEs, zero where they have no part: so says the engine that defines a program.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from cgptc.backends.wafer.affine import value_of, variables_of
from cgptc.backends.wafer.faults import Issue, ProgramError
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import ITEM, Binding, Code, Entry, Program, Region
from cgptc.backends.wafer.resolve import Block, Placed, blocks, iterations, pattern_of, place
from cgptc.backends.wafer.steps import Collective, Local, Loop, Send, Step, Where, step_variables, views
from cgptc.backends.wafer.verify.combined import Combined
from cgptc.backends.wafer.verify.corners import MAX_ITERATIONS, corners
from cgptc.backends.wafer.verify.presence import Presence, elements


def filled_issues(program: Program, region: Region, code: Code) -> Iterator[Issue]:
    """Broken rules of one entry's steps, whose views must be sound."""
    entry = program.entry(code.entry)
    every_item = _depends_on_item(code.steps)
    filled = _Filled(program, region, entry)
    try:
        for corner in corners(program, entry):
            if corner[ITEM] == 0:
                filled = _Filled(program, region, entry)
            if corner[ITEM] == 0 or every_item:
                yield from filled.item(code.steps, corner)
    except ProgramError as error:
        yield Issue(error.code, filled.where, error.what)


@dataclass(frozen=True)
class Write:
    """A view that a step writes on the PEs of a block."""

    block: Block
    placed: Placed


@dataclass(frozen=True)
class _Output:
    """An output's tile, the PEs that hold it, and what steps of the item wrote to its buffer that none has read since."""

    tensor: str
    tile: Placed
    holders: Block
    unread: Presence

    def loses(self, write: Write) -> bool:
        """Whether a write goes over something that nobody read."""
        over = elements(write.placed)
        return self.unread.meets(_common(write.block, self.holders), over[over < self.tile.size])


class _Filled:
    """What a region's PEs hold in an entry, and what of its outputs was written in an item."""

    def __init__(self, program: Program, region: Region, entry: Entry) -> None:
        self.where = f"region '{region.name}', entry '{entry.name}'"
        self._program, self._region = program, region
        self._everywhere = Block(range(region.rectangle.height), range(region.rectangle.width))
        self._runtime = {scalar.name for scalar in entry.scalars if scalar.low < scalar.high} | ({ITEM} if entry.items != 1 else set())
        self._held: dict[str, Presence] = {}
        mine = [one for one in program.bindings if one.region == region.name]
        for one in mine:
            if one.role == "state":
                self._hold(self._whole(one.buffer))
            elif one.role == "weight" or (one.role == "input" and entry.name in one.entries):
                self._hold(Write(self._everywhere, self._tile(one)))
        self._bound = [one for one in mine if one.role == "output" and entry.name in one.entries]
        self._given = set(self._held)
        self._combined = Combined(region.rectangle)

    def item(self, steps: Iterable[Step], corner: Mapping[str, int]) -> Iterator[Issue]:
        """Broken rules of an item: it starts with what the ones before left in resident buffers, outputs not among them."""
        region = self._region
        bound = [one.at(corner) for one in self._bound]
        made_new = {one.buffer for one in bound} - self._given
        self._held = {name: held for name, held in self._held.items() if region.buffer(name).resident and name not in made_new}
        outputs: dict[str, list[_Output]] = defaultdict(list)
        for one in bound:
            unread = Presence(region.rectangle, region.buffer(one.buffer).size)
            outputs[one.buffer].append(_Output(one.tensor, self._tile(one), _holders(one.layout), unread))
        self._combined = Combined(region.rectangle)
        pending: list[tuple[Step, Mapping[str, int]]] = [(step, corner) for step in reversed(tuple(steps))]
        while pending:
            step, environment = pending.pop()
            if not isinstance(step, Loop):
                yield from self._step(step, environment, outputs)
            elif value_of(step.count, environment) <= MAX_ITERATIONS:
                pending.extend((inner, one) for one in reversed(list(iterations(step, environment))) for inner in reversed(step.steps))
            else:
                for name in _written(step):
                    self._hold(self._whole(name))
        for several in outputs.values():
            for output in several:
                if not self._holds(output.holders, output.tile):
                    what = f"output '{output.tensor}' is not written, or not all of it, or not on all PEs that hold it"
                    yield Issue("output-unwritten", self.where, what)
                yield from self._mixed([output.holders], output.tile)

    def _step(self, step: Step, environment: Mapping[str, int], outputs: Mapping[str, list[_Output]]) -> Iterator[Issue]:
        region = self._region
        at, among = self._blocks(step, environment)
        if not at:
            return
        reads, writes = ([place(view, region.buffer(view.buffer), environment) for view in group] for group in views(step))
        for read in reads:
            if not all(self._holds(block, read) for block in among or at):
                what = f"'{read.buffer.name}' is read on a PE before all that is read of it is written there"
                yield Issue("read-before-write", self.where, what)
            if not _broadcasts(step):
                yield from self._mixed(at, read)
            for output in outputs.get(read.buffer.name, ()):
                for block in at:
                    output.unread.put(block, read, inside=False)
        made = [one for block in at for placed in writes for one in self._writes(step, block, placed, environment)]
        for one in made:
            for output in outputs.get(one.placed.buffer.name, ()):
                if output.loses(one):
                    what = f"output '{output.tensor}' is written again before a step has read what is written over"
                    yield Issue("output-rewritten", self.where, what)
                output.unread.put(one.block, one.placed)
            if not among:
                self._hold(one)
        self._combined.follow(step, at, reads, writes, environment)

    def _mixed(self, at: list[Block], read: Placed) -> Iterator[Issue]:
        if self._combined.mixed(at, read):
            what = f"'{read.buffer.name}' is read where a reduction left its result and where it left none"
            yield Issue("reduction-lines", self.where, what)

    def _blocks(self, step: Step, environment: Mapping[str, int]) -> tuple[list[Block], list[Block]]:
        """The PEs that take part in a step, and where run-time values choose them, all those that may."""
        if not isinstance(step, (Local, Collective)):
            return [_holders(self._program.stream(step.stream).source) if isinstance(step, Send) else self._everywhere], []
        box = self._region.rectangle
        at = [one for one in blocks(step.where, box, environment) if one.area]
        rows, columns = (
            any(self._runtime & (variables_of(one.start) | variables_of(one.count)) for one in group)
            for group in (step.where.rows, step.where.columns)
        )
        if not (rows or columns):
            return at, []
        free = Where(() if rows else step.where.rows, () if columns else step.where.columns)
        return at, blocks(free, box, environment)

    def _writes(self, step: Step, block: Block, placed: Placed, environment: Mapping[str, int]) -> Iterator[Write]:
        """What of a view a step writes where: all of it, but of a gather the root alone has more than its own part."""
        if not isinstance(step, Collective) or step.kind != "gather":
            yield Write(block, placed)
            return
        pattern, _ = pattern_of(step, block, environment)
        along = "columns" if step.along == "x" else "rows"
        line = block.columns if step.along == "x" else block.rows
        for position in range(pattern.size):
            lines = range(line.start + position, line.stop, pattern.size)
            own = replace(placed, shape=placed.shape[1:], strides=placed.strides[1:], offset=placed.offset + position * placed.strides[0])
            yield Write(replace(block, **{along: lines}), placed if position == pattern.root else own)

    def _tile(self, binding: Binding) -> Placed:
        return Placed(self._region.buffer(binding.buffer), (math.prod(binding.layout.local_shape),), (1,), 0)

    def _whole(self, name: str) -> Write:
        buffer = self._region.buffer(name)
        return Write(self._everywhere, Placed(buffer, (buffer.size,), (1,), 0))

    def _hold(self, one: Write) -> None:
        buffer = one.placed.buffer
        if buffer.name not in self._held:
            self._held[buffer.name] = Presence(self._region.rectangle, buffer.size)
        self._held[buffer.name].put(one.block, one.placed)

    def _holds(self, block: Block, read: Placed) -> bool:
        held = self._held.get(read.buffer.name)
        return not read.size or not block.area or (held is not None and held.has(block, read))


def _broadcasts(step: Step) -> bool:
    """Whether it is the root's payload alone that counts."""
    return isinstance(step, Collective) and step.kind == "broadcast"


def _written(loop: Loop) -> set[str]:
    """Buffers that a loop writes to."""
    found: set[str] = set()
    pending: list[Step] = [loop]
    while pending:
        step = pending.pop()
        found.update(view.buffer for view in views(step)[1])
        if isinstance(step, Loop):
            pending.extend(step.steps)
    return found


def _depends_on_item(steps: Iterable[Step]) -> bool:
    pending = list(steps)
    while pending:
        step = pending.pop()
        if ITEM in step_variables(step):
            return True
        if isinstance(step, Loop):
            pending.extend(step.steps)
    return False


def _holders(layout: Layout) -> Block:
    """The PEs on which a tensor lies."""
    rows = range(layout.height) if layout.row is None else range(layout.row, layout.row + 1)
    columns = range(layout.width) if layout.column is None else range(layout.column, layout.column + 1)
    return Block(rows, columns)


def _common(block: Block, holders: Block) -> Block:
    """The PEs of a block on which a tensor lies: on all lines of a direction, or on one."""
    rows, columns = holders.rows, holders.columns
    return Block(
        block.rows if len(rows) > 1 else range(rows[0], rows[0] + (rows[0] in block.rows)),
        block.columns if len(columns) > 1 else range(columns[0], columns[0] + (columns[0] in block.columns)),
    )
