"""Embedding, `nn.Transformer`, linear: both sides embedded by one table, sequence first, as `nn.Transformer` likes it by default.

Here axis 0 is not the batch, and the two sides have lengths of their own: `axes` says which size is where.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn

import cgptc


class EmbeddingTransformer(nn.Module):
    def __init__(self, vocabulary: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        warnings.filterwarnings("ignore", "enable_nested_tensor")  # of a fast path that wants the batch first
        self.transformer = nn.Transformer(width, heads, 1, 1, 2 * width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[0])
        return self.head(self.transformer(self.embed(source), self.embed(target), tgt_mask=mask))


AXES = {"source": {0: "source", 1: "batch"}, "target": {0: "seq", 1: "batch"}}


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module = EmbeddingTransformer(vocabulary=50, width=16, heads=4)
    ids = torch.randint(0, 50, (7, 2)), torch.randint(0, 50, (5, 2))
    artifact = cgptc.compile(module, ids, target=target, axes=AXES, dynamic=dict.fromkeys(("source", "seq", "batch")))
    found = cgptc.verify(artifact, module, ids, (ids[0][:1], ids[1][:1]))
    print(f"embedding + nn.Transformer + linear: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
