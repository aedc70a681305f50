"""``cgptc plan``: a placement without weights and without writing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cgptc.cli import wafer_flags
from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.cli.wafer_rows import assumption_rows, region_rows, tied_rows, wafer_rows
from cgptc.driver.options import CompileOptions
from cgptc.frontend.source import Request


@command("plan")
def plan(
    screen: Screen,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file or folder, or a preset's name.")],
    target: Annotated[str, typer.Option("--target", help="What to plan for.")] = "wafer",
    preset: Annotated[str | None, typer.Option("--preset", help="What the weights are, where the file does not say.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json that says what the weights are.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="f32 or f16: what to compute in.")] = None,
    machine: wafer_flags.Machine = None,
    execution_strategy: wafer_flags.Strategy = None,
    objective: wafer_flags.Objective = None,
    grid: wafer_flags.GridSize = None,
    context: wafer_flags.Context = None,
    prefill_chunk: wafer_flags.Chunk = None,
) -> None:
    """Say whether a model fits a machine, where, and how fast it would be, without its weights."""
    from cgptc.driver.planning import plan_model

    given: dict[str, Any] = {"machine": machine, "execution_strategy": execution_strategy, "objective": objective, "grid": grid}
    given |= {"context": context, "dtype": dtype, "prefill_chunk": prefill_chunk}
    options = CompileOptions(
        target=target,
        source=Request(preset=preset, config=config),
        target_options={name: value for name, value in given.items() if value is not None},
    )
    with screen.progress(f"planning {model}"):
        facts = plan_model(model, options)
    rows: list[tuple[str, ...]] = [
        *wafer_rows(facts),
        *([*region_rows(facts), *tied_rows(facts), *assumption_rows(facts)] if screen.verbose else []),
    ]
    screen.result(table(rows), dict(facts))
