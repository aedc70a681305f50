"""A sum of blocks: attention, a perceptron and a gate all read the same normalised input, and their results are added to it.

GPT-J and GPT-NeoX are built so; the order of the additions is the model's own.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc


class ParallelBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        attended, _ = self.attention(h, h, h, need_weights=False)
        return x + attended + self.perceptron(h) + h * self.gate(h)


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module, x = nn.Sequential(*(ParallelBlock(width=16, heads=4) for _ in range(2))), torch.randn(2, 5, 16)
    artifact = cgptc.compile(module, (x,), target=target)
    found = cgptc.verify(artifact, module, (x,), (x[:1, :1],))
    print(f"sum of blocks: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
