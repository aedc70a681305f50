"""Self-attention from four linear layers, as textbooks write it: scores, a causal mask, softmax, a weighted sum.

The compiler must see through the spelling: the triangle of -inf becomes the flag `causal`, and all between the linear layers one node.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        return x.view(batch, seq, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        seq = x.shape[1]
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return self.output((weights @ v).transpose(1, 2).flatten(2))


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module, x = SelfAttention(width=16, heads=4), torch.randn(2, 7, 16)
    artifact = cgptc.compile(module, (x,), target=target)
    found = cgptc.verify(artifact, module, (x,))
    print(f"self-attention: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
