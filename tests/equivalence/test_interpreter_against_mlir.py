"""Captured graphs, interpreted in float64, against the same modules compiled by MLIR: an oracle that shares no kernel with ours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.frontend.hf_configurations import CONFIGS

from cgptc.frontend.capture import capture
from cgptc.frontend.gpt import Gpt
from cgptc.frontend.hf_config import FAMILIES
from cgptc.frontend.oracle import wide_by_default
from cgptc.frontend.presets import preset
from cgptc.frontend.torch_dtypes import to_numpy
from cgptc.ir.interpreter import evaluate_graph
from cgptc.testing.tolerances import assert_t1

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed (pip install 'cgptc[mlir]')")

from tests.equivalence.mlir_execution import run_in_mlir


def assert_mlir_agrees(module: torch.nn.Module, *inputs: torch.Tensor) -> None:
    module = module.eval().double()
    with torch.no_grad(), wide_by_default():  # casts to float32 in a model's code are to float64, as in the interpreter
        (compiled,) = run_in_mlir(module, inputs)
    graph = capture(module, inputs, dynamic={})
    arrays = dict(zip((value.name for value in graph.inputs), map(to_numpy, inputs), strict=True))
    (interpreted,) = evaluate_graph(graph, arrays, wide=True).values()
    assert np.isfinite(compiled).all()
    assert_t1(interpreted, compiled, depth=graph.node_count)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(length).integers(3, 61, (batch, length)))


class Mlp(torch.nn.Module):
    """Norm, product, GELUs, and what reductions and a softmax make of them. The one by tanh is spelled out: torch-mlir rounds the constants
    of its own to a few digits, which is off by 5e-5 in any type.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = torch.nn.LayerNorm(6), torch.nn.Linear(6, 7), torch.nn.Linear(7, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(self.norm(x))
        exact = torch.nn.functional.gelu(hidden)
        tanh = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        scores = self.down(torch.where(hidden > 0, exact, tanh * torch.sigmoid(hidden)))
        return torch.log_softmax(scores, -1) + scores.amax(1, keepdim=True) - scores.mean(-1, keepdim=True)


class CausalAttention(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class MaskedAttention(torch.nn.Module):
    """By hand: products, an additive mask, softmax, heads merged."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        length = q.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = ((q @ k.transpose(2, 3)) * 0.5).masked_fill(mask, -1e9).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


ONE_LAYER: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 1, "attention_types": [[["local"], 1]]},
    "gptj": {"n_layer": 1},
    "llama": {"num_hidden_layers": 1},
    "bert": {"num_hidden_layers": 1},
}
"""Families that torch-mlir alone does not take."""


class Logits(torch.nn.Module):
    """A model of transformers with one layer, as ids and mask to logits."""

    def __init__(self, name: str) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        family = FAMILIES[name]
        config = getattr(transformers, family.config_class).from_dict({**CONFIGS[name], **ONE_LAYER[name]})
        config.use_cache = False
        architecture = "BertForMaskedLM" if name == "bert" else next(iter(family.classes))
        self.model = getattr(transformers, architecture)(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def test_a_perceptron() -> None:
    assert_mlir_agrees(Mlp(), draw(2, 3, 6))


@pytest.mark.parametrize("module", [CausalAttention(), MaskedAttention()])
def test_attention(module: torch.nn.Module) -> None:
    assert_mlir_agrees(module, draw(1, 2, 5, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4))


def test_a_gpt2() -> None:
    torch.manual_seed(0)
    gpt = Gpt(replace(preset("tiny").config, layers=1))
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert_mlir_agrees(gpt, ids(2, 5))


@pytest.mark.parametrize(
    "name", ["gpt_neo", "llama", pytest.param("gptj", marks=pytest.mark.slow), pytest.param("bert", marks=pytest.mark.slow)]
)
def test_a_family(name: str) -> None:
    assert_mlir_agrees(Logits(name), ids(1, 6), torch.ones(1, 6, dtype=torch.int64))
