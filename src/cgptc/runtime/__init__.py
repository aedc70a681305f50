"""Engines, sampler and tokenizer: what runs an artifact."""
