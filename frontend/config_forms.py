"""A configuration found beside weights, whoever wrote it: cgptc's own form, Hugging Face's, nanoGPT's ``model_args``."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from cgptc.frontend.gpt_config import Activation, GptConfig, Head
from cgptc.frontend.gpt_config_json import from_huggingface
from cgptc.ir.diagnostics import CompileError, Warnings


class ConfigForm(enum.Enum):
    """Who wrote a configuration."""

    OWN = "cgptc's"
    HUGGINGFACE = "Hugging Face's"
    NANOGPT = "nanoGPT's"


@dataclass(frozen=True)
class FoundConfig:
    """A configuration and the form it had. nanoGPT's form does not say the head: the weights do."""

    config: GptConfig
    form: ConfigForm


_OWN_EXAMPLE = '{"vocabulary": …, "positions": …, "layers": …, "heads": …, "width": …, "ffn_width": …, "activation": "gelu"}'

_NANOGPT_SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")
_NANOGPT_INERT = frozenset([
    "always_save_checkpoint", "backend", "batch_size", "beta1", "beta2", "compile", "dataset", "decay_lr", "device", "dropout", "dtype",
    "eval_interval", "eval_iters", "eval_only", "grad_clip", "gradient_accumulation_steps", "init_from", "learning_rate", "log_interval",
    "lr_decay_iters", "max_iters", "min_lr", "out_dir", "seed", "wandb_log", "wandb_project", "wandb_run_name", "warmup_iters",
    "weight_decay",
])  # fmt: skip
"""Keys of nanoGPT's training configuration, which do not change the function."""


def read_config(mapping: Mapping[str, object], *, vocabulary: int, ffn_width: int, bias: bool, warnings: Warnings) -> FoundConfig:
    """The configuration that ``mapping`` says.

    nanoGPT's form may leave out ``vocab_size`` and ``bias`` and never says the MLP's width: these come from the weights. Raises
    `CompileError` where the form is known to nobody here, such as another trainer's settings, or a value is bad or unsupported.
    """
    if "model_type" in mapping:
        return FoundConfig(from_huggingface(mapping, warnings), ConfigForm.HUGGINGFACE)
    if "vocabulary" in mapping and "heads" in mapping:
        return FoundConfig(GptConfig.from_mapping(mapping), ConfigForm.OWN)
    if all(key in mapping for key in ("n_layer", "n_head", "n_embd", "block_size")):
        return FoundConfig(_from_nanogpt(mapping, vocabulary, ffn_width, bias, warnings), ConfigForm.NANOGPT)
    keys = ", ".join(repr(str(key)[:40]) for key, _ in zip(mapping, range(6), strict=False))
    raise CompileError(
        "unknown-config",
        f"the configuration beside the weights is of no known form: it has {keys}",
        fix=f"say the shape with --preset NAME or --config config.json, in Hugging Face's form or cgptc's: {_OWN_EXAMPLE}",
    )


def _from_nanogpt(mapping: Mapping[str, object], vocabulary: int, ffn_width: int, bias: bool, warnings: Warnings) -> GptConfig:
    known = {*_NANOGPT_SHAPE, *_NANOGPT_INERT, "activation"}
    for key, value in mapping.items():
        if key in known:
            continue
        if value is not None and value is not False:
            raise CompileError(
                "unsupported-config",
                f"unknown key '{key}' in nanoGPT's configuration: it may change what the model computes",
                fix=f"if it does not, give --config in cgptc's form: {_OWN_EXAMPLE}",
            )
        warnings.add("unknown-config-key", f"'{key}' in the configuration is unknown and ignored")
    return GptConfig(
        vocabulary=mapping.get("vocab_size", vocabulary),  # type: ignore[arg-type]  # GptConfig checks every value
        positions=mapping["block_size"],  # type: ignore[arg-type]
        layers=mapping["n_layer"],  # type: ignore[arg-type]
        heads=mapping["n_head"],  # type: ignore[arg-type]
        width=mapping["n_embd"],  # type: ignore[arg-type]
        ffn_width=ffn_width,
        bias=mapping.get("bias", bias),  # type: ignore[arg-type]
        activation=mapping.get("activation", Activation.GELU),  # type: ignore[arg-type]
        head=Head.TIED,
    )
