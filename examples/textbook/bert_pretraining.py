"""BERT with both heads that it was trained with: masked words, and whether the second sentence follows the first.

Attention looks both ways; two outputs, with names.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining

import cgptc


class Heads(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertForPreTraining(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return {"masked_words": found.prediction_logits, "next_sentence": found.seq_relationship_logits}


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    module = Heads(BertConfig(**sizes, max_position_embeddings=32))
    ids, mask = torch.randint(0, 50, (2, 8)), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    sentence = torch.tensor([[0] * 4 + [1] * 4, [0] * 3 + [1] * 5])
    artifact = cgptc.compile(module, (ids, mask, sentence), target=target)
    found = cgptc.verify(artifact, module, (ids, mask, sentence))
    print(f"BERT, two heads: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
