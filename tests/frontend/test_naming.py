"""Bare state dicts: every known naming is told, mapped, and computes what its own code computes; the rest is refused."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cgptc.frontend.gpt import Gpt, meta_gpt
from cgptc.frontend.gpt_config import Activation, GptConfig, Head
from cgptc.frontend.gpt_config_json import to_huggingface
from cgptc.frontend.naming import Recognised, recognise
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import CompileError, Exit, Warnings
from cgptc.ir.dtypes import DType, f32, i8
from cgptc.ir.weights import Stored, Weight
from cgptc.testing import gpt_configs

CONFIG = GptConfig(31, 16, 3, 4, 16, 40)
NANOGPT_ARGS: dict[str, object] = {
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 16,
    "block_size": 16,
    "bias": True,
    "vocab_size": 31,
    "dropout": 0.1,
}


class NanoAttention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(seq, seq, dtype=torch.bool).triu(1), float("-inf"))
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, seq, width))


class NanoMlp(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner, bias=bias)
        self.c_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x)))


class NanoBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=bias)
        self.attn = NanoAttention(width, heads, bias)
        self.ln_2 = nn.LayerNorm(width, bias=bias)
        self.mlp = NanoMlp(width, inner, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    """A GPT with nanoGPT's names and nn.Linear's orientation, written apart from ours."""

    def __init__(self, bias: bool = True, inner: int = 40) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(31, 16),
                "wpe": nn.Embedding(16, 16),
                "h": nn.ModuleList(NanoBlock(16, 4, inner, bias) for _ in range(3)),
                "ln_f": nn.LayerNorm(16, bias=bias),
            }
        )
        self.lm_head = nn.Linear(16, 31, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1]))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return module


def references(state: Mapping[str, Tensor]) -> dict[str, Weight]:
    """What a reader gives for a state dict: one reference per storage."""
    first: dict[int, str] = {}
    return {
        name: Stored(first.setdefault(tensor.data_ptr() or id(tensor), name), f32, tuple(tensor.shape)) for name, tensor in state.items()
    }


def shapes(config: GptConfig, transposed: bool = False, dtype: DType = f32) -> dict[str, Weight]:
    return {
        name: Stored(name, dtype, shape[::-1] if transposed and ".c_" in name and len(shape) == 2 else shape)
        for name, shape in config.parameters()
    }


def loaded(recognised: Recognised, state: Mapping[str, Tensor]) -> Gpt:
    model = Gpt(recognised.config).double().eval()
    model.load_state_dict(
        {name: state[source.name].t() if source.transposed else state[source.name] for name, source in recognised.sources.items()}
    )
    return model


def assert_computes_the_same(model: Gpt, expected: Tensor, ids: Tensor) -> None:
    with torch.no_grad():
        assert (model(ids) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inner", [40, 16])
def test_nanogpt_naming_computes_what_nanogpt_computes(wrapper: str, bias: bool, inner: int) -> None:
    theirs = randomised(NanoGpt(bias, inner))
    state = {wrapper + name: tensor for name, tensor in theirs.state_dict().items()}
    recognised = recognise(references(state), config=NANOGPT_ARGS | {"bias": bias})
    assert recognised.naming == "nanoGPT naming"
    assert recognised.config == replace(CONFIG, bias=bias, ffn_width=inner)
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        expected = theirs(ids)
    assert_computes_the_same(loaded(recognised, state), expected, ids)


@pytest.mark.parametrize("head", [Head.TIED, Head.SEPARATE])
@pytest.mark.parametrize("prefixed", [True, False])
def test_huggingface_naming_computes_what_transformers_computes(head: Head, prefixed: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = replace(CONFIG, head=head, activation=Activation.GELU_TANH)
    mapping = to_huggingface(config)
    theirs = randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**mapping)))
    state = {(name if prefixed else name.removeprefix("transformer.")): tensor for name, tensor in theirs.state_dict().items()}
    for layer in range(3):  # masks, as older files have them
        prefix = "transformer." if prefixed else ""
        state[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16)
        state[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    recognised = recognise(references(state), config=mapping)
    assert recognised.config == config
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert_computes_the_same(loaded(recognised, state), expected, ids)


def test_own_naming_with_its_configuration_needs_nothing_else() -> None:
    config = replace(CONFIG, bias=False, embeddings_scale=10.0, activation=Activation.SILU)
    model = randomised(Gpt(config))
    recognised = recognise(references(model.state_dict()), config=config.to_mapping())
    assert recognised.config == config
    assert not any(source.transposed for source in recognised.sources.values())


@given(gpt_configs(), st.booleans(), st.sampled_from(["", "_orig_mod.", "net.gpt."]))
def test_any_configuration_beside_its_weights_is_found_again(config: GptConfig, transposed: bool, wrapper: str) -> None:
    tensors = {wrapper + name: weight for name, weight in shapes(config, transposed).items()}
    recognised = recognise(tensors, config=config.to_mapping())
    assert recognised.config == config
    for name, shape in config.parameters():
        source = recognised.sources[name]
        assert source.name == wrapper + name
        assert tensors[source.name].shape == (shape[::-1] if source.transposed else shape)


@given(gpt_configs(), st.booleans(), st.integers(0, 10**6), st.sampled_from(["drop", "rename", "grow", "flatten", "int", "add"]))
def test_one_tensor_that_does_not_fit_is_always_refused(config: GptConfig, transposed: bool, index: int, damage: str) -> None:
    tensors = shapes(config, transposed)
    name = list(tensors)[index % len(tensors)]
    weight = tensors[name]
    match damage:
        case "drop":
            del tensors[name]
        case "rename":
            tensors[name + "_g"] = tensors.pop(name)
        case "grow":
            tensors[name] = Stored(name, f32, (*weight.shape[:-1], weight.shape[-1] + 1))
        case "flatten":
            tensors[name] = Stored(name, f32, (1, *weight.shape))
        case "int":
            tensors[name] = Stored(name, i8, weight.shape)
        case "add":
            tensors[name.replace("weight", "bias_g").replace("bias", "bias_h")] = Stored(name, f32, weight.shape)
    with pytest.raises(CompileError) as caught:
        recognise(tensors, config=config.to_mapping())
    assert caught.value.code in ("unknown-architecture", "config-mismatch", "unsupported-tensor", "bad-config")


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "cerebras-gpt-6.7b", "cerebras-gpt-13b"])
def test_a_published_shape_is_told_without_a_configuration(name: str) -> None:
    warnings = Warnings()
    recognised = recognise(shapes(preset(name).config), warnings=warnings)
    assert recognised.config == preset(name).config
    assert name in warnings.lines[0]


def test_a_body_without_prefix_of_gpt2s_shape_is_gpt2_with_its_tied_head() -> None:
    state = {name.removeprefix("transformer."): weight for name, weight in shapes(preset("gpt2").config).items()}
    assert recognise(state).config == preset("gpt2").config


@pytest.mark.parametrize("vocabulary", [50257, 50304])
def test_nanogpt_of_gpt2s_shape_takes_its_heads_and_the_exact_gelu(vocabulary: int) -> None:
    warnings = Warnings()
    config = replace(preset("gpt2").config, vocabulary=vocabulary, bias=False, activation=Activation.GELU)
    assert recognise(shapes(config, transposed=True), warnings=warnings).config == config
    assert "12 heads" in warnings.lines[0]


def test_heads_that_nothing_tells_are_asked_for() -> None:
    with pytest.raises(CompileError, match="number of heads") as caught:
        recognise(shapes(CONFIG), file="model.pt")
    error = caught.value
    assert (error.code, error.exit, error.file) == ("ambiguous-architecture", Exit.UNSUPPORTED, "model.pt")
    assert "--config" in error.fix
    assert "--preset" in error.fix


def test_mup_and_standard_weights_of_one_shape_are_not_confused() -> None:
    with pytest.raises(CompileError, match="several presets") as caught:
        recognise(shapes(preset("cerebras-gpt-111m").config))
    assert "--preset cerebras-gpt-111m or --preset cerebras-gpt-111m-mup" in caught.value.fix
    chosen = preset("cerebras-gpt-111m-mup")
    assert recognise(shapes(chosen.config), preset=chosen).config == chosen.config


def test_a_head_of_its_own_is_used_whatever_the_preset_says() -> None:
    config = replace(preset("gpt2").config, head=Head.SEPARATE)
    assert recognise(shapes(config), preset=preset("gpt2")).config == config


def test_an_untied_nanogpt_file_without_configuration_is_asked_for_its_activation() -> None:
    config = replace(preset("gpt2").config, head=Head.SEPARATE)
    with pytest.raises(CompileError, match="activation"):
        recognise(shapes(config, transposed=True))


def test_nanogpt_configuration_with_gpt2_weights_is_asked_for_its_activation() -> None:
    with pytest.raises(CompileError, match="activation"):
        recognise(shapes(CONFIG), config=NANOGPT_ARGS)
    assert recognise(shapes(CONFIG), config=NANOGPT_ARGS | {"activation": "relu"}).config.activation is Activation.RELU


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"n_layer": 2}, "'layers' 2, the weights have 3"),
        ({"n_layer": 4}, "'layers' 4, the weights have 3"),
        ({"n_head": 3}, "not a multiple"),
        ({"block_size": 32}, "'positions' 32, the weights have 16"),
        ({"bias": False}, "'bias' False, the weights have True"),
        ({"n_head": "4"}, "'heads'"),
        ({"n_head": True}, "'heads'"),
        ({"n_embd": float("nan")}, "'width'"),
        ({"n_kv_head": 2}, "n_kv_head"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(change: dict[str, object], what: str) -> None:
    with pytest.raises(CompileError, match=what):
        recognise(shapes(CONFIG, transposed=True), config=NANOGPT_ARGS | change)


def test_a_configuration_of_no_known_form_is_refused_not_ignored() -> None:
    with pytest.raises(CompileError, match="no known form") as caught:
        recognise(shapes(preset("gpt2").config), config={"learning_rate": 1e-3, "n_heads": 16})
    assert caught.value.code == "unknown-config"


def renamed(old: str, new: str) -> dict[str, Weight]:
    return {name.replace(old, new): weight for name, weight in shapes(preset("gpt2").config).items()}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"weight": Stored("weight", f32, (3, 4))},
        renamed("wpe", "rotary"),
        renamed("h.3.mlp.c_proj", "h.3.mlp.c_out"),
        renamed("ln_f", "norm"),
        shapes(replace(preset("gpt2").config, head=Head.SEPARATE), transposed=True),
        {name: weight for name, weight in shapes(preset("gpt2").config).items() if name != "transformer.h.7.ln_2.bias"},
        shapes(preset("gpt2").config) | {"score.weight": Stored("score.weight", f32, (2, 768))},
        shapes(preset("gpt2").config) | {"transformer.h.0.attn.bias": Stored("b", f32, (768,))},
        shapes(preset("gpt2").config) | {"b.wte.weight": Stored("b", f32, (50257, 768))},
        shapes(preset("gpt2").config) | {"transformer.h.0.attn.c_attn.weight": Stored("b", f32, (768, 896))},  # multi-query
        shapes(preset("gpt2").config) | {"transformer.wpe.weight": Stored("b", f32, (768,))},
        shapes(preset("gpt2").config) | {"transformer.h.99999.ln_1.weight": Stored("b", f32, (768,))},
        shapes(preset("gpt2").config) | {"transformer.h.0.ln_1.weight": Stored("b", f32, (0,))},
        shapes(preset("gpt2").config) | {"transformer.wte.weight": Stored("b", f32, (50257, 0))},
        shapes(preset("gpt2").config, dtype=i8),
    ],
    ids=lambda state: str(len(state)),
)
def test_what_is_no_gpt2_is_refused(state: dict[str, Weight]) -> None:
    with pytest.raises(CompileError) as caught:
        recognise(state)
    assert caught.value.exit is Exit.UNSUPPORTED
    assert caught.value.fix


def test_the_refusal_says_how_to_compile_ones_own_class() -> None:
    with pytest.raises(CompileError) as caught:
        recognise({"encoder.weight": Stored("encoder.weight", f32, (3, 4))})
    assert "cgptc compile package.module:callable --weights model.pt" in caught.value.fix


def test_recognised_sources_fill_the_module_exactly() -> None:
    config = preset("gpt2").config
    recognised = recognise(shapes(config))
    assert list(recognised.sources) == [name for name, _ in meta_gpt(config).named_parameters()]
