"""``cgptc check`` and ``cgptc explain``: what would be done with a model, and what was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cgptc.artifact.canonical import Json
from cgptc.cli.command import command
from cgptc.cli.loss_rows import explain_rows
from cgptc.cli.screen import Screen, table
from cgptc.cli.wafer_facts import require_wafer_facts
from cgptc.cli.wafer_rows import assumption_rows, memory_rows, region_rows, sparsity_rows, tied_rows, wafer_rows
from cgptc.driver.options import CompileOptions, parse_bytes, require_choice
from cgptc.driver.shrinking import Shrinking
from cgptc.driver.stage_survey import SharedWeight
from cgptc.frontend.source import Request
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.report import Finding, Report

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model file or folder, or a preset's name.")]
Preset = Annotated[str | None, typer.Option("--preset", help="What the weights are, where the file does not say.")]
Config = Annotated[Path | None, typer.Option("--config", help="A config.json that says what the weights are.")]
TargetName = Annotated[str, typer.Option("--target", help="What to compile for.")]
Cache = Annotated[str | None, typer.Option("--cache", help="none or dynamic: inputs for past keys and values.")]

TOPICS = ("fusions", "precision", "sparsity", "stages", "placement", "memory")
LOSSES = ("precision", "sparsity")


@command("check")
def check(
    screen: Screen, model: Model, target: TargetName = "onnx", preset: Preset = None, config: Config = None, cache: Cache = None
) -> None:
    """List all that a target cannot lower, without reading weights or writing anything."""
    report = _examine(screen, model, target, preset, config, cache)
    for line in report.warnings:
        screen.note(line)
    screen.result(table([("ok", f"{target} lowers all {report.graph['nodes']} nodes")]), {"ok": True, "graph": dict(report.graph)})


@command("explain")
def explain(
    screen: Screen,
    model: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help="An artifact, a model file or folder, or a preset.")],
    topic: Annotated[str, typer.Argument(metavar="[" + "|".join(TOPICS) + "]", help="What to explain.")] = "fusions",
    target: TargetName = "onnx",
    preset: Preset = None,
    config: Config = None,
    cache: Cache = None,
    stages: Annotated[str | None, typer.Option("--stages", help="stages of a model: auto, or how many.")] = None,
    stage_memory: Annotated[str | None, typer.Option("--stage-memory", help="stages: most that each may take, such as 64MB.")] = None,
    quantize: Annotated[list[str] | None, typer.Option("--quantize", help="precision of a model: as compile takes it.")] = None,
    sparsity: Annotated[list[str] | None, typer.Option("--sparsity", help="sparsity of a model: as compile takes it.")] = None,
) -> None:
    """Show what is whole and which fusions were nearly made, with -v those made as well; what precision and sparsity gain and cost, matrix
    by matrix; or the stages that a model is cut into.
    """
    from cgptc.driver.examination import explain_model

    require_choice("topic", topic, TOPICS)
    if topic == "stages":
        _explain_stages(screen, model, _options(target, preset, config, cache), stages, stage_memory)
        return
    if topic in LOSSES:
        shrinking = Shrinking(quantize=tuple(quantize or ()), sparsity=tuple(sparsity or ()))
        _explain_losses(screen, model, topic, replace(_options(target, preset, config, cache), shrinking=shrinking))
        return
    if quantize or sparsity:
        raise UsageError("usage", "--quantize and --sparsity are for the topics 'precision' and 'sparsity'", fix="drop them")
    if topic in ("placement", "memory"):
        _explain_placement(screen, Path(model), topic)
        return
    if stages is not None or stage_memory is not None:
        raise UsageError("usage", "--stages and --stage-memory are for the topic 'stages'", fix="drop them, or explain stages")
    if (Path(model) / "manifest.json").is_file():
        report = Artifact.open(Path(model)).report
    else:
        with screen.progress(f"looking at {model}"):
            report = explain_model(model, _options(target, preset, config, cache))
    fusions = report.fusions
    rows: list[tuple[str, ...]] = [(each.subject, f"{each.fused} of {each.total} whole") for each in fusions.counts]
    rows += [("done", *_cells(each)) for each in fusions.done] if screen.verbose else []
    rows += [("missed", *_cells(each)) for each in fusions.missed]
    screen.result(table(rows) or "  there is nothing to fuse", fusions.to_json())


def _explain_placement(screen: Screen, path: Path, topic: str) -> None:
    """Regions of a wafer artifact: where they lie, or what their memory holds."""
    facts = Artifact.open(path).report.backend
    if "pe_count" not in facts:
        raise UsageError("no-placement", "it places nothing", file=str(path), fix="give an artifact compiled with --target wafer")
    require_wafer_facts(facts, str(path))
    rows = [*region_rows(facts), *tied_rows(facts), *assumption_rows(facts)] if topic == "placement" else memory_rows(facts)
    screen.result(table([*wafer_rows(facts), *rows]), dict(facts))


def _options(target: str, preset: str | None, config: Path | None, cache: str | None) -> CompileOptions:
    return CompileOptions(target=target, source=Request(preset=preset, config=config), cache=cache)


def _explain_losses(screen: Screen, model: str, topic: str, options: CompileOptions) -> None:
    from cgptc.driver.examination import explain_losses

    linears: Json = []
    placed: list[tuple[str, ...]] = []
    if (Path(model) / "manifest.json").is_file():
        if options.shrinking != Shrinking():
            raise UsageError("usage", "an artifact has what it was compiled with", file=model, fix="drop --quantize and --sparsity")
        report = Artifact.open(Path(model)).report
        losses = report.losses
        if topic == "sparsity" and "linears" in report.backend:
            require_wafer_facts(report.backend, model)
            placed, linears = sparsity_rows(report.backend), report.backend["linears"]
    else:
        with screen.progress(f"measuring {model}"):
            losses = explain_losses(model, topic, options)
    text = table(explain_rows(losses, topic)) or f"  {topic}: every weight is as the model has it"
    screen.result(f"{text}\n{table(placed)}" if placed else text, {**losses, **({"linears": linears} if placed else {})})


def _explain_stages(screen: Screen, model: str, options: CompileOptions, stages: str | None, limit: str | None) -> None:
    from cgptc.driver.examination import explain_artifact_stages, explain_stages

    if (Path(model) / "manifest.json").is_file():
        if stages is not None or limit is not None:
            what = "an artifact has the stages that it was compiled with"
            raise UsageError("usage", what, file=model, fix="drop --stages and --stage-memory")
        survey = explain_artifact_stages(Artifact.open(Path(model)))
    else:
        options = replace(options, stages=stages or "auto", stage_memory=parse_bytes(limit) if limit is not None else None)
        with screen.progress(f"cutting {model}"):
            survey = explain_stages(model, options)
    rows: list[tuple[str, ...]] = [("stage", "operations", "time", "busy", "weights", "in all", "where", "receives")]
    for row in survey.rows:
        time = f"{row.time:.3g} {survey.unit}"
        memory = f"{row.weight_bytes / 1e6:.2f} MB", f"{row.bytes / 1e6:.2f} MB"
        rows.append((str(row.stage), str(row.operations), time, f"{row.busy:.0%}", *memory, row.where, "; ".join(row.received)))
    sizes = ", ".join(f"{name}={size}" for name, size in survey.sizes.items())
    gain = f"{survey.throughput_gain:.2f} times the throughput of one piece once all stages are busy, for {sizes}"
    lines = [table(rows), *(f"  {shared_weight(each, survey.unit)}" for each in survey.shared), f"  {gain}"]
    screen.result("\n".join(lines), survey.to_json())


def shared_weight(shared: SharedWeight, unit: str) -> str:
    """Whether each stage that needs a weight has a copy, or one sends it to the others, and what either takes."""
    size, copied, sent = (f"{count / 1e6:.2f} MB" for count in (shared.bytes, shared.copied_bytes, shared.sent_bytes))
    way = f"{shared.sent_time:.3g} {unit} of every call for each of two stages"
    if shared.held == shared.stages:
        kept = f"a copy in each of stages {' and '.join(map(str, shared.stages))}, {copied} in all"
        return f"{shared.weight}, {size}: {kept}; sent on it would take {sent} with its buffers, and {way}"
    others = " and ".join(str(stage) for stage in shared.stages if stage not in shared.held)
    kept = f"sent on from stage {shared.held[0]} to {others}, {sent} with its buffers, and {way}"
    return f"{shared.weight}, {size}: {kept}; copies would take {copied}"


def _examine(screen: Screen, model: str, target: str, preset: str | None, config: Path | None, cache: str | None) -> Report:
    from cgptc.driver.examination import check_model

    with screen.progress(f"looking at {model}"):
        return check_model(model, _options(target, preset, config, cache))


def _cells(finding: Finding) -> tuple[str, str, str, str]:
    return finding.pass_name, finding.subject, finding.where, finding.reason
