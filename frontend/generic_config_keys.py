"""Keys that transformers, 4 or 5, writes into the configuration of any model (``config.to_dict()``), and that change nothing it computes.

Dropout aside, which is a family's own: bookkeeping, element types, special tokens, labels, what a forward pass returns, and the defaults of
generation. Three that could change it have one harmless value each.
"""

from __future__ import annotations

GENERIC_KEYS = frozenset([
    "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "chunk_size_feed_forward", "cls_token_id", "cross_attention_hidden_size", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
    "id2label", "initializer_range", "label2id", "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
    "pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "unk_token_id",
    "use_bfloat16", "use_cache",
])  # fmt: skip

GPT2_KEYS = frozenset([
    "attn_pdrop", "embd_pdrop", "n_ctx", "output_past", "reorder_and_upcast_attn", "resid_pdrop", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
])  # fmt: skip
"""The same of GPT-2 and what descends from it: dropout, heads for classes, upcasts (attention's softmax is in at least float32 anyway)."""

HARMLESS: dict[str, tuple[object, ...]] = {
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False, None),
}
"""The values of keys that could change what a model computes with which they do not."""
