"""Configurations: hostile values are refused, plain forms come back equal."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.gpt_config_json import from_huggingface, to_huggingface
from cgptc.frontend.presets import PRESETS
from cgptc.ir.diagnostics import CgptcError, CompileError, Exit, Warnings
from cgptc.testing import gpt_configs

CONFIG = PRESETS["tiny"].config

BAD_COUNTS = [0, -1, True, 1.0, "2", None, float("nan"), 2**63, 10**30, [2]]
BAD_NUMBERS = [0.0, -1.0, float("nan"), float("inf"), True, "1", None, 10**400]


@pytest.mark.parametrize("value", BAD_COUNTS, ids=repr)
@pytest.mark.parametrize("field", ["vocabulary", "positions", "layers", "heads", "width", "ffn_width"])
def test_a_count_that_is_none_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(CompileError, match=f"'{field}'") as caught:
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]
    assert caught.value.code == "bad-config"
    assert caught.value.fix


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", ["layer_norm_eps", "embeddings_scale", "logits_scale"])
def test_a_number_that_is_not_positive_and_finite_is_refused(field: str, value: object) -> None:
    with pytest.raises(CompileError, match=f"'{field}'"):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("bias", 1), ("bias", "false"), ("activation", "mish"), ("activation", ["gelu"]), ("head", None), ("attention_scale", 8)],
)
def test_a_switch_that_is_none_of_the_choices_is_refused(field: str, value: object) -> None:
    with pytest.raises(CompileError, match=f"'{field}'"):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(CompileError, match="not a multiple"):
        replace(CONFIG, heads=3)


@given(gpt_configs())
def test_plain_form_comes_back_equal(config: GptConfig) -> None:
    assert GptConfig.from_mapping(config.to_mapping()) == config


@given(gpt_configs())
def test_huggingface_form_comes_back_equal_where_it_can_say_it(config: GptConfig) -> None:
    if not config.bias:
        with pytest.raises(CompileError):
            to_huggingface(config)
        return
    assert from_huggingface(to_huggingface(config)) == config


HOSTILE_KEYS = ("n_embd", "n_head", "n_layer", "vocab_size", "architectures", "n_inner", "mup_width_scale", "x")
HOSTILE_VALUES = (None, True, False, 0, -1, 3, 10**30, 0.5, float("nan"), "", "gelu", [], [1], {})


@given(
    st.lists(st.tuples(st.sampled_from(HOSTILE_KEYS), st.sampled_from(HOSTILE_VALUES)), max_size=4).map(dict),
    st.sampled_from(["gpt2", "btlm"]),
)
def test_a_hostile_huggingface_form_raises_nothing_foreign(mapping: dict[str, object], model_type: str) -> None:
    refusal: CgptcError | None = None
    try:
        from_huggingface({**mapping, "model_type": model_type})
    except CgptcError as error:
        refusal = error
    assert refusal is None or (refusal.exit is Exit.UNSUPPORTED and refusal.fix)


def test_unknown_key_with_a_value_is_refused_and_null_warns() -> None:
    warnings = Warnings()
    from_huggingface({"model_type": "gpt2", "rope_theta": None}, warnings)
    assert "rope_theta" in warnings.lines[0]
    with pytest.raises(CompileError, match="rope_theta"):
        from_huggingface({"model_type": "gpt2", "rope_theta": 1e4})


def test_what_transformers_writes_for_every_model_is_neither_refused_nor_warned_of() -> None:
    generic = {
        "chunk_size_feed_forward": 0,
        "id2label": {"0": "LABEL_0"},
        "max_length": 20,
        "pruned_heads": {},
        "is_encoder_decoder": False,
    }
    warnings = Warnings()
    from_huggingface({"model_type": "gpt2", **generic}, warnings)
    assert not warnings.lines
    with pytest.raises(CompileError, match="pruned_heads"):
        from_huggingface({"model_type": "gpt2", "pruned_heads": {"0": [1]}})


@pytest.mark.parametrize(
    ("key", "value"), [("position_embedding_type", "alibi"), ("alibi_scaling", {"type": "linear"}), ("add_cross_attention", True)]
)
def test_a_feature_that_we_lack_is_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(CompileError, match=key):
        from_huggingface({"model_type": "btlm", key: value})


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(CompileError, match="'rotary'"):
        GptConfig.from_mapping(CONFIG.to_mapping() | {"rotary": True})
    with pytest.raises(CompileError, match="'heads'"):
        GptConfig.from_mapping({key: value for key, value in CONFIG.to_mapping().items() if key != "heads"})
