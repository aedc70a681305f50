"""What each stage of a staged model takes: the table of ``explain … stages``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby

from cgptc.artifact.canonical import Json
from cgptc.ir.cost import CostModel
from cgptc.ir.dims import evaluate
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.constant import Constant
from cgptc.ir.printer import value_names
from cgptc.ir.stage_graphs import edge_name
from cgptc.ir.staged import Edge, Stage, Staged
from cgptc.ir.weight_expressions import leaves
from cgptc.ir.weights import Stored
from cgptc.passes.pipeline import CutIntoStages
from cgptc.passes.stage_chain import untransposed


@dataclass(frozen=True)
class StageRow:
    """One stage: how many operations, where in the model, its time in the cost model's unit, with its share of the slowest stage's,
    bytes of weights and in all, and what it receives.
    """

    stage: int
    operations: int
    where: str
    time: float
    busy: float
    weight_bytes: int
    bytes: int
    received: tuple[str, ...]


@dataclass(frozen=True)
class SharedWeight:
    """A weight that several stages need, such as a tied table: the stages, those that hold it, and its bytes.

    ``copied_bytes`` are what copies in all stages take, ``sent_bytes`` what the first one's takes with a buffer in each stage from there to
    the last, and ``sent_time`` what the way costs each of two stages, in every call.
    """

    weight: str
    stages: tuple[int, ...]
    held: tuple[int, ...]
    bytes: int
    copied_bytes: int
    sent_bytes: int
    sent_time: float


@dataclass(frozen=True)
class StageSurvey:
    """All stages, for one call with symbols of ``sizes``. ``throughput_gain`` is how much faster than in one piece the stages answer,
    once all of them are busy; ``shared`` are the weights that several need, the largest first.
    """

    unit: str
    sizes: Mapping[str, int]
    rows: tuple[StageRow, ...]
    throughput_gain: float
    shared: tuple[SharedWeight, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As ``--json`` prints it."""
        rows: list[Json] = [{**asdict(row), "received": list(row.received)} for row in self.rows]
        shared: list[Json] = [{**asdict(each), "stages": list(each.stages), "held": list(each.held)} for each in self.shared]
        facts: dict[str, Json] = {"unit": self.unit, "sizes": dict(self.sizes), "stages": rows, "shared": shared}
        return {**facts, "throughput_gain": self.throughput_gain}


def survey_stages(graph: Graph, model: CostModel, priced: CutIntoStages) -> StageSurvey:
    """The stages of a staged graph, at the sizes that the pass ``priced`` them for."""
    staged = Staged.of(graph)
    sizes = priced.sizes(graph)
    names = value_names(graph)
    numbers = {edge: number for number, edge in enumerate(staged.edges)}
    rows: list[StageRow] = []

    def moved(edges: tuple[Edge, ...]) -> list[int]:
        return [evaluate(edge.value.type.bytes, sizes) for edge in edges]

    for stage in staged.stages:
        price = model.price(stage.nodes, sizes)
        ends = [model.transfer(size) for size in (*moved(stage.received), *moved(stage.sent))]
        received = tuple(
            f"{edge_name(numbers[edge])} {names[edge.value]} {size} B from {edge.producer}, depth {edge.depth}"
            for edge, size in zip(stage.received, moved(stage.received), strict=True)
        )
        rows.append(
            StageRow(
                stage=stage.index,
                operations=sum(not isinstance(node.op, Constant) for node in stage.nodes),
                where=_where(stage),
                time=price.time + sum(end.time for end in ends),
                busy=0.0,
                weight_bytes=price.resident_bytes,
                bytes=price.peak_bytes + sum(end.peak_bytes for end in ends),
                received=received,
            )
        )
    slowest = max(row.time for row in rows)
    whole = sum(model.price(stage.nodes, sizes).time for stage in staged.stages)
    busy = tuple(StageRow(**{**vars(row), "busy": row.time / slowest if slowest else 1.0}) for row in rows)
    return StageSurvey(model.unit, sizes, busy, whole / slowest if slowest else 1.0, _shared(graph, model))


def _shared(graph: Graph, model: CostModel) -> tuple[SharedWeight, ...]:
    """The stored weights that several stages need, one way round or the other."""
    by_content: dict[str, list[Node]] = {}
    names: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        stored = [leaf.name for leaf in leaves(node.op.weight) if isinstance(leaf, Stored)] if isinstance(node.op, Constant) else []
        if isinstance(node.op, Constant) and stored:
            key = untransposed(node.op.weight).key
            by_content.setdefault(key, []).append(node)
            names.setdefault(key, {}).update(dict.fromkeys(stored))
    found = []
    for key, nodes in by_content.items():
        held = sorted({node.stage for node in nodes if node.stage is not None})
        users = {user.stage for node in nodes for user in node.result.users if user.stage is not None}
        stages = sorted(users.union(held))
        if len(stages) > 1:
            size = max(model.price([node], {}).resident_bytes for node in nodes)
            moved = model.transfer(size)
            sent = size + moved.peak_bytes * (stages[-1] - stages[0] + 1)
            found.append(SharedWeight(", ".join(names[key]), tuple(stages), tuple(held), size, size * len(stages), sent, moved.time))
    return tuple(sorted(found, key=lambda each: -each.bytes))


def _where(stage: Stage) -> str:
    """The first and the last module that the stage's work comes from."""
    paths = [path for path, _ in groupby(_path(node) for node in stage.nodes if not isinstance(node.op, Constant)) if path]
    return "" if not paths else paths[0] if paths[0] == paths[-1] else f"{paths[0]} … {paths[-1]}"


def _path(node: Node) -> str:
    return next((frame.path for frame in node.location.frames if frame.path), "")
