"""Language models as textbooks write them: their cached form generates what PyTorch computes from the whole text each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.traced_once import modules_are_traced_once
from torch import nn

import cgptc
from cgptc.ir.diagnostics import CgptcError, CompileError, Exit, UsageError

__all__ = ["modules_are_traced_once"]

VOCABULARY, WIDTH, HEADS, PLACES = 13, 16, 2, 20
BIASED = ("alibi", "alibi before the mask")


class Block(nn.Module):
    slopes: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.register_buffer("slopes", torch.tensor([0.5, 0.125]), persistent=False)
        angles = torch.outer(torch.arange(PLACES).float(), torch.tensor([1.0, 0.3, 0.1, 0.03]))
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], -1), persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin(), angles.sin()], -1), persistent=False)

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        length = x.shape[2]
        return x * self.cos[:length] + torch.cat([-second, first], -1) * self.sin[:length]

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (part.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.kind == "rotary":
            q, k = self._turned(q), self._turned(k)
        scores = q @ k.mT / 8**0.5
        place = torch.arange(length)
        ages = place[:, None] - place[None, :]
        if self.kind in BIASED:
            scores = scores - self.slopes.view(1, HEADS, 1, 1) * ages.abs()
        if mask is None:
            scores = scores.masked_fill(ages < 0, float("-inf"))
        else:
            scores = scores.masked_fill((ages < 0) | (mask == 0)[:, None, None, :], torch.finfo(scores.dtype).min)
        if self.kind == "alibi behind the mask":
            scores = scores - self.slopes.view(1, HEADS, 1, 1) * ages.abs()
        weights = scores.softmax(-1)
        mixed: torch.Tensor = (weights @ v).transpose(1, 2).reshape(batch, length, WIDTH)
        return mixed


class Decoder(nn.Module):
    """``kind``: a table of positions sliced to the length, batch or sequence first; by arange; rotary tables; or none, with ALiBi."""

    table: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind = kind
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(PLACES, WIDTH)
        self.register_buffer("table", torch.randn(1, PLACES + 2, WIDTH))
        self.blocks = nn.ModuleList([Block(kind)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0, 0.4)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(ids)
        length = ids.shape[1]
        if self.kind == "table":
            x = x + self.table[:, 2 : length + 2]
        elif self.kind == "sequence first":
            x = (x.transpose(0, 1) + self.table[:, :PLACES].transpose(0, 1)[:length]).transpose(0, 1)
        elif self.kind == "shifted":
            x = x + self.places(torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(length)[:-1]]))
        elif self.kind == "arange":
            x = x + self.places(torch.arange(length))
        for block in self.blocks:
            x = x + block(x, attention_mask)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def greedy(module: nn.Module, prompt: list[int], count: int) -> list[int]:
    row = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            row.append(int(module(torch.tensor([row]))[0, -1].argmax()))
    return row[len(prompt) :]


IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


@pytest.mark.parametrize("kind", ["sequence first", "arange", "rotary", "alibi"])
def test_tokens_are_those_of_the_whole_text(kind: str) -> None:
    module = Decoder(kind).eval()
    artifact = cgptc.compile(module, (IDS,))
    assert artifact.interface.cached
    assert not cgptc.verify(artifact, module, (IDS,), (IDS[:1, :1],)).failed
    prompts = [[4, 2], [9, 8, 7, 6, 5, 4], [1]]
    found = artifact.generate_batch(prompts, max_new_tokens=9)
    assert [list(each.ids) for each in found] == [greedy(module, prompt, 9) for prompt in prompts]
    if kind != "alibi":  # whose distances know no end
        assert artifact.text_model.context == PLACES
        with pytest.raises(UsageError, match="positions"):
            artifact.generate([1] * 15, max_new_tokens=10)
        with pytest.raises(UsageError, match=f"{PLACES}"):
            artifact.run(input_ids=np.ones((1, PLACES + 1), np.int64))


@pytest.mark.parametrize("kind", ["alibi before the mask", "alibi behind the mask"])
def test_a_bias_beside_padding_that_is_filled_with_a_finite_number_takes_a_cache(kind: str) -> None:
    module = Decoder(kind).eval()
    artifact = cgptc.compile(module, (IDS, torch.ones_like(IDS)))
    assert artifact.interface.cached
    prompts = [[4, 2], [9, 8, 7, 6, 5, 4], [1]]
    found = artifact.generate_batch(prompts, max_new_tokens=9)
    assert [list(each.ids) for each in found] == [greedy(module, prompt, 9) for prompt in prompts]


@pytest.mark.parametrize("kind", ["table", "alibi"])
def test_tokens_on_a_wafer_are_those_of_the_whole_text(kind: str) -> None:
    module = Decoder(kind).eval()
    artifact = cgptc.compile(module, (IDS,), target="wafer", context=PLACES)
    assert list(artifact.generate([4, 2, 7], max_new_tokens=5).ids) == greedy(module, [4, 2, 7], 5)


def test_a_position_that_is_another_tokens_is_refused_a_cache() -> None:
    with pytest.raises(CompileError, match="makes one token's position of another's"):
        cgptc.compile(Decoder("shifted").eval(), (IDS,))


class Bigrams(torch.nn.Module):
    """A language model without attention: each token says what comes next."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = torch.nn.Embedding(13, 8)
        self.head = torch.nn.Linear(8, 13)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(input_ids))


@pytest.mark.parametrize("target", ["onnx", "wafer"])
def test_a_language_model_without_attention_has_nothing_to_cache(target: str) -> None:
    module = Bigrams().eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    artifact = cgptc.compile(module, (ids,), target=target)
    assert [port.name for port in artifact.interface.inputs] == ["input_ids"]
    assert not cgptc.verify(artifact, module, (ids,)).failed
    expected = [2]
    for _ in range(3):
        expected.append(int(module(torch.tensor([expected]))[0, -1].argmax()))
    assert artifact.generate([2], max_new_tokens=3).ids == tuple(expected[1:])


class Affine(torch.nn.Module):
    """One product, given once or twice, of one input or two."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.product = torch.nn.Linear(8, 8)
        self.outputs = outputs

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> object:
        y = self.product(x)
        return (y, y * 1000) if self.outputs == 2 else y


def test_a_module_of_other_inputs_or_outputs_differs() -> None:
    x = torch.randn(2, 5, 8)
    artifact = cgptc.compile(Affine().eval(), (x,))
    assert not cgptc.verify(artifact, Affine(), (x,)).failed
    with pytest.raises(CgptcError, match="the module has 2 outputs, the artifact 1") as found:
        cgptc.verify(artifact, Affine(outputs=2), (x,))
    assert found.value.exit is Exit.MISMATCH
    with pytest.raises(CgptcError, match="the module has 2 inputs, the artifact 1"):
        cgptc.verify(artifact, Affine(), (x, x))


class Loss(torch.nn.Module):
    """One number, which comes out near to exact in many orders of its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(13, 8)
        self.head = torch.nn.Linear(8, 13)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.head(self.embedding(ids)).flatten(0, 1), labels.flatten())


def test_the_noise_of_one_number_is_no_less_than_its_rounding() -> None:
    torch.manual_seed(0)
    module = Loss().eval()
    ids, labels = (torch.randint(0, 13, (2, 5)) for _ in range(2))
    artifact = cgptc.compile(module, (ids, labels))
    for seed in range(4):
        torch.manual_seed(seed)
        ids, labels = (torch.randint(0, 13, (2, 5)) for _ in range(2))
        (check,) = cgptc.verify(artifact, module, (ids, labels)).checks
        assert check.largest_bound >= 4 * 2**-24 * float(module(ids, labels).detach())
