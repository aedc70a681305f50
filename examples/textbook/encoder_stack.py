"""An encoder stack: `nn.TransformerEncoder`, with padding at the end of the shorter rows.

The mask of padded keys goes in as an input and stays one. Batch and length stay symbolic, so the artifact takes other shapes than the
example's.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import cgptc


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, activation="gelu", batch_first=True, norm_first=True)
        self.stack = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.stack(x, src_key_padding_mask=padding)


def main(target: str = "onnx") -> tuple[cgptc.Artifact, cgptc.Verification]:
    torch.manual_seed(0)
    module = Encoder(width=16, heads=4, layers=2)
    x, padding = torch.randn(2, 6, 16), torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    artifact = cgptc.compile(module, (x, padding), target=target)
    found = cgptc.verify(artifact, module, (x, padding), (torch.randn(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool)))
    print(f"encoder stack: {found}")
    return artifact, found


if __name__ == "__main__":
    main(*sys.argv[1:])
