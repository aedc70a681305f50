"""Cutting a graph into the stages of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from cgptc.ir.cost import CostModel
from cgptc.ir.diagnostics import CompileError, Exit, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.staged import is_staged
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.stage_assignment import assign_stages
from cgptc.passes.stage_chain import SharedWeight, WorkChain
from cgptc.passes.stage_partition import Chain, coarse, partition, slowest_stages, smallest_limit

MOST_STAGES = 16
"""What ``auto`` goes to."""
BUSY = 0.9
"""How much of the time each of the stages that ``auto`` takes works, on average."""
WIDEST_CUT = 8
NARROWER = 1.05
"""How much slower the slowest stage may be for narrower cuts."""
MOST_SENT = 4
"""How many of the largest shared weights may be sent."""


@dataclass(frozen=True)
class Cut:
    """A way to cut: the chain, the ends of its stages in segments, the place behind each cut point, and the weights that are sent."""

    chain: Chain
    ends: tuple[int, ...]
    places: tuple[int, ...]
    sent: tuple[SharedWeight, ...]

    @property
    def slowest(self) -> float:
        return max(load.time for load in self.chain.loads(self.ends))


@dataclass(frozen=True)
class CutIntoStages(Pass, name="pipeline", optional=False):
    """Give every node a stage, so that the slowest stage is as fast as can be.

    ``stages`` is their number, or "auto": the most, up to 16, that are busy for 90 % of the time; where a limit forbids that, the fewest
    that keep it. ``memory`` limits the bytes of a stage (0: no limit), buffers included. ``width`` is how many values may cross a cut
    (0: as few, up to 8, as cost 5 % of the speed at most). Prices are those of a call of ``batch`` rows of ``seq`` tokens after
    ``past``; other sizes count as ``seq``.

    A weight that several stages need is in each of them, or sent from the first where that alone keeps the limit. Raises `CompileError`
    where the graph cannot be cut so, saying what it would take.
    """

    stages: str = "auto"
    memory: int = 0
    width: int = 0
    batch: int = 1
    seq: int = 128
    past: int = 0

    def __post_init__(self) -> None:
        if self.stages != "auto" and not (self.stages.isdecimal() and int(self.stages) >= 1):
            raise UsageError("bad-value", f"stages '{self.stages}' is no number", fix="give auto, or 1 or more")

    def run(self, graph: Graph, context: PassContext) -> bool:
        if is_staged(graph):
            raise UsageError("staged", "the graph has stages already", fix="run pipeline once")
        if context.cost_model is None:
            raise UsageError("no-prices", "pipeline needs the prices of a target", fix="compile with --target and --stages")
        work = self._work(graph, context.cost_model)
        cut = self._cut(work)
        assign_stages(work, cut.places, cut.sent)
        context.count("stages", len(cut.ends))
        return True

    def sizes(self, graph: Graph) -> dict[str, int]:
        """The size of each symbol that is priced, within its bounds."""
        wanted = {"batch": self.batch, "past": self.past}
        return {name: min(max(wanted.get(name, self.seq), symbol.low), symbol.high) for name, symbol in graph.symbols.items()}

    def _work(self, graph: Graph, model: CostModel) -> WorkChain:
        most = {name: symbol.low if name == "batch" else symbol.high for name, symbol in graph.symbols.items()}
        return WorkChain(graph, model, self.sizes(graph), most)

    def _cut(self, work: WorkChain) -> Cut:
        limit = self.memory or None
        least, most = (1, MOST_STAGES) if self.stages == "auto" else (int(self.stages), int(self.stages))
        widths = [self.width] if self.width else range(1, WIDEST_CUT + 1)
        found: list[Cut] = []
        known: list[int] = []
        for width in widths:
            points = work.cuts(width)
            if len(points) + 1 >= least and (points != known or not found):
                known = points
                if (cut := self._best_of(work, points, limit)) is not None:
                    found.append(cut)
                    if cut.slowest <= NARROWER * work.time / most:
                        break  # no wider cut is so much faster: its slowest stage does its share of the work at least
        if not found:
            raise _refusal(work, widths[-1], least, limit)
        fastest = min(cut.slowest for cut in found)
        return next(cut for cut in found if cut.slowest <= NARROWER * fastest)

    def _best_of(self, work: WorkChain, points: list[int], limit: int | None) -> Cut | None:
        """The best cut at these points: with every weight where it is needed, else with the fewest weights sent that keep the limit."""
        for choices in _choices(work):
            found = [cut for sent in choices if (cut := self._cut_with(work, points, sent, limit)) is not None]
            if found:
                return min(found, key=lambda cut: cut.slowest)
        return None

    def _cut_with(self, work: WorkChain, points: list[int], sent: tuple[SharedWeight, ...], limit: int | None) -> Cut | None:
        chain = work.chain(points, sent)
        count = _automatic(chain, limit) if self.stages == "auto" else int(self.stages)
        ends = partition(chain, count, limit) if count is not None else None
        if ends is None:
            return None
        behind = [*(point + 1 for point in points), len(work.work)]
        return Cut(chain, ends, tuple(behind[end - 1] for end in ends), sent)


def _choices(work: WorkChain) -> Iterator[list[tuple[SharedWeight, ...]]]:
    """Sets of weights to send: none, then every one, then every two. Only those whose passage takes less room than they do."""
    yield [()]
    shared = [weight for weight in work.weights if len(weight.places) > 1 and weight.can_be_sent]
    shared = [weight for weight in shared if work.model.transfer(weight.bytes).peak_bytes < weight.bytes]
    largest = sorted(shared, key=lambda weight: -weight.bytes)[:MOST_SENT]
    for count in range(1, len(largest) + 1):
        yield list(combinations(largest, count))


def _automatic(chain: Chain, limit: int | None) -> int | None:
    """How many stages to make: see `CutIntoStages`. None where no number keeps the limit."""
    whole = chain.load(0, len(chain.segments)).time
    slowest = slowest_stages(coarse(chain), MOST_STAGES, limit)
    fitting = [(count, time) for count, time in enumerate(slowest, 1) if math.isfinite(time)]
    busy = [count for count, time in fitting if whole >= BUSY * count * time]
    return busy[-1] if busy else fitting[0][0] if fitting else None


def _refusal(work: WorkChain, width: int, count: int, limit: int | None) -> CompileError:
    points = work.cuts(width)
    across = f"{width} value{'s' if width > 1 else ''}"
    if len(points) + 1 < count:
        what = f"{count} stages need {count - 1} cuts, and the graph has {len(points)} that at most {across} cross"
        fix = f"ask for {len(points) + 1} or fewer" + ("" if width >= WIDEST_CUT else ", or for a larger width")
        return CompileError("stages", what, exit=Exit.DOES_NOT_FIT, fix=fix)
    chain = coarse(work.chain(points))
    needed = {stages: smallest_limit(chain, stages) for stages in {max(count, 2), min(MOST_STAGES, len(chain.segments))}}
    what = f"no cut into {f'{count} stages' if count > 1 else 'stages'} keeps each within {limit} bytes"
    ways = ", ".join(f"{stages} stages need {least} bytes each" for stages, least in sorted(needed.items()))
    return CompileError("stage-memory", what, exit=Exit.DOES_NOT_FIT, fix=f"allow more: {ways}")
