"""Every transformers family: the graph computes what the model does, at every length, with and without padding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.frontend.hf_configurations import CONFIGS, SCALINGS

from cgptc.frontend.capture import capture
from cgptc.frontend.hf_attention import Pattern, attention, pattern_of
from cgptc.frontend.hf_config import FAMILIES
from cgptc.frontend.hf_modules import build_module
from cgptc.frontend.oracle import evaluate_module, wide_copy
from cgptc.frontend.source import CapturedModel, open_model
from cgptc.ir.diagnostics import CompileError, Warnings
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.attention import Attention
from cgptc.testing.tolerances import assert_t1

transformers = pytest.importorskip("transformers")

CAUSAL = [name for name in CONFIGS if name != "bert"]
WINDOWS = {"gpt_neox": [None] * 2, "opt": [None] * 2, "llama": [None] * 2, "mistral": [4, 4], "qwen2": [None] * 2, "qwen3": [None, 4]}
"""By family on transformers' attention interface: the window of each layer."""


def write_folder(folder: Path, config: dict[str, Any], architecture: str, *, shards: bool = False) -> Path:
    """A model folder with random weights, as transformers itself saves it."""
    family = FAMILIES[config["model_type"]]
    torch.manual_seed(0)
    settings = getattr(transformers, family.config_class).from_dict(dict(config))
    model = getattr(transformers, architecture)(settings).eval()
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    return folder


def ids(batch: int, length: int) -> Array:
    return np.random.default_rng(length).integers(3, 61, (batch, length))


def compare(model: CapturedModel, reference: torch.nn.Module, batch: int, length: int, padding: int = 0) -> None:
    """Graph and module in float64 on tokens whose first row has ``padding`` on its left."""
    mask = np.ones((batch, length), np.int64)
    mask[0, :padding] = 0
    inputs = {"input_ids": ids(batch, length), "attention_mask": mask}
    expected = evaluate_module(reference, inputs, wide=True, output_names=[name for name, _ in model.graph.outputs])
    actual = evaluate_graph(model.graph, inputs, wide=True)
    for name, array in expected.items():
        assert np.isfinite(actual[name]).all()
        assert_t1(array[mask > 0], actual[name][mask > 0], depth=model.graph.node_count, where=name)


def assert_whole_attention(model: CapturedModel, windows: list[int | None]) -> None:
    """One causal attention for each layer, with its window and the padding mask as it came."""
    nodes = [node for node in model.graph.nodes if isinstance(node.op, Attention)]
    assert [node.op for node in nodes] == [Attention(nodes[0].op.scale, True, window) for window in windows]  # type: ignore[attr-defined]
    assert [str(node.operand_types[3]) for node in nodes] == ["bool[batch, seq]"] * len(windows)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_family_computes_what_transformers_does_at_every_length(name: str, tmp_path: Path) -> None:
    architecture = next(iter(FAMILIES[name].classes))
    folder = write_folder(tmp_path / name, CONFIGS[name], architecture)
    with open_model(str(folder)) as model:
        assert model.reference is not None
        assert model.text is not None
        assert (model.layer_count, model.text.vocabulary, model.text.context) == (2, 61, 32)
        assert str(model.graph.output("logits").type) == "f32[batch, seq, 61]"
        assert [model.graph.symbols[symbol].low for symbol in ("batch", "seq")] == [1, 1]
        if name in WINDOWS:
            assert_whole_attention(model, WINDOWS[name])
        reference = wide_copy(model.reference())
        for batch, length, padding in ((1, 1, 0), (2, 3, 0), (1, 4, 0), (2, 5, 2), (1, 8, 0), (1, 32, 0)):
            compare(model, reference, batch, length, padding)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotary_scalings(scaling: str, tmp_path: Path) -> None:
    config = {**CONFIGS["llama"], "num_hidden_layers": 1, "rope_scaling": SCALINGS[scaling], "max_position_embeddings": 64}
    with open_model(str(write_folder(tmp_path, config, "LlamaForCausalLM"))) as model:
        assert model.reference is not None
        compare(model, wide_copy(model.reference()), 1, 40)


def test_a_scaling_that_changes_with_the_length_is_refused(tmp_path: Path) -> None:
    config = {**CONFIGS["llama"], "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    with pytest.raises(CompileError, match="change with the length"):
        open_model(str(write_folder(tmp_path, config, "LlamaForCausalLM")))


@pytest.mark.parametrize("architecture", ["GPTNeoModel", "LlamaModel"])
def test_a_body_gives_hidden_states(architecture: str, tmp_path: Path) -> None:
    name = "llama" if architecture == "LlamaModel" else "gpt_neo"
    with open_model(str(write_folder(tmp_path, CONFIGS[name], architecture))) as model:
        assert model.text is None
        assert str(model.graph.output("last_hidden_state").type) == "f32[batch, seq, 32]"
        assert model.reference is not None
        compare(model, wide_copy(model.reference()), 2, 5, 1)


@pytest.mark.parametrize("architecture", FAMILIES["bert"].classes)
def test_bert_with_each_head(architecture: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {**CONFIGS["bert"], "num_hidden_layers": 1}, architecture)
    inputs = {
        "input_ids": ids(2, 5),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "token_type_ids": np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),
    }
    with open_model(str(folder)) as model:
        assert model.reference is not None
        names = [name for name, _ in model.graph.outputs]
        expected = evaluate_module(wide_copy(model.reference()), inputs, wide=True, output_names=names)
        actual = evaluate_graph(model.graph, inputs, wide=True)
    for name, array in expected.items():
        rows = slice(None) if array.ndim == 2 and array.shape[1] != 5 else inputs["attention_mask"] > 0
        assert_t1(array[rows], actual[name][rows], depth=model.graph.node_count, where=name)


def test_a_sharded_folder_opens_as_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], "LlamaForCausalLM", shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    with open_model(str(folder)) as model:
        assert model.reference is not None
        compare(model, wide_copy(model.reference()), 1, 3)


def test_another_family_is_refused_by_its_name(tmp_path: Path) -> None:
    config = transformers.GemmaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, head_dim=8
    )
    transformers.GemmaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CompileError, match="'model_type' is 'gemma'") as caught:
        open_model(str(tmp_path))
    assert caught.value.exit == 5
    assert "package.module:callable" in caught.value.fix


def test_an_unknown_key_is_refused_and_an_empty_one_is_a_warning(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "new_trick": None, "attention_dropout": 0.1}))
    with open_model(str(folder)) as model:
        assert any("'new_trick'" in line for line in model.warnings)
    (folder / "config.json").write_text(json.dumps({**config, "new_trick": 2}))
    with pytest.raises(CompileError, match="'new_trick'") as caught:
        open_model(str(folder))
    assert caught.value.exit == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1 << 40),
        ("hidden_act", "os.system"),
        ("rms_norm_eps", "1e-5"),
        ("rope_scaling", {"rope_type": "linear", "x": 1}),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_any_class_sees_it(key: str, value: object, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CompileError, match=f"'{key}'"):
        open_model(str(folder))


def test_weights_that_do_not_belong_to_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CompileError, match="lack 9 of"):
        open_model(str(folder))
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(CompileError, match="by the configuration"):
        open_model(str(folder))


def test_a_body_opens_from_the_weights_of_a_whole_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    with open_model(str(folder)) as model:
        assert any("lm_head.weight" in line for line in model.warnings)


def test_a_large_model_is_built_without_memory() -> None:
    config = {**CONFIGS["llama"], "hidden_size": 8192, "intermediate_size": 32768, "num_hidden_layers": 8, "architectures": ["LlamaModel"]}
    built = build_module(config, FAMILIES["llama"], Warnings())
    assert all(parameter.is_meta for parameter in built.module.parameters())
    assert not any(buffer.is_meta for buffer in built.module.buffers())
    assert built.parameter_count > 4e9


PATTERNS: list[tuple[Callable[..., Any], Pattern | None]] = [
    (lambda b, h, q, k: k <= q, Pattern(True)),
    (lambda b, h, q, k: q >= 0, Pattern(False)),
    (lambda b, h, q, k: q.new_ones((), dtype=torch.bool) & (k > q - 5).to(None) & (k <= q).to(None), Pattern(True, 5)),
    (lambda b, h, q, k: (k <= q) & (k > q - 1), Pattern(True, 1)),
    (lambda b, h, q, k: (k > q - 5) & (k < q + 5), None),
    (lambda b, h, q, k: k < q, None),
    (lambda b, h, q, k: (k <= q) | (k <= 3), None),
    (lambda b, h, q, k: (k <= q) & (q - k <= 2) if isinstance(k, int) else torch.tensor(True), None),
]


@pytest.mark.parametrize(("function", "pattern"), PATTERNS)
def test_what_a_mask_function_computes_is_found_out(function: Callable[..., Any], pattern: Pattern | None) -> None:
    assert pattern_of(function) == pattern


def test_the_custom_attention_is_the_operation_of_the_ir() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 6, 4, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6]).bool()
    for causal, window in ((True, None), (True, 2), (False, None)):
        op = Attention(0.3, causal, window)
        expected = op.evaluate(q.numpy(), k.numpy(), v.numpy(), mask.numpy())[0]
        assert_t1(expected, attention(q, k, v, mask, 0.3, causal, window).numpy(), depth=8)


def test_a_models_own_attention_setting_is_restored() -> None:
    config = transformers.LlamaConfig.from_dict(dict(CONFIGS["llama"]))
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.ones(2, 5, dtype=torch.int64)
    capture(model, kwargs={"input_ids": tokens, "attention_mask": tokens}, dynamic={"batch": None, "seq": None})
    assert model.config._attn_implementation == "sdpa"
    assert model.config.use_cache
    assert "cgptc" not in transformers.modeling_utils.AttentionInterface._global_mapping


def test_input_embeddings_stand_in_for_ids() -> None:
    model = transformers.LlamaModel(transformers.LlamaConfig.from_dict(dict(CONFIGS["llama"]))).eval()
    embeds, mask = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.int64)
    axes = {"inputs_embeds": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}}
    inputs = {"inputs_embeds": embeds, "attention_mask": mask}
    graph = capture(model, kwargs=inputs, dynamic={"batch": None, "seq": None}, axes=axes)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    model.config.use_cache = False
    expected = evaluate_module(wide_copy(model), arrays, wide=True, output_names=["last_hidden_state"])
    actual = evaluate_graph(graph, arrays, wide=True)
    assert_t1(expected["last_hidden_state"], actual["last_hidden_state"], depth=graph.node_count)
