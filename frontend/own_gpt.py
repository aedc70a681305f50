"""GPT-2 shaped checkpoints through the project's own GPT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cgptc.frontend.gpt_config import GptConfig, Head
from cgptc.frontend.gpt_config_json import to_huggingface
from cgptc.frontend.naming import Recognised, recognise
from cgptc.frontend.presets import Preset
from cgptc.frontend.presets import preset as find_preset
from cgptc.frontend.readers import Checkpoint, JsonObject, open_checkpoint
from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.plain_json import read_json_object
from cgptc.frontend.repeated_layers import TRACED, repeat_last_layer
from cgptc.frontend.source import CapturedModel, Request, TextModel, find_companions
from cgptc.ir.diagnostics import CompileError, UsageError, Warnings
from cgptc.ir.dtypes import DType, bf16, f16, f32, f64
from cgptc.ir.graph import Graph
from cgptc.ir.weight_expressions import converted, transposed
from cgptc.ir.weights import EMPTY_STORE, Stored, Weight, WeightStore

if TYPE_CHECKING:
    from cgptc.frontend.gpt import Gpt

GENERATION_CONFIG = "generation_config.json"
BATCH_BOUND = 1 << 10
"""Largest batch where the user names none."""


def capture_preset(preset: Preset, request: Request) -> CapturedModel:
    """The preset's graph without weight bytes."""
    config = preset.config
    graph = capture_gpt(config, {}, EMPTY_STORE, request)
    return _captured(graph, config, f"preset {preset.name}", ())


def capture_checkpoint(path: Path, request: Request, hash_ahead: bool = False) -> CapturedModel:
    """A state dict or folder of a family that is known by its configuration, or else a GPT by its names and shapes.

    Raises `CgptcError`.
    """
    from cgptc.frontend.hf_folder import capture_family, is_family, require_known_family

    checkpoint = open_checkpoint(path)
    if hash_ahead:
        checkpoint = checkpoint.hashed_ahead()
    try:
        config = read_json(request.config) if request.config is not None else checkpoint.config
        if config is not None and request.preset is None and is_family(config):
            return capture_family(path, checkpoint, config, request)
        if config is not None and request.preset is None:
            require_known_family(config, str(path))
        return _from_checkpoint(path, checkpoint, config, request)
    except BaseException:
        checkpoint.close()
        raise


def _from_checkpoint(path: Path, checkpoint: Checkpoint, config: JsonObject | None, request: Request) -> CapturedModel:
    warnings = Warnings()
    found = recognise(
        checkpoint.tensors,
        config=config,
        preset=find_preset(request.preset) if request.preset is not None else None,
        file=str(path),
        warnings=warnings,
    )
    sources = {name: weight_of(found, checkpoint.tensors, name) for name in found.sources}
    dtype = compute_dtype(sources.values())
    weights = {name: converted(weight, dtype) for name, weight in sources.items()}
    graph = capture_gpt(found.config, weights, checkpoint.store, request, dtype)
    companions = find_companions(path if path.is_dir() else path.parent)
    return _captured(
        graph,
        found.config,
        checkpoint.format,
        stop_ids(companions, config),
        checkpoint=checkpoint,
        weights=weights,
        companions=companions,
        warnings=(*checkpoint.notes, *warnings.lines),
    )


def weight_of(found: Recognised, tensors: Mapping[str, Weight], name: str) -> Weight:
    """The parameter as the module has it: linear weights that lie [out, in] are transposed lazily."""
    source = found.sources[name]
    weight = tensors[source.name]
    return transposed(weight, (1, 0)) if source.transposed else weight


def compute_dtype(tensors: Iterable[Weight]) -> DType:
    """The element type that a model computes in: the widest among its weights."""
    found = {tensor.dtype for tensor in tensors}
    return next((dtype for dtype in (f64, f32, bf16, f16) if dtype in found), f32)


def capture_gpt(config: GptConfig, weights: Mapping[str, Weight], store: WeightStore, request: Request, dtype: DType = f32) -> Graph:
    """The graph of a GPT. Its layers are alike unless their scores are scaled by their numbers: then two of them are traced."""
    if config.layers <= TRACED or config.attention_scale_by_layer:
        return trace_gpt(config, weights, store, request, dtype)
    graph = trace_gpt(replace(config, layers=TRACED), weights, store, request, dtype)
    parameters = weights or {name: Stored(name, dtype, shape) for name, shape in config.parameters()}
    repeat_last_layer(graph, "transformer.h", config.layers, parameters)
    return graph


def trace_gpt(config: GptConfig, weights: Mapping[str, Weight], store: WeightStore, request: Request, dtype: DType = f32) -> Graph:
    """The graph of a GPT, every layer of it traced."""
    import torch

    from cgptc.frontend.capture import capture
    from cgptc.frontend.gpt import meta_gpt
    from cgptc.frontend.torch_dtypes import TO_TORCH

    sizes, bounds = example_sizes(request, config.positions)
    shape = (sizes["batch"], sizes["seq"])
    ids, mask = (torch.ones(shape, dtype=torch.int64) for _ in range(2))
    output = "logits" if config.head is not Head.NONE else "last_hidden_state"
    return capture(
        meta_gpt(config).to(TO_TORCH[dtype]),
        (ids, mask),
        dynamic=bounds,
        weights=weights or None,
        store=store,
        output_names=[output],
        name="gpt",
    )


def example_sizes(request: Request, positions: int | None) -> tuple[dict[str, int], dict[str, tuple[int, int] | None]]:
    """Sizes to capture with, and the bounds of those that stay symbolic, for a model of at most ``positions`` positions."""
    longest = positions if positions is not None else 1 << 20
    sizes = {"batch": 2, "seq": min(8, max(1, longest - 1)), **request.fixed}
    bounds: dict[str, tuple[int, int] | None] = {"batch": (1, BATCH_BOUND), "seq": (1, longest), **request.dynamic}
    for name in request.fixed:
        bounds.pop(name, None)
    if sizes["seq"] > longest:
        raise UsageError("too-long", f"--seq {sizes['seq']} exceeds the model's {longest} positions")
    return sizes, bounds


def _captured(
    graph: Graph,
    config: GptConfig,
    format: str,
    stop: tuple[int, ...],
    *,
    checkpoint: Checkpoint | None = None,
    weights: Mapping[str, Weight] | None = None,
    companions: Mapping[str, Path] | None = None,
    warnings: tuple[str, ...] = (),
) -> CapturedModel:
    text = TextModel(config.vocabulary, config.positions, stop) if config.head is not Head.NONE else None
    if checkpoint is None or weights is None:
        return CapturedModel(graph, "Gpt", format, config.parameter_count, config.layers, text)
    opened, references = checkpoint, weights
    return CapturedModel(
        graph,
        "Gpt",
        format,
        config.parameter_count,
        config.layers,
        text,
        digest=opened.digest,
        companions=companions or {},
        configuration=_configuration(config, stop),
        warnings=warnings,
        reference=lambda: load_gpt(config, references, opened.store),
        close=opened.close,
    )


def _configuration(config: GptConfig, stop: tuple[int, ...]) -> dict[str, object] | None:
    """``config.json`` as Hugging Face has it; None where its form cannot say what the model is."""
    try:
        found = to_huggingface(config)
    except CompileError:
        return None
    return {**found, "bos_token_id": None, "eos_token_id": stop[0] if len(stop) == 1 else list(stop) or None}


def load_gpt(config: GptConfig, weights: Mapping[str, Weight], store: WeightStore) -> Gpt:
    """The module with its weights, which are all of one dtype."""
    from cgptc.frontend.gpt import meta_gpt
    from cgptc.frontend.torch_dtypes import to_torch

    module = meta_gpt(config)
    state = {name: to_torch(weight.read(store)) for name, weight in weights.items()}
    module.load_state_dict(state, assign=True)
    return module


def stop_ids(companions: Mapping[str, Path], config: JsonObject | None) -> tuple[int, ...]:
    """Ids that end a text, from the generation configuration, else from the model's."""
    generation = companions.get(GENERATION_CONFIG)
    for source in (read_json(generation) if generation is not None else None, config):
        found = source.get("eos_token_id") if source is not None else None
        ids = found if isinstance(found, list) else [found]
        if ids and all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            return tuple(each for each in ids if isinstance(each, int))
    return ()


def read_json(path: Path) -> JsonObject:
    """A configuration file as plain data."""
    with InputFile(path) as file:
        return read_json_object(file, "the configuration")
