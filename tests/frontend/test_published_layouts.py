"""Folders laid out as Cerebras-GPT's are published: what is in them, under which names, in which element type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgptc.frontend.gpt import Gpt
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.initialise import initial_blocks
from cgptc.frontend.oracle import evaluate_module, wide_copy
from cgptc.frontend.source import CapturedModel, open_model
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.testing.tolerances import assert_t1

SHAPE = GptConfig(37, 16, 2, 3, 12, 48)
CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu",
    "n_embd": 12,
    "n_head": 3,
    "n_inner": 48,
    "n_layer": 2,
    "n_positions": 16,
    "vocab_size": 37,
    "scale_attn_weights": True,
    "summary_type": "cls_index",
    "transformers_version": "4.26.0",
    "use_cache": True,
}
"""Without bos and eos, as that of the model with 2.7 B parameters."""


def tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    found = {}
    for name, shape in SHAPE.parameters():
        array: Array = np.concatenate(list(initial_blocks(SHAPE, name, shape, 1))).reshape(shape)
        found[name] = torch.from_numpy(array * 10).to(dtype)
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool).tril() for layer in range(2)}
    return {**found, **masks, "lm_head.weight": found["transformer.wte.weight"]}


def write(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], shards: int) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return
    files = {name: f"pytorch_model-{index % shards + 1:05d}-of-{shards:05d}.bin" for index, name in enumerate(weights)}
    for file in set(files.values()):
        torch.save({name: tensor.clone() for name, tensor in weights.items() if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))


def assert_opens_as_pytorch_has_it(folder: Path, dtype: str, output: str) -> None:
    with open_model(str(folder)) as model:
        assert_is_as_pytorch_has_it(model, dtype, output)


def assert_is_as_pytorch_has_it(model: CapturedModel, dtype: str, output: str) -> None:
    assert str(model.graph.output(output).type).startswith(f"{dtype}[batch, seq, ")
    assert model.reference is not None
    reference = model.reference()
    assert isinstance(reference, Gpt)
    assert str(next(reference.parameters()).dtype).endswith({"f16": "float16", "f32": "float32"}[dtype])
    inputs = {"input_ids": np.array([[1, 5, 9], [0, 7, 36]]), "attention_mask": np.array([[1, 1, 1], [0, 1, 1]])}
    expected = evaluate_module(wide_copy(reference), inputs, wide=True, output_names=[output])[output]
    actual = evaluate_graph(model.graph, inputs, wide=True)[output]
    kept = inputs["attention_mask"] > 0
    assert_t1(expected[kept], actual[kept], depth=model.graph.node_count)


@pytest.mark.parametrize(("dtype", "shards"), [("f16", 3), ("f32", 1)])
def test_a_folder_opens_in_the_type_that_its_weights_have(dtype: str, shards: int, tmp_path: Path) -> None:
    write(tmp_path, CONFIG, tensors({"f16": torch.float16, "f32": torch.float32}[dtype]), shards)
    assert_opens_as_pytorch_has_it(tmp_path, dtype, "logits")


def test_a_body_without_a_head_gives_hidden_states(tmp_path: Path) -> None:
    weights = {name.removeprefix("transformer."): tensor for name, tensor in tensors(torch.float16).items() if name != "lm_head.weight"}
    write(tmp_path, {**CONFIG, "architectures": ["GPT2Model"]}, weights, 2)
    assert_opens_as_pytorch_has_it(tmp_path, "f16", "last_hidden_state")


def test_a_mup_folder_opens_without_its_remote_code(tmp_path: Path) -> None:
    mup = {"mup_embeddings_scale": 10.0, "mup_output_alpha": 2.0, "mup_scale_qk_dot_by_d": True, "mup_width_scale": 0.25}
    remote = {"auto_map": {"AutoModelForCausalLM": "modeling_btlm.BTLMLMHeadModel"}, "position_embedding_type": "learned"}
    config = {**CONFIG, **mup, **remote, "model_type": "btlm", "architectures": ["BTLMLMHeadModel"], "alibi_scaling": None}
    write(tmp_path, config, tensors(torch.float16), 1)
    with open_model(str(tmp_path)) as model:
        assert model.reference is not None
        reference = model.reference()
        assert isinstance(reference, Gpt)
        assert (reference.config.embeddings_scale, reference.config.logits_scale) == (10.0, 0.5)
        assert_is_as_pytorch_has_it(model, "f16", "logits")
