"""``config.json`` of the transformers families, checked as data before any class sees it.

Every key is known to change the computation and then validated here, or known to be inert, or reported: a warning for null and false,
an error for anything else. Nothing is looked up, and no code of the folder is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cgptc.frontend.generic_config_keys import GENERIC_KEYS, GPT2_KEYS, HARMLESS
from cgptc.ir.diagnostics import CompileError, Warnings

OWN_CLASS = "cgptc compile package.module:callable --weights model.pt"
"""The command for a model of any other class."""

Check: TypeAlias = Callable[[object], str]
"""What is expected of a value, or "" where it fits."""

MOST = 1 << 24
"""Largest count that a configuration may name."""


def count(value: object) -> str:
    return "" if type(value) is int and 1 <= value <= MOST else f"an integer from 1 to {MOST}"


def number(value: object) -> str:
    return "" if type(value) in (int, float) and math.isfinite(value) else "a finite number"  # type: ignore[arg-type]


def flag(value: object) -> str:
    return "" if type(value) is bool else "true or false"


def optional(check: Check) -> Check:
    return lambda value: "" if value is None else (check(value) and f"null or {check(value)}")


def choice(*values: object) -> Check:
    texts = ", ".join(repr(value) for value in values)
    return lambda value: "" if any(type(value) is type(known) and value == known for known in values) else f"one of {texts}"


def index(value: object) -> str:
    return "" if type(value) is int and 0 <= value <= MOST else f"an integer from 0 to {MOST}"


def _strings(*values: str) -> Check:
    def check(value: object) -> str:
        fits = isinstance(value, list) and len(value) <= MOST and all(item in values for item in value)
        return "" if fits else f"a list of {', '.join(values)}"

    return check


def _attention_types(value: object) -> str:
    """GPT-Neo's ``[[["global", "local"], 12]]``."""
    fits = isinstance(value, list) and all(
        isinstance(item, list) and len(item) == 2 and not _strings("global", "local")(item[0]) and not count(item[1]) for item in value
    )
    return "" if fits else 'pairs like [["global", "local"], 6]'


_ROPE_NUMBERS = (
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary scalings whose frequencies do not depend on the length at run time."""


def rope(value: object) -> str:
    """A rotary scaling: ``rope_type`` (``type`` in older files) and its numbers."""
    if not isinstance(value, dict):
        return "an object"
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in ROPE_TYPES:
        return f"of one of the types {', '.join(ROPE_TYPES)}, not {kind!r}, whose frequencies change with the length"
    for key, item in value.items():
        if key in ("rope_type", "type"):
            continue
        if key == "truncate":
            problem = flag(item)
        elif key in _ROPE_NUMBERS:
            problem = optional(number)(item)
        else:
            return f"without the unknown key '{key}'"
        if problem:
            return f"with '{key}' as {problem}"
    return ""


ACTIVATION = choice(
    "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "relu2", "silu", "swish", "tanh", "mish", "sigmoid"
)

INERT = GENERIC_KEYS.union(
    GPT2_KEYS,
    {
        "attention_dropout",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "dropout",
        "embed_dropout",
        "hidden_dropout",
        "hidden_dropout_prob",
        "init_std",
        "layerdrop",
        "pretraining_tp",
        "resid_dropout",
    },
)
"""Keys that do not change the function computed in evaluation: dropout, tokens, dtypes, generation defaults, bookkeeping, and upcasts
(attention's softmax is in at least float32 anyway)."""

_LABELS: dict[str, Check] = {
    "id2label": lambda value: "" if isinstance(value, dict) and len(value) <= MOST else "an object",
    "label2id": lambda value: "" if isinstance(value, dict) and len(value) <= MOST else "an object",
    "num_labels": count,
}
_SHARED: dict[str, Check] = {
    "is_encoder_decoder": choice(False),
    "pad_token_id": optional(index),
    "tie_word_embeddings": flag,
    "vocab_size": count,
    **_LABELS,
}
_GPT_NAMES: dict[str, Check] = {
    "activation_function": ACTIVATION,
    "layer_norm_epsilon": number,
    "n_embd": count,
    "n_head": count,
    "n_inner": optional(count),
    "n_layer": count,
    "n_positions": count,
}
_HIDDEN_NAMES: dict[str, Check] = {
    "hidden_size": count,
    "intermediate_size": count,
    "max_position_embeddings": count,
    "num_attention_heads": count,
    "num_hidden_layers": count,
}
_ROTARY: dict[str, Check] = {"rope_parameters": optional(rope), "rope_scaling": optional(rope), "rope_theta": number}
_LLAMA: dict[str, Check] = {
    **_SHARED,
    **_HIDDEN_NAMES,
    **_ROTARY,
    "head_dim": optional(count),
    "hidden_act": ACTIVATION,
    "num_key_value_heads": optional(count),
    "rms_norm_eps": number,
}
_WINDOWED: dict[str, Check] = {
    "layer_types": optional(_strings("full_attention", "sliding_attention")),
    "max_window_layers": index,
    "sliding_window": optional(count),
    "use_sliding_window": flag,
}


@dataclass(frozen=True)
class Family:
    """A model type: its configuration class, its model classes and what they give, and the keys that change what they compute."""

    model_type: str
    config_class: str
    classes: Mapping[str, str]
    keys: Mapping[str, Check]
    positions: str = "max_position_embeddings"
    takes_positions: bool = True  # a forward parameter ``position_ids``


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "gpt2",
            "GPT2Config",
            {"GPT2LMHeadModel": "causal", "GPT2Model": "body"},
            {
                **_SHARED,
                **_GPT_NAMES,
                "add_cross_attention": choice(False),
                "is_decoder": flag,
                "scale_attn_by_inverse_layer_idx": flag,
                "scale_attn_weights": flag,
            },
            positions="n_positions",
        ),
        Family(
            "gpt_neo",
            "GPTNeoConfig",
            {"GPTNeoForCausalLM": "causal", "GPTNeoModel": "body"},
            {
                **_SHARED,
                "activation_function": ACTIVATION,
                "attention_layers": _strings("global", "local"),
                "attention_types": _attention_types,
                "hidden_size": count,
                "intermediate_size": optional(count),
                "layer_norm_epsilon": number,
                "max_position_embeddings": count,
                "num_heads": count,
                "num_layers": count,
                "window_size": count,
            },
        ),
        Family(
            "gptj",
            "GPTJConfig",
            {"GPTJForCausalLM": "causal", "GPTJModel": "body"},
            {**_SHARED, **_GPT_NAMES, "rotary_dim": optional(count), "rotary": choice(True), "scale_attn_weights": choice(True)},
            positions="n_positions",
        ),
        Family(
            "gpt_neox",
            "GPTNeoXConfig",
            {"GPTNeoXForCausalLM": "causal", "GPTNeoXModel": "body"},
            {
                **_SHARED,
                **_HIDDEN_NAMES,
                **_ROTARY,
                "attention_bias": flag,
                "hidden_act": ACTIVATION,
                "is_decoder": flag,
                "layer_norm_eps": number,
                "partial_rotary_factor": number,
                "rotary_emb_base": number,
                "rotary_pct": number,
                "use_parallel_residual": flag,
            },
        ),
        Family(
            "opt",
            "OPTConfig",
            {"OPTForCausalLM": "causal", "OPTModel": "body"},
            {
                **_SHARED,
                "_remove_final_layer_norm": flag,
                "activation_function": ACTIVATION,
                "do_layer_norm_before": flag,
                "enable_bias": flag,
                "ffn_dim": count,
                "hidden_size": count,
                "layer_norm_elementwise_affine": flag,
                "max_position_embeddings": count,
                "num_attention_heads": count,
                "num_hidden_layers": count,
                "word_embed_proj_dim": count,
            },
            takes_positions=False,
        ),
        Family(
            "llama",
            "LlamaConfig",
            {"LlamaForCausalLM": "causal", "LlamaModel": "body"},
            {**_LLAMA, "attention_bias": flag, "mlp_bias": flag},
        ),
        Family(
            "mistral",
            "MistralConfig",
            {"MistralForCausalLM": "causal", "MistralModel": "body"},
            {**_LLAMA, "sliding_window": optional(count)},
        ),
        Family("qwen2", "Qwen2Config", {"Qwen2ForCausalLM": "causal", "Qwen2Model": "body"}, {**_LLAMA, **_WINDOWED}),
        Family(
            "qwen3",
            "Qwen3Config",
            {"Qwen3ForCausalLM": "causal", "Qwen3Model": "body"},
            {**_LLAMA, **_WINDOWED, "attention_bias": flag},
        ),
        Family(
            "bert",
            "BertConfig",
            {
                "BertModel": "encoder",
                "BertForMaskedLM": "logits",
                "BertForNextSentencePrediction": "logits",
                "BertForPreTraining": "pretraining",
                "BertForQuestionAnswering": "span",
                "BertForSequenceClassification": "logits",
                "BertForTokenClassification": "logits",
            },
            {
                **_SHARED,
                **_HIDDEN_NAMES,
                "add_cross_attention": choice(False),
                "hidden_act": ACTIVATION,
                "is_decoder": choice(False),
                "layer_norm_eps": number,
                "position_embedding_type": choice("absolute"),
                "type_vocab_size": count,
            },
            takes_positions=False,
        ),
    )
}
"""Families by ``model_type``. ``classes``: "causal" and "logits" give logits, "body" hidden states, "encoder" those and a pooled one,
"span" the logits of starts and ends, "pretraining" those of tokens and of the next sentence."""


def family_of(config: Mapping[str, object]) -> Family:
    """The family of a configuration. Raises `CompileError` for a model type that is none."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CompileError("unsupported-config", f"'model_type' is {name!r}", fix=f"supported: {known}, btlm; any other: {OWN_CLASS}")
    return FAMILIES[name]


def architecture_of(config: Mapping[str, object], family: Family) -> str:
    """The model class that ``architectures`` names; the first of the family where it names none."""
    named = config.get("architectures")
    names = [next(iter(family.classes))] if named is None else named
    if not isinstance(names, list) or len(names) != 1 or names[0] not in family.classes:
        raise CompileError("unsupported-config", f"'architectures' is {named!r}", fix="supported: " + ", ".join(family.classes))
    return str(names[0])


def checked(config: Mapping[str, object], family: Family, warnings: Warnings) -> dict[str, object]:
    """The keys that change the computation, each valid. Raises `CompileError` naming the first that is not."""
    kept: dict[str, object] = {}
    for key, value in config.items():
        check = family.keys.get(key)
        if check is not None:
            problem = check(value)
            if problem:
                raise CompileError("unsupported-config", f"'{key}' is {value!r}, expected {problem}", fix="correct config.json")
            kept[key] = value
        elif key not in INERT and value not in HARMLESS.get(key, ()):
            if value is not None and value is not False:
                raise CompileError(
                    "unsupported-config",
                    f"unknown key '{key}' in the configuration: it may change what the model computes",
                    fix=f"remove it from config.json if it does not belong to a {family.model_type} model",
                )
            warnings.add("unknown-config-key", f"'{key}' in the configuration is unknown and ignored")
    return kept
