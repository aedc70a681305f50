"""The body of Hugging Face's GPT-2, without a head, with an attention mask: hidden states go out, for whatever stands on top.

Its mask code (comparisons, `expand`, `-inf` where a key is padding) is folded into attention: a flag, and a vector of real tokens.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

import cgptc


class Body(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.gpt2 = GPT2Model(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.gpt2(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4}
    module = Body(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    ids, mask = torch.randint(0, 50, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    artifact = cgptc.compile(module, (ids, mask), target=target)
    found = cgptc.verify(artifact, module, (ids, mask), (ids[:1, :1], mask[:1, :1]))
    print(f"GPT-2 body: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
