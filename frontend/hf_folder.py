"""Checkpoints of the transformers families: module on the meta device, weights by name from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cgptc.frontend.hf_config import FAMILIES, family_of
from cgptc.frontend.own_gpt import compute_dtype, example_sizes, stop_ids
from cgptc.frontend.readers import Checkpoint, JsonObject
from cgptc.frontend.readers.quoting import listed
from cgptc.frontend.source import CapturedModel, Request, TextModel, find_companions
from cgptc.ir.diagnostics import CompileError, Warnings
from cgptc.ir.dtypes import DType
from cgptc.ir.weight_expressions import converted
from cgptc.ir.weights import Stored, Weight

if TYPE_CHECKING:
    import torch

    from cgptc.frontend.hf_modules import HfModule

OWN_MODEL_TYPES = ("gpt2", "btlm")
"""Model types that the project's own GPT reads."""

_BUFFERS = re.compile(r"(^|\.)(attn\.bias|attn\.masked_bias|attention\.bias|attention\.masked_bias|inv_freq|position_ids|embed_positions)$")
"""What older files keep among their weights and the module computes."""

_OTHER_NAMES = (
    (re.compile(r"LayerNorm\.weight$"), "LayerNorm.gamma"),
    (re.compile(r"LayerNorm\.bias$"), "LayerNorm.beta"),
    (re.compile(r"^lm_head\."), "embed_out."),
    (re.compile(r"^embed_out\."), "lm_head."),
)
"""Names that files have for parameters of the module: BERT's first checkpoints, GPT-NeoX's head."""


def is_family(config: Mapping[str, object] | None) -> bool:
    """Whether a configuration is of a family that is read through transformers."""
    name = config.get("model_type") if config is not None else None
    return isinstance(name, str) and name in FAMILIES and name not in OWN_MODEL_TYPES


def require_known_family(config: Mapping[str, object], file: str) -> None:
    """`CompileError` naming the families for a configuration of Hugging Face's form that is of none of them."""
    if isinstance(config.get("model_type"), str) and config["model_type"] not in OWN_MODEL_TYPES:
        try:
            family_of(config)
        except CompileError as error:
            error.file = file
            raise


def capture_family(path: Path, checkpoint: Checkpoint, config: JsonObject, request: Request) -> CapturedModel:
    """Capture the model that ``config`` describes with the weights of ``checkpoint``. Raises `CgptcError`."""
    import torch

    from cgptc.frontend.capture import capture
    from cgptc.frontend.hf_modules import ROOT, build_module
    from cgptc.frontend.torch_dtypes import TO_TORCH

    warnings = Warnings()
    dtype = compute_dtype(checkpoint.tensors.values())

    def build() -> HfModule:
        return build_module(config, family_of(config), warnings, TO_TORCH[dtype])

    try:
        built = build()
        weights = match_weights(built, checkpoint, dtype, warnings)
    except CompileError as error:
        error.file = error.file or str(path)
        raise
    sizes, bounds = example_sizes(request, built.positions)
    ones = torch.ones((sizes["batch"], sizes["seq"]), dtype=torch.int64)
    graph = capture(
        built.module,
        [ones for _ in built.input_names],
        dynamic=bounds,
        weights=weights,
        store=checkpoint.store,
        output_names=built.output_names,
        name=family_of(config).model_type,
        root=ROOT,
    )
    companions = find_companions(path if path.is_dir() else path.parent)
    text = TextModel(built.vocabulary, built.positions, stop_ids(companions, config)) if built.is_causal else None
    return CapturedModel(
        graph,
        built.class_name,
        checkpoint.format,
        built.parameter_count,
        built.layer_count,
        text,
        digest=checkpoint.digest,
        companions=companions,
        configuration={key: value for key, value in config.items() if not key.startswith("_")},  # "_name_or_path" is the writer's own
        warnings=(*checkpoint.notes, *warnings.lines),
        reference=lambda: load_module(build(), weights, checkpoint),
        close=checkpoint.close,
    )


def match_weights(built: HfModule, checkpoint: Checkpoint, dtype: DType, warnings: Warnings) -> dict[str, Weight]:
    """The checkpoint's tensor for each parameter of the wrapped module, under any prefix that heads add or leave out.

    Raises `CompileError` naming parameters without a tensor, and tensors of another shape. Tensors without a parameter are a warning.
    """
    from cgptc.frontend.hf_modules import ROOT
    from cgptc.frontend.live_weights import canonical_names

    model = built.module.get_submodule(ROOT)
    base = str(getattr(model, "base_model_prefix", ""))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    canonical = canonical_names(model)
    found: dict[str, Stored] = {}
    for name in shapes:
        stored = next((checkpoint.tensors[key] for key in _spellings(name, base) if key in checkpoint.tensors), None)
        if stored is not None:
            found[name] = stored
    # A tied parameter has the tensor of any of its names.
    shared = {canonical[name]: stored for name, stored in found.items()}
    missing = [name for name in shapes if canonical[name] not in shared]
    if missing:
        raise CompileError(
            "config-mismatch",
            f"the weights lack {len(missing)} of {len(shapes)} parameters of {built.class_name}: {listed(missing)}",
            fix="check that config.json and the weights belong together",
        )
    weights: dict[str, Weight] = {}
    for name, shape in shapes.items():
        stored = shared[canonical[name]]
        if stored.shape != shape:
            raise CompileError(
                "config-mismatch",
                f"'{name}' is {list(stored.shape)} in the weights, but {list(shape)} by the configuration",
                fix="check that config.json and the weights belong together",
            )
        weights[f"{ROOT}.{name}"] = converted(stored, dtype)
    used = {stored.name for stored in shared.values()}
    rest = [name for name, stored in checkpoint.tensors.items() if stored.name not in used and not _BUFFERS.search(name)]
    if rest:
        warnings.add("unused-weights", f"{len(rest)} tensors are not part of {built.class_name}: {listed(rest)}")
    return weights


def _spellings(name: str, base: str) -> list[str]:
    """The names under which a checkpoint may have a parameter."""
    names = [name]
    if base:
        names.append(name.removeprefix(f"{base}.") if name.startswith(f"{base}.") else f"{base}.{name}")
    return names + [pattern.sub(old, known) for known in names for pattern, old in _OTHER_NAMES if pattern.search(known)]


def load_module(built: HfModule, weights: Mapping[str, Weight], checkpoint: Checkpoint) -> torch.nn.Module:
    """The wrapped module with its weights read into memory, each tied tensor once."""
    from cgptc.frontend.torch_dtypes import to_torch

    tensors: dict[str, torch.Tensor] = {}
    for weight in weights.values():
        if weight.key not in tensors:
            tensors[weight.key] = to_torch(weight.read(checkpoint.store))
    state = {name: tensors[weight.key] for name, weight in weights.items()}
    built.module.load_state_dict(state, strict=False, assign=True)
    return built.module
