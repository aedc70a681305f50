"""How much of every family the passes make whole, written to docs/fusions.md.

The totals come from each family's configuration: layers, norms per layer, rotated tensors per layer; never from what was matched.

    python -m benchmarks.fusion_table            (from the repository's root; needs cgptc[hf])
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from cgptc.driver.compilation import optimise, target_of
from cgptc.driver.options import CompileOptions
from cgptc.frontend.live_module import capture_module
from cgptc.frontend.source import CapturedModel, open_model

PAGE = Path(__file__).parents[1] / "docs" / "fusions.md"
HEAD = """# What is whole on every family

Written by `python -m benchmarks.fusion_table`. Small models of each family, two layers, through the ONNX target's default passes. Totals
are counted from the family's configuration. `cgptc explain MODEL fusions` gives the counts of your model, and for each miss the reason.

| family | attention | norms | rotary |
| --- | --- | --- | --- |
"""

TAIL = """
## Written by hand

Attention fuses with a scale as product or quotient on queries, keys, both or the scores; masked by selection or addition, before or behind
the scale; softmax in another type, by exponentials or `logsumexp`, or cleaned by `nan_to_num`; as `einsum`, from rows or columns; with
shared heads repeated by `repeat_interleave`, `expand` or an index; of rank 2, 3 or 4. Norms fuse with their weight anywhere in the product,
and with roots as powers. `explain` names the place and the reason for what does not: probabilities that something else reads, scores scaled
by a tensor, capped by `tanh` or seen through a `view` of other axes; a norm whose `eps` lies outside of the root, as by `x.norm()`, whose
variance divides by n - 1 or is a difference of means; GELU with rounded constants or a half of more axes, and `x * sigmoid(1.702 * x)`,
which is another function.

`MultiheadAttention` puts the sequence first and the heads beside the batch; `merge-views` leaves one split and the transposes of the heads.

**Queries that see no key.** Attention gives them 0, where PyTorch gives NaN after a fill with -inf. After a fill with a finite number
PyTorch gives the mean of all values: so does the fused graph, but for masks that hide only padding and later tokens, with a bias (ALiBi)
beside them or not. There such a query is padding itself, and its row has no meaning.
"""


@dataclass(frozen=True)
class Family:
    """What a configuration says: ``layers``, norms and rotated tensors in each, and norms outside of layers."""

    name: str
    open: Callable[[Path], AbstractContextManager[CapturedModel]]
    layer_norms: int = 2
    other_norms: int = 1
    rotated: int = 0
    layers: int = 2


class Plain(torch.nn.Module):
    """Two blocks with attention and norms written out: matmul, scale, mask, softmax; mean, variance, square root."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.table = torch.nn.Embedding(61, width)
        self.scales = torch.nn.ParameterList(torch.ones(width) for _ in range(5))
        self.packed = torch.nn.ModuleList(torch.nn.Linear(width, 3 * width) for _ in range(2))
        self.outward = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))
        self.wide = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))
        self.register_buffer("lower", torch.tril(torch.ones(32, 32, dtype=torch.bool)))

    def norm(self, x: torch.Tensor, number: int) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scales[number]

    def attend(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.packed[layer](x).split(width, dim=-1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.lower[:length, :length], float("-inf"))  # type: ignore[index]
        mixed = scores.softmax(-1) @ v
        return self.outward[layer](mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)
        for layer in range(2):
            x = x + self.attend(self.norm(x, 2 * layer), layer)
            x = x + torch.relu(self.wide[layer](self.norm(x, 2 * layer + 1)))
        return self.norm(x, 4) @ self.table.weight.T


class Multihead(torch.nn.Module):
    """Two blocks of PyTorch's own `MultiheadAttention`, causal."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(61, width)
        self.attentions = torch.nn.ModuleList(torch.nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(5))
        self.wide = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        for layer in range(2):
            hidden = self.norms[2 * layer](x)
            x = x + self.attentions[layer](hidden, hidden, hidden, attn_mask=later, need_weights=False)[0]
            x = x + torch.relu(self.wide[layer](self.norms[2 * layer + 1](x)))
        return self.norms[4](x) @ self.table.weight.T


def _preset(name: str) -> Callable[[Path], AbstractContextManager[CapturedModel]]:
    return lambda folder: open_model(name, shape_only=True)


def _transformers(name: str) -> Callable[[Path], AbstractContextManager[CapturedModel]]:
    def opened(folder: Path) -> AbstractContextManager[CapturedModel]:
        from tests.frontend.hf_configurations import CONFIGS
        from tests.frontend.test_hf_families import write_folder

        from cgptc.frontend.hf_config import FAMILIES

        return open_model(str(write_folder(folder, CONFIGS[name], next(iter(FAMILIES[name].classes)))))

    return opened


def _plain(folder: Path) -> AbstractContextManager[CapturedModel]:
    return nullcontext(capture_module(Plain().eval(), (torch.zeros(2, 8, dtype=torch.int64),)))


def _multihead(folder: Path) -> AbstractContextManager[CapturedModel]:
    return nullcontext(capture_module(Multihead().eval(), (torch.zeros(2, 8, dtype=torch.int64),)))


def _encoder(folder: Path) -> AbstractContextManager[CapturedModel]:
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nullcontext(capture_module(encoder.eval(), (torch.zeros(2, 8, 32),)))


FAMILIES = (
    Family("GPT-2", _preset("tiny-gpt2")),
    Family("Cerebras-GPT", _preset("tiny")),
    Family("Cerebras-GPT muP", _preset("tiny-mup")),
    Family("GPT-2 (transformers)", _transformers("gpt2")),
    Family("GPT-Neo, global and local", _transformers("gpt_neo")),
    Family("GPT-J", _transformers("gptj"), layer_norms=1, rotated=2),
    Family("GPT-NeoX", _transformers("gpt_neox"), rotated=2),
    Family("OPT", _transformers("opt")),
    Family("LLaMA", _transformers("llama"), rotated=2),
    Family("Mistral", _transformers("mistral"), rotated=2),
    Family("Qwen2", _transformers("qwen2"), rotated=2),
    Family("Qwen3", _transformers("qwen3"), layer_norms=4, rotated=2),
    Family("BERT", _transformers("bert")),
    Family("PyTorch, attention and norms written out", _plain),
    Family("PyTorch, MultiheadAttention", _multihead),
    Family("PyTorch, TransformerEncoder", _encoder, other_norms=0),
)


def row(family: Family, folder: Path) -> str:
    """The family's line of the table."""
    options = CompileOptions(cache="none")
    with family.open(folder) as model:
        found = optimise(model, target_of(options), options, legalise=False).fusions
    fused = {count.subject: count.fused for count in found.counts}
    layers = family.layers
    cells = [
        (fused.get("attention", 0), layers),
        (fused.get("layer-norm", 0) + fused.get("rms-norm", 0), layers * family.layer_norms + family.other_norms),
        (fused.get("rotary", 0), layers * family.rotated),
    ]
    return f"| {family.name} | " + " | ".join(f"{have} / {total}" if total else "" for have, total in cells) + " |\n"


def main() -> None:
    """Write the page."""
    rows = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(family, Path(folder)))
        print(rows[-1], end="", flush=True)
    PAGE.write_text(HEAD + "".join(rows) + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
