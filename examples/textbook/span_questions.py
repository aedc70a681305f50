"""Answering a question by a span of a text: BERT gives every token a score as the answer's first and as its last token.

The best span is looked for outside the model, with the compiled module standing where the original stood.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForQuestionAnswering

import cgptc


class SpanModel(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertForQuestionAnswering(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.start_logits, found.end_logits


def best_span(start: Tensor, end: Tensor) -> tuple[int, int]:
    """First and last token of the span with the largest sum of scores."""
    scores = (start[:, None] + end[None, :]).triu()
    best = int(scores.masked_fill(scores == 0, float("-inf")).argmax())
    return best // len(start), best % len(start)


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    module = SpanModel(BertConfig(**sizes, max_position_embeddings=32)).eval()
    ids, mask = torch.randint(0, 50, (1, 9)), torch.ones(1, 9, dtype=torch.int64)
    text = torch.tensor([[0] * 3 + [1] * 6])
    artifact = cgptc.compile(module, (ids, mask, text), target=target)
    found = cgptc.verify(artifact, module, (ids, mask, text))
    spans = {best_span(*(scores[0] for scores in model(ids, mask, text))) for model in (module, artifact.module())}
    if len(spans) != 1:
        raise SystemExit(f"PyTorch and the artifact choose different spans: {spans}")
    print(f"span question answering: {found}; both choose the tokens {spans.pop()}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
