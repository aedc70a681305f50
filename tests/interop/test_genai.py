"""onnxruntime-genai opens the artifact's folder and writes PyTorch's tokens."""

from __future__ import annotations

from typing import Any

import onnxruntime_genai
import pytest


def generated(model: onnxruntime_genai.Model, prompt: list[int], count: int) -> list[int]:
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + count)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def test_every_prompt_goes_on_as_in_pytorch(case: dict[str, Any]) -> None:
    model = onnxruntime_genai.Model(case["folder"])
    for prompt, expected in zip(case["prompts"], case["tokens"], strict=True):
        assert generated(model, prompt, len(expected)) == expected


def test_a_prompt_may_come_in_two_parts(case: dict[str, Any]) -> None:
    """The second part is several tokens on a past."""
    model = onnxruntime_genai.Model(case["folder"])
    prompt, expected = case["prompts"][-1], case["tokens"][-1]
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + len(expected))
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(prompt[:1])
    generator.append_tokens(prompt[1:])
    while not generator.is_done():
        generator.generate_next_token()
    assert [int(token) for token in generator.get_sequence(0)][len(prompt) :] == expected


def test_its_tokenizer_opens_the_files_of_the_artifact(case: dict[str, Any]) -> None:
    if not case["has_tokenizer"]:
        pytest.skip("this model has no tokenizer")
    tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(case["folder"]))
    assert tokenizer.decode(tokenizer.encode("In the beginning God created")) == "In the beginning God created"
