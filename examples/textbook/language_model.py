"""A language model of one's own from `nn.TransformerEncoder` with a causal mask, compiled with a cache that it never had.

It only looks back, so `cgptc` gives every attention a past, and generates word by word without reading the text again.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc

CONTEXT = 24


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True, norm_first=True, activation="gelu")
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        seq = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(seq))
        return self.head(self.blocks(x, mask=nn.Transformer.generate_square_subsequent_mask(seq)))


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module, ids = LanguageModel(vocabulary=50, width=16, heads=4, layers=2).eval(), torch.randint(0, 50, (2, 6))
    artifact = cgptc.compile(module, (ids,), target=target)
    found = cgptc.verify(artifact, module, (ids,), (ids[:1, :1],))
    ours, row = artifact.generate([1, 2, 3], max_new_tokens=8).ids, [1, 2, 3]
    with torch.no_grad():
        for _ in ours:
            row.append(int(module(torch.tensor([row]))[0, -1].argmax()))
    if list(ours) != row[3:]:
        raise SystemExit(f"PyTorch goes on with {row[3:]}, the artifact with {list(ours)}")
    print(f"language model: {found}; both go on with {row[3:]}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
