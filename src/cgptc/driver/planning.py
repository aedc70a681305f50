"""A dry run of a placement: does a model fit, where, and how fast would it be. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from cgptc.driver.compilation import optimise, target_of
from cgptc.driver.options import CompileOptions
from cgptc.frontend.source import open_model
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph


@runtime_checkable
class Planner(Protocol):
    """A backend that places models."""

    def plan(self, graph: Graph, options: object) -> Mapping[str, object]:
        """Facts of the plan of a legal graph. `CompileError` where it has none, with exit 6 where there is no room."""
        ...


def plan_model(source: str, options: CompileOptions) -> Mapping[str, object]:
    """The plan of a model, a preset's shape included. `UsageError` for a target that places nothing."""
    target = target_of(options)
    if not isinstance(target.backend, Planner):
        raise UsageError("no-plan", f"the target '{options.target}' places nothing", fix="--target wafer")
    with open_model(source, options.source, shape_only=True) as model:
        return target.backend.plan(optimise(model, target, options).graph, target.options)
