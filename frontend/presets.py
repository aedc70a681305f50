"""Model shapes that have a name: the published GPT-2 and Cerebras-GPT sizes, small ones, and the demo model.

Sources: the configurations that OpenAI's GPT-2 and Cerebras's Cerebras-GPT models are published with, and the Cerebras-GPT paper
(Dey et al. 2023) for its muP variants.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cgptc.frontend.gpt_config import Activation, AttentionScale, GptConfig, Head
from cgptc.ir.diagnostics import UsageError

MUP_BASE_WIDTH = 256
"""Width of the model that Cerebras-GPT's muP hyperparameters were tuned on."""


@dataclass(frozen=True)
class Preset:
    """A named shape. ``trained`` says that weights come with cgptc; all others start from random ones."""

    name: str
    config: GptConfig
    note: str
    trained: bool = False


def _gpt2(layers: int, heads: int, width: int) -> GptConfig:
    return GptConfig(50257, 1024, layers, heads, width, 4 * width, activation=Activation.GELU_TANH)


def _cerebras(layers: int, heads: int, width: int) -> GptConfig:
    return GptConfig(50257, 2048, layers, heads, width, 4 * width)


def _mup(config: GptConfig, base_width: int) -> GptConfig:
    """Maximal update parametrisation: scaled embeddings, scores over the head width, logits by base width / width."""
    return replace(
        config,
        attention_scale=AttentionScale.HEAD_WIDTH,
        embeddings_scale=10.0,
        logits_scale=base_width / config.width,
    )


_TINY = GptConfig(512, 128, 2, 4, 64, 256)
_DEMO = GptConfig(2048, 256, 5, 5, 160, 640)
_GPT2 = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
_CEREBRAS = {
    "111m": (10, 12, 768),
    "256m": (14, 17, 1088),
    "590m": (18, 12, 1536),
    "1.3b": (24, 16, 2048),
    "2.7b": (32, 32, 2560),
    "6.7b": (32, 32, 4096),
    "13b": (40, 40, 5120),
}
_CEREBRAS_MUP = ("111m", "256m", "590m", "1.3b", "2.7b")
"""Sizes that were published with maximal update parametrisation as well."""


def _all() -> Iterator[Preset]:
    yield Preset("demo", _DEMO, "small BPE model trained on the King James Bible; its weights come with cgptc", trained=True)
    yield Preset("tiny", _TINY, "Cerebras-GPT's switches at toy size")
    yield Preset("tiny-gpt2", replace(_TINY, activation=Activation.GELU_TANH), "GPT-2's switches at toy size")
    yield Preset("tiny-mup", _mup(_TINY, 32), "muP Cerebras-GPT's switches at toy size")
    yield Preset("tiny-nobias", replace(_TINY, bias=False), "no biases in linear layers and norms")
    yield Preset("tiny-untied", replace(_TINY, head=Head.SEPARATE), "a head with a weight of its own")
    for name, shape in _GPT2.items():
        yield Preset(name, _gpt2(*shape), "OpenAI GPT-2")
    for size, shape in _CEREBRAS.items():
        yield Preset(f"cerebras-gpt-{size}", _cerebras(*shape), "Cerebras-GPT")
        if size in _CEREBRAS_MUP:
            config = _mup(_cerebras(*shape), MUP_BASE_WIDTH)
            yield Preset(f"cerebras-gpt-{size}-mup", config, "Cerebras-GPT, maximal update parametrisation")


PRESETS: dict[str, Preset] = {entry.name: entry for entry in _all()}
"""Every preset by name, in the order that `cgptc list presets` shows."""


def preset(name: str) -> Preset:
    """The preset of that name; `UsageError` with the nearest names for any other."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(repr(entry) for entry in near)}?" if near else "see: cgptc list presets"
    raise UsageError("unknown-preset", f"there is no preset '{name}'", fix=fix)
