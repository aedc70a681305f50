"""``cgptc check`` and ``cgptc explain``: what would be done with a model, and what was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.driver.options import CompileOptions
from cgptc.frontend.source import Request
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.report import Finding, Report

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model file or folder, or a preset's name.")]
Preset = Annotated[str | None, typer.Option("--preset", help="What the weights are, where the file does not say.")]
Config = Annotated[Path | None, typer.Option("--config", help="A config.json that says what the weights are.")]
TargetName = Annotated[str, typer.Option("--target", help="What to compile for.")]
Cache = Annotated[str | None, typer.Option("--cache", help="none or dynamic: inputs for past keys and values.")]


@command("check")
def check(
    screen: Screen, model: Model, target: TargetName = "onnx", preset: Preset = None, config: Config = None, cache: Cache = None
) -> None:
    """List all that a target cannot lower, without reading weights or writing anything."""
    report = _examine(screen, model, target, preset, config, cache)
    screen.result(table([("ok", f"{target} lowers all {report.graph['nodes']} nodes")]), {"ok": True, "graph": dict(report.graph)})


@command("explain")
def explain(
    screen: Screen,
    model: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help="An artifact, a model file or folder, or a preset.")],
    target: TargetName = "onnx",
    preset: Preset = None,
    config: Config = None,
    cache: Cache = None,
) -> None:
    """Show which fusions were made, and which were nearly made and why not."""
    if (Path(model) / "manifest.json").is_file():
        report = Artifact.open(Path(model)).report
    else:
        report = _examine(screen, model, target, preset, config, cache)
    fusions = report.fusions
    rows = [("done", *_cells(each)) for each in fusions.done] + [("missed", *_cells(each)) for each in fusions.missed]
    screen.result(table(rows) or "  no pass had anything to report", report.to_json()["fusions"])


def _examine(screen: Screen, model: str, target: str, preset: str | None, config: Path | None, cache: str | None) -> Report:
    from cgptc.driver.examination import check_model

    with screen.progress(f"looking at {model}"):
        return check_model(model, CompileOptions(target=target, source=Request(preset=preset, config=config), cache=cache))


def _cells(finding: Finding) -> tuple[str, str, str, str]:
    return finding.pass_name, finding.subject, finding.where, finding.reason
