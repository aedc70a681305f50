"""optimum's ORTModelForCausalLM opens the artifact's folder and writes PyTorch's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimum.onnxruntime import ORTModelForCausalLM


@pytest.fixture(autouse=True)
def _known_to_transformers(case: dict[str, Any]) -> None:
    if case["name"].endswith("-mup"):
        pytest.skip("transformers has no configuration for it")


@pytest.mark.parametrize("use_io_binding", [False, True])
def test_every_prompt_goes_on_as_in_pytorch(case: dict[str, Any], use_io_binding: bool) -> None:
    model = ORTModelForCausalLM.from_pretrained(case["folder"], use_io_binding=use_io_binding)
    assert model.can_use_cache
    for prompt, expected in zip(case["prompts"], case["tokens"], strict=True):
        ids = torch.tensor([prompt])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(expected), do_sample=False)
        assert made[0, len(prompt) :].tolist() == expected


def test_a_padded_batch_goes_on_as_its_rows_do(case: dict[str, Any]) -> None:
    model = ORTModelForCausalLM.from_pretrained(case["folder"])
    prompts, expected = case["prompts"], case["tokens"]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    made = model.generate(ids, attention_mask=mask, max_new_tokens=max(map(len, expected)), do_sample=False, pad_token_id=0)
    for row, tokens in zip(made[:, longest:].tolist(), expected, strict=True):
        assert row[: len(tokens)] == tokens
