"""Translation with `nn.Transformer` and a greedy loop: read a sentence, write another, one word at a time.

The language to translate into is the same words backwards, which a tiny model learns in two seconds of training. Then the compiled
module takes the model's place in the same loop and writes the same words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import cgptc

START, WORDS, LENGTH = 0, 12, 4


class Translator(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH + 1, width)
        self.transformer = nn.Transformer(width, heads, 1, 1, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def embed(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.places(torch.arange(ids.shape[1]))

    def forward(self, source: Tensor, written: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(written.shape[1])
        return self.head(self.transformer(self.embed(source), self.embed(written), tgt_mask=mask))


def train(module: Translator, steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(steps):
        source = torch.randint(1, WORDS, (32, LENGTH))
        goal = source.flip(1)
        written = torch.cat([torch.full((32, 1), START), goal[:, :-1]], dim=1)
        loss = nn.functional.cross_entropy(module(source, written).flatten(0, 1), goal.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def translate(model: Callable[[Tensor, Tensor], Tensor], source: Tensor) -> list[int]:
    """The most likely next word, again and again."""
    written = torch.full((1, 1), START)
    with torch.no_grad():
        for _ in range(LENGTH):
            word = model(source, written)[:, -1].argmax(-1, keepdim=True)
            written = torch.cat([written, word], dim=1)
    return written[0, 1:].tolist()


AXES = {"source": {0: "batch", 1: "source"}, "written": {0: "batch", 1: "seq"}}


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module = Translator(width=32, heads=4)
    train(module, steps=80)
    module.eval()
    source, written = torch.randint(1, WORDS, (2, LENGTH)), torch.randint(1, WORDS, (2, 3))
    artifact = cgptc.compile(module, (source, written), target=target, axes=AXES, dynamic=dict.fromkeys(("batch", "source", "seq")))
    found = cgptc.verify(artifact, module, (source, written), (source[:1], written[:1, :1]))
    theirs, ours = translate(module, source[:1]), translate(artifact.module(), source[:1])
    if ours != theirs:
        raise SystemExit(f"PyTorch writes {theirs}, the artifact {ours}")
    print(f"translation: {found}; {source[0].tolist()} is translated to {ours}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
