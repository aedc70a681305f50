"""Names of a causal model's inputs and outputs, as optimum and onnxruntime-genai expect them, and of what the model file says of itself."""

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
LOGITS_TO_KEEP = "logits_to_keep"
"""i64[1], with a default: logits of at most so many last tokens are computed. Named as transformers names it."""
PAST_PREFIX, PRESENT_PREFIX = "past_key_values.", "present."
SEQ = "seq"
"""The symbol of the number of new tokens."""

CACHED_FORMS = "cgptc.cached_attention"
"""Model metadata: the operators that attend over a past, separated by commas."""
GROUPED_QUERY, STANDARD_ATTENTION = "GroupQueryAttention", "Attention"
"""The former's past and present may share a buffer; it takes one token per call from several rows with a past."""


def present_of(past: str) -> str:
    """The output that continues a past input."""
    return PRESENT_PREFIX + past.removeprefix(PAST_PREFIX)
