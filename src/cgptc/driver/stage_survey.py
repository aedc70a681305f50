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
from cgptc.passes.pipeline import CutIntoStages


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
class StageSurvey:
    """All stages, for one call with symbols of ``sizes``. ``throughput_gain`` is how much faster than in one piece the stages answer,
    once all of them are busy.
    """

    unit: str
    sizes: Mapping[str, int]
    rows: tuple[StageRow, ...]
    throughput_gain: float

    def to_json(self) -> dict[str, Json]:
        """As ``--json`` prints it."""
        rows: list[Json] = [{**asdict(row), "received": list(row.received)} for row in self.rows]
        return {"unit": self.unit, "sizes": dict(self.sizes), "stages": rows, "throughput_gain": self.throughput_gain}


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
    return StageSurvey(model.unit, sizes, busy, whole / slowest if slowest else 1.0)


def _where(stage: Stage) -> str:
    """The first and the last module that the stage's work comes from."""
    paths = [path for path, _ in groupby(_path(node) for node in stage.nodes if not isinstance(node.op, Constant)) if path]
    return "" if not paths else paths[0] if paths[0] == paths[-1] else f"{paths[0]} … {paths[-1]}"


def _path(node: Node) -> str:
    return next((frame.path for frame in node.location.frames if frame.path), "")
