"""Looking without writing: what a target cannot lower, what passes did to a model, what passes make of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cgptc.artifact.canonical import Json
from cgptc.driver.compilation import Optimised, make_report, optimise, pipeline_for, target_of
from cgptc.driver.masks import with_masks
from cgptc.driver.options import CompileOptions
from cgptc.driver.shrinking import Shrinking
from cgptc.driver.sparsity_options import mask_file
from cgptc.driver.stage_survey import StageSurvey, survey_stages
from cgptc.frontend.source import Request, is_preset, open_model
from cgptc.ir.diagnostics import CompileError, FileError, MalformedError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.parser import parse_graph
from cgptc.ir.staged import is_staged
from cgptc.passes.instruments import VerifyEach
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.passes.pipeline import CutIntoStages
from cgptc.runtime.compiled import Artifact, Target
from cgptc.runtime.report import Report

SHOWN = 20
"""Nodes that an error lists."""


def check_model(source: str, options: CompileOptions) -> Report:
    """Run the passes on a model, a preset's shape included, and ask the target about every node. No weight is read.

    Raises `CompileError` listing what cannot be lowered, and whatever opening the model raises.
    """
    target = target_of(options)
    with open_model(source, options.source, shape_only=True) as model:
        optimised: Optimised = optimise(model, target, options)
        refusals = target.backend.check(optimised.graph, target.options)
        if refusals:
            lines = [line for refusal in refusals[:SHOWN] for line in refusal.lines()]
            more = [f"  … and {len(refusals) - SHOWN} more"] if len(refusals) > SHOWN else []
            what = f"{options.target} cannot lower {len(refusals)} node{'s' if len(refusals) > 1 else ''}"
            raise CompileError("unsupported-op", what, file=source, fix="choose another --target or --ops", details=[*lines, *more])
        return make_report(model, optimised, {})


def explain_model(source: str, options: CompileOptions) -> Report:
    """Run the target's passes on a model, a preset's shape included, without asking the target to lower anything. No weight is read.

    Unless a cache is asked for there is none, so that a model whose attention no cache fits is explained as well.
    """
    options = replace(options, cache=options.cache or "none")
    target = target_of(options)
    with open_model(source, options.source, shape_only=True) as model:
        return make_report(model, optimise(model, target, options, legalise=False), {})


def explain_losses(source: str, topic: str, options: CompileOptions) -> Mapping[str, Json]:
    """What precision and sparsity would cost and gain, with the model's weights; a preset, which has none, has no errors.

    Where nothing is asked for: int8 for the topic "precision", the zeros that are there for "sparsity".
    """
    if not options.shrinking.passes():
        asked = Shrinking(quantize=("int8",)) if topic == "precision" else Shrinking(sparsity=("from-zeros",))
        options = replace(options, shrinking=asked)
    target = target_of(options)
    opened = open_model(source, options.source, shape_only=is_preset(source))
    with opened as model, with_masks(model.graph, mask_file(options.shrinking.sparsity)) as masks:
        return optimise(model, target, options, legalise=False, masks=masks).losses


def explain_stages(source: str, options: CompileOptions) -> StageSurvey:
    """How a model, a preset's shape included, would be cut. No weight is read."""
    target = target_of(options)
    with open_model(source, options.source, shape_only=True) as model:
        optimised = optimise(model, target, options)
        return _survey(optimised.graph, optimised.pipeline, target)


def explain_artifact_stages(artifact: Artifact) -> StageSurvey:
    """How an artifact was cut. `UsageError` where it is in one piece."""
    if not is_staged(artifact.graph):
        raise UsageError("not-staged", "the model is in one piece", file=str(artifact.path), fix="compile it with --stages auto")
    pipeline = Pipeline.parse(artifact.folder.manifest.pipeline)
    if not any(isinstance(pass_, CutIntoStages) for pass_ in pipeline.passes):
        what = "the graph has stages, and the manifest's pipeline makes none"
        raise MalformedError("stages", what, file=str(artifact.path), fix="compile the model again")
    return _survey(artifact.graph, pipeline, artifact.load_target())


def _survey(graph: Graph, pipeline: Pipeline, target: Target) -> StageSurvey:
    priced = next(pass_ for pass_ in pipeline.passes if isinstance(pass_, CutIntoStages))
    return survey_stages(graph, target.backend.cost_model(target.options), priced)


def read_graph(path: Path) -> Graph:
    """The graph in a text file. `FileError` where it cannot be read, `MalformedError` where it is no graph."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise MalformedError("graph", "is not UTF-8 text", file=str(path), fix="give a graph in text form, such as graph.cgir") from None
    except OSError as error:
        raise FileError("read", (error.strerror or str(error)).lower(), file=str(path), fix="give a graph in text form") from error
    return parse_graph(text, file=str(path))


def rewrite_graph(graph: Graph, passes: str, disabled: Sequence[str] = ()) -> Graph:
    """Run a pipeline on a graph without weights, in place, verifying after each pass."""
    return Pipeline.parse(passes).without(disabled).run(graph, PassContext(), [VerifyEach()])


def optimise_graph(graph: Graph, options: CompileOptions) -> Graph:
    """Run the target's own pipeline for a level on a graph without weights, in place, verifying after each pass."""
    target = target_of(options)
    context = PassContext(target=options.target, legal=target.backend.legal_ops(target.options))
    return pipeline_for(target, options, cached=False).run(graph, context, [VerifyEach()])


def captured_text(source: str, request: Request) -> str:
    """The graph of a model as it was captured, before any pass. No weight is read."""
    with open_model(source, request, shape_only=True) as model:
        return str(model.graph)


def captured_mlir(source: str, request: Request, dialect: str) -> str:
    """What torch-mlir makes of the model; large constants without content.

    torch-mlir lowers some operations (cumsum) to StableHLO for fixed sizes only: where it fails, those of example inputs are tried, which
    the text's first line says. Raises `UsageError` where there are no weights or no torch-mlir.
    """
    from cgptc.frontend.mlir import FIXED_NOTE, example_inputs, mlir_module, mlir_text

    with open_model(source, request) as model:
        assert model.reference is not None  # a preset, which has none, is refused above
        module = model.reference()
        args, dynamic = example_inputs(model.graph, module)
        try:
            return mlir_text(mlir_module(module, args, dialect, dynamic))
        except CompileError:
            if dialect != "stablehlo":
                raise
        return FIXED_NOTE + mlir_text(mlir_module(module, args, dialect))
