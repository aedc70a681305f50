"""Tells a GPT from the names and shapes of its tensors, and where each of its parameters is found.

Known namings: Hugging Face's GPT-2 (with or without ``transformer.``; linear weights [in, out]), nanoGPT's (the same names, linear
weights [out, in]) and cgptc's own, each behind any prefix that wrappers add (``_orig_mod.``, ``module.``). What names and shapes
cannot say, such as the number of heads, comes from a configuration or from a preset of exactly this shape; otherwise it is asked
for, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cgptc.frontend.config_forms import ConfigForm, read_config
from cgptc.frontend.gpt_config import Activation, AttentionScale, GptConfig, Head
from cgptc.frontend.hf_config import OWN_CLASS
from cgptc.frontend.presets import PRESETS, Preset
from cgptc.ir.diagnostics import CompileError, Warnings
from cgptc.ir.weights import Weight

HEAD_NAME = "lm_head.weight"

_NANOGPT_VOCABULARY = 50304
"""GPT-2's 50257 rounded up to a multiple of 64, nanoGPT's own default."""

_BLOCK = re.compile(r"h\.(0|[1-9][0-9]{0,5})\.(.+)")
_LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
_BUFFER_RANKS = {"attn.bias": 4, "attn.masked_bias": 0}
"""Causal masks that older files keep among the weights; they are no parameters."""


@dataclass(frozen=True)
class Source:
    """Where a parameter is: a tensor's name, and whether it holds the transpose."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Recognised:
    """A GPT and the source of each of its parameters, by the names of `GptConfig.parameters`. ``naming`` is for people."""

    config: GptConfig
    sources: dict[str, Source]
    naming: str


@dataclass(frozen=True)
class _Found:
    """What names and shapes alone say."""

    prefix: str  # before "wte.weight"
    outer: str  # before "lm_head.weight"
    transposed: bool  # linear weights are [out, in]
    own_head: bool  # lm_head.weight is a tensor of its own
    shape: GptConfig  # heads and switches are place-holders

    @property
    def naming(self) -> str:
        return "nanoGPT naming" if self.transposed else "GPT-2 naming"


def recognise(
    tensors: Mapping[str, Weight],
    *,
    config: Mapping[str, object] | None = None,
    preset: Preset | None = None,
    file: str = "",
    warnings: Warnings | None = None,
) -> Recognised:
    """The GPT whose weights ``tensors`` are; tied names share one equal reference.

    ``config`` is what was found or given beside the weights in any form of `config_forms`; ``preset``, the user's word, goes before
    it. Raises `CompileError`: ``unknown-architecture`` where the names are no GPT's, ``ambiguous-architecture`` where something that
    decides the result is not known, ``config-mismatch`` where configuration and weights disagree.
    """
    warnings = Warnings() if warnings is None else warnings
    try:
        found = _find(tensors)
        chosen = _choose(found, config, preset, warnings)
        _require_agreement(found, chosen)
        sources = dict(_sources(tensors, found, chosen))
        _refuse_rest(tensors, found, sources, chosen)
    except CompileError as error:
        error.file = error.file or file
        raise
    return Recognised(chosen, sources, found.naming)


def _find(tensors: Mapping[str, Weight]) -> _Found:
    anchors = [name for name in tensors if name == "wte.weight" or name.endswith(".wte.weight")]
    if len(anchors) != 1:
        raise _unknown(tensors, f"{len(anchors) or 'none'} of them named 'wte.weight'")
    prefix = anchors[0].removesuffix("wte.weight")
    outer = prefix.removesuffix("transformer.")
    layers = {int(match[1]) for name in tensors if name.startswith(prefix) and (match := _BLOCK.fullmatch(name[len(prefix) :]))}
    first = f"{prefix}h.0."
    needed = {key: tensors.get(prefix + key) for key in ("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight")}
    if missing := [prefix + key for key, weight in needed.items() if weight is None]:
        raise _unknown(tensors, "none of them named " + " or ".join(map(repr, missing)))
    token, position, fused, widening = (weight.shape for weight in needed.values() if weight is not None)
    if not all(len(shape) == 2 for shape in (token, position, fused, widening)):
        raise _unknown(tensors, "embeddings or linear weights are no matrices")
    vocabulary, width = token
    if fused not in ((width, 3 * width), (3 * width, width)):
        raise _unknown(tensors, f"'{first}attn.c_attn.weight' is of shape {list(fused)}, expected {[width, 3 * width]}, either way round")
    transposed = fused[0] != width
    head = tensors.get(outer + HEAD_NAME)
    shape = GptConfig(
        vocabulary=vocabulary,
        positions=position[0],
        layers=max(layers) + 1,
        heads=1,
        width=width,
        ffn_width=widening[0] if transposed else widening[1],
        bias=f"{first}ln_1.bias" in tensors,
    )
    return _Found(prefix, outer, transposed, head is not None and head != tensors[anchors[0]], shape)


def _choose(found: _Found, mapping: Mapping[str, object] | None, preset: Preset | None, warnings: Warnings) -> GptConfig:
    if preset is not None:
        return replace(preset.config, head=Head.SEPARATE) if found.own_head else preset.config
    if not mapping:
        return _by_shape(found, warnings)
    shape = found.shape
    read = read_config(mapping, vocabulary=shape.vocabulary, ffn_width=shape.ffn_width, bias=shape.bias, warnings=warnings)
    match read.form:
        case ConfigForm.HUGGINGFACE:
            return read.config
        case ConfigForm.OWN:
            if found.own_head and read.config.head is not Head.SEPARATE:
                raise CompileError(
                    "config-mismatch",
                    f"the configuration says head '{read.config.head}', and '{found.outer}{HEAD_NAME}' is a tensor of its own",
                    fix='say "head": "separate", or remove the tensor',
                )
            return read.config
        case ConfigForm.NANOGPT:
            if not found.transposed and "activation" not in mapping:
                raise _ambiguous(found, "the activation is not known: the configuration is nanoGPT's, the weights are not")
            return replace(read.config, head=Head.SEPARATE) if found.own_head else read.config


def _by_shape(found: _Found, warnings: Warnings) -> GptConfig:
    """The configuration of the one preset that has this shape."""
    candidates = [entry for entry in PRESETS.values() if _fits(found, entry.config)]
    same_head = [entry for entry in candidates if (entry.config.head is Head.SEPARATE) == found.own_head]
    candidates = same_head or candidates
    if not candidates:
        raise _ambiguous(found, f"the number of heads is not known: width {found.shape.width} tells none, and no preset has this shape")
    if found.transposed:
        if found.own_head:
            raise _ambiguous(found, "the activation is not known: nanoGPT shares the head's weight with the embedding, this file does not")
        if len({entry.config.heads for entry in candidates}) > 1:
            raise _ambiguous(found, "the number of heads is not known: presets of this shape differ in it", candidates)
        name, heads = candidates[0].name, candidates[0].config.heads
        warnings.add(
            "assumed-architecture",
            f"{heads} heads as preset '{name}', exact GELU as nanoGPT (its first versions: gelu_tanh); --config can say otherwise",
        )
        return replace(found.shape, heads=heads)
    if len(candidates) > 1:
        raise _ambiguous(found, "names and shapes fit several presets", candidates)
    warnings.add(
        "assumed-architecture", f"taken for preset '{candidates[0].name}', whose names and shapes it has; --config can say otherwise"
    )
    return replace(candidates[0].config, head=Head.SEPARATE if found.own_head else Head.TIED)


def _fits(found: _Found, config: GptConfig) -> bool:
    plain = replace(
        config,
        heads=1,
        activation=Activation.GELU,
        head=Head.TIED,
        attention_scale=AttentionScale.SQRT,
        attention_scale_by_layer=False,
        embeddings_scale=1.0,
        logits_scale=1.0,
    )
    shape = found.shape
    if found.transposed:
        plain = replace(plain, bias=shape.bias)
        if shape.vocabulary == _NANOGPT_VOCABULARY and config.vocabulary == 50257:
            plain = replace(plain, vocabulary=_NANOGPT_VOCABULARY)
    return plain == shape


def _require_agreement(found: _Found, config: GptConfig) -> None:
    differences = [
        f"'{name}' {said}, the weights have {has}"
        for name in ("vocabulary", "positions", "layers", "width", "ffn_width", "bias")
        if (said := getattr(config, name)) != (has := getattr(found.shape, name))
    ]
    if differences:
        raise CompileError(
            "config-mismatch",
            "the configuration says " + "; ".join(differences),
            fix="give the configuration that belongs to these weights: --config config.json, or --preset",
        )


def _sources(tensors: Mapping[str, Weight], found: _Found, config: GptConfig) -> Iterator[tuple[str, Source]]:
    """Each parameter's source, its shape and element type checked."""
    for name, shape in config.parameters():
        path = found.outer + name if name == HEAD_NAME else found.prefix + name.removeprefix("transformer.")
        transposed = found.transposed and _LINEAR.search(name) is not None
        expected = shape[::-1] if transposed else shape
        weight = tensors.get(path)
        if weight is None or weight.shape != expected:
            came = "missing" if weight is None else f"of shape {list(weight.shape)}"
            raise _unknown(tensors, f"'{path}' is {came}, expected {list(expected)}")
        if not weight.dtype.is_float:
            raise CompileError("unsupported-tensor", f"'{path}' is {weight.dtype}", fix="save the weights as floats")
        yield name, Source(path, transposed)


def _refuse_rest(tensors: Mapping[str, Weight], found: _Found, sources: Mapping[str, Source], config: GptConfig) -> None:
    used = {source.name for source in sources.values()}
    rest = []
    for name, weight in tensors.items():
        if name in used or (name == found.outer + HEAD_NAME and config.head is not Head.SEPARATE):
            continue
        match = _BLOCK.fullmatch(name.removeprefix(found.prefix)) if name.startswith(found.prefix) else None
        if match and _BUFFER_RANKS.get(match[2]) == len(weight.shape) and int(match[1]) < config.layers:
            continue
        rest.append(name)
    if rest:
        raise _unknown(tensors, f"no GPT-2 has {_shown(rest)}")


def _unknown(tensors: Mapping[str, Weight], why: str) -> CompileError:
    return CompileError(
        "unknown-architecture",
        f"a state dict of unknown architecture, {len(tensors)} tensors ({_shown(tensors)}): {why}",
        fix=f"give the code of the model: {OWN_CLASS}",
    )


def _ambiguous(found: _Found, what: str, candidates: list[Preset] | None = None) -> CompileError:
    shape = found.shape
    presets = " or ".join(f"--preset {entry.name}" for entry in candidates or []) or "--preset NAME"
    return CompileError(
        "ambiguous-architecture",
        f"{found.naming}, {shape.layers} layers of width {shape.width}: {what}",
        fix=f"say it with --config config.json or {presets}",
    )


def _shown(names: Mapping[str, Weight] | list[str]) -> str:
    first = [repr(name if len(name) <= 60 else name[:57] + "...") for name, _ in zip(names, range(3), strict=False)]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
