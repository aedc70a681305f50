"""From a captured model to an artifact: passes, emission, manifest."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from cgptc.artifact import ArtifactWriter, Manifest, open_folder
from cgptc.artifact.canonical import Json, canonical_json
from cgptc.artifact.writer import file_errors
from cgptc.backends.onnx.backend import MODEL_FILE
from cgptc.backends.onnx.interface_names import GROUPED_QUERY
from cgptc.backends.registry import Emitted, backend
from cgptc.driver.companions import read_companions
from cgptc.driver.environment import library_versions
from cgptc.driver.fusion_counts import CountWhole, check_subjects, fusions, require_fusions
from cgptc.driver.losses import LossWatch, warn_of_overflow
from cgptc.driver.masks import with_masks
from cgptc.driver.numeric_check import numeric_check
from cgptc.driver.options import CompileOptions, make_target_options
from cgptc.driver.reproducer import KeepBefore, reproducible
from cgptc.driver.runtime_configs import CONFIG_FILE, GENAI_FILE, TOKENIZER_CONFIG, TOKENIZER_CONFIG_FILE, genai_config
from cgptc.driver.sparsity_options import mask_file
from cgptc.frontend.source import CapturedModel, TextModel, open_model
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weights import Weight
from cgptc.passes.instruments import VerifyEach
from cgptc.passes.manager import Instrument, PassContext, Pipeline
from cgptc.runtime.compiled import GRAPH_FILE, REPORT_FILE, Artifact, Target
from cgptc.runtime.interface import Interface
from cgptc.runtime.report import Fusions, Report

CACHE_PASS, LEGALISE_PASS, STAGES_PASS = "add-cache", "legalise", "pipeline"


@dataclass
class Clock:
    """Seconds by stage. They are for the screen: nothing in an artifact depends on them."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def target_of(options: CompileOptions) -> Target:
    """The target that is asked for. `UsageError` for an unknown one, or an option that it does not have."""
    found = backend(options.target)
    options.shrinking.require_kernels(options.target, options.target_options.get("ep", "cpu"))
    return Target(found, make_target_options(options.target, found.options, options.target_options))


@dataclass(frozen=True)
class Optimised:
    """A graph after its passes, what they were, and the word they left."""

    graph: Graph
    pipeline: Pipeline
    context: PassContext
    fusions: Fusions
    losses: Mapping[str, Json] = field(default_factory=dict)


def pipeline_for(target: Target, options: CompileOptions, cached: bool) -> Pipeline:
    """The passes to run: the user's or the target's own, less the disabled ones, with the cache and legality that every compile needs, what
    shrinks the model right before the latter, and the cut into stages behind them all.
    """
    text = options.passes if options.passes is not None else target.backend.default_pipeline(target.options, options.level)
    pipeline = Pipeline.parse(text).without(options.disabled_passes)
    names = [pass_.name for pass_ in pipeline.passes]
    if not cached:
        pipeline = pipeline.without([CACHE_PASS])
    elif CACHE_PASS not in names:
        pipeline = Pipeline((*pipeline.passes, *Pipeline.parse(CACHE_PASS).passes))
    if LEGALISE_PASS not in names:
        pipeline = Pipeline((*pipeline.passes, *Pipeline.parse(LEGALISE_PASS).passes))
    place = next(index for index, pass_ in enumerate(pipeline.passes) if pass_.name == LEGALISE_PASS)
    passes = (*pipeline.passes[:place], *options.shrinking.passes(), *pipeline.passes[place:])
    stages = [pass_ for pass_ in passes if pass_.name == STAGES_PASS]
    if stages and options.stages is not None:
        raise UsageError("usage", f"--stages and the pass '{STAGES_PASS}' exclude each other", fix="give one of them")
    if options.stages is not None:
        memory = f" memory={options.stage_memory}" if options.stage_memory is not None else ""
        stages = [*Pipeline.parse(f"{STAGES_PASS}{{stages={options.stages}{memory}}}").passes]
    return Pipeline((*(pass_ for pass_ in passes if pass_.name != STAGES_PASS), *stages))


def wants_cache(model: CapturedModel, options: CompileOptions) -> bool:
    """Whether the compiled model takes a past: as asked, else where it is a causal language model."""
    return options.cache == "dynamic" or (options.cache is None and model.text is not None)


def optimise(
    model: CapturedModel,
    target: Target,
    options: CompileOptions,
    instruments: Sequence[Instrument] = (),
    *,
    legalise: bool = True,
    masks: Mapping[str, Weight] | None = None,
) -> Optimised:
    """Run the passes on the model's graph, in place. `CompileError` where a required fusion was missed. ``masks`` are a mask file's.

    Without ``legalise`` what the target has no form for may stay: that is for who looks at the graph, not for a backend.
    """
    check_subjects(options.required_fusions)
    pipeline = pipeline_for(target, options, wants_cache(model, options))
    if not legalise:
        pipeline = pipeline.without([LEGALISE_PASS])
    context = PassContext(
        target=options.target,
        legal=target.backend.legal_ops(target.options),
        cost_model=target.backend.cost_model(target.options),
        rewrites_left=options.bisect_limit,
        masks=masks or {},
    )
    whole, losses = CountWhole(LEGALISE_PASS), LossWatch()
    watching: list[Instrument] = [VerifyEach()] if options.verify_each != "off" else []
    if options.verify_each == "numeric":
        watching.append(numeric_check())
    kept = KeepBefore()
    with reproducible(kept, context, options.verify_each):
        pipeline.run(model.graph, context, [kept, whole, losses, *watching, *options.instruments, *instruments])
    if options.bisect_limit is not None:
        context.warnings.add(
            "bisect", f"{context.counters.get('rewrites', 0)} rewrites were made; the last was {context.last_rewrite or 'none'}"
        )
    if options.cache == "dynamic" and not Interface.of(model.graph).cached:
        raise CompileError("cannot-cache", "there is no attention whose keys and values could be kept", fix="compile with --cache none")
    found = fusions(model, whole.found or whole.count(model.graph), context)
    require_fusions(found, options.required_fusions, model.name)
    measured = losses.to_json(model.graph)
    warn_of_overflow(measured, model.graph, context.warnings)
    return Optimised(model.graph, pipeline, context, found, measured)


def write_artifact(
    writer: ArtifactWriter, model: CapturedModel, optimised: Optimised, target: Target, options: CompileOptions, tokenizer: Path | None
) -> Manifest:
    """Emit everything into the writer's folder and commit it. ``tokenizer`` stands in for the one beside the model."""
    with file_errors(writer.shown):
        emitted = target.backend.emit(optimised.graph, writer.folder, target.options)
        report = make_report(model, optimised, emitted.facts)
        (writer.folder / GRAPH_FILE).write_text(str(optimised.graph), encoding="utf-8")
        (writer.folder / REPORT_FILE).write_text(canonical_json(report.to_json()), encoding="utf-8")
        for name, content in read_companions(model.companions, tokenizer).items():
            (writer.folder / name).write_bytes(content)
        for name, value in _runtime_files(model, optimised.graph, emitted, (writer.folder / "tokenizer.json").exists()).items():
            if not (writer.folder / name).exists():  # what the model's folder has is kept
                (writer.folder / name).write_text(canonical_json(value), encoding="utf-8")
    return writer.commit(
        Manifest(
            target=options.target,
            files={},
            pipeline=str(optimised.pipeline),
            options=options.to_json(target.options),
            versions=library_versions(),
            input={"format": model.format, "sha256": model.digest()},
            interface=Interface.of(optimised.graph, model.result).to_json(),
            generation=_generation(model.text),
            backend=_json_object(emitted.facts),
        ),
        emitted.digests,
    )


def make_report(model: CapturedModel, optimised: Optimised, facts: object) -> Report:
    """What this compile did."""
    counts = Counter(node.op.name for node in optimised.graph.nodes)
    return Report(
        model={"name": model.name, "layers": model.layer_count, "parameters": model.parameter_count, "dtype": _dtype(optimised.graph)},
        graph={"nodes": optimised.graph.node_count, "operations": dict(sorted(counts.items()))},
        fusions=optimised.fusions,
        counters=dict(sorted(optimised.context.counters.items())),
        backend=_json_object(facts),
        losses=optimised.losses,
        warnings=(*model.warnings, *optimised.context.warnings.lines, *_placement_warnings(_json_object(facts))),
    )


def _placement_warnings(facts: Mapping[str, Json]) -> tuple[str, ...]:
    """What a compile for a device says of the nodes that would not run on it."""
    nodes = facts.get("nodes_without_cuda_kernel")
    if not isinstance(nodes, list) or not nodes:
        return ()
    return (
        f"cuda has no kernel for {len(nodes)} node{'s' if len(nodes) != 1 else ''}, which would run on the CPU:",
        *(f"  {node}" for node in nodes),
    )


def compile_model(model: CapturedModel, options: CompileOptions, place: Path | None = None, clock: Clock | None = None) -> Artifact:
    """Compile a captured model into the artifact at ``place``, or in a temporary folder that lives as long as the artifact's object.

    Whatever fails, what stood at ``place`` still stands there. The passes change the model's graph; its files stay open.
    """
    return _build(lambda: nullcontext(model), options, place or f"{model.name}.{options.target}.cgptc", None, clock or Clock())


def compile_captured(
    capture: Callable[[], CapturedModel], name: str, options: CompileOptions, place: Path | None = None, clock: Clock | None = None
) -> Artifact:
    """The same for a model that is captured once the options are known to be right, and closed in the end. ``name`` names a temporary
    folder.
    """
    return _build(capture, options, place or f"{name}.{options.target}.cgptc", None, clock or Clock())


def compile_source(
    source: str,
    options: CompileOptions,
    place: Path | None = None,
    *,
    tokenizer: Path | None = None,
    clock: Clock | None = None,
) -> Artifact:
    """Open what ``source`` names, capture and compile it; see `compile_model`."""
    name = f"{Path(source).resolve().stem}.{options.target}.cgptc"
    return _build(lambda: open_model(source, options.source, hash_ahead=True), options, place or name, tokenizer, clock or Clock())


def _build(
    capture: Callable[[], AbstractContextManager[CapturedModel]],
    options: CompileOptions,
    place: Path | str,
    tokenizer: Path | None,
    clock: Clock,
) -> Artifact:
    """``place`` as text is a name in a temporary folder."""
    target = target_of(options)
    # A wrong pass or fusion, and below a wrong tokenizer or an output that cannot be written, is told before the slow work.
    pipeline_for(target, options, cached=True)
    check_subjects(options.required_fusions)
    read_companions({}, tokenizer)
    keep = None
    if isinstance(place, str):
        keep = tempfile.TemporaryDirectory(prefix="cgptc-")
        place = Path(keep.name) / place
    with ArtifactWriter(place) as writer:
        with clock.stage("import"):
            opened = capture()
        with opened as model, with_masks(model.graph, mask_file(options.shrinking.sparsity)) as masks:
            with clock.stage("passes"):
                optimised = optimise(model, target, options, masks=masks)
            with clock.stage("write"):
                write_artifact(writer, model, optimised, target, options, tokenizer)
    return Artifact(open_folder(place), keep)


def _runtime_files(model: CapturedModel, graph: Graph, emitted: Emitted, has_tokenizer: bool) -> dict[str, Mapping[str, object]]:
    """Configurations by name for other runtimes that open a causal ONNX model."""
    text, interface = model.text, Interface.of(graph)
    if text is None or MODEL_FILE not in emitted.files:
        return {}
    shares_cache = emitted.facts.get("cached_attention") == GROUPED_QUERY
    found: dict[str, Mapping[str, object] | None] = {
        GENAI_FILE: genai_config(interface, text, MODEL_FILE, shares_cache),
        CONFIG_FILE: model.configuration,
        TOKENIZER_CONFIG_FILE: TOKENIZER_CONFIG if has_tokenizer else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _generation(text: TextModel | None) -> dict[str, Json]:
    return {} if text is None else {"vocabulary": text.vocabulary, "context": text.context, "stop": list(text.stop)}


def _dtype(graph: Graph) -> str:
    """The element type of most of the floating-point weights."""
    sizes: Counter[str] = Counter()
    for node in graph.nodes:
        if isinstance(node.op, Constant) and node.op.weight.dtype.is_float:
            sizes[str(node.op.weight.dtype)] += math.prod(node.op.weight.shape)
    return max(sizes, key=lambda name: (sizes[name], name), default="none")


def _json_object(facts: object) -> dict[str, Json]:
    assert isinstance(facts, dict)
    return facts
