"""How the stages of a compiled model work together, by names alone: what a backend writes and an engine reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.row_independence import rows_are_independent
from cgptc.ir.stage_graphs import edge_name
from cgptc.ir.staged import Staged

PLAN_FILE = "stages.json"


@dataclass(frozen=True)
class PlannedEdge:
    """A value that goes from one stage to later ones, and how many of it may be under way: see `ir.staged.Edge`."""

    name: str
    producer: int
    consumers: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class PlannedStage:
    """Names of a stage's inputs and outputs: the model's own, and those of edges."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class StagePlan:
    """A model in stages. ``inputs`` and ``outputs`` are the model's, in its order; ``rows_apart`` says whether the rows of a batch may
    go through one after the other.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    edges: tuple[PlannedEdge, ...]
    rows_apart: bool

    @classmethod
    def of(cls, staged: Staged) -> StagePlan:
        """The plan of a staged graph; names are those of `stage_graph`."""
        names = {edge: edge_name(number) for number, edge in enumerate(staged.edges)}
        stages = tuple(
            PlannedStage(
                (*(value.name for value in stage.inputs), *(names[edge] for edge in stage.received)),
                (*(name for name, _ in stage.outputs), *(names[edge] for edge in stage.sent)),
            )
            for stage in staged.stages
        )
        edges = tuple(PlannedEdge(name, edge.producer, edge.consumers, edge.depth) for edge, name in names.items())
        graph = staged.graph
        inputs, outputs = tuple(value.name for value in graph.inputs), tuple(name for name, _ in graph.outputs)
        return cls(inputs, outputs, stages, edges, rows_are_independent(graph))

    def received(self, stage: int) -> tuple[PlannedEdge, ...]:
        """The edges that a stage takes."""
        return tuple(edge for edge in self.edges if stage in edge.consumers)

    def sent(self, stage: int) -> tuple[PlannedEdge, ...]:
        """The edges that a stage makes."""
        return tuple(edge for edge in self.edges if edge.producer == stage)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return value

    @classmethod
    def from_json(cls, value: object, file: str = "") -> StagePlan:
        """What `to_json` gave. `MalformedError` where it is something else, or stages and edges that do not fit together."""
        match value:
            case {"inputs": list(), "outputs": list(), "stages": list() as stages, "edges": list() as edges, "rows_apart": bool() as apart}:
                plan = cls(
                    _names(value, "inputs", file),
                    _names(value, "outputs", file),
                    tuple(PlannedStage(_names(stage, "inputs", file), _names(stage, "outputs", file)) for stage in stages),
                    tuple(_edge(edge, file) for edge in edges),
                    apart,
                )
            case _:
                raise _malformed("is no plan of stages", file)
        plan._check(file)
        return plan

    def _check(self, file: str) -> None:
        """That every stage gets what it takes, from outside or from a stage before it."""
        known = set(self.inputs)
        for index, stage in enumerate(self.stages):
            here = known | {edge.name for edge in self.received(index)}
            if missing := [name for name in stage.inputs if name not in here]:
                raise _malformed(f"has no source for '{missing[0][:80]}' of stage {index}", file)
        for edge in self.edges:
            in_order = edge.producer < len(self.stages) and all(edge.producer < consumer < len(self.stages) for consumer in edge.consumers)
            if not in_order or not edge.consumers or edge.depth < 1 or edge.name not in self.stages[edge.producer].outputs:
                raise _malformed(f"has an edge '{edge.name[:80]}' that does not go forward", file)
        if missing := [name for name in self.outputs if not any(name in stage.outputs for stage in self.stages)]:
            raise _malformed(f"has no stage that makes '{missing[0][:80]}'", file)


def _names(value: object, key: str, file: str) -> tuple[str, ...]:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise _malformed(f"has no names under '{key}'", file)
    return tuple(found)


def _edge(value: object, file: str) -> PlannedEdge:
    match value:
        case {"name": str() as name, "producer": int() as producer, "consumers": list() as consumers, "depth": int() as depth}:
            if 0 <= producer < 1 << 16 and all(isinstance(consumer, int) for consumer in consumers):
                return PlannedEdge(name, producer, tuple(consumers), depth)
    raise _malformed("has an edge without name, ends and depth", file)


def _malformed(what: str, file: str) -> MalformedError:
    return MalformedError("stages", what, file=file, fix="compile the model again")
