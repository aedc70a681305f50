"""A bag of words: `nn.EmbeddingBag` averages the words of a text, and a perceptron sorts it into classes.

No attention at all: the compiler is for transformers, and takes what stands beside them too.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc


class BagOfWords(nn.Module):
    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, width, mode="mean")
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, classes)
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.bag(ids)).softmax(dim=-1)


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module, ids = BagOfWords(vocabulary=50, width=16, classes=4), torch.randint(0, 50, (3, 7))
    artifact = cgptc.compile(module, (ids,), target=target)
    found = cgptc.verify(artifact, module, (ids,), (ids[:1, :2],))
    print(f"bag of words: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
