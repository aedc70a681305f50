"""Every family from a folder on disk, as a user has it: compiled, verified, and generating what transformers generates."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.frontend.test_hf_families import write_folder

from cgptc.driver.compilation import compile_model
from cgptc.driver.options import CompileOptions
from cgptc.driver.verification import verify_model
from cgptc.driver.verification.reference import Reference
from cgptc.frontend.hf_config import FAMILIES
from cgptc.frontend.source import CapturedModel, open_model
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.interface import IDS, LOGITS
from cgptc.testing.tolerances import TOP_TWO_FACTOR, t3_largest

transformers = pytest.importorskip("transformers")

GENERATING = ("gpt2", "gpt_neo", "gptj", "llama")
"""Families whose configurations are drawn."""

DRAWN = [pytest.param(name, seed, marks=[pytest.mark.slow] if seed else []) for name in GENERATING for seed in range(3)]

WINDOW = 4
NEW_TOKENS = 8


def random_config(name: str, seed: int) -> dict[str, Any]:
    """A small configuration of a family, drawn. The weights spread so far that the likeliest tokens change from step to step."""
    draw = np.random.default_rng([seed, *name.encode()])
    heads, size, layers = int(draw.choice([1, 2, 3, 4])), int(draw.choice([4, 6, 8])), int(draw.choice([1, 2]))
    width, tied = heads * size, bool(draw.integers(2))
    shared = {"vocab_size": int(draw.choice([37, 61])), "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    gpt = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 32, **shared}
    match name:
        case "gpt2":
            activation = str(draw.choice(["gelu_new", "gelu", "relu"]))
            by_layer = bool(draw.integers(2))
            return {"model_type": name, **gpt, "activation_function": activation, "scale_attn_by_inverse_layer_idx": by_layer}
        case "gpt_neo":
            kinds = [[[str(kind) for kind in draw.permutation(["global", "local"])], 1]]
            sizes = {"hidden_size": width, "num_layers": 2, "num_heads": heads, "max_position_embeddings": 32}
            return {"model_type": name, **sizes, **shared, "attention_types": kinds, "window_size": WINDOW}
        case "gptj":
            return {"model_type": name, **gpt, "rotary_dim": int(draw.choice([2, 4])), "tie_word_embeddings": False}
        case _:
            sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 2 * width + 1}
            groups = {"num_key_value_heads": int(draw.choice([each for each in range(1, heads + 1) if heads % each == 0]))}
            return {"model_type": name, **sizes, **groups, **shared, "max_position_embeddings": 32, "tie_word_embeddings": tied}


@pytest.fixture
def open_family(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], tuple[Path, CapturedModel, Artifact]]]:
    """From a configuration: its folder on disk, the model captured from there, and the artifact that the driver made of it."""
    with contextlib.ExitStack() as opened:

        def open_(config: dict[str, Any]) -> tuple[Path, CapturedModel, Artifact]:
            folder = write_folder(tmp_path / "model", config, next(iter(FAMILIES[config["model_type"]].classes)))
            model = opened.enter_context(open_model(str(folder)))
            # The passes change the graph, which verification needs as it was captured.
            return folder, model, compile_model(replace(model, graph=model.graph.clone()), CompileOptions(), tmp_path / "out")

        yield open_


def assert_verified(model: CapturedModel, artifact: Artifact) -> None:
    """By every check that its kind of model has, past a window."""
    found = verify_model(artifact.path, model, [WINDOW + 1])
    kinds = {check.what.split(",")[0] for check in found.checks}
    assert not found.failed
    assert {"prefill and decode", "left-padded decode", "greedy generation"} <= kinds


@pytest.mark.parametrize(("name", "seed"), DRAWN)
def test_a_drawn_family_is_verified_and_generates_the_tokens_of_transformers(name: str, seed: int, open_family: Any) -> None:
    """Greedy, through the cache, and past GPT-Neo's window. Where tokens part, the reference's two best must be a tie within the noise."""
    folder, model, artifact = open_family(random_config(name, seed))
    assert_verified(model, artifact)
    prompt = [int(token) for token in np.random.default_rng(seed).integers(3, artifact.text_model.vocabulary, WINDOW - 1)]
    expected = generated_by_transformers(folder, name, prompt)
    made = list(artifact.generate(prompt, max_new_tokens=NEW_TOKENS).ids)
    assert len(made) == NEW_TOKENS or made[-1] in artifact.text_model.stop
    if made != expected:
        parted = next(place for place, pair in enumerate(zip(made, expected, strict=False)) if pair[0] != pair[1])
        margin, tie = top_two(model, [*prompt, *made[:parted]])
        sys.stdout.write(f"a tie at new token {parted + 1}: the two best are {margin:.2e} apart, noise allows {tie:.2e}\n")
        assert margin < tie, f"{made} instead of {expected}"


def generated_by_transformers(folder: Path, name: str, prompt: list[int]) -> list[int]:
    theirs = getattr(transformers, next(iter(FAMILIES[name].classes))).from_pretrained(folder).eval()
    ids = torch.tensor([prompt])
    with torch.no_grad():
        whole = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, use_cache=True
        )
    made: list[int] = whole[0, len(prompt) :].tolist()
    return made


def top_two(model: CapturedModel, ids: list[int]) -> tuple[float, float]:
    """How far the two best next tokens are apart in float64, and below what distance they are a tie."""
    answer = Reference.of(model).answer({IDS: np.array([ids])})
    second, first = np.sort(answer.outputs[LOGITS][0, -1])[-2:]
    return float(first - second), TOP_TWO_FACTOR * t3_largest(answer.floors[LOGITS])
