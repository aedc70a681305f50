"""The shape of a GPT-2-family model, and the names and shapes of its parameters.

Plain data: no torch. `cgptc.frontend.gpt` builds the module, `cgptc.frontend.presets` names the published shapes,
`cgptc.frontend.gpt_config_json` reads and writes the configurations that others write.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cgptc.ir.diagnostics import CompileError

MAX_COUNT = 1 << 24
"""Bound of every count in a configuration; the product of any two stays far inside what a file can hold."""

MAX_LAYERS = 4096
"""Bound of the layer count, so that a lying configuration cannot ask for a million modules."""


class Activation(enum.StrEnum):
    """What stands between the two linear layers of a block."""

    GELU = "gelu"  # exact: x * Phi(x), by erf
    GELU_TANH = "gelu_tanh"  # the tanh approximation that GPT-2 uses
    RELU = "relu"
    SILU = "silu"


class AttentionScale(enum.StrEnum):
    """What the scores ``q @ k`` are multiplied by."""

    SQRT = "sqrt"  # 1 / sqrt(head width)
    HEAD_WIDTH = "head_width"  # 1 / head width: maximal update parametrisation
    NONE = "none"  # 1


class Head(enum.StrEnum):
    """What turns the last hidden state into the output."""

    TIED = "tied"  # the token embedding's own weight
    SEPARATE = "separate"  # a weight of its own, ``lm_head.weight``
    NONE = "none"  # nothing: the hidden state is the output


@dataclass(frozen=True)
class GptConfig:
    """A decoder of the GPT-2 family: learned positions, pre-norm blocks, fused QKV, full causal attention.

    Counts are positive integers; ``width`` is a multiple of ``heads``. ``bias`` switches the bias of every linear layer and
    norm. ``attention_scale_by_layer`` divides the scores of layer i by i + 1 as well. ``embeddings_scale`` multiplies the sum
    of token and position embedding, ``logits_scale`` the logits. Raises `CompileError` (``bad-config``) on any other value.
    """

    vocabulary: int
    positions: int
    layers: int
    heads: int
    width: int
    ffn_width: int
    layer_norm_eps: float = 1e-5
    activation: Activation = Activation.GELU
    head: Head = Head.TIED
    bias: bool = True
    attention_scale: AttentionScale = AttentionScale.SQRT
    attention_scale_by_layer: bool = False
    embeddings_scale: float = 1.0
    logits_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "positions", "layers", "heads", "width", "ffn_width"):
            value = getattr(self, name)
            bound = MAX_LAYERS if name == "layers" else MAX_COUNT
            if type(value) is not int or not 1 <= value <= bound:
                raise _refuse(name, value, f"an integer from 1 to {bound}")
        if self.width % self.heads:
            raise CompileError(
                "bad-config",
                f"'width' {self.width} is not a multiple of 'heads' {self.heads}",
                fix="every head takes width / heads features: change one of the two",
            )
        for name in ("layer_norm_eps", "embeddings_scale", "logits_scale"):
            value = getattr(self, name)
            if type(value) is int and abs(value) <= MAX_COUNT:
                object.__setattr__(self, name, value := float(value))
            if type(value) is not float or not math.isfinite(value) or value <= 0:
                raise _refuse(name, value, "a positive finite number")
        for name in ("bias", "attention_scale_by_layer"):
            if type(value := getattr(self, name)) is not bool:
                raise _refuse(name, value, "true or false")
        for name, choices in (("activation", Activation), ("head", Head), ("attention_scale", AttentionScale)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in set(choices):
                raise _refuse(name, value, "one of " + ", ".join(f"'{choice}'" for choice in choices))
            object.__setattr__(self, name, choices(value))

    @property
    def head_width(self) -> int:
        """Features per attention head."""
        return self.width // self.heads

    @property
    def parameter_count(self) -> int:
        """Numbers that the model's file holds; a tied head counts once."""
        return sum(math.prod(shape) for _, shape in self.parameters())

    def scale_of_layer(self, layer: int) -> float:
        """The factor of the attention scores in layer ``layer``, from 0."""
        match self.attention_scale:
            case AttentionScale.SQRT:
                scale = 1.0 / math.sqrt(self.head_width)
            case AttentionScale.HEAD_WIDTH:
                scale = 1.0 / self.head_width
            case AttentionScale.NONE:
                scale = 1.0
        return scale / (layer + 1) if self.attention_scale_by_layer else scale

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter, in the module's order: GPT-2's names, linear weights as [in, out]."""
        yield "transformer.wte.weight", (self.vocabulary, self.width)
        yield "transformer.wpe.weight", (self.positions, self.width)
        for layer in range(self.layers):
            block = f"transformer.h.{layer}"
            yield from self._norm(f"{block}.ln_1")
            yield from self._linear(f"{block}.attn.c_attn", self.width, 3 * self.width)
            yield from self._linear(f"{block}.attn.c_proj", self.width, self.width)
            yield from self._norm(f"{block}.ln_2")
            yield from self._linear(f"{block}.mlp.c_fc", self.width, self.ffn_width)
            yield from self._linear(f"{block}.mlp.c_proj", self.ffn_width, self.width)
        yield from self._norm("transformer.ln_f")
        if self.head is Head.SEPARATE:
            yield "lm_head.weight", (self.vocabulary, self.width)

    def _norm(self, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{path}.weight", (self.width,)
        if self.bias:
            yield f"{path}.bias", (self.width,)

    def _linear(self, path: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{path}.weight", (inputs, outputs)
        if self.bias:
            yield f"{path}.bias", (outputs,)

    def to_mapping(self) -> dict[str, int | float | bool | str]:
        """The fields as plain data, in order; `from_mapping` takes it back."""
        return {
            field.name: str(value) if isinstance(value := getattr(self, field.name), enum.Enum) else value
            for field in dataclasses.fields(self)
        }

    @staticmethod
    def from_mapping(mapping: Mapping[str, object]) -> GptConfig:
        """A configuration from its own plain form. Raises `CompileError` on unknown or missing keys and on bad values."""
        fields = {field.name: field for field in dataclasses.fields(GptConfig)}
        if unknown := [key for key in mapping if key not in fields]:
            raise CompileError(
                "bad-config",
                f"unknown keys {', '.join(repr(str(key)) for key in unknown[:8])} in the model's configuration",
                fix=f"known keys are {', '.join(fields)}",
            )
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in mapping]:
            raise CompileError(
                "bad-config",
                f"the model's configuration lacks {', '.join(map(repr, missing))}",
                fix="add them, or name the shape with --preset",
            )
        return GptConfig(**mapping)  # type: ignore[arg-type]  # __post_init__ checks every value


def _refuse(name: str, value: object, expected: str) -> CompileError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return CompileError("bad-config", f"'{name}' is {shown}, expected {expected}", fix="correct the model's configuration")
