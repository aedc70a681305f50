"""Files by which other runtimes open a causal model's artifact: onnxruntime-genai's, and the configuration that optimum reads."""

from __future__ import annotations

from cgptc.artifact.canonical import Json
from cgptc.frontend.source import TextModel
from cgptc.runtime.interface import IDS, LOGITS, MASK, Interface

GENAI_FILE, CONFIG_FILE, TOKENIZER_CONFIG_FILE = "genai_config.json", "config.json", "tokenizer_config.json"

TOKENIZER_CONFIG: dict[str, Json] = {"tokenizer_class": "PreTrainedTokenizerFast"}
"""What is said of a ``tokenizer.json`` that came alone: that it is all there is."""

GENAI_TYPE = "decoder"
"""The model type of onnxruntime-genai that takes ids, mask and pasts and no positions; "gpt2" wants one tensor for keys and values.
Found by loading with onnxruntime-genai 0.18 (tests/interop)."""

LONGEST = 1 << 20
"""Context that is stated for a model without a limit of its own."""


def genai_config(interface: Interface, text: TextModel, model_file: str, shares_cache: bool) -> dict[str, Json] | None:
    """The content of ``genai_config.json``; None for a model that onnxruntime-genai cannot drive: one without cache or mask.

    ``shares_cache`` says whether past and present may lie in one buffer.
    """
    ports = {port.name: port.type for port in interface.inputs}
    if not interface.pasts or MASK not in ports or IDS not in ports:
        return None
    _, heads, _, width = ports[interface.pasts[0][0]].shape
    if not isinstance(heads, int) or not isinstance(width, int) or any(ports[past].shape[1] != heads for past, _ in interface.pasts):
        return None
    context = text.context if text.context is not None else LONGEST
    model: dict[str, Json] = {
        "type": GENAI_TYPE,
        "vocab_size": text.vocabulary,
        "context_length": context,
        "decoder": {
            "session_options": {"provider_options": []},
            "filename": model_file,
            "num_hidden_layers": len(interface.pasts) // 2,
            "num_key_value_heads": heads,
            "head_size": width,
            "inputs": {
                "input_ids": IDS,
                "attention_mask": MASK,
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {"logits": LOGITS, "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
        },
    }
    if text.stop:
        model |= {"eos_token_id": list(text.stop), "pad_token_id": text.stop[0]}
    return {"model": model, "search": {"do_sample": False, "max_length": context, "past_present_share_buffer": shares_cache}}
