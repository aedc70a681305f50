"""The module: equal to Hugging Face's GPT-2 in float64, padding changes nothing, captured whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgptc.frontend.gpt import Gpt, meta_gpt
from cgptc.frontend.gpt_config import Activation, AttentionScale, GptConfig, Head
from cgptc.frontend.gpt_config_json import to_huggingface
from cgptc.frontend.presets import preset

SMALL = GptConfig(31, 16, 2, 4, 16, 40)
VARIANTS = {
    "gelu": SMALL,
    "gelu-tanh": replace(SMALL, activation=Activation.GELU_TANH),
    "relu": replace(SMALL, activation=Activation.RELU),
    "silu": replace(SMALL, activation=Activation.SILU),
    "separate-head": replace(SMALL, head=Head.SEPARATE),
    "no-head": replace(SMALL, head=Head.NONE),
    "unscaled": replace(SMALL, attention_scale=AttentionScale.NONE),
    "scaled-by-layer": replace(SMALL, attention_scale_by_layer=True),
    "unscaled-by-layer": replace(SMALL, attention_scale=AttentionScale.NONE, attention_scale_by_layer=True),
    "eps": replace(SMALL, layer_norm_eps=1e-3),
}


def random_gpt(config: GptConfig, seed: int = 0) -> Gpt:
    """A float64 model whose every parameter, biases and norms included, is random."""
    generator = torch.Generator().manual_seed(seed)
    model = Gpt(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return model


def ids_of(config: GptConfig, batch: int, seq: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, config.vocabulary, (batch, seq)))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("padded", [False, True])
def test_equals_huggingface_gpt2_in_float64(name: str, padded: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = VARIANTS[name]
    ours = random_gpt(config)
    theirs_config = transformers.GPT2Config(**to_huggingface(config))
    theirs_class = transformers.GPT2Model if config.head is Head.NONE else transformers.GPT2LMHeadModel
    theirs = theirs_class(theirs_config).double().eval()
    state = {(key.removeprefix("transformer.") if config.head is Head.NONE else key): t for key, t in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    ids = ids_of(config, 2, 9)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        result = theirs(ids, attention_mask=mask, position_ids=positions)
        expected = result.last_hidden_state if config.head is Head.NONE else result.logits
        got = ours(ids, mask if padded else None)
    real = mask.bool()
    assert (got - expected)[real].abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2", "tiny-mup", "tiny-nobias", "tiny-untied"])
def test_module_has_exactly_the_parameters_that_the_config_lists(name: str) -> None:
    config = preset(name).config
    assert [(key, tuple(value.shape)) for key, value in meta_gpt(config).named_parameters()] == list(config.parameters())


def test_mup_scales_are_the_published_ones() -> None:
    plain = random_gpt(SMALL)
    scaled = random_gpt(replace(SMALL, embeddings_scale=10.0, logits_scale=0.25, attention_scale=AttentionScale.HEAD_WIDTH))
    folded = random_gpt(SMALL)
    with torch.no_grad():
        for embedding in (folded.transformer.wte, folded.transformer.wpe):
            embedding.weight *= 10.0
        for block in folded.transformer.h:
            block.attn.c_attn.weight[:, :16] *= 0.5  # 1 / d_head = 1/4 over 1 / sqrt(d_head) = 1/2
            block.attn.c_attn.bias[:16] *= 0.5
        ids = ids_of(SMALL, 1, 7)
        expected = folded(ids) * 0.25 / 10.0  # the tied head grew tenfold with the embedding
        assert (scaled(ids) - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (scaled(ids) - plain(ids)).abs().max() > 1e-2


def test_a_left_padded_row_equals_the_row_alone() -> None:
    model = random_gpt(SMALL)
    row = ids_of(SMALL, 1, 6)
    padded = torch.cat([torch.full((1, 5), 7), row], dim=1)
    mask = torch.tensor([[0] * 5 + [1] * 6])
    with torch.no_grad():
        alone, beside = model(row), model(padded, mask)
    assert beside.isfinite().all()
    assert (beside[:, 5:] - alone).abs().max() <= 1e-12 * alone.abs().max()


def test_a_bool_mask_means_the_same_as_an_integer_mask() -> None:
    model = random_gpt(SMALL)
    ids = ids_of(SMALL, 2, 6)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        assert torch.equal(model(ids, mask), model(ids, mask.bool()))


def test_no_position_sees_a_later_one() -> None:
    model = random_gpt(SMALL)
    ids = ids_of(SMALL, 1, 8)
    changed = ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % SMALL.vocabulary
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_exports_on_meta_with_batch_and_sequence_dynamic(masked: bool) -> None:
    config = preset("tiny").config
    ids = torch.zeros(2, 8, dtype=torch.int64, device="meta")
    arguments = (ids, torch.ones_like(ids)) if masked else (ids,)
    dims = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("seq", max=config.positions)}
    program = torch.export.export(meta_gpt(config), arguments, dynamic_shapes=(dims,) * len(arguments), strict=False)
    output = next(node for node in program.graph.nodes if node.op == "output").args[0][0]
    shape = output.meta["val"].shape
    assert all(isinstance(size, torch.SymInt) for size in shape[:2])
    assert str(shape[0]) != str(shape[1])
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.scaled_dot_product_attention.default") == config.layers
    assert targets.count("aten.linear.default") == 4 * config.layers + 1


def test_thirteen_billion_parameters_are_built_without_a_byte() -> None:
    config = preset("cerebras-gpt-13b").config
    model = meta_gpt(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameter_count
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
