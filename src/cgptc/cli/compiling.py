"""``cgptc compile``: a model in, an artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cgptc.cli import wafer_flags
from cgptc.cli.command import command
from cgptc.cli.loss_rows import compile_rows
from cgptc.cli.screen import Screen, table
from cgptc.cli.wafer_rows import wafer_rows
from cgptc.cli.watching import Watch
from cgptc.driver.compilation import Clock, compile_source
from cgptc.driver.examination import check_model
from cgptc.driver.options import CompileOptions, parse_bytes, parse_dynamic
from cgptc.driver.peak_memory import peak_bytes
from cgptc.driver.shrinking import Shrinking, element_type
from cgptc.frontend.source import Request
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact

WRITTEN = ("model", "stage-", "program", "weights")
"""How the names of the files begin that a compile shows."""


@command("compile")
def compile_(
    screen: Screen,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file or folder, or package.module:callable, which is run.")],
    target: Annotated[str, typer.Option("--target", help="What to compile for.")] = "onnx",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The artifact's folder (<stem>.<target>.cgptc here).")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="What the weights are, where the file does not say.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json that says what the weights are.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="The state dict, where MODEL is package.module:callable.")] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", help="tokenizer.json, or a folder that holds a tokenizer.")] = None,
    cache: Annotated[str | None, typer.Option("--cache", help="none or dynamic: inputs for past keys and values.")] = None,
    dynamic: Annotated[str | None, typer.Option("--dynamic", help="Bounds of sizes, such as batch=1..8,seq=1..2048.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="A fixed batch size.")] = None,
    seq: Annotated[int | None, typer.Option("--seq", help="A fixed sequence length.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="f32, f16 or bf16 (wafer: f32 or f16): what to compute in.")] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option("--quantize", help="int8, int4:block=32, or of some layers int8@lm_head; may be repeated: the last that names it."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="A glob of layers to leave out of --quantize; may be repeated.")] = None,
    sparsity: Annotated[list[str] | None, typer.Option("--sparsity", help="Such as magnitude:0.75@h.*.mlp.*; may be repeated.")] = None,
    passes: Annotated[str | None, typer.Option("--passes", help="A pipeline instead of the target's own.")] = None,
    disable_pass: Annotated[list[str] | None, typer.Option("--disable-pass", help="A pass to leave out; may be repeated.")] = None,
    level: Annotated[int, typer.Option("-O", help="0 does what the target needs, 1 fuses, 2 does all that pays: today the same as 1.")] = 2,
    require_fusion: Annotated[
        str | None, typer.Option("--require-fusion", help="Fail unless these are whole everywhere, such as attention,layer-norm.")
    ] = None,
    bisect_limit: Annotated[int | None, typer.Option("--bisect-limit", help="Stop rewriting after so many rewrites.")] = None,
    verify_each: Annotated[str, typer.Option("--verify-each", help="ir, numeric or off: what to check after each pass.")] = "ir",
    stages: Annotated[str | None, typer.Option("--stages", help="auto, or how many stages to cut the model into.")] = None,
    stage_memory: Annotated[str | None, typer.Option("--stage-memory", help="Most that a stage may take, such as 64MB.")] = None,
    print_ir_after: Annotated[
        str | None,
        typer.Option("--print-ir-after", help="Print the graph on stderr after this pass, all, or those that changed it: changed."),
    ] = None,
    dump_ir: Annotated[Path | None, typer.Option("--dump-ir", help="A folder for the graph after every pass.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Stop before weights are read and files written.")] = False,
    unsafe_load_pickle: Annotated[bool, typer.Option("--unsafe-load-pickle", help="Unpickle a whole module: runs its code.")] = False,
    ops: Annotated[str | None, typer.Option("--ops", help="onnx: ort or standard operators.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="onnx: version of the operator set.")] = None,
    ep: Annotated[str | None, typer.Option("--ep", help="onnx: execution provider, cpu, cuda or any.")] = None,
    machine: wafer_flags.Machine = None,
    execution_strategy: wafer_flags.Strategy = None,
    objective: wafer_flags.Objective = None,
    grid: wafer_flags.GridSize = None,
    context: wafer_flags.Context = None,
    prefill_chunk: wafer_flags.Chunk = None,
) -> None:
    """Compile a model for a target."""
    given: dict[str, Any] = {"ops": ops, "opset": opset, "ep": ep, "machine": machine, "execution_strategy": execution_strategy}
    given |= {"objective": objective, "grid": grid, "context": context, "prefill_chunk": prefill_chunk}
    own_dtype, given["dtype"] = element_type(target, dtype)
    watch = Watch(screen, print_ir_after, dump_ir)
    options = CompileOptions(
        target=target,
        cache=cache,
        source=Request(
            preset=preset,
            config=config,
            weights=weights,
            unsafe_load_pickle=unsafe_load_pickle,
            dynamic=parse_dynamic(dynamic) if dynamic is not None else {},
            fixed={name: size for name, size in (("batch", batch), ("seq", seq)) if size is not None},
        ),
        shrinking=Shrinking(own_dtype, tuple(quantize or ()), tuple(keep or ()), tuple(sparsity or ())),
        passes=passes,
        disabled_passes=tuple(disable_pass or ()),
        level=level,
        required_fusions=tuple(filter(None, (require_fusion or "").split(","))),
        bisect_limit=bisect_limit,
        verify_each=verify_each,
        stages=stages,
        stage_memory=parse_bytes(stage_memory) if stage_memory is not None else None,
        instruments=watch.instruments,
        target_options={name: value for name, value in given.items() if value is not None},
    )
    if validate_only:
        if output is not None or tokenizer is not None:
            raise UsageError("usage", "--validate-only writes nothing, so -o and --tokenizer mean nothing", fix="drop them, or it")
        validate(screen, model, options, watch)
        return
    place = output if output is not None else Path(f"{Path(model).resolve().stem}.{target}.cgptc")
    clock = Clock()
    with screen.progress(f"compiling {model}"):
        artifact = compile_source(model, options, place, tokenizer=tokenizer, clock=clock)
    watch.tell()
    for line in artifact.report.warnings:
        screen.note(line)
    screen.result(table(_rows(artifact, clock)), _value(artifact, clock))


def validate(screen: Screen, model: str, options: CompileOptions, watch: Watch) -> None:
    """Import, passes and the target's own look at every node; no weight is read, and nothing is written."""
    with screen.progress(f"looking at {model}"):
        report = check_model(model, options)
    watch.tell()
    for line in report.warnings:
        screen.note(line)
    rows = [("ok", f"{options.target} lowers all {report.graph['nodes']} nodes"), ("written", "nothing (--validate-only)")]
    screen.result(table(rows), {"ok": True, "graph": dict(report.graph)})


def _rows(artifact: Artifact, clock: Clock) -> list[tuple[str, ...]]:
    report, manifest = artifact.report, artifact.folder.manifest
    facts = report.model
    symbols = ", ".join(artifact.interface.symbols) or "no size"
    fusions = [f"{each.subject} {each.fused}/{each.total}" for each in report.fusions.counts]
    files = " + ".join(f"{name} {size(entry.size)}" for name, entry in manifest.files.items() if name.startswith(WRITTEN))
    described = [str(facts["name"])]
    described += [f"{facts['layers']} layers"] if "layers" in facts else []
    parameters = facts.get("parameters")
    described += [f"{parameters / 1e6:,.1f} M parameters"] if isinstance(parameters, int) else []
    described += [str(facts["dtype"])] if "dtype" in facts else []
    nodes = report.graph["nodes"]
    return [
        ("model", "   ".join(described)),
        ("import", f"{clock.seconds.get('import', 0):.1f} s   {symbols} stay symbolic"),
        ("passes", f"{clock.seconds['passes']:.1f} s   {nodes} operations   {' · '.join(fusions)}"),
        *compile_rows(report.losses),
        *wafer_rows(report.backend),
        ("write", f"{clock.seconds['write']:.1f} s   {artifact.path}: {files}"),
        ("peak RSS", f"{size(peak_bytes())}   sha256 {artifact.folder.digest[:4]}…{artifact.folder.digest[-2:]}"),
    ]


def _value(artifact: Artifact, clock: Clock) -> dict[str, object]:
    return {
        "artifact": str(artifact.path),
        "digest": artifact.folder.digest,
        "seconds": clock.seconds,
        "peak_bytes": peak_bytes(),
        "report": artifact.report.to_json(),
    }


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
