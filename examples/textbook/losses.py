"""Losses are part of a model too: cross-entropy over words, and the mean squared error of hidden states against a teacher's.

Both come out as numbers of rank 0, ready for an evaluation that runs without PyTorch.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc


class Losses(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, width), nn.Linear(width, vocabulary)
        self.words, self.distance = nn.CrossEntropyLoss(ignore_index=-100), nn.MSELoss()

    def forward(self, ids: Tensor, goal: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        hidden = nn.functional.gelu(self.mix(self.embed(ids)))
        return {
            "cross_entropy": self.words(self.head(hidden).flatten(0, 1), goal.flatten()),
            "distance": self.distance(hidden, teacher),
        }


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module, ids = Losses(vocabulary=50, width=16), torch.randint(0, 50, (2, 6))
    goal, teacher = ids.roll(-1, dims=1), torch.randn(2, 6, 16)
    goal[:, -1] = -100
    artifact = cgptc.compile(module, (ids, goal, teacher), target=target)
    found = cgptc.verify(artifact, module, (ids, goal, teacher))
    print(f"losses: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
