"""Where buffers hold the results of reductions.

A reduction leaves its result on the PEs of its lines, or on each line's root alone, and parts of sums on the others. A step that reads both
would take parts for sums, so none may: of every element that a step reads, either all its PEs hold the result or none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cgptc.backends.wafer.program import Rectangle
from cgptc.backends.wafer.resolve import Block, Placed, pattern_of
from cgptc.backends.wafer.steps import Collective, Step
from cgptc.backends.wafer.verify.presence import Presence


class Combined:
    """The elements on a region's PEs that are results of reductions, none at first."""

    def __init__(self, box: Rectangle) -> None:
        self._box = box
        self._results: dict[str, Presence] = {}

    def mixed(self, at: Sequence[Block], read: Placed) -> bool:
        """Whether a view on the PEs of these blocks is of results here and of what is none there."""
        found = self._results.get(read.buffer.name)
        return found is not None and found.parts(at, read)

    def follow(
        self, step: Step, at: Iterable[Block], reads: Sequence[Placed], writes: Sequence[Placed], environment: Mapping[str, int]
    ) -> None:
        """What a step changes: reductions make results, steps in place leave them what they are, others write something else."""
        reduces = isinstance(step, Collective) and step.kind in ("reduce", "allreduce")
        for write in writes:
            if write in reads and not isinstance(step, Collective):
                continue
            if reduces and write.buffer.name not in self._results:
                self._results[write.buffer.name] = Presence(self._box, write.buffer.size)
            found = self._results.get(write.buffer.name)
            if found is None:
                continue
            for block in at:
                found.put(block, write, inside=False)
                if isinstance(step, Collective) and reduces:
                    found.put(self._with_result(step, block, environment), write)

    def _with_result(self, step: Collective, block: Block, environment: Mapping[str, int]) -> Block:
        """The roots of a block's lines; of a reduction to all PEs the lines to their ends, also beyond the block."""
        line, size = (block.columns, self._box.width) if step.along == "x" else (block.rows, self._box.height)
        places = range(size)
        if step.kind == "reduce":
            pattern, _ = pattern_of(step, block, environment)
            places = range(line.start + pattern.root, line.stop, pattern.size)
        return Block(block.rows, places) if step.along == "x" else Block(places, block.columns)
