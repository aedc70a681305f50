"""Small configurations of every transformers family, as their ``config.json`` would be."""

from __future__ import annotations

from typing import Any

_HIDDEN = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_HIDDEN, "num_key_value_heads": 2}
_GPT = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **_GPT},
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": 61,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gptj": {"model_type": "gptj", **_GPT, "rotary_dim": 4, "tie_word_embeddings": False},
    "gpt_neox": {
        "model_type": "gpt_neox",
        **_HIDDEN,
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    },
    "opt": {
        "model_type": "opt",
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 32,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    "llama": {"model_type": "llama", **_GROUPED, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", **_GROUPED, "sliding_window": 4, "head_dim": 8},
    "qwen2": {"model_type": "qwen2", **_GROUPED, "use_sliding_window": False, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    "qwen3": {
        "model_type": "qwen3",
        **_GROUPED,
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "bert": {"model_type": "bert", **{key: value for key, value in _HIDDEN.items() if "os_token" not in key}, "type_vocab_size": 2},
}

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
}
