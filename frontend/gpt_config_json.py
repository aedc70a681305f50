"""Configurations in Hugging Face's form (``config.json``), read as data: ``gpt2``, and ``btlm`` as muP Cerebras-GPT has it.

Every key is known to change the computation and is then validated, or known to be inert, or reported. Nothing is looked up and
no code of the folder is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from cgptc.frontend.generic_config_keys import GENERIC_KEYS, GPT2_KEYS, HARMLESS
from cgptc.frontend.gpt_config import Activation, AttentionScale, GptConfig, Head
from cgptc.ir.diagnostics import CompileError, Warnings

ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
"""Hugging Face's ``activation_function`` names."""

_DEFAULTS: dict[str, object] = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_embd": 768,
    "n_head": 12,
    "n_inner": None,
    "n_layer": 12,
    "n_positions": 1024,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "vocab_size": 50257,
}
_MUP_DEFAULTS: dict[str, object] = {
    "mup_embeddings_scale": 1.0,
    "mup_output_alpha": 1.0,
    "mup_scale_qk_dot_by_d": False,
    "mup_width_scale": 1.0,
}
_FIXED: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False, None),
    "alibi_scaling": (None,),
    "is_decoder": (True, False, None),
    "position_embedding_type": ("learned", "absolute", None),
    **HARMLESS,
}
"""Keys that change the computation and of which these values alone are supported."""

_INERT = GENERIC_KEYS | GPT2_KEYS | {"auto_map"}
"""Keys that do not change the function computed in evaluation: dropout, tokens, dtypes, bookkeeping, upcasts (attention's
softmax is in at least float32 anyway)."""

_WITH_HEAD = ("GPT2LMHeadModel", "BTLMLMHeadModel")
_WITHOUT_HEAD = ("GPT2Model", "BTLMModel")


def from_huggingface(mapping: Mapping[str, object], warnings: Warnings | None = None) -> GptConfig:
    """The configuration that a ``config.json`` of ``model_type`` gpt2 or btlm describes.

    A body without a head (``GPT2Model``) gives `Head.NONE`. Unknown keys that are null or false warn; with any other value they,
    unsupported values and other architectures raise `CompileError`.
    """
    model_type = mapping.get("model_type")
    if model_type not in ("gpt2", "btlm"):
        raise CompileError(
            "bad-config",
            f"'model_type' is {model_type!r}, expected 'gpt2' or 'btlm'",
            fix="other families are read through the extra 'hf': pip install 'cgptc[hf]'",
        )
    known = _DEFAULTS | (_MUP_DEFAULTS if model_type == "btlm" else {})
    for key, value in mapping.items():
        if key in _FIXED:
            if value not in _FIXED[key]:
                choices = ", ".join(repr(choice) for choice in _FIXED[key])
                raise CompileError("unsupported-config", f"'{key}' is {value!r}", fix=f"supported: {choices}")
        elif key not in known and key not in _INERT:
            if value is not None and value is not False:
                raise CompileError(
                    "unsupported-config",
                    f"unknown key '{key}' in the configuration: it may change what the model computes",
                    fix=f"remove it from config.json if it does not belong to a {model_type} model",
                )
            if warnings is not None:
                warnings.add("unknown-config-key", f"'{key}' in the configuration is unknown and ignored")
    value_of = {key: mapping.get(key, default) for key, default in known.items()}
    return GptConfig(
        vocabulary=value_of["vocab_size"],  # type: ignore[arg-type]  # GptConfig checks every value
        positions=value_of["n_positions"],  # type: ignore[arg-type]
        layers=value_of["n_layer"],  # type: ignore[arg-type]
        heads=value_of["n_head"],  # type: ignore[arg-type]
        width=value_of["n_embd"],  # type: ignore[arg-type]
        ffn_width=_ffn_width(value_of["n_inner"], value_of["n_embd"]),
        layer_norm_eps=value_of["layer_norm_epsilon"],  # type: ignore[arg-type]
        activation=_activation(value_of["activation_function"]),
        head=_head(mapping.get("architectures"), value_of["tie_word_embeddings"]),
        attention_scale=_attention_scale(value_of["scale_attn_weights"], value_of.get("mup_scale_qk_dot_by_d", False)),
        attention_scale_by_layer=value_of["scale_attn_by_inverse_layer_idx"],  # type: ignore[arg-type]
        embeddings_scale=value_of.get("mup_embeddings_scale", 1.0),  # type: ignore[arg-type]
        logits_scale=_product(value_of.get("mup_output_alpha", 1.0), value_of.get("mup_width_scale", 1.0)),
    )


def to_huggingface(config: GptConfig) -> dict[str, object]:
    """The ``config.json`` of a configuration, or `CompileError` where Hugging Face's form cannot say it (no biases)."""
    if not config.bias:
        raise CompileError(
            "unsupported-config",
            "Hugging Face's GPT-2 configuration cannot say 'bias' false",
            fix="keep the model as a .pt or .safetensors file, which carry cgptc's own configuration",
        )
    mup = config.attention_scale is AttentionScale.HEAD_WIDTH or config.embeddings_scale != 1.0 or config.logits_scale != 1.0
    family = "BTLM" if mup else "GPT2"
    mapping: dict[str, object] = {
        "architectures": [f"{family}Model" if config.head is Head.NONE else f"{family}LMHeadModel"],
        "model_type": "btlm" if mup else "gpt2",
        "vocab_size": config.vocabulary,
        "n_positions": config.positions,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.width,
        "n_inner": config.ffn_width,
        "activation_function": {Activation.GELU_TANH: "gelu_new"}.get(config.activation, str(config.activation)),
        "layer_norm_epsilon": config.layer_norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "scale_attn_weights": config.attention_scale is not AttentionScale.NONE,
        "scale_attn_by_inverse_layer_idx": config.attention_scale_by_layer,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.head is not Head.SEPARATE,
    }
    if mup:
        mapping |= {
            "position_embedding_type": "learned",
            "alibi_scaling": None,
            "mup_embeddings_scale": config.embeddings_scale,
            "mup_output_alpha": 1.0,
            "mup_width_scale": config.logits_scale,
            "mup_scale_qk_dot_by_d": config.attention_scale is AttentionScale.HEAD_WIDTH,
        }
    return mapping


def _ffn_width(inner: object, width: object) -> int:
    if inner is None and type(width) is int:
        return 4 * width
    return inner  # type: ignore[return-value]  # GptConfig checks it


def _activation(name: object) -> Activation:
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    raise CompileError("unsupported-config", f"'activation_function' is {name!r}", fix="supported: " + ", ".join(ACTIVATIONS))


def _head(architectures: object, tied: object) -> Head:
    names = [None] if architectures is None else architectures
    if not isinstance(names, list) or len(names) != 1 or names[0] not in (None, *_WITH_HEAD, *_WITHOUT_HEAD):
        raise CompileError(
            "unsupported-config",
            f"'architectures' is {architectures!r}",
            fix="supported: " + ", ".join(_WITH_HEAD + _WITHOUT_HEAD),
        )
    if type(tied) is not bool:
        raise CompileError("bad-config", f"'tie_word_embeddings' is {tied!r}, expected true or false", fix="correct it")
    if names[0] in _WITHOUT_HEAD:
        return Head.NONE
    return Head.TIED if tied else Head.SEPARATE


def _attention_scale(scaled: object, by_width: object) -> AttentionScale:
    for name, value in (("scale_attn_weights", scaled), ("mup_scale_qk_dot_by_d", by_width)):
        if type(value) is not bool:
            raise CompileError("bad-config", f"'{name}' is {value!r}, expected true or false", fix="correct it")
    if not scaled:
        return AttentionScale.NONE
    return AttentionScale.HEAD_WIDTH if by_width else AttentionScale.SQRT


def _product(alpha: object, width_scale: object) -> float:
    for name, value in (("mup_output_alpha", alpha), ("mup_width_scale", width_scale)):
        if type(value) not in (int, float):
            raise CompileError("bad-config", f"'{name}' is {value!r}, expected a number", fix="correct it")
    return float(alpha) * float(width_scale)  # type: ignore[arg-type]
