"""GPT-Neo with a classifier on the last token. Its layers see everything before them and a window of it in turn.

The window is found in the mask that GPT-Neo builds, and only the last token's hidden state reaches the classifier.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoModel

import cgptc


class Classifier(nn.Module):
    def __init__(self, config: GPTNeoConfig, classes: int) -> None:
        super().__init__()
        self.body = GPTNeoModel(config)
        self.head = nn.Linear(config.hidden_size, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        return self.head(hidden[:, -1])


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "max_position_embeddings": 32, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 32}
    config = GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 1]], window_size=4, bos_token_id=0, eos_token_id=0)
    module, ids = Classifier(config, classes=3), torch.randint(0, 50, (2, 9))
    artifact = cgptc.compile(module, (ids,), target=target)
    found = cgptc.verify(artifact, module, (ids,), (ids[:1, :3],))
    print(f"GPT-Neo classifier: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
