"""Transformers modules with parameters on the meta device, behind a plain forward of tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgptc.frontend.hf_config import Family, architecture_of, checked
from cgptc.ir.diagnostics import CompileError, UsageError, Warnings

ROOT = "model"
"""The wrapper's attribute that holds the transformers module."""


class CausalModel(nn.Module):
    """``(input_ids, attention_mask)``, both int64 [batch, seq], to logits or hidden states.

    Positions count real tokens, as transformers' own generation has them, so that a left-padded row equals the same row alone.
    """

    def __init__(self, model: nn.Module, takes_positions: bool, output: str) -> None:
        super().__init__()
        self.model = model
        self.takes_positions = takes_positions
        self.output = output

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = {"position_ids": (attention_mask.long().cumsum(-1) - 1).clamp(min=0)} if self.takes_positions else {}
        result: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **positions)[self.output]
        return result


class Encoder(nn.Module):
    """``(input_ids, attention_mask, token_type_ids)``, all int64 [batch, seq], to the outputs by name."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return tuple(result[name] for name in self.outputs)


_OUTPUTS = {
    "causal": ("logits",),
    "body": ("last_hidden_state",),
    "logits": ("logits",),
    "encoder": ("last_hidden_state", "pooler_output"),
    "span": ("start_logits", "end_logits"),
    "pretraining": ("prediction_logits", "seq_relationship_logits"),
}


@dataclass(frozen=True)
class HfModule:
    """A family's module, wrapped, in evaluation mode, and what its configuration says."""

    module: nn.Module
    class_name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    is_causal: bool
    vocabulary: int
    positions: int | None
    layer_count: int
    parameter_count: int


def build_module(config: Mapping[str, object], family: Family, warnings: Warnings, dtype: torch.dtype = torch.float32) -> HfModule:
    """The module that a checked configuration describes: parameters of ``dtype`` on the meta device, buffers computed.

    Takes neither memory nor time for weights. Raises `CompileError` for configurations that the family's class refuses, and
    `UsageError` where transformers is not installed.
    """
    architecture = architecture_of(config, family)
    values = checked(config, family, warnings)
    try:
        import transformers
    except ImportError as error:
        raise UsageError("missing-extra", f"{architecture} is read through transformers", fix="pip install 'cgptc[hf]'") from error
    kind = family.classes[architecture]
    try:
        settings = getattr(transformers, family.config_class).from_dict({**values, "architectures": [architecture]})
        with parameters_on_meta(dtype), _no_initial_values():
            model = getattr(transformers, architecture)(settings)
        model.tie_weights()
    except Exception as error:  # transformers checks what it can with errors of many types
        text = str(error).strip().splitlines()
        raise CompileError(
            "bad-config", f"transformers refuses this configuration of {architecture}: {text[0] if text else type(error).__name__}"
        ) from error
    model.eval()
    outputs = _OUTPUTS[kind]
    if kind == "encoder" and model.pooler is None:
        outputs = outputs[:1]
    is_token_model = kind in ("causal", "body")
    module = CausalModel(model, family.takes_positions, outputs[0]) if is_token_model else Encoder(model, outputs)
    module.eval()
    inputs = ("input_ids", "attention_mask") if is_token_model else ("input_ids", "attention_mask", "token_type_ids")
    return HfModule(
        module,
        architecture,
        inputs,
        outputs,
        kind == "causal",
        settings.vocab_size,
        _positions(settings, family),
        settings.num_hidden_layers,
        sum(math.prod(parameter.shape) for parameter in model.parameters()),
    )


def _positions(settings: Any, family: Family) -> int | None:
    limit = getattr(settings, family.positions, None)
    return limit if isinstance(limit, int) else None


def _no_initial_values() -> contextlib.AbstractContextManager[None]:
    """Transformers' own switch for modules whose weights come from elsewhere; meta parameters take values in no time, but not in none."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # before transformers 5
        from transformers.modeling_utils import no_init_weights
    context: contextlib.AbstractContextManager[None] = no_init_weights()
    return context


@contextlib.contextmanager
def parameters_on_meta(dtype: torch.dtype) -> Iterator[None]:
    """Modules built meanwhile have parameters of shape only and buffers with content; new tensors are of ``dtype`` by default.

    Each parameter moves as soon as it is registered: its memory was asked for and never touched, and its initialisation is skipped.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    before = torch.get_default_dtype()
    nn.Module.register_parameter = register_on_meta
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        nn.Module.register_parameter = register
